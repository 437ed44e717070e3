"""Where source, detector and patient are: rigid motions, C-arms, CT localizers, pose errors."""

from drrlib.geometry import se3
from drrlib.geometry.carm import LENGTHS, CArm, Frame, Scalar
from drrlib.geometry.localizer import Geometry, ScanProjection
from drrlib.geometry.metrics import PoseErrors, mpd, mrpd, mtre, pose_errors
from drrlib.geometry.parameters import PARAMETERS, eta, to_degrees, to_radians
from drrlib.geometry.poses import write_tfm
from drrlib.geometry.se3 import check_rigid, inverse, rigid, so3_exp, so3_log, transform_points

__all__ = [
    "LENGTHS",
    "PARAMETERS",
    "CArm",
    "Frame",
    "Geometry",
    "PoseErrors",
    "Scalar",
    "ScanProjection",
    "check_rigid",
    "eta",
    "inverse",
    "mpd",
    "mrpd",
    "mtre",
    "pose_errors",
    "rigid",
    "se3",
    "so3_exp",
    "so3_log",
    "to_degrees",
    "to_radians",
    "transform_points",
    "write_tfm",
]
