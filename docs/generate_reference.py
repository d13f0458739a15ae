"""Writes docs/reference/ from the code: `python docs/generate_reference.py`. A test holds the pages to the code."""

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from jsonargparse import ArgumentParser

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import cvls  # noqa: E402
from modeling_cvls import CVLSConfig  # noqa: E402
from modeling_cvls.cli.convert import BENCHMARKS, TOOLS  # noqa: E402
from modeling_cvls.data import FEATURES  # noqa: E402
from modeling_cvls.data.schema import COLUMNS  # noqa: E402
from modeling_cvls.training import training_options  # noqa: E402
from modeling_cvls.training.arguments import CVLSTrainingArguments  # noqa: E402

NOTE = "<!-- Written by docs/generate_reference.py from the code: change the code, and run it again. -->"
#: What the page of the Python interface shows, in its order.
MODULES = (
    "modeling_cvls",
    "modeling_cvls.data",
    "modeling_cvls.training",
    "modeling_cvls.evaluation",
    "modeling_cvls.segmentation",
    "modeling_cvls.results",
    "modeling_cvls.visualization",
    "modeling_cvls.explanation",
)


class _Parser(Exception):
    """Carries the parser of a command out of its `main`."""


def parser_of(main: Callable[..., None], prog: str) -> ArgumentParser:
    """The parser that a command's `main` makes."""

    def stop(self, *args, **kwargs):
        raise _Parser(self)

    own = ArgumentParser.parse_args
    ArgumentParser.parse_args = stop
    try:
        main([], prog=prog)
    except _Parser as found:
        return found.args[0]
    finally:
        ArgumentParser.parse_args = own
    raise ValueError(f"{prog} parses nothing")


def cell(text: Any) -> str:
    """Text as a cell of a table."""
    return " ".join(str(text).replace("|", "\\|").split())


def default_and_text(action: Any) -> tuple[str, str]:
    """The default of an argument and its help. What the help says of the default comes first, as it may
    depend on the machine."""
    text = action.help or ""
    text = text % {"default": action.default} if "%(default)s" in text else text
    said = re.search(r"[;,]?\s*\(?default: (.*?)\)?\.?$", text)
    if said:
        return said.group(1), text[: said.start()]
    required = action.required if action.option_strings else action.nargs not in ("?", "*")
    if required:
        return "required", text
    if action.default in (None, [], "==SUPPRESS=="):
        return "", text
    if "--num-proc" in action.option_strings:
        return "one per core", text
    if isinstance(action.default, list | tuple):
        return f"`{' '.join(map(str, action.default))}`", text
    return f"`{str(action.default).lower() if isinstance(action.default, bool) else action.default}`", text


def arguments_of(parser: ArgumentParser) -> Iterator[str]:
    """The rows of a command's table."""
    yield "| argument | default | what it is |\n| --- | --- | --- |"
    for action in parser._actions:
        if action.help == "==SUPPRESS==" or "--help" in action.option_strings:
            continue
        names = action.option_strings or [action.metavar or action.dest]
        names = ", ".join(f"`{name}`" for name in names)
        if action.choices:
            names += ": " + ", ".join(f"`{choice}`" for choice in action.choices)
        default, text = default_and_text(action)
        yield f"| {cell(names)} | {cell(default)} | {cell(text)} |"


def described(parser: ArgumentParser) -> str:
    """A command's description, its examples as code."""
    parts = []
    for part in inspect.cleandoc(parser.description or "").split("\n\n"):
        code = part.strip().startswith(("cvls ", "python "))
        parts.append(f"```bash\n{inspect.cleandoc(part)}\n```" if code else part)
    return "\n\n".join(parts)


def command_line() -> str:
    page = [NOTE, "# Command line", "Every command also runs as `python -m modeling_cvls COMMAND`."]
    page += ["Errors that you can mend are one line on stderr, with exit status 2. `--debug` shows their traceback."]
    page += ["| command | what it does |\n| --- | --- |"]
    page[-1] += "".join(f"\n| [`cvls {name}`](#cvls-{name}) | {text} |" for name, text in cvls.COMMANDS.items())
    for name in cvls.COMMANDS:
        page.append(f"## cvls {name}")
        if name == "train":
            page.append(cvls.COMMANDS[name])
            page.append("```bash\ncvls train CONFIG.yaml [--section.key value ...]\n```")
            page.append("The keys are those of the [configuration](configuration.md).")
            continue
        module = importlib.import_module(f"modeling_cvls.cli.{name}")
        parser = parser_of(module.main, f"cvls {name}")
        page += [described(parser), "\n".join(arguments_of(parser))]
        if name == "convert":
            page += list(conversions())
    return "\n\n".join(page) + "\n"


def conversions() -> Iterator[str]:
    from modeling_cvls.conversion import conversion_parser

    for name in (*BENCHMARKS, *TOOLS):
        source = importlib.import_module(f"modeling_cvls.conversion.{name}")
        yield f"### cvls convert {name}"
        yield "\n".join(arguments_of(conversion_parser(source, f"cvls convert {name}")))


def configuration() -> str:
    inherited = {field for base in CVLSTrainingArguments.__mro__[1:] for field in getattr(base, "__annotations__", {})}
    own = CVLSTrainingArguments.__annotations__
    page = [NOTE, "# Configuration of a training", "The keys of the YAML file of `cvls train`, which are flags too."]
    for section, text in (
        ("model", "What to train: a checkpoint, pretrained parts, or a model from nothing."),
        ("data", "Which clips to train on, and how they are drawn and changed."),
        (
            "training",
            "All of transformers' [TrainingArguments]"
            "(https://huggingface.co/docs/transformers/main_classes/trainer), and these:",
        ),
    ):
        page += [f"## {section}", text]
        rows = ["| key | default | what it is |\n| --- | --- | --- |"]
        for option in training_options():
            name = option.key.removeprefix(f"{section}.")
            if not option.key.startswith(f"{section}.") or name.startswith("config."):
                continue
            if section == "training" and name in inherited and name not in own:
                continue
            rows.append(f"| `{cell(option.key)}` | {shown(option.default)} | {cell(option.help)} |")
        page.append("\n".join(rows))
        if section == "model":
            page.append("`model.config.KEY` sets a field of the [model's configuration](model_configuration.md).")
    return "\n\n".join(page) + "\n"


def shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return f"`{str(value).lower().replace('none', 'null')}`"
    return f"`{cell(value)}`"


def model_configuration() -> str:
    page = [
        NOTE,
        "# Configuration of the model",
        "The fields of `CVLSConfig`. In a training's file they are `model.config.KEY`.",
    ]
    rows = ["| key | default | what it is |\n| --- | --- | --- |"]
    for option in training_options():
        if option.key.startswith("model.config."):
            name = option.key.removeprefix("model.config.")
            text = option.help.partition(" (Where null")[0]
            rows.append(f"| `{name}` | {shown(getattr(CVLSConfig, name))} | {cell(text)} |")
    return "\n\n".join([*page, "\n".join(rows)]) + "\n"


def data_schema() -> str:
    page = [NOTE, "# Data schema", "One row per video: its frames, the masks of its objects, and sentences about them."]
    page.append("`modeling_cvls.data.FEATURES` is the type of a row. There are A annotated frames and M objects.")
    rows = ["| column | type | what it is |\n| --- | --- | --- |"]
    rows += [f"| `{name}` | {type_of(FEATURES[name])} | {cell(COLUMNS[name])} |" for name in FEATURES]
    page.append("\n".join(rows))
    return "\n\n".join(page) + "\n"


def type_of(feature: Any) -> str:
    if isinstance(feature, dict):
        return "{" + ", ".join(f"{name}: {type_of(value)}" for name, value in feature.items()) + "}"
    if hasattr(feature, "feature"):
        return f"list of {type_of(feature.feature)}"
    return (
        getattr(feature, "dtype", None)
        if type(feature).__name__ == "Value"
        else f"encoded {type(feature).__name__.lower()}"
    )


def python() -> str:
    page = [NOTE, "# Python", "What is meant to be used. Everything else may change from version to version."]
    for name in MODULES:
        module = importlib.import_module(name)
        page += [f"## {name}", first_paragraphs(module)]
        for public in public_names(module):
            page += list(described_object(getattr(module, public), public))
    return "\n\n".join(part for part in page if part) + "\n"


def first_paragraphs(module: ModuleType) -> str:
    return inspect.cleandoc(module.__doc__ or "").split("\n\n")[0]


def public_names(module: ModuleType) -> list[str]:
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def described_object(value: Any, name: str) -> Iterator[str]:
    if not callable(value):
        yield f"### {name}"
        yield f"A {type(value).__name__}."
        return
    yield f"### {name}"
    yield signature_of(value, name)
    yield docstring_of(value)
    if inspect.isclass(value):
        for inner, method in vars(value).items():
            method = getattr(method, "__func__", method)
            shown_method = not inner.startswith("_") or inner == "__call__"
            own = inspect.isfunction(method) and method.__module__.startswith("modeling_cvls")
            if shown_method and own and method.__doc__ and not method.__doc__.startswith("As inherited"):
                yield signature_of(method, f"{name}.{inner}", method=True)
                yield docstring_of(method)


def signature_of(value: Any, name: str, method: bool = False) -> str:
    try:
        parameters = list(inspect.signature(value).parameters.values())
    except (TypeError, ValueError):
        return f"```python\n{name}\n```"
    shown_parameters = []
    for parameter in parameters[1:] if method and parameters and parameters[0].name in ("self", "cls") else parameters:
        text = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "") + parameter.name
        if parameter.default is not parameter.empty:
            plain = isinstance(parameter.default, bool | int | float | str | tuple | type(None))
            text += f"={parameter.default!r}" if plain else "=..."
        shown_parameters.append(text)
    inside = "..." if len(shown_parameters) > 12 else ", ".join(shown_parameters)
    return f"```python\n{name}({inside})\n```"


SECTIONS = ("Args:", "Attributes:", "Returns:", "Raises:")


def docstring_of(value: Any) -> str:
    """A docstring in Google's style as Markdown: its sections become lists."""
    text = re.sub(r"\[(`\w+`)\]", r"\1", inspect.cleandoc(value.__doc__ or ""))
    if not text or text.startswith(f"{getattr(value, '__name__', '')}("):
        return ""
    parts = re.split(rf"^({'|'.join(SECTIONS)})\n", text, flags=re.MULTILINE)
    page = [parts[0].strip()]
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        page += [f"**{title.removesuffix(':')}**", *section(inspect.cleandoc(body), title == "Returns:")]
    return "\n\n".join(part for part in page if part)


def section(body: str, prose: bool) -> Iterator[str]:
    """The entries of a section as a list; what is said under them at the margin of the docstring stays a paragraph."""
    if prose:
        yield " ".join(body.split())
        return
    entries = re.split(r"\n(?=\S)", body)
    rows = []
    for entry in entries:
        name, colon, said = " ".join(entry.split()).partition(": ")
        rows.append(f"- `{name}`: {said}" if colon and "`" not in name else f"- {' '.join(entry.split())}")
    yield "\n".join(rows)


#: Each page of docs/reference/ and what writes it.
PAGES = {
    "command_line.md": command_line,
    "configuration.md": configuration,
    "model_configuration.md": model_configuration,
    "data_schema.md": data_schema,
    "python.md": python,
}


if __name__ == "__main__":
    folder = ROOT / "docs" / "reference"
    folder.mkdir(exist_ok=True)
    for name, write in PAGES.items():
        (folder / name).write_text(write(), encoding="utf-8")
        print(f"docs/reference/{name}")
