"""Continuous integration is green only where every backend passed a test, in whichever process."""

import os
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).with_name("conftest.py")


def run(folder: Path, backends: list[str]) -> subprocess.CompletedProcess:
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "pytest.ini").write_text("[pytest]\ntestpaths = .\nmarkers = gpu: as ours\n")
    (folder / "test_one.py").write_text(
        "import pytest\n"
        f"@pytest.mark.parametrize('backend', {backends})\n"
        "def test_one(backend): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:jaxtyping", "-n", "2"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {
        "CI": "true"
    }
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_ci_counts_the_backends_of_every_process(tmp_path):
    done = run(tmp_path, ["reference", "cpu", "cuda"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_ci_fails_and_names_the_backend_without_a_test(tmp_path):
    done = run(tmp_path, ["reference", "cpu"])
    assert done.returncode == 1, done.stdout + done.stderr
    assert "backend 'cuda' passed not one test" in done.stdout
    assert "backend 'cpu'" not in done.stdout
