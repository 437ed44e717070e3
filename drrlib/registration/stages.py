"""The stages of a registration, each for t images and several candidates of each at once."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from drrlib.geometry import mtre
from drrlib.optimize import (
    Adam,
    Linear,
    Objective,
    Search,
    descend_level,
    levenberg,
    linear,
    scant,
)

APART = 10.0  # [mm] mTRE between poses that count as different places
_LOW = 0.1  # part of the rates that is left at the end of a descent


class Refined(NamedTuple):
    """Rows of candidates after fine steps.

    Attributes:
        parameters: [m, n].
        loss: Comparable between rows of one image [m].
        kept: Part of the image's weight that rays through the CT have [m].
        owner: Which image of the objective each is of [m].
        objective: The views, an image for each row.
        linear: What they show at `parameters`.
    """

    parameters: Float[Tensor, "m n"]
    loss: Float[Tensor, " m"]
    kept: Float[Tensor, " m"]
    owner: Int[Tensor, " m"]
    objective: Objective
    linear: list[Linear]

    def rows(self, rows: Int[Tensor, " r"]) -> "Refined":
        """Some of them."""
        own = (self.parameters, self.loss, self.kept, self.owner)
        shown = [one.rows(rows) for one in self.linear]
        return Refined(*(x[rows] for x in own), self.objective.rows(rows), shown)


def descend_together(
    objective: Objective,
    eta: Float[Tensor, "m 6"],
    owner: Int[Tensor, " m"],
    rates: tuple[float, float],
    steps: int,
) -> tuple[Float[Tensor, "m 6"], Float[Tensor, " m"]]:
    """Adam from all candidates side by side with falling rates; the best of each, and its loss."""
    search = Search(eta)
    descend_level(search, objective.rows(owner), Adam(*rates), steps, linear(1.0, _LOW))
    return search.best_eta, search.best_loss


def refine(
    objective: Objective,
    parameters: Float[Tensor, "m n"],
    owner: Int[Tensor, " m"],
    steps: int,
    still: tuple[float, ...],
) -> Refined:
    """Levenberg-Marquardt from all candidates side by side; `still` as in `levenberg`."""
    each = objective.rows(owner)
    done = levenberg(each, parameters, each.linearize(parameters), steps, still)
    kept = torch.stack([_kept(*x) for x in zip(each.sights, done.linear, strict=True)]).mean(dim=0)
    loss = done.normal.loss + scant(kept)
    return Refined(done.parameters, loss, kept, owner, each, done.linear)


def refine_by_descent(
    objective: Objective,
    parameters: Float[Tensor, "m 6"],
    owner: Int[Tensor, " m"],
    rates: tuple[float, float],
    steps: int,
) -> Refined:
    """The same for a similarity that is no sum of squares: Adam with small rates."""
    eta, loss = descend_together(objective, parameters, owner, rates, steps)
    each = objective.rows(owner)
    return Refined(eta, loss, torch.ones_like(loss), owner, each, each.linearize(eta))


def distinct(poses: Float[Tensor, "k 4 4"], points: Float[Tensor, "p 3"], most: int) -> list[int]:
    """Indices of the first poses that are not near an earlier one."""
    kept: list[int] = []
    for i in range(len(poses)):
        if len(kept) == most:
            break
        if not kept or bool((mtre(poses[kept], poses[i : i + 1], points) > APART).all()):
            kept.append(i)
    return kept


def _kept(sight, shown: Linear) -> Float[Tensor, " m"]:
    left = shown.left
    if sight.weights is not None:
        weights = sight.weights.flatten(1)
        left = left * weights / weights.mean(dim=1, keepdim=True).clamp_min(1e-12)
    return left.mean(dim=1).double().cpu()
