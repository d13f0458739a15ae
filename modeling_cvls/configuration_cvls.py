"""Configuration of CVLS: vision and text, the sizes of the segmenter, the switches of its losses."""

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

if TYPE_CHECKING:
    # A checkpoint takes the files along that its files import by name: this line makes the pipeline one of them.
    from .pipeline_cvls import CVLSPipeline  # noqa: F401

# How `pipeline` finds the task and its class in a checkpoint.
_PIPELINES = {
    "video-language-segmentation": {"impl": "pipeline_cvls.CVLSPipeline", "pt": ["AutoModel"], "type": "multimodal"}
}


class _CheckpointPipelines(dict):
    """The pipelines of a checkpoint as `pipeline` looks them up.

    It still infers a missing task from the keys. But a task that is registered, as importing the package does, is not
    in here: the registered class is then used, where `pipeline` would insist on the checkpoint's and on trust in it.
    """

    def __contains__(self, task: object) -> bool:
        from transformers.pipelines import PIPELINE_REGISTRY

        return super().__contains__(task) and task not in PIPELINE_REGISTRY.supported_tasks


def _as_config(config: dict | PreTrainedConfig, name: str) -> PreTrainedConfig:
    if isinstance(config, PreTrainedConfig):
        return config
    if "model_type" not in config:
        raise ValueError(
            f"`{name}` needs a `model_type` (such as 'resnet' or 'roberta'), got the keys {sorted(config)}"
        )
    return AutoConfig.for_model(**config)


@strict
class CVLSConfig(PreTrainedConfig):
    r"""
    Configuration of [`CVLSModel`]. Without arguments: a ResNet-50 class segmenter with a RoBERTa-base text encoder.

    Args:
        backbone_config: configuration of any `AutoBackbone` (ResNet, ConvNeXt, Swin, DINO, Hiera ...).
        text_config: configuration of any `AutoModel` text encoder.
        hidden_size: channels of coarse tokens, words and sentence queries.
        pixel_size: channels of the stride-4 pixel features.
        token_stride: pixels of the frame a coarse token covers, in each direction; a power of two from 8 on.
        num_temporal_layers: attention layers over the coarse tokens of the whole clip.
        num_fusion_layers: layers in which tokens attend to words and the sentence attends to tokens.
        num_attention_heads: heads of all attention layers.
        num_frames: frames of a clip, in training and in each window of inference.
        bce_weight, dice_weight, presence_weight, contrast_weight: weights of the parts of the loss.
            `contrast_weight=0` switches the contrastive objective off, its similarity included.
        empty_masks: whether the masks of sentences without a referent are trained to be empty (true), or have no loss,
            so that presence alone learns what is not there (false).
        alignment_weight: weight of the same contrast between a sentence and the objects of its clip before they meet;
            off where `contrast_weight` is 0. The channel filter acts here, so 0 switches that off too.
        contrast_size: channels D of pixel and sentence embeddings in the contrast.
        temperature: tau of the contrast.
        channel_filter: Language-relevant Channel Filter (LCF) on or off.
        kept_channels: rho, the share of channels that the filter leaves to a sentence's contrast, in (0, 1].
        hard_instances: Relative Hard Instance Construction (RHIC) on or off (off: mean pooling).
        hard_temperature: tau_h of RHIC; the lower, the more an instance is its most similar positions alone.
        across_frames: negatives from all annotated frames of the clip (true), or of the positive's own frame (false).
        similarity_in_masks: whether the similarity map of the contrast is a part of the mask logits.
        carry_state: whether each sentence carries a state from window to window of a long video: where its object was,
            and how sure that is.
    """

    model_type = "cvls"
    sub_configs = {"backbone_config": AutoConfig, "text_config": AutoConfig}

    backbone_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    hidden_size: int = 256
    pixel_size: int = 64
    token_stride: int = 32
    num_temporal_layers: int = 2
    num_fusion_layers: int = 2
    num_attention_heads: int = 8
    num_frames: int = 8
    bce_weight: float | int = 4.0
    dice_weight: float | int = 1.0
    presence_weight: float | int = 0.5
    empty_masks: bool = True
    contrast_weight: float | int = 0.3
    alignment_weight: float | int = 0.3
    contrast_size: int = 64
    temperature: float | int = 0.1
    channel_filter: bool = True
    kept_channels: float | int = 0.75
    hard_instances: bool = True
    hard_temperature: float | int = 0.1
    across_frames: bool = True
    similarity_in_masks: bool = True
    carry_state: bool = False

    def __post_init__(self, **kwargs):
        if self.backbone_config is None:
            self.backbone_config = {"model_type": "resnet", "out_features": ["stage1", "stage2", "stage3", "stage4"]}
        if self.text_config is None:
            self.text_config = {
                "model_type": "roberta",
                "vocab_size": 50265,
                "max_position_embeddings": 514,
                "type_vocab_size": 1,
            }
        self.backbone_config = _as_config(self.backbone_config, "backbone_config")
        self.text_config = _as_config(self.text_config, "text_config")
        kwargs["custom_pipelines"] = _CheckpointPipelines(deepcopy(_PIPELINES))
        super().__post_init__(**kwargs)

    @property
    def max_sentence_length(self) -> int | None:
        """The most tokens of a sentence, special ones included, that the text encoder has positions for; None where it
        does not say."""
        longest = getattr(self.text_config, "max_position_embeddings", None)
        if longest is not None and "roberta" in self.text_config.model_type:
            longest -= self.text_config.pad_token_id + 1  # these models count positions from behind the padding's
        return longest

    def to_dict(self) -> dict[str, Any]:
        """As inherited; `pipeline` replaces names in `custom_pipelines` by classes, which no file can hold."""
        return {**super().to_dict(), "custom_pipelines": deepcopy(_PIPELINES)}

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        """As inherited, but a checkpoint of another model is an error, where the library only warns."""
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"{pretrained_model_name_or_path} holds a model of type {model_type!r}; one of type {cls.model_type!r} "
                "was expected, a checkpoint that CVLSModel.save_pretrained wrote"
            )
        return config_dict, kwargs

    def validate_architecture(self):
        """Called by `@strict`; raises a `ValueError` that names the field."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be a multiple of `num_attention_heads` "
                f"({self.num_attention_heads})"
            )
        if self.hidden_size % 8 or self.pixel_size % 8:
            raise ValueError(
                f"`hidden_size` and `pixel_size` must be multiples of 8, got {self.hidden_size} and {self.pixel_size}"
            )
        if self.token_stride < 8 or self.token_stride & (self.token_stride - 1):
            raise ValueError(f"`token_stride` must be a power of two from 8 on, got {self.token_stride}")
        if not 0 < self.kept_channels <= 1:
            raise ValueError(f"`kept_channels` is a share in (0, 1], got {self.kept_channels}")
        for name in ("temperature", "hard_temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be above 0, got {getattr(self, name)}")
        for part in ("bce", "dice", "presence", "contrast", "alignment"):
            name = f"{part}_weight"
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}")


CVLSConfig.register_for_auto_class()

__all__ = ["CVLSConfig"]
