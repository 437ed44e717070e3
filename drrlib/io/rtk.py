"""Geometry files of RTK, the reconstruction toolkit, as calibrations."""

import os
from xml.etree import ElementTree

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.arrays import as_numbers, as_size
from drrlib.errors import ConfigError, GeometryError
from drrlib.geometry import so3_exp
from drrlib.io.calibration import (
    Calibration,
    calibration_from_matrix,
    calibration_text,
    naming,
)


def read_rtk_geometry(
    path: str | os.PathLike,
    size: tuple[int, int],
    spacing: tuple[float, float],
    origin: tuple[float, float] | None = None,
) -> list[Calibration]:
    """Every projection of an RTK geometry file (RTKThreeDCircularGeometry, .xml).

    The world is that of the reconstructed volume's file: RTK's rotation axis is its y.

    Args:
        path: The geometry.
        size: (height, width) of the projections, which the file does not tell.
        spacing: (row, column) spacing of the projections [mm].
        origin: Position (x, y) of the centre of pixel (0, 0) [mm] as in the projections' header;
            None if their middle is at 0.

    Raises:
        ConfigError: no such file, or no RTK geometry; names the file.
        GeometryError: a projection that is no cone beam; names the file.
    """
    size = as_size(size)
    spacing = as_numbers(spacing, "spacing", 2)
    origin = None if origin is None else as_numbers(origin, "origin", 2)
    text = calibration_text(path)
    if "<!ENTITY" in text:
        raise ConfigError(f"{os.fspath(path)!r} defines XML entities; expected plain numbers")
    try:
        root = ElementTree.fromstring(text)
        shared = _rtk_numbers(root)
        steps = [shared | _rtk_numbers(node) for node in root.iter("Projection")]
    except (ElementTree.ParseError, ValueError):
        steps = []
    if not steps:
        raise ConfigError(
            f"{os.fspath(path)!r} is no RTK geometry; expected the XML that "
            "rtk::ThreeDCircularProjectionGeometryXMLFileWriter writes, with a <Projection> each"
        )
    (height, width), (dely, delx) = size, spacing
    if origin is None:
        origin = (-0.5 * (width - 1) * delx, -0.5 * (height - 1) * dely)
    return [naming(path, lambda s=s: _rtk_camera(s, size, (dely, delx), origin)) for s in steps]


def _rtk_numbers(node) -> dict[str, float]:
    plain = [n for n in node if n.tag not in ("Projection", "Matrix") and len(n) == 0 and n.text]
    return {n.tag: float(n.text) for n in plain if n.text.strip()}


def _rtk_camera(values: dict, size, spacing, origin) -> Calibration:
    """RTK's chain of matrices, from the parameters of one projection [mm, degrees].

    Source: RTK, rtkThreeDCircularProjectionGeometry: M = translation x magnification x source
    translation x rotation, the rotation being Z X Y by (-in-plane, -out-of-plane, -gantry).
    """

    def get(*names: str) -> float:
        return next((values[n] for n in names if n in values), 0.0)

    sid = get("SourceToIsocenterDistance", "SID")
    sdd = get("SourceToDetectorDistance", "SDD")
    if not 0 < sid < sdd:
        raise GeometryError(
            f"SourceToIsocenterDistance {sid:g} and SourceToDetectorDistance {sdd:g} mm; expected "
            "0 < the former < the latter (parallel beams have no source)"
        )
    if any(values.get(n) for n in ("RadiusCylindricalDetector",)):
        raise GeometryError("the detector is a cylinder; expected a flat one")
    source = (get("SourceOffsetX"), get("SourceOffsetY"))
    shift = (get("ProjectionOffsetX"), get("ProjectionOffsetY"))
    x, y, z = (
        torch.tensor(np.deg2rad(-get(n)), dtype=torch.float64)
        for n in ("OutOfPlaneAngle", "GantryAngle", "InPlaneAngle")
    )
    rotation = torch.eye(4, dtype=torch.float64)
    rotation[:3, :3] = _about(2, z) @ _about(0, x) @ _about(1, y)
    moved = torch.eye(4, dtype=torch.float64)
    moved[:2, 3] = -torch.tensor(source, dtype=torch.float64)
    magnify = torch.tensor([[-sdd, 0, 0, 0], [0, -sdd, 0, 0], [0, 0, 1, -sid]], dtype=torch.float64)
    on_detector = torch.eye(3, dtype=torch.float64)
    on_detector[:2, 2] = torch.tensor(source, dtype=torch.float64) - torch.tensor(shift).double()
    pixels = torch.eye(3, dtype=torch.float64)
    for q in range(2):
        pixels[q, q] = 1 / spacing[1 - q]
        pixels[q, 2] = -origin[q] / spacing[1 - q]
    # From behind the source to in front of it; x and y grow along columns and rows.
    matrix = -(pixels @ on_detector @ magnify @ moved @ rotation)
    return calibration_from_matrix(matrix, size, delx=spacing[1], sod=sid, pixel_centers="integer")


def _about(axis: int, angle: Tensor) -> Float[Tensor, "3 3"]:
    return so3_exp(angle * torch.eye(3, dtype=torch.float64)[axis])
