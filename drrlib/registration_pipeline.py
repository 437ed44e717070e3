"""The pipeline behind `registration.register`, prepared once for a volume and its cameras."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.carm import CArm
from drrlib.checks import check_image, check_starts
from drrlib.errors import ConfigError, ShapeError
from drrlib.levenberg import covariance, normal_equations
from drrlib.losses import get_loss
from drrlib.matching import spread, sweep
from drrlib.metrics import mtre, targets
from drrlib.registration_judge import beyond, hold, judge
from drrlib.registration_levels import FREE, Levels
from drrlib.registration_result import PRESETS, Preset, RegistrationResult
from drrlib.registration_stages import (
    APART,
    Candidates,
    Refined,
    distinct,
    refine,
    refine_by_descent,
    search_coarsely,
)
from drrlib.volume import Volume

# Steps below these end a level, and the finest level [rad, mm].
_LOOSE, _TIGHT = ((1e-4,) * 3 + (0.02,) * 3), ((1e-5,) * 3 + (2e-3,) * 3)
_AGAIN = 4  # times the rotations, and twice the candidates, where the first attempt is not sure
_FINE = 0.2  # times the coarse rates, halved from level to level: a descent at finer levels
# Part of the pixels whose values are trusted; one pixel in so many is looked at.
_TRUSTED, _EVERY = 0.9, 7


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
                    "other geometries use drrlib.descent.descend from several starts"
                )
        self.preset = PRESETS[preset] if isinstance(preset, str) else preset
        self.volume, self.carm = volume, carm
        poses = [torch.eye(4, dtype=torch.float64)]
        poses += [pose.detach().to("cpu", torch.float64) for _, pose in others]
        carms = [carm, *(other for other, _ in others)]
        self.levels = Levels(volume, carms, poses, backend, self.preset.finest)
        self._points = targets(volume)

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
        plan, options = self.preset, (search, tuple(free), loss_of, seed)
        found = self._attempt(plan, fixed, weights, start, None, options)
        for attempt in range(1, plan.attempts):
            doubtful = [t for t, result in enumerate(found) if not result.converged]
            if not doubtful:
                break
            more = replace(plan, rotations=plan.rotations * _AGAIN**attempt, kept=2 * plan.kept)
            options = (search, tuple(free), loss_of, seed + attempt)
            again = self._attempt(
                more,
                [x[doubtful] for x in fixed],
                [None if w is None else w[doubtful] for w in weights],
                start[doubtful],
                torch.stack([found[t].eta for t in doubtful]),
                options,
            )
            for t, result in zip(doubtful, again, strict=True):
                total = result.renders + found[t].renders
                found[t] = replace(result, renders=total, attempts=attempt + 1)
        share = (time.perf_counter() - began) / max(len(start), 1)
        return [replace(result, seconds=share) for result in found]

    def _attempt(self, plan, fixed, weights, start, known, options) -> list[RegistrationResult]:
        """One search through all levels; `known` poses [t, 6] join the coarse candidates."""
        search, free, loss_of, seed = options
        levels, everyone = self.levels, torch.arange(len(start))
        # A second attempt does not trust the brightest pixels, which metal may be.
        tamed = fixed if known is None else [_tamed(*x) for x in zip(fixed, weights, strict=True)]
        sights = levels.sights(0, tamed, weights)
        swept = self._sweep(plan, sights, start, search, seed)
        eta = swept.eta if known is None else torch.cat([known[:, None], swept.eta], dim=1)
        coarse = search_coarsely(sights, eta, plan.rates, plan.steps, loss_of)
        renders = (swept.renders + coarse.renders) * levels.share(0)
        path = [("sweep", swept.eta[:, 0], swept.loss[:, 0])]
        path.append(("coarse", coarse.eta[:, 0], coarse.loss[:, 0]))

        def fine(level, rows, owner, rounds):
            last = level == levels.last
            freed = free if last else ()
            sights = levels.sights(level, fixed, weights, freed)
            rows = self._with_lengths(rows, freed)
            if loss_of is None:
                still = _TIGHT if last else _LOOSE
                done = refine(sights, rows, owner, rounds, still, plan.degree)
            else:
                rates = tuple(_FINE * r / 2**level for r in plan.rates)
                done = refine_by_descent(sights, rows, owner, rates, 3 * sum(rounds), loss_of)
            return done, done.renders * levels.share(level)

        second = min(1, levels.last)
        rows, owner = self._places(coarse, plan.refined)
        several, cost = fine(second, rows, owner, plan.rounds)
        ranked = [_ranked(several.misfit, owner, t) for t in range(len(start))]
        one = several.rows(torch.stack([rank[0] for rank in ranked]))
        for level in range(second, levels.last + 1):
            if level > second:
                renders += cost
                one, cost = fine(level, one.parameters, everyone, plan.fine_rounds)
            path.append((f"level {level}", one.parameters[:, :6], one.loss))
        renders += cost
        model = normal_equations(one.sights, one.linear)
        spreads = covariance(one.sights, one.linear)
        results = []
        for t, rank in enumerate(ranked):
            p = one.parameters[t]
            gap, agreement = self._rivals(several, rank, coarse.eta[t])
            held = hold(
                self.carm, self.volume.center, self._points, p, model.curvature[t], spreads[t]
            )
            pose = self._pose(p[:6])
            outside = beyond(self._pose(start[t]), pose, p[3:6] - start[t, :, 3:], search)
            loss, kept = float(one.loss[t]), float(one.kept[t])
            converged, reason = judge(loss, kept, gap, held.target_sd, outside)
            lengths = {name: float(x) for name, x in levels.lengths(free, p[6:]).items()}
            results.append(
                RegistrationResult(
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
                    covariance=spreads[t],
                    target_sd=held.target_sd,
                    places=several.parameters[rank, :6],
                    misfits=several.misfit[rank],
                    path=tuple((name, x[t], float(y[t])) for name, x, y in path),
                    attempts=1,
                    renders=float(renders) / len(start),
                    seconds=0.0,
                )
            )
        return results

    def _sweep(self, plan, sights, start, search, seed) -> Candidates:
        """The best of the poses tried around every start."""
        first = sights[0]
        tries = [
            sweep(
                first.drr, first.fixed, first.weights, start[:, s],
                spread(plan.rotations, search[0], search[1], seed + s), search[1],
            )
            for s in range(start.shape[1])
        ]  # fmt: skip
        loss = 1 - torch.cat([x.zncc for x in tries], dim=1)
        order = loss.argsort(dim=1)[:, : plan.kept]
        eta = torch.cat([x.eta for x in tries], dim=1)
        eta = eta.gather(1, order[..., None].expand(-1, -1, 6))
        return Candidates(eta, loss.gather(1, order), sum(x.renders for x in tries))

    def _places(self, coarse: Candidates, most: int) -> tuple[Tensor, Tensor]:
        """Candidates that ended in different places, as rows, and whose they are."""
        rows, owner = [], []
        for t, eta in enumerate(coarse.eta):
            chosen = distinct(self._pose(eta), self._points, most)
            rows.append(eta[chosen])
            owner += [t] * len(chosen)
        return torch.cat(rows), torch.tensor(owner)

    def _rivals(self, several: Refined, rank: Tensor, coarse: Tensor) -> tuple[float, float]:
        """Misfit of the second place over the best's, and the part of candidates at the best."""
        poses = self._pose(several.parameters[rank, :6])
        misfit = several.misfit[rank]
        others = misfit[mtre(poses, poses[:1], self._points) > APART / 2]
        others = others.nan_to_num(nan=math.inf)
        gap = float(others.min() / misfit[0]) if len(others) else math.inf
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


def _ranked(misfit: Tensor, owner: Tensor, t: int) -> Tensor:
    rows = torch.nonzero(owner == t).flatten()
    return rows[misfit[rows].nan_to_num(nan=math.inf).argsort()]
