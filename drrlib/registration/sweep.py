"""Where to begin: a sweep over rotations, each with all shifts in the image plane at once.

Rotations decide whether a registration gets lost; shifts parallel to the detector can be tried
exhaustively for the price of a Fourier transform. So one coarse image of each rotation is enough,
rendered on a detector that is wider than the real one, and compared with the fixed image at every
shift by zero-normalised cross-correlation (Lewis 1995, Fast Normalized Cross-Correlation).
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.drr import DRR
from drrlib.geometry import so3_exp


class Sweep(NamedTuple):
    """Best pose of each rotation tried.

    Attributes:
        eta: [t, n, 6], the shift included.
        zncc: Their likeness to the fixed image [t, n].
        renders: Images of the real detector's size that it cost.
    """

    eta: Float[Tensor, "t n 6"]
    zncc: Float[Tensor, "t n"]
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
    drr: DRR,
    fixed: Float[Tensor, "t 1 h w"],
    weights: Float[Tensor, "t 1 h w"] | None,
    start: Float[Tensor, "t 6"],
    moves: Float[Tensor, "n 4"],
    shift: float,
) -> Sweep:
    """Try every rotation and depth with every shift.

    Args:
        drr: Renderer of the coarse level.
        fixed: Images at that level.
        weights: Weights of its pixels.
        start: Pose that each image is searched around.
        moves: From `spread`: rotation about the isocentre in camera axes, and shift in depth.
        shift: Largest shift parallel to the detector [mm, at the isocentre].
    """
    carm = drr.carm
    slender = float(carm.dely) / float(carm.delx)
    pad = [math.ceil(shift / (carm.pixel * size)) for size in (slender, 1.0)]
    wide = carm.window(-pad[0], -pad[1], carm.height + 2 * pad[0], carm.width + 2 * pad[1])
    base = drr.pose(start)[:, None]  # [t, 1, 4, 4]
    pose = _turned(base, moves.to(base), float(carm.sod)).flatten(0, 1)
    moving = drr.with_carm(wide)(pose).detach().unflatten(0, (len(start), len(moves)))[:, :, 0]
    likeness = correlate(fixed[:, 0].to(moving), None if weights is None else weights[:, 0], moving)
    best = likeness.flatten(2).max(dim=2)
    row = best.indices // likeness.shape[3] - pad[0]
    column = best.indices % likeness.shape[3] - pad[1]
    seen = carm.looking_at(pose, row.flatten(), column.flatten())
    eta = carm.eta(seen, drr.volume.center).unflatten(0, (len(start), len(moves)))
    cost = wide.height * wide.width / (carm.height * carm.width)
    return Sweep(eta, best.values.double().cpu(), len(start) * len(moves) * cost)


def correlate(
    fixed: Float[Tensor, "t h w"],
    weights: Float[Tensor, "t h w"] | None,
    moving: Float[Tensor, "t n H W"],
) -> Float[Tensor, "t n dy dx"]:
    """ZNCC of a fixed image and every window of its size in each moving image."""
    size = moving.shape[-2:]
    w = torch.ones_like(fixed) if weights is None else weights.to(fixed)
    total = w.sum(dim=(1, 2), keepdim=True)
    apart = fixed - (w * fixed).sum(dim=(1, 2), keepdim=True) / total
    centred = w * apart
    energy = (centred * apart).sum(dim=(1, 2))
    moving = moving - moving.mean(dim=(2, 3), keepdim=True)  # less to cancel below
    spectra = torch.fft.rfft2(moving), torch.fft.rfft2(moving.square())
    of_centred, of_weights = (torch.fft.rfft2(x, s=size).conj()[:, None] for x in (centred, w))
    rows, columns = size[0] - fixed.shape[1] + 1, size[1] - fixed.shape[2] + 1

    def windows(product: Tensor) -> Tensor:
        return torch.fft.irfft2(product, s=size)[..., :rows, :columns]

    common = windows(spectra[0] * of_centred)
    mean = windows(spectra[0] * of_weights) / total[:, None]
    square = windows(spectra[1] * of_weights) - total[:, None] * mean.square()
    # A window of air has no contrast; rounding must not make it look alike.
    floor = 1e-3 * square.amax(dim=(2, 3), keepdim=True)
    return common / (square.clamp_min(floor.clamp_min(1e-30)) * energy[:, None, None, None]).sqrt()


def _turned(base, moves, sod: float):
    """Poses turned about their isocentre in camera axes, and moved along the view."""
    turn = so3_exp(moves[:, :3])
    rotation = base[..., :3, :3] @ turn
    isocenter = base[..., :3, 3] + sod * base[..., :3, 2]
    source = isocenter + (moves[:, 3:] - sod) * rotation[..., 2]
    pose = base.expand(*base.shape[:1], len(moves), 4, 4).clone()
    pose[..., :3, :3], pose[..., :3, 3] = rotation, source
    return pose
