"""A page to try a segmenter: a clip and sentences in, the overlay, scores, masks and similarity maps out.

python scripts/demo.py --model outputs/demo/checkpoint

As a Space: a repository with this file as demo.py, the folder modeling_cvls, requirements.txt (the dependencies of
pyproject.toml, one a line), app.py of one line, `__import__("demo").main(["--model", "USER/NAME"])`, in which a folder
of the Space may stand too, and README.md, which begins with

---
title: CVLS
sdk: gradio
sdk_version: 6.31.0
app_file: app.py
---
"""

import argparse
import html
import io
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image
from transformers import pipeline

from modeling_cvls import CVLSPipeline, FrameReader
from modeling_cvls.explanation import explain, window_around
from modeling_cvls.synthetic import make_scene, render
from modeling_cvls.visualization import COLORS, VideoWriter, overlay, plt, write_video

MAX_SENTENCES = len(COLORS)
MAX_FPS = 30  # frames a second that are gone through: with the seconds, a bound on the work that a clip makes
MAX_PIXELS = 2560 * 1440  # of a frame; masks of all sentences are made at its size
MAP_SIZE = 640  # pixels, longest side of a similarity map
KEPT_FOR = 30  # minutes
QUEUE = 8  # visitors who may wait

INTRODUCTION = """# What do the words refer to?
Upload a clip or take an example, and describe objects in it, one sentence each: you get each object's mask in every
frame. Clips may last {seconds:g} s and have {megabytes:g} MB; they and what is made of them are deleted after {minutes}
minutes."""


@contextmanager
def told(path: str | None) -> Iterator[None]:
    """What is wrong with a visitor's clip or sentences becomes a message in the page, which names the clip, but not
    where the server keeps it."""
    try:
        yield
    except (OSError, ValueError) as error:
        text = str(error) if path is None else str(error).replace(path, Path(path).name)
        raise gr.Error(html.escape(text), print_exception=False) from error


def open_clip(path: str | None, max_seconds: float) -> FrameReader:
    """Raises ValueError or OSError for what is no clip, or too much of one."""
    if path is None:
        raise ValueError("There is no clip yet: upload one or choose an example.")
    if not Path(path).is_file():
        raise ValueError("The clip has been deleted by now: upload it again.")
    reader = FrameReader(path)
    if not (reader.fps and math.isfinite(reader.fps)):
        raise ValueError(f"{path} does not say how many frames a second it has.")
    if (seconds := len(reader) / reader.fps) > max_seconds:
        raise ValueError(f"{path} is too long: it lasts {seconds:.1f} s, and at most {max_seconds:g} s are taken here.")
    if reader.height * reader.width > MAX_PIXELS:
        raise ValueError(
            f"The frames of {path} are too large: {reader.width} x {reader.height} pixels, and at most as many as "
            "2560 x 1440 has are taken here."
        )
    return reader


def check_sentences(texts: list[str]) -> list[str]:
    """Raises ValueError for an empty one."""
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise ValueError(f"Sentence {number} is empty: say what to look for, or remove it.")
    return [text.strip() for text in texts]


def segment_clip(
    segmenter: CVLSPipeline, reader: FrameReader, sentences: list[str], folder: Path, progress: Callable, **thresholds
) -> tuple[str, str, str]:
    """Writes the overlay and the masks into `folder`.

    Returns:
        paths of the mp4 and of a zip file (N/FRAME.png, white where sentence number N refers to, and sentences.json),
        and a table of scores in HTML.
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
    table = "<tr><th></th><th>sentence</th><th>score</th><th>frames with a mask</th></tr>"
    for row, color in zip(found, COLORS, strict=False):
        table += f'<tr><td style="width: 1.5em; background: rgb{color}"></td><td>{html.escape(row["sentence"])}</td>'
        table += f"<td>{row['score']:.2f}</td><td>{row['frames_with_a_mask']} of {count}</td></tr>"
    return *map(str, paths), f'<table style="width: 100%">{table}</table>'


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
    colors = 255 * plt.get_cmap("RdBu_r")((similarity + 1) / 2)[..., :3]
    maps = (colors * (0.4 + 0.6 * frames[shown].mean(axis=-1, keepdims=True) / 255)).astype(np.uint8)
    return [(frames[shown], f"frame {frame}"), *zip(maps, sentences, strict=True)]


def write_examples(folder: Path) -> None:
    """Three synthetic scenes, as those that `make demo` trains on."""
    for index in range(3):
        scene, sentences = make_scene("test", index, size=256)
        write_video(folder / f"scene_{index + 1}.mp4", render(scene)[0], fps=8)
        (folder / f"scene_{index + 1}.txt").write_text("\n".join(sentence.text for sentence in sentences[:3]))


def read_examples(folder: Path) -> list[tuple[str, list[str]]]:
    """Paths of the videos NAME.mp4 that have sentences in NAME.txt, one a line, and these."""
    found = {path.with_suffix(".mp4").resolve(): path.read_text().splitlines() for path in sorted(folder.glob("*.txt"))}
    return [(str(path), list(filter(str.strip, lines))[:MAX_SENTENCES]) for path, lines in found.items()]


def build_page(segmenter: CVLSPipeline, examples: list[tuple[str, list[str]]], args: argparse.Namespace) -> gr.Blocks:
    with gr.Blocks(title="CVLS", analytics_enabled=False, delete_cache=(60, 60 * KEPT_FOR)) as page:
        limits = {"seconds": args.max_seconds, "megabytes": args.max_megabytes, "minutes": KEPT_FOR}
        gr.Markdown(INTRODUCTION.format(**limits))
        with gr.Row():
            with gr.Column():
                clip = gr.Video(label="Clip", sources=["upload"], height=300, elem_id="clip")
                count, rows, boxes, removers = gr.State(2), [], [], []
                for number in range(1, MAX_SENTENCES + 1):
                    with gr.Row(visible=number <= 2, equal_height=True) as row:
                        text = f"sentence {number}"
                        boxes.append(gr.Textbox(label=text, placeholder=text, container=False, scale=8, max_length=500))
                        removers.append(gr.Button("Remove", size="sm", min_width=80, elem_id=f"remove_{number}"))
                    rows.append(row)
                add = gr.Button("Add a sentence", size="sm", elem_id="add")
                with gr.Accordion("Thresholds", open=False):
                    threshold = gr.Slider(0, 1, 0.5, label="a pixel is in the mask above a probability of")
                    presence = gr.Slider(0, 1, 0.5, label="a frame has no mask below a score of")
                start = gr.Button("Segment", variant="primary", elem_id="segment")
                samples = [[path] for path, _ in examples]
                example = gr.Dataset(
                    components=["video"], samples=samples, type="index", label="Examples", elem_id="examples"
                )
            with gr.Column():
                drawn = gr.Video(
                    label="Overlay", interactive=False, autoplay=True, loop=True, height=420, elem_id="overlay"
                )
                table = gr.HTML(elem_id="scores")
                with gr.Row():
                    save_video = gr.DownloadButton("Download the video", interactive=False, elem_id="save_video")
                    save_masks = gr.DownloadButton("Download the masks", interactive=False, elem_id="save_masks")
        with gr.Row(equal_height=True):
            seconds = gr.Slider(0, args.max_seconds, 0, step=0.01, label="at this second", elem_id="second")
            look = gr.Button("Show the similarity maps", elem_id="look")
        maps = gr.Gallery(label="Similarity: red alike, blue unlike", columns=4, height="auto", elem_id="maps")

        def arranged(texts: list[str]) -> list:
            """What shows `texts`, and no other boxes."""
            texts = texts or [""]
            hidden = [""] * (MAX_SENTENCES - len(texts))
            return [len(texts), *texts, *hidden, *(gr.Row(visible=i < len(texts)) for i in range(MAX_SENTENCES))]

        def more(number: int, *texts: str) -> list:
            if number == MAX_SENTENCES:
                raise gr.Error(f"At most {MAX_SENTENCES} sentences at once.", print_exception=False)
            return arranged([*texts[:number], ""])

        def fewer(index: int, number: int, *texts: str) -> list:
            return arranged([*texts[:index], *texts[index + 1 : number]])

        def choose(index: int) -> list:
            path, sentences = examples[index]
            return [path, *arranged(sentences)]

        def checked(values: dict) -> tuple[FrameReader, list[str]]:
            sentences = check_sentences([values[box] for box in boxes[: values[count]]])
            return open_clip(values[clip], args.max_seconds), sentences

        def segment(values: dict, progress=gr.Progress()) -> dict:  # noqa: B008  gradio looks for this default
            with told(values[clip]):
                reader, sentences = checked(values)
                thresholds = {"threshold": values[threshold], "presence_threshold": values[presence]}
                folder = Path(tempfile.mkdtemp(dir=page.GRADIO_CACHE))  # where gradio deletes what is old
                try:
                    video, masks, scores = segment_clip(segmenter, reader, sentences, folder, progress, **thresholds)
                except BaseException:
                    shutil.rmtree(folder)
                    raise
            length = len(reader) / reader.fps
            return {
                drawn: video,
                table: scores,
                save_video: gr.DownloadButton(value=video, interactive=True),
                save_masks: gr.DownloadButton(value=masks, interactive=True),
                seconds: gr.Slider(maximum=round(length, 2), value=round(length / 2, 2)),
            }

        def show_maps(values: dict) -> list[tuple[np.ndarray, str]]:
            with told(values[clip]):
                return similarity_maps(segmenter, *checked(values), values[seconds])

        shown = [count, *boxes, *rows]
        add.click(more, [count, *boxes], shown, queue=False)
        for index, remover in enumerate(removers):
            remover.click(partial(fewer, index), [count, *boxes], shown, queue=False)
        example.click(choose, example, [clip, *shown], queue=False)
        # one clip goes through the model at a time, whichever button asked
        inputs, one = {clip, count, *boxes}, {"concurrency_id": "model", "concurrency_limit": 1}
        outputs = [drawn, table, save_video, save_masks, seconds]
        start.click(segment, {*inputs, threshold, presence}, outputs, show_progress_on=drawn, **one)
        look.click(show_maps, {*inputs, seconds}, maps, **one)
    return page.queue(max_size=QUEUE)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder (or Hub name) of a trained model")
    parser.add_argument(
        "--examples", type=Path, help="folder of videos NAME.mp4, with sentences in NAME.txt; default: synthetic scenes"
    )
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    parser.add_argument("--share", action="store_true", help="also make a public link")
    parser.add_argument("--max-seconds", type=float, default=60, help="of a clip; default 60")
    parser.add_argument("--max-megabytes", type=float, default=50, help="of a clip; default 50")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ...; by default an accelerator where there is one")
    args = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that the folder is deleted then too
    try:
        segmenter = pipeline("video-language-segmentation", model=args.model, device=args.device)
        with tempfile.TemporaryDirectory(prefix="cvls-page-") as folder:
            cache, examples = Path(folder, "cache"), args.examples or Path(folder, "examples")
            cache.mkdir()
            os.environ["GRADIO_TEMP_DIR"] = str(cache)  # of uploads and results
            if args.examples is None:
                write_examples(examples)
            gr.set_static_paths([examples])  # served from there, not from a copy that is deleted
            page = build_page(segmenter, read_examples(examples), args)
            limit = int(args.max_megabytes * 1e6)
            page.launch(server_port=args.port, share=args.share, max_file_size=limit, footer_links=[])
    except (OSError, ValueError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
