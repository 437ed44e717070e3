"""The pipeline behind `register`, prepared once for a volume and its cameras.

One start can fall into the wrong valley, and what decides is rotation. So the pipeline

1. sweeps coarse images of many rotations, each with all shifts at once (`sweep`); of views from
   everywhere, each with all turns as well, where nothing is known (`everywhere`),
2. lets the best few descend together at that level,
3. refines those that ended in different places by Levenberg-Marquardt at finer levels of detector
   and volume, fewer from level to level, and
4. says how sure the best one is (`judge`): how much worse the second place is, and how tightly the
   image holds each parameter.

What an X-ray image does to grey values is followed in one of two ways. Line integrals, as DRRs are,
are fitted by a regression (`similarity.grey`), without pixels that no pose explains (`outliers`).
A picture of unknown making is compared in windows (`similarity.local`), with its negative as well,
and without rays that leave the CT (`cut`). An image that is mirrored or not logged is named
(`mistaken`).
"""

import copy
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from drrlib.arrays import Numbers, as_flag, as_tensor, check_kind
from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry import CArm, Geometry, ScanProjection
from drrlib.optimize import Normal, Objective, normal_equations
from drrlib.registration.candidates import candidates
from drrlib.registration.crop import refine_nearby
from drrlib.registration.doubt import spread_of
from drrlib.registration.judge import beyond, hold, judge, rivals
from drrlib.registration.levels import Levels
from drrlib.registration.mistaken import mistaken
from drrlib.registration.plan import Preset, get_preset
from drrlib.registration.result import RegistrationResult
from drrlib.registration.stages import (
    Refined,
    descend_together,
    distinct,
    in_order,
    refine,
    refine_by_descent,
    search_coarsely,
)
from drrlib.registration.task import Task, check_pictures, check_ranges
from drrlib.similarity import Model, check_falls, get_loss
from drrlib.volume import Volume

_log = logging.getLogger("drrlib.registration")  # a line for each stage, for who listens

RANGE = (math.radians(45.0), 60.0)  # how far a pose may be from a start [rad, mm]
# Steps below these end a level, and the finest level [rad, mm].
_LOOSE, _TIGHT = ((1e-4,) * 3 + (0.02,) * 3), ((1e-5,) * 3 + (2e-3,) * 3)
_AGAIN = 4  # times the rotations, and twice the candidates, where the first attempt is not sure
_SETTLE = (2,)  # steps with the whole image after those with a part of it
_FINE = 0.2  # times the coarse rates, halved from level to level: a descent at finer levels
# Where the finest level has fewer pixels across, images are fitted without a smooth field, which
# would take more of what holds the pose than it gives: errors grew at 48, and fell at 200.
_SMALL = 80
# Part of the pixels whose values are trusted; one pixel in so many is looked at.
_TRUSTED, _EVERY = 0.9, 7


class Registration:
    """A volume and its cameras prepared for any number of registrations; `register` makes one.

    Args:
        volume: CT as attenuation.
        carm: Intrinsics of the X-ray images; of several cameras, a sequence.
        relatives: Of several cameras, the pose of each seen from the first one, [4, 4] each.
        preset: "fast", "robust", "xray", or a `Preset`.
        backend: As in `DRR`.
        only: As in `register`.
        most: Of each camera, as `View.most`; None for no limits.
    """

    def __init__(
        self,
        volume: Volume,
        carm: Geometry | Sequence[Geometry],
        *,
        relatives: Sequence[Numbers] | None = None,
        preset: str | Preset = "robust",
        backend: str = "auto",
        only: bool = False,
        most: Sequence[float | None] | None = None,
    ):
        check_kind(volume, Volume, "volume")
        cameras = list(carm) if isinstance(carm, (list, tuple)) else [carm]
        for camera in cameras:
            check_kind(camera, (CArm, ScanProjection), "carm")
        only = as_flag(only, "only")
        poses = [torch.eye(4)] if relatives is None else relatives
        if len(poses) != len(cameras):
            raise ShapeError(
                f"got {len(cameras)} cameras and {len(poses)} poses of them; expected one for each"
            )
        poses = [as_tensor(x, "relatives", torch.float64).detach().cpu() for x in poses]
        self.preset = get_preset(preset)
        self.name = preset if isinstance(preset, str) else "own"
        if only and not self.preset.window:
            raise ConfigError('only=True compares in windows; expected preset "xray" or a window')
        self.volume, self.carm = volume, cameras[0]
        self.levels = Levels(volume, cameras, poses, backend, self.preset.finest, only, most)
        self.points = volume.targets
        finest = self.levels.camera(0, self.levels.last)
        large = min(finest.height, finest.width) >= _SMALL
        plan = self.preset
        self.grey = Model(plan.degree, plan.smooth if large else 0)

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
        fixed, weights = check_pictures(fixed, weights, self.levels.cameras)
        start = check_ranges(start, fixed)
        if not isinstance(free, (list, tuple)) or not all(isinstance(x, str) for x in free):
            raise ConfigError(f"free is a {type(free).__name__}; expected a list of names")
        task = Task(search, tuple(free), get_loss(loss))
        task.check(self.levels)
        for image, weight in zip(fixed, weights, strict=True):
            check_falls(task.loss, image, weight)
        plan = self.preset
        found = self._attempt(plan, fixed, weights, start, None, task)
        for attempt in range(1, plan.attempts):
            doubtful = [t for t, result in enumerate(found) if not result.converged]
            if not doubtful:
                break
            _log.info(
                "not sure yet (%s); once more, with more rotations", found[doubtful[0]].reason
            )
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
                [found[t] for t in doubtful],
                task,
            )
            for t, result in zip(doubtful, again, strict=True):
                total = result.renders + found[t].renders
                found[t] = replace(result, renders=total, attempts=attempt + 1)
        for t, result in enumerate(found):
            found[t] = self._questioned(result, fixed, weights, start, t, task)
        share = (time.perf_counter() - began) / max(len(start), 1)
        return [replace(result, seconds=share) for result in found]

    def with_preset(self, preset: Preset) -> "Registration":
        """The same levels and name with another plan, as fine and of the same window."""
        other = copy.copy(self)
        other.preset = preset
        return other

    def _questioned(self, result, fixed, weights, start, t: int, task) -> RegistrationResult:
        """The result, no longer trusted where another reading of the image fits better."""
        plan = self.preset if task.squares else replace(self.preset, window=0.0)
        own = [x[t : t + 1] for x in fixed], [None if w is None else w[t : t + 1] for w in weights]
        why, renders = mistaken(self.levels, plan, *own, start[t], task.search, result)
        renders = result.renders + renders * self.levels.share(0)
        if why:
            return replace(result, converged=False, reason=why, renders=renders)
        return replace(result, renders=renders)

    def _attempt(self, plan, fixed, weights, start, known, task) -> list[RegistrationResult]:
        """One search through all levels; what is `known` of each joins the coarse candidates."""
        levels, count = self.levels, len(start)
        window = plan.window if task.squares else 0.0
        tamed = fixed
        if window:  # image t + count is the negative of image t
            fixed = tamed = [torch.cat([x, -x]) for x in fixed]
            weights = [None if w is None else torch.cat([w, w]) for w in weights]
        elif known is not None:
            # A second attempt does not trust the brightest pixels, which metal may be.
            tamed = [_tamed(*x) for x in zip(fixed, weights, strict=True)]
        objective = Objective(levels.sights(0, tamed, weights, window=window), task.loss)
        tried = plan.rotations * start.shape[1]
        _log.info("%d rotations, each with all shifts, at %s", tried, self._size(0))
        how = (plan, objective, start, task.search, window > 0)
        eta, owner, likeness, renders = candidates(*how)
        first = self._best(eta, owner, 1 - likeness, count, 1)
        path = [("sweep", eta[first], 1 - likeness[first])]
        if known is not None:
            signs = torch.tensor([r.inverted for r in known])
            eta = torch.cat([torch.stack([r.eta for r in known]), eta])
            owner = torch.cat([torch.arange(count) + count * signs, owner])
        _log.info("following the best %d", len(eta))
        how = (objective, eta, owner, plan.rates, plan.steps)
        if task.squares and not window:
            eta, loss, owner = search_coarsely(*how)
        else:
            eta, loss = descend_together(*how)
        coarse, renders = (eta, owner % count), (renders + objective.renders) * levels.share(0)
        best, several = self._best(eta, owner, loss, count, 1), None
        path.append(("coarse", eta[best], loss[best]))
        for level in range(min(1, levels.last), levels.last + 1):
            most, rounds = plan.at(level)
            _log.info("refining at %s", self._size(level))
            rows = self._best(eta, owner, loss, count, most)
            one = self._fine(level, fixed, weights, eta[rows], owner[rows], rounds, task, window)
            eta, owner, loss = one.parameters, one.owner, one.misfit
            renders += one.objective.renders * levels.share(level)
            several = one if most > 1 or several is None else several
            best = self._best(eta, owner, loss, count, 1)
            path.append((f"level {level}", eta[best][:, :6], one.loss[best]))
        one = one.rows(best)

        model = normal_equations(one.objective.sights, one.linear)
        spreads = spread_of(one.objective.sights, one.linear, one.parameters)
        found = []
        for t in range(count):
            stages = tuple((name, x[t], float(y[t])) for name, x, y in path)
            result = self.described(one.rows(torch.tensor([t])), model, spreads, t, task)
            result = replace(result, path=stages, renders=float(renders) / count)
            mine = torch.nonzero(several.owner % count == t).flatten()
            places = several.rows(mine[in_order(several.misfit[mine])])
            ended = coarse[0][coarse[1] == t]
            found.append(self._judged(result, start[t], places, ended, task))
        return found

    def _size(self, level: int) -> str:
        camera = self.levels.camera(0, level)
        return f"{camera.width} x {camera.height} pixels"

    def _best(self, eta, owner, loss, count: int, most: int) -> Tensor:
        """Rows of the best distinct places of each image, its negative's among them."""
        rows = []
        for t in range(count):
            mine = torch.nonzero(owner % count == t).flatten()
            mine = mine[in_order(loss[mine])]
            rows.append(mine[distinct(self.pose_of(eta[mine, :6]), self.points, most)])
        return torch.cat(rows)

    def _fine(self, level, fixed, weights, rows, owner, rounds, task, window) -> Refined:
        """Rows of parameters, refined at a level."""
        last = level == self.levels.last
        freed = task.free if last else ()
        sights = self.levels.sights(level, fixed, weights, freed, window)
        objective = Objective(sights, task.loss)
        rows = self._with_lengths(rows, freed)
        if task.squares:
            grey = Model(window=window) if window else self.grey
            still = _TIGHT if last else _LOOSE
            if self.levels.only:
                how = (rounds, still, grey, self.levels.corners)
                rows, rounds = refine_nearby(objective, rows, owner, *how), _SETTLE
            return refine(objective, rows, owner, rounds, still, grey)
        rates = tuple(_FINE * rate / 2**level for rate in self.preset.rates)
        return refine_by_descent(objective, rows, owner, rates, 3 * sum(rounds))

    def described(self, one: Refined, model: Normal, spreads, t, task) -> RegistrationResult:
        """One image's pose and how the image holds it, not yet judged."""
        p = one.parameters[0]
        held = hold(self.carm, self.volume.center, self.points, p, model.curvature[t], spreads[t])
        lengths = {name: float(x) for name, x in self.levels.lengths(task.free, p[6:]).items()}
        return RegistrationResult(
            eta=p[:6],
            pose=self.pose_of(p[:6]),
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
            across_sd=held.across_sd,
            depth_sd=held.depth_sd,
            inverted=int(one.owner[0]) != t,
            preset=self.name,
            window=self.preset.window if task.squares else 0.0,
            only=self.levels.only,
        )

    def _judged(self, result, start, places: Refined, coarse, task) -> RegistrationResult:
        """A verdict, from the places that were refined, best first, and the coarse candidates."""
        poses, ends = self.pose_of(places.parameters[:, :6]), self.pose_of(coarse)
        gap, agreement = rivals(poses, places.misfit, ends, self.points)
        shift = result.eta[3:] - start[:, 3:]
        outside = beyond(self.pose_of(start), result.pose, shift, task.search)
        windows = places.objective.sights[0].grey.window > 0
        kept = 1.0 if self.levels.only else result.kept
        how = (result.loss, kept, gap, result.target_sd, outside, windows)
        converged, reason = judge(*how)
        if result.inverted:
            reason += ", with the image inverted"
        return replace(
            result,
            converged=converged,
            reason=reason,
            gap=gap,
            agreement=agreement,
            places=places.parameters[:, :6],
            misfits=places.misfit,
        )

    def _with_lengths(self, rows: Tensor, free: Sequence[str]) -> Tensor:
        lengths = [float(getattr(self.carm, name)) for name in free]
        return torch.cat([rows[:, :6], rows.new_tensor(lengths).expand(len(rows), -1)], dim=1)

    def pose_of(self, eta: Tensor) -> Tensor:
        """Poses of the first camera about the volume's centre."""
        return self.carm.pose(eta, self.volume.center)


def _tamed(fixed: Tensor, weights: Tensor | None) -> Tensor:
    """Images whose brightest tenth of pixels is cut to what the others reach."""
    seen = fixed if weights is None else torch.where(weights > 0, fixed, torch.nan)
    most = torch.nanquantile(seen.flatten(1)[:, ::_EVERY], _TRUSTED, dim=1)
    return fixed.minimum(most[:, None, None, None])
