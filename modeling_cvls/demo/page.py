"""The page's components and what happens when a visitor uses them."""

import html
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import gradio as gr
import numpy as np

from ..pipeline_cvls import CVLSPipeline
from ..visualization import COLORS
from .clips import Clips
from .results import Results, score_table, segment_clip, similarity_maps

MAX_SENTENCES = len(COLORS)
MAX_CHARACTERS = 500  # of a sentence
QUEUE = 8  # visitors who may wait
#: One clip goes through the model at a time, whichever button asked.
ONE_AT_A_TIME = {"concurrency_id": "model", "concurrency_limit": 1}

INTRODUCTION = """# What do the words refer to?
Upload a clip or take an example, and describe objects in it, one sentence each: you get each object's mask in every
frame. Clips may last {seconds:g} s and have {megabytes:g} MB. They and what is made of them are deleted after
{minutes:g} minutes.

{model}"""


@dataclass(frozen=True)
class PageText:
    """What the introduction says.

    Attributes:
        seconds, megabytes: how long and how large a clip may be.
        minutes: how long files are kept.
        model: what the model is and what it was trained on, in Markdown.
    """

    seconds: float
    megabytes: float
    minutes: float
    model: str


def without_folder(error: Exception, path: str | None) -> str:
    """The message of an error, which names the clip, but not the folder in which the server keeps it."""
    return html.escape(str(error) if path is None else str(error).replace(path, Path(path).name))


def check_sentences(texts: object) -> list[str]:
    """The sentences without those that are empty.

    Raises:
        ValueError: there is none, or there are too many, or one is too long.
    """
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("The sentences must be a list of texts.")
    sentences = [text.strip() for text in texts if text.strip()]
    if not sentences:
        raise ValueError("There is no sentence yet: describe an object in the clip.")
    if len(sentences) > MAX_SENTENCES:
        raise ValueError(f"There are {len(sentences)} sentences, and at most {MAX_SENTENCES} are taken at once.")
    if max(map(len, sentences)) > MAX_CHARACTERS:
        raise ValueError(f"A sentence has more than {MAX_CHARACTERS} characters.")
    return sentences


class Page:
    """A gradio page over a segmenter.

    Args:
        segmenter: the pipeline with the model.
        clips: opens the clips of visitors.
        examples: (path of a video, its sentences) to offer.
        text: what the introduction says.

    Attributes:
        blocks: the page, ready to launch.
    """

    def __init__(self, segmenter: CVLSPipeline, clips: Clips, examples: list[tuple[str, list[str]]], text: PageText):
        self.segmenter, self.clips, self.examples = segmenter, clips, examples
        with gr.Blocks(title="CVLS", analytics_enabled=False) as self.blocks:
            gr.Markdown(INTRODUCTION.format(**asdict(text)))
            with gr.Row():
                with gr.Column():
                    self._lay_out_inputs()
                with gr.Column():
                    self._lay_out_results()
            with gr.Row(equal_height=True):
                self.seconds = gr.Slider(0, text.seconds, 0, step=0.01, label="at this second", elem_id="second")
                self.look = gr.Button("Show the similarity maps", elem_id="look")
            label = "Similarity: red alike, blue unlike"
            self.maps = gr.Gallery(label=label, columns=4, height="auto", elem_id="maps")
            self._connect()
            self._lay_out_api()
        self.blocks.queue(max_size=QUEUE)

    def _lay_out_inputs(self) -> None:
        self.clip = gr.Video(label="Clip", sources=["upload"], height=300, elem_id="clip")
        self.count, self.rows, self.boxes, self.removers = gr.State(2), [], [], []
        for number in range(1, MAX_SENTENCES + 1):
            with gr.Row(visible=number <= 2, equal_height=True) as row:
                text = f"sentence {number}"
                box = gr.Textbox(label=text, placeholder=text, container=False, scale=8, max_length=MAX_CHARACTERS)
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
        shown, private = [self.count, *self.boxes, *self.rows], {"api_visibility": "private"}
        self.add.click(self._more, [self.count, *self.boxes], shown, queue=False, **private)
        for index, remover in enumerate(self.removers):
            fewer = partial(self._fewer, index)
            remover.click(fewer, [self.count, *self.boxes], shown, queue=False, **private)
        self.example.click(self._choose, self.example, [self.clip, *shown], queue=False, **private)
        inputs = {self.clip, self.count, *self.boxes}
        outputs = [self.drawn, self.table, self.save_video, self.save_masks, self.seconds]
        thresholds = {self.threshold, self.presence}
        self.start.click(
            self._segment, inputs | thresholds, outputs, show_progress_on=self.drawn, **private, **ONE_AT_A_TIME
        )
        self.look.click(self._show_maps, inputs | {self.seconds}, self.maps, **private, **ONE_AT_A_TIME)

    def _lay_out_api(self) -> None:
        """The one public endpoint, `/segment`: a clip, a list of sentences and two thresholds -> the paths of the
        overlay and of the masks, and the scores."""
        with gr.Row(visible=False):
            clip, sentences = gr.Video(label="clip"), gr.JSON(label="sentences")
            threshold, presence = gr.Number(0.5, label="threshold"), gr.Number(0.5, label="presence_threshold")
            video, masks, scores = gr.File(label="overlay"), gr.File(label="masks"), gr.JSON(label="scores")
            button = gr.Button()
        inputs, outputs = [clip, sentences, threshold, presence], [video, masks, scores]
        button.click(self._segment_for_api, inputs, outputs, api_name="segment", **ONE_AT_A_TIME)

    def _arranged(self, texts: list[str]) -> list:
        """What shows `texts`, and no other boxes."""
        texts = texts or [""]
        hidden = [""] * (MAX_SENTENCES - len(texts))
        return [len(texts), *texts, *hidden, *(gr.Row(visible=i < len(texts)) for i in range(MAX_SENTENCES))]

    def _more(self, number: int, *texts: str) -> list:
        if number == MAX_SENTENCES:
            gr.Warning(f"At most {MAX_SENTENCES} sentences are taken at once.", title="This did not work")
            return [gr.skip()] * (1 + 2 * MAX_SENTENCES)
        return self._arranged([*texts[:number], ""])

    def _fewer(self, index: int, number: int, *texts: str) -> list:
        return self._arranged([*texts[:index], *texts[index + 1 : number]])

    def _choose(self, index: int) -> list:
        path, sentences = self.examples[index]
        return [path, *self._arranged(sentences)]

    def _checked(self, values: dict) -> list[str]:
        return check_sentences([values[box] for box in self.boxes[: values[self.count]]])

    def _run(
        self, path: str | None, sentences: list[str], progress: Callable, threshold: float, presence_threshold: float
    ) -> Results:
        thresholds = {"threshold": threshold, "presence_threshold": presence_threshold}
        for name, value in thresholds.items():
            if not isinstance(value, int | float):
                raise ValueError(f"The {name} must be a number from 0 to 1.")
        with self.clips.open(path) as opened:
            folder = Path(tempfile.mkdtemp(dir=self.clips.folder))
            try:
                return segment_clip(opened, sentences, folder, progress, **thresholds)
            except BaseException:
                shutil.rmtree(folder)
                raise

    def _segment(self, values: dict, progress=gr.Progress(track_tqdm=True)) -> dict:  # noqa: B008  gradio looks for this default
        path = values[self.clip]
        try:
            sentences = self._checked(values)
            results = self._run(path, sentences, progress, values[self.threshold], values[self.presence])
        except (OSError, ValueError) as error:
            # a gr.Error would stay in the overlay's place
            gr.Warning(without_folder(error, path), title="This did not work")
            return {self.drawn: gr.skip()}
        return {
            self.drawn: str(results.video),
            self.table: score_table(results),
            self.save_video: gr.DownloadButton(value=str(results.video), interactive=True),
            self.save_masks: gr.DownloadButton(value=str(results.masks), interactive=True),
            self.seconds: gr.Slider(maximum=round(results.duration, 2), value=round(results.duration / 2, 2)),
        }

    def _segment_for_api(
        self, path: str | None, sentences: object, threshold: float, presence_threshold: float
    ) -> tuple[str, str, list[dict]]:
        try:
            results = self._run(path, check_sentences(sentences), lambda *_, **__: None, threshold, presence_threshold)
        except (OSError, ValueError) as error:
            raise gr.Error(without_folder(error, path), print_exception=False) from error
        return str(results.video), str(results.masks), results.sentences

    def _show_maps(self, values: dict) -> list[tuple[np.ndarray, str]] | dict:
        path = values[self.clip]
        try:
            sentences = self._checked(values)
            with self.clips.open(path) as opened:
                return similarity_maps(self.segmenter, opened.clip, sentences, values[self.seconds])
        except (OSError, ValueError) as error:
            gr.Warning(without_folder(error, path), title="This did not work")
            return gr.skip()
