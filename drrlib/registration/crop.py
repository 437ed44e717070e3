"""The part of each image around one body among others: all that its fine steps need to look at."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from drrlib.geometry import CArm, transform_points
from drrlib.optimize import Objective, Sight
from drrlib.registration.stages import refine
from drrlib.similarity import Model
from drrlib.volume import Volume

_MARGIN = 16  # pixels beside the body's box: for steps, and for what windows see beside it


def corners(volume: Volume) -> Float[Tensor, "8 3"]:
    """Of the box around all that attenuates [mm, world]."""
    body = volume.crop_to_support()
    ends = [(-0.5, n - 0.5) for n in body.shape]
    voxels = torch.tensor(list(itertools.product(*ends)), dtype=torch.float64)
    return transform_points(body.affine.to(voxels), voxels)


def cropped(
    objective: Objective, parameters: Float[Tensor, "1 n"], points: Float[Tensor, "8 3"]
) -> tuple[Objective, float]:
    """The same views, as far as they see the body at these parameters, with a margin.

    Args:
        objective: Views with one image each.
        parameters: Where the body lies.
        points: Of its box: `corners`.

    Returns:
        The views, which count their renders anew, and the part of the pixels that is left.
    """
    near = Objective([_cropped(s, parameters, points) for s in objective.sights], objective.loss)
    left, whole = (sum(s.fixed[0].numel() for s in o.sights) for o in (near, objective))
    return near, left / whole


def refine_nearby(
    objective: Objective,
    parameters: Float[Tensor, "m n"],
    owner: Int[Tensor, " m"],
    steps: Sequence[int],
    still: Sequence[float],
    grey: Model,
    points: Float[Tensor, "8 3"],
) -> Float[Tensor, "m n"]:
    """Where `refine` ends, each row by the part of the images around the body.

    Args:
        points: Of the body's box: `corners`.
    """
    ended = []
    for row, whose in zip(parameters.split(1), owner.split(1), strict=True):
        part, share = cropped(objective.rows(whose), row, points)
        one = refine(part, row, torch.zeros_like(whose), steps, still, grey)
        objective.count(share * part.renders)
        ended.append(one.parameters)
    return torch.cat(ended)


def _cropped(sight: Sight, parameters: Tensor, points: Tensor) -> Sight:
    carm = sight.drr.carm
    if not isinstance(carm, CArm) or sight.freed is not None:
        return sight
    seen = carm.project(points, sight.pose(parameters))[0]
    if not bool(torch.isfinite(seen).all()):  # a corner beside the source
        return sight
    margin = _MARGIN + 4 * sight.grey.window
    size = seen.new_tensor([carm.width, carm.height])
    low = (seen.amin(dim=0) - margin).floor().clamp_min(0).minimum(size - 1)
    high = (seen.amax(dim=0) + margin).ceil().minimum(size).maximum(low + 1)
    (left, top), (right, bottom) = low.int().tolist(), high.int().tolist()
    part = carm.crop(top, left, bottom - top, right - left)
    rows, columns = slice(top, bottom), slice(left, right)
    weights, watch = sight.weights, sight.seen
    return replace(
        sight,
        drr=sight.drr.with_carm(part),
        fixed=sight.fixed[..., rows, columns],
        weights=None if weights is None else weights[..., rows, columns],
        seen=None if watch is None else watch.with_carm(part),
    )
