"""What the page makes of a clip and sentences: overlay, masks, table of scores, similarity maps."""

import html
import io
import json
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..explanation import explain, window_around
from ..pipeline_cvls import CVLSPipeline
from ..rle_cvls import decode_mask
from ..visualization import COLORS, VideoWriter, overlay
from .clips import OpenClip
from .decoding import DecodedClip

MAP_SIZE = 640  # pixels, longest side of a similarity map
#: ColorBrewer's RdBu at -1, -0.5, 0, 0.5 and 1: blue unlike, white neither, red alike.
SIMILARITY_COLORS = np.array([(5, 48, 97), (67, 147, 195), (247, 247, 247), (214, 96, 77), (103, 0, 31)])


@dataclass
class Results:
    """The files and numbers of one request.

    Attributes:
        video: an mp4 with the masks and a legend drawn in.
        masks: a zip file of N/FRAME.png, white where sentence number N refers to, and sentences.json.
        sentences: for each sentence "sentence", "score" (the largest presence probability of the frames),
            "frames_with_a_mask", "frames" and "missing_frames" (the numbers of those that cannot be decoded).
        seconds: how long each step took; without "decoding" and "encoding" where the clip was open already.
        duration: of the clip, in seconds.
        damage: a sentence that names the frames that cannot be decoded; None where there is none.
    """

    video: Path
    masks: Path
    sentences: list[dict]
    seconds: dict[str, float]
    duration: float
    damage: str | None


def segment_clip(opened: OpenClip, sentences: list[str], folder: Path, progress: Callable, **thresholds) -> Results:
    """Segments a clip and writes the overlay and the masks into `folder`.

    Args:
        progress: called with ((frames done, frames in all), desc=what is done, unit="frames").
        thresholds: as of the session.

    Raises:
        ValueError: a sentence is too long for the model.
    """
    clip, start = opened.clip, time.perf_counter()
    total, results = len(clip.frames), []
    # run lengths of all frames take little memory
    for result in opened.session.stream(sentences, passes=2, mask_format="rle", **thresholds):
        results.append(result)
        progress((len(results), total), desc="segmenting", unit="frames")
    found = {position: results[position] for position in clip.positions}
    scores = np.max([result["scores"] for result in found.values()], axis=0).round(4).tolist()
    segmented = time.perf_counter()
    video, archive = folder / "overlay.mp4", folder / "masks.zip"
    with _open_writer(video, clip) as writer, zipfile.ZipFile(archive, "w") as file:
        counts, begin = np.zeros(len(sentences), int), clip.times[clip.positions[0]]
        for done, (position, result) in enumerate(found.items()):
            progress((done, len(found)), desc="drawing", unit="frames")
            masks = np.stack([decode_mask(mask["counts"], *mask["size"]) for mask in result["masks"]])
            picture = overlay(clip.frames[position][None], masks[:, None], sentences, scores)[0]
            writer.write(picture, clip.times[position] - begin)
            for number, mask in enumerate(masks, start=1):
                png = io.BytesIO()
                Image.fromarray(mask).save(png, "png")
                file.writestr(f"{number}/{clip.frame_indices[position]:05d}.png", png.getvalue())
            counts += masks.any((1, 2))
        of_all = {"frames": len(found), "missing_frames": clip.missing_frames}
        table = [
            {"sentence": sentence, "score": score, "frames_with_a_mask": int(count), **of_all}
            for sentence, score, count in zip(sentences, scores, counts, strict=True)
        ]
        file.writestr("sentences.json", json.dumps(table, indent=2))
    seconds = {"sentences and masks": segmented - start, "drawing": time.perf_counter() - segmented}
    return Results(video, archive, table, opened.seconds | seconds, clip.duration, clip.damage)


def _open_writer(path: Path, clip: DecodedClip) -> VideoWriter:
    """Of the overlay: it begins with the first frame that is there, ends with the clip, and has its sound."""
    length = clip.duration - clip.times[clip.positions[0]]
    return VideoWriter(path, clip.fps, clip.sample_aspect_ratio, length, clip.sound())


def score_table(results: Results) -> str:
    """The table of scores, the frames that are missing, and the time that each step took, in HTML."""
    table = "<tr><th></th><th>sentence</th><th>score</th><th>frames with a mask</th></tr>"
    for row, color in zip(results.sentences, COLORS, strict=False):
        table += f'<tr><td style="width: 1.5em; background: rgb{color}"></td><td>{html.escape(row["sentence"])}</td>'
        table += f"<td>{row['score']:.2f}</td><td>{row['frames_with_a_mask']} of {row['frames']}</td></tr>"
    times = ", ".join(f"{step} {seconds:.2f} s" for step, seconds in results.seconds.items())
    if "encoding" not in results.seconds:
        times = f"the clip was encoded before, {times}"
    damage = "" if results.damage is None else f'<p id="damage">{html.escape(results.damage)}.</p>'
    return f'<table style="width: 100%">{table}</table>{damage}<p id="times">Time: {times}.</p>'


def similarity_maps(
    segmenter: CVLSPipeline, clip: DecodedClip, sentences: list[str], seconds: float
) -> list[tuple[np.ndarray, str]]:
    """The frame at `seconds`, and each sentence's similarity laid over it, with captions.

    Raises:
        ValueError: the model was trained without the contrast.
    """
    model = segmenter.model
    if model.config.contrast_weight == 0:
        raise ValueError("This model was trained without the contrast: it has no similarity map.")
    place = clip.position_at(seconds)
    window = window_around(place, len(clip.frames), model.config.num_frames)
    pictures = [Image.fromarray(picture) for picture in clip.frames[window]]
    for picture in pictures:
        picture.thumbnail((MAP_SIZE, MAP_SIZE))
    frames, shown = np.stack(pictures), window.index(place)
    similarity = explain(model, segmenter.processor, frames, sentences).similarity[:, shown]
    places = np.linspace(-1, 1, len(SIMILARITY_COLORS))
    colors = np.stack([np.interp(similarity, places, channel) for channel in SIMILARITY_COLORS.T], axis=-1)
    maps = (colors * (0.4 + 0.6 * frames[shown].mean(axis=-1, keepdims=True) / 255)).astype(np.uint8)
    return [(frames[shown], f"frame {clip.frame_indices[place]}"), *zip(maps, sentences, strict=True)]
