"""The command `cvls`: finds the module of a command, runs it, and turns what a user can mend into one line.

It stands beside the package, not in it, because importing the package imports torch and transformers, as the Auto
classes must know CVLS from then on. `cvls --help` needs neither.
"""

import importlib
import importlib.metadata
import sys

#: Each command and what it does; `cvls NAME` runs `main` of `modeling_cvls.cli.NAME`.
COMMANDS = {
    "train": "Train or fine-tune a segmenter as a YAML file says.",
    "eval": "Measure a checkpoint on a data set.",
    "segment": "Segment videos and folders of frames by sentences.",
    "convert": "Convert a benchmark, or annotations of your own, into a data set.",
    "check": "Check every row of a data set for faults.",
    "show": "Write a page of a data set: frames with objects, and sentences.",
    "report": "Write pictures and the model card of a trained checkpoint.",
    "explain": "Draw what a checkpoint sees in a video and why it chooses an object.",
    "demo": "Open a page in the browser that segments uploaded videos.",
    "export": "Write a checkpoint as a torch or an ONNX program.",
    "push": "Upload a checkpoint, its code and its model card to the Hub.",
    "synthesize": "Write synthetic video sentences in the layout of a benchmark.",
    "compose": "Make training clips by composing annotated objects and backgrounds.",
}

#: Characters of an error message; what is longer is cut, and `--debug` shows all of it.
MOST_CHARACTERS = 300


def main(arguments: list[str] | None = None) -> None:
    """Runs a command, as in `main(["train", "my.yaml"])`; by default the one on the command line.

    Raises:
        SystemExit: with status 2 and one line on stderr where an argument or a file is at fault.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    debug = "--debug" in own
    if debug:
        arguments.remove("--debug")
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        sys.exit(0 if arguments else 2)
    name, *rest = arguments
    if name == "--version":
        print(importlib.metadata.version("modeling-cvls"))
        return
    if name not in COMMANDS:
        print(f"cvls: error: there is no command {name!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    try:
        importlib.import_module(f"modeling_cvls.cli.{name}").main(rest, prog=f"cvls {name}")
    except KeyboardInterrupt:
        if debug:
            raise
        print(f"cvls {name}: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if debug or not is_expected(error):
            raise
        print(f"cvls {name}: error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)


def usage() -> str:
    """What `cvls --help` prints."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: cvls [--debug] COMMAND ...",
            "",
            "Contrastive video-language segmentation: find the object that a sentence refers to, in every frame.",
            "",
            "commands:",
            *(f"  {name:{width}}  {text}" for name, text in COMMANDS.items()),
            "",
            "options:",
            f"  {'--debug':{width}}  Show the traceback of an error.",
            f"  {'--version':{width}}  Show the version.",
            "",
            "`cvls COMMAND --help` lists the options of a command.",
        ]
    )


def is_expected(error: Exception) -> bool:
    """Whether an argument, a file or the machine is at fault, and not the code."""
    expected: tuple[type[Exception], ...] = (ValueError, OSError, ImportError, FloatingPointError)
    # these two libraries have errors of their own for wrong values and for files that cannot be read
    if "huggingface_hub" in sys.modules:
        expected += (importlib.import_module("huggingface_hub.errors").StrictDataclassError,)
    if "datasets" in sys.modules:
        expected += (importlib.import_module("datasets.exceptions").DatasetsError,)
    return isinstance(error, expected)


def one_line(error: Exception) -> str:
    """The message of an error without line breaks, and without its end where it is longer than `MOST_CHARACTERS`."""
    text = " ".join(str(error).split()) or type(error).__name__
    more = " ... (--debug shows all of it)"
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - len(more)] + more


if __name__ == "__main__":
    main()
