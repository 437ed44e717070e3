"""For notebook 17: a stranger's CT and X-ray image, what was understood of them, and a zip to keep.

Nothing here leaves the machine. In Colab files are asked for and handed over by `google.colab`.
"""

import atexit
import json
import os
import shutil
import tempfile
import textwrap
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from drrlib.atomic import write_whole
from drrlib.drr import DRR
from drrlib.errors import ConfigError
from drrlib.geometry import (
    CArm,
    eta,
    to_deepdrr,
    to_degrees,
    to_diffdrr,
    to_nanodrr,
    to_opencv,
    to_xreg,
    write_matrix,
)
from drrlib.io import read_volume, read_xray, write_ct_series, write_xray
from drrlib.lab import detector, phantoms
from drrlib.registration import RegistrationResult, gather
from drrlib.view import View
from drrlib.volume import MU_WATER, Volume

_TISSUE = 0.3  # part of water's attenuation above which a voxel is tissue
_CUT = 0.02  # part of a face that is tissue where a CT cuts through the body
CITE = (
    "drrlib, and the method it reproduces: Alfiansyah et al., 2D/3D registration with "
    "auto-differentiable DRRs, J. Computer Science 20(12):1593-1601, 2024, "
    "doi:10.3844/jcssp.2024.1593.1601"
)


# --- files in


class Inputs(NamedTuple):
    """Where the data lie; of the example also what is true.

    Attributes:
        ct, xray: Paths.
        true: eta [6] of the example; None of data whose pose nobody knows.
        points, pixels: Landmarks of the example in the CT [n, 3] (mm) and as somebody clicked them
            in the image [n, 2]; None for others.
    """

    ct: Path
    xray: Path
    true: Tensor | None = None
    points: Tensor | None = None
    pixels: Tensor | None = None


def find_inputs(ct: str, xray: str, voxel: float, pixels: int, seed: int) -> Inputs:
    """Paths of the data: given, or "upload" to be asked for in Colab; "" twice is the example.

    A .zip is unpacked into a temporary folder, which goes when Python ends.

    Raises:
        ConfigError: only one of both is given, a path that is none, a .zip that cannot be unpacked,
            or no Colab to ask.
    """
    if bool(ct) != bool(xray):
        raise ConfigError("give both ct and xray, or none of them for the example")
    folder = Path(tempfile.mkdtemp(prefix="drrlib-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if not ct:
        return example(folder, voxel, pixels, seed)
    return Inputs(*(_found(name, given, folder) for name, given in (("ct", ct), ("xray", xray))))


def _found(name: str, given: str, folder: Path) -> Path:
    path = _uploaded(name, folder) if given == "upload" else Path(given).expanduser()
    if not path.exists():
        raise ConfigError(f"{name} is {given!r}, which does not exist; expected a file or folder")
    if path.suffix.lower() != ".zip":
        return path
    try:
        with zipfile.ZipFile(path) as packed:
            packed.extractall(folder / name)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, zlib.error) as error:
        raise ConfigError(
            f"{name}: {path.name!r} cannot be unpacked ({type(error).__name__}): damaged, cut "
            "short, or with a password; unpack it yourself and give the folder"
        ) from None
    inside = [p for p in (folder / name).rglob("*") if p.is_file() and p.name[0] not in "._"]
    return inside[0] if len(inside) == 1 else folder / name


def _uploaded(name: str, folder: Path) -> Path:
    """What a person chose in the browser: one file, or several of one series."""
    if _colab() is None:
        raise ConfigError(f"{name} is 'upload', which needs Google Colab; give a path instead")
    place = folder / f"{name}_uploaded"
    place.mkdir()
    print(f"choose the file of {name} (a DICOM series as one .zip)")
    for file, data in _colab().upload().items():
        (place / Path(file).name).write_bytes(data)
    files = sorted(place.iterdir())
    if not files:
        raise ConfigError(f"nothing was chosen for {name}; run the cell again")
    return files[0] if len(files) == 1 else place


def _colab():
    """google.colab.files; None elsewhere."""
    try:
        from google.colab import files
    except ImportError:
        return None
    return files


def example(folder: Path, voxel: float, pixels: int, seed: int) -> Inputs:
    """A made-up pelvis as a DICOM series that ends above and below, and an X-ray image of all of it
    with spectrum, scatter, blur and noise, whose header is some degrees off."""
    dice = torch.Generator().manual_seed(seed)
    phantom = phantoms.pelvis(voxel, seed=seed)
    whole = Volume.from_hu(phantom.hu, phantom.affine)
    cut = round(0.12 * phantom.hu.shape[2])
    affine = np.array(phantom.affine, dtype=float)
    affine[:3, 3] += cut * affine[:3, 2]
    ct = write_ct_series(folder / "ct", phantom.hu[:, :, cut:-cut], affine)
    volume = read_volume(ct)
    carm = CArm.square(sdd=1050.0, sod=700.0, pixels=pixels, extent=380.0)
    true = eta(theta=7, phi=-14, gamma=3, b=(8, -6, 12), degrees=True)
    pose = carm.pose(true, volume.center)
    parts = detector.two_materials(DRR(whole, carm))
    how = dict(kvp=90.0, scatter=0.5, unsharp=0.7, photons=2e5)
    image = detector.acquire(parts, pose[None], dice, **how)
    xray = write_xray(folder / "xray.dcm", image, carm, eta(theta=0, phi=-20, degrees=True))
    points = torch.tensor(list(phantom.landmarks.values()), dtype=torch.float64)
    seen = carm.project(points, pose)
    inside = ((seen > 0) & (seen < pixels)).all(dim=1)
    clicked = seen + 1.5 / float(carm.delx) * torch.randn(seen.shape, generator=dice).double()
    return Inputs(ct, xray, true, points[inside], clicked[inside])


def read_image(path: Path, sdd: float, sod: float, pixel: float) -> View:
    """`read_xray` with the lengths [mm] that are not 0."""
    given = dict(sdd=sdd, sod=sod, delx=pixel, dely=pixel)
    return read_xray(path, **{name: x for name, x in given.items() if x})


# --- what was understood


def upright(volume: Volume) -> tuple[np.ndarray, list[float], float]:
    """Hounsfield units with axes towards left, back and head as far as the grid's own go, the
    voxels' sizes [mm], and the largest angle between a grid's axis and the patient's [deg]."""
    axes = volume.affine[:3, :3] / volume.spacing
    order = [int(axes[k].abs().argmax()) for k in range(3)]
    if sorted(order) != [0, 1, 2]:
        raise ConfigError("the CT lies askew by more than 45 degrees; resample it along the body")
    hu = 1000 * (volume.mu.detach().cpu() / MU_WATER - 1)
    hu = hu.permute(*order)
    flips = [k for k in range(3) if float(axes[k, order[k]]) < 0]
    lean = max(float(torch.rad2deg(axes[k, order[k]].abs().clamp_max(1).acos())) for k in range(3))
    return hu.flip(flips).numpy(), [float(volume.spacing[i]) for i in order], lean


def cut_faces(hu: np.ndarray) -> list[str]:
    """Faces of the grid through which the body goes on."""
    tissue = hu > 1000 * (_TISSUE - 1)
    names = (("right", "left"), ("front", "back"), ("foot", "head"))
    return [
        names[axis][end]
        for axis in range(3)
        for end in (0, 1)
        if tissue.take(-end, axis).mean() > _CUT
    ]


def draw_ct(volume: Volume) -> Figure:
    """Three middle slices with the patient's sides, red where the CT cuts through the body, and the
    histogram of Hounsfield units."""
    hu, size, _ = upright(volume)
    cut = cut_faces(hu)
    x, y, z = (n // 2 for n in hu.shape)
    axial, coronal, sagittal = hu[:, :, z].T, hu[:, y].T[::-1], hu[x].T[::-1]
    head, sides = ("head", "foot"), ("right", "left")
    slices = (
        (axial, size[1] / size[0], "axial, from the feet", (*sides, "front", "back")),
        (coronal, size[2] / size[0], "coronal, from the front", (*sides, *head)),
        (sagittal, size[2] / size[1], "sagittal", ("front", "back", *head)),
    )
    figure, axes = plt.subplots(1, 4, figsize=(10, 2.9), width_ratios=(1, 1, 1, 1.1))
    for axis, (image, aspect, name, faces) in zip(axes, slices, strict=False):
        axis.imshow(image, cmap="gray", vmin=-300, vmax=900, aspect=aspect)
        axis.set(xticks=[], yticks=[], xlabel=name)
        _mark(axis, faces, cut)
    values = hu[hu > -950].ravel()[::7]
    axes[3].hist(values, 120, color="0.4", log=True)
    axes[3].set(xlabel="Hounsfield units (air left out)", ylabel="voxels", yticks=[])
    for at, name in ((-100, "fat"), (0, "water"), (1000, "bone")):
        axes[3].axvline(at, color="tab:orange", lw=0.8)
        how = dict(fontsize=6, rotation=90, va="top", ha="right")
        axes[3].text(at, 0.97, name, transform=axes[3].get_xaxis_transform(), **how)
    return figure


_LETTERS = dict(right="R", left="L", front="A", back="P", head="H", foot="F")


def _mark(axis, faces: Sequence[str], cut: Sequence[str]) -> None:
    """Letters at left, right, top and bottom; a red bar where the body goes on."""
    places = ((0.03, 0.5), (0.97, 0.5), (0.5, 0.97), (0.5, 0.03))
    bars = (((0, 0), (0, 1)), ((1, 1), (0, 1)), ((0, 1), (1, 1)), ((0, 1), (0, 0)))
    aligned = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
    for face, place, bar, (h, v) in zip(faces, places, bars, aligned, strict=True):
        how = dict(color="yellow", ha=h, va=v, fontweight="bold", transform=axis.transAxes)
        axis.text(*place, _LETTERS[face], **how)
        if face in cut:
            axis.plot(*bar, color="red", lw=3, transform=axis.transAxes, clip_on=False)


def view_table(view: View) -> pd.DataFrame:
    """What is known of an X-ray image, and what is missing."""
    carm = view.carm
    width = float(carm.delx) * carm.width * float(carm.sod) / float(carm.sdd)
    rows = [
        ("pixels", f"{carm.width} x {carm.height} of {float(carm.delx):.3g} mm", ""),
        ("source to detector", f"{float(carm.sdd):.5g} mm", ""),
        ("source to isocentre", f"{float(carm.sod):.5g} mm", ""),
        ("field at the isocentre", f"{width:.3g} mm wide", ""),
    ]
    if view.start is None:
        rows.append(("angles", "missing", "start by hand or by landmarks"))
    else:
        angles = ", ".join(f"{x:+.1f}" for x in to_degrees(view.start)[:3].tolist())
        rows.append(("theta, phi, gamma", f"{angles} deg", ""))
    rows.append(("place of the CT", "missing", "no header tells it; it is searched for"))
    left = 0.0 if view.weights is None else float((view.weights <= 0).double().mean())
    rows.append(("masked", f"{100 * left:.2g} % of the pixels", "blades, letters, lost skin"))
    kind = "line integrals" if view.lines else "a picture: only what lies beside what counts"
    rows.append(("grey values", kind, ""))
    return pd.DataFrame(rows, columns=["what", "known", "remark"])


# --- starts, and what came out


def draw_starts(view: View, volume: Volume, starts: dict[str, Tensor]) -> Figure:
    """The image, and the CT as it would look from each start."""
    columns = 1 + len(starts)
    figure, axes = plt.subplots(1, columns, figsize=(10, 10 / columns + 0.2), squeeze=False)
    drr = DRR(volume, view.carm)
    shown = {"X-ray image": view.image} | {n: drr.at(x)[0] for n, x in starts.items()}
    for axis, (name, image) in zip(axes[0], shown.items(), strict=True):
        low, high = np.percentile(image.detach().numpy(), (1, 99.5))
        axis.imshow(image.detach().numpy(), cmap="gray", vmin=low, vmax=high)
        axis.set(xticks=[], yticks=[], xlabel=name)
    return figure


def draw_edges(cases: Sequence[tuple[str, RegistrationResult, View]], volume: Volume) -> Figure:
    """Edges of the CT in the place that was found, on each image, with the verdict below."""
    figure, axes = plt.subplots(1, len(cases), figsize=(10, 10 / len(cases) + 0.5), squeeze=False)
    for axis, (name, found, view) in zip(axes[0], cases, strict=True):
        one = gather(found, view, volume)[0]
        picture = np.repeat(one.fixed[..., None], 3, axis=-1)
        picture[one.edges] = (1.0, 0.45, 0.0)
        axis.imshow(picture, interpolation="nearest")
        verdict = "converged" if found.converged else "NOT converged"
        axis.set(xticks=[], yticks=[])
        reason = "\n".join(textwrap.wrap(f"{verdict}: {found.reason}", 40))
        axis.set_xlabel(f"{name}\n{reason}")
    return figure


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
    if _colab() is not None:
        _colab().download(str(path))
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
