"""The pipeline behind `registration.register`, prepared once for a volume and its cameras."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.checks import check_image, check_starts
from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry.carm import CArm
from drrlib.geometry.metrics import mtre, targets
from drrlib.optimize.second_order import covariance, normal_equations
from drrlib.registration.judge import beyond, hold, judge
from drrlib.registration.levels import FREE, Levels
from drrlib.registration.result import PRESETS, Preset, RegistrationResult
from drrlib.registration.stages import (
    APART,
    Candidates,
    Refined,
    distinct,
    ranked,
    refine,
    refine_by_descent,
    search_coarsely,
)
from drrlib.registration.sweep import spread, sweep
from drrlib.similarity.correlation import get_loss
from drrlib.similarity.grey import Model
from drrlib.volume import Volume

# Steps below these end a level, and the finest level [rad, mm].
_LOOSE, _TIGHT = ((1e-4,) * 3 + (0.02,) * 3), ((1e-5,) * 3 + (2e-3,) * 3)
_AGAIN = 4  # times the rotations, and twice the candidates, where the first attempt is not sure
_FINE = 0.2  # times the coarse rates, halved from level to level: a descent at finer levels
# Where the finest level has fewer pixels across, images are fitted without a smooth field, which
# would take more of what holds the pose than it gives: errors grew at 48, and fell at 200.
_SMALL = 80
# Part of the pixels whose values are trusted; one pixel in so many is looked at.
_TRUSTED, _EVERY = 0.9, 7


class _Task(NamedTuple):
    """What is asked of all images alike; see `register`."""

    search: tuple[float, float]
    free: tuple[str, ...]
    loss_of: Callable | None  # None for 1 - ZNCC
    seed: int


class Registration:
    """A volume and a C-arm prepared for any number of registrations; `register` makes one.

    Args:
        volume: CT as attenuation.
        carm: Intrinsics of the X-ray images.
        others: Intrinsics of each further camera, and its pose seen from the first one.
        preset: "fast", "robust", or a `Preset`.
        backend: As in `DRR`.
    """

    def __init__(
        self,
        volume: Volume,
        carm: CArm,
        *,
        others: Sequence[tuple[CArm, Tensor]] = (),
        preset: str | Preset = "robust",
        backend: str = "auto",
    ):
        if isinstance(preset, str) and preset not in PRESETS:
            raise ConfigError(
                f"preset is {preset!r}; choose {', '.join(PRESETS)}, in `register` also paper, "
                "or give a Preset"
            )
        for each in (carm, *(other for other, _ in others)):
            if not isinstance(each, CArm):
                raise ConfigError(
                    f"got a {type(each).__name__} for a C-arm; register takes CArm alone: for "
                    "other geometries use drrlib.optimize.loop.descend from several starts"
                )
        self.preset = PRESETS[preset] if isinstance(preset, str) else preset
        self.volume, self.carm = volume, carm
        poses = [torch.eye(4, dtype=torch.float64)]
        poses += [pose.detach().to("cpu", torch.float64) for _, pose in others]
        carms = [carm, *(other for other, _ in others)]
        self.levels = Levels(volume, carms, poses, backend, self.preset.finest)
        self._points = targets(volume)
        finest = self.levels.carm(0, self.levels.last)
        large = min(finest.height, finest.width) >= _SMALL
        self._grey = Model(self.preset.degree, self.preset.smooth if large else 0)

    def __call__(
        self,
        fixed: Sequence[Tensor],
        start: Float[Tensor, "t s 6"],
        *,
        weights: Sequence[Tensor | None] | None = None,
        search: tuple[float, float] = (math.radians(45.0), 60.0),
        free: Sequence[str] = (),
        loss: str | Callable = "zncc",
        seed: int = 0,
    ) -> list[RegistrationResult]:
        """Register t images side by side; all their candidates are one batch.

        Args:
            fixed: Images of each view [t, 1, height, width].
            start: Poses to search around, for each image.
            weights: Weights of each view's images, or None.
            search, free, loss, seed: As in `register`.

        Raises:
            ShapeError, ConfigError: what is wrong with which argument.
        """
        began = time.perf_counter()
        weights = [None] * len(fixed) if weights is None else list(weights)
        fixed, weights = self._check(fixed, start, weights, search, free)
        start = check_starts(start.flatten(0, 1)).reshape(start.shape)
        loss_of = None if loss == "zncc" else get_loss(loss)
        if loss_of is not None and free:
            raise ConfigError('free needs loss="zncc", whose optimum Levenberg-Marquardt finds')
        plan, task = self.preset, _Task(search, tuple(free), loss_of, seed)
        found = self._attempt(plan, fixed, weights, start, None, task)
        for attempt in range(1, plan.attempts):
            doubtful = [t for t, result in enumerate(found) if not result.converged]
            if not doubtful:
                break
            more = replace(plan, rotations=plan.rotations * _AGAIN**attempt, kept=2 * plan.kept)
            again = self._attempt(
                more,
                [x[doubtful] for x in fixed],
                [None if w is None else w[doubtful] for w in weights],
                start[doubtful],
                torch.stack([found[t].eta for t in doubtful]),
                task._replace(seed=seed + attempt),
            )
            for t, result in zip(doubtful, again, strict=True):
                total = result.renders + found[t].renders
                found[t] = replace(result, renders=total, attempts=attempt + 1)
        share = (time.perf_counter() - began) / max(len(start), 1)
        return [replace(result, seconds=share) for result in found]

    def _attempt(self, plan, fixed, weights, start, known, task) -> list[RegistrationResult]:
        """One search through all levels; `known` poses [t, 6] join the coarse candidates."""
        levels, everyone = self.levels, torch.arange(len(start))
        # A second attempt does not trust the brightest pixels, which metal may be.
        tamed = fixed if known is None else [_tamed(*x) for x in zip(fixed, weights, strict=True)]
        sights = levels.sights(0, tamed, weights)
        swept = self._sweep(plan, sights, start, task)
        eta = swept.eta if known is None else torch.cat([known[:, None], swept.eta], dim=1)
        coarse = search_coarsely(sights, eta, plan.rates, plan.steps, task.loss_of)
        renders = (swept.renders + coarse.renders) * levels.share(0)
        path = [("sweep", swept.eta[:, 0], swept.loss[:, 0])]
        path.append(("coarse", coarse.eta[:, 0], coarse.loss[:, 0]))

        second = min(1, levels.last)
        rows, owner = self._places(coarse, plan.refined)
        several = self._fine(second, fixed, weights, rows, owner, plan.rounds, task)
        order = [_in_order(several.misfit, owner, t) for t in range(len(start))]
        one = several.rows(torch.stack([places[0] for places in order]))
        renders += several.renders * levels.share(second)
        path.append((f"level {second}", one.parameters[:, :6], one.loss))
        for level in range(second + 1, levels.last + 1):
            rows, rounds = one.parameters, plan.fine_rounds
            one = self._fine(level, fixed, weights, rows, everyone, rounds, task)
            renders += one.renders * levels.share(level)
            path.append((f"level {level}", one.parameters[:, :6], one.loss))

        model = normal_equations(one.sights, one.linear)
        spreads = covariance(one.sights, one.linear)
        return [
            self._result(
                start[t], coarse.eta[t], several.rows(order[t]), one.parameters[t],
                float(one.loss[t]), float(one.kept[t]), model.curvature[t], spreads[t],
                tuple((name, x[t], float(y[t])) for name, x, y in path),
                float(renders) / len(start), task,
            )
            for t in range(len(start))
        ]  # fmt: skip

    def _fine(self, level, fixed, weights, rows, owner, rounds, task) -> Refined:
        """Rows of parameters, refined at a level."""
        last, plan = level == self.levels.last, self.preset
        freed = task.free if last else ()
        sights = self.levels.sights(level, fixed, weights, freed)
        rows = self._with_lengths(rows, freed)
        if task.loss_of is None:
            return refine(sights, rows, owner, rounds, _TIGHT if last else _LOOSE, self._grey)
        rates = tuple(_FINE * rate / 2**level for rate in plan.rates)
        return refine_by_descent(sights, rows, owner, rates, 3 * sum(rounds), task.loss_of)

    def _result(
        self, start, coarse, places, p, loss, kept, curvature, spread_, path, renders, task
    ) -> RegistrationResult:
        """One image's: its parameters `p`, and its places at the second level, best first."""
        pose = self._pose(p[:6])
        gap, agreement = self._rivals(places, coarse)
        held = hold(self.carm, self.volume.center, self._points, p, curvature, spread_)
        shift = p[3:6] - start[:, 3:]
        outside = beyond(self._pose(start), pose, shift, task.search)
        converged, reason = judge(loss, kept, gap, held.target_sd, outside)
        lengths = {name: float(x) for name, x in self.levels.lengths(task.free, p[6:]).items()}
        return RegistrationResult(
            eta=p[:6],
            pose=pose,
            carm=replace(self.carm, **lengths),
            loss=loss,
            converged=converged,
            reason=reason,
            gap=gap,
            agreement=agreement,
            kept=kept,
            condition=held.condition,
            covariance=spread_,
            target_sd=held.target_sd,
            places=places.parameters[:, :6],
            misfits=places.misfit,
            path=path,
            attempts=1,
            renders=renders,
            seconds=0.0,
        )

    def _sweep(self, plan, sights, start, task) -> Candidates:
        """The best of the poses tried around every start."""
        first, (turn, shift) = sights[0], task.search
        tries = [
            sweep(
                first.drr, first.fixed, first.weights, start[:, s],
                spread(plan.rotations, turn, shift, task.seed + s), shift,
            )
            for s in range(start.shape[1])
        ]  # fmt: skip
        loss = 1 - torch.cat([x.zncc for x in tries], dim=1)
        best = ranked(torch.cat([x.eta for x in tries], dim=1), loss, sum(x.renders for x in tries))
        return Candidates(best.eta[:, : plan.kept], best.loss[:, : plan.kept], best.renders)

    def _places(self, coarse: Candidates, most: int) -> tuple[Tensor, Tensor]:
        """Candidates that ended in different places, as rows, and whose they are."""
        rows, owner = [], []
        for t, eta in enumerate(coarse.eta):
            chosen = distinct(self._pose(eta), self._points, most)
            rows.append(eta[chosen])
            owner += [t] * len(chosen)
        return torch.cat(rows), torch.tensor(owner)

    def _rivals(self, places: Refined, coarse: Tensor) -> tuple[float, float]:
        """Misfit of the second place over the best's, and the part of candidates at the best."""
        poses = self._pose(places.parameters[:, :6])
        others = places.misfit[mtre(poses, poses[:1], self._points) > APART / 2]
        others = others.nan_to_num(nan=math.inf)
        gap = float(others.min() / places.misfit[0]) if len(others) else math.inf
        near = mtre(self._pose(coarse), poses[:1], self._points) < APART
        return gap, float(near.double().mean())

    def _with_lengths(self, rows: Tensor, free: Sequence[str]) -> Tensor:
        lengths = [float(getattr(self.carm, name)) for name in free]
        return torch.cat([rows[:, :6], rows.new_tensor(lengths).expand(len(rows), -1)], dim=1)

    def _pose(self, eta: Tensor) -> Tensor:
        return self.carm.pose(eta, self.volume.center)

    def _check(self, fixed, start, weights, search, free) -> tuple[list, list]:
        """Images and weights as they are needed, or an error."""
        if not (len(fixed) == len(weights) == len(self.levels.carms)):
            raise ShapeError(
                f"got images of {len(fixed)} views and weights of {len(weights)}; the "
                f"registration has {len(self.levels.carms)} cameras"
            )
        names = ["fixed", *(f"views[{k}]" for k in range(len(fixed) - 1))]
        pairs = [
            check_image(*given)
            for given in zip(fixed, self.levels.carms, weights, names, strict=True)
        ]
        fixed, weights = ([pair[i] for pair in pairs] for i in (0, 1))
        if start.ndim != 3 or start.shape[2] != 6 or {len(x) for x in fixed} != {len(start)}:
            raise ShapeError(
                f"start has shape {tuple(start.shape)} for images of shapes "
                f"{[tuple(x.shape) for x in fixed]}; expected [t, s, 6] for t images"
            )
        if len(search) != 2 or not all(0 < x < math.inf for x in search) or search[0] > math.pi:
            raise ConfigError(
                f"search is {search}; expected (rotation in rad up to pi, translation in mm), > 0"
            )
        unknown = sorted(set(free) - set(FREE))
        if unknown or len(set(free)) < len(free):
            raise ConfigError(f"free is {tuple(free)}; expected of {', '.join(FREE)}, once each")
        if {"sdd", "delx", "dely"} <= set(free):
            raise ConfigError(
                "free has sdd, delx and dely; an image only tells their ratios: hold one of them"
            )
        if free and len(fixed) > 1:
            raise ConfigError("free is for one view; several views would need lengths for each")
        return fixed, weights


def _tamed(fixed: Tensor, weights: Tensor | None) -> Tensor:
    """Images whose brightest tenth of pixels is cut to what the others reach."""
    seen = fixed if weights is None else torch.where(weights > 0, fixed, torch.nan)
    most = torch.nanquantile(seen.flatten(1)[:, ::_EVERY], _TRUSTED, dim=1)
    return fixed.minimum(most[:, None, None, None])


def _in_order(misfit: Tensor, owner: Tensor, t: int) -> Tensor:
    rows = torch.nonzero(owner == t).flatten()
    return rows[misfit[rows].nan_to_num(nan=math.inf).argsort()]
