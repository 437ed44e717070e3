"""Where a stranger's CT and X-ray image lie: given, uploaded in Colab, or made up."""

import atexit
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from drrlib.drr import DRR
from drrlib.errors import ConfigError
from drrlib.geometry import (
    CArm,
    eta,
)
from drrlib.io import read_volume, read_xray, write_ct_series, write_xray
from drrlib.lab import detector, phantoms
from drrlib.view import View
from drrlib.volume import Volume


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
    # In this order: no .zip; a password; a compression that Python lacks; cut short; damaged.
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, zlib.error) as error:
        raise ConfigError(
            f"{name}: {path.name!r} cannot be unpacked ({type(error).__name__}): damaged, cut "
            "short, or with a password; unpack it yourself and give the folder"
        ) from None
    inside = [p for p in (folder / name).rglob("*") if p.is_file() and p.name[0] not in "._"]
    return inside[0] if len(inside) == 1 else folder / name


def _uploaded(name: str, folder: Path) -> Path:
    """What a person chose in the browser: one file, or several of one series."""
    if colab_files() is None:
        raise ConfigError(f"{name} is 'upload', which needs Google Colab; give a path instead")
    place = folder / f"{name}_uploaded"
    place.mkdir()
    print(f"choose the file of {name} (a DICOM series as one .zip)")
    for file, data in colab_files().upload().items():
        (place / Path(file).name).write_bytes(data)
    files = sorted(place.iterdir())
    if not files:
        raise ConfigError(f"nothing was chosen for {name}; run the cell again")
    return files[0] if len(files) == 1 else place


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


def colab_files():
    """google.colab.files; None elsewhere."""
    try:
        from google.colab import files
    except ImportError:
        return None
    return files
