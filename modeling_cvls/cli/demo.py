"""`cvls demo`: a page in the browser to try a segmenter."""

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
    parser.add_argument("--allow-links", action="store_true", help="let links lead out of the folder of examples")
    args = parser.parse_args(arguments)
    require("demo", "gradio")
    from ..demo.serving import serve  # after the arguments were read, so that help comes at once

    limits = {"max_seconds": args.max_seconds, "max_megabytes": args.max_megabytes}
    serving = {name: getattr(args, name) for name in ("device", "port", "share", "allow_links")}
    serve(args.model, args.examples, **limits, **serving)
