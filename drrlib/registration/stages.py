"""The stages of a registration, each for t images and several candidates of each at once."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from drrlib.geometry.metrics import mtre
from drrlib.optimize.rules import Adam
from drrlib.optimize.second_order import Linear, Sight, levenberg, linearize, normal_equations
from drrlib.registration.outliers import misfit, reweighed
from drrlib.similarity.grey import LINE, Model

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
        sights: The views with their final weights.
        linear: What they show at `parameters`.
    """

    parameters: Float[Tensor, "m n"]
    loss: Float[Tensor, " m"]
    misfit: Float[Tensor, " m"]
    kept: Float[Tensor, " m"]
    renders: int
    sights: list[Sight]
    linear: list[Linear]

    def rows(self, rows: Int[Tensor, " r"]) -> "Refined":
        """Some of them."""
        own = (self.parameters, self.loss, self.misfit, self.kept)
        sights = [s.rows(rows) for s in self.sights]
        linear = [Linear(*(x[rows.to(x.device)] for x in one)) for one in self.linear]
        return Refined(*(x[rows] for x in own), self.renders, sights, linear)


def search_coarsely(
    sights: Sequence[Sight],
    eta: Float[Tensor, "t k 6"],
    rates: tuple[float, float],
    steps: int,
    loss_of: Callable | None,
) -> Candidates:
    """Two descents of all candidates; the second without outliers, for the better half alone.

    An instrument pulls a pose by centimetres; half the way its pixels can be told from those that
    a better pose will explain.

    Args:
        sights: The views at the coarsest level.
        eta: Where to begin.
        rates: For rotation [rad] and translation [mm].
        steps: Number of steps of both together.
        loss_of: (fixed, moving, weights) -> [m]; None for 1 - ZNCC. Other losses keep all pixels.
    """
    count, k = eta.shape[:2]
    first = descend_together(sights, eta, rates, steps // 2, loss_of, (1.0, 0.5))
    k = (k + 1) // 2
    rows, owner = first.eta[:, :k].flatten(0, 1), torch.arange(count).repeat_interleave(k)
    each = [s.rows(owner) for s in sights]
    renders, second = first.renders, steps - steps // 2
    if loss_of is None:
        weighted, _ = reweighed(each, [s.render(rows).flatten(1) for s in each])
        done = descend_together(weighted, rows[:, None], rates, second, None, (0.5, _LOW))
        rows = done.eta[:, 0]
        _, fits = reweighed(each, [s.render(rows).flatten(1) for s in each])
        value = misfit(fits, owner)
        renders += 2 * len(rows)
    else:
        done = descend_together(each, rows[:, None], rates, second, loss_of, (0.5, _LOW))
        rows, value = done.eta[:, 0], done.loss[:, 0]
    return ranked(rows.reshape(count, k, 6), value.reshape(count, k), renders + done.renders)


def descend_together(
    sights: Sequence[Sight],
    eta: Float[Tensor, "t k 6"],
    rates: tuple[float, float],
    steps: int,
    loss_of: Callable | None,
    fall: tuple[float, float],
) -> Candidates:
    """Adam from all candidates side by side, whose rates fall linearly from fall[0] to fall[1]."""
    count, k = eta.shape[:2]
    rows = eta.flatten(0, 1).clone()
    each = [s.rows(torch.arange(count).repeat_interleave(k)) for s in sights]
    optimizer = Adam(*rates)
    state = optimizer.init(rows)
    best, where = rows.new_full((len(rows),), torch.inf), rows.clone()
    for step in range(steps):
        value, slope = _slope(each, rows, loss_of)
        better = value < best
        best = torch.where(better, value, best)
        where[better] = rows[better]
        rate = fall[0] + (fall[1] - fall[0]) * step / max(steps - 1, 1)
        rows, state = optimizer.step(rows, slope, state, rate)
    return ranked(where.reshape(count, k, 6), best.reshape(count, k), steps * len(rows))


def ranked(eta: Float[Tensor, "t k 6"], loss: Float[Tensor, "t k"], renders: float) -> Candidates:
    """The best of each image first; NaN counts as worst."""
    order = loss.nan_to_num(nan=math.inf).argsort(dim=1)
    eta = eta.gather(1, order[..., None].expand(-1, -1, 6))
    return Candidates(eta, loss.gather(1, order), renders)


def refine(
    sights: Sequence[Sight],
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
    each = [replace(s.rows(owner), grey=grey) for s in sights]
    linear, renders = linearize(each, parameters), len(parameters)
    for most in steps:
        weighted, _ = reweighed(each, [one.image for one in linear])
        done = levenberg(weighted, parameters, linear, most, still)
        parameters, linear = done.parameters, done.linear
        renders += done.renders
    weighted, fits = reweighed(each, [one.image for one in linear])
    kept = [
        f.weights.mean(dim=1) / (1 if s.weights is None else s.weights.mean(dim=(1, 2, 3)))
        for s, f in zip(each, fits, strict=True)
    ]
    loss = done.normal.loss
    if grey != LINE:
        loss = 1 - (1 - 2 * loss).clamp_min(0).sqrt()  # 1 - R, which for a line is 1 - ZNCC
    return Refined(
        parameters, loss, misfit(fits, owner), torch.stack(kept).mean(dim=0).double().cpu(),
        renders, weighted, linear,
    )  # fmt: skip


def refine_by_descent(
    sights: Sequence[Sight],
    parameters: Float[Tensor, "m 6"],
    owner: Int[Tensor, " m"],
    rates: tuple[float, float],
    steps: int,
    loss_of: Callable,
) -> Refined:
    """The same for a similarity that is no sum of squares: Adam with small rates."""
    each = [s.rows(owner) for s in sights]
    found = descend_together(each, parameters[:, None], rates, steps, loss_of, (1.0, _LOW))
    eta, loss = found.eta[:, 0], found.loss[:, 0]
    renders = int(found.renders) + len(eta)
    return Refined(eta, loss, loss, torch.ones_like(loss), renders, each, linearize(each, eta))


def distinct(poses: Float[Tensor, "k 4 4"], points: Float[Tensor, "p 3"], most: int) -> list[int]:
    """Indices of the first poses that are not near an earlier one."""
    kept: list[int] = []
    for i in range(len(poses)):
        if len(kept) == most:
            break
        if not kept or bool((mtre(poses[kept], poses[i : i + 1], points) > APART).all()):
            kept.append(i)
    return kept


def _slope(sights, rows, loss_of):
    """Mean over the views of loss and gradient."""
    if loss_of is None:
        model = normal_equations(sights, linearize(sights, rows))
        return model.loss, model.gradient
    value, slope = torch.zeros(len(rows), dtype=torch.float64), torch.zeros_like(rows)
    for sight in sights:
        p = rows.detach().requires_grad_()
        part = loss_of(sight.fixed, sight.render(p), sight.weights) / len(sights)
        value += part.detach().double().cpu()
        slope += torch.autograd.grad(part.sum(), p)[0]
    return value, slope
