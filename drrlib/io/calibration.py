"""Calibrated cameras in the forms that people have, as C-arm and pose.

A calibration in pixels knows the focal length in pixels only. Detectors of any pixel pitch at the
distance that fits it see the same rays, so that images and registration do not depend on the
pitch; only lengths on the detector do. Where none is given, the detector is put at twice the
distance of the isocentre (or at `sdd`), and must lie beyond the body.

The isocentre, whose distance is `sod`, only gives eta its meaning. For one camera it is the foot of
the world's origin on the optical axis; for several, `with_common_isocenter` takes the point that is
nearest to all axes, about where people put the patient.

Image coordinates here put pixel centres at half-integers; OpenCV, XMALab and most calibration
tools put them at integers, which `pixel_centers` tells.
"""

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.arrays import Numbers, as_flag, as_length, as_path, as_size, as_tensor, check_kind
from drrlib.errors import ConfigError, DrrlibError, GeometryError, ShapeError
from drrlib.geometry import CArm, so3_exp
from drrlib.io.distortion import Distortion

MAX_BYTES = 64 * 2**20  # of a text file with a calibration
_AXES = {"opencv": (1.0, 1.0, 1.0), "opengl": (1.0, -1.0, -1.0)}
_CENTERS = {"integer": 0.5, "half": 0.0}


class Calibration(NamedTuple):
    """One calibrated camera.

    Attributes:
        carm: Its intrinsics.
        pose: world_from_camera in the calibration's world [4, 4] (mm), float64.
        distortion: What is to be removed of its images; None where they are undistorted.
    """

    carm: CArm
    pose: Float[Tensor, "4 4"]
    distortion: Distortion | None = None

    @property
    def matrix(self) -> Float[Tensor, "3 4"]:
        """World point -> (column, row, 1) x depth, pixel centres at half-integers."""
        return self.carm.projection_matrix(self.pose)


def calibration_from_matrix(
    matrix: Numbers,
    size: tuple[int, int],
    *,
    delx: float | None = None,
    sdd: float | None = None,
    sod: float | None = None,
    pixel_centers: str = "half",
    ahead: Numbers | None = None,
) -> Calibration:
    """A camera of a 3x4 projection matrix, of any scale and sign.

    Args:
        matrix: World point [mm, 1] -> (column, row, 1) x any factor.
        size: (height, width) in pixels.
        delx: Column spacing on the detector [mm], if it is known.
        sdd: Source-detector distance [mm], if that is known instead.
        sod: Source-isocentre distance [mm]; None for the foot of `ahead` on the optical axis, or
            0.6 of the way to a detector that is nearer than that.
        pixel_centers: "half" or "integer": where the matrix puts the centre of pixel (0, 0).
        ahead: A world point [mm] in front of the camera, which settles the sign; default the
            origin.

    Raises:
        ShapeError, GeometryError, ConfigError: no finite camera, skewed pixels, or an option.
    """
    if not isinstance(pixel_centers, str) or pixel_centers not in _CENTERS:
        raise ConfigError(f"pixel_centers is {pixel_centers!r}; choose half or integer")
    if delx is not None and sdd is not None:
        raise ConfigError("delx and sdd are both given; a matrix needs one of them or none")
    matrix = as_tensor(matrix, "matrix", torch.float64).detach().clone()
    if tuple(matrix.shape) != (3, 4):
        raise ShapeError(f"matrix has shape {tuple(matrix.shape)}; expected (3, 4)")
    point = torch.zeros(3) if ahead is None else as_tensor(ahead, "ahead").detach().cpu()
    if tuple(point.shape) != (3,):
        raise ShapeError(f"ahead has shape {tuple(point.shape)}; expected one point, (3,)")
    lengths = {"delx": delx, "sdd": sdd, "sod": sod}
    delx, sdd, sod = (None if x is None else as_length(x, n) for n, x in lengths.items())
    scale = matrix[2, :3].norm()
    depth = float(matrix[2] @ torch.cat([point.double(), torch.ones(1).double()]) / scale)
    if not np.isfinite(depth) or abs(depth) < 1e-6:
        raise GeometryError(
            "the world's origin is at the source's depth, so that the matrix's sign is open; pass "
            "ahead=(x, y, z), a point in front of the camera [mm]"
        )
    if depth < 0:
        matrix, depth = -matrix, -depth
    size = as_size(size)
    matrix[:2] += _CENTERS[pixel_centers] * matrix[2]
    trial, _ = CArm.from_projection_matrix(matrix, *size, 1.0, sod=1e-9)
    focal = trial.sdd  # in columns
    if delx is None:
        delx = (2 * (depth if sod is None else sod) if sdd is None else float(sdd)) / focal
    if sod is None:
        sod = depth if depth < delx * focal else 0.6 * delx * focal
    carm, pose = CArm.from_projection_matrix(matrix, *size, delx, sod=sod)
    return Calibration(carm, pose)


def calibration_from_krt(
    k: Numbers,
    rotation: Numbers,
    translation: Numbers,
    size: tuple[int, int],
    *,
    axes: str = "opencv",
    world_from_camera: bool = False,
    **others,
) -> Calibration:
    """A camera of K [3, 3] and [R|t]: image = K (R X + t).

    Args:
        k: Focal lengths and principal point in pixels; a skew must be 0.
        rotation: [3, 3], or OpenCV's rotation vector [3] (rad).
        translation: t [3] (mm).
        size: (height, width) in pixels.
        axes: Of the camera: "opencv" (y down, z ahead) or "opengl" (y up, z behind).
        world_from_camera: True if R and t take points of the camera to the world, so that t is
            the source; False for OpenCV's, which take world to camera.
        others: delx, sdd, sod, ahead and pixel_centers as in `calibration_from_matrix`, the last
            by default "integer", as in OpenCV.

    Raises:
        ShapeError, GeometryError, ConfigError: not a camera, or an option.
    """
    if not isinstance(axes, str) or axes not in _AXES:
        raise ConfigError(f"axes is {axes!r}; choose one of {', '.join(_AXES)}")
    arrays = [as_tensor(x, n).double() for x, n in ((k, "k"), (rotation, "R"), (translation, "t"))]
    k, rotation, translation = arrays[0], arrays[1].squeeze(), arrays[2].flatten()
    if tuple(rotation.shape) == (3,):
        rotation = so3_exp(rotation)
    shapes = [tuple(x.shape) for x in (k, rotation, translation)]
    if shapes != [(3, 3), (3, 3), (3,)]:
        raise ShapeError(f"k, R and t have shapes {shapes}; expected (3, 3), (3, 3) and (3,)")
    off = (rotation @ rotation.mT - torch.eye(3, dtype=torch.float64)).abs().max()
    if not bool(off < 1e-3) or not bool(rotation.det() > 0):
        raise GeometryError(
            f"R is no rotation (R R' differs from 1 by {float(off):.2g}, determinant "
            f"{float(rotation.det()):.3g}); expected one, to three decimals at least"
        )
    u, _, v = torch.linalg.svd(rotation)
    rotation = u @ v
    if as_flag(world_from_camera, "world_from_camera"):
        rotation, translation = rotation.mT, -(rotation.mT @ translation)
    turn = torch.diag(torch.tensor(_AXES[axes], dtype=torch.float64))
    inside = torch.cat([rotation, translation[:, None]], dim=1)
    matrix = k @ turn @ inside
    # The camera's own z tells what is ahead; a point on its axis settles the sign.
    source = -(rotation.mT @ translation)
    optical = (turn @ rotation)[2]
    others.setdefault("pixel_centers", "integer")
    if others.get("ahead") is None:
        along = float(-(source @ optical))
        others["ahead"] = source + max(along, 1.0) * optical
    return calibration_from_matrix(matrix, size, **others)


def read_mayacam(path: str | os.PathLike, **others) -> Calibration:
    """A MayaCam 2.0 file, as XMALab writes and Autoscoper reads it.

    Args:
        path: Text with the sections "image size" (width, height), "camera matrix", "rotation" and
            "translation": x = K (R X + t), OpenCV axes, pixel centres at integers.
        others: delx, sdd and sod [mm], which the file does not tell; see `calibration_from_matrix`.

    Raises:
        ConfigError: no such file, or none of that form; names the file.
        GeometryError: numbers that are no camera; names the file.
    """
    text = calibration_text(path)
    wanted = {"image size": 2, "camera matrix": 9, "rotation": 9, "translation": 3}
    found: dict[str, list[float]] = {}
    section = None
    for line in text.splitlines():
        name = line.strip().lower()
        if name in wanted:
            section = found.setdefault(name, [])
        elif name and section is not None:
            try:
                section.extend(float(x) for x in re.split(r"[,;\s]+", name) if x)
            except ValueError:
                raise _not_mayacam(path, "a line that is neither name nor numbers") from None
    for name, count in wanted.items():
        if len(found.get(name, [])) != count or not np.isfinite(found.get(name, [])).all():
            raise _not_mayacam(path, f"{len(found.get(name, []))} numbers under {name!r}")
    width, height = (int(x) for x in found["image size"])
    k, r = (np.reshape(found[n], (3, 3)) for n in ("camera matrix", "rotation"))
    return naming(
        path, lambda: calibration_from_krt(k, r, found["translation"], (height, width), **others)
    )


def _not_mayacam(path, why: str) -> ConfigError:
    return ConfigError(
        f"{os.fspath(path)!r} is no MayaCam 2.0 calibration ({why}); expected the sections image "
        "size (2 numbers), camera matrix (9), rotation (9) and translation (3): export it from "
        "XMALab as MayaCam 2.0"
    )


def calibration_text(path: str | os.PathLike) -> str:
    """A text file of bounded size.

    Raises:
        ConfigError: no such file, too large, or no text; names the file.
    """
    path = as_path(path)
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise ConfigError(
            f"{str(path)!r} is no file of at most {MAX_BYTES} bytes; expected a calibration"
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{str(path)!r} is no text; expected a calibration file") from None


def naming(path, make):
    """What `make` returns; its errors name the file."""
    try:
        return make()
    except DrrlibError as error:
        raise type(error)(f"{os.fspath(path)!r}: {error}") from None


def with_common_isocenter(calibrations: Sequence[Calibration]) -> list[Calibration]:
    """Calibrations of one world, with the isocentre where all optical axes pass closest.

    Each keeps its rays; where the pixel pitch is unknown, detectors stay where they are if they lie
    beyond the isocentre, else they move to twice its distance.

    Args:
        calibrations: Two or more, such as those of a biplane.

    Raises:
        ConfigError: fewer than two.
        GeometryError: parallel axes, or a camera that looks the other way.
    """
    if not isinstance(calibrations, Sequence) or len(calibrations) < 2:
        raise ConfigError("expected a list of two or more calibrations of one world")
    for c in calibrations:
        check_kind(c, Calibration, "one of calibrations")
    sources = torch.stack([c.pose[:3, 3] for c in calibrations])
    axes = torch.stack([c.pose[:3, 2] for c in calibrations])
    across = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None]
    system = across.sum(dim=0)
    if float(torch.linalg.eigvalsh(system)[0]) < 1e-6:
        raise GeometryError("the optical axes are parallel; no point is nearest to all of them")
    middle = torch.linalg.solve(system, (across @ sources[:, :, None]).sum(dim=0)[:, 0])
    made = []
    for c, depth in zip(calibrations, ((middle - sources) * axes).sum(dim=1).tolist(), strict=True):
        if depth <= 0:
            raise GeometryError("a camera looks away from where the optical axes meet")
        grow = 1.0 if c.carm.sdd > 1.2 * depth else 2 * depth / c.carm.sdd
        lengths = {n: grow * getattr(c.carm, n) for n in ("sdd", "delx", "dely", "x0", "y0")}
        made.append(c._replace(carm=dataclasses.replace(c.carm, sod=depth, **lengths)))
    return made
