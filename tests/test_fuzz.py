"""A short run of benchmarks/fuzz.py; and that it sees raw errors, leaks, waits and crashes."""

import logging
import random
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def benchmark_folder():
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


def test_short_run(tmp_path):
    """In a process of its own: without the shape checks that tests put in front."""
    pytest.importorskip("SimpleITK", reason="the extra formats is not installed")
    pytest.importorskip("trimesh", reason="the extra mesh is not installed")
    some = ["--calls", "500", "--headers", "150", "--files", "150", "--xrays", "100"]
    command = [sys.executable, FOLDER / "fuzz.py", *some, "--seconds", "400", "--keep", tmp_path]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    assert "calls: 500 of 500" in run.stdout and "xrays: 100 of 100" in run.stdout


def _leak(text):
    from fuzzing.judge import DrrlibError

    raise DrrlibError("a plain text") from ValueError(text)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (lambda: [1 / 0], "ZeroDivisionError at"),
        (lambda: ["of Secret"], "repeats"),
        (lambda: _leak("of SECRET"), "repeats"),
        (lambda: [warnings.warn("of SECRET", stacklevel=1)][:0], "repeats"),
        (lambda: [logging.getLogger("pydicom").warning("of SECRET")][:0], "repeats"),
        (lambda: ["fine"], None),
    ],
)
def test_what_is_wrong_is_seen(texts, says):
    from fuzzing.judge import said

    found = said(texts)
    assert found is None if says is None else says in found


def test_a_slow_trial_is_a_fault(monkeypatch):
    import fuzz

    monkeypatch.setattr(fuzz, "SLOW", -1.0)

    class Slow:
        def trial(self, draw):
            return None

    assert "slow" in fuzz.attempt(Slow(), "calls", 0, 1)


def test_a_crash_is_told_and_passed_over(monkeypatch, tmp_path, capsys):
    """The worker is replaced by one that dies in trial 2."""
    import fuzz

    program = tmp_path / "worker.py"
    program.write_text(
        "import os, struct, sys\n"
        "g = lambda n: sys.argv[sys.argv.index(n) + 1]\n"
        "for k in range(int(g('--first')), int(g('--last')) + 1):\n"
        "    open(g('--folder') + '/number', 'wb').write(struct.pack('<q', k))\n"
        "    if k == 1: print('[1, \"a fault\"]', flush=True)\n"
        "    if k == 2: os._exit(7)\n"
    )
    monkeypatch.setattr(fuzz, "__file__", str(program))
    options = fuzz.parsed(["--keep", str(tmp_path / "kept")])
    row = fuzz.run("headers", 6, options, float("inf"))
    assert row["trials"] == 6 and row["faults"] == 2
    said = capsys.readouterr().out
    assert "ended with 7" in said and "--again headers 0 2" in said
    assert (tmp_path / "kept" / "headers-0-2").is_dir()


def test_a_trial_is_known_by_its_number(tmp_path):
    from fuzzing.headers import Xrays

    tried = Xrays(tmp_path)
    bytes_of = []
    for _ in range(2):
        tried.trial(random.Random("xrays 0 17"))
        bytes_of.append((tmp_path / "xrays" / "x.dcm").read_bytes())
    assert bytes_of[0] == bytes_of[1]
