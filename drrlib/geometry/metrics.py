"""How far a registration is from the truth, and how sure a success rate is.

Terms: van de Kraats et al. 2005, doi:10.1109/TMI.2005.853240 (mTRE, reprojection distance), and
Markelj et al. 2012, doi:10.1016/j.media.2010.03.005 (mTRE, mPD, mRPD).
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry.se3 import inverse, so3_log, transform_points
from drrlib.volume import Volume


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


def targets(volume: Volume) -> Float[Tensor, "6 3"]:
    """Points whose displacement the mTRE measures: 50 mm from the centre along each axis."""
    step = 50 * torch.eye(3, dtype=torch.float64)
    return volume.center + torch.cat([step, -step])


def mtre(
    pose: Float[Tensor, "*#b 4 4"],
    true_pose: Float[Tensor, "*#b 4 4"],
    points: Float[Tensor, "n 3"],
) -> Float[Tensor, "*b"]:
    """Mean target registration error [mm]: how far the points are from where they should be.

    A point x, seen by the estimated camera and mapped back by the true one, lands at
    T_true T_est^-1 x; the error is the mean distance to x.

    Args:
        pose, true_pose: world_from_camera; a batch of one stands for all.
        points: Targets [mm, world], such as landmarks of the volume.

    Raises:
        ShapeError: no points, whose mean would be NaN.
    """
    _check_points(points)
    moved = transform_points(true_pose @ inverse(pose), points.to(pose))
    return (moved - points.to(pose)).norm(dim=-1).mean(dim=-1)


def mpd(
    pose: Float[Tensor, "*#b 4 4"],
    true_pose: Float[Tensor, "*#b 4 4"],
    points: Float[Tensor, "n 3"],
    sdd: float | Tensor,
) -> Float[Tensor, "*b"]:
    """Mean projection distance [mm, on the detector]: how far apart both poses project the points.

    Args:
        pose, true_pose: world_from_camera; a batch of one stands for all.
        points: Targets [mm, world].
        sdd: Source-detector distance [mm].

    Returns:
        The mean distance; infinite where a point is not in front of both sources.

    Raises:
        ShapeError: no points, whose mean would be NaN.
    """
    seen, found = _seen(true_pose, points), _seen(pose, points)
    flat = [sdd * x[..., :2] / x[..., 2:] for x in (seen, found)]
    behind = (seen[..., 2] <= 0) | (found[..., 2] <= 0)
    return (flat[1] - flat[0]).norm(dim=-1).masked_fill(behind, torch.inf).mean(dim=-1)


def mrpd(
    pose: Float[Tensor, "*#b 4 4"],
    true_pose: Float[Tensor, "*#b 4 4"],
    points: Float[Tensor, "n 3"],
) -> Float[Tensor, "*b"]:
    """Mean reprojection distance [mm]: how far the points are from the rays of their images.

    A point is projected by the estimated camera; its image belongs to a ray of the true camera,
    and the error is the distance of the point to that ray. It is the part of the mTRE that one
    view shows: an error along the rays costs nothing. The detector's place does not matter.

    Args:
        pose, true_pose: world_from_camera; a batch of one stands for all.
        points: Targets [mm, world].

    Returns:
        The mean distance; infinite where a point is not in front of the estimated source.

    Raises:
        ShapeError: no points, whose mean would be NaN.
    """
    seen, found = _seen(true_pose, points), _seen(pose, points)
    # found x (seen - found) is found x seen, but exactly 0 for the true pose.
    across = torch.linalg.cross(found, seen - found).norm(dim=-1) / found.norm(dim=-1)
    return across.masked_fill(found[..., 2] <= 0, torch.inf).mean(dim=-1)


def pose_errors(
    pose: Float[Tensor, "*#b 4 4"], true_pose: Float[Tensor, "*#b 4 4"], center: Float[Tensor, "3"]
) -> PoseErrors:
    """Rotation, and displacement of one reference point; their parts as the true camera sees them.

    Args:
        pose, true_pose: world_from_camera; a batch of one stands for all.
        center: Reference point [mm, world], such as the isocentre or the volume's centre. The
            displacement depends on it: a rotation moves only points off its axis.
    """
    motion = true_pose @ inverse(pose)
    moved = transform_points(motion, center.to(pose)[None])[..., 0, :] - center.to(pose)
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


def wilson_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a success rate (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    Raises:
        ConfigError: not 0 <= successes <= trials with trials >= 1, or level not in (0, 1).
    """
    if not (0 <= successes <= trials and trials >= 1 and 0 < level < 1):
        raise ConfigError(
            f"got {successes} successes of {trials} trials at level {level}; expected 0 <= "
            "successes <= trials, trials >= 1, 0 < level < 1"
        )
    z = math.sqrt(2) * float(torch.erfinv(torch.tensor(level, dtype=torch.float64)))
    rate, share = successes / trials, z * z / trials
    middle = (rate + share / 2) / (1 + share)
    half = z / (1 + share) * math.sqrt(rate * (1 - rate) / trials + share / trials / 4)
    # At both ends the interval reaches 0 and 1 exactly, but for rounding.
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    return low, 1.0 if successes == trials else min(1.0, middle + half)


def _seen(pose: Tensor, points: Tensor) -> Tensor:
    """Points in the camera's frame, z along the viewing axis [..., n, 3]."""
    _check_points(points)
    return transform_points(inverse(pose), points.to(pose))


def _check_points(points: Tensor) -> None:
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise ShapeError(f"points has shape {tuple(points.shape)}; expected [n, 3], n >= 1")
