"""Where to begin when nothing is known: every direction of view, every turn in the image plane.

Two of the three angles of a view must be rendered. The third only turns the image, exactly, about
the point that the central ray hits; so the X-ray image is turned instead, and each rendered image
is compared with all its turns, at all shifts (`sweep.correlate`).
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import grid_sample

from drrlib.geometry import CArm, rigid, so3_exp
from drrlib.optimize import Sight
from drrlib.registration.sweep import Sweep, Wide, compared, correlate, gathered, shown, spectra

TURNS = 24  # of the X-ray image; a pose is at most 7.5 deg off one of them
_AT_ONCE = 500_000  # pixels whose spectra are held at once


def directions(
    n: int, depth: float, seed: int
) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, " n"]]:
    """Camera axes (columns) whose views come evenly from everywhere, and depths [mm] within +-.

    Scrambled Sobol points, uniform on the sphere of directions; how a camera stands about its
    viewing axis is arbitrary.
    """
    unit = torch.quasirandom.SobolEngine(3, scramble=True, seed=seed).draw(n, dtype=torch.float64)
    z, angle = 2 * unit[:, 0] - 1, 2 * math.pi * unit[:, 1]
    # From the pole to each direction by the shortest way.
    tilt = torch.acos(z.clamp(-1, 1))[:, None]
    axis = torch.stack([-angle.sin(), angle.cos(), torch.zeros_like(angle)], dim=1)
    return so3_exp(tilt * axis), depth * (2 * unit[:, 2] - 1)


def sweep_everywhere(
    sight: Sight,
    start: Float[Tensor, "t 6"],
    n: int,
    shift: float,
    seed: int,
    inverted: bool = False,
) -> Sweep:
    """Try n directions of view with every turn of the image and every shift.

    Args:
        sight: The first view at the coarse level, with an image for each of t.
        start: Only its isocentre counts.
        n: Directions, each with a depth of its own.
        shift: Largest shift along each axis of the camera [mm, at the isocentre].
        seed: Of directions and depths.
        inverted: Whether to look for the negative of each image, too.

    Returns:
        The best turn of each direction; with `inverted` those of the negative follow.
    """
    carm, middle = sight.drr.carm, sight.drr.volume.center
    axes, depth = directions(n, shift, seed)
    # Only a square of the largest size holds every turn of the image.
    pitch = math.sqrt(float(carm.delx) * float(carm.dely))
    size = math.ceil(
        math.hypot(carm.height * float(carm.dely), carm.width * float(carm.delx)) / pitch
    )
    pad = math.ceil(shift / (pitch * float(carm.sod) / float(carm.sdd)))
    side = size + 2 * pad
    square = replace(carm, height=side, width=side, delx=pitch, dely=pitch, x0=0.0, y0=0.0)
    seen = None if sight.seen is None else sight.seen.with_carm(square)
    cost, at_once = side**2 / (carm.height * carm.width), max(1, _AT_ONCE // side**2)
    wide, found = Wide(sight.drr.with_carm(square), seen, [pad, pad], cost, at_once), []
    for t, eta in enumerate(start):
        pictures = turned(sight, t, size, pitch)
        source = middle + eta[3:] + (depth - float(carm.sod))[:, None] * axes[:, :, 2]
        poses = rigid(axes, source)
        found.append([_best(sight, pictures, wide, x, inverted) for x in poses.split(at_once)])
    return gathered(found, cost)


def turned(
    sight: Sight, t: int, size: int, pitch: float
) -> tuple[Float[Tensor, "k size size"], Float[Tensor, "k size size"]]:
    """All turns of an image as it is compared, about the point of the central ray; their weights.

    What a camera that is turned by gamma sees at u, an unturned one sees at M(gamma) u.
    """
    carm, (image, weights) = sight.drr.carm, compared(sight, t)
    x = pitch * (torch.arange(size, dtype=torch.float64) + 0.5 - size / 2)
    seen = torch.stack([x.expand(size, size), x[:, None].expand(size, size)], dim=-1)
    at = seen @ _turns(carm)[:, None]  # rows times M are M^T times columns, which is M^-1
    middle = at.new_tensor([float(carm.x0), float(carm.y0)])
    half = at.new_tensor(
        [0.5 * carm.width * float(carm.delx), 0.5 * carm.height * float(carm.dely)]
    )
    grid = ((at - middle) / half).to(image)
    pair = torch.stack([weights * image, weights]).expand(TURNS, *[-1] * 3)
    lit, weight = grid_sample(pair, grid, mode="bilinear", align_corners=False).unbind(1)
    return torch.where(weight > 0.5, lit / weight.clamp_min(0.5), 0.0), weight * (weight > 0.5)


def _turns(carm: CArm) -> Float[Tensor, "k 2 2"]:
    """M of every turn, for columns (x to the right, y down)."""
    angle = torch.arange(TURNS, dtype=torch.float64) * (2 * math.pi / TURNS)
    cosine, sine = angle.cos(), angle.sin() * (-1 if carm.flipped else 1)
    return torch.stack([cosine, sine, -sine, cosine], dim=1).reshape(-1, 2, 2)


def _best(sight: Sight, pictures, wide: Wide, pose, inverted: bool):
    """For each sign and direction: eta at the best turn and shift, and its likeness."""
    moving, left = shown(sight, wide, pose)
    seen, images = spectra(moving, left), [x.to(moving) for x in pictures]
    signs = moving.new_tensor([1, -1][: 1 + inverted])[:, None, None, None]
    best, where = moving.new_full((len(signs), len(pose)), -math.inf), None
    for k, (image, weights) in enumerate(zip(*images, strict=True)):
        likeness = signs * correlate(image, weights, seen, of_one=sight.only)
        value, place = likeness.flatten(2).max(dim=2)
        row, column = place // likeness.shape[3], place % likeness.shape[3]
        here = [torch.full_like(row, k), row - wide.pad[0], column - wide.pad[1]]
        here = torch.stack(here, dim=2)
        where = here if where is None else torch.where((value > best)[..., None], here, where)
        best = torch.maximum(best, value)
    eta = torch.stack([_placed(sight, wide, pose, one) for one in where.cpu()])
    return eta, best.double().cpu()


def _placed(sight: Sight, wide: Wide, pose, where: Int[Tensor, "m 3"]) -> Float[Tensor, "m 6"]:
    """eta of poses that are turned and shifted; where: turn, rows, columns of the wide detector."""
    carm, which = sight.drr.carm, where[:, 0]
    roll = torch.zeros(len(pose), 3, dtype=torch.float64)
    roll[:, 2] = which * (2 * math.pi / TURNS)
    rolled = pose.clone()
    rolled[:, :3, :3] = pose[:, :3, :3] @ so3_exp(roll)
    shift = float(wide.drr.carm.delx) * where[:, [2, 1]].double()  # (x, y) of the unturned camera
    x, y = (shift[:, None] @ _turns(carm)[which])[:, 0].unbind(-1)
    looking = carm.looking_at(rolled, y / float(carm.dely), x / float(carm.delx))
    return carm.eta(looking, sight.drr.volume.center)
