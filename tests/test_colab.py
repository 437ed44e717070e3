"""The notebooks' setup cell, run as Colab runs it: in IPython, with a clone and a pip install.

The machine stands in for Colab. An empty virtual environment sees the packages of this one, as
Colab's own are there before the cell runs, but neither drrlib nor its checkout. `git` is told to
take a local repository for the address in the cell, and pip to look nowhere: a package that pip
wanted to add or replace would make the installation fail.
"""

import json
import os
import shutil
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

import nbformat
import numpy
import pytest
import torch

import notebook_files as files
from helpers import run

ROOT = files.ROOT
URL, VERSION = files.project_facts(ROOT)

# Runs in the new environment. argv: the file with the cell, whether this is Colab, the file for the
# report, and whether the environment is fresh.
DRIVER = """
import json, os, sys, types
from importlib import metadata
from pathlib import Path
from IPython.core.interactiveshell import InteractiveShell

cell, colab = Path(sys.argv[1]).read_text(), sys.argv[2] == "colab"
sys.path = [p for p in sys.path if p not in ("", os.getcwd())]
try:
    import drrlib
    if sys.argv[4] == "fresh":
        sys.exit("drrlib is already there")
except ModuleNotFoundError:
    pass
if colab:
    for name in ("google", "google.colab"):
        sys.modules[name] = types.ModuleType(name)
shell = InteractiveShell.instance()
report = {}
for turn in ("first", "second"):  # "Run all" may be pressed twice
    shell.run_cell(cell).raise_error()
    report[turn] = dict(cwd=os.getcwd(), files=sorted(str(p) for p in Path(".").iterdir()))
if colab:
    import numpy, torch
    from drrlib import DRR, CArm, Volume
    from drrlib.lab.paper import paper_value, repository
    import drrlib

    hu = torch.full((8, 8, 8), 0.0)
    volume = Volume.from_hu(hu, torch.diag(torch.tensor([10.0, 10.0, 10.0, 1.0])))
    drr = DRR(volume, CArm(1020.0, 510.0, 5, 5, 1.0, 1.0), backend="reference")
    report |= dict(
        centre=float(drr(drr.pose(torch.zeros(1, 6)))[0, 0, 2, 2]),
        drrlib=drrlib.__file__, version=metadata.version("drrlib"), root=str(repository()),
        paper=paper_value("Fig. 8", "Adam success rate"),
        torch=[torch.__version__, torch.__file__], numpy=[numpy.__version__, numpy.__file__],
    )
Path(sys.argv[3]).write_text(json.dumps(report))
"""


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A bare repository of this working tree, tagged with its version."""
    folder = tmp_path_factory.mktemp("origin")
    tree = folder / "tree"
    tree.mkdir()
    for name in ("drrlib", "data", "notebooks"):
        leave = shutil.ignore_patterns("__pycache__", "downloads", ".ipynb_checkpoints")
        shutil.copytree(ROOT / name, tree / name, ignore=leave)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org"]
    git += ["-c", "commit.gpgsign=false", "-c", "tag.gpgsign=false"]
    run(*git, "init", "-q", cwd=tree)
    run(*git, "add", ".", cwd=tree)
    run(*git, "commit", "-q", "-m", "tree", cwd=tree)
    run(*git, "tag", f"v{VERSION}", cwd=tree)
    run(*git, "clone", "-q", "--bare", tree, folder / "bare.git")
    return folder / "bare.git"


@pytest.fixture
def python(tmp_path):
    """The interpreter of an empty environment that sees this one's packages."""
    assert find_spec("setuptools.command.bdist_wheel"), "pip needs setuptools 70.1 or newer here"
    folder = tmp_path / "env"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    # Python 3.10 and 3.11 put an old setuptools into each new environment.
    run(python, "-m", "pip", "uninstall", "-q", "-y", "setuptools")
    # Folders named in a .pth file do not have their own .pth files read, so that an editable
    # drrlib stays invisible.
    seen = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
    (site_packages(python) / "colab.pth").write_text("\n".join(seen) + "\n")
    return python


def site_packages(python) -> Path:
    return Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())


def installed(python) -> set[str]:
    """What lies in the environment's own site-packages."""
    return {path.name for path in site_packages(python).iterdir()}


def environment(origin: Path, home: Path) -> dict[str, str]:
    """No settings of the user; one address is replaced; nothing comes from elsewhere."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{origin.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"{URL}.git",
        "GIT_ALLOW_PROTOCOL": "file",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "false",  # pip's spelling of "without"; setuptools is here
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def run_cell(
    python, folder: Path, origin: Path, where: str, state: str = "fresh", **settings: str
) -> tuple[dict, str]:
    """The driver's report, and what the cell printed; it begins in `folder`/content."""
    stored = nbformat.read(sorted((ROOT / "notebooks").glob("*.ipynb"))[0], as_version=4)
    (source,) = (c.source for c in stored.cells if "setup" in c.metadata.get("tags", []))
    (folder / "content").mkdir(exist_ok=True)
    (folder / "cell.txt").write_text(source)
    (folder / "driver.py").write_text(DRIVER)
    arguments = [folder / "driver.py", folder / "cell.txt", where, folder / "report.json", state]
    settings = environment(origin, folder) | settings
    printed = run(python, *arguments, cwd=folder / "content", env=settings)
    return json.loads((folder / "report.json").read_text()), printed


def what_a_restart_does(python, folder: Path, origin: Path) -> dict:
    """The report of a second kernel, which begins in /content again; `git` would leave a mark."""
    record = next(site_packages(python).glob("drrlib-*.dist-info"))
    before = record.stat().st_mtime_ns
    (folder / "bin").mkdir()
    (folder / "bin" / "git").write_text(f"#!/bin/sh\ntouch {folder / 'called'}\n")
    (folder / "bin" / "git").chmod(0o755)
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    report, printed = run_cell(python, folder, origin, "colab", "again", PATH=path)
    assert printed == "" and not (folder / "called").exists()
    assert record.stat().st_mtime_ns == before
    return report


def test_on_colab_it_clones_and_installs_drrlib_alone(tmp_path, python, origin):
    before = installed(python)
    report, printed = run_cell(python, tmp_path, origin, "colab")
    clone = tmp_path / "content" / f"drrlib-{VERSION}"
    assert Path(report["first"]["cwd"]) == clone / "notebooks", printed
    assert report["second"] == report["first"]
    assert Path(report["root"]) == clone
    # drrlib is the clone's, installed in the new environment; nothing else is.
    assert python.parents[1] in Path(report["drrlib"]).parents
    assert report["version"] == VERSION
    for path in sorted((clone / "drrlib").rglob("*.py")):
        copy = Path(report["drrlib"]).parent / path.relative_to(clone / "drrlib")
        assert copy.read_bytes() == path.read_bytes()
    new = installed(python) - before
    assert new == {"drrlib", f"drrlib-{VERSION}.dist-info"}
    assert report["torch"] == [torch.__version__, torch.__file__]
    assert report["numpy"] == [numpy.__version__, numpy.__file__]
    # Through the middle of 80 mm of water: 80 x 0.02059 / mm, the ray along y.
    assert report["centre"] == pytest.approx(80 * 0.02059, rel=1e-4)
    assert report["paper"] == 82.7
    assert what_a_restart_does(python, tmp_path, origin) == report


def test_elsewhere_it_does_nothing(tmp_path, python, origin):
    before = installed(python)
    report, printed = run_cell(python, tmp_path, origin, "elsewhere")
    nothing = {"cwd": str(tmp_path / "content"), "files": []}
    assert report == {"first": nothing, "second": nothing}
    assert printed == ""
    assert installed(python) == before
