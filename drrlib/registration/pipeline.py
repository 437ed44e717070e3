"""The pipeline behind `register`, prepared once for a volume and its cameras.

One start can fall into the wrong valley, and what decides is rotation. So the pipeline

1. sweeps coarse images of many rotations, each with all shifts at once (`sweep`),
2. lets the best few descend together at that level, dropping the worse half on the way,
3. refines those that ended in different places by Levenberg-Marquardt at finer levels of detector
   and volume, with grey values that may differ as those of an X-ray image do (`similarity.grey`)
   and without pixels that no pose explains (`outliers`), and
4. says how sure the best one is (`judge`): how much worse the second place is, and how tightly the
   image holds each parameter.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.arrays import Numbers, as_tensor
from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry import CArm, Geometry, mtre
from drrlib.optimize import Normal, Objective, covariance, lowest, normal_equations
from drrlib.registration.judge import beyond, hold, judge
from drrlib.registration.levels import FREE, Levels
from drrlib.registration.plan import Preset, get_preset
from drrlib.registration.result import RegistrationResult
from drrlib.registration.stages import (
    APART,
    Candidates,
    Refined,
    distinct,
    refine,
    refine_by_descent,
    search_coarsely,
)
from drrlib.registration.sweep import spread, sweep
from drrlib.similarity import Loss, Model, check_falls, get_loss, zncc_loss
from drrlib.view import check_images, check_starts
from drrlib.volume import Volume

RANGE = (math.radians(45.0), 60.0)  # how far a pose may be from a start [rad, mm]
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
    loss: Loss

    @property
    def squares(self) -> bool:
        """Whether the loss is 1 - ZNCC, a sum of squares."""
        return self.loss is zncc_loss


class Registration:
    """A volume and its cameras prepared for any number of registrations; `register` makes one.

    Args:
        volume: CT as attenuation.
        carm: Intrinsics of the X-ray images; of several cameras, a sequence.
        relatives: Of several cameras, the pose of each seen from the first one, [4, 4] each.
        preset: "fast", "robust", or a `Preset`.
        backend: As in `DRR`.
    """

    def __init__(
        self,
        volume: Volume,
        carm: Geometry | Sequence[Geometry],
        *,
        relatives: Sequence[Numbers] | None = None,
        preset: str | Preset = "robust",
        backend: str = "auto",
    ):
        cameras = list(carm) if isinstance(carm, Sequence) else [carm]
        poses = [torch.eye(4)] if relatives is None else relatives
        if len(poses) != len(cameras):
            raise ShapeError(
                f"got {len(cameras)} cameras and {len(poses)} poses of them; expected one for each"
            )
        poses = [as_tensor(x, "relatives", torch.float64).detach().cpu() for x in poses]
        self.preset = get_preset(preset)
        self.volume, self.carm = volume, cameras[0]
        self.levels = Levels(volume, cameras, poses, backend, self.preset.finest)
        self._points = volume.targets
        finest = self.levels.camera(0, self.levels.last)
        large = min(finest.height, finest.width) >= _SMALL
        self._grey = Model(self.preset.degree, self.preset.smooth if large else 0)

    def __call__(
        self,
        fixed: Sequence[Numbers],
        start: Numbers,
        *,
        weights: Sequence[Numbers | None] | None = None,
        search: tuple[float, float] = RANGE,
        free: Sequence[str] = (),
        loss: str | Callable = "zncc",
    ) -> list[RegistrationResult]:
        """Register t images side by side; all their candidates are one batch.

        Args:
            fixed: Images of each view [t, 1, height, width].
            start: Poses to search around, for each image [t, s, 6].
            weights: Weights of each view's images, or None.
            search, free, loss: As in `register`.

        Raises:
            ShapeError, ConfigError: what is wrong with which argument.
        """
        began = time.perf_counter()
        weights = [None] * len(fixed) if weights is None else list(weights)
        fixed, weights = self._check_images(fixed, weights)
        start = self._check_start(start, fixed)
        task = _Task(search, tuple(free), get_loss(loss))
        self._check_task(task, len(fixed))
        for image, weight in zip(fixed, weights, strict=True):
            check_falls(task.loss, image, weight)
        plan = self.preset
        found = self._attempt(plan, fixed, weights, start, None, task)
        for attempt in range(1, plan.attempts):
            doubtful = [t for t, result in enumerate(found) if not result.converged]
            if not doubtful:
                break
            more = replace(
                plan,
                rotations=plan.rotations * _AGAIN**attempt,
                kept=2 * plan.kept,
                seed=plan.seed + attempt,
            )
            again = self._attempt(
                more,
                [x[doubtful] for x in fixed],
                [None if w is None else w[doubtful] for w in weights],
                start[doubtful],
                torch.stack([found[t].eta for t in doubtful]),
                task,
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
        objective = Objective(levels.sights(0, tamed, weights), task.loss)
        swept = self._sweep(plan, objective, start, task)
        eta = swept.eta if known is None else torch.cat([known[:, None], swept.eta], dim=1)
        coarse = search_coarsely(objective, eta, plan.rates, plan.steps, task.squares)
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

        model = normal_equations(one.objective.sights, one.linear)
        spreads = covariance(one.objective.sights, one.linear)
        places = [several.rows(rows) for rows in order]
        stages = [tuple((name, x[t], float(y[t])) for name, x, y in path) for t in everyone]
        found = [
            self._result(one.rows(everyone[t : t + 1]), model, spreads, t, task) for t in everyone
        ]
        return [
            replace(
                self._judged(result, start[t], places[t], coarse.eta[t], task),
                path=stages[t],
                renders=float(renders) / len(start),
            )
            for t, result in enumerate(found)
        ]

    def _fine(self, level, fixed, weights, rows, owner, rounds, task) -> Refined:
        """Rows of parameters, refined at a level."""
        last, plan = level == self.levels.last, self.preset
        freed = task.free if last else ()
        objective = Objective(self.levels.sights(level, fixed, weights, freed), task.loss)
        rows = self._with_lengths(rows, freed)
        if task.squares:
            return refine(objective, rows, owner, rounds, _TIGHT if last else _LOOSE, self._grey)
        rates = tuple(_FINE * rate / 2**level for rate in plan.rates)
        return refine_by_descent(objective, rows, owner, rates, 3 * sum(rounds))

    def _result(self, one: Refined, model: Normal, spreads, t, task) -> RegistrationResult:
        """One image's pose and how the image holds it, not yet judged."""
        p = one.parameters[0]
        held = hold(self.carm, self.volume.center, self._points, p, model.curvature[t], spreads[t])
        lengths = {name: float(x) for name, x in self.levels.lengths(task.free, p[6:]).items()}
        return RegistrationResult(
            eta=p[:6],
            pose=self._pose(p[:6]),
            loss=float(one.loss[0]),
            converged=False,
            reason="not judged",
            carm=replace(self.carm, **lengths),
            center=self.volume.center,
            renders=0.0,
            seconds=0.0,
            kept=float(one.kept[0]),
            condition=held.condition,
            covariance=spreads[t],
            target_sd=held.target_sd,
        )

    def _judged(self, result, start, places: Refined, coarse, task) -> RegistrationResult:
        """A verdict, from the places at the second level, best first, and the coarse candidates."""
        gap, agreement = self._rivals(places, coarse)
        shift = result.eta[3:] - start[:, 3:]
        outside = beyond(self._pose(start), result.pose, shift, task.search)
        converged, reason = judge(result.loss, result.kept, gap, result.target_sd, outside)
        return replace(
            result,
            converged=converged,
            reason=reason,
            gap=gap,
            agreement=agreement,
            places=places.parameters[:, :6],
            misfits=places.misfit,
        )

    def _sweep(self, plan, objective: Objective, start, task) -> Candidates:
        """The best of the poses tried around every start."""
        first, (turn, shift) = objective.sights[0], task.search
        tries = [
            sweep(
                first.drr,
                first.fixed,
                first.weights,
                start[:, s],
                spread(plan.rotations, turn, shift, plan.seed + s),
                shift,
            )
            for s in range(start.shape[1])
        ]
        loss = 1 - torch.cat([x.zncc for x in tries], dim=1)
        eta, loss = lowest(torch.cat([x.eta for x in tries], dim=1), loss)
        return Candidates(eta[:, : plan.kept], loss[:, : plan.kept], sum(x.renders for x in tries))

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

    def _check_images(self, fixed, weights) -> tuple[list, list]:
        cameras = self.levels.cameras
        if not (len(fixed) == len(weights) == len(cameras)):
            raise ShapeError(
                f"got images of {len(fixed)} views and weights of {len(weights)}; the "
                f"registration has {len(cameras)} cameras"
            )
        names = ["fixed"] if len(fixed) == 1 else [f"fixed[{k}]" for k in range(len(fixed))]
        pairs = [check_images(*given) for given in zip(fixed, cameras, weights, names, strict=True)]
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs]

    def _check_start(self, start: Numbers, fixed) -> Float[Tensor, "t s 6"]:
        start = as_tensor(start, "start", torch.float64)
        if start.ndim != 3 or start.shape[2] != 6 or {len(x) for x in fixed} != {len(start)}:
            raise ShapeError(
                f"start has shape {tuple(start.shape)} for images of shapes "
                f"{[tuple(x.shape) for x in fixed]}; expected [t, s, 6] for t images"
            )
        return check_starts(start.flatten(0, 1)).reshape(start.shape)

    def _check_task(self, task: _Task, views: int) -> None:
        search, free = task.search, task.free
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
        if free and (views > 1 or not isinstance(self.carm, CArm)):
            raise ConfigError("free is for one view of a C-arm; others would need lengths for each")
        if free and not task.squares:
            raise ConfigError('free needs loss="zncc", whose optimum Levenberg-Marquardt finds')


def _tamed(fixed: Tensor, weights: Tensor | None) -> Tensor:
    """Images whose brightest tenth of pixels is cut to what the others reach."""
    seen = fixed if weights is None else torch.where(weights > 0, fixed, torch.nan)
    most = torch.nanquantile(seen.flatten(1)[:, ::_EVERY], _TRUSTED, dim=1)
    return fixed.minimum(most[:, None, None, None])


def _in_order(misfit: Tensor, owner: Tensor, t: int) -> Tensor:
    rows = torch.nonzero(owner == t).flatten()
    return rows[misfit[rows].nan_to_num(nan=math.inf).argsort()]
