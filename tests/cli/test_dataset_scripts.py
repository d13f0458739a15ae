"""The scripts of data sets are the command under its old names."""

import runpy
import sys

import pytest

from factories import ROOT
from modeling_cvls.cli.convert import BENCHMARKS


@pytest.mark.parametrize("name", BENCHMARKS)
def test_scripts_are_short_and_call_the_command(name, monkeypatch):
    path = ROOT / "dataset_scripts" / f"{name}.py"
    assert len(path.read_text().splitlines()) <= 15
    called = []
    monkeypatch.setattr("cvls.main", called.append)
    monkeypatch.setattr(sys, "argv", [str(path), "--source", "a"])
    runpy.run_path(str(path), run_name="__main__")
    assert called == [["convert", name, "--source", "a"]]
