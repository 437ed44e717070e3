"""Which room imports which: the contracts of pyproject.toml, and what they cannot say."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "drrlib").rglob("*.py"))
LAB = ("pandas", "pyarrow", "matplotlib", "plotly", "ipywidgets", "pooch", "papermill", "cma")


def lint_imports(folder: Path) -> subprocess.CompletedProcess:
    """import-linter with the contracts of that folder, in a process without our import hooks."""
    code = "from importlinter.cli import lint_imports_command as run; run()"
    command = [sys.executable, "-c", code, "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_rooms_import_what_their_contracts_allow():
    run = lint_imports(ROOT)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize(
    ("module", "line", "says"),
    [
        ("geometry/se3.py", "from drrlib.drr import DRR", "Rooms import only what lies below"),
        ("io/nifti.py", "from drrlib.registration import register", "neighbours in a row"),
        ("optimize/rules.py", "from drrlib.similarity.patch import patch_ncc_loss", "similarity"),
        ("drr.py", "import pandas", "The core needs nothing of the laboratory"),
        ("volume.py", "import drrlib.lab.phantoms", "The core needs nothing of the laboratory"),
        ("surprise.py", "", "exhaustive"),
    ],
)
def test_the_contracts_see_a_wrong_import(tmp_path, module, line, says):
    """A copy of the package with one line too many."""
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    for path in MODULES:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    place = tmp_path / "drrlib" / module
    before = place.read_text() if place.exists() else '"""A module in no room."""\n'
    place.write_text(before + "\n" + line + "\n")
    run = lint_imports(tmp_path)
    assert run.returncode != 0 and says in " ".join(run.stdout.split()), run.stdout


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_triton_is_imported_where_it_is_launched(path):
    """Modules of Triton kernels are read by nobody but each other and the functions that launch."""
    top = ast.parse(path.read_text()).body
    names = {a.name for n in top if isinstance(n, ast.Import) for a in n.names}
    for node in (n for n in top if isinstance(n, ast.ImportFrom)):
        names |= {node.module or "", *(f"{node.module}.{a.name}" for a in node.names)}
    parts = {part for name in names for part in name.split(".") if part.startswith("triton")}
    assert not parts or path.stem.startswith("triton_")


def test_the_core_loads_nothing_of_the_laboratory():
    """Only what `pip install drrlib` brings; each of these would cost its time at every import."""
    code = (
        "import sys, pkgutil, importlib, drrlib\n"
        "for room in ('geometry', 'projectors', 'similarity', 'optimize', 'registration', 'io'):\n"
        "    importlib.import_module('drrlib.' + room)\n"
        "for command in ('check', 'render', 'register'):\n"
        "    importlib.import_module('drrlib.cli.' + command)\n"
        f"print(sorted(set({LAB}) & set(sys.modules)), 'drrlib.lab' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[] False"
