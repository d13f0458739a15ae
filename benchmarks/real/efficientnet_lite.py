"""EfficientNet-Lite0 as a backbone that `AutoBackbone` loads, an example of "bring your own backbone".

Tan and Le, "EfficientNet" (2019), in the version for mobile devices (no squeeze-and-excitation, ReLU6). The weights
were converted from TensorFlow, so batch norm has an epsilon of 1e-3, and convolutions with a stride pad as TensorFlow's
"same" does, more at the end than at the start.
"""

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoBackbone, AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.modeling_outputs import BackboneOutput

#: Blocks of a stage: repetitions, kernel, stride, expansion, channels.
BLOCKS = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
          (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))  # fmt: skip
#: The number of groups of blocks after which a feature map is taken: strides 4, 8, 16 and 32.
STAGE_ENDS = (2, 3, 5, 7)


@strict
class EfficientNetLiteConfig(BackboneConfigMixin, PreTrainedConfig):
    """Configuration of [`EfficientNetLiteBackbone`]; stages 1 to 4 have 24, 40, 112 and 320 channels."""

    model_type = "efficientnet_lite"

    def __post_init__(self, **kwargs):
        self.stage_names = ["stem", "stage1", "stage2", "stage3", "stage4"]
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)


class ConvNorm(nn.Sequential):
    """Convolution with TensorFlow's padding, batch norm and, unless `linear`, ReLU6."""

    def __init__(self, size_in: int, size_out: int, kernel: int, stride: int = 1, groups: int = 1, linear=False):
        super().__init__(
            nn.Conv2d(size_in, size_out, kernel, stride, 0, groups=groups, bias=False),
            nn.BatchNorm2d(size_out, eps=1e-3, momentum=0.01),
            *([] if linear else [nn.ReLU6()]),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (kernel, _), (stride, _) = self[0].kernel_size, self[0].stride
        if stride == 1:
            self[0].padding = (kernel // 2, kernel // 2)
            return super().forward(x)
        height, width = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:])
        return super().forward(F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2)))


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection; the input is added where shapes allow."""

    def __init__(self, size_in: int, size_out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        inside = size_in * expansion
        self.layers = nn.Sequential(
            *([ConvNorm(size_in, inside, 1)] if expansion > 1 else []),
            ConvNorm(inside, inside, kernel, stride, groups=inside),
            ConvNorm(inside, size_out, 1, linear=True),
        )
        self.residual = stride == 1 and size_in == size_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class EfficientNetLiteBackbone(BackboneMixin, PreTrainedModel):
    """(N, 3, H, W) frames, normalized, -> maps of strides 4, 8, 16 and 32 (those of `config.out_features`)."""

    config_class = EfficientNetLiteConfig
    main_input_name = "pixel_values"
    has_attentions = False

    def __init__(self, config: EfficientNetLiteConfig):
        super().__init__(config)
        self.num_features = [32, *(BLOCKS[end - 1][-1] for end in STAGE_ENDS)]
        self.stem = ConvNorm(3, 32, 3, stride=2)
        self.stages = nn.ModuleList()
        channels = 32
        for start, end in zip((0, *STAGE_ENDS), STAGE_ENDS, strict=False):
            blocks = []
            for repetitions, kernel, stride, expansion, size in BLOCKS[start:end]:
                for number in range(repetitions):
                    blocks.append(InvertedResidual(channels, size, kernel, 1 if number else stride, expansion))
                    channels = size
            self.stages.append(nn.Sequential(*blocks))
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, **kwargs) -> BackboneOutput:
        x = self.stem(pixel_values)
        maps = {"stem": x}
        for number, stage in enumerate(self.stages, start=1):
            maps[f"stage{number}"] = x = stage(x)
        return BackboneOutput(feature_maps=tuple(maps[name] for name in self.out_features))


AutoConfig.register("efficientnet_lite", EfficientNetLiteConfig, exist_ok=True)
AutoBackbone.register(EfficientNetLiteConfig, EfficientNetLiteBackbone, exist_ok=True)
