"""The project's own limits: lengths of files and functions, and imports that point downward only, without a circle."""

import ast
import functools
from pathlib import Path

import pytest

from factories import ROOT

#: The rooms of the package from the ground up. A file imports from its own room and from those before it.
ROOMS = [
    "extras",
    "names",
    "atomic",
    "flat files",
    "launch",
    "fonts",
    "sound",
    "visualization",
    "metrics",
    "synthetic",
    "data",
    "conversion",
    "composites",
    "results",
    "segmentation",
    "evaluation",
    "model_card",
    "explanation",
    "export",
    "training",
    "push",
    "report",
    "demo",
    "cli",
    "__main__",
]
MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_PARAMETERS, MOST_LINES_OF_AN_ENTRY_POINT = 450, 60, 8, 15

#: What a library calls by these names has the library's parameters.
INHERITED_SIGNATURES = {"_preprocess", "create_model_card", "forward", "init_video_session"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


ALL = [*sources("modeling_cvls", "scripts", "dataset_scripts", "benchmarks", "tests"), ROOT / "cvls.py"]
PACKAGE = sources("modeling_cvls")
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in PACKAGE}


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_modules(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere, also inside functions, but not for types alone."""
    found = set()
    package = list(path.relative_to(ROOT).parts[:-1])
    skipped = {
        id(inner)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree(path)):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name in MODULES}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *((node.module or "").split(".") if node.module else [])])
            for name in node.names:
                inner = f"{base}.{name.name}"
                if inner in MODULES:
                    found.add(inner)
                elif base in MODULES:
                    found.add(base)
    return found


def room(path: Path) -> str:
    parts = path.relative_to(ROOT / "modeling_cvls").parts
    if len(parts) > 1:
        return parts[0]
    return "flat files" if parts[0].endswith("_cvls.py") or parts[0] == "__init__.py" else Path(parts[0]).stem


def none_beyond(found: set[str]) -> None:
    assert not found, "beyond a limit: " + ", ".join(sorted(found))


def test_no_file_is_long():
    long = {name_of(path) for path in ALL if len(path.read_text(encoding="utf-8").splitlines()) > MOST_LINES}
    none_beyond(long)


def test_entry_points_are_short():
    long = {
        name_of(path)
        for path in sources("scripts", "dataset_scripts")
        if len(path.read_text(encoding="utf-8").splitlines()) > MOST_LINES_OF_AN_ENTRY_POINT
    }
    none_beyond(long)


@pytest.mark.slow
def test_no_function_is_long_or_has_many_parameters():
    beyond = set()
    for path in ALL:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                name = node.name
                if node.end_lineno - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION:
                    beyond.add(name)
                parameters = [
                    parameter.arg
                    for parameter in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                    if parameter.arg not in ("self", "cls")
                ]
                if len(parameters) > MOST_PARAMETERS and node.name not in INHERITED_SIGNATURES:
                    beyond.add(name)
    none_beyond(beyond)


def test_imports_point_downward():
    upward = {
        f"{name_of(path)} -> {name}"
        for path in PACKAGE
        for name in imported_modules(path)
        if ROOMS.index(room(MODULES[name])) > ROOMS.index(room(path))
    }
    none_beyond(upward)


def test_files_that_travel_to_the_hub_import_each_other_only():
    beyond = {
        f"{path.name} -> {name}"
        for path in PACKAGE
        if path.name.endswith("_cvls.py")
        for name in imported_modules(path)
        if not name.endswith("_cvls")
    }
    assert not beyond


def test_no_circle_among_imports():
    graph = {name: imported_modules(path) - {name} for name, path in MODULES.items()}
    done: set[str] = set()
    while ready := {name for name in graph if name not in done and graph[name] <= done}:
        done |= ready
    none_beyond(set(graph) - done)


def test_no_private_name_is_imported_from_another_file():
    private = {
        f"{name_of(path)}: {name.name}"
        for path in ALL
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("modeling_cvls"))
        for name in node.names
        if name.name.startswith("_") and not name.name.startswith("__")
    }
    none_beyond(private)


def test_no_test_imports_another():
    tests = {path.stem for path in sources("tests") if path.stem.startswith("test_")}
    imports = {
        f"{name_of(path)}: {module}"
        for path in sources("tests")
        for node in ast.walk(tree(path))
        for module in (
            [name.name for name in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        if module.split(".")[-1] in tests
    }
    assert not imports


@pytest.mark.parametrize("path", PACKAGE, ids=name_of)
def test_every_room_is_known(path):
    assert room(path) in ROOMS, f"where in ROOMS does {room(path)} belong?"
