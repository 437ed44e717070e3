"""The paper's loop: first-order steps, or a search without gradients, from one start or many.

Source: Alfiansyah et al. 2024, doi:10.3844/jcssp.2024.1593.1601, Fig. 4.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from drrlib.arrays import Numbers
from drrlib.drr import DRR
from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry import Geometry
from drrlib.optimize import (
    GRADIENT_FREE,
    LOST,
    RAN_OUT,
    GradientFree,
    Objective,
    Optimizer,
    Search,
    constant,
    cosine,
    descend_level,
    get_optimizer,
    search_level,
)
from drrlib.progress import progress_bar
from drrlib.registration.levels import halvings, level_sight
from drrlib.registration.result import RegistrationResult
from drrlib.similarity import check_falls, get_loss
from drrlib.view import View, check_images, check_starts

_STEPS = 80  # at each of the levels that are taken where none are given
_FALLS = {"cosine": cosine, "constant": constant}


@dataclass(frozen=True)
class Schedule:
    """Levels, rates and ends of a descent.

    Args:
        levels: (binning, most steps) pairs, coarse first; binning joins detector pixels by
            averaging, for any size of the detector. None: binnings of 8, 4, 2 and 1, as far as 24
            pixels are left across, and 80 steps at each.
        rates: "cosine" lets the rates fall to 2 % within each level; "constant" keeps them. A finer
            level starts with rates (without gradients: first steps) that are smaller by its
            binning, since it only has to correct what the level before could not see.
        threshold: A start stops when its loss falls below this at the finest level.
        patience: A start leaves a level when its loss has not improved by 0.1 % for so many steps.

    Raises:
        ConfigError: an unknown name, or levels without a step.
    """

    levels: Sequence[Sequence[int]] | None = None
    rates: str = "cosine"
    threshold: float = 1e-6
    patience: int = 25

    def __post_init__(self):
        if self.rates not in _FALLS:
            raise ConfigError(f"rates is {self.rates!r}; choose {' or '.join(_FALLS)}")
        if self.levels is None:
            return
        levels = tuple((int(b), int(n)) for b, n in self.levels)
        if not levels or any(b < 1 or n < 1 for b, n in levels):
            raise ConfigError(f"levels is {levels}; expected (binning, steps) pairs, each >= 1")
        object.__setattr__(self, "levels", levels)

    def levels_for(self, geometry) -> tuple[tuple[int, int], ...]:
        """(binning, most steps) pairs for a detector."""
        if self.levels is not None:
            return self.levels
        return tuple((2**k, _STEPS) for k in reversed(range(min(3, halvings(geometry)) + 1)))


COARSE_TO_FINE = Schedule()
# One level, constant rates, and the paper's criterion of success.
PAPER = Schedule(levels=((1, 250),), rates="constant", threshold=1e-6)


def descend(
    fixed: View | Numbers,
    drr: DRR,
    start: Numbers,
    *,
    loss: str | Callable = "zncc",
    optimizer: str | Optimizer | GradientFree = "adam",
    derivative: str = "exact",
    schedule: Schedule = COARSE_TO_FINE,
    graph: bool = False,
) -> RegistrationResult:
    """Find the pose whose DRR fits the fixed image, from each start on its own.

    Args:
        fixed: X-ray image: a View of `drr`'s camera, or line integrals [height, width]. Or
            [n, 1, height, width], an image for each start: then every start is a registration of
            its own.
        drr: Renderer of the CT with the intrinsics of the image; its method and backend count.
        start: Pose parameters eta to start from, [6] or [n, 6]; n starts run side by side.
        loss: A name of `similarity.LOSSES`, or a function (fixed, moving, weights) -> [n].
        optimizer: "gd", "gdm", "gddm", "adam" or an object of `optimize.rules`; without gradients
            "nelder-mead", "powell", "cma-es" or an object of `optimize.gradient_free`, where a
            step is one render and starts run one after the other.
        derivative: "exact" takes the gradient from the render's own march; "finite" from central
            differences over +-0.5 degrees and +-0.5 mm, twelve renders more in each step.
        schedule: Levels, rates and ends; `PAPER` is the paper's own.
        graph: Record each level's iteration as a CUDA graph and replay it, which spares the time
            that Python takes to start its kernels. The lengths of the C-arm must then be numbers,
            or on the GPU. Starts that stopped are rendered on with the others; the renders that
            warm a graph up are not counted.

    Returns:
        The result of each start with its trace, or of the one that was given; `best` is that of
        lowest loss. Without a graph, a start that stopped costs nothing more.

    Raises:
        ShapeError: image, start or detector disagree.
        ConfigError: an unknown option, or a fixed image that is constant or not finite.
        BackendError: a graph without a CUDA device.
    """
    began = time.perf_counter()
    if not isinstance(drr, DRR):
        raise ConfigError(f"drr is a {type(drr).__name__}; expected a DRR(volume, carm)")
    start, carm = check_starts(start), drr.carm
    rows = start.reshape(-1, 6)
    images, weights = _images(fixed, carm, len(rows))
    loss_of, method = get_loss(loss), _method(optimizer, derivative, graph)
    check_falls(loss_of, images, weights)
    levels = schedule.levels_for(carm)
    search = Search(rows, schedule.threshold, schedule.patience)
    bar = progress_bar(sum(steps for _, steps in levels), "step")
    renders = 0.0
    for index, (binning, steps) in enumerate(levels):
        objective = Objective([level_sight(drr, carm, images, weights, binning)], loss_of)
        search.enter(binning, last=index == len(levels) - 1)
        scale, fall = binning / levels[0][0], _FALLS[schedule.rates]
        if isinstance(method, GradientFree):
            search_level(search, objective, method, steps, scale)
            bar.update(steps)
        else:
            descend_level(
                search,
                objective,
                method,
                steps,
                lambda step, most, scale=scale, fall=fall: scale * fall(step, most),
                derivative=derivative,
                graph=graph,
                bar=bar,
            )
        search.leave()
        renders += objective.renders / binning**2
    bar.close()
    found = RegistrationResult(
        eta=search.best_eta,
        pose=carm.pose(search.best_eta, drr.volume.center).detach(),
        loss=search.best_loss,
        converged=torch.tensor([r not in (RAN_OUT, LOST) for r in search.reason]),
        reason=tuple(search.reason),
        carm=carm,
        center=drr.volume.center,
        renders=renders,
        seconds=time.perf_counter() - began,
        trace=search.trace,
    )
    return found if start.ndim == 2 else found[0]


def _images(fixed: View | Numbers, carm: Geometry, starts: int) -> tuple[Tensor, Tensor | None]:
    """Images and weights [1 or starts, 1, height, width]."""
    given = (fixed.image, fixed.weights) if isinstance(fixed, View) else (fixed, None)
    images, weights = check_images(given[0], carm, given[1], "fixed")
    if len(images) not in (1, starts):
        raise ShapeError(
            f"fixed has {len(images)} images for {starts} starts; expected one image for all, "
            f"or [{starts}, 1, height, width], one for each start"
        )
    return images, weights


def _method(optimizer: object, derivative: str, graph: bool) -> Optimizer | GradientFree:
    """The step rule or search, and whether it goes with the other options."""
    if derivative not in ("exact", "finite"):
        raise ConfigError(f"derivative is {derivative!r}; choose exact or finite")
    if isinstance(optimizer, str) and optimizer.lower() in GRADIENT_FREE:
        optimizer = GRADIENT_FREE[optimizer.lower()]()
    gradient_free = isinstance(optimizer, GradientFree)
    if gradient_free and derivative != "exact":
        raise ConfigError("a search without gradients takes no derivative: leave it out")
    if graph and (derivative != "exact" or gradient_free):
        raise ConfigError("a graph records steps along the exact gradient: leave graph=False")
    return optimizer if gradient_free else get_optimizer(optimizer)
