"""What a training is told: the sections `model`, `data` and `training` of its YAML file."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from ..extras import require


def _option(default: Any, help: str) -> Any:
    """A field of a dataclass with its help text, as transformers' own arguments have it."""
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class ModelArguments:
    """What to train: a checkpoint, or pretrained parts, or a model from nothing.

    Raises:
        ValueError: only one of `vision` and `text` is given; or a part is described twice.
    """

    checkpoint: str | None = _option(
        None, "Folder or Hub name of a CVLS checkpoint to go on from, instead of `vision` and `text`."
    )
    vision: str | None = _option(None, "Folder or Hub name of a pretrained vision backbone.")
    text: str | None = _option(None, "Folder or Hub name of a pretrained text encoder.")
    config: dict[str, Any] = _option(
        {}, "Fields of CVLSConfig. Those that are not given are the checkpoint's, or the defaults."
    )

    def __post_init__(self):
        if bool(self.vision) != bool(self.text):
            raise ValueError("`model.vision` and `model.text` go together: give both, or neither and `model.config`")
        if self.vision and self.checkpoint:
            raise ValueError("`model.checkpoint` holds both parts: leave out `model.vision` and `model.text`")
        described = sorted({"backbone_config", "text_config"} & self.config.keys())
        if self.vision and described:
            raise ValueError(
                f"`model.vision` and `model.text` bring their configurations: leave out `model.config.{described[0]}`"
            )


@dataclass
class DataArguments:
    """Which clips to train on, and how they are drawn and changed.

    Raises:
        ValueError: a weight in `dataset` that is not above 0.
    """

    dataset: str | list[str] | dict[str, float] | None = _option(
        None,
        "Folder or Hub name of a data set of video sentences. Or several, [a, b], of which an epoch shows every row "
        "once; or several with weights, {a: 3, b: 1}, from which rows are drawn in proportion.",
    )
    train_split: str = _option("train", "Split to train on, as `load_dataset` takes it, such as train[:600].")
    eval_split: str | None = _option(
        "validation", "Split to evaluate on while training, or null; only used where `training.eval_strategy` is on."
    )
    eval_videos: int | None = _option(None, "Evaluate on this many videos at the start of the split; null for all.")
    shortest_edge: int | None = _option(
        None,
        "Frames are scaled to this short side, in pixels; null for that of `model.checkpoint`, or 320 for a new model.",
    )
    longest_edge: int | None = _option(
        None,
        "Frames have at most this long side, in pixels; null for that of `model.checkpoint`, or 576 for a new model.",
    )
    streaming: bool = _option(False, "Read the rows while training, without downloading and preparing them first.")
    sentences_per_clip: int | None = _option(None, "Draw this many sentences per clip; null for all of them.")
    windows_per_clip: int | None = _option(
        None,
        "Windows of `model.config.num_frames` frames in a clip, of a model with `model.config.carry_state`: the state "
        "goes from each to the next, forward and backward in turn. null for 4, or 1 without that state.",
    )
    flip_probability: float = _option(
        0.5, "How often a clip is mirrored, together with the words left and right of its sentences."
    )

    clips_per_video: int = _option(1, "How many clips of each video an epoch shows.")
    sampling: Literal["consecutive", "sparse", "nearby"] = _option(
        "consecutive",
        "How the frames of a clip are drawn. consecutive: `frame_stride` apart, around an annotated frame. sparse: one "
        "frame, two close to it, and others from the whole video. nearby: one frame, and others at most `frame_reach` "
        "away.",
    )
    frame_stride: int = _option(1, "Frames from one frame of a `consecutive` clip to the next.")
    frame_reach: int = _option(10, "How many frames away the frames of a `nearby` clip may be.")
    train_shortest_edges: list[int] = _option(
        [], "Short sides, in pixels, of which each training batch has one by chance; empty for `shortest_edge` always."
    )
    train_longest_edge: int | None = _option(
        None, "The most pixels of the long side in training; null for `longest_edge`."
    )
    crop_probability: float = _option(
        0.0,
        "How often a part of the picture is cut out. It always shows a part of a referent of each sentence. No clip is "
        "cut where a sentence speaks of a place in the picture.",
    )
    color_probability: float = _option(
        0.0,
        "How often the brightness, contrast and saturation of a clip change. Its hue and the order of its channels "
        "change only where no sentence names a color.",
    )
    reverse_probability: float = _option(
        0.0, "How often a clip is shown backward; never where a sentence speaks of motion or order."
    )
    check: bool = _option(
        True,
        "Check every row of the training split before the first step. What was checked is not checked again.",
    )
    allow_urls: bool = _option(False, "Let rows name URLs of videos, which are fetched when they are read.")
    still_frames: int = _option(
        1, "A row of one frame, such as a photograph, becomes a clip of this many copies, each moved a little."
    )

    def __post_init__(self):
        if self.clips_per_video < 1:
            raise ValueError(f"`data.clips_per_video` must be at least 1, got {self.clips_per_video}")
        if self.windows_per_clip is not None and self.windows_per_clip < 1:
            raise ValueError(f"`data.windows_per_clip` must be at least 1, got {self.windows_per_clip}")
        if isinstance(self.dataset, dict) and min(self.dataset.values(), default=0) <= 0:
            raise ValueError(f"the weights in `data.dataset` must be above 0, got {self.dataset}")

    @property
    def datasets(self) -> list[str]:
        """The names of the data sets.

        Raises:
            ValueError: there is none.
        """
        if not self.dataset:
            raise ValueError("`data.dataset` is missing: the folder or Hub name of a data set of video sentences")
        return [self.dataset] if isinstance(self.dataset, str) else list(self.dataset)


@dataclass
class CVLSTrainingArguments(TrainingArguments):
    """transformers' `TrainingArguments` and what the training of a segmenter needs besides.

    Raises:
        ValueError: a value that cannot be, or a logger in `report_to` that is not installed.
    """

    remove_unused_columns: bool = _option(False, "Not used: the collator reads the columns of the rows by itself.")
    resume_from_checkpoint: bool | str | None = _option(
        None,
        "Go on from this checkpoint folder. `true` means the newest whole one in `output_dir`; if there is "
        "none, the training starts from the beginning.",
    )

    overwrite_output_dir: bool = _option(
        False, "Train into an `output_dir` that holds a training already; it is refused otherwise, unless resumed."
    )
    backbone_learning_rate: float | None = _option(
        None, "Learning rate of the vision backbone; null for `learning_rate`, which all other weights have."
    )
    text_encoder_learning_rate: float | None = _option(
        None, "Learning rate of the text encoder; null for `learning_rate`."
    )
    state_learning_rate: float | None = _option(
        None,
        "Learning rate of what carries a state from window to window (`model.config.carry_state`), which starts from "
        "zero; null for ten times `learning_rate`.",
    )
    freeze_backbone: bool = _option(False, "Keep the vision backbone as it is.")
    freeze_backbone_stages: int = _option(
        0, "Keep the stem and this many of the first stages of the backbone as they are, counted by its feature maps."
    )
    freeze_batch_norm: bool = _option(
        False, "Keep the statistics and the weights of batch norm as they are, as is usual for a pretrained backbone."
    )
    freeze_text_encoder: bool = _option(False, "Keep the text encoder as it is, without dropout.")
    lr_milestones: list[float] = _option(
        [],
        "Multiply the learning rates by `lr_milestone_factor` after these epochs, or after these steps where "
        "`max_steps` is given. Takes the place of `lr_scheduler_type`; `warmup_steps` stay.",
    )
    lr_milestone_factor: float = _option(0.1, "What the learning rates are multiplied by at each of `lr_milestones`.")
    ema_decay: float | None = _option(
        None,
        "Evaluate and save an exponential moving average of the weights, of which a step keeps this share, such as "
        "0.999; null for the weights themselves. Checkpoints hold both, and resuming goes on with both.",
    )

    lora_rank: int | None = _option(
        None,
        "Keep all weights of `model.checkpoint` but the small heads, and train matrices of this rank beside its linear "
        "layers (LoRA), such as 16; null trains the weights themselves. Needs the extra `peft`. The saved weights are "
        "merged ones, and the folder `adapter` beside them holds the adapter alone.",
    )
    lora_alpha: float | None = _option(
        None, "The output of the matrices is multiplied by `lora_alpha / lora_rank`; null for twice the rank."
    )
    lora_target_modules: str | None = _option(
        None,
        "A regular expression of the whole names of the layers that get matrices; null for all linear layers of the "
        "text encoder (unless it is frozen), of temporal attention and of the fusion.",
    )

    @classmethod
    def of(cls, args: TrainingArguments) -> "CVLSTrainingArguments":
        """The same arguments as this class, so that the `TrainingArguments` of other trainers serve too."""
        if isinstance(args, cls):
            return args
        values = {field.name: getattr(args, field.name) for field in fields(args) if field.init}
        return cls(**{**values, "remove_unused_columns": False})

    @property
    def is_sharded(self) -> bool:
        """Whether the processes share the weights, as these arguments or a configuration file of Accelerate say."""
        given = any(parse_flag_from_env(f"ACCELERATE_USE_{engine}") for engine in ("FSDP", "DEEPSPEED"))
        return bool(self.fsdp or self.deepspeed or given)

    def __post_init__(self):
        super().__post_init__()
        if self.freeze_backbone_stages < 0:
            raise ValueError(
                f"`training.freeze_backbone_stages` is a number of stages, got {self.freeze_backbone_stages}"
            )
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"`training.ema_decay` is a share between 0 and 1, got {self.ema_decay}")
        if self.lora_rank is not None:
            require("peft", "peft")
        for name in ("lora_rank", "lora_alpha"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"`training.{name}` is a number above 0, or null, got {value}")
        for name in ("ema_decay", "lora_rank"):
            if getattr(self, name) is not None and self.is_sharded:
                raise ValueError(
                    f"`training.{name}` works where each process holds all weights, not with fsdp or deepspeed"
                )
        if self.remove_unused_columns:
            raise ValueError("`training.remove_unused_columns` must be false: the collator reads all columns")
        for name in self.report_to:
            try:
                for callback in get_reporting_integration_callbacks([name]):
                    callback()
            except (ImportError, RuntimeError) as error:
                raise ValueError(
                    f"`training.report_to` names {name}, which cannot be used: {error} "
                    "Or set it to none or tensorboard."
                ) from error
