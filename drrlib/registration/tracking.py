"""One body through a run of X-ray images: `track`."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.arrays import Numbers, as_flag, as_length, as_numbers, check_kind
from drrlib.errors import ConfigError
from drrlib.geometry import mtre
from drrlib.registration.api import look_where, prepare
from drrlib.registration.frames import Frame, Instant, instants
from drrlib.registration.judge import APART, LOOSE, SURE
from drrlib.registration.motion import predicted, smoothed
from drrlib.registration.pipeline import RANGE, Registration
from drrlib.registration.plan import Preset
from drrlib.registration.result import RegistrationResult
from drrlib.registration.short_fit import Before, Ended, ShortFit, searching, verdict
from drrlib.registration.track_result import Track
from drrlib.volume import Volume

_log = logging.getLogger("drrlib.registration")

REACH = (math.radians(15.0), 20.0)  # of a fresh search one time step after a trusted pose
_GROWS = 0.25  # of the reach, for each further time step
_LEAST, _MOST = 0.25, 4.0  # times the usual rotations, however short or long the reach
_TRIES = 2  # short fits before a search
_RECENT = 3  # time steps over which two trusted poses give a velocity


def track(
    frames: Sequence[Frame],
    volume: Volume,
    start: Numbers | None = None,
    *,
    preset: str | Preset | None = None,
    search: tuple[float, float] | None = None,
    reach: tuple[float, float] = REACH,
    fine: bool | None = None,
    smooth: float | None = None,
    backend: str = "auto",
    only: bool = False,
) -> Track:
    """Follow a body through time steps, and say at each one how sure its pose is.

    The first time step is registered as by `register`. Each later one begins where the motion so
    far leads, at a constant velocity that dies down, takes a few second-order steps, and is judged
    by `register`'s measures and by the frames before. Where that doubts, a fresh search looks
    around the last trusted pose, as far as `reach`, which grows with the time since then. Where
    that fails, the frame is doubtful, with the reason, and tracking goes on.

    Args:
        frames: Time steps in equal intervals: each a `View`, or a list of views of one instant, as
            `register` takes them. After the first, an image [height, width] as array or tensor may
            stand for a View of the same camera with the same weights (pixels that are NaN then have
            none), and None for an image that is missing.
        volume: CT as attenuation.
        start: Of the first time step, as in `register`: eta [6] or [s, 6]; None for what its first
            view knows, or everywhere.
        preset, backend, only: As in `register`; "paper" has no verdict and is refused.
        search: As in `register`, of the first time step.
        reach: How far a fresh search looks one time step after a trusted pose: each angle [rad] and
            each shift [mm]. It grows by a quarter for each further step, up to 45 degrees and 60
            mm, or up to itself where it is larger.
        fine: Whether each frame ends at `register`'s finest level, or one level coarser, for a
            fourth of the pixels, where that leaves 48 across. None for the coarser one where it
            holds the pose at the first time step, which one bone among others needs the finest for.
        smooth: Width of a smoothing over time [time steps, a standard deviation], in which poses
            weigh by their stated covariance; None for none.
        backend: As in `DRR`.

    Returns:
        A `Track` with a `RegistrationResult` for each time step.

    Raises:
        ShapeError, ConfigError, GeometryError: what is wrong with which argument or frame.
    """
    check_kind(volume, Volume, "volume")
    reach, smooth = _check_options(preset, reach, smooth)
    fine = None if fine is None else as_flag(fine, "fine")
    views, steps = instants(frames)
    start, search = look_where(views[0], volume, start, search, preset)
    registration = prepare(views, volume, preset, backend, only)
    body = _Body(registration, start, search, reach, fine)
    results = []
    for k, instant in enumerate(steps):
        results.append(body.follow(instant, k))
        _log.info("time step %d: %s", k, results[-1])
    if smooth is not None:
        results = smoothed(results, smooth)
    return Track(tuple(results), smooth)


def _check_options(preset, reach, smooth) -> tuple[tuple[float, float], float | None]:
    """Reach and smoothing as numbers."""
    if isinstance(preset, str) and preset == "paper":
        raise ConfigError(
            'preset is "paper", one descent without a verdict; track needs "robust", "xray", '
            '"fast" or a Preset'
        )
    reach = as_numbers(reach, "reach", 2)
    if min(reach) <= 0 or reach[0] > math.pi:
        raise ConfigError(
            f"reach is {reach}; expected (rotation in rad up to pi, translation in mm), > 0"
        )
    return reach, None if smooth is None else as_length(smooth, "smooth")


class _Body:
    """Where a body is, as far as the time steps so far tell."""

    def __init__(self, registration: Registration, start, search, reach, fine: bool | None):
        self.registration, self.fine = registration, fine
        self.fit = ShortFit(registration, registration.levels.only if fine is None else fine)
        self.start, self.search, self.reach = start, search, reach
        self.held: RegistrationResult | None = None  # the last pose that images held, and when
        self.since = 0
        self.trusted: list[tuple[int, Tensor]] = []  # the last two trusted poses, and when
        self.before = Before.none()

    def follow(self, instant: Instant, k: int) -> RegistrationResult:
        """The next time step."""
        if instant.lacks:
            return self._blind(instant.lacks, k)
        if self.held is None:
            found = self._begin(instant)
            return self._remember(found, found.converged or _loose(found), k)
        found, held = self._step(instant, k)
        if held:
            self.before.add(found)
            return self._remember(found, True, k)
        _log.info("time step %d: %s; looking anew", k, found.reason)
        again = self._look(instant, k, found)
        return self._remember(again, again.converged or _loose(again), k)

    def _step(self, instant: Instant, k: int) -> tuple[RegistrationResult, bool]:
        """A short fit from what is predicted, once more from its end; and whether it holds."""
        pose, resting, renders, seconds = self._predicted(k), self.held.pose, 0.0, 0.0
        starts = self.fit.distinct(self._eta(torch.stack([pose, resting])))
        allowed = APART + self._apart(pose, resting)
        for _ in range(_TRIES):
            ended = self.fit(self._images(instant), instant.weights, starts)
            renders, seconds = renders + ended.result.renders, seconds + ended.result.seconds
            jumped = self._apart(ended.result.pose, pose)
            good, held, reason = verdict(ended, self.before, jumped, allowed)
            if held:
                break
            starts = ended.result.eta[None]
        found = replace(ended.result, renders=renders, seconds=seconds, attempts=0)
        found = replace(found, converged=good, reason=reason, inverted=self.held.inverted)
        return found, held

    def _images(self, instant: Instant) -> list[Tensor]:
        """Its images, or their negatives where the body was found in those."""
        return [-x for x in instant.images] if self.held.inverted else instant.images

    def _begin(self, instant: Instant) -> RegistrationResult:
        """`register`, and what a short fit at its pose is like."""
        start = self.start.reshape(1, -1, 6)
        (found,) = self.registration(
            instant.images, start, weights=instant.weights, search=self.search
        )
        if found.converged or _loose(found):
            ended = self._checked(instant, found)
            if self.fine is None and found.converged and not ended.result.target_sd < SURE:
                self.fit = ShortFit(self.registration, fine=True)
                ended = self._checked(instant, found)
            self.before.add(ended.result)
            found = replace(found, renders=found.renders + ended.result.renders)
        return found

    def _look(self, instant: Instant, k: int, failed) -> RegistrationResult:
        """A fresh search around the last pose that was held, asked what the frames before say."""
        further = 1 + _GROWS * (k - self.since - 1)
        reach = tuple(
            min(x * further, max(x, most)) for x, most in zip(self.reach, RANGE, strict=True)
        )
        part = max(r / most for r, most in zip(reach, RANGE, strict=True)) ** 2
        plan = searching(self.registration.preset, min(max(part, _LEAST), _MOST))
        (found,) = self.registration.with_preset(plan)(
            instant.images,
            self.held.eta.reshape(1, 1, 6),
            weights=instant.weights,
            search=reach,
        )
        renders, seconds = found.renders + failed.renders, found.seconds + failed.seconds
        if found.converged or _loose(found):
            ended = self._checked(instant, found)
            renders += ended.result.renders
            unlike = self.before.unlike(ended.result)
            if found.inverted != self.held.inverted:
                unlike = "a negative among positives, or the other way round"
            if unlike:
                found = replace(found, converged=False, reason=unlike)
            else:
                self.before.add(ended.result)
        return replace(found, renders=renders, seconds=seconds)

    def _checked(self, instant: Instant, found: RegistrationResult) -> Ended:
        """A short fit from a pose that was found, which makes it comparable with other frames."""
        images = [-x for x in instant.images] if found.inverted else instant.images
        return self.fit(images, instant.weights, found.eta[None], last_only=True)

    def _remember(self, found: RegistrationResult, held: bool, k: int) -> RegistrationResult:
        if held:
            self.held, self.since = found, k
        if found.converged:
            self.trusted = [*self.trusted[-1:], (k, found.pose)]
        return found

    def _predicted(self, k: int) -> Float[Tensor, "4 4"]:
        """Where the motion so far leads; a doubtful frame gives no velocity."""
        pose = self.held.pose
        if len(self.trusted) < 2 or self.trusted[-1][0] != self.since:
            return pose
        (early, before), (late, last) = self.trusted
        if late - early > _RECENT:
            return pose
        return predicted(last, before, late - early, k - late)

    def _blind(self, reason: str, k: int) -> RegistrationResult:
        """A time step without an image: where the body should be, and nothing known of it."""
        reg, nan = self.registration, math.nan
        eta = self.start.reshape(-1, 6)[0] if self.held is None else self._eta(self._predicted(k))
        return RegistrationResult(
            eta=eta,
            pose=reg.pose_of(eta),
            loss=nan,
            converged=False,
            reason=reason,
            carm=reg.carm,
            center=reg.volume.center,
            renders=0.0,
            seconds=0.0,
            kept=nan,
            target_sd=math.inf,
            across_sd=math.inf,
            depth_sd=math.inf,
            attempts=0,
            preset=reg.name,
            window=reg.preset.window,
            only=reg.levels.only,
        )

    def _eta(self, pose: Tensor) -> Tensor:
        return self.registration.carm.eta(pose, self.registration.volume.center)

    def _apart(self, pose: Tensor, other: Tensor) -> float:
        return float(mtre(pose[None], other[None], self.registration.points))


def _loose(found: RegistrationResult) -> bool:
    """Whether a search doubts for nothing but that the image holds the pose too loosely."""
    return found.reason.startswith(LOOSE)
