"""What a pose is worth where no model tells how the image was made.

Noise explains little of the error on an X-ray image: scatter, blur, a spectrum and what lies beyond
the CT move the optimum, and smoothly so that residuals hardly show it. But they move it in one part
of the image otherwise than in another, and at one scale otherwise than at another. So the pose is
asked for again: from either half of a checkerboard, and from windows of twice the width. All of
that is one Gauss-Newton step from what the last march showed, without another image.

That a length is off, or an edge blurred, looks like another depth and shows in none of these. So
the depth from one view is never stated more exactly than lengths are known. Of one bone or implant
little but its outline tells depth, by its size: an outline that lies a part of a pixel off all
around, as a mesh is not quite what was built or metal glares, is another depth.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.geometry import ScanProjection
from drrlib.optimize import Linear, Sight, covariance, normal_equations, residuals
from drrlib.similarity import Model
from drrlib.volume import Volume

_BLOCKS = 5  # of correlated residuals across the image
_FIELDS = 10  # of the checkerboard across the image
# Standard deviations of the three, in units of what each shows; fitted on simulated X-ray images.
_NOISE, _HALVES, _WIDER = 3.0, 1.5, 1.0
# Part of a length by which it may be off. A CT localizer's pixels are those of its reconstruction:
# 1 % off what its header states in the one that was measured (notebook 10).
_LENGTHS, _LENGTHS_OF_SCAN = 3e-4, 1e-2
_EDGE = 0.25  # pixels of the finest level by which an outline may be off all around


def doubt(
    sights: Sequence[Sight],
    linear: Sequence[Linear],
    parameters: Float[Tensor, "m n"],
    bodies: Sequence[Sight] | None = None,
) -> Float[Tensor, "m n n"]:
    """Covariance of the parameters, from residuals and from how far other measures would move them.

    Args:
        sights: The views, normalised in windows.
        linear: What they show at the poses.
        parameters: Of the poses, and freed lengths after them.
        bodies: Of several bodies whose images add up, the first view of each; six parameters each.
    """
    block = max(1, min(sights[0].fixed.shape[-2:]) // _BLOCKS)
    total = _NOISE**2 * covariance(sights, linear, block)
    wider = [replace(s, grey=Model(window=2 * s.grey.window)) for s in sights]
    model = normal_equations(wider, linear)
    moves = [
        _HALVES / 2 * _apart(sights, linear),
        _WIDER * _step(model.curvature, model.gradient),
    ]
    if len(sights) == 1:
        for k, body in enumerate(bodies or sights):
            moves += _deeper(body, parameters, 6 * k)
    for move in moves:
        total = total + move[:, :, None] * move[:, None]
    return total


def spread_of(
    sights: Sequence[Sight], linear: Sequence[Linear], parameters: Float[Tensor, "m n"]
) -> Float[Tensor, "m n n"]:
    """`doubt` of images that are normalised in windows; of others, what their residuals tell."""
    if sights[0].grey.window:
        return doubt(sights, linear, parameters)
    return covariance(sights, linear)


def _deeper(sight: Sight, parameters: Float[Tensor, "m n"], first: int) -> list[Tensor]:
    """How far lengths that are off, and an outline that is, move a body along the view."""
    drr, depth = sight.drr, torch.zeros_like(parameters)
    pose = drr.pose(parameters[:, first : first + 6])
    depth[:, first + 3 : first + 6] = pose[:, :3, 2].to(depth)
    off = _LENGTHS_OF_SCAN if isinstance(drr.carm, ScanProjection) else _LENGTHS
    moves = [off * float(drr.carm.sod) * depth]
    if sight.only:
        moves.append(_EDGE * drr.carm.pixel / _radius(drr.volume) * float(drr.carm.sod) * depth)
    return moves


def _radius(volume: Volume) -> float:
    """Half of the mean edge of the box around a body [mm]."""
    return 0.5 * float((volume.spacing * volume.spacing.new_tensor(volume.shape)).mean())


def _apart(sights, linear) -> Float[Tensor, "m n"]:
    """How far Gauss-Newton steps from the fields of either colour end from each other."""
    curvature, gradient = [0.0, 0.0], [0.0, 0.0]
    for sight, one in zip(sights, linear, strict=True):
        residual, jacobian = residuals(sight, one)
        rows, columns = (torch.arange(n) * _FIELDS // n for n in sight.fixed.shape[-2:])
        colour = ((rows[:, None] + columns) % 2).flatten().to(jacobian.device)
        for k in (0, 1):
            part, left = jacobian[:, colour == k], residual[:, colour == k, None]
            curvature[k] = curvature[k] + (part.mT @ part).cpu()
            gradient[k] = gradient[k] + (part.mT @ left)[..., 0].cpu()
    first, second = (_step(*pair) for pair in zip(curvature, gradient, strict=True))
    return first - second


def _step(curvature: Tensor, gradient: Tensor) -> Tensor:
    return -(torch.linalg.pinv(curvature, hermitian=True) @ gradient[..., None])[..., 0]
