"""How far a registration is from the truth, and how sure a success rate is."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.errors import ConfigError, ShapeError
from drrlib.se3 import inverse, rotation_angle, transform_points


class PoseErrors(NamedTuple):
    """Error of a pose, per batch element.

    Attributes:
        rotation: Angle of the remaining rotation [rad].
        translation: Displacement of the reference point [mm].
        in_plane, depth: Its parts parallel to the detector and along the viewing direction [mm].
    """

    rotation: Float[Tensor, " b"]
    translation: Float[Tensor, " b"]
    in_plane: Float[Tensor, " b"]
    depth: Float[Tensor, " b"]


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
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise ShapeError(f"points has shape {tuple(points.shape)}; expected [n, 3], n >= 1")
    moved = transform_points(true_pose @ inverse(pose), points.to(pose))
    return (moved - points.to(pose)).norm(dim=-1).mean(dim=-1)


def pose_errors(
    pose: Float[Tensor, "*#b 4 4"], true_pose: Float[Tensor, "*#b 4 4"], center: Float[Tensor, "3"]
) -> PoseErrors:
    """Rotation, and displacement of one reference point; its parts as the true camera sees them.

    Args:
        pose, true_pose: world_from_camera; a batch of one stands for all.
        center: Reference point [mm, world], such as the isocentre or the volume's centre. The
            displacement depends on it: a rotation moves only points off its axis.
    """
    motion = true_pose @ inverse(pose)
    moved = transform_points(motion, center.to(pose)[None])[..., 0, :] - center.to(pose)
    seen = (true_pose[..., :3, :3].mT @ moved[..., None])[..., 0]
    return PoseErrors(
        rotation_angle(motion[..., :3, :3]),
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
