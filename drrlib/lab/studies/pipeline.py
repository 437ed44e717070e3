"""Studies of pipelines: from one start to the robust preset, step by step, on the same trials.

Trial i draws its true pose and start from (seed, i) alone, so every method meets the same ones.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.drr import DRR
from drrlib.errors import ConfigError
from drrlib.lab.detector import Effects, acquire, two_materials
from drrlib.lab.studies.protocol import read_config
from drrlib.lab.studies.registration import pose_columns, with_noise
from drrlib.optimize import CmaEs, Objective, lowest
from drrlib.registration import (
    PAPER,
    Levels,
    Registration,
    Schedule,
    descend,
    descend_together,
    refine,
)
from drrlib.similarity import LINE, get_loss

_STARTS, _REFINED = 24, 4  # of the ablation's many starts
_COARSE, _FINE, _LM = 60, 60, (10, 6)  # steps at the coarsest level, at the others; of LM
_RATES, _FALL, _STILL = (0.05, 8.0), (1.0, 0.05), (1e-5,) * 3 + (2e-3,) * 3
# CMA-ES: sigma of its first generation, and renders at (half the detector, the detector).
_SIGMA = (0.3, 25.0)
_BUDGET = ((2, 800), (1, 60))


class Task(NamedTuple):
    """What all methods are asked: images of one batch, and where to look."""

    fixed: Float[Tensor, "t 1 height width"]
    drr: DRR
    start: Float[Tensor, "t 6"]
    search: tuple[float, float]
    loss: str
    indices: Sequence[int]


def pipeline_trials(config: Mapping, indices: Sequence[int]) -> pd.DataFrame:
    """Registrations of random poses from random starts; the work of `run_study`.

    Args:
        config: `protocol`, entries of a Protocol but those of a descent; `method`, a name of
            METHODS; `views`, the views [deg] that trials take in turn; `effects`, of
            `detector.acquire`, empty for the DRR itself.
        indices: Which trials; one batch.

    Returns:
        A row per trial: view (number), loss, mtre_mm, mrpd_mm, the parts of the pose error,
        start_mtre_mm, renders (counted in pixels of the full detector), converged, reason; of
        the presets also gap, agreement, kept, target_sd_mm and attempts; true_*, start_*, final_*.

    Raises:
        ConfigError: an unknown method or effect, or an entry that is unknown or not used.
    """
    protocol, method, views, effects = read_config(config, "method", "views", "effects")
    if method not in METHODS:
        raise ConfigError(f"method is {method!r}; choose of {', '.join(METHODS)}")
    descent = ("optimizer", "rates", "levels", "schedule", "derivative", "threshold", "trace")
    protocol.refuse("a study of pipelines, which have their own steps,", *descent, "view")
    if method in _SQUARES:
        protocol.refuse(f"method {method!r}", "loss")
    Effects.of(effects)
    if not views:
        raise ConfigError("views is empty; expected theta, phi, gamma [deg] of one view or more")
    turn = [i % len(views) for i in indices]
    drawn = [protocol.with_(view=views[v]).draw(i) for v, i in zip(turn, indices, strict=True)]
    true_eta, start = (torch.stack([d[k] for d in drawn]) for k in (0, 1))
    drr, dice = protocol.renderer(), [d[2] for d in drawn]
    if effects:
        poses, parts = drr.pose(true_eta), two_materials(drr)
        pairs = zip(poses, dice, strict=True)
        fixed = torch.cat([acquire(parts, pose[None], d, **effects) for pose, d in pairs]).detach()
    else:
        fixed = drr.at(true_eta).detach()
    fixed = with_noise(fixed, protocol.noise, dice)
    search = (math.radians(protocol.start_rotation), protocol.start_translation)
    final, found = METHODS[method](Task(fixed, drr, start, search, protocol.loss, indices))
    columns = pose_columns(drr, true_eta, start, final)
    return pd.DataFrame(dict(trial=list(indices), view=turn, **columns, **found))


def _descents(task: Task, count: int):
    """From the start and count - 1 others around it; the lowest loss."""
    starts = _around(task, count)
    rows = torch.arange(len(task.fixed)).repeat_interleave(count)
    options = dict(loss=task.loss, schedule=PAPER)
    found = descend(task.fixed[rows], task.drr, starts.flatten(0, 1), **options)
    eta, loss = lowest(found.eta.reshape(starts.shape), found.loss.reshape(-1, count))
    return eta[:, 0], _plain(task, loss[:, 0], found.renders)


def _cma_es(task: Task):
    rule = CmaEs(*_SIGMA, seed=tuple(task.indices))
    drr = DRR(task.drr.volume, task.drr.carm, method="joseph", backend=task.drr.backend)
    options = dict(loss=task.loss, optimizer=rule, schedule=Schedule(_BUDGET))
    found = descend(task.fixed, drr, task.start, **options)
    return found.eta, _plain(task, found.loss, found.renders)


def _levels(task: Task, squares: bool = False):
    """Many starts at the coarsest level, the best few at the finer ones."""
    drr = task.drr
    levels = Levels(drr.volume, [drr.carm], [torch.eye(4)], drr.backend)
    images, measure = [task.fixed.double()], get_loss(task.loss)

    def objective(level: int) -> Objective:
        return Objective(levels.sights(level, images, [None]), measure)

    def best(eta: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
        return lowest(
            eta.unflatten(0, (len(images[0]), -1)), loss.unflatten(0, (len(images[0]), -1))
        )

    def owner(eta: Tensor) -> Tensor:
        return torch.arange(len(eta)).repeat_interleave(eta.shape[1])

    first, eta = objective(0), _around(task, _STARTS)
    how = (eta.flatten(0, 1), owner(eta))
    eta, loss = best(*descend_together(first, *how, _RATES, _COARSE, _FALL))
    renders, eta = first.renders * levels.share(0), eta[:, :_REFINED]
    for level in range(1, levels.last + 1):
        here, how = objective(level), (eta.flatten(0, 1), owner(eta))
        if squares:
            done = refine(here, *how, _LM, _STILL, LINE)
            eta, loss = best(done.parameters, done.loss)
        else:
            rates = tuple(0.2 * r / 2**level for r in _RATES)
            eta, loss = best(*descend_together(here, *how, rates, _FINE, _FALL))
        renders += here.renders * levels.share(level)
    return eta[:, 0], _plain(task, loss[:, 0], renders)


def _preset(task: Task, name: str):
    drr = task.drr
    prepared = Registration(drr.volume, drr.carm, preset=name, backend=drr.backend)
    results = prepared([task.fixed], task.start[:, None], search=task.search, loss=task.loss)
    kept = ("loss", "renders", "converged", "reason", "gap", "agreement", "kept", "attempts")
    found = {key: [getattr(r, key) for r in results] for key in kept}
    found["target_sd_mm"] = [r.target_sd for r in results]
    return torch.stack([r.eta for r in results]), found


# What is tried on the way from the paper's run to the preset, and beside it.
METHODS: Mapping[str, Callable] = MappingProxyType(
    {
        "one start": partial(_descents, count=1),
        "many starts": partial(_descents, count=_STARTS),
        "levels": _levels,
        "levels, LM": partial(_levels, squares=True),
        **{name: partial(_preset, name=name) for name in ("fast", "robust")},
        "CMA-ES": _cma_es,
    }
)
_SQUARES = ("levels, LM",)  # methods for 1 - ZNCC alone


def _around(task: Task, count: int) -> Float[Tensor, "t s 6"]:
    """The start itself and others evenly in the range (scrambled Sobol)."""
    unit = torch.quasirandom.SobolEngine(6, scramble=True, seed=0).draw(count, dtype=torch.float64)
    rotation, translation = task.search
    moves = (2 * unit - 1) * unit.new_tensor([rotation] * 3 + [translation] * 3)
    moves[0] = 0
    return task.start[:, None] + moves


def _plain(task: Task, loss: Tensor, renders: float) -> dict:
    """Columns of a method that does not judge itself; the renders are those of all trials."""
    return dict(loss=loss.numpy(), renders=renders / len(task.fixed))
