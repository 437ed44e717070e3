"""Motion from one time step to the next: where a body will be, and poses smoothed over time.

The body is what moves; world_from_camera says the same from the other side. A step is the twist
between two poses, and the same twist again is motion at constant velocity along one screw.
"""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.geometry import CArm, inverse, se3
from drrlib.registration.result import RegistrationResult

DAMPING = 0.85  # part of the velocity that is left after each time step without a pose
_FAR = 4.0  # widths of the smoothing beyond which a time step has no say


def predicted(
    last: Float[Tensor, "4 4"],
    before: Float[Tensor, "4 4"] | None,
    between: int = 1,
    ahead: int = 1,
    damping: float = DAMPING,
) -> Float[Tensor, "4 4"]:
    """Pose some time steps ahead at constant velocity on SE(3), which dies down.

    Args:
        last: world_from_camera of the last trusted pose.
        before: The trusted one before it; None where there is none, for no motion.
        between: Time steps between these two.
        ahead: Time steps from the last one to the one that is wanted.
        damping: Part of the velocity that is left after each step; the first step is whole.
    """
    if before is None:
        return last
    step = se3.log(last @ inverse(before)) / between
    return se3.exp(sum(damping**k for k in range(ahead)) * step) @ last


def smoothed(results: Sequence[RegistrationResult], width: float) -> list[RegistrationResult]:
    """Poses of trusted frames replaced by a curve through their neighbours.

    Around each frame a parabola in time is fitted to rotation and place of the body, as the camera
    sees them. A neighbour counts by the inverse of its stated covariance, so that depth, which one
    view holds weakly, is smoothed the most, and by a Gaussian of its distance in time. Frames that
    are doubtful have no say and stay as they are. Stated errors stay as well: a part of them is
    common to all frames, and no averaging removes it.

    Args:
        results: One for each time step.
        width: Standard deviation of the Gaussian [time steps].
    """
    trusted = [k for k, one in enumerate(results) if one.converged]
    precise = {k: torch.linalg.pinv(_spread(results[k]), hermitian=True) for k in trusted}
    found = list(results)
    for k in trusted:
        near = [j for j in trusted if abs(j - k) <= _FAR * width]
        if len(near) < 3:
            continue
        moves = torch.stack([_move(results[k], results[j]) for j in near])
        time = torch.tensor([float(j - k) for j in near], dtype=torch.float64)
        weights = torch.exp(-0.5 * (time / width).square())
        weights = weights[:, None, None] * torch.stack([precise[j] for j in near])
        found[k] = _moved(results[k], _at_zero(time, moves, weights))
    return found


def _at_zero(
    time: Float[Tensor, " n"], moves: Float[Tensor, "n 6"], weights: Float[Tensor, "n 6 6"]
) -> Float[Tensor, "6"]:
    """Value at time 0 of a weighted parabola; of a line where there are few points."""
    powers = torch.arange(3 if len(time) > 4 else 2)
    basis = (time[:, None] / time.abs().max()) ** powers  # [n, p]
    left = torch.einsum("np,nij,nq->piqj", basis, weights, basis)
    right = torch.einsum("np,nij,nj->pi", basis, weights, moves)
    size = 6 * len(powers)
    fitted = torch.linalg.lstsq(left.reshape(size, size), right.reshape(size, 1)).solution
    return fitted[:6, 0]


def _move(base: RegistrationResult, other: RegistrationResult) -> Float[Tensor, "6"]:
    """Rotation vector [rad] and shift of the centre [mm] in camera axes, from one to the other."""
    turn = se3.so3_log(base.pose[:3, :3].mT @ other.pose[:3, :3])
    return torch.cat([turn, _seen(other.pose, base.center) - _seen(base.pose, base.center)])


def _moved(base: RegistrationResult, move: Float[Tensor, "6"]) -> RegistrationResult:
    """The inverse of `_move`."""
    rotation = base.pose[:3, :3] @ se3.so3_exp(move[:3])
    place = base.center - rotation @ (_seen(base.pose, base.center) + move[3:])
    pose = se3.rigid(rotation, place)
    return dataclasses.replace(base, eta=base.carm.eta(pose, base.center), pose=pose)


def _seen(pose: Float[Tensor, "4 4"], center: Float[Tensor, "3"]) -> Float[Tensor, "3"]:
    """A point in camera axes [mm]."""
    return pose[:3, :3].mT @ (center - pose[:3, 3])


def _spread(one: RegistrationResult) -> Float[Tensor, "6 6"]:
    """Covariance of `_move`, from that of eta."""
    carm: CArm = one.carm
    slopes, rotation = carm.pose_slopes(one.eta), one.pose[:3, :3]
    turn = rotation.mT @ slopes[:, :3, :3]  # [6, 3, 3], skew
    turned = torch.stack([turn[:, 2, 1], turn[:, 0, 2], turn[:, 1, 0]])
    away = one.center - one.pose[:3, 3]
    shifted = (slopes[:, :3, :3].mT @ away - slopes[:, :3, 3] @ rotation).T
    by_eta = torch.cat([turned, shifted])  # [6, 6]
    return by_eta @ one.covariance[:6, :6] @ by_eta.T
