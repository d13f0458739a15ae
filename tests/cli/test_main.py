"""The command `cvls`: its help, its time to start, its errors; and packages that are not installed."""

import importlib
import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest

import cvls
from factories import ROOT
from modeling_cvls.extras import require


def run(*arguments, cwd=ROOT):
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)


def cpu_seconds(*arguments) -> float:
    """The least of three, as other processes may disturb one."""
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run(*arguments).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


def fake(monkeypatch, main):
    """Lets `cvls train` run `main`."""
    monkeypatch.setitem(sys.modules, "modeling_cvls.cli.train", SimpleNamespace(main=main))


def test_help_lists_every_command():
    result = run("-m", "cvls", "--help")
    assert result.returncode == 0
    for name in "train eval segment convert explain demo export push synthesize compose".split():
        assert f"\n  {name} " in result.stdout


def test_help_starts_at_once():
    assert cpu_seconds("-m", "cvls", "--help") - cpu_seconds("-c", "pass") < 0.5


def test_no_command_and_an_unknown_one_are_errors(capsys):
    with pytest.raises(SystemExit) as stopped:
        cvls.main([])
    assert stopped.value.code == 2
    with pytest.raises(SystemExit) as stopped:
        cvls.main(["tran"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("cvls: error: there is no command 'tran'") and "train" in error


def test_commands_get_their_arguments_and_name(monkeypatch):
    calls = []
    fake(monkeypatch, lambda arguments, prog: calls.append((arguments, prog)))
    cvls.main(["train", "a.yaml", "--debug", "--b", "c"])
    cvls.main(["train", "--", "--debug"])
    assert calls == [(["a.yaml", "--b", "c"], "cvls train"), (["--", "--debug"], "cvls train")]


def test_what_a_user_can_mend_is_one_line(monkeypatch, capsys):
    def fail(arguments, prog):
        raise {"value": ValueError, "file": FileNotFoundError, "bug": KeyError}[arguments[0]](
            "first\n  second " + "x" * 900
        )

    fake(monkeypatch, fail)
    for kind in ("value", "file"):
        with pytest.raises(SystemExit) as stopped:
            cvls.main(["train", kind])
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("cvls train: error: first second xxx") and error.count("\n") == 1
        assert len(error) < 330 and "--debug" in error
    with pytest.raises(ValueError, match="first\n"):
        cvls.main(["--debug", "train", "value"])
    with pytest.raises(KeyError):
        cvls.main(["train", "bug"])


def test_errors_of_the_libraries_are_expected():
    hub = importlib.import_module("huggingface_hub.errors")
    datasets = importlib.import_module("datasets.exceptions")
    assert cvls.is_expected(hub.StrictDataclassError("a")) and cvls.is_expected(datasets.DatasetGenerationError("a"))
    assert not cvls.is_expected(RuntimeError("a"))


def test_a_missing_package_names_its_extra():
    require("train", "json")
    with pytest.raises(ImportError, match=r'no_such_package is not installed.*pip install "modeling-cvls\[demo\]"'):
        require("demo", "json", "no_such_package")


@pytest.mark.slow
def test_the_package_is_a_command_too():
    result = run("-m", "modeling_cvls", "--help")
    assert result.returncode == 0 and result.stdout == cvls.usage() + "\n"
