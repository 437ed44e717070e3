"""How sure a pose is: the second place, what holds each parameter, and a verdict."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.carm import CArm
from drrlib.se3 import inverse, transform_points

# A second place this many times worse is another place, not another name for noise.
GAP = 1.5
SURE = 1.0  # [mm]
ALIKE, KEPT = 0.2, 0.5  # loss over the pixels that count; part of them that counts


class Hold(NamedTuple):
    """How the image holds the parameters.

    Attributes:
        condition: Of the Gauss-Newton matrix, parameters scaled to millimetres at the targets.
        target_sd: Standard deviation of the targets' positions [mm].
    """

    condition: float
    target_sd: float


def hold(
    carm: CArm,
    center: Float[Tensor, "3"],
    points: Float[Tensor, "p 3"],
    parameters: Float[Tensor, " n"],
    curvature: Float[Tensor, "n n"],
    covariance: Float[Tensor, "n n"],
) -> Hold:
    """Turn curvature and covariance of the parameters into millimetres at `points`."""

    def seen(eta: Tensor) -> Tensor:
        return transform_points(inverse(carm.pose(eta, center)), points)

    moved = torch.autograd.functional.jacobian(seen, parameters[:6])  # [p, 3, 6]
    reach = moved.square().sum(dim=(0, 1)).div(len(points)).sqrt()
    reach = torch.cat([reach, reach.new_ones(len(parameters) - 6)])
    condition = torch.linalg.cond(curvature / (reach[:, None] * reach))
    variance = torch.einsum("pij,jk,pik->p", moved, covariance[:6, :6], moved).mean()
    sd = math.sqrt(max(float(variance), 0.0)) if bool(torch.isfinite(variance)) else math.inf
    return Hold(float(condition), sd)


def judge(
    loss: float, kept: float, gap: float, target_sd: float, outside: bool
) -> tuple[bool, str]:
    """Whether a pose can be trusted, and the reason.

    Args:
        loss: 1 - ZNCC over the pixels that count.
        kept: Part of the pixels that counts.
        gap: Misfit of the second place over that of the best.
        target_sd: From `hold`.
        outside: Whether the pose lies far outside the range that was searched.
    """
    if not math.isfinite(loss):
        return False, "loss not finite"
    if outside:
        return False, "pose far outside the range that was searched"
    if kept < KEPT:
        return False, f"the CT explains only {100 * kept:.0f} % of the image"
    if loss > ALIKE:
        return False, f"images unlike, loss {loss:.2g}"
    if gap < GAP:
        return False, f"another place fits nearly as well, {gap:.2f} times the misfit"
    if not target_sd < SURE:
        return False, f"the image does not hold the pose, +-{target_sd:.2g} mm"
    return True, "one place fits best"
