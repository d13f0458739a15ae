"""Serves the page until the process ends."""

import os
import signal
import sys
import tempfile
from pathlib import Path

import gradio as gr

from ..hub_cvls import load_card
from ..launch import load_pipeline
from ..names import check_tree
from .clips import Clips
from .decoding import ClipLimits, Decoder
from .examples import read_examples, write_examples
from .page import MAX_SENTENCES, Page, PageText
from .storage import Storage

KEPT_FOR = 30  # minutes


def serve(
    model: str,
    examples: Path | None = None,
    max_seconds: float = 60,
    max_megabytes: float = 50,
    device: str | None = None,
    port: int | None = None,
    share: bool = False,
    allow_links: bool = False,
) -> None:
    """Serves the page; returns when it is stopped, and then nothing of the visitors is left.

    Args:
        model: folder or Hub name of a trained model.
        examples: folder of videos NAME.mp4 with sentences in NAME.txt, one per line; default: synthetic scenes.
        max_seconds, max_megabytes: how long and how large a clip may be.
        device: such as "cuda:1"; default: an accelerator where there is one.
        port: default: the first free one from 7860 on.
        share: also make a public link through gradio's servers.
        allow_links: let links lead out of `examples`, all of which is served.

    Raises:
        OSError, ValueError: there is no such model, a link leads out of `examples`, or the port is in use.
    """
    if examples is not None:
        check_tree(examples, allow_links)
    segmenter = load_pipeline(model, "--model", device)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that the folder is deleted then too
    text = PageText(max_seconds, max_megabytes, KEPT_FOR, describe_model(model))
    with tempfile.TemporaryDirectory(prefix="cvls-page-") as folder:
        cache, offered = Path(folder, "cache"), examples or Path(folder, "examples")
        cache.mkdir()
        os.environ["GRADIO_TEMP_DIR"] = str(cache)  # of uploads and results
        if examples is None:
            write_examples(offered)
        gr.set_static_paths([offered])  # served from there, not from a copy that is deleted
        decoder, storage = Decoder(ClipLimits(max_seconds)), Storage(cache, 60 * KEPT_FOR)
        clips = Clips(segmenter, decoder, cache)
        try:
            storage.delete_old_regularly(then=clips.forget_deleted)
            page = Page(segmenter, clips, read_examples(offered, MAX_SENTENCES), text)
            size = int(max_megabytes * 1e6)
            page.blocks.launch(server_port=port, share=share, max_file_size=size, footer_links=[])
        finally:
            storage.close()
            clips.close()
            decoder.close()


def describe_model(name: str) -> str:
    """What the model's card says it was trained on, in Markdown."""
    card = load_card(name)
    title = (card and card.data.model_name) or Path(name).name
    names = (card and card.data.datasets) or []
    names = [names] if isinstance(names, str) else names
    trained = f"was trained on {', '.join(names)}" if names else "does not say what it was trained on"
    return f"The model {title} {trained}."
