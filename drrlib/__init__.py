"""Differentiable DRRs by Siddon's and Joseph's methods, and 2D/3D registration with them.

Conventions: millimetres, radians, patient coordinates LPS (+x left, +y posterior, +z superior),
`mu[x, y, z]` in 1/mm, images [..., 1, height, width], `pose` is world_from_camera.
"""

from drrlib import regions
from drrlib.drr import DRR
from drrlib.geometry import CArm, ScanProjection, eta, mtre
from drrlib.io import (
    carm_from_dicom,
    list_series,
    read_ct_series,
    read_mayacam,
    read_mesh,
    read_tiff_stack,
    read_volume,
    read_xray,
    read_xray_run,
    start_from_dicom,
)
from drrlib.projectors import Grid, line_integrals, project
from drrlib.registration import (
    Registration,
    RegistrationResult,
    Track,
    descend,
    register,
    register_bodies,
    track,
)
from drrlib.similarity import ncc, zncc
from drrlib.view import View
from drrlib.volume import Volume

__all__ = [
    "DRR",
    "CArm",
    "Grid",
    "Registration",
    "RegistrationResult",
    "ScanProjection",
    "Track",
    "View",
    "Volume",
    "carm_from_dicom",
    "descend",
    "eta",
    "line_integrals",
    "list_series",
    "mtre",
    "ncc",
    "project",
    "read_ct_series",
    "read_mayacam",
    "read_mesh",
    "read_tiff_stack",
    "read_volume",
    "read_xray",
    "read_xray_run",
    "regions",
    "register",
    "register_bodies",
    "start_from_dicom",
    "track",
    "zncc",
]
