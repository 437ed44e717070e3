"""How far a pose is from the truth.

Terms: van de Kraats et al. 2005, doi:10.1109/TMI.2005.853240 (mTRE, reprojection distance), and
Markelj et al. 2012, doi:10.1016/j.media.2010.03.005 (mTRE, mPD, mRPD).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.arrays import Numbers, as_tensor
from drrlib.errors import ShapeError
from drrlib.geometry.se3 import inverse, so3_log, transform_points


class PoseErrors(NamedTuple):
    """Error of a pose, per batch element.

    Attributes:
        rotation: Angle of the remaining rotation [rad].
        rotation_in_plane, rotation_out_of_plane: Parts of its rotation vector along the viewing
            axis of the true camera and across it [rad]; their squares add up to that of `rotation`.
        translation: Displacement of the reference point [mm].
        in_plane, depth: Its parts parallel to the detector and along the viewing axis [mm]; their
            squares add up to that of `translation`.
    """

    rotation: Float[Tensor, " b"]
    rotation_in_plane: Float[Tensor, " b"]
    rotation_out_of_plane: Float[Tensor, " b"]
    translation: Float[Tensor, " b"]
    in_plane: Float[Tensor, " b"]
    depth: Float[Tensor, " b"]


def mtre(
    pose: Numbers,
    true_pose: Numbers,
    points: Numbers,
) -> Float[Tensor, "*b"]:
    """Mean target registration error [mm]: how far the points are from where they should be.

    A point x, seen by the estimated camera and mapped back by the true one, lands at
    T_true T_est^-1 x; the error is the mean distance to x.

    Args:
        pose, true_pose: world_from_camera [..., 4, 4]; leading axes broadcast.
        points: Targets [mm, world], [n, 3], such as landmarks of the volume.

    Raises:
        ShapeError: no points, whose mean would be NaN.
    """
    pose, true_pose = _poses(pose, true_pose)
    points = _points(points).to(pose)
    moved = transform_points(true_pose @ inverse(pose), points)
    return (moved - points).norm(dim=-1).mean(dim=-1)


def mpd(
    pose: Numbers,
    true_pose: Numbers,
    points: Numbers,
    sdd: float | Tensor,
) -> Float[Tensor, "*b"]:
    """Mean projection distance [mm, on the detector]: how far apart both poses project the points.

    Args:
        pose, true_pose: world_from_camera [..., 4, 4]; leading axes broadcast.
        points: Targets [mm, world], [n, 3].
        sdd: Source-detector distance [mm].

    Returns:
        The mean distance; infinite where a point is not in front of both sources.

    Raises:
        ShapeError: no points, whose mean would be NaN.
    """
    pose, true_pose = _poses(pose, true_pose)
    points = _points(points).to(pose)
    sdd = as_tensor(sdd, "sdd", torch.float64).to(pose.device)
    if sdd.ndim:
        raise ShapeError(f"sdd has shape {tuple(sdd.shape)}; expected one number [mm]")
    seen, found = (transform_points(inverse(x), points) for x in (true_pose, pose))
    flat = [sdd * x[..., :2] / x[..., 2:] for x in (seen, found)]
    behind = (seen[..., 2] <= 0) | (found[..., 2] <= 0)
    return (flat[1] - flat[0]).norm(dim=-1).masked_fill(behind, torch.inf).mean(dim=-1)


def mrpd(
    pose: Numbers,
    true_pose: Numbers,
    points: Numbers,
) -> Float[Tensor, "*b"]:
    """Mean reprojection distance [mm]: how far the points are from the rays of their images.

    A point is projected by the estimated camera; its image belongs to a ray of the true camera,
    and the error is the distance of the point to that ray. It is the part of the mTRE that one
    view shows: an error along the rays costs nothing. The detector's place does not matter.

    Args:
        pose, true_pose: world_from_camera [..., 4, 4]; leading axes broadcast.
        points: Targets [mm, world], [n, 3].

    Returns:
        The mean distance; infinite where a point is not in front of the estimated source.

    Raises:
        ShapeError: no points, whose mean would be NaN.
    """
    pose, true_pose = _poses(pose, true_pose)
    points = _points(points).to(pose)
    seen, found = (transform_points(inverse(x), points) for x in (true_pose, pose))
    seen, found = torch.broadcast_tensors(seen, found)
    # found x (seen - found) is found x seen, but exactly 0 for the true pose.
    across = torch.linalg.cross(found, seen - found).norm(dim=-1) / found.norm(dim=-1)
    return across.masked_fill(found[..., 2] <= 0, torch.inf).mean(dim=-1)


def pose_errors(pose: Numbers, true_pose: Numbers, center: Numbers) -> PoseErrors:
    """Rotation, and displacement of one reference point; their parts as the true camera sees them.

    Args:
        pose, true_pose: world_from_camera [..., 4, 4]; leading axes broadcast.
        center: Reference point [mm, world], such as the isocentre or the volume's centre. The
            displacement depends on it: a rotation moves only points off its axis.

    Raises:
        ShapeError: poses that are not [..., 4, 4], or a center that is not [3].
    """
    pose, true_pose = _poses(pose, true_pose)
    center = as_tensor(center, "center").to(pose)
    if tuple(center.shape) != (3,):
        raise ShapeError(f"center has shape {tuple(center.shape)}; expected [3]")
    motion = true_pose @ inverse(pose)
    moved = transform_points(motion, center[None])[..., 0, :] - center
    view = true_pose[..., :3, :3].mT
    turn = (view @ so3_log(motion[..., :3, :3])[..., None])[..., 0]
    seen = (view @ moved[..., None])[..., 0]
    return PoseErrors(
        turn.norm(dim=-1),
        turn[..., 2].abs(),
        turn[..., :2].norm(dim=-1),
        moved.norm(dim=-1),
        seen[..., :2].norm(dim=-1),
        seen[..., 2].abs(),
    )


def _poses(pose: Numbers, true_pose: Numbers) -> list[Tensor]:
    found = []
    for name, values in (("pose", pose), ("true_pose", true_pose)):
        x = as_tensor(values, name, torch.float64)
        if x.ndim < 2 or tuple(x.shape[-2:]) != (4, 4):
            raise ShapeError(f"{name} has shape {tuple(x.shape)}; expected [..., 4, 4]")
        found.append(x)
    try:
        torch.broadcast_shapes(*(x.shape for x in found))
    except RuntimeError:
        raise ShapeError(
            f"pose and true_pose have shapes {[tuple(x.shape) for x in found]}; expected leading "
            "axes that broadcast"
        ) from None
    return found


def _points(points: Numbers) -> Tensor:
    points = as_tensor(points, "points")
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise ShapeError(f"points has shape {tuple(points.shape)}; expected [n, 3], n >= 1")
    return points
