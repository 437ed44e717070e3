"""The stages of a registration, each for t images and several candidates of each at once."""

import math
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
)
from drrlib.registration.judge import APART
from drrlib.registration.outliers import ROUNDS, misfit, reweighed
from drrlib.similarity import LINE, Model

_LOW = 0.05  # part of the rates that is left at the end of a descent


class Refined(NamedTuple):
    """Rows of candidates after fine steps.

    Attributes:
        parameters: [m, n].
        loss: 1 - ZNCC over the pixels that count, of images normalised in windows or after the grey
            values' regression [m].
        misfit: Comparable between rows of one image: see `outliers.misfit`; with windows, the
            loss [m].
        kept: Part of the weight that outliers or the end of the CT left [m].
        owner: Which image of the objective each is of [m].
        objective: The views with their final weights, an image for each row.
        linear: What they show at `parameters`.
    """

    parameters: Float[Tensor, "m n"]
    loss: Float[Tensor, " m"]
    misfit: Float[Tensor, " m"]
    kept: Float[Tensor, " m"]
    owner: Int[Tensor, " m"]
    objective: Objective
    linear: list[Linear]

    def rows(self, rows: Int[Tensor, " r"]) -> "Refined":
        """Some of them."""
        own = (self.parameters, self.loss, self.misfit, self.kept, self.owner)
        shown = [one.rows(rows) for one in self.linear]
        return Refined(*(x[rows] for x in own), self.objective.rows(rows), shown)


def search_coarsely(
    objective: Objective,
    eta: Float[Tensor, "m 6"],
    owner: Int[Tensor, " m"],
    rates: tuple[float, float],
    steps: int,
) -> tuple[Float[Tensor, "k 6"], Float[Tensor, " k"], Int[Tensor, " k"]]:
    """Two descents of all candidates; the second without outliers, for the better half alone.

    An instrument pulls a pose by centimetres; half the way its pixels can be told from those that
    a better pose will explain.

    Args:
        objective: The views at the coarsest level.
        eta: Where to begin, as many for each image.
        owner: Which image each is of.
        rates: For rotation [rad] and translation [mm].
        steps: Number of steps of both together.

    Returns:
        The better half of each image: parameters, misfits, and their owners.
    """
    eta, loss = descend_together(objective, eta, owner, rates, steps // 2, (1.0, 0.5))
    half = []
    for t in owner.unique():
        mine = torch.nonzero(owner == t).flatten()
        half.append(mine[in_order(loss[mine])[: (len(mine) + 1) // 2]])
    rows = torch.cat(half)
    eta, owner = eta[rows], owner[rows]
    each = objective.rows(owner)
    weighted = reweighed(each, each.images(eta))[0]
    alone = torch.arange(len(eta))
    eta, _ = descend_together(weighted, eta, alone, rates, steps - steps // 2, (0.5, _LOW))
    _, fits = reweighed(each, each.images(eta))
    return eta, misfit(fits, owner), owner


def descend_together(
    objective: Objective,
    eta: Float[Tensor, "m 6"],
    owner: Int[Tensor, " m"],
    rates: tuple[float, float],
    steps: int,
    fall: tuple[float, float] = (1.0, _LOW),
) -> tuple[Float[Tensor, "m 6"], Float[Tensor, " m"]]:
    """Adam from all candidates side by side, whose rates fall linearly from fall[0] to fall[1].

    Returns the best of each candidate, and its loss.
    """
    search = Search(eta)
    descend_level(search, objective.rows(owner), Adam(*rates), steps, linear(*fall))
    return search.best_eta, search.best_loss


def refine(
    objective: Objective,
    parameters: Float[Tensor, "m n"],
    owner: Int[Tensor, " m"],
    steps: Sequence[int],
    still: Sequence[float],
    grey: Model,
    rounds: int = ROUNDS,
) -> Refined:
    """Levenberg-Marquardt in rounds; before each, outliers are found anew and lose their weight.

    Args:
        steps: Most steps of each round.
        still: As in `levenberg`.
        grey: How grey values may differ. With a window, no outliers are looked for.
        rounds: Of weights, each time that outliers are looked for.
    """
    each = objective.rows(owner)
    each = each.with_sights([replace(s, grey=grey) for s in each.sights])
    shown, weighted = each.linearize(parameters), each
    for most in steps:
        if not grey.window:
            weighted, _ = reweighed(each, [one.image for one in shown], rounds)
        done = levenberg(weighted, parameters, shown, most, still)
        parameters, shown = done.parameters, done.linear
    loss = done.normal.loss
    if grey.window:
        kept = [s.share(one.left) for s, one in zip(each.sights, shown, strict=True)]
        kept = torch.stack(kept).mean(dim=0).double().cpu()
        misfits = loss = loss + each.sights[0].scant(kept)
    else:
        weighted, fits = reweighed(each, [one.image for one in shown], rounds)
        kept = [
            f.weights.mean(dim=1) / (1 if s.weights is None else s.weights.mean(dim=(1, 2, 3)))
            for s, f in zip(each.sights, fits, strict=True)
        ]
        kept, misfits = torch.stack(kept).mean(dim=0).double().cpu(), misfit(fits, owner)
        if grey != LINE:
            loss = 1 - (1 - 2 * loss).clamp_min(0).sqrt()  # 1 - R, which for a line is 1 - ZNCC
    return Refined(parameters, loss, misfits, kept, owner, weighted, shown)


def refine_by_descent(
    objective: Objective,
    parameters: Float[Tensor, "m 6"],
    owner: Int[Tensor, " m"],
    rates: tuple[float, float],
    steps: int,
) -> Refined:
    """The same for a similarity that is no sum of squares: Adam with small rates."""
    eta, loss = descend_together(objective, parameters, owner, rates, steps)
    each, kept = objective.rows(owner), torch.ones_like(loss)
    return Refined(eta, loss, loss, kept, owner, each, each.linearize(eta))


def distinct(
    poses: Float[Tensor, "k 4 4"], points: Float[Tensor, "p 3"], most: int, apart: float = APART
) -> list[int]:
    """Indices of the first poses that are not within so many mm of an earlier one (mTRE)."""
    kept: list[int] = []
    for i in range(len(poses)):
        if len(kept) == most:
            break
        if not kept or bool((mtre(poses[kept], poses[i : i + 1], points) > apart).all()):
            kept.append(i)
    return kept


def in_order(loss: Float[Tensor, " m"]) -> Int[Tensor, " m"]:
    """Rows from the lowest loss to the highest; NaN counts as worst."""
    return loss.nan_to_num(nan=math.inf).argsort()
