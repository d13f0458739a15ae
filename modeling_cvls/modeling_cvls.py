"""CVLS: the segmenter. A clip is seen once; each sentence is read, fused with the clip, and drawn as masks."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoBackbone, AutoConfig, AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput

from .configuration_cvls import CVLSConfig
from .hub_cvls import push_card
from .loss_cvls import (
    channel_filter,
    compare,
    contrastive_loss,
    hard_positions,
    mask_losses,
    presence_loss,
    regions_of,
)


@dataclass
class CVLSOutput(ModelOutput):
    """
    Args:
        loss: scalar, the weighted sum of `losses`; when `referents` and the instances are given.
        mask_logits: (B, K, T, H/4, W/4) logits of the masks, on the grid of the (padded) frames.
        presence_logits: (B, K) logits of "this clip contains a referent of this sentence".
        similarity: (B, K, T, H/4, W/4) in [-1, 1], the contrast's similarity of each position to the sentence; None
            where the contrast is switched off.
        instance_similarity: (B, K, T, M + 1) in [-1, 1], what the contrast compares: the similarity of each instance's
            embedding, and last the background's, to the sentence; with the losses, for looking at (no gradient). Not a
            number where an instance is not seen or not annotated.
        kept_channels: (B, K, D) bool, the channels that the filter (LCF) left to each sentence's contrast, with the
            losses; None where it is off.
        losses: the unweighted parts of the loss: bce, dice, presence, contrast, alignment.
    """

    loss: torch.FloatTensor | None = None
    mask_logits: torch.FloatTensor | None = None
    presence_logits: torch.FloatTensor | None = None
    similarity: torch.FloatTensor | None = None
    instance_similarity: torch.FloatTensor | None = None
    kept_channels: torch.BoolTensor | None = None
    losses: dict[str, torch.FloatTensor] | None = None


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Attention written out; transformers' interface has the faster versions of the same."""
    weights = query @ key.transpose(-2, -1) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = weights.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class CVLSAttention(nn.Module):
    """Multi-head attention of queries (N, Q, C) to a memory (N, S, C); `memory_mask` (N, S) is false on padding."""

    is_causal = False

    def __init__(self, config: CVLSConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, queries: torch.Tensor, memory: torch.Tensor, memory_mask: torch.Tensor) -> torch.Tensor:
        def heads(x):
            return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        bias = torch.zeros_like(memory_mask, dtype=queries.dtype)
        bias = bias.masked_fill(~memory_mask, torch.finfo(queries.dtype).min)[:, None, None]
        bias = bias.expand(-1, 1, queries.shape[1], -1)
        attend: Callable = eager_attention_forward
        if self.config._attn_implementation != "eager":
            attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        attended, _ = attend(
            self,
            heads(self.query(queries)),
            heads(self.key(memory)),
            heads(self.value(memory)),
            attention_mask=bias,
            scaling=self.head_dim**-0.5,
            dropout=0.0,
        )
        return self.output(attended.flatten(-2))


class CVLSLayer(nn.Module):
    """Pre-norm attention to a memory, then a feed-forward network."""

    def __init__(self, config: CVLSConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size)
        self.attention = CVLSAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.hidden_size, 2 * config.hidden_size),
            nn.GELU(),
            nn.Linear(2 * config.hidden_size, config.hidden_size),
        )

    def forward(self, x: torch.Tensor, memory_mask: torch.Tensor, memory: torch.Tensor | None = None) -> torch.Tensor:
        """Without `memory`: self-attention."""
        normed = self.norm1(x)
        x = x + self.attention(normed, normed if memory is None else memory, memory_mask)
        return x + self.feed_forward(self.norm2(x))


class CVLSPyramid(nn.Module):
    """Feature pyramid (Lin et al., 2017) to stride 4, coarse levels `hidden_size` wide, the finest `pixel_size`."""

    def __init__(self, config: CVLSConfig, channels: list[int]):
        super().__init__()
        if len(channels) < 2:
            raise ValueError(
                "`backbone_config` gives one feature map, a pyramid takes two or more: set its `out_features`, "
                'finest first, such as ["stage1", "stage2", "stage3", "stage4"]'
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
                level = level + _resize(top_down, level.shape[-2:])
            top_down = level
            if tokens is None or level.shape[-2] <= grid[0]:
                tokens = level
        pixels = self.finest(finest)
        pixels = _resize(pixels, (height // 4, width // 4)) + _resize(
            self.to_finest(top_down), (height // 4, width // 4)
        )
        return self.smooth(pixels), _resize(tokens, grid)


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
        for size_in, size_out in zip(sizes[:-1], sizes[1:], strict=True):
            self.down.append(nn.Conv2d(size_in, size_out, 3, stride=2, padding=1))
            self.down.append(nn.GroupNorm(8, size_out))
            self.down.append(nn.GELU())

    def forward(self, pixels: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        """(B, T, C, h, w) stride-4 features -> (B, T, hidden_size, h', w') on the coarse grid."""
        # nothing is known to move before the first frame, where `roll` brings the last one
        known = frame_mask & frame_mask.roll(1, dims=1) & (torch.arange(pixels.shape[1], device=pixels.device) > 0)
        before = (pixels - pixels.roll(1, dims=1)) * known[..., None, None, None]
        differences = torch.cat([before, before.roll(-1, dims=1)], dim=2)
        return self.down(differences.flatten(0, 1)).unflatten(0, pixels.shape[:2])


class CVLSPosition(nn.Module):
    """Where a coarse token is: Fourier features of its place in the frame (0 to 1) and its frame's number."""

    octaves = 6

    def __init__(self, config: CVLSConfig):
        super().__init__()
        self.project = nn.Linear(3 * 2 * self.octaves, config.hidden_size)

    def forward(self, num_frames: int, height: int, width: int) -> torch.Tensor:
        """-> (T, h, w, hidden_size)."""
        weight = self.project.weight
        axes = (
            torch.arange(num_frames, device=weight.device) / 32,
            (torch.arange(height, device=weight.device) + 0.5) / height,
            (torch.arange(width, device=weight.device) + 0.5) / width,
        )
        place = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        angles = place[..., None] * math.pi * 2.0 ** torch.arange(self.octaves, device=weight.device)
        return self.project(torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2).to(weight.dtype))


class CVLSVision(nn.Module):
    """See a clip once, whatever the number of its sentences: backbone, pyramid, motion, temporal attention."""

    def __init__(self, config: CVLSConfig, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.pyramid = CVLSPyramid(config, list(backbone.channels))
        self.motion = CVLSMotion(config)
        self.position = CVLSPosition(config)
        self.layers = nn.ModuleList(CVLSLayer(config) for _ in range(config.num_temporal_layers))
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, frames: torch.Tensor, frame_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames (B, T, 3, H, W) of one size, without padding but in T -> stride-4 pixel features
        (B, T, pixel_size, H/4, W/4), coarse tokens (B, T, h, w, hidden_size)."""
        features = self.backbone(frames.flatten(0, 1)).feature_maps
        pixels, tokens = self.pyramid(list(features), *frames.shape[-2:])
        pixels = pixels.unflatten(0, frames.shape[:2])
        tokens = tokens.unflatten(0, frames.shape[:2]) + self.motion(pixels, frame_mask)
        tokens = tokens.movedim(2, -1)
        tokens = tokens + self.position(*tokens.shape[1:4])

        token_mask = frame_mask[:, :, None, None].expand(tokens.shape[:4]).flatten(1)
        attended = tokens.flatten(1, 3)
        for layer in self.layers:
            attended = layer(attended, token_mask)
        return pixels, self.norm(attended).view(tokens.shape)


class CVLSLanguage(nn.Module):
    """Read sentences: any text encoder, its words projected to the segmenter's width, their mean the sentence."""

    def __init__(self, config: CVLSConfig, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.project = nn.Linear(config.text_config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, L) -> words (N, L, hidden_size), sentences (N, hidden_size)."""
        words = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        words = self.norm(self.project(words))
        weights = attention_mask[..., None].to(words.dtype)
        return words, (words * weights).sum(dim=1) / weights.sum(dim=1)


class CVLSFusionLayer(nn.Module):
    """The clip's tokens attend to the words and the sentence; the sentence attends to the clip's tokens."""

    def __init__(self, config: CVLSConfig):
        super().__init__()
        self.tokens_to_words = CVLSLayer(config)
        self.sentence_to_tokens = CVLSLayer(config)

    def forward(self, tokens, token_mask, words, word_mask, sentence):
        """tokens (N, S, C), words (N, L, C), sentence (N, 1, C) -> tokens, sentence."""
        said = torch.cat([sentence, words], dim=1)
        said_mask = F.pad(word_mask, (1, 0), value=True)
        tokens = self.tokens_to_words(tokens, said_mask, memory=said)
        sentence = self.sentence_to_tokens(sentence, token_mask, memory=tokens)
        return tokens, sentence


class CVLSEmbeddings(NamedTuple):
    """What the contrast compares; D channels.

    A position's embedding is f^ = (normalize(pixels) + upsampled normalize(tokens)) / 2: what it looks like, and what
    the coarse token there became when it met the sentence. It is never written out for every position: similarity and
    pooling are linear in both halves, so that stride-4 maps with channels exist once a clip, not once a sentence.
    """

    pixels: torch.Tensor  # (B, T, D, h4, w4), shared by the sentences; not normalized, which would write them out again
    lengths: torch.Tensor  # (B, T, h4, w4), |pixels|
    tokens: torch.Tensor  # (B, K, T, h, w, D), normalized
    sentence: torch.Tensor  # (B, K, D), e^

    def similarity(self) -> torch.Tensor:
        """s = <f^, e^> in [-1, 1] of every position, (B, K, T, h4, w4)."""
        fine = torch.einsum("bkd,btdhw->bkthw", self.sentence, self.pixels) / self.lengths[:, None]
        coarse = torch.einsum("bkthwd,bkd->bkthw", self.tokens, self.sentence)
        return (fine + _upsample(coarse[:, :, :, None], fine.shape[-2:])[:, :, :, 0]) / 2

    def pool(self, weights: torch.Tensor) -> torch.Tensor:
        """Instance embeddings v = normalize(sum_p a_p f^_p) from the weights a (B, K, T, R, h4, w4) of each region:
        (B, K, T, R, D)."""
        fine = torch.einsum("bktrhw,btdhw->bktrd", weights / self.lengths[:, None, :, None], self.pixels)
        rows, columns = (
            _interpolation(size, to, weights)
            for size, to in zip(self.tokens.shape[3:5], weights.shape[-2:], strict=True)
        )
        coarse = torch.einsum("bktrhw,bkthwd->bktrd", rows.T @ weights @ columns, self.tokens)
        return F.normalize(fine + coarse, dim=-1)


class CVLSContrast(nn.Module):
    """The contrastive head: embeddings of the pixels, the fused tokens and the fused sentence."""

    def __init__(self, config: CVLSConfig):
        super().__init__()
        self.project_pixels = nn.Conv2d(config.pixel_size, config.contrast_size, 1)
        self.project_tokens = nn.Linear(config.hidden_size, config.contrast_size)
        self.project_sentence = nn.Linear(config.hidden_size, config.contrast_size)

    def forward(self, pixels: torch.Tensor, tokens: torch.Tensor, sentence: torch.Tensor) -> CVLSEmbeddings:
        """
        Args:
            pixels: (B, T, pixel_size, h4, w4), shared by the sentences.
            tokens: (B, K, T, h, w, hidden_size), fused with each sentence.
            sentence: (B, K, hidden_size).
        """
        fine = self.project_pixels(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])
        return CVLSEmbeddings(
            fine,
            torch.linalg.vector_norm(fine, dim=2).clamp(min=1e-12),
            F.normalize(self.project_tokens(tokens), dim=-1),
            F.normalize(self.project_sentence(sentence), dim=-1),
        )


class CVLSChoice(NamedTuple):
    """What the similarity chooses for each sentence."""

    logits: torch.Tensor  # (B, K, T, h4, w4), s / tau
    of_frame: torch.Tensor  # (B, K, T, C), the tokens chosen in each frame
    of_clip: torch.Tensor  # (B, K, C), those chosen in the whole clip
    similarity: torch.Tensor  # (B, K), s / tau of what is chosen in the clip


class CVLSAlignment(nn.Module):
    """Align before fusing (Li et al., ALBEF, 2021): sentences and the objects of their clip, each as it is before they
    meet, where the contrast can only be won by what vision and language know by themselves; for training only.

    Here the Language-relevant Channel Filter (LCF) acts. What all sentences have in common is most of what a text
    encoder gives (Ethayarajh, 2019), tells no object from another, and hides the words that do. The filter takes it
    out: each channel of the sentences is brought to mean 0 and variance 1 over the batch, and each sentence keeps the
    channels in which it then stands out.
    """

    def __init__(self, config: CVLSConfig):
        super().__init__()
        self.config = config
        self.project_pixels = nn.Linear(config.pixel_size, config.contrast_size)
        self.project_tokens = nn.Linear(config.hidden_size, config.contrast_size)
        self.project_sentence = nn.Linear(config.hidden_size, config.contrast_size)

    def forward(
        self,
        pixels: torch.Tensor,
        tokens: torch.Tensor,
        sentence: torch.Tensor,
        sentence_mask: torch.Tensor,
        instance_masks: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """
        Args:
            pixels: (B, T, pixel_size, h4, w4).
            tokens: (B, T, h, w, hidden_size), not fused.
            sentence: (B, K, hidden_size), not fused.
            sentence_mask: (B, K) bool, false on padding.
            instance_masks: (B, T, M, h4, w4) float, the share of a position that an instance covers, 0 where the
                instance is not annotated.

        Returns:
            Sentences (B, K, D) and objects (B, M, D), normalized, and the channels (B, K, D) that each sentence keeps,
            as of `filter`. An object is the mean of where it is in the clip.
        """
        objects = F.normalize(self.project_pixels(_mean_inside(pixels, instance_masks)), dim=-1)
        objects = objects + F.normalize(
            self.project_tokens(_mean_inside(tokens.movedim(-1, 2), instance_masks)), dim=-1
        )
        sentence, channels = self.filter(sentence, sentence_mask)
        return sentence, F.normalize(objects, dim=-1), channels

    def filter(self, sentence: torch.Tensor, sentence_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The language half: sentences (B, K, hidden_size) -> (B, K, D), normalized, and the channels (B, K, D) that
        the filter (LCF) leaves to each, zeros and ones, None without the filter. It goes by the sentences alone."""
        if not self.config.channel_filter:
            return F.normalize(self.project_sentence(sentence), dim=-1), None
        sentence = F.normalize(self.project_sentence(_standardized(sentence, sentence_mask)), dim=-1)
        return sentence, channel_filter(sentence, self.config.kept_channels)


class CVLSPreTrainedModel(PreTrainedModel):
    config_class = CVLSConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video", "text")
    _supports_sdpa = True
    _supports_attention_backend = True

    @classmethod
    def from_pretrained(cls, *args, device_map=None, **kwargs):
        """As inherited, but `device_map="auto"` and its like mean one device, the accelerator where there is one: the
        segmenter is small, and what its parts compute meets in too many places to lie on several."""
        if device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
            device_map = torch.accelerator.current_accelerator() or "cpu"
        return super().from_pretrained(*args, device_map=device_map, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """As inherited, and where the repository has no card yet, the one of the checkpoint that was loaded."""
        repo_id = push_card(self.config._name_or_path, repo_id, kwargs.get("private"), kwargs.get("token"))
        return super().push_to_hub(repo_id, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            # fan-in scaled: 0.02 is made for width 768, and stalls the narrow sizes
            init.trunc_normal_(module.weight, std=1 / math.sqrt(module.weight[0].numel()))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, CVLSModel):
            # most pixels belong to no referent: start near their share
            init.constant_(module.mask_bias, -2.0)
            if hasattr(module, "similarity_scale"):
                init.ones_(module.similarity_scale)
                # at s / tau itself most of a choice would fall on the background, which has the most positions
                init.constant_(module.choice_sharpness, 3.0)


class CVLSModel(CVLSPreTrainedModel):
    """The full segmenter: frames of a clip and sentences in; for each sentence a mask in every frame, and presence.

    Liang, Luo, Wu, Yang, "Contrastive Video-Language Segmentation", arXiv 2109.14131.
    """

    def __init__(self, config: CVLSConfig):
        super().__init__(config)
        self.vision = CVLSVision(config, _backbone_of(config))
        self.language = CVLSLanguage(config, AutoModel.from_config(config.text_config))
        self.fusion = nn.ModuleList(CVLSFusionLayer(config) for _ in range(config.num_fusion_layers))
        self.norm_tokens = nn.LayerNorm(config.hidden_size)
        self.norm_sentence = nn.LayerNorm(config.hidden_size)
        self.pixel_query = nn.Linear(config.hidden_size, config.pixel_size)
        self.token_query = nn.Linear(config.hidden_size, config.hidden_size)
        self.mask_bias = nn.Parameter(torch.zeros(()))
        self.presence = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size), nn.GELU(), nn.Linear(config.hidden_size, 1)
        )
        if config.contrast_weight > 0:
            # drawn aside, so that all other weights start alike with and without the contrast
            with torch.random.fork_rng(devices=[]):
                self.contrast = CVLSContrast(config)
                if config.alignment_weight > 0:
                    self.alignment = CVLSAlignment(config)
                if config.similarity_in_masks:
                    self.frame_query = nn.Linear(config.hidden_size, config.hidden_size)
                    self.clip_query = nn.Linear(config.hidden_size, config.hidden_size)
                    self.presence_query = nn.Linear(config.hidden_size + 1, config.hidden_size)
                    self.similarity_scale = nn.Parameter(torch.zeros(()))
                    self.choice_sharpness = nn.Parameter(torch.zeros(()))
        self.post_init()

    @classmethod
    def from_vision_text_pretrained(
        cls, vision: str, text: str, vision_features: list[str] | None = None, **kwargs
    ) -> "CVLSModel":
        """A new segmenter on a pretrained vision backbone and a pretrained text encoder.

        Args:
            vision: name on the Hub or folder of a model that `AutoBackbone` loads.
            text: name on the Hub or folder of a model that `AutoModel` loads.
            vision_features: the backbone's stages to use, finest first. Without it: all of a pyramid's stages (ResNet,
                ConvNeXt, Swin, Hiera), four evenly spaced ones of a plain transformer's.
            kwargs: fields of [`CVLSConfig`].

        Returns:
            The model; what is not backbone or text encoder is newly initialized.
        """
        backbone_config = AutoConfig.from_pretrained(vision)
        if vision_features is None:
            stages = [name for name in backbone_config.stage_names if name != "stem"]
            vision_features = stages if len(stages) <= 5 else [stages[len(stages) * i // 4 - 1] for i in range(1, 5)]
        backbone_config.out_features = vision_features
        with torch.device("meta"):  # AutoBackbone.from_pretrained takes a folder for a name on the Hub
            backbone_class = type(AutoBackbone.from_config(backbone_config))
        backbone = backbone_class.from_pretrained(vision, config=backbone_config)
        encoder = AutoModel.from_pretrained(text)
        model = cls(CVLSConfig(backbone_config=backbone.config, text_config=encoder.config, **kwargs))
        model.vision.backbone, model.language.encoder = backbone, encoder
        return model

    def forward(
        self,
        pixel_values_videos: torch.FloatTensor,
        input_ids: torch.LongTensor,
        attention_mask: torch.LongTensor | None = None,
        frame_mask: torch.BoolTensor | None = None,
        frame_sizes: torch.LongTensor | None = None,
        sentence_mask: torch.BoolTensor | None = None,
        instance_masks: torch.BoolTensor | None = None,
        annotated_frames: torch.BoolTensor | None = None,
        annotated_instances: torch.BoolTensor | None = None,
        referents: torch.BoolTensor | None = None,
        return_dict: bool | None = None,
    ) -> CVLSOutput:
        """
        Args:
            pixel_values_videos: (B, T, 3, H, W) normalized frames; H and W multiples of 32 and of `token_stride`.
            input_ids, attention_mask: (B, K, L) sentences.
            frame_mask: (B, T), false on padding frames.
            frame_sizes: (B, 2) height and width of each clip's frames; the rest is padding.
            sentence_mask: (B, K), false on padding sentences.
            instance_masks: (B, T, M, h, w) every annotated instance of the clip, at full size or a quarter of it.
            annotated_frames: (B, T), which frames carry masks.
            annotated_instances: (B, T, M), which instances are annotated in a frame; default: all of it.
            referents: (B, K, M), which instances a sentence refers to: none, one or several.

        Returns:
            [`CVLSOutput`]. With `referents`, the losses too.
        """
        batch, num_frames, _, height, width = pixel_values_videos.shape
        self._check_inputs(pixel_values_videos, input_ids)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if frame_mask is None:
            frame_mask = attention_mask.new_ones((batch, num_frames), dtype=torch.bool)
        if sentence_mask is None:
            sentence_mask = attention_mask.new_ones(attention_mask.shape[:2], dtype=torch.bool)
        # a padding sentence has no word to attend to: let it look at its first pad token, its output is dropped
        first = torch.arange(input_ids.shape[-1], device=input_ids.device) == 0
        attention_mask = torch.where(sentence_mask[..., None], attention_mask, first.to(attention_mask.dtype))

        pixels, tokens, token_mask = self.see(pixel_values_videos, frame_mask, frame_sizes)
        words, sentence = self.read(input_ids, attention_mask)
        unfused = (pixels, tokens, sentence)
        tokens, sentence = self.fuse(tokens, token_mask, words, attention_mask.bool(), sentence)
        if frame_sizes is not None:
            tokens = _extend_edges(tokens.movedim(-1, 2), frame_sizes // self.config.token_stride).movedim(2, -1)

        embeddings = similarity = None
        if self.config.contrast_weight > 0:
            embeddings = self.contrast(pixels, tokens, sentence)
            similarity = embeddings.similarity()
        choice = None
        if similarity is not None and self.config.similarity_in_masks:
            choice = self.choose(tokens, token_mask, similarity)
        mask_logits = self.draw(pixels, tokens, sentence, choice)
        if frame_sizes is not None:
            mask_logits = _extend_edges(mask_logits, frame_sizes // 4)
        presence_logits = self.judge(sentence, choice)

        loss = losses = instance_similarity = kept_channels = None
        if referents is not None:
            if annotated_frames is None or instance_masks is None:
                raise ValueError("`referents` needs `instance_masks` and `annotated_frames` for the loss")
            if annotated_instances is None:
                annotated_instances = annotated_frames[..., None].expand(instance_masks.shape[:3])
            losses, instance_similarity, kept_channels = self.losses(
                mask_logits, presence_logits, similarity, embeddings, unfused, frame_sizes, sentence_mask,
                instance_masks, annotated_frames & frame_mask, annotated_instances, referents,
            )  # fmt: skip
            loss = sum(getattr(self.config, f"{name}_weight") * value for name, value in losses.items())
        return CVLSOutput(
            loss=loss, mask_logits=mask_logits, presence_logits=presence_logits, similarity=similarity,
            instance_similarity=instance_similarity, kept_channels=kept_channels, losses=losses,
        )  # fmt: skip

    def see(self, frames, frame_mask, frame_sizes):
        """Encode each clip once, at its own size, so that no convolution ever meets the padding of another.

        Returns:
            pixels (B, T, pixel_size, H/4, W/4), tokens (B, T, h, w, hidden_size), token_mask (B, T, h, w); zeros and
            false on padding.
        """
        batch, num_frames, _, height, width = frames.shape
        stride = self.config.token_stride
        if frame_sizes is None or (frame_sizes == frame_sizes.new_tensor([height, width])).all():
            pixels, tokens = self.vision(frames, frame_mask)
            return pixels, tokens, frame_mask[:, :, None, None].expand(tokens.shape[:4])

        pixels = frames.new_zeros((batch, num_frames, self.config.pixel_size, height // 4, width // 4))
        tokens = frames.new_zeros((batch, num_frames, height // stride, width // stride, self.config.hidden_size))
        token_mask = frame_mask.new_zeros(tokens.shape[:4])
        for h, w in frame_sizes.unique(dim=0).tolist():
            (clips,) = torch.where((frame_sizes == frame_sizes.new_tensor([h, w])).all(dim=1))
            seen, coarse = self.vision(frames[clips, :, :, :h, :w], frame_mask[clips])
            pixels[clips, :, :, : h // 4, : w // 4] = seen.to(pixels.dtype)
            tokens[clips, :, : h // stride, : w // stride] = coarse.to(tokens.dtype)
            token_mask[clips, :, : h // stride, : w // stride] = frame_mask[clips, :, None, None]
        return pixels, tokens, token_mask

    def read(self, input_ids, attention_mask):
        """(B, K, L) -> words (B, K, L, C), sentences (B, K, C)."""
        words, sentence = self.language(input_ids.flatten(0, 1), attention_mask.flatten(0, 1))
        return words.unflatten(0, input_ids.shape[:2]), sentence.unflatten(0, input_ids.shape[:2])

    def fuse(self, tokens, token_mask, words, word_mask, sentence):
        """tokens (B, T, h, w, C) -> tokens (B, K, T, h, w, C) and sentence (B, K, C), fused with each other."""
        batch, sentences = sentence.shape[:2]
        grid = tokens.shape[1:4]
        tokens = tokens[:, None].expand(-1, sentences, -1, -1, -1, -1).flatten(2, 4).flatten(0, 1)
        token_mask = token_mask[:, None].expand(-1, sentences, -1, -1, -1).flatten(2).flatten(0, 1)
        words, word_mask, sentence = words.flatten(0, 1), word_mask.flatten(0, 1), sentence.flatten(0, 1)[:, None]
        for layer in self.fusion:
            tokens, sentence = layer(tokens, token_mask, words, word_mask, sentence)
        tokens = self.norm_tokens(tokens).view(batch, sentences, *grid, -1)
        return tokens, self.norm_sentence(sentence).view(batch, sentences, -1)

    def choose(self, tokens, token_mask, similarity):
        """What the contrast finds most similar to each sentence, in a frame and in the whole clip."""
        logits = similarity / self.config.temperature
        of_tokens = F.interpolate(logits.flatten(1, 2), size=tokens.shape[3:5], mode="area").view(tokens.shape[:5])
        weights = (self.choice_sharpness * of_tokens).masked_fill(
            ~token_mask[:, None], torch.finfo(of_tokens.dtype).min
        )
        of_clip = weights.flatten(2).softmax(dim=-1)
        return CVLSChoice(
            logits,
            torch.einsum("bktp,bktpc->bktc", weights.flatten(3).softmax(dim=-1), tokens.flatten(3, 4)),
            torch.einsum("bkp,bkpc->bkc", of_clip, tokens.flatten(2, 4)),
            (of_clip * of_tokens.flatten(2)).sum(dim=-1),
        )

    def draw(self, pixels, tokens, sentence, choice):
        """Mask logits (B, K, T, H/4, W/4): the similarity chooses the object, a query of it draws its outline.

        What is chosen in the frame, and in the whole clip, so that one object is meant in all frames, joins the
        sentence in its query. The coarse part is upsampled as a map of logits, so that no stride-4 features exist once
        a sentence.
        """
        query = sentence[:, :, None].expand(-1, -1, tokens.shape[2], -1)
        if choice is not None:
            query = query + self.frame_query(choice.of_frame) + self.clip_query(choice.of_clip)[:, :, None]
        fine = torch.einsum("btchw,bktc->bkthw", pixels, self.pixel_query(query)) * pixels.shape[2] ** -0.5
        coarse = torch.einsum("bkthwc,bktc->bkthw", tokens, self.token_query(query)) * tokens.shape[-1] ** -0.5
        mask_logits = fine + _upsample(coarse[:, :, :, None], fine.shape[-2:])[:, :, :, 0] + self.mask_bias
        return mask_logits if choice is None else mask_logits + self.similarity_scale * choice.logits

    def judge(self, sentence, choice):
        """Presence logits (B, K), from the sentence that has seen the clip and from what was chosen. The choice learns
        nothing from them: nearly every sentence has a referent, and any choice would do for those."""
        if choice is not None:
            found = torch.cat([choice.of_clip, choice.similarity[..., None]], dim=-1)
            sentence = sentence + self.presence_query(found.detach())
        return self.presence(sentence)[..., 0]

    def losses(
        self, mask_logits, presence_logits, similarity, embeddings, unfused, frame_sizes, sentence_mask,
        instance_masks, annotated_frames, annotated_instances, referents,
    ):  # fmt: skip
        """The unweighted parts of the loss whose weight is not 0, in float32, and the output's instance similarity and
        kept channels; shapes as in `forward`."""
        referents = referents & sentence_mask[..., None]
        chosen, instances = referents.to(torch.float32), instance_masks.to(torch.float32)
        # a pair's truth is known where all its referents are annotated; without referents, in every annotated frame
        unknown = torch.einsum("bkm,btm->bkt", chosen, (~annotated_instances).to(torch.float32)) > 0
        pair_mask = annotated_frames[:, None] & ~unknown & sentence_mask[..., None]
        size = instance_masks.shape[-2:]
        truth = torch.einsum("bkm,btmhw->bkthw", chosen, instances) > 0
        pixel_mask = self._pixel_mask(frame_sizes, mask_logits, size)
        full_logits = F.interpolate(mask_logits.float().flatten(0, 1), size=size, mode="bilinear").view(truth.shape)
        bce, dice = mask_losses(full_logits, truth, pair_mask, pixel_mask)
        losses = {
            "bce": bce,
            "dice": dice,
            "presence": presence_loss(presence_logits.float(), referents.any(dim=-1), sentence_mask),
        }
        instance_similarity = kept_channels = None
        if embeddings is not None:
            grid = mask_logits.shape[-2:]
            shares = F.interpolate(instances.flatten(0, 1), size=grid, mode="area").unflatten(0, instances.shape[:2])
            regions = regions_of(shares >= 0.5, annotated_instances, annotated_frames)
            regions = regions & (self._pixel_mask(frame_sizes, mask_logits, grid).flatten(1)[:, None, None])
            referred = F.pad(referents, (0, 1))  # the background is never referred to
            tau_h = self.config.hard_temperature if self.config.hard_instances else None
            weights = hard_positions(similarity.float().flatten(3), regions, tau_h).unflatten(-1, grid)
            embeddings = CVLSEmbeddings(*(part.float() for part in embeddings))
            exists = regions.any(dim=-1)
            compared = compare(embeddings.sentence, embeddings.pool(weights))
            losses["contrast"] = contrastive_loss(
                compared, exists, referred, self.config.temperature, self.config.across_frames
            )
            instance_similarity = compared.detach().masked_fill(~exists[:, None], torch.nan)
            if self.config.alignment_weight > 0:
                known = shares * (annotated_instances & annotated_frames[..., None])[..., None, None]
                sentences, objects, channels = self.alignment(*unfused, sentence_mask, known)
                losses["alignment"] = contrastive_loss(
                    compare(sentences.float(), objects.float()[:, None, None], channels),
                    known.sum(dim=(1, 3, 4))[:, None] > 0, referents, self.config.temperature,
                )  # fmt: skip
                kept_channels = None if channels is None else channels > 0
        return losses, instance_similarity, kept_channels

    @staticmethod
    def _pixel_mask(frame_sizes, mask_logits, size):
        """(B, h, w) of `size`, true inside each clip's frames."""
        batch, (height, width) = mask_logits.shape[0], size
        if frame_sizes is None:
            return torch.ones((batch, height, width), dtype=torch.bool, device=mask_logits.device)
        stride = 4 * mask_logits.shape[-2] // height
        sizes = (frame_sizes // stride).to(mask_logits.device)
        rows = torch.arange(height, device=sizes.device) < sizes[:, :1]
        columns = torch.arange(width, device=sizes.device) < sizes[:, 1:]
        return rows[:, :, None] & columns[:, None]

    def _check_inputs(self, pixel_values_videos, input_ids):
        height, width = pixel_values_videos.shape[-2:]
        stride = max(32, self.config.token_stride)
        if height % stride or width % stride:
            raise ValueError(
                f"`pixel_values_videos` must have a height and width that are multiples of {stride}, got {height} x "
                f"{width}; the processor makes them so"
            )
        if input_ids.shape[0] != pixel_values_videos.shape[0]:
            raise ValueError(
                f"`input_ids` is of {input_ids.shape[0]} clips and `pixel_values_videos` of "
                f"{pixel_values_videos.shape[0]}; both start with the batch: (B, K, L) and (B, T, 3, H, W)"
            )


def _backbone_of(config: CVLSConfig) -> nn.Module:
    """The backbone. `attn_implementation` is asked of all parts: one without it (a ResNet has none) keeps its own."""
    try:
        return AutoBackbone.from_config(config.backbone_config)
    except ValueError:
        if config.backbone_config._attn_implementation in (None, "eager"):
            raise
        config.backbone_config._attn_implementation = None
        return AutoBackbone.from_config(config.backbone_config)


def _resize(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return maps if maps.shape[-2:] == tuple(size) else F.interpolate(maps, size=tuple(size), mode="bilinear")


def _standardized(sentence: torch.Tensor, sentence_mask: torch.Tensor) -> torch.Tensor:
    """Sentences (B, K, C) with a mean of 0 and a variance of 1 in each channel over all sentences of the batch but the
    padding; a sentence alone, which differs from nothing, as it is."""
    weights = sentence_mask[..., None].to(sentence.dtype)
    number = weights.sum()
    centerd = sentence - (sentence * weights).sum(dim=(0, 1)) / number.clamp(min=1)
    variance = (centerd.square() * weights).sum(dim=(0, 1)) / number.clamp(min=1)
    return torch.where(number > 1, centerd * (variance + 1e-5).rsqrt(), sentence)


def _mean_inside(features: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Features (B, T, C, h, w) and the share of each position that a mask covers (B, T, M, H, W), on the same grid or a
    finer one -> the mean inside each mask in all frames (B, M, C); 0 where there is none."""
    weights = masks.flatten(3)
    if masks.shape[-2:] != features.shape[-2:]:
        weights = F.interpolate(masks.flatten(0, 1), size=features.shape[-2:], mode="area").view(*masks.shape[:3], -1)
    weights = weights / weights.sum(dim=(1, 3), keepdim=True).clamp(min=1e-6)
    return torch.einsum("btmp,btcp->bmc", weights.to(features.dtype), features.flatten(3))


def _extend_edges(maps: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Maps (B, ..., h, w), of which each clip fills `sizes` (B, 2) -> its last row and column continued into the
    padding, as interpolation does at the border of a map: so upsampling meets no padding."""
    for dim in (-2, -1):
        indices = torch.arange(maps.shape[dim], device=maps.device).expand(len(maps), -1)
        indices = torch.minimum(indices, sizes[:, dim, None] - 1)
        shape = [len(maps)] + [1] * (maps.ndim - 1)
        shape[dim] = maps.shape[dim]
        maps = maps.gather(dim, indices.view(shape).expand_as(maps))
    return maps


def _interpolation(size: int, to: int, like: torch.Tensor) -> torch.Tensor:
    """(to, size): the weights of linear interpolation, so that rows @ map @ columns.T is the map, bilinear."""
    identity = torch.eye(size, dtype=like.dtype, device=like.device)
    return F.interpolate(identity[None], size=to, mode="linear")[0].T


def _upsample(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(B, K, T, C, h, w) -> (B, K, T, C, *size), bilinear."""
    return F.interpolate(maps.flatten(0, 2), size=tuple(size), mode="bilinear").unflatten(0, maps.shape[:3])


CVLSModel.register_for_auto_class("AutoModel")

__all__ = ["CVLSModel", "CVLSOutput", "CVLSPreTrainedModel"]
