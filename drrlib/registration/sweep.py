"""Where to begin: a sweep over rotations, each with all shifts in the image plane at once.

Rotations decide whether a registration gets lost; shifts parallel to the detector can be tried
exhaustively for the price of a Fourier transform. So one coarse image of each rotation is enough,
rendered on a detector that is wider than the real one, and compared with the fixed image at every
shift by zero-normalised cross-correlation of what both images show.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import scipy.fft
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from drrlib.drr import DRR, limited
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
        shift: Largest shift parallel to the detector [mm, at the isocentre]; of one bone, whose
            cameras stand anywhere, along each axis of the world.
        inverted: Whether to look for the negative of each image, too; n is twice as many then.
    """
    base = sight.drr.pose(start)[:, None]  # [t, 1, 4, 4]
    poses = _turned(base, moves.to(base), float(sight.drr.carm.sod))
    wider = _widened(sight, _across(base, shift) if sight.only else (shift, shift))
    found = []
    for t, pose in enumerate(poses):
        fixed = compared(sight, t)
        parts = pose.split(wider.at_once)
        found.append([_best_shifts(sight, fixed, wider, part, inverted) for part in parts])
    return gathered(found, wider.cost)


def gathered(found: list[list[tuple[Tensor, Tensor]]], cost: float) -> Sweep:
    """A sweep of its parts: [image][part of the poses], eta and likeness [signs, poses, ...]."""
    eta, likeness = (
        torch.stack([torch.cat([part[k] for part in one], dim=1).flatten(0, 1) for one in found])
        for k in (0, 1)
    )
    poses = sum(part[1].shape[1] for part in found[0])
    negative = (torch.arange(eta.shape[1]) >= poses).expand_as(likeness)
    return Sweep(eta, likeness, negative, len(found) * poses * cost)


def settle_depths(
    sights: Sequence[Sight],
    eta: Float[Tensor, "m 6"],
    owner: Int[Tensor, " m"],
    likeness: Float[Tensor, " m"],
    shift: float,
) -> tuple[Float[Tensor, "m 6"], Float[Tensor, " m"], float]:
    """Poses moved along the first view to where the other views like them best.

    The first view hardly tells depth, which was drawn. In another view it is a shift along a line,
    and all shifts are compared at once.

    Args:
        sights: All views at the coarse level.
        eta: Poses of the sweep.
        owner: Which image each is of.
        likeness: In the first view.
        shift: Depths are tried up to twice this either way [mm].

    Returns:
        The poses, their mean likeness in all views, and how many images of the first detector's
        size it cost.
    """
    first = sights[0].drr
    pose, center = first.pose(eta), first.volume.center
    way = center - pose[:, :3, 3]
    way = way / way.norm(dim=1, keepdim=True)
    steps = math.ceil(2 * shift / first.carm.pixel)
    depths = first.carm.pixel * torch.arange(-steps, steps + 1, dtype=torch.float64)
    total, cost = torch.zeros(len(eta), len(depths), dtype=torch.float64), 0.0
    for sight in sights[1:]:
        wider, carm = _widened(sight, (2 * shift, 2 * shift)), sight.drr.carm
        place = sight.pose(eta)
        moved = place[:, None].repeat(1, len(depths), 1, 1)
        moved[..., :3, 3] += depths[:, None] * way[:, None]
        here, there = (carm.project(center[None], x.flatten(0, -3)) for x in (place, moved))
        off = here - there.reshape(len(eta), -1, 2)  # the window of the image that is seen there
        off = off.round().long().flip(2) + torch.tensor(wider.pad)  # row, column
        for t in owner.unique():
            mine = torch.nonzero(owner == t).flatten()
            fixed = compared(sight, int(t) if len(sight.fixed) > 1 else 0)
            for rows in mine.split(wider.at_once):
                total[rows] += _picked(_likenesses(sight, fixed, wider, place[rows]), off[rows])
        cost += len(eta) * wider.cost
    best = (total - 1e-6 * depths.abs()).argmax(dim=1)  # where none is alike, as it was drawn
    pose[:, :3, 3] += depths[best, None] * way
    others = total.gather(1, best[:, None])[:, 0]
    return first.carm.eta(pose, center), (likeness + others) / len(sights), cost


def _picked(likeness: Float[Tensor, "n dy dx"], at: Int[Tensor, "n d 2"]) -> Float[Tensor, "n d"]:
    """Likeness at rows and columns; 0 outside."""
    size = torch.tensor(likeness.shape[1:])
    inside = ((at >= 0) & (at < size)).all(dim=2)
    row, column = at.minimum(size - 1).clamp_min(0).unbind(dim=2)
    found = likeness.double().cpu()[torch.arange(len(at))[:, None], row, column]
    return torch.where(inside, found, 0.0)


class Wide(NamedTuple):
    """The detector with room for every shift.

    Attributes:
        drr, seen: Its renderer and weights.
        pad: Rows and columns added on each side.
        cost: Its pixels, as a multiple of the real detector's.
        at_once: Poses whose spectra are held at once.
    """

    drr: DRR
    seen: Callable[[Tensor, Tensor], Tensor] | None
    pad: list[int]
    cost: float
    at_once: int


def _across(pose: Float[Tensor, "t 1 4 4"], shift: float) -> tuple[float, float]:
    """How far a shift by `shift` along every axis of the world reaches along rows and columns.

    In a view along one of these axes, just as far.
    """
    x, y = (shift * pose[..., :3, :2].abs().sum(dim=-2)).amax(dim=(0, 1)).tolist()
    return round(y, 6), round(x, 6)


def _widened(sight: Sight, shift: tuple[float, float]) -> Wide:
    """With room for so much either way, from row to row and from column to column [mm]."""
    carm = sight.drr.carm
    slender = float(carm.dely) / float(carm.delx)
    sizes = zip(shift, (slender, 1.0), strict=True)
    pad = [math.ceil(reach / (carm.pixel * size)) for reach, size in sizes]
    wide = carm.window(-pad[0], -pad[1], carm.height + 2 * pad[0], carm.width + 2 * pad[1])
    seen = None if sight.seen is None else sight.seen.with_carm(wide)
    pixels = wide.height * wide.width
    cost = pixels / (carm.height * carm.width)
    return Wide(sight.drr.with_carm(wide), seen, pad, cost, max(1, _AT_ONCE // pixels))


def compared(sight: Sight, t: int) -> tuple[Tensor, Tensor]:
    """An image as it is compared, and its weights."""
    fixed = sight.fixed[t]
    weights = torch.ones_like(fixed) if sight.weights is None else sight.weights[t]
    if sight.grey.window:
        fixed = normalise(fixed, weights, sight.grey.window).value
    return fixed[0], weights[0]


def _likenesses(sight: Sight, fixed, wide: Wide, pose) -> Float[Tensor, "n dy dx"]:
    """Of each pose, at every shift."""
    moving, left = shown(sight, wide, pose)
    fixed, weights = (x.to(moving) for x in fixed)
    return correlate(fixed, weights, spectra(moving, left), of_one=sight.only)


def shown(sight: Sight, wide: Wide, pose: Float[Tensor, "n 4 4"]):
    """What the wide detector shows at each pose, as it is compared, and its weights [n, h, w]."""
    moving = wide.drr(pose).detach()
    if sight.most is not None:
        moving = limited(moving, sight.most)
    left = torch.ones_like(moving) if wide.seen is None else wide.seen(pose, moving)
    moving, left = moving[:, 0], left[:, 0]
    if sight.grey.window:
        moving = normalise(moving, left, sight.grey.window).value
    return moving, left


def _best_shifts(sight: Sight, fixed, wide: Wide, pose, inverted: bool):
    """For each sign and pose: eta at the best shift, and its likeness."""
    likeness, carm = _likenesses(sight, fixed, wide, pose), sight.drr.carm
    found = []
    for sign in (1, -1)[: 1 + inverted]:
        best = (sign * likeness).flatten(1).max(dim=1)
        row = best.indices // likeness.shape[2] - wide.pad[0]
        column = best.indices % likeness.shape[2] - wide.pad[1]
        eta = carm.eta(carm.looking_at(pose, row, column), sight.drr.volume.center)
        found.append((eta, best.values.double().cpu()))
    return tuple(torch.stack(x) for x in zip(*found, strict=True))


class Spectra(NamedTuple):
    """Moving images in the Fourier domain, for any number of fixed ones.

    Attributes:
        parts: Of weights, weights times image, and weights times its square.
        total: Sum of each image's weights [n, 1, 1].
        size: Of the transforms.
        shape: Of the images.
    """

    parts: list[Tensor]
    total: Float[Tensor, "n 1 1"]
    size: list[int]
    shape: tuple[int, int]


def spectra(moving: Float[Tensor, "n H W"], left: Float[Tensor, "n H W"]) -> Spectra:
    """Of moving images with weights, for `correlate`."""
    size = [scipy.fft.next_fast_len(n, real=True) for n in moving.shape[-2:]]
    moving = moving - (left * moving).mean() / left.mean()  # less to cancel
    parts = [torch.fft.rfft2(x, s=size) for x in (left, left * moving, left * moving.square())]
    return Spectra(parts, left.sum(dim=(1, 2), keepdim=True), size, tuple(moving.shape[-2:]))


def correlate(
    fixed: Float[Tensor, "h w"],
    weights: Float[Tensor, "h w"],
    moving: Spectra,
    of_one: bool = False,
) -> Float[Tensor, "n dy dx"]:
    """ZNCC of a fixed image and every window of its size in each moving image, both weighted.

    Times the root of the part of the fixed image's weight that the moving image's weights leave,
    so that a few pixels in common are no likeness; `of_one` bone, of the part of its own weight.
    Source: Padfield 2012, doi:10.1109/TIP.2011.2181402.
    """
    rows, columns = (a - b + 1 for a, b in zip(moving.shape, fixed.shape, strict=True))
    fixed = fixed - (weights * fixed).sum() / weights.sum()  # less to cancel below
    of_fixed = [
        torch.fft.rfft2(x, s=moving.size).conj()
        for x in (weights, weights * fixed, weights * fixed.square())
    ]

    def windows(a: int, b: int) -> Tensor:
        """Sums over each window of weights, times the moving image^a and the fixed image^b."""
        product = moving.parts[a] * of_fixed[b]
        return torch.fft.irfft2(product, s=moving.size)[..., :rows, :columns]

    total = windows(0, 0).clamp_min(1e-3)
    mean_moving, mean_fixed = windows(1, 0) / total, windows(0, 1) / total
    common = windows(1, 1) - total * mean_moving * mean_fixed
    energy = (windows(2, 0) - total * mean_moving.square()).clamp_min(0)
    energy = energy * (windows(0, 2) - total * mean_fixed.square()).clamp_min(0)
    # A window of air has no contrast; rounding must not make it look alike.
    floor = 1e-3 * energy.amax(dim=(1, 2), keepdim=True).sqrt().clamp_min(1e-15)
    share = total / (moving.total if of_one else weights.sum())
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
