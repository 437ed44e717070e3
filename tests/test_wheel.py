"""The built wheel, alone in an empty folder: what README offers needs no checkout.

The wheel is built without a network and installed into an empty environment that sees the packages
of this one, but neither the editable drrlib nor its folder.
"""

import json
import shutil
import sys
import venv
from pathlib import Path

import pytest

import notebook_files as files
from helpers import run
from test_readme import ROOT, python_of

LAB = ("pandas", "pyarrow", "matplotlib", "plotly", "ipywidgets", "pooch", "papermill", "cma")
CORE = {"torch", "numpy", "numba", "pydicom", "pylibjpeg", "pylibjpeg-openjpeg", "nibabel"}
CORE |= {"scipy", "tqdm", "jaxtyping"}

# Argv: where to write the report. The packages of the laboratory are not there at first.
DRIVER = f"""
import json, sys
from importlib import metadata
from pathlib import Path

lab = {LAB}
sys.modules.update(dict.fromkeys(lab))  # None: an import of it fails
import drrlib
from drrlib import DRR, CArm, Volume, eta

volume = Volume([[[0.02]]], [[8, 0, 0, 0], [0, 8, 0, 0], [0, 0, 8, 0], [0, 0, 0, 1]])
drr = DRR(volume, CArm.square(1020, 510, 5, 5.0), backend="reference")
report = dict(centre=float(drr.at(eta())[0, 2, 2]), drrlib=drrlib.__file__)
for name in lab:
    del sys.modules[name]
report["loaded"] = sorted({{*lab, "drrlib.lab"}} & set(sys.modules))

from drrlib.lab import datasets, phantoms, plots, studies
from drrlib.lab.paper import data_folder, paper_value

report |= dict(
    names=datasets.names(), paper=paper_value("Fig. 8", "Adam success rate"),
    citation=datasets.citation("pelvis"), data=str(data_folder()),
    version=metadata.version("drrlib"), requires=metadata.requires("drrlib"),
)
Path(sys.argv[1]).write_text(json.dumps(report))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of an environment with the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    tree, env = folder / "tree", folder / "env"
    leave = shutil.ignore_patterns("__pycache__", "downloads")
    for name in ("drrlib", "data"):
        shutil.copytree(ROOT / name, tree / name, ignore=leave)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--isolated"]
    options = ["--no-deps", "--no-index", "--no-build-isolation"]
    run(*pip, "wheel", *options, "--wheel-dir", folder, tree)
    venv.create(env)
    python = env / "bin" / "python"
    run(*pip, "--python", python, "install", *options, *folder.glob("*.whl"))
    site = next(env.glob("lib/python*/site-packages"))
    # Folders named in a .pth file do not have their own .pth files read, so that an editable
    # drrlib stays invisible.
    seen = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
    (site / "packages.pth").write_text("\n".join(seen) + "\n")
    _share_compiled(site / "drrlib")
    return python


def _share_compiled(installed: Path) -> None:
    """Give the copy what Numba compiled for the checkout, which would take a minute again.

    Numba takes a cached function where its file has the same size and time.
    """
    for kept in (ROOT / "drrlib").rglob("__pycache__/*.nb[ic]"):
        folder = installed / kept.parent.relative_to(ROOT / "drrlib")
        folder.mkdir(exist_ok=True)
        shutil.copy2(kept, folder)
    for path in installed.rglob("*.py"):
        shutil.copystat(ROOT / "drrlib" / path.relative_to(installed), path)


@pytest.fixture
def empty(tmp_path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def test_an_installed_copy_has_all_it_needs(python, empty, tmp_path):
    (tmp_path / "driver.py").write_text(DRIVER)
    run(python, "-I", tmp_path / "driver.py", tmp_path / "report.json", cwd=empty)
    report = json.loads((tmp_path / "report.json").read_text())
    copy = Path(report["drrlib"]).parent
    assert python.parents[1] in copy.parents and ROOT not in copy.parents
    assert report["centre"] == pytest.approx(8 * 0.02, rel=1e-4)  # 8 mm of 0.02 / mm
    assert report["loaded"] == []
    assert report["version"] == files.project_facts(ROOT)[1]
    needed = {r.split(";")[0].split(">")[0] for r in report["requires"] if "extra ==" not in r}
    assert needed == CORE
    # The modules and the data of the checkout, all of them.
    for path in (ROOT / "drrlib").rglob("*.py"):
        assert (copy / path.relative_to(ROOT / "drrlib")).read_bytes() == path.read_bytes()
    data = Path(report["data"])
    assert data == copy / "lab" / "data"
    for kind in ("*.csv", "sources/*", "studies/*"):
        for path in (ROOT / "data").glob(kind):
            assert (data / path.relative_to(ROOT / "data")).read_bytes() == path.read_bytes()
    assert "plastic_skull" in report["names"] and "TotalSegmentator" in report["citation"]
    assert report["paper"] == 82.7


def test_its_command_reads_a_study_that_came_with_it(python, empty):
    study = next(python.parents[1].glob("lib/python*/site-packages/drrlib/lab/data/studies/q*"))
    assert "study FILE.toml" in run(python, "-I", "-m", "drrlib", "--help", cwd=empty)
    told = run(python.parent / "drrlib", "study", study, "--dry-run", cwd=empty)
    assert "16" in told
    assert not list(empty.iterdir())


def test_the_session_of_the_readme_runs_from_it(python, empty, tmp_path):
    (tmp_path / "session.py").write_text(python_of(ROOT / "README.md"))
    said = run(python, "-I", tmp_path / "session.py", cwd=empty)
    assert said.startswith("converged")
    assert {path.name for path in empty.iterdir()} == {"ct", "pose.json", "pose.tfm"}
