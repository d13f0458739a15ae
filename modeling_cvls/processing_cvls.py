"""Clips and sentences to model input, model output to masks."""

from typing import Any

import torch
import torch.nn.functional as F
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, Unpack
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.video_processing_utils import BaseVideoProcessor

from .configuration_cvls import CVLSConfig
from .session_mixins_cvls import SessionProcessorMixin
from .video_processing_cvls import CVLSVideoProcessorKwargs


class CVLSProcessorKwargs(ProcessingKwargs, total=False):
    """Keyword arguments of the processor: those of the tokenizer and of the video processor."""

    videos_kwargs: CVLSVideoProcessorKwargs
    _defaults = {}  # older versions of the library read it


class CVLSProcessor(ProcessorMixin, SessionProcessorMixin):
    """Prepares clips with their sentences for the model and turns its output back into masks.

    Args:
        video_processor: a `CVLSVideoProcessor`.
        tokenizer: the tokenizer of the text encoder; its `model_max_length` bounds a sentence.
    """

    valid_processor_kwargs = CVLSProcessorKwargs

    def __init__(self, video_processor: BaseVideoProcessor, tokenizer: PreTrainedTokenizerBase):
        super().__init__(video_processor=video_processor, tokenizer=tokenizer)

    def check_argument_for_proper_class(self, argument_name: str, argument: object) -> type:
        # The inherited check looks the base class up among the library's exports, where the one of video processors is
        # missing unless torchvision is installed.
        proper_class = {"video_processor": BaseVideoProcessor, "tokenizer": PreTrainedTokenizerBase}[argument_name]
        if not isinstance(argument, proper_class):
            raise TypeError(
                f"{argument_name} must be a {proper_class.__name__}, not a {type(argument).__name__}; "
                "the order is CVLSProcessor(video_processor, tokenizer)"
            )
        return proper_class

    def limit_sentences(self, config: CVLSConfig) -> None:
        """Makes the text encoder's limit the tokenizer's too, where it is the smaller one."""
        if config.max_sentence_length is not None:
            self.tokenizer.model_max_length = min(self.tokenizer.model_max_length, config.max_sentence_length)

    @property
    def model_input_names(self) -> list[str]:
        return [*self.video_processor.model_input_names, "input_ids", "attention_mask", "sentence_mask"]

    def __call__(
        self,
        videos: Any = None,
        text: list[str] | list[list[str]] | str | None = None,
        **kwargs: Unpack[CVLSProcessorKwargs],
    ) -> BatchFeature:
        """Makes the arguments of the model's `forward`.

        Args:
            videos: one clip, uint8 RGB (T, H, W, 3), or a list of B clips; what else a clip may be stands at
                `CVLSVideoProcessor.preprocess`. None: sentences alone.
            text: the K sentences of one clip (a string is one sentence), or a list of B lists of sentences, whose
                lengths may differ. None: clips alone.
            kwargs: arguments of the video processor and of the tokenizer, in place of their own values, also as
                dictionaries `videos_kwargs`, `text_kwargs` and `common_kwargs`. `padding="max_length"` pads each
                sentence to `max_length` tokens; `truncation=True` cuts longer ones, which are an error otherwise.

        Returns:
            pixel_values_videos (B, T, 3, H, W) float32, frame_mask (B, T) bool and frame_sizes (B, 2) int64 for
            `videos`; input_ids and attention_mask (B, K, L) int64 and sentence_mask (B, K) bool (false: padding
            sentence, its tokens all padding) for `text`. Tensors, unless `return_tensors` says otherwise.

        Raises:
            ValueError: a clip is not uint8 RGB; a sentence is empty or has more tokens than the tokenizer's
                `model_max_length` or `max_length`; the numbers of clips and of lists of sentences differ.
        """
        if videos is None and text is None:
            raise ValueError("neither videos nor text was given: at least one of them is needed")
        merged = self._merge_kwargs(CVLSProcessorKwargs, self.tokenizer.init_kwargs, **kwargs)
        return_tensors = merged["text_kwargs"].pop("return_tensors", None) or "pt"
        data = {}
        if videos is not None:
            data.update(self.video_processor(videos, **{**merged["videos_kwargs"], "return_tensors": "pt"}))
        if text is not None:
            batch = self._batch_of_sentences(text)
            if videos is not None and len(batch) != len(data["frame_sizes"]):
                raise ValueError(
                    f"{len(data['frame_sizes'])} videos but {len(batch)} lists of sentences were given: text must hold "
                    "one list of sentences for each video"
                )
            data.update(self._encode(batch, **merged["text_kwargs"]))
        return BatchFeature(data, tensor_type=return_tensors)

    @staticmethod
    def _batch_of_sentences(text: list[str] | list[list[str]] | str) -> list[list[str]]:
        if isinstance(text, str):
            text = [text]
        if all(isinstance(sentence, str) for sentence in text):
            text = [text]
        for clip, sentences in enumerate(text):
            if isinstance(sentences, str) or not all(isinstance(sentence, str) for sentence in sentences):
                raise ValueError(
                    "text must be a list of sentences (for one video) or a list of lists of sentences (one per video); "
                    f"entry {clip} is {sentences!r}"
                )
            if len(sentences) == 0:
                raise ValueError(f"video {clip} has no sentence: at least one was expected")
            for index, sentence in enumerate(sentences):
                if not sentence.strip():
                    raise ValueError(
                        f"sentence {index} of video {clip} is empty ({sentence!r}): words that describe an object of "
                        "the video were expected"
                    )
        return [list(sentences) for sentences in text]

    def _encode(
        self,
        batch: list[list[str]],
        padding: bool | str = True,
        truncation: bool | str = False,
        max_length: int | None = None,
        **tokenizer_kwargs: Any,
    ) -> dict[str, torch.Tensor]:
        flat = [sentence for sentences in batch for sentence in sentences]
        longest = max_length or self.tokenizer.model_max_length
        cut = {"truncation": truncation, "max_length": longest} if truncation else {}
        tokenizer_kwargs = {**tokenizer_kwargs, "padding": False, "verbose": False, **cut}
        token_ids = self.tokenizer(flat, **tokenizer_kwargs)["input_ids"]
        for sentence, ids in zip(flat, token_ids, strict=True):
            if len(ids) > longest:
                beginning = sentence if len(sentence) <= 60 else sentence[:60] + "..."
                raise ValueError(
                    f'the sentence "{beginning}" has {len(ids)} tokens, special tokens included; the text encoder '
                    f"takes at most {longest}: shorten it (a call of the processor cuts it off with `truncation=True`)"
                )

        length = longest if padding == "max_length" else max(len(ids) for ids in token_ids)
        shape = len(batch), max(len(sentences) for sentences in batch), length
        input_ids = torch.full(shape, self.tokenizer.pad_token_id or 0, dtype=torch.int64)
        attention_mask = torch.zeros(shape, dtype=torch.int64)
        remaining = iter(token_ids)
        for clip, sentences in enumerate(batch):
            for index in range(len(sentences)):
                ids = next(remaining)
                input_ids[clip, index, : len(ids)] = torch.tensor(ids)
                attention_mask[clip, index, : len(ids)] = 1
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "sentence_mask": attention_mask.any(-1),
        }

    def post_process_masks(
        self,
        outputs,
        frame_sizes: torch.Tensor,
        target_sizes: torch.Tensor | list[tuple[int, int]],
        threshold: float = 0.5,
        presence_threshold: float = 0.5,
    ) -> list[dict[str, torch.Tensor]]:
        """Turns the model's output into masks at the videos' own sizes.

        Logits are brought to the padded input size, cropped to what the clip fills and brought to the target size
        (bilinear both times) before the threshold, so that outlines lie where the pixels are.

        Args:
            outputs: the model's output: mask_logits (B, K, T, ceil(H / 4), ceil(W / 4)) and presence_logits (B, K),
                where (H, W) is the padded size of the batch. presence_logits (B, K, T): of each frame by itself.
            frame_sizes: (B, 2), as the processor returned it.
            target_sizes: (B, 2), height and width of the masks to make, the videos' own as a rule.
            threshold: a pixel belongs to the mask where its probability exceeds it.
            presence_threshold: a sentence whose presence probability is below it gets empty masks, in all frames or,
                where each frame has its own, in those frames.

        Returns:
            One dict per video, padding sentences and frames included: "scores" (K,) float, presence probabilities, or
            (K, T); "masks" (K, T, height, width) bool; "frame_scores" (K, T) float, presence probability times the mean
            probability inside the frame's mask, 0 where the mask is empty.
        """
        frame_sizes = [tuple(map(int, size)) for size in frame_sizes]
        target_sizes = [tuple(map(int, size)) for size in target_sizes]
        if not len(outputs.mask_logits) == len(frame_sizes) == len(target_sizes):
            raise ValueError(
                f"outputs hold {len(outputs.mask_logits)} videos, frame_sizes {len(frame_sizes)} and target_sizes "
                f"{len(target_sizes)}: all three must agree"
            )
        # Padded sizes are multiples of the size divisor, hence of the stride of 4.
        padded_size = tuple(4 * side for side in outputs.mask_logits.shape[-2:])
        results = []
        for mask_logits, presence_logits, frame_size, target_size in zip(
            outputs.mask_logits, outputs.presence_logits, frame_sizes, target_sizes, strict=True
        ):
            scores = presence_logits.float().sigmoid()
            presence = scores.reshape(len(scores), -1).expand(mask_logits.shape[:2])
            present = presence >= presence_threshold
            masks = torch.zeros(*mask_logits.shape[:2], *target_size, dtype=torch.bool, device=mask_logits.device)
            frame_scores = torch.zeros(mask_logits.shape[:2], device=mask_logits.device)
            for sentence in torch.nonzero(present.any(dim=1)).flatten().tolist():
                # One sentence at a time: probabilities at the size of the video are the largest tensor of all.
                frames = present[sentence]
                logits = mask_logits[sentence, frames].float()[:, None]
                logits = F.interpolate(logits, padded_size, mode="bilinear", align_corners=False)
                logits = logits[..., : frame_size[0], : frame_size[1]]
                probabilities = F.interpolate(logits, target_size, mode="bilinear", align_corners=False)[:, 0].sigmoid()
                found = probabilities > threshold
                masks[sentence, frames] = found
                mean = (probabilities * found).sum((1, 2)) / found.sum((1, 2)).clamp(min=1)
                frame_scores[sentence, frames] = presence[sentence, frames] * mean
            results.append({"scores": scores, "masks": masks, "frame_scores": frame_scores})
        return results


CVLSProcessor.register_for_auto_class()

__all__ = ["CVLSProcessor", "CVLSProcessorKwargs"]
