"""The vision side: backbone, feature pyramid, motion and temporal attention turn a clip's frames into features once."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import nn
from transformers import AutoBackbone
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_cvls import CVLSConfig
from .layers_cvls import CVLSLayer, CVLSPreTrainedModel, freeze_what_cannot_learn, resize
from .outputs_cvls import CVLSFrameFeatures, CVLSVideoFeatures


class CVLSPyramid(nn.Module):
    """Feature pyramid (Lin et al., 2017) to stride 4, coarse levels `hidden_size` wide, the finest `pixel_size`."""

    def __init__(self, config: CVLSConfig, channels: list[int]):
        super().__init__()
        if len(channels) < 2:
            raise ValueError(
                "`backbone_config` gives one feature map, a pyramid takes two or more: set its `out_features`, finest "
                'first, such as ["stage1", "stage2", "stage3", "stage4"], or its `out_indices`, such as [1, 2, 3, 4]'
            )
        *coarse, _ = reversed(channels)
        self.token_stride = config.token_stride
        self.finest = nn.Conv2d(channels[0], config.pixel_size, 1)
        self.laterals = nn.ModuleList(nn.Conv2d(c, config.hidden_size, 1) for c in coarse)
        self.to_finest = nn.Conv2d(config.hidden_size, config.pixel_size, 1)
        self.smooth = nn.Sequential(
            nn.Conv2d(config.pixel_size, config.pixel_size, 3, padding=1),
            nn.GroupNorm(8, config.pixel_size),
            nn.GELU(),
        )

    def forward(self, features: list[torch.Tensor], height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (N, C_i, h_i, w_i), finest first, of frames height x width -> stride-4 features (N, pixel_size,
        height/4, width/4), coarse features (N, hidden_size, height/token_stride, width/token_stride)."""
        finest, *coarse = features
        grid = (height // self.token_stride, width // self.token_stride)
        top_down = tokens = None
        for lateral, feature in zip(self.laterals, reversed(coarse), strict=True):
            level = lateral(feature)
            if top_down is not None:
                level = level + resize(top_down, level.shape[-2:])
            top_down = level
            if tokens is None or level.shape[-2] <= grid[0]:
                tokens = level
        pixels = resize(self.finest(finest), (height // 4, width // 4))
        pixels = pixels + resize(self.to_finest(top_down), (height // 4, width // 4))
        return self.smooth(pixels), resize(tokens, grid)


class CVLSMotion(nn.Module):
    """Local motion: differences of neighboring frames' stride-4 features, convolved down to the coarse grid.

    Attention over coarse tokens alone does not learn which way an object moves in any short training; differences at
    full resolution show it at once.
    """

    def __init__(self, config: CVLSConfig):
        super().__init__()
        steps = int(math.log2(config.token_stride // 4))
        sizes = [2 * config.pixel_size] + [config.pixel_size] * (steps - 1) + [config.hidden_size]
        self.down = nn.Sequential()
        for size_in, size_out in pairwise(sizes):
            self.down.append(nn.Conv2d(size_in, size_out, 3, stride=2, padding=1))
            self.down.append(nn.GroupNorm(8, size_out))
            self.down.append(nn.GELU())

    def forward(self, pixels: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Stride-4 features (B, T, pixel_size, H/4, W/4) and (B, T) bool, false on padding frames, -> (B, T, h, w,
        hidden_size) on the coarse grid. The first frame has nothing before it, the last one nothing after it."""
        # nothing is known to move before the first frame, where `roll` brings the last one
        known = torch.arange(pixels.shape[1], device=pixels.device) > 0
        if frame_mask is not None:
            known = known & frame_mask & frame_mask.roll(1, dims=1)
        before = (pixels - pixels.roll(1, dims=1)) * known[..., None, None, None]
        differences = torch.cat([before, before.roll(-1, dims=1)], dim=2)
        return self.down(differences.flatten(0, 1)).unflatten(0, pixels.shape[:2]).movedim(2, -1)


class CVLSPosition(nn.Module):
    """Where a coarse token is: Fourier features of its place in the frame (0 to 1) and its frame's number."""

    octaves = 6

    def __init__(self, config: CVLSConfig):
        super().__init__()
        self.project = nn.Linear(3 * 2 * self.octaves, config.hidden_size)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (B, T, h, w, C), of which the grid, the device and the dtype count -> (T, h, w, hidden_size)."""
        num_frames, height, width = tokens.shape[1:4]
        axes = (
            torch.arange(num_frames, device=tokens.device) / 32,
            (torch.arange(height, device=tokens.device) + 0.5) / height,
            (torch.arange(width, device=tokens.device) + 0.5) / width,
        )
        place = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        angles = place[..., None] * math.pi * 2.0 ** torch.arange(self.octaves, device=tokens.device)
        return self.project(torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2).to(tokens.dtype))


class CVLSVision(CVLSPreTrainedModel):
    """The features of a clip, computed once, whatever the number of its sentences.

    Three steps: what a frame gives by itself (`get_frame_features`), the motion between neighboring frames
    (`get_motion_features`), and temporal attention over a clip, or over a window of a long video
    (`get_window_features`). `forward` takes all three.
    """

    input_modalities = ("video",)

    def __init__(self, config: CVLSConfig, backbone: nn.Module):
        super().__init__(config)
        self.backbone = backbone
        self.pyramid = CVLSPyramid(config, list(backbone.channels))
        self.motion = CVLSMotion(config)
        self.position = CVLSPosition(config)
        self.layers = nn.ModuleList(CVLSLayer(config) for _ in range(config.num_temporal_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def train(self, mode: bool = True) -> "CVLSVision":
        """As inherited; a backbone that is frozen as a whole stays in evaluation mode, for batch norms would change it
        without a gradient, and what trains beside it (an adapter) is saved without it."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.backbone.parameters()):
            self.backbone.eval()
        return self

    def checkpoint_backbone(self, checkpoint: Callable | None) -> None:
        """Recomputes the blocks of the backbone in the backward pass, by `checkpoint`, in place of keeping what is
        inside them; None: no more. A backbone that has this from the library (Swin, Hiera, DINO) is left alone."""
        if not any(isinstance(module, GradientCheckpointingLayer) for module in self.backbone.modules()):
            for block in blocks_of(self.backbone):
                block.__dict__.pop("forward", None)
                if checkpoint is not None:
                    block.forward = partial(_recomputed, checkpoint, block, block.forward)

    def get_frame_features(
        self, pixel_values_videos: torch.Tensor, output_hidden_states: bool = False, output_attentions: bool = False
    ) -> CVLSFrameFeatures:
        """Backbone and pyramid of frames (B, T, 3, H, W) of one size, each frame by itself."""
        frames = pixel_values_videos.flatten(0, 1)
        # asked for only where they are wanted: not every backbone has attentions
        wanted = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        outputs = self.backbone(frames, return_dict=True, **{name: True for name, value in wanted.items() if value})
        pixels, tokens = self.pyramid(list(outputs.feature_maps), *frames.shape[-2:])
        return CVLSFrameFeatures(
            pixel_features=pixels.unflatten(0, pixel_values_videos.shape[:2]),
            token_features=tokens.unflatten(0, pixel_values_videos.shape[:2]).movedim(2, -1),
            hidden_states=outputs.hidden_states if output_hidden_states else None,
            attentions=outputs.attentions if output_attentions else None,
        )

    def get_motion_features(self, pixel_features: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """What moves at each frame, from its neighbors: as `CVLSMotion`. A frame needs its two neighbors only, so the
        motion of a long video may be computed piece by piece, each piece with one more frame at either end, the
        motion of which is dropped."""
        return self.motion(pixel_features, frame_mask)

    def get_window_features(
        self,
        token_features: torch.Tensor,
        motion_features: torch.Tensor,
        frame_mask: torch.Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> BaseModelOutputWithPooling:
        """Temporal attention over the frames of a clip, or of a window of a long video.

        Args:
            token_features: (B, T, h, w, hidden_size), of `get_frame_features`.
            motion_features: (B, T, h, w, hidden_size), of `get_motion_features`.
            frame_mask: (B, T) bool, false on padding frames; None: there are none.

        Returns:
            last_hidden_state (B, T, h, w, hidden_size); hidden_states and attentions as in `CVLSVideoFeatures`.
        """
        tokens = token_features + motion_features
        tokens = tokens + self.position(tokens)
        attended, token_mask = tokens.flatten(1, 3), None
        if frame_mask is not None:
            token_mask = frame_mask[:, :, None, None].expand(tokens.shape[:4]).flatten(1)
        attention_mask = create_bidirectional_mask(self.config, attended, token_mask)
        hidden_states, attentions = (attended,), ()
        for layer in self.layers:
            attended, weights = layer(attended, attention_mask=attention_mask)
            hidden_states = (*hidden_states, attended) if output_hidden_states else ()
            attentions = (*attentions, weights) if output_attentions else ()
        return BaseModelOutputWithPooling(
            last_hidden_state=self.norm(attended).view(tokens.shape),
            hidden_states=hidden_states if output_hidden_states else None,
            attentions=attentions if output_attentions else None,
        )

    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        frame_mask: torch.Tensor | None = None,
        frame_sizes: torch.Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> CVLSVideoFeatures:
        """
        Args:
            pixel_values_videos: (B, T, 3, H, W) normalized frames.
            frame_mask: (B, T), false on padding frames; None: there are none.
            frame_sizes: (B, 2) int64, height and width of each clip's frames, the rest is padding; None: there is none.
            output_hidden_states, output_attentions: whether to return those of the backbone and of temporal attention.
        """
        wanted = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        (features,) = self.get_features_of_windows(
            pixel_values_videos, frame_mask, frame_sizes, [slice(None)], **wanted
        )
        return features

    def get_features_of_windows(
        self,
        pixel_values_videos: torch.Tensor,
        frame_mask: torch.Tensor | None,
        frame_sizes: torch.Tensor | None,
        windows: Sequence[slice],
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> list[CVLSVideoFeatures]:
        """The same for several windows of the clips, `windows` being the frames of each. A frame is encoded once, in
        however many windows it is.

        Raises:
            ValueError: frames of a size that the model does not take.
        """
        height, width = pixel_values_videos.shape[-2:]
        stride = max(32, self.config.token_stride)
        if height % stride or width % stride:
            raise ValueError(
                f"`pixel_values_videos` must have a height and width that are multiples of {stride}, got {height} x "
                f"{width}; the processor makes them so"
            )
        if frame_mask is not None:
            frame_mask = frame_mask.bool()
        wanted = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        if frame_sizes is None or _all_filled(frame_sizes, pixel_values_videos.shape[-2:]):
            features = self._of_one_size(pixel_values_videos, frame_mask, windows, **wanted)
            for of_window in features:
                of_window.frame_sizes = frame_sizes
            return features
        if output_hidden_states or output_attentions:
            raise ValueError(
                "`output_hidden_states` and `output_attentions` need a batch of clips of one size without padding, as "
                f"clips of different sizes have states of different shapes; `frame_sizes` is {frame_sizes.tolist()}, "
                f"the frames are {tuple(pixel_values_videos.shape[-2:])}"
            )
        return self._of_different_sizes(pixel_values_videos, frame_mask, frame_sizes, windows)

    def _of_one_size(
        self, frames: torch.Tensor, frame_mask: torch.Tensor | None, windows: Sequence[slice], **wanted: bool
    ) -> list[CVLSVideoFeatures]:
        of_frames, features = self.get_frame_features(frames, **wanted), []
        for window in windows:
            pixels, mask = of_frames.pixel_features[:, window], None if frame_mask is None else frame_mask[:, window]
            motion = self.get_motion_features(pixels, mask)
            of_window = self.get_window_features(of_frames.token_features[:, window], motion, mask, **wanted)
            tokens = of_window.last_hidden_state
            features.append(
                CVLSVideoFeatures(
                    last_hidden_state=tokens,
                    hidden_states=of_window.hidden_states,
                    attentions=of_window.attentions,
                    pixel_features=pixels,
                    frame_mask=mask,
                    token_mask=None if mask is None else mask[:, :, None, None].expand(tokens.shape[:4]),
                    vision_hidden_states=of_frames.hidden_states,
                    vision_attentions=of_frames.attentions,
                )
            )
        return features

    def _of_different_sizes(
        self, frames: torch.Tensor, frame_mask: torch.Tensor | None, frame_sizes: torch.Tensor, windows: Sequence[slice]
    ) -> list[CVLSVideoFeatures]:
        """Each clip at its own size, so that no convolution ever meets the padding of another."""
        batch, num_frames, _, height, width = frames.shape
        stride = self.config.token_stride
        if frame_mask is None:
            frame_mask = torch.ones((batch, num_frames), dtype=torch.bool, device=frames.device)
        padded = []
        for window in windows:
            mask = frame_mask[:, window]
            of_all = batch, mask.shape[1]
            tokens = frames.new_zeros((*of_all, height // stride, width // stride, self.config.hidden_size))
            padded.append(
                CVLSVideoFeatures(
                    last_hidden_state=tokens,
                    pixel_features=frames.new_zeros((*of_all, self.config.pixel_size, height // 4, width // 4)),
                    frame_mask=mask,
                    frame_sizes=frame_sizes,
                    token_mask=mask.new_zeros(tokens.shape[:4]),
                )
            )
        for h, w in frame_sizes.unique(dim=0).tolist():
            (clips,) = torch.where((frame_sizes == frame_sizes.new_tensor([h, w])).all(dim=1))
            features = self._of_one_size(frames[clips, :, :, :h, :w], frame_mask[clips], windows)
            for into, own in zip(padded, features, strict=True):
                into.pixel_features[clips, :, :, : h // 4, : w // 4] = own.pixel_features.to(frames.dtype)
                into.last_hidden_state[clips, :, : h // stride, : w // stride] = own.last_hidden_state.to(frames.dtype)
                into.token_mask[clips, :, : h // stride, : w // stride] = own.token_mask
        return padded


def blocks_of(backbone: nn.Module) -> list[nn.Module]:
    """The blocks of a convolutional backbone's stages: what stands in lists that are called `layers`."""
    lists = [getattr(module, "layers", None) for module in backbone.modules()]
    return [block for blocks in lists if isinstance(blocks, nn.Sequential | nn.ModuleList) for block in blocks]


def _recomputed(checkpoint: Callable, block: nn.Module, forward: Callable, *inputs: torch.Tensor) -> torch.Tensor:
    """`forward` of a block under `checkpoint`. The second time, in the backward pass, its batch norms count nothing."""
    norms = [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    calls = 0

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 1:
            return forward(*inputs)
        counted = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
        try:
            for norm, _, batches in counted:
                norm.momentum, norm.num_batches_tracked = 0.0, batches.clone()
            return forward(*inputs)
        finally:
            for norm, momentum, batches in counted:
                norm.momentum, norm.num_batches_tracked = momentum, batches

    return checkpoint(run, *inputs) if block.training and torch.is_grad_enabled() else forward(*inputs)


def backbone_of(config: CVLSConfig) -> nn.Module:
    """The backbone. `attn_implementation` is asked of all parts: one without it (a ResNet has none) keeps its own."""
    try:
        backbone = AutoBackbone.from_config(config.backbone_config)
    except ValueError:
        if config.backbone_config._attn_implementation in (None, "eager"):
            raise
        config.backbone_config._attn_implementation = None
        backbone = AutoBackbone.from_config(config.backbone_config)
    return freeze_what_cannot_learn(backbone)


def are_filled(frame_sizes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(B,) bool: whether each clip, of `frame_sizes` (B, 2), fills the frames of `size`, height and width."""
    return (frame_sizes[:, 0] == size[0]) & (frame_sizes[:, 1] == size[1])


def _all_filled(frame_sizes: torch.Tensor, size: tuple[int, int]) -> bool:
    """Whether each clip fills the frames of `size`. A compiled or exported graph cannot ask: it takes that for granted
    and stops at run time where it is not so."""
    filled = are_filled(frame_sizes, size).all()
    if torch.compiler.is_compiling():
        torch._assert_async(
            filled,
            "a compiled or exported model takes clips of one size without padding in a batch: `frame_sizes` must all "
            "be the height and width of `pixel_values_videos`",
        )
        return True
    return bool(filled)


__all__ = ["CVLSVision"]
