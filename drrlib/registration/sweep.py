"""Where to begin: a sweep over rotations, each with all shifts in the image plane at once.

Rotations decide whether a registration gets lost; shifts parallel to the detector can be tried
exhaustively for the price of a Fourier transform. So one coarse image of each rotation is enough,
rendered on a detector that is wider than the real one, and compared with the fixed image at every
shift by zero-normalised cross-correlation of what both images show.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import scipy.fft
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from drrlib.drr import DRR
from drrlib.geometry import so3_exp
from drrlib.optimize import Sight
from drrlib.similarity import normalise

# Less than this part in common is no comparison: of the fixed image; of one bone's image.
_SCANT, _SCANT_OF_ONE = 0.05, 0.4
_AT_ONCE = 2_000_000  # pixels whose spectra are held at once


class Sweep(NamedTuple):
    """Best poses of each rotation tried.

    Attributes:
        eta: [t, n, 6], the shift included.
        likeness: ZNCC with the fixed image, times the root of the part of it that was compared
            [t, n].
        inverted: Whether it is the negative of the fixed image that is alike [t, n].
        renders: Images of the real detector's size that it cost.
    """

    eta: Float[Tensor, "t n 6"]
    likeness: Float[Tensor, "t n"]
    inverted: Bool[Tensor, "t n"]
    renders: float


def spread(n: int, rotation: float, depth: float, seed: int) -> Float[Tensor, "n 4"]:
    """Rotation vectors [rad] and depths [mm] that fill their range evenly (scrambled Sobol).

    The first is zero: the pose that was given.
    """
    unit = torch.quasirandom.SobolEngine(4, scramble=True, seed=seed).draw(n, dtype=torch.float64)
    moves = (2 * unit - 1) * unit.new_tensor([rotation] * 3 + [depth])
    moves[0] = 0
    return moves


def sweep(
    sight: Sight,
    start: Float[Tensor, "t 6"],
    moves: Float[Tensor, "n 4"],
    shift: float,
    inverted: bool = False,
) -> Sweep:
    """Try every rotation and depth with every shift.

    Args:
        sight: The first view at the coarse level, with an image for each of t.
        start: Pose that each image is searched around.
        moves: From `spread`: rotation about the isocentre in camera axes, and shift in depth.
        shift: Largest shift parallel to the detector [mm, at the isocentre].
        inverted: Whether to look for the negative of each image, too; n is twice as many then.
    """
    drr, carm = sight.drr, sight.drr.carm
    slender = float(carm.dely) / float(carm.delx)
    pad = [math.ceil(shift / (carm.pixel * size)) for size in (slender, 1.0)]
    wide = carm.window(-pad[0], -pad[1], carm.height + 2 * pad[0], carm.width + 2 * pad[1])
    base = drr.pose(start)[:, None]  # [t, 1, 4, 4]
    poses = _turned(base, moves.to(base), float(carm.sod))
    wider = _Wide(
        drr.with_carm(wide), None if sight.seen is None else sight.seen.with_carm(wide), pad
    )
    at_once = max(1, _AT_ONCE // (wide.height * wide.width))
    found = []
    for t, pose in enumerate(poses):
        fixed = compared(sight, t)
        parts = pose.split(at_once)
        found.append([_best_shifts(sight, fixed, wider, part, inverted) for part in parts])
    # [image, part of the poses, (eta, likeness)] of [signs, poses, ...] each
    eta, likeness = (
        torch.stack([torch.cat([part[k] for part in one], dim=1).flatten(0, 1) for one in found])
        for k in (0, 1)
    )
    negative = torch.arange(eta.shape[1]) >= len(moves)
    cost = wide.height * wide.width / (carm.height * carm.width)
    renders = len(poses) * len(moves) * cost
    return Sweep(eta, likeness, negative.expand_as(likeness), renders)


class _Wide(NamedTuple):
    """The detector with room for every shift: renderer, weights, and pixels added on each side."""

    drr: DRR
    seen: Callable[[Tensor], Tensor] | None
    pad: list[int]


def compared(sight: Sight, t: int) -> tuple[Tensor, Tensor]:
    """An image as it is compared, and its weights."""
    fixed = sight.fixed[t]
    weights = torch.ones_like(fixed) if sight.weights is None else sight.weights[t]
    if sight.grey.window:
        fixed = normalise(fixed, weights, sight.grey.window).value
    return fixed[0], weights[0]


def _best_shifts(sight: Sight, fixed, wide: _Wide, pose, inverted: bool):
    """For each sign and pose: eta at the best shift, and its likeness."""
    moving, carm = wide.drr(pose).detach()[:, 0], sight.drr.carm
    left = torch.ones_like(moving) if wide.seen is None else wide.seen(pose)[:, 0]
    if sight.grey.window:
        moving = normalise(moving, left, sight.grey.window).value
    fixed, weights = (x.to(moving) for x in fixed)
    likeness = correlate(fixed, weights, moving, left, of_one=sight.only)
    found = []
    for sign in (1, -1)[: 1 + inverted]:
        best = (sign * likeness).flatten(1).max(dim=1)
        row = best.indices // likeness.shape[2] - wide.pad[0]
        column = best.indices % likeness.shape[2] - wide.pad[1]
        eta = carm.eta(carm.looking_at(pose, row, column), sight.drr.volume.center)
        found.append((eta, best.values.double().cpu()))
    return tuple(torch.stack(x) for x in zip(*found, strict=True))


def correlate(
    fixed: Float[Tensor, "h w"],
    weights: Float[Tensor, "h w"],
    moving: Float[Tensor, "n H W"],
    left: Float[Tensor, "n H W"],
    of_one: bool = False,
) -> Float[Tensor, "n dy dx"]:
    """ZNCC of a fixed image and every window of its size in each moving image, both weighted.

    Times the root of the part of the fixed image's weight that the moving image's weights leave,
    so that a few pixels in common are no likeness; `of_one` bone, of the part of its own weight.
    Source: Padfield 2012, doi:10.1109/TIP.2011.2181402.
    """
    size = [scipy.fft.next_fast_len(n, real=True) for n in moving.shape[-2:]]
    rows, columns = (a - b + 1 for a, b in zip(moving.shape[-2:], fixed.shape, strict=True))
    fixed = fixed - (weights * fixed).sum() / weights.sum()  # less to cancel below
    moving = moving - (left * moving).mean() / left.mean()
    of_fixed = [
        torch.fft.rfft2(x, s=size).conj()
        for x in (weights, weights * fixed, weights * fixed.square())
    ]
    of_moving = [torch.fft.rfft2(x, s=size) for x in (left, left * moving, left * moving.square())]

    def windows(a: int, b: int) -> Tensor:
        """Sums over each window of weights, times the moving image^a and the fixed image^b."""
        return torch.fft.irfft2(of_moving[a] * of_fixed[b], s=size)[..., :rows, :columns]

    total = windows(0, 0).clamp_min(1e-3)
    mean_moving, mean_fixed = windows(1, 0) / total, windows(0, 1) / total
    common = windows(1, 1) - total * mean_moving * mean_fixed
    energy = (windows(2, 0) - total * mean_moving.square()).clamp_min(0)
    energy = energy * (windows(0, 2) - total * mean_fixed.square()).clamp_min(0)
    # A window of air has no contrast; rounding must not make it look alike.
    floor = 1e-3 * energy.amax(dim=(1, 2), keepdim=True).sqrt().clamp_min(1e-15)
    share = total / (left.sum(dim=(1, 2), keepdim=True) if of_one else weights.sum())
    likeness = common / energy.sqrt().maximum(floor) * share.clamp(0, 1).sqrt()
    return torch.where(share > (_SCANT_OF_ONE if of_one else _SCANT), likeness, 0.0)


def _turned(base, moves, sod: float):
    """Poses turned about their isocentre in camera axes, and moved along the view."""
    turn = so3_exp(moves[:, :3])
    rotation = base[..., :3, :3] @ turn
    isocenter = base[..., :3, 3] + sod * base[..., :3, 2]
    source = isocenter + (moves[:, 3:] - sod) * rotation[..., 2]
    pose = base.expand(*base.shape[:1], len(moves), 4, 4).clone()
    pose[..., :3, :3], pose[..., :3, 3] = rotation, source
    return pose
