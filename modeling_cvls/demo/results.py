"""What the page makes of a clip and sentences: overlay, masks, table of scores, similarity maps."""

import html
import io
import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ..explanation import explain, window_around
from ..frame_reader_cvls import FrameReader
from ..pipeline_cvls import CVLSPipeline
from ..visualization import COLORS, VideoWriter, overlay
from .clips import MAX_FPS

MAP_SIZE = 640  # pixels, longest side of a similarity map
#: ColorBrewer's RdBu at -1, -0.5, 0, 0.5 and 1: blue unlike, white neither, red alike.
SIMILARITY_COLORS = np.array([(5, 48, 97), (67, 147, 195), (247, 247, 247), (214, 96, 77), (103, 0, 31)])


def segment_clip(
    segmenter: CVLSPipeline, reader: FrameReader, sentences: list[str], folder: Path, progress: Callable, **thresholds
) -> tuple[str, str, str]:
    """Writes the overlay and the masks into `folder`.

    Returns:
        The paths of the mp4 and of a zip file (N/FRAME.png, white where sentence number N refers to, and
        sentences.json), and a table of scores in HTML.
    """
    fps = min(reader.fps, MAX_FPS)
    total = math.ceil(len(reader) * fps / reader.fps)
    results = segmenter.stream(reader, sentences, fps=fps, return_frames=True, **thresholds)
    paths = folder / "overlay.mp4", folder / "masks.zip"
    scores, shares, count = np.zeros(len(sentences)), np.zeros(len(sentences)), 0
    with VideoWriter(paths[0], fps) as video, zipfile.ZipFile(paths[1], "w") as archive:
        for result in results:
            masks = result["masks"]
            video.write(overlay(result["frame"][None], masks[:, None], sentences, result["scores"])[0])
            for number, mask in enumerate(masks, start=1):
                png = io.BytesIO()
                Image.fromarray(mask).save(png, "png")
                archive.writestr(f"{number}/{result['frame_index']:05d}.png", png.getvalue())
            scores, shares, count = np.maximum(scores, result["scores"]), shares + masks.any((1, 2)), count + 1
            progress((count, total), unit="frames")
        found = [
            {"sentence": sentence, "score": round(float(score), 4), "frames_with_a_mask": int(share), "frames": count}
            for sentence, score, share in zip(sentences, scores, shares, strict=True)
        ]
        archive.writestr("sentences.json", json.dumps(found, indent=2))
    return str(paths[0]), str(paths[1]), score_table(found)


def score_table(found: list[dict]) -> str:
    table = "<tr><th></th><th>sentence</th><th>score</th><th>frames with a mask</th></tr>"
    for row, color in zip(found, COLORS, strict=False):
        table += f'<tr><td style="width: 1.5em; background: rgb{color}"></td><td>{html.escape(row["sentence"])}</td>'
        table += f"<td>{row['score']:.2f}</td><td>{row['frames_with_a_mask']} of {row['frames']}</td></tr>"
    return f'<table style="width: 100%">{table}</table>'


def similarity_maps(
    segmenter: CVLSPipeline, reader: FrameReader, sentences: list[str], seconds: float
) -> list[tuple[np.ndarray, str]]:
    """The frame at `seconds`, and each sentence's similarity laid over it, with captions."""
    model = segmenter.model
    if model.config.contrast_weight == 0:
        raise ValueError("This model was trained without the contrast: it has no similarity map.")
    frame = min(int(seconds * reader.fps), len(reader) - 1)
    window = window_around(frame, len(reader), model.config.num_frames)
    pictures = [Image.fromarray(picture) for picture in reader.read(window)]
    for picture in pictures:
        picture.thumbnail((MAP_SIZE, MAP_SIZE))
    frames, shown = np.stack(pictures), window.index(frame)
    similarity = explain(model, segmenter.processor, frames, sentences).similarity[:, shown]
    places = np.linspace(-1, 1, len(SIMILARITY_COLORS))
    colors = np.stack([np.interp(similarity, places, channel) for channel in SIMILARITY_COLORS.T], axis=-1)
    maps = (colors * (0.4 + 0.6 * frames[shown].mean(axis=-1, keepdims=True) / 255)).astype(np.uint8)
    return [(frames[shown], f"frame {frame}"), *zip(maps, sentences, strict=True)]
