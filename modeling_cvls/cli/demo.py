"""`cvls demo`: a page in the browser to try a segmenter."""

import os
import signal
import sys
import tempfile
from pathlib import Path

from jsonargparse import ArgumentParser

from ..extras import require

DESCRIPTION = """Serves a page on which visitors upload a clip, describe objects in it, and get overlay, scores,
masks and similarity maps."""


def main(arguments: list[str] | None = None, prog: str = "cvls demo") -> None:
    parser = ArgumentParser(prog=prog, description=DESCRIPTION)
    parser.add_argument("--model", required=True, help="folder or Hub name of a trained model")
    parser.add_argument(
        "--examples", type=Path, help="folder of videos NAME.mp4 with sentences in NAME.txt; without it, three scenes"
    )
    parser.add_argument("--port", type=int, help="port of the page; without it, the first free one from 7860 on")
    parser.add_argument("--share", action="store_true", help="also make a public link")
    parser.add_argument("--max-seconds", type=float, default=60, help="longest clip, in seconds")
    parser.add_argument("--max-megabytes", type=float, default=50, help="largest clip, in megabytes")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ...; without it, an accelerator where there is one")
    args = parser.parse_args(arguments)
    require("demo", "gradio")
    # after the arguments were read, so that help comes at once
    import gradio as gr
    from transformers import pipeline

    from ..demo.examples import read_examples, write_examples
    from ..demo.page import MAX_SENTENCES, Page

    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that the folder is deleted then too
    segmenter = pipeline("video-language-segmentation", model=args.model, device=args.device)
    with tempfile.TemporaryDirectory(prefix="cvls-page-") as folder:
        cache, examples = Path(folder, "cache"), args.examples or Path(folder, "examples")
        cache.mkdir()
        os.environ["GRADIO_TEMP_DIR"] = str(cache)  # of uploads and results
        if args.examples is None:
            write_examples(examples)
        gr.set_static_paths([examples])  # served from there, not from a copy that is deleted
        page = Page(segmenter, read_examples(examples, MAX_SENTENCES), args.max_seconds, args.max_megabytes)
        limit = int(args.max_megabytes * 1e6)
        page.blocks.launch(server_port=args.port, share=args.share, max_file_size=limit, footer_links=[])
