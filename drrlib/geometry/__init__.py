"""Where source, detector and patient are: rigid motions, C-arms, CT localizers, pose errors."""

from drrlib.geometry import se3
from drrlib.geometry.carm import BEHIND, CArm, depth
from drrlib.geometry.conventions import (
    from_diffdrr,
    from_nanodrr,
    to_deepdrr,
    to_diffdrr,
    to_nanodrr,
    to_opencv,
    to_xreg,
)
from drrlib.geometry.detector import LENGTHS, Frame, Scalar
from drrlib.geometry.localizer import Geometry, ScanProjection
from drrlib.geometry.metrics import PoseErrors, mpd, mrpd, mtre, pose_errors
from drrlib.geometry.parameters import PARAMETERS, eta, to_degrees, to_radians
from drrlib.geometry.poses import write_matrix, write_tfm
from drrlib.geometry.se3 import check_rigid, inverse, rigid, so3_exp, so3_log, transform_points

__all__ = [
    "BEHIND",
    "LENGTHS",
    "PARAMETERS",
    "CArm",
    "Frame",
    "Geometry",
    "PoseErrors",
    "Scalar",
    "ScanProjection",
    "check_rigid",
    "depth",
    "eta",
    "from_diffdrr",
    "from_nanodrr",
    "inverse",
    "mpd",
    "mrpd",
    "mtre",
    "pose_errors",
    "rigid",
    "se3",
    "so3_exp",
    "so3_log",
    "to_deepdrr",
    "to_degrees",
    "to_diffdrr",
    "to_nanodrr",
    "to_opencv",
    "to_radians",
    "to_xreg",
    "transform_points",
    "write_matrix",
    "write_tfm",
]
