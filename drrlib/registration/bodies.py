"""Several rigid bodies in one image, each with a pose of its own: bones of a wrist, a femur and its
pelvis, vertebrae.

Where bodies cover each other, one alone is pulled by the others' edges. So each is looked for alone
first; what was found is taken off the image, for those that are still in doubt; and at last all of
them move together, by Levenberg-Marquardt on images that are the sum of theirs.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.arrays import Numbers, as_tensor, check_kind
from drrlib.drr import DRR
from drrlib.errors import ShapeError
from drrlib.optimize import Linear, Objective, levenberg, normal_equations
from drrlib.registration.api import register, relative_poses
from drrlib.registration.doubt import doubt
from drrlib.registration.judge import APART, hold, judge
from drrlib.registration.levels import Levels
from drrlib.registration.pipeline import RANGE
from drrlib.registration.plan import Preset, get_preset
from drrlib.registration.result import RegistrationResult
from drrlib.similarity import normalise, zncc_loss
from drrlib.view import View, as_views, check_starts
from drrlib.volume import Volume

_STEPS = 20  # of all bodies together
_STILL = (1e-5,) * 3 + (2e-3,) * 3  # [rad, mm]; smaller ones end
_WIDE = 8.0  # pixels of the windows in which the share of a body in an image is found


def register_bodies(
    views: View | Sequence[View],
    bodies: Sequence[Volume],
    starts: Numbers,
    *,
    preset: str | Preset = "xray",
    search: tuple[float, float] = RANGE,
    backend: str = "auto",
) -> list[RegistrationResult]:
    """Find the poses of several rigid bodies that the same images show, and how sure they are.

    Args:
        views: As in `register`.
        bodies: One volume for each, with nothing else in it: a bone's voxels and zeros, an implant.
        starts: For each body, parameters eta of the first view to search around [k, 6]; they refer
            to the body's own centre.
        preset, search, backend: As in `register`, for each body alone.

    Returns:
        A result for each body. `loss` and `kept` are of the pixels that the body covers, in images
        that are the sum of all; stated errors know how the bodies hold each other.

    Raises:
        ShapeError, ConfigError: what is wrong with which argument.
    """
    began = time.perf_counter()
    views, bodies = as_views(views), _listed(bodies)
    starts, plan = _check(bodies, starts), get_preset(preset)
    how = dict(preset=preset, search=search, backend=backend, only=True)
    found = [register(views, *one, **how) for one in zip(bodies, starts, strict=True)]
    for k in sorted(range(len(found)), key=lambda k: found[k].loss):
        others = [(bodies[j], one) for j, one in enumerate(found) if j != k and one.converged]
        if found[k].converged or not others:
            continue
        again = register(_without(views, others, backend), bodies[k], starts[k], **how)
        better = again.converged or again.loss < found[k].loss
        renders = found[k].renders + again.renders
        found[k] = replace(again if better else found[k], renders=renders)
    negative = min(found, key=lambda one: one.loss).inverted
    found = Together(views, bodies, plan, backend, negative).settle(found)
    share = (time.perf_counter() - began) / len(bodies)
    return [replace(one, seconds=share) for one in found]


def _listed(bodies: object) -> list[Volume]:
    check_kind(bodies, (list, tuple), "bodies")
    for k, body in enumerate(bodies):
        check_kind(body, Volume, f"body {k}")
    return list(bodies)


def _check(bodies: list[Volume], starts: Numbers) -> Float[Tensor, "k 6"]:
    starts = check_starts(as_tensor(starts, "starts", torch.float64))
    if not bodies or tuple(starts.shape) != (len(bodies), 6):
        raise ShapeError(
            f"got {len(bodies)} bodies and starts of shape {tuple(starts.shape)}; expected one "
            "body or more and an eta for each, [k, 6]"
        )
    return starts


def _without(
    views: Sequence[View], others: Sequence[tuple[Volume, RegistrationResult]], backend: str
) -> list[View]:
    """The images less what other bodies add to them, by as much as their edges say."""
    left = []
    for view, relative in zip(views, relative_poses(views), strict=True):
        shown = 0.0
        for body, one in others:
            shown = shown + DRR(body, view.carm, backend=backend)(one.pose @ relative)[0].cpu()
        counts = torch.ones_like(view.image) if view.weights is None else view.weights
        shown = shown.to(view.image)
        # Only against what lies around: soft tissue under a bone is no part of it.
        fixed, moving = (_apart(x, counts) for x in (view.image, shown))
        weights = counts * (shown > 0)
        squares = (weights * moving.square()).sum().clamp_min(1e-12)
        share = (weights * fixed * moving).sum() / squares
        left.append(replace(view, image=view.image - share * shown))
    return left


def _apart(image: Float[Tensor, "h w"], counts: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Each pixel less the mean of those around it."""
    one = normalise(image[None], counts[None], _WIDE)
    return (one.value * one.deviation)[0]


class Together(Objective):
    """Several bodies whose images add up, at the finest level; parameters are rows [m, 6 k].

    Args:
        views: The X-ray images.
        bodies: Volumes.
        plan: Whose finest level and window count.
        backend: As in `DRR`.
        negative: Whether the images are negatives.
    """

    def __init__(
        self,
        views: Sequence[View],
        bodies: Sequence[Volume],
        plan: Preset,
        backend: str,
        negative: bool = False,
    ):
        self.bodies, cameras = tuple(bodies), [view.carm for view in views]
        images = [(-1 if negative else 1) * view.image[None, None] for view in views]
        weights = [None if v.weights is None else v.weights[None, None] for v in views]
        most, relatives = [view.most for view in views], relative_poses(views)
        levels = [
            Levels(body, cameras, relatives, backend, plan.finest, True, most) for body in bodies
        ]
        # Bodies of other sizes have other numbers of levels, and none is finer than all allow.
        joined = max(one.binning(0, one.last) for one in levels)
        at = [one.last - round(math.log2(joined / one.binning(0, one.last))) for one in levels]
        self.share = 1 / joined**2
        self.each = [
            Objective(one.sights(level, images, weights, window=plan.window))
            for one, level in zip(levels, at, strict=True)
        ]
        super().__init__(self.each[0].sights)

    def rows(self, rows: Tensor) -> "Together":
        """Itself: one image of each view is for all rows."""
        return self

    def linearize(self, parameters: Float[Tensor, "m n"]) -> list[Linear]:
        """Of each view the sum of the bodies' images, and its derivative by all their poses."""
        parts = self._parts(parameters)
        found = []
        for k in range(len(self.sights)):
            images, jacobians, left = zip(*(shown[k] for shown in parts), strict=True)
            found.append(
                Linear(sum(images), torch.cat(jacobians, dim=2), torch.stack(left).amax(dim=0))
            )
        return found

    def _parts(self, parameters: Tensor) -> list[list[Linear]]:
        """What each body shows alone."""
        rows = parameters.split(6, dim=1)
        self.count(len(parameters) * len(rows))
        return [one.linearize(row) for one, row in zip(self.each, rows, strict=True)]

    def settle(self, found: Sequence[RegistrationResult]) -> list[RegistrationResult]:
        """All poses refined together, and each judged by the pixels that its body covers."""
        start = torch.cat([one.eta for one in found])[None]
        done = levenberg(self, start, self.linearize(start), _STEPS, _STILL * len(found))
        parts = self._parts(done.parameters)
        spreads = doubt(self.sights, done.linear, done.parameters, [e.sights[0] for e in self.each])
        model = normal_equations(self.sights, done.linear)
        renders = self.renders * self.share / len(found)
        judged = []
        for k, (one, body) in enumerate(zip(found, self.bodies, strict=True)):
            own = slice(6 * k, 6 * k + 6)
            eta, spread = done.parameters[0, own], spreads[0, own, own]
            loss, kept = self._fit(k, done.linear, parts[k])
            curvature = model.curvature[0, own, own]
            held = hold(one.carm, body.center, body.targets, eta, curvature, spread)
            converged, reason = judge(loss, 1.0, one.gap, held.target_sd, False, True)
            new = replace(
                one,
                eta=eta,
                pose=one.carm.pose(eta, body.center),
                loss=loss,
                kept=kept,
                converged=converged,
                reason=reason,
                covariance=spread,
                condition=held.condition,
                target_sd=held.target_sd,
                across_sd=held.across_sd,
                depth_sd=held.depth_sd,
                renders=one.renders + renders,
                path=(*one.path, ("together", eta, loss)),
            )
            moved = float(one.compare(new).mtre)
            if moved > APART:
                why = f"together with the other bodies it lies {moved:.0f} mm from its place alone"
                new = replace(new, converged=False, reason=why)
            judged.append(new)
        return judged

    def _fit(self, k: int, shown: Sequence[Linear], own: Sequence[Linear]) -> tuple[float, float]:
        """The loss over the pixels that a body covers, and their part of the image's weight."""
        loss, kept = [], []
        for sight, one, alone in zip(self.each[k].sights, shown, own, strict=True):
            size = sight.fixed.shape[-2:]
            image, left = (x.unflatten(1, size)[:, None] for x in (one.image, alone.left))
            loss.append(float(sight.compare(zncc_loss, image, left)))
            kept.append(float(sight.share(left)))
        return sum(loss) / len(loss), sum(kept) / len(kept)
