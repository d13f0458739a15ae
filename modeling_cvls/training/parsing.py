"""The YAML file and the flags of a training, read with jsonargparse."""

import argparse
import dataclasses
import difflib
import enum
import itertools
import re
import typing
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser, set_loader

from ..configuration_cvls import CVLSConfig
from ..names import repeated
from .arguments import CVLSTrainingArguments, DataArguments, ModelArguments

SECTIONS = {"model": ModelArguments, "data": DataArguments, "training": CVLSTrainingArguments}


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of version 1.2, where `no` is a word and 2e-3 a number; PyYAML's own are those of 1.1."""


_BOOL, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_BOOL, _FLOAT)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile("^(true|false)$", re.IGNORECASE), list("tTfF"))
_Loader.add_implicit_resolver(
    _FLOAT, re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE), list("-+.0123456789")
)
#: Characters of a value that a message shows.
MOST_SHOWN = 120
#: Values of a file, each counted as often as aliases name it.
MOST_VALUES = 100_000


def _load(text: str) -> Any:
    """What a YAML text says.

    Raises:
        yaml.YAMLError: it is no YAML, is nested too deeply, has a key twice, or its aliases multiply into more than any
            file needs.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if (number := _count_values(node, {})) > MOST_VALUES:
            raise yaml.YAMLError(f"its aliases multiply into {number:.2g} values")
        return loader.construct_document(node)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    finally:
        loader.dispose()


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def _check_file(path: str) -> None:
    """Raises a `ValueError` that names the file where there is none, or where it does not hold sections."""
    try:
        content = _load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"the YAML file does not exist: {path!r}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: not YAML that can be read: {_shown(' '.join(str(error).split()))}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected the sections {', '.join(SECTIONS)}, got {_shown(content)}")
    for name, section in content.items():
        if name in SECTIONS and not isinstance(section, dict):
            raise ValueError(f"{path}: expected keys and values in the section {name}, got {_shown(section)}")


def _count_values(node: yaml.Node, known: dict[int, int]) -> int:
    if id(node) not in known:
        parts = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if twice := repeated(keys):
                raise yaml.YAMLError(f"line {node.start_mark.line + 1}: the key {_shown(twice[0])} stands there twice")
        known[id(node)] = 1 + sum(_count_values(part, known) for part in parts)
    return known[id(node)]


set_loader("yaml_1.2", _load, (yaml.YAMLError,))


class Option(NamedTuple):
    """A key of the YAML file, which is a flag too."""

    key: str
    type: Any
    default: Any
    help: str


def training_options() -> list[Option]:
    """Every key of a training's YAML file, in the order of the help."""
    options = []
    for name, section in SECTIONS.items():
        hints = typing.get_type_hints(section)
        for field in dataclasses.fields(section):
            if section is ModelArguments and field.name == "config":
                options += _config_options()
            elif field.init:
                made = field.default_factory is not dataclasses.MISSING
                default = field.default_factory() if made else field.default
                help = field.metadata.get("help", "")
                options.append(Option(f"{name}.{field.name}", _choices(hints[field.name]), default, help))
    return options


def _config_options() -> list[Option]:
    """The fields of CVLSConfig with the help texts of its docstring. Their default is None, which leaves a field as it
    is in the checkpoint or in CVLSConfig: so a file that names every key changes no checkpoint."""
    texts = {}
    for entry in parse_docstring(CVLSConfig.__doc__ or "").params:
        for name in entry.arg_name.split(", "):
            texts[name] = entry.description or ""
    return [
        Option(
            f"model.config.{field.name}",
            (dict[str, Any] if field.name in CVLSConfig.sub_configs else field.type) | None,
            None,
            f"{texts[field.name]} (Where null: {field.default}, or as in the checkpoint.)",
        )
        for field in dataclasses.fields(CVLSConfig)
        if field.name in texts
    ]


def training_parser(prog: str = "cvls train") -> ArgumentParser:
    """The parser of a training's sections. It raises `argparse.ArgumentError`, and does not exit."""
    parser = ArgumentParser(
        prog=prog,
        usage=f"{prog} CONFIG.yaml [--SECTION.KEY VALUE ...]",
        description="Train or fine-tune a segmenter. The YAML file has the sections `model`, `data` and `training`. A "
        "flag such as `--training.max_steps 100` overrides a key of the file.",
        parser_mode="yaml_1.2",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="A further YAML file, laid over the first one.")
    groups = {
        name: parser.add_argument_group(name, (section.__doc__ or "").split("\n\n")[0])
        for name, section in SECTIONS.items()
    }
    for key, type_, default, help in training_options():
        text = " ".join(help.split()).replace("%", "%%")  # argparse reads a percent sign as the start of a format
        groups[key.split(".")[0]].add_argument(f"--{key}", type=type_, default=default, help=text)
    return parser


def parse_training(
    arguments: list[str], prog: str = "cvls train"
) -> tuple[ModelArguments, DataArguments, CVLSTrainingArguments]:
    """The sections of the YAML file that stands first in `arguments`, with the flags laid over them.

    Raises:
        OSError: the file cannot be read.
        ValueError: naming a file that does not exist; or a key that does not exist, or one whose value cannot be, and
            the file that has it.
    """
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--config", *arguments]
    elif not {"-h", "--help", "--config"} & set(arguments):
        raise ValueError(f"the first argument must be a YAML file, as in: {prog} configs/demo.yaml")
    files = [value for name, value in itertools.pairwise(arguments) if name == "--config"]
    for path in files:
        _check_file(path)
    try:
        parsed = training_parser(prog).parse_args(arguments)
    except argparse.ArgumentError as error:
        of_file = str(error).startswith("Option ") or "parsing config" in str(error)  # and not of a flag
        where = f"{', '.join(files)}: " if of_file else ""
        raise ValueError(where + _plain(str(error))) from error
    model, data, training = (dict(vars(parsed[name])) for name in SECTIONS)
    model["config"] = {key: value for key, value in vars(model["config"]).items() if value is not None}
    return ModelArguments(**model), DataArguments(**data), CVLSTrainingArguments(**training)


def _choices(hint: Any) -> Any:
    """Where a type has an enumeration among its alternatives: the values of it alone."""
    alternatives = typing.get_args(hint)
    for alternative in alternatives:
        if isinstance(alternative, type) and issubclass(alternative, enum.Enum):
            return Literal[tuple(member.value for member in alternative)]
    return hint


def _plain(message: str) -> str:
    """jsonargparse says of a wrong value how each type that it might have fails; naming the types is shorter. And of a
    key that does not exist it does not say which ones do."""
    key = re.search(r'Parser key "([\w.]+)"', message)
    value = re.search(r"(?:Got value|Given value): (.*)", message)
    types = {option.key: option.type for option in training_options()}
    unknown = re.search(r"unrecognized arguments: --([\w.]+)", message) or re.search(r"Option '(.*)' is not", message)
    if unknown:
        near = difflib.get_close_matches(unknown.group(1), types, n=1)
        hint = f"; did you mean {near[0]}?" if near else "; the sections are model, data and training"
        return f"there is no key {_shown(unknown.group(1))}{hint}"
    if not key or not value or key.group(1) not in types:
        return message
    expected = types[key.group(1)]
    if typing.get_origin(expected) is Literal:
        described = f"one of {', '.join(typing.get_args(expected))}"
    else:
        described = f"of type {expected.__name__ if isinstance(expected, type) else expected}"
    return f"`{key.group(1)}` must be {described}, got {_shown(value.group(1))}"
