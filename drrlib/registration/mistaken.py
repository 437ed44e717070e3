"""Whether an image is not what it was taken for: mirrored, negative, or not logged.

Bodies are nearly alike left and right. So a mirrored image is fitted nearly as well as the image
itself, by a pose that is mirrored, too, centimetres from the true one. Wherever a pose was found,
the mirrored image is therefore tried at the mirrored pose, with a few steps at the coarsest level,
and what fits clearly better is named. Where no pose was found for sure, a sweep looks for poses of
each other reading of the image.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.optimize import Objective
from drrlib.registration.candidates import look_around, most_alike
from drrlib.registration.levels import Levels
from drrlib.registration.plan import Preset
from drrlib.registration.result import RegistrationResult
from drrlib.registration.stages import descend_together, refine
from drrlib.similarity import Model, zncc

# So many times the misfit of the other reading: at the mirrored pose, and after a sweep.
CLEARLY, CLEARLY_SWEPT = 1.5, 2.0
_FEW, _STEPS, _STILL = (2,), (10, 5), ((1e-4,) * 3 + (0.02,) * 3)
_PART = 2  # of the plan's rotations and candidates, one in so many
_DARKEST = 1e-3  # of the open field: counts below it are taken as so many


class Reading(NamedTuple):
    """Another way to take an image: what is made of it and its weights, and what to say of it.

    A mirrored picture from one side is nearly the picture from the other side. `turned` are the
    axes of the camera that point the other way there, for which the image would be as it should.
    """

    image: Callable[[Tensor], Tensor]
    weights: Callable[[Tensor], Tensor]
    advice: str
    turned: tuple[float, float, float] | None = None


class Outcome(NamedTuple):
    """Of the image as it is, then of each other reading at the best of its poses.

    Attributes:
        times: Misfit of the image as it is over its own; the more, the better it fits [r].
        alike: Correlation with the DRR [r].
        eta: Where [r, 6].
    """

    times: list[float]
    alike: list[float]
    eta: Float[Tensor, "r 6"]


def _same(x: Tensor) -> Tensor:
    return x


def _across(x: Tensor) -> Tensor:
    return x.flip(-1)


def _along(x: Tensor) -> Tensor:
    return x.flip(-2)


def _logged(x: Tensor) -> Tensor:
    most = x.amax(dim=(1, 2, 3), keepdim=True)
    return -(x / most).clamp_min(_DARKEST).log()


AS_IT_IS = Reading(
    _same,
    _same,
    "the image is seen from another side than where poses were looked for: it fits {:.1f} times as "
    "well near theta, phi, gamma = {}; begin there",
)
MIRRORED = Reading(
    _across,
    _across,
    "the image looks mirrored: with left and right exchanged it fits {:.1f} times as well; pass "
    "image.flip(-1), or carm with `flipped` the other way",
    (-1.0, 1.0, -1.0),
)
UPSIDE_DOWN = Reading(
    _along,
    _along,
    "the image looks mirrored: with top and bottom exchanged it fits {:.1f} times as well; pass "
    "image.flip(-2)",
    (1.0, -1.0, -1.0),
)
COUNTS = Reading(
    _logged,
    _same,
    "the image looks like raw counts and not like line integrals: its logarithm fits {:.1f} times "
    "as well; pass -log(image / open field), or read it by read_xray(path, values='counts')",
)
NEGATIVE = Reading(
    torch.neg,
    _same,
    "the image looks inverted, dense matter being dark: its negative fits {:.1f} times as well; "
    "pass -image if values are after a logarithm, or preset='xray' for a picture",
)


def mirrored_pose(
    pose: Float[Tensor, "*b 4 4"], center: Float[Tensor, "3"]
) -> Float[Tensor, "*b 4 4"]:
    """The pose at which a body whose left is its right shows the mirrored picture.

    Args:
        pose: world_from_camera.
        center: Of the volume [mm, LPS]; the plane of symmetry goes through it.
    """
    seen = pose.clone()
    seen[..., 0, :] *= -1
    seen[..., 0, 3] += 2 * center[0].to(pose)
    seen[..., :3, 0] *= -1  # the camera's columns run the other way
    return seen


def mistaken(
    levels: Levels,
    plan: Preset,
    images: Sequence[Float[Tensor, "1 1 _ _"]],
    weights: Sequence[Float[Tensor, "1 1 _ _"] | None],
    start: Float[Tensor, "s 6"],
    search: tuple[float, float],
    found: RegistrationResult,
) -> tuple[str, float]:
    """What another reading of the image fits clearly better, in words, and what it cost to know.

    Args:
        levels: Renderers.
        plan: How much the registration tried; its window, where images were normalised.
        images, weights: Of each view.
        start, search: Where poses were looked for.
        found: What the image as it is gave.

    Returns:
        The advice, empty where there is none; images of the coarsest level rendered for it.
    """
    trial = _Trial(levels, plan, images, weights, found.inverted)
    given, clearly = found.eta[None], CLEARLY
    tried = [(MIRRORED, trial.reflected(found.pose))]
    shown = trial.times(given, tried, _FEW)
    if shown.times[1] > 1 / CLEARLY:  # not clearly worse
        shown = trial.times(given, tried)
    if not shown.times[1] > CLEARLY and not (found.converged and shown.alike[0] > 0):
        tried, clearly = trial.swept(start, search), CLEARLY_SWEPT
        shown = trial.times(given, tried)
    better = [k for k in range(1, len(tried) + 1) if shown.times[k] > clearly]
    if not better:
        return "", trial.renders
    # A curve may turn counts into a negative, and back: which is nearer to a line?
    best = max(better, key=shown.alike.__getitem__)
    reading, times, eta = tried[best - 1][0], shown.times[best], shown.eta[best : best + 1]
    if reading.turned:
        both = [(reading, eta), (AS_IT_IS, trial.other_side(eta, reading.turned))]
        _, here, there = (shown := trial.times(given, both)).times
        if there > here:
            angles = ", ".join(f"{x:+.0f}" for x in shown.eta[2, :3].rad2deg().tolist())
            return AS_IT_IS.advice.format(there, f"{angles} deg"), trial.renders
    return reading.advice.format(times), trial.renders


class _Trial:
    """Readings of one image at the coarsest level."""

    def __init__(self, levels: Levels, plan: Preset, images, weights, inverted: bool):
        self.levels, self.plan, self.renders = levels, plan, 0.0
        self.grey = Model(window=plan.window) if plan.window else Model(plan.degree)
        seen = [
            x if w is None else torch.where(w > 0, x, 0.0)
            for x, w in zip(images, weights, strict=True)
        ]
        self.images, self.weights = [-x if inverted else x for x in seen], weights
        self.carm, self.center = levels.cameras[0], levels.center

    def reflected(self, pose: Tensor) -> Float[Tensor, "1 6"]:
        return self.carm.eta(mirrored_pose(pose, self.center), self.center)[None]

    def objective(self, readings: Sequence[Reading]) -> Objective:
        """The views, with an image for each reading."""
        images = [torch.cat([one.image(x) for one in readings]) for x in self.images]
        weights = [
            None if w is None else torch.cat([one.weights(w) for one in readings])
            for w in self.weights
        ]
        return Objective(self.levels.sights(0, images, weights, window=self.grey.window))

    def other_side(self, eta: Tensor, turned) -> Float[Tensor, "1 6"]:
        """The pose turned by half a turn about its isocentre."""
        pose = self.carm.pose(eta, self.center)
        seen = pose.clone()
        seen[..., :3, :3] *= torch.tensor(turned).to(pose)
        seen[..., :3, 3] += 2 * float(self.carm.sod) * pose[..., :3, 2]
        return self.carm.eta(seen, self.center)

    def times(self, given: Tensor, tried: Sequence[tuple], steps=_STEPS) -> Outcome:
        """How the image as it is at `given`, and others, fit after a few steps more."""
        objective = self.objective([AS_IT_IS, *(reading for reading, _ in tried)])
        places = [given, *(eta for _, eta in tried)]
        owner = torch.cat([torch.full((len(x),), k) for k, x in enumerate(places)])
        ended = refine(objective, torch.cat(places), owner, steps, _STILL, self.grey)
        self.renders += ended.objective.renders
        misfit = ended.misfit.nan_to_num(nan=math.inf)
        best = [torch.where(owner == k, misfit, math.inf).argmin() for k in range(len(places))]
        rows, first = torch.stack(best), objective.sights[0]
        shown = ended.linear[0].image[rows.to(first.fixed.device)].reshape(first.fixed.shape)
        alike = zncc(first.fixed, shown, first.weights)
        times = misfit[0] / misfit[rows].clamp_min(1e-12)
        return Outcome(times.tolist(), alike.tolist(), ended.parameters[rows])

    def swept(self, start, search) -> list[tuple[Reading, Float[Tensor, "k 6"]]]:
        """Every other reading, with the best poses of a coarse search of its own."""
        readings = [MIRRORED, UPSIDE_DOWN]
        if not self.grey.window:  # which finds negatives itself
            counts = all(bool((x >= 0).all()) for x in self.images)
            readings.append(COUNTS if counts else NEGATIVE)
        objective, plan = self.objective(readings), self.plan
        rotations, kept, steps = (
            max(1, n // _PART) for n in (plan.rotations, plan.kept, plan.steps)
        )
        around = start.expand(len(readings), -1, 6)
        tried = look_around(objective.sights[0], around, rotations, search, plan.seed)
        eta, owner, _ = most_alike(tried, kept)
        eta, _ = descend_together(objective, eta, owner, plan.rates, steps)
        self.renders += objective.renders + tried.renders
        found = [(reading, eta[owner == k]) for k, reading in enumerate(readings)]
        return found + [(NEGATIVE, eta[owner == 2])] * (readings[-1] is COUNTS)
