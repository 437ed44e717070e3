"""One .zip to keep: pose, report, figures, and how to cite."""

import json
import os
import tempfile
import zipfile
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from drrlib.atomic import write_whole
from drrlib.geometry import (
    CArm,
    to_deepdrr,
    to_diffdrr,
    to_nanodrr,
    to_opencv,
    to_xreg,
    write_matrix,
)
from drrlib.lab.own_data.files import colab_files
from drrlib.registration import RegistrationResult
from drrlib.view import View
from drrlib.volume import Volume

CITE = (
    "drrlib, and the method it reproduces: Alfiansyah et al., 2D/3D registration with "
    "auto-differentiable DRRs, J. Computer Science 20(12):1593-1601, 2024, "
    "doi:10.3844/jcssp.2024.1593.1601"
)


def pack(
    path: str | os.PathLike,
    found: RegistrationResult,
    view: View,
    volume: Volume,
    figures: dict[str, Figure],
) -> Path:
    """One .zip: the pose in all conventions, the report, figures, and how to cite; no patient data
    but the pictures. In Colab the browser offers it at once."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        _write_parts(Path(name), found, view, volume, figures)
        write_whole(path, lambda whole: _zip(Path(name), whole))
    if colab_files() is not None:
        colab_files().download(str(path))
    return path


def _write_parts(folder: Path, found: RegistrationResult, view, volume, figures) -> None:
    found.save(folder / "pose.json")
    found.to_slicer(folder / "pose_slicer.tfm")
    if isinstance(found.carm, CArm):
        write_matrix(folder / "matrix_3x4.txt", found.carm.projection_matrix(found.pose))
        text = json.dumps(conventions(found), indent=1)
        (folder / "pose_other_tools.json").write_text(text + "\n")
    found.report(folder / "report.html", view, volume)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)
    (folder / "README.txt").write_text(_READ_ME)


def _zip(folder: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(folder.iterdir()):
            packed.write(file, file.name)


def conventions(found: RegistrationResult) -> dict:
    """The pose as other tools have it; see `drrlib.geometry.conventions`."""
    carm, pose = found.carm, found.pose
    made = {
        "drrlib world_from_camera, LPS [mm]": {"pose": pose},
        "OpenCV": to_opencv(carm, pose)._asdict(),
        "DeepDRR": to_deepdrr(carm, pose)._asdict(),
        "xReg": to_xreg(carm, pose)._asdict(),
        "DiffDRR, orientation AP": to_diffdrr(carm, pose, found.center)._asdict(),
        "nanodrr": to_nanodrr(carm, pose)._asdict(),
    }
    return {
        tool: {k: x.tolist() if isinstance(x, Tensor) else x for k, x in parts.items()}
        for tool, parts in made.items()
    }


_READ_ME = f"""\
report.html            look at this first: verdict, pictures, stated error
pose.json              everything; drrlib.RegistrationResult.load reads it
pose_slicer.tfm        for 3D Slicer
matrix_3x4.txt         world [mm, LPS] -> (column, row, 1) x depth; first pixel at (0.5, 0.5)
pose_other_tools.json  OpenCV, DeepDRR, xReg, DiffDRR, nanodrr

Not a medical device. Please cite:
{CITE}
"""
