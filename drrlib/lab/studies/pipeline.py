"""Studies of pipelines: from one start to the robust preset, step by step, on the same trials.

Trial i draws its true pose and start from (seed, i) alone, so every method meets the same ones.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.errors import ConfigError
from drrlib.lab.detector import two_materials
from drrlib.lab.studies.registration import Protocol, pose_columns
from drrlib.lab.studies.similarity import acquire
from drrlib.optimize.gradient_free import CmaEs
from drrlib.optimize.loop import DescentResult, descend
from drrlib.registration.levels import Levels
from drrlib.registration.register import PAPER_RUN, PRESETS, Registration
from drrlib.registration.stages import Candidates, descend_together, ranked, refine
from drrlib.similarity.grey import LINE

_STARTS, _REFINED = 24, 4  # of the ablation's many starts
_COARSE, _FINE, _LM = 60, 60, (10, 6)  # steps at the coarsest level, at the others; of LM
_RATES = (0.05, 8.0)
# CMA-ES: sigma of its first generation, and renders at (half the detector, the detector).
_SIGMA = (0.3, 25.0)
_BUDGET = ((2, 800), (1, 60))


def pipeline_trials(config: Mapping, indices: Sequence[int]) -> pd.DataFrame:
    """Registrations of random poses from random starts; the work of `run_study`.

    Args:
        config: `protocol`, entries of a Protocol (its optimizer and levels are not used);
            `method`, a name of METHODS; `views`, the views [deg] that trials take in turn;
            `effects`, of `study_similarity.acquire`, empty for the DRR itself.
        indices: Which trials; one batch.

    Returns:
        A row per trial: view (number), loss, mtre_mm, mrpd_mm, the parts of the pose error,
        start_mtre_mm, renders (counted in pixels of the full detector), converged, reason; of
        the presets also gap, agreement, kept, target_sd_mm and attempts; true_*, start_*, final_*.

    Raises:
        ConfigError: an unknown method.
    """
    protocol, views = Protocol.of(config["protocol"]), config["views"]
    if config["method"] not in METHODS:
        raise ConfigError(f"method is {config['method']!r}; choose of {', '.join(METHODS)}")
    turn = [i % len(views) for i in indices]
    drawn = [protocol.with_(view=views[v]).draw(i) for v, i in zip(turn, indices, strict=True)]
    true_eta, start = (torch.stack([d[k] for d in drawn]) for k in (0, 1))
    drr = protocol.renderer()
    true_pose = drr.pose(true_eta)
    if config["effects"]:
        parts = two_materials(drr)
        images = [
            acquire(parts, pose[None], d[2], **config["effects"])
            for pose, d in zip(true_pose, drawn, strict=True)
        ]
        fixed = torch.cat(images).detach()
    else:
        fixed = drr(true_pose).detach()
    search = (protocol.start_rotation * torch.pi / 180, protocol.start_translation)
    final, found = METHODS[config["method"]](fixed, drr, start, search)
    columns = pose_columns(drr, true_eta, start, final)
    return pd.DataFrame(dict(trial=list(indices), view=turn, **columns, **found))


def _one_start(fixed, drr, start, search):
    found = descend(fixed, drr.volume, drr.carm, start, progress=False, **PAPER_RUN)
    return found.final_eta, _plain(found.final_loss, _renders(found) / len(fixed))


def _many_starts(fixed, drr, start, search):
    starts = _around(start, search)
    rows = torch.arange(len(fixed)).repeat_interleave(_STARTS)
    found = descend(
        fixed[rows], drr.volume, drr.carm, starts.flatten(0, 1), progress=False, **PAPER_RUN
    )
    best = ranked(found.final_eta.reshape(starts.shape), found.final_loss.reshape(-1, _STARTS), 0)
    return best.eta[:, 0], _plain(best.loss[:, 0], _renders(found) / len(fixed))


def _cma_es(fixed, drr, start, search):
    rule = CmaEs(step_rotation=_SIGMA[0], step_translation=_SIGMA[1])
    options = dict(optimizer=rule, levels=_BUDGET, method="joseph", progress=False)
    found = descend(fixed, drr.volume, drr.carm, start, **options)
    return found.final_eta, _plain(found.final_loss, _renders(found) / len(fixed))


def _levels(fixed, drr, start, search, finish=None):
    """Many starts at the coarsest level, the best few at the finer ones."""
    levels = Levels(drr.volume, [drr.carm], [torch.eye(4, dtype=torch.float64)], drr.backend, None)
    images, nothing = [fixed.double()], [None]
    sights = levels.sights(0, images, nothing)
    found = descend_together(sights, _around(start, search), _RATES, _COARSE, None, (1.0, 0.05))
    renders = found.renders * levels.share(0)
    found = Candidates(found.eta[:, :_REFINED], found.loss[:, :_REFINED], 0)
    for level in range(1, levels.last + 1):
        sights = levels.sights(level, images, nothing)
        if finish is None:
            rates = tuple(0.2 * r / 2**level for r in _RATES)
            found = descend_together(sights, found.eta, rates, _FINE, None, (1.0, 0.05))
        else:
            found = finish(sights, found.eta)
        renders += found.renders * levels.share(level)
    return found.eta[:, 0], _plain(found.loss[:, 0], renders / len(fixed))


def _levels_lm(fixed, drr, start, search):
    def finish(sights, eta):
        owner = torch.arange(len(eta)).repeat_interleave(eta.shape[1])
        done = refine(sights, eta.flatten(0, 1), owner, _LM, (1e-5,) * 3 + (2e-3,) * 3, LINE)
        loss = done.loss.reshape(eta.shape[:2])
        return ranked(done.parameters.reshape(eta.shape), loss, done.renders)

    return _levels(fixed, drr, start, search, finish)


def _preset(name: str) -> Callable:
    def run(fixed, drr, start, search):
        prepared = Registration(drr.volume, drr.carm, preset=name, backend=drr.backend)
        results = prepared([fixed.double()], start[:, None], search=search)
        kept = ("loss", "renders", "converged", "reason", "gap", "agreement", "kept", "attempts")
        found = {key: [getattr(r, key) for r in results] for key in kept}
        found["target_sd_mm"] = [r.target_sd for r in results]
        return torch.stack([r.eta for r in results]), found

    return run


# What is tried on the way from the paper's run to the preset, and beside it.
METHODS: Mapping[str, Callable] = MappingProxyType(
    {
        "one start": _one_start,
        "many starts": _many_starts,
        "levels": _levels,
        "levels, LM": _levels_lm,
        **{name: _preset(name) for name in PRESETS},
        "CMA-ES": _cma_es,
    }
)


def _around(start: Float[Tensor, "t 6"], search) -> Float[Tensor, "t s 6"]:
    """The start itself and others evenly in the range (scrambled Sobol)."""
    unit = torch.quasirandom.SobolEngine(6, scramble=True, seed=0).draw(_STARTS, dtype=start.dtype)
    moves = (2 * unit - 1) * start.new_tensor([search[0]] * 3 + [search[1]] * 3)
    moves[0] = 0
    return start[:, None] + moves


def _renders(found: DescentResult) -> float:
    """Of all starts together, in pixels of the full detector."""
    return sum(count / binning**2 for binning, count in found.renders.items())


def _plain(loss: Tensor, renders: float) -> dict:
    """Columns of a method that does not judge itself."""
    return dict(loss=loss.numpy(), renders=renders)
