"""A short run of benchmarks/fuzz.py; and that it sees a raw error, a slow trial and a leak."""

import importlib.util
import random
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_short_run():
    """In a process of its own: without the shape checks that tests put in front."""
    some = ["--calls", "600", "--headers", "60", "--files", "60", "--seconds", "120"]
    command = [sys.executable, "-W", "ignore", SCRIPT, *some]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    assert "calls: 600 of 600" in run.stdout


def test_what_is_wrong_is_seen(fuzz, monkeypatch, tmp_path, capsys):
    assert "ZeroDivisionError" in fuzz.call(random.Random(0), [(lambda x: 1 / 0, [1])])
    monkeypatch.setattr(fuzz, "SLOW", -1.0)
    assert fuzz.run("calls", 3, float("inf"), 0, lambda draw: None) == 1
    assert "slow" in capsys.readouterr().out
    files = fuzz.Files(tmp_path)

    def leaks(path):
        raise fuzz.DrrlibError(f"of {fuzz.SECRET}")

    monkeypatch.setattr(fuzz, "list_series", leaks)
    assert files.read(tmp_path) == "a message repeats the header"
