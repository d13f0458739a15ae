"""The page's components and what happens when a visitor uses them."""

import shutil
import tempfile
from functools import partial
from pathlib import Path

import gradio as gr
import numpy as np

from ..frame_reader_cvls import FrameReader
from ..pipeline_cvls import CVLSPipeline
from ..visualization import COLORS
from .clips import open_clip, told
from .results import segment_clip, similarity_maps

MAX_SENTENCES = len(COLORS)
KEPT_FOR = 30  # minutes
QUEUE = 8  # visitors who may wait

INTRODUCTION = """# What do the words refer to?
Upload a clip or take an example, and describe objects in it, one sentence each: you get each object's mask in every
frame. Clips may last {seconds:g} s and have {megabytes:g} MB; they and what is made of them are deleted after {minutes}
minutes."""


def check_sentences(texts: list[str]) -> list[str]:
    """Raises ValueError for an empty one."""
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise ValueError(f"Sentence {number} is empty: say what to look for, or remove it.")
    return [text.strip() for text in texts]


class Page:
    """A gradio page over a segmenter.

    Args:
        segmenter: the pipeline with the model.
        examples: (path of a video, its sentences) to offer.
        max_seconds: how long a clip may last.
        max_megabytes: how large a clip may be; the page says it, and `Blocks.launch(max_file_size)` enforces it.

    Attributes:
        blocks: the page, ready to launch.
    """

    def __init__(
        self,
        segmenter: CVLSPipeline,
        examples: list[tuple[str, list[str]]],
        max_seconds: float,
        max_megabytes: float,
    ):
        self.segmenter, self.examples, self.max_seconds = segmenter, examples, max_seconds
        with gr.Blocks(title="CVLS", analytics_enabled=False, delete_cache=(60, 60 * KEPT_FOR)) as self.blocks:
            limits = {"seconds": max_seconds, "megabytes": max_megabytes, "minutes": KEPT_FOR}
            gr.Markdown(INTRODUCTION.format(**limits))
            with gr.Row():
                with gr.Column():
                    self._lay_out_inputs()
                with gr.Column():
                    self._lay_out_results()
            with gr.Row(equal_height=True):
                self.seconds = gr.Slider(0, max_seconds, 0, step=0.01, label="at this second", elem_id="second")
                self.look = gr.Button("Show the similarity maps", elem_id="look")
            label = "Similarity: red alike, blue unlike"
            self.maps = gr.Gallery(label=label, columns=4, height="auto", elem_id="maps")
            self._connect()
        self.blocks.queue(max_size=QUEUE)

    def _lay_out_inputs(self) -> None:
        self.clip = gr.Video(label="Clip", sources=["upload"], height=300, elem_id="clip")
        self.count, self.rows, self.boxes, self.removers = gr.State(2), [], [], []
        for number in range(1, MAX_SENTENCES + 1):
            with gr.Row(visible=number <= 2, equal_height=True) as row:
                text = f"sentence {number}"
                box = gr.Textbox(label=text, placeholder=text, container=False, scale=8, max_length=500)
                remover = gr.Button("Remove", size="sm", min_width=80, elem_id=f"remove_{number}")
            self.boxes.append(box)
            self.removers.append(remover)
            self.rows.append(row)
        self.add = gr.Button("Add a sentence", size="sm", elem_id="add")
        with gr.Accordion("Thresholds", open=False):
            self.threshold = gr.Slider(0, 1, 0.5, label="a pixel is in the mask above a probability of")
            self.presence = gr.Slider(0, 1, 0.5, label="a frame has no mask below a score of")
        self.start = gr.Button("Segment", variant="primary", elem_id="segment")
        samples = [[path] for path, _ in self.examples]
        self.example = gr.Dataset(
            components=["video"], samples=samples, type="index", label="Examples", elem_id="examples"
        )

    def _lay_out_results(self) -> None:
        self.drawn = gr.Video(
            label="Overlay", interactive=False, autoplay=True, loop=True, height=420, elem_id="overlay"
        )
        self.table = gr.HTML(elem_id="scores")
        with gr.Row():
            self.save_video = gr.DownloadButton("Download the video", interactive=False, elem_id="save_video")
            self.save_masks = gr.DownloadButton("Download the masks", interactive=False, elem_id="save_masks")

    def _connect(self) -> None:
        shown = [self.count, *self.boxes, *self.rows]
        self.add.click(self._more, [self.count, *self.boxes], shown, queue=False)
        for index, remover in enumerate(self.removers):
            remover.click(partial(self._fewer, index), [self.count, *self.boxes], shown, queue=False)
        self.example.click(self._choose, self.example, [self.clip, *shown], queue=False)
        # one clip goes through the model at a time, whichever button asked
        inputs, one = {self.clip, self.count, *self.boxes}, {"concurrency_id": "model", "concurrency_limit": 1}
        outputs = [self.drawn, self.table, self.save_video, self.save_masks, self.seconds]
        thresholds = {self.threshold, self.presence}
        self.start.click(self._segment, inputs | thresholds, outputs, show_progress_on=self.drawn, **one)
        self.look.click(self._show_maps, inputs | {self.seconds}, self.maps, **one)

    def _arranged(self, texts: list[str]) -> list:
        """What shows `texts`, and no other boxes."""
        texts = texts or [""]
        hidden = [""] * (MAX_SENTENCES - len(texts))
        return [len(texts), *texts, *hidden, *(gr.Row(visible=i < len(texts)) for i in range(MAX_SENTENCES))]

    def _more(self, number: int, *texts: str) -> list:
        if number == MAX_SENTENCES:
            raise gr.Error(f"At most {MAX_SENTENCES} sentences at once.", print_exception=False)
        return self._arranged([*texts[:number], ""])

    def _fewer(self, index: int, number: int, *texts: str) -> list:
        return self._arranged([*texts[:index], *texts[index + 1 : number]])

    def _choose(self, index: int) -> list:
        path, sentences = self.examples[index]
        return [path, *self._arranged(sentences)]

    def _checked(self, values: dict) -> tuple[FrameReader, list[str]]:
        sentences = check_sentences([values[box] for box in self.boxes[: values[self.count]]])
        return open_clip(values[self.clip], self.max_seconds), sentences

    def _segment(self, values: dict, progress=gr.Progress()) -> dict:  # noqa: B008  gradio looks for this default
        with told(values[self.clip]):
            reader, sentences = self._checked(values)
            thresholds = {"threshold": values[self.threshold], "presence_threshold": values[self.presence]}
            folder = Path(tempfile.mkdtemp(dir=self.blocks.GRADIO_CACHE))  # where gradio deletes what is old
            try:
                video, masks, scores = segment_clip(self.segmenter, reader, sentences, folder, progress, **thresholds)
            except BaseException:
                shutil.rmtree(folder)
                raise
        length = len(reader) / reader.fps
        return {
            self.drawn: video,
            self.table: scores,
            self.save_video: gr.DownloadButton(value=video, interactive=True),
            self.save_masks: gr.DownloadButton(value=masks, interactive=True),
            self.seconds: gr.Slider(maximum=round(length, 2), value=round(length / 2, 2)),
        }

    def _show_maps(self, values: dict) -> list[tuple[np.ndarray, str]]:
        with told(values[self.clip]):
            return similarity_maps(self.segmenter, *self._checked(values), values[self.seconds])
