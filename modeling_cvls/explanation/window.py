"""What a model makes of one window of a video, with everything that leads to its masks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..modeling_cvls import CVLSModel
from ..processing_cvls import CVLSProcessor


@dataclass
class Explanation:
    """What a model makes of K sentences in one window of T frames.

    Args:
        masks: bool (K, T, H, W), at the frames' own size; empty where the presence is below its threshold.
        presence: float (K,), the probability that the window contains a referent.
        similarity: float (K, T, H, W) in [-1, 1], of each pixel to the sentence; None for a model without contrast.
        channels: bool (K, D), which channels the filter leaves to the contrast of each sentence, as it stands out from
            the others of these K; None for a model without contrast or without filter.
    """

    masks: np.ndarray
    presence: np.ndarray
    similarity: np.ndarray | None
    channels: np.ndarray | None


def window_around(frame: int, num_frames: int, length: int) -> list[int]:
    """The `length` consecutive frames of a video (all, if it has fewer) in whose middle `frame` is, or nearly."""
    if not 0 <= frame < num_frames:
        raise ValueError(f"there is no frame {frame}: the video's frames are 0 to {num_frames - 1}")
    length = min(length, num_frames)
    start = min(max(0, frame - length // 2), num_frames - length)
    return list(range(start, start + length))


@torch.no_grad()
def explain(
    model: CVLSModel,
    processor: CVLSProcessor,
    frames: np.ndarray,
    sentences: Sequence[str],
    threshold: float = 0.5,
    presence_threshold: float = 0.5,
) -> Explanation:
    """Runs a model on one window and keeps what leads to its masks.

    Args:
        model: in evaluation mode.
        processor: its processor.
        frames: uint8 (T, H, W, 3), RGB.
        sentences: K sentences.
        threshold, presence_threshold: as for `CVLSProcessor.post_process_masks`.
    """
    inputs = processor(videos=frames, text=list(sentences)).to(model.device)
    outputs = model(**inputs)
    channels = None
    if model.config.contrast_weight > 0 and model.config.alignment_weight > 0:
        text = model.get_text_features(inputs["input_ids"], inputs["attention_mask"], return_dict=True)
        _, channels = model.alignment.filter(text.pooler_output, inputs["sentence_mask"])
    size = frames.shape[1:3]
    (result,) = processor.post_process_masks(outputs, inputs["frame_sizes"], [size], threshold, presence_threshold)
    similarity = outputs.similarity
    if similarity is not None:  # on the masks' way to the size of the frames
        similarity = F.interpolate(similarity[0].float(), scale_factor=4, mode="bilinear")
        similarity = F.interpolate(similarity, size, mode="bilinear").cpu().numpy()
    return Explanation(
        masks=result["masks"].cpu().numpy(),
        presence=result["scores"].cpu().numpy(),
        similarity=similarity,
        channels=None if channels is None else channels[0].cpu().numpy() > 0,
    )
