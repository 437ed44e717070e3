"""The one loop: render, compare, step; a batch of starts side by side, at one level."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.optimize.gradient_free import GradientFree
from drrlib.optimize.iteration import Iteration
from drrlib.optimize.objective import Objective
from drrlib.optimize.rules import Optimizer
from drrlib.optimize.search import Search

Fall = Callable[[int, int], float]  # (step, steps) -> factor of the rates


def constant(step: int, steps: int) -> float:
    """1 at each step."""
    return 1.0


def cosine(step: int, steps: int) -> float:
    """From 1 to 0.02."""
    fraction = torch.tensor(torch.pi * step / max(steps - 1, 1))
    return float(0.02 + 0.98 * 0.5 * (1 + torch.cos(fraction)))


def linear(first: float, last: float) -> Fall:
    """From `first` to `last`."""
    return lambda step, steps: first + (last - first) * step / max(steps - 1, 1)


def descend_level(
    search: Search,
    objective: Objective,
    optimizer: Optimizer,
    steps: int,
    fall: Fall = constant,
    *,
    derivative: str = "exact",
    graph: bool = False,
    bar=None,
) -> None:
    """Up to `steps` steps of all starts that still run; the search keeps what they find.

    Args:
        search: Starts, and when they stop.
        objective: With one image for all starts, or one for each.
        optimizer: Step rule.
        steps: Most steps.
        fall: What multiplies the rates at each step.
        derivative, graph: As in `Iteration`.
        bar: A progress bar, moved on by `steps` in all.
    """
    active = search.active
    if len(active):
        first = objective if len(active) == len(search.eta) else objective.rows(active)
        iteration = Iteration(
            first, search.eta[active], optimizer=optimizer, graph=graph, derivative=derivative
        )
    for step in range(steps):
        active = search.active
        if len(active) == 0:
            if bar is not None:
                bar.update(steps - step)
            return
        value = iteration(fall(step, steps)).cpu()
        keep = search.record(active, value, iteration.slope.cpu())
        iteration.keep(keep)
        search.eta[active[keep]] = iteration.eta.cpu()
        if bar is not None:
            bar.update()


@torch.no_grad()
def search_level(
    search: Search, objective: Objective, method: GradientFree, steps: int, scale: float
) -> None:
    """Up to `steps` renders of each start that still runs, one start after the other."""
    runs = {}
    for i in search.active.tolist():
        own = objective.rows(torch.tensor([i]))
        runs[i] = method.search(
            lambda eta, own=own: own.value(eta).cpu(),
            search.eta[i],
            steps,
            search.threshold,
            scale,
            i,
        )
    if runs:
        search.record_runs(runs)


def lowest(
    eta: Float[Tensor, "*n k 6"], loss: Float[Tensor, "*n k"]
) -> tuple[Float[Tensor, "*n k 6"], Float[Tensor, "*n k"]]:
    """Parameters and losses in the order of the losses; NaN counts as worst."""
    order = loss.nan_to_num(nan=math.inf).argsort(dim=-1)
    eta = eta.gather(-2, order[..., None].expand(*order.shape, 6))
    return eta, loss.gather(-1, order)
