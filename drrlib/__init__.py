"""Differentiable DRRs by Siddon's and Joseph's methods, and 2D/3D registration with them.

Conventions: millimetres, radians, patient coordinates LPS (+x left, +y posterior, +z superior),
`mu[x, y, z]` in 1/mm, images [batch, 1, height, width], `pose` is world_from_camera.
"""

from drrlib.drr import DRR
from drrlib.geometry.carm import CArm
from drrlib.geometry.metrics import mtre
from drrlib.io.ct import read_volume
from drrlib.io.dicom_series import list_series, read_ct_series
from drrlib.io.dicom_write import write_ct_series
from drrlib.projectors import Grid, line_integrals, project
from drrlib.registration.register import RegistrationResult, View, register
from drrlib.similarity.correlation import l2, ncc, zncc
from drrlib.volume import Volume

__all__ = [
    "DRR",
    "CArm",
    "Grid",
    "RegistrationResult",
    "View",
    "Volume",
    "l2",
    "line_integrals",
    "list_series",
    "mtre",
    "ncc",
    "project",
    "read_ct_series",
    "read_volume",
    "register",
    "write_ct_series",
    "zncc",
]
