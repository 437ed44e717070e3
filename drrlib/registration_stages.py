"""The stages of a registration, each for t images and several candidates of each at once."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from drrlib.levenberg import Sight, levenberg, residuals
from drrlib.metrics import mtre
from drrlib.optimizers import Adam
from drrlib.outliers import misfit, reweighed

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
        settled: [m].
        renders: Images of the first view rendered.
        sights: The views with their final weights, one image for each row.
    """

    parameters: Float[Tensor, "m n"]
    loss: Float[Tensor, " m"]
    misfit: Float[Tensor, " m"]
    kept: Float[Tensor, " m"]
    settled: Bool[Tensor, " m"]
    renders: int
    sights: list[Sight]

    def rows(self, rows: Int[Tensor, " r"]) -> "Refined":
        """Some of them."""
        sights = [s.rows(rows) for s in self.sights]
        own = (self.parameters, self.loss, self.misfit, self.kept, self.settled)
        return Refined(*(x[rows] for x in own), self.renders, sights)


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
    renders = first.renders
    if loss_of is None:
        weighted, _ = reweighed(sights, rows, owner)
        done = descend_together(
            weighted, rows[:, None], rates, steps - steps // 2, None, (0.5, _LOW)
        )
        rows = done.eta[:, 0]
        _, fits = reweighed(sights, rows, owner)
        value = misfit(fits, owner)
        renders += 2 * len(rows)
    else:
        each = [s.rows(owner) for s in sights]
        done = descend_together(
            each, rows[:, None], rates, steps - steps // 2, loss_of, (0.5, _LOW)
        )
        rows, value = done.eta[:, 0], done.loss[:, 0]
    return _sorted(rows.reshape(count, k, 6), value.reshape(count, k), renders + done.renders)


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
    rows, owner = eta.flatten(0, 1).clone(), torch.arange(count).repeat_interleave(k)
    optimizer = Adam(*rates)
    state = optimizer.init(rows)
    best, where = rows.new_full((len(rows),), torch.inf), rows.clone()
    for step in range(steps):
        value, slope = _slope(sights, rows, owner, loss_of)
        better = value < best
        best = torch.where(better, value, best)
        where[better] = rows[better]
        rate = fall[0] + (fall[1] - fall[0]) * step / max(steps - 1, 1)
        rows, state = optimizer.step(rows, slope, state, rate)
    return _sorted(where.reshape(count, k, 6), best.reshape(count, k), steps * len(rows))


def _sorted(eta: Tensor, loss: Tensor, renders: float) -> Candidates:
    order = loss.nan_to_num(nan=math.inf).argsort(dim=1)
    eta = eta.gather(1, order[..., None].expand(-1, -1, 6))
    return Candidates(eta, loss.gather(1, order), renders)


def refine(
    sights: Sequence[Sight],
    parameters: Float[Tensor, "m n"],
    owner: Int[Tensor, " m"],
    steps: Sequence[int],
    still: Sequence[float],
    degree: int,
) -> Refined:
    """Levenberg-Marquardt in rounds; before each, outliers are found anew and lose their weight.

    Args:
        steps: Most steps of each round.
        still: As in `levenberg`.
        degree: Of the grey-value polynomial, as in `Sight`.
    """
    renders, everyone = 0, torch.arange(len(parameters))
    sights = [replace(s, degree=degree) for s in sights]
    for most in steps:
        weighted, fits = reweighed(sights, parameters, owner)
        done = levenberg(weighted, parameters, everyone, most, still)
        parameters = done.parameters
        renders += len(parameters) + done.renders // len(sights)
    weighted, fits = reweighed(sights, parameters, owner)
    renders += len(parameters)
    kept = torch.stack(
        [f.weights.mean(dim=1) / (1 if s.weights is None else s.weights[owner].mean(dim=(1, 2, 3)))
         for s, f in zip(sights, fits, strict=True)]
    ).mean(dim=0)  # fmt: skip
    loss = done.normal.loss
    if degree > 1:
        loss = 1 - (1 - 2 * loss).clamp_min(0).sqrt()  # 1 - R, which for degree 1 is 1 - ZNCC
    return Refined(
        parameters, loss, misfit(fits, owner), kept.double().cpu(), done.settled,
        renders, weighted,
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
    nothing = torch.ones(len(parameters), dtype=torch.float64)
    loss = found.loss[:, 0]
    return Refined(
        found.eta[:, 0], loss, loss, nothing, torch.isfinite(loss), int(found.renders), each
    )


def distinct(poses: Float[Tensor, "k 4 4"], points: Float[Tensor, "p 3"], most: int) -> list[int]:
    """Indices of the first poses that are not near an earlier one."""
    kept: list[int] = []
    for i in range(len(poses)):
        if len(kept) == most:
            break
        if not kept or bool((mtre(poses[kept], poses[i : i + 1], points) > APART).all()):
            kept.append(i)
    return kept


def _slope(sights, rows, owner, loss_of):
    """Mean over the views of loss and gradient."""
    value, slope = torch.zeros(len(rows), dtype=torch.float64), torch.zeros_like(rows)
    for sight in sights:
        if loss_of is None:
            residual, jacobian = residuals(sight, rows, owner)
            part = 0.5 * residual.square().sum(dim=1)
            slope_part = (residual[:, None] @ jacobian)[:, 0]
        else:
            p = rows.detach().requires_grad_()
            where = owner.to(sight.fixed.device)
            weights = None if sight.weights is None else sight.weights[where]
            part = loss_of(sight.fixed[where], sight.render(p), weights)
            (slope_part,) = torch.autograd.grad(part.sum(), p)
        value += part.detach().double().cpu() / len(sights)
        slope += slope_part.double().cpu() / len(sights)
    return value, slope
