"""Which coarse poses go on: the best of what sweeps around every start find."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from drrlib.geometry import CArm, Geometry
from drrlib.optimize import Objective, Sight
from drrlib.registration.everywhere import sweep_everywhere
from drrlib.registration.plan import Preset
from drrlib.registration.sweep import Sweep, settle_depths, spread, sweep

EVERYWHERE = (math.pi, 100.0)  # where no start is known
# Directions of view for each rotation of a preset, and candidates for each it keeps, everywhere.
_DIRECTIONS, _CANDIDATES = 2, 2
_DEEPER = 4  # times the candidates whose depth is settled by the other views


def look_around(
    sight: Sight,
    start: Float[Tensor, "t s 6"],
    rotations: int,
    search: tuple[float, float],
    seed: int,
    inverted: bool = False,
) -> Sweep:
    """Sweeps around every start of each image, or of views from everywhere, as one.

    Args:
        sight: The first view at the coarse level, with an image for each of t.
        start: Poses to search around.
        rotations: Around each start.
        search: As in `register`; with pi, only the isocentre of a start counts.
        seed: Of the first start's moves.
        inverted: Whether to look for the negative of each image, too.
    """
    turn, shift = search
    tries = []
    for s in range(start.shape[1]):
        around = start[:, s]
        if _everywhere(search, sight.drr.carm):
            how = (_DIRECTIONS * rotations, shift, seed + s, inverted)
            tries.append(sweep_everywhere(sight, around, *how))
        else:
            moves = spread(rotations, turn, shift, seed + s)
            tries.append(sweep(sight, around, moves, shift, inverted))
    joined = (torch.cat([x[k] for x in tries], dim=1) for k in range(3))
    return Sweep(*joined, sum(x.renders for x in tries))


def most_alike(
    found: Sweep, kept: int
) -> tuple[Float[Tensor, "m 6"], Int[Tensor, " m"], Float[Tensor, " m"]]:
    """So many of the best poses of each of t images, as rows: eta, owner, likeness.

    The owner of a pose at which the negative of image k is alike is t + k.
    """
    kept = min(kept, found.likeness.shape[1])
    best = found.likeness.nan_to_num(nan=-math.inf).topk(kept, dim=1).indices
    rows = torch.arange(len(best))[:, None]
    owner = rows + len(best) * found.inverted[rows, best]
    return (
        found.eta[rows, best].flatten(0, 1),
        owner.flatten(),
        found.likeness[rows, best].flatten(),
    )


def candidates(
    plan: Preset,
    objective: Objective,
    start: Float[Tensor, "t s 6"],
    search: tuple[float, float],
    inverted: bool,
) -> tuple[Float[Tensor, "m 6"], Int[Tensor, " m"], Float[Tensor, " m"], float]:
    """The poses that descend: eta, owner, likeness, and images of the coarse level rendered."""
    first = objective.sights[0]
    most = plan.kept * (_CANDIDATES if _everywhere(search, first.drr.carm) else 1)
    found = look_around(first, start, plan.rotations, search, plan.seed, inverted)
    if not (inverted and len(objective.sights) > 1):
        return *most_alike(found, most), found.renders
    rows = most_alike(found, most * _DEEPER)
    eta, likeness, more = settle_depths(objective.sights, *rows, search[1])
    likeness = likeness.reshape(len(start), -1).nan_to_num(nan=-math.inf)
    best = likeness.topk(min(most, likeness.shape[1]), dim=1).indices
    best = (best + likeness.shape[1] * torch.arange(len(start))[:, None]).flatten()
    return eta[best], rows[1][best], likeness.flatten()[best], found.renders + more


def _everywhere(search: tuple[float, float], carm: Geometry) -> bool:
    """Whether all directions are to be tried; a localizer's camera cannot be turned so."""
    return search[0] >= EVERYWHERE[0] and isinstance(carm, CArm)
