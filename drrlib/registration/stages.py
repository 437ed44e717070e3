"""The stages of a registration, each for t images and several candidates of each at once."""

from collections.abc import Sequence
from dataclasses import replace
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
    lowest,
)
from drrlib.registration.outliers import misfit, reweighed
from drrlib.similarity import LINE, Model

APART = 10.0  # [mm] mTRE between poses that count as different places
_LOW = 0.05  # part of the rates that is left at the end of a descent


class Candidates(NamedTuple):
    """Poses of t images, the best of each image first.

    Attributes:
        eta: [t, k, 6].
        loss: [t, k].
        renders: Images of the first view rendered for them.
    """

    eta: Float[Tensor, "t k 6"]
    loss: Float[Tensor, "t k"]
    renders: float


class Refined(NamedTuple):
    """Rows of candidates after fine steps.

    Attributes:
        parameters: [m, n].
        loss: 1 - ZNCC over the pixels that count, after the grey values' regression [m].
        misfit: See `outliers.misfit`; comparable between rows of one image [m].
        kept: Part of the weight that outliers left [m].
        renders: Images of the first view rendered.
        objective: The views with their final weights.
        linear: What they show at `parameters`.
    """

    parameters: Float[Tensor, "m n"]
    loss: Float[Tensor, " m"]
    misfit: Float[Tensor, " m"]
    kept: Float[Tensor, " m"]
    renders: int
    objective: Objective
    linear: list[Linear]

    def rows(self, rows: Int[Tensor, " r"]) -> "Refined":
        """Some of them."""
        own = (self.parameters, self.loss, self.misfit, self.kept)
        shown = [Linear(*(x[rows.to(x.device)] for x in one)) for one in self.linear]
        return Refined(*(x[rows] for x in own), self.renders, self.objective.rows(rows), shown)


def search_coarsely(
    objective: Objective,
    eta: Float[Tensor, "t k 6"],
    rates: tuple[float, float],
    steps: int,
    robust: bool = True,
) -> Candidates:
    """Two descents of all candidates; the second without outliers, for the better half alone.

    An instrument pulls a pose by centimetres; half the way its pixels can be told from those that
    a better pose will explain.

    Args:
        objective: The views at the coarsest level, an image for each of t.
        eta: Where to begin.
        rates: For rotation [rad] and translation [mm].
        steps: Number of steps of both together.
        robust: Whether outliers lose their weight; else all pixels stay.
    """
    count, k = eta.shape[:2]
    first = descend_together(objective, eta, rates, steps // 2, (1.0, 0.5))
    k = (k + 1) // 2
    rows, owner = first.eta[:, :k].flatten(0, 1), torch.arange(count).repeat_interleave(k)
    each, before = objective.rows(owner), objective.renders
    weighted = reweighed(each, each.images(rows))[0] if robust else each
    done = descend_together(weighted, rows[:, None], rates, steps - steps // 2, (0.5, _LOW))
    rows, value = done.eta[:, 0], done.loss[:, 0]
    if robust:
        _, fits = reweighed(each, each.images(rows))
        value = misfit(fits, owner)
    renders = first.renders + objective.renders - before
    return Candidates(*lowest(rows.reshape(count, k, 6), value.reshape(count, k)), renders)


def descend_together(
    objective: Objective,
    eta: Float[Tensor, "t k 6"],
    rates: tuple[float, float],
    steps: int,
    fall: tuple[float, float],
) -> Candidates:
    """Adam from all candidates side by side, whose rates fall linearly from fall[0] to fall[1]."""
    count, k = eta.shape[:2]
    search, before = Search(eta.flatten(0, 1)), objective.renders
    each = objective.rows(torch.arange(count).repeat_interleave(k))
    descend_level(search, each, Adam(*rates), steps, linear(*fall))
    best = lowest(search.best_eta.reshape(count, k, 6), search.best_loss.reshape(count, k))
    return Candidates(*best, objective.renders - before)


def refine(
    objective: Objective,
    parameters: Float[Tensor, "m n"],
    owner: Int[Tensor, " m"],
    steps: Sequence[int],
    still: Sequence[float],
    grey: Model,
) -> Refined:
    """Levenberg-Marquardt in rounds; before each, outliers are found anew and lose their weight.

    Args:
        steps: Most steps of each round.
        still: As in `levenberg`.
        grey: How grey values may differ.
    """
    before = objective.renders
    each = objective.rows(owner)
    each = each.with_sights([replace(s, grey=grey) for s in each.sights])
    shown = each.linearize(parameters)
    for most in steps:
        weighted, _ = reweighed(each, [one.image for one in shown])
        done = levenberg(weighted, parameters, shown, most, still)
        parameters, shown = done.parameters, done.linear
    weighted, fits = reweighed(each, [one.image for one in shown])
    kept = [
        f.weights.mean(dim=1) / (1 if s.weights is None else s.weights.mean(dim=(1, 2, 3)))
        for s, f in zip(each.sights, fits, strict=True)
    ]
    loss = done.normal.loss
    if grey != LINE:
        loss = 1 - (1 - 2 * loss).clamp_min(0).sqrt()  # 1 - R, which for a line is 1 - ZNCC
    return Refined(
        parameters,
        loss,
        misfit(fits, owner),
        torch.stack(kept).mean(dim=0).double().cpu(),
        objective.renders - before,
        weighted,
        shown,
    )


def refine_by_descent(
    objective: Objective,
    parameters: Float[Tensor, "m 6"],
    owner: Int[Tensor, " m"],
    rates: tuple[float, float],
    steps: int,
) -> Refined:
    """The same for a similarity that is no sum of squares: Adam with small rates."""
    before, each = objective.renders, objective.rows(owner)
    found = descend_together(each, parameters[:, None], rates, steps, (1.0, _LOW))
    eta, loss = found.eta[:, 0], found.loss[:, 0]
    shown, kept = each.linearize(eta), torch.ones_like(loss)
    return Refined(eta, loss, loss, kept, objective.renders - before, each, shown)


def distinct(poses: Float[Tensor, "k 4 4"], points: Float[Tensor, "p 3"], most: int) -> list[int]:
    """Indices of the first poses that are not near an earlier one."""
    kept: list[int] = []
    for i in range(len(poses)):
        if len(kept) == most:
            break
        if not kept or bool((mtre(poses[kept], poses[i : i + 1], points) > APART).all()):
            kept.append(i)
    return kept
