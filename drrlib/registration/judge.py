"""How sure a pose is: the second place, what holds each parameter, and a verdict."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.geometry import Geometry, mtre, so3_log

# A second place this many times worse is another place, not another name for noise.
GAP = 1.5
SURE = 1.0  # [mm]
APART = 10.0  # [mm] mTRE between poses that count as different places
LOOSE = "the image does not hold the pose"  # how that reason begins
SLACK = 2.0  # a pose may lie this many times the stated range away
ALIKE, KEPT = 0.2, 0.5  # loss over the pixels that count; part of them that counts
# The same where images were normalised in windows: noise counts for as much as bone there, and the
# end of the CT takes away what it takes away.
ALIKE_IN_WINDOWS, KEPT_IN_WINDOWS = 0.7, 0.05


class Hold(NamedTuple):
    """How the image holds the parameters.

    Attributes:
        condition: Of the Gauss-Newton matrix, parameters scaled to millimetres at the targets.
        target_sd: Standard deviation of the targets' positions [mm].
        across_sd: Its part across the view.
        depth_sd: Its part along the view.
    """

    condition: float
    target_sd: float
    across_sd: float
    depth_sd: float


def hold(
    carm: Geometry,
    center: Float[Tensor, "3"],
    points: Float[Tensor, "p 3"],
    parameters: Float[Tensor, " n"],
    curvature: Float[Tensor, "n n"],
    covariance: Float[Tensor, "n n"],
) -> Hold:
    """Turn curvature and covariance of the parameters into millimetres at `points`."""
    moved = _moved(carm, center, points, parameters[:6])
    reach = moved.square().sum(dim=(0, 1)).div(len(points)).sqrt()
    reach = torch.cat([reach, reach.new_ones(len(parameters) - 6)])
    condition = torch.linalg.cond(curvature / (reach[:, None] * reach))
    variance = cloud(carm, center, points, parameters[:6], covariance[:6, :6]).diagonal()
    held = bool(torch.isfinite(variance).all()) and bool(torch.isfinite(condition))
    x, y, z = variance.clamp_min(0).tolist() if held else [math.inf] * 3
    return Hold(float(condition), math.sqrt(x + y + z), math.sqrt(x + y), math.sqrt(z))


def cloud(
    carm: Geometry,
    center: Float[Tensor, "3"],
    points: Float[Tensor, "p 3"],
    parameters: Float[Tensor, "6"],
    covariance: Float[Tensor, "6 6"],
) -> Float[Tensor, "3 3"]:
    """Mean covariance of the places of `points` [mm^2]: x, y across the view and z along it."""
    moved = _moved(carm, center, points, parameters)
    return torch.einsum("pij,jk,plk->il", moved, covariance, moved) / len(points)


def _moved(carm, center, points, parameters) -> Float[Tensor, "p 3 6"]:
    """Derivative by eta of where points are seen in the camera's axes [mm]."""
    pose, slopes = carm.pose(parameters, center), carm.pose_slopes(parameters)
    # A point x is seen at R^T (x - t).
    away = points - pose[:3, 3]
    moved = away @ slopes[:, :3, :3] - (slopes[:, :3, 3] @ pose[:3, :3])[:, None]
    return moved.permute(1, 2, 0)


def beyond(
    start: Float[Tensor, "s 4 4"],
    pose: Float[Tensor, "4 4"],
    shift: Float[Tensor, "s 3"],
    search: tuple[float, float],
) -> bool:
    """Whether a pose lies far outside the range around every start.

    Angles of a C-arm repeat and have two names near +-90 deg cranial, so it is the rotation
    between the poses that counts, in camera axes as in the sweep.

    Args:
        start: Where the search began.
        pose: What was found.
        shift: Isocentre of the pose seen from that of each start [mm].
        search: Range of each rotation [rad] and shift [mm].
    """
    turn = so3_log(start[:, :3, :3].mT @ pose[:3, :3])
    far = torch.cat([turn.abs() > SLACK * search[0], shift.abs() > SLACK * search[1]], dim=1)
    return bool(far.any(dim=1).all())


def rivals(
    places: Float[Tensor, "m 4 4"],
    misfits: Float[Tensor, " m"],
    coarse: Float[Tensor, "k 4 4"],
    points: Float[Tensor, "p 3"],
) -> tuple[float, float]:
    """Misfit of the second place over the best's, and the part of candidates at the best.

    Args:
        places: Poses that were refined, best first.
        misfits: Theirs; not finite where nothing could be compared.
        coarse: Where the candidates ended.
        points: Targets [mm, world].
    """
    others = misfits[mtre(places, places[:1], points) > APART / 2].nan_to_num(nan=math.inf)
    gap = float(others.min() / misfits[0]) if len(others) else math.inf
    near = mtre(coarse, places[:1], points) < APART
    return gap, float(near.double().mean())


def judge(
    loss: float, kept: float, gap: float, target_sd: float, outside: bool, windows: bool = False
) -> tuple[bool, str]:
    """Whether a pose can be trusted, and the reason.

    Args:
        loss: 1 - ZNCC over the pixels that count.
        kept: Part of the pixels that counts.
        gap: Misfit of the second place over that of the best.
        target_sd: From `hold`.
        outside: Whether the pose lies far outside the range that was searched.
        windows: Whether both images were normalised in windows.
    """
    alike, least = (ALIKE_IN_WINDOWS, KEPT_IN_WINDOWS) if windows else (ALIKE, KEPT)
    if not math.isfinite(loss):
        return False, "loss not finite"
    if outside:
        return False, "pose far outside the range that was searched"
    if kept < least:
        return False, f"the CT explains only {100 * kept:.0f} % of the image"
    if loss > alike:
        return False, f"images unlike, loss {loss:.2g}"
    if gap < GAP:
        return False, f"another place fits nearly as well, {gap:.2f} times the misfit"
    if not target_sd < SURE:
        return False, f"{LOOSE}, +-{target_sd:.2g} mm"
    return True, "one place fits best"
