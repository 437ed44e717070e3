"""A few second-order steps from a pose that is nearly right, and a verdict on where they end.

Three things make one time step cheap: the levels of volume and detector are made once for all time
steps, no rotation is swept, and the steps end one level before `register` does, where pixels are
twice as wide and a quarter as many. What is asked of the end is what `register` asks, and three
things more that only a run of frames can tell: whether the image is explained as well as in the
frames before, whether the steps have come to rest, and whether the body moved as far as a body
does.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.geometry import mtre
from drrlib.optimize import Objective, levenberg, normal_equations
from drrlib.registration.doubt import spread_of
from drrlib.registration.judge import APART, judge
from drrlib.registration.pipeline import Registration
from drrlib.registration.plan import Preset
from drrlib.registration.result import RegistrationResult
from drrlib.registration.stages import distinct, refine
from drrlib.registration.task import Task
from drrlib.similarity import Model, zncc_loss

# Most steps of the first and the second level, and what ends each [rad, mm].
_COARSE, _FINE = 4, (1,)
_LOOSE, _STILL = ((2e-3,) * 3 + (0.2,) * 3), ((1e-4,) * 3 + (0.02,) * 3)
_ROUNDS = 4  # of outliers' weights
_SMALLEST = 48  # pixels across a level at which a fit may end
_SAME = 4.0  # [mm] mTRE of starts that are one
# Loss against the median of the frames before: so many times, or so much more.
_TIMES, _MORE, _MORE_IN_WINDOWS = 2.0, 5e-4, 0.05
_KEPT = 0.85  # of the part of the image that was explained before
_REST, _REST_IN_SD = 0.5, 3.0  # [mm], and stated deviations, of a step that would follow
_REMEMBERED = 12  # frames


class Ended(NamedTuple):
    """A short fit before its verdict.

    Attributes:
        result: As a registration has it; `converged` not judged yet.
        rest: How far a further Gauss-Newton step would move the targets [mm].
    """

    result: RegistrationResult
    rest: float


class Before(NamedTuple):
    """What the frames before showed: losses and kept parts of those that were trusted."""

    loss: deque
    kept: deque

    @classmethod
    def none(cls) -> "Before":
        return cls(deque(maxlen=_REMEMBERED), deque(maxlen=_REMEMBERED))

    def add(self, result: RegistrationResult) -> None:
        """Remember a frame."""
        self.loss.append(result.loss)
        self.kept.append(result.kept)

    def unlike(self, result: RegistrationResult) -> str:
        """How a fit falls behind the frames before; "" where it does not."""
        if not self.loss:
            return ""
        usual, kept = (float(torch.tensor(list(x)).median()) for x in self)
        more = _MORE_IN_WINDOWS if result.window else _MORE
        if result.loss > max(_TIMES * usual, usual + more):
            return (
                f"the image is explained worse than before, loss {result.loss:.2g} to {usual:.2g}"
            )
        if result.kept < _KEPT * kept and not result.only:
            return f"less of the image counts than before, {result.kept:.2f} to {kept:.2f}"
        return ""


class ShortFit:
    """Short fits of frames that one `Registration` was prepared for.

    Args:
        registration: With the levels that all frames share.
        fine: Whether to end where `register` ends, one level finer.
    """

    def __init__(self, registration: Registration, fine: bool = False):
        self.registration, levels = registration, registration.levels
        last = levels.last
        camera = levels.camera(0, max(last - 1, 0))
        if not fine and last and min(camera.height, camera.width) >= _SMALLEST:
            last -= 1
        self.used = tuple(range(max(0, last - 1), last + 1))

    def __call__(
        self,
        images: Sequence[Tensor],
        weights: Sequence[Tensor | None],
        starts: Float[Tensor, "s 6"],
        last_only: bool = False,
    ) -> Ended:
        """The best end of a few starts.

        Args:
            images, weights: As `Registration` takes them for one image; no negatives.
            starts: Poses to begin at; they are compared at the first level, and the best goes on.
            last_only: Leave out the first level, for one start that is right.
        """
        began = time.perf_counter()
        reg, plan = self.registration, self.registration.preset
        window, renders, gap, path = plan.window, 0.0, None, []
        p = starts
        if not last_only and len(self.used) > 1:
            level = self.used[0]
            objective = Objective(reg.levels.sights(level, images, weights, (), window))
            grey = Model(window=window) if window else reg.grey._replace(smooth=0)
            sights = [replace(s, grey=grey) for s in objective.sights]
            rows = objective.with_sights(sights).rows(torch.zeros(len(p), dtype=torch.long))
            done = levenberg(rows, p, rows.linearize(p), _COARSE, _LOOSE)
            loss = done.normal.loss.nan_to_num(nan=torch.inf)
            renders += objective.renders * reg.levels.share(level)
            best = int(loss.argmin())
            gap = self._gap(done.parameters, loss, best)
            p = done.parameters[best : best + 1]
            path.append((f"level {level}", p[0], float(loss[best])))
        result, rest, more = self._end(images, weights, p[:1], window)
        path = [
            ("predicted", starts[0], float("nan")),
            *path,
            (f"level {self.used[-1]}", result.eta, result.loss),
        ]
        seconds = time.perf_counter() - began
        return Ended(
            replace(result, path=tuple(path), renders=renders + more, gap=gap, seconds=seconds),
            rest,
        )

    def _end(self, images, weights, p, window: float) -> tuple[RegistrationResult, float, float]:
        """The last level: result, how far a further step would go, and renders."""
        reg, level = self.registration, self.used[-1]
        objective = Objective(reg.levels.sights(level, images, weights, (), window))
        grey = Model(window=window) if window else reg.grey
        one = refine(objective, p, torch.zeros(1, dtype=torch.long), _FINE, _STILL, grey, _ROUNDS)
        sights = one.objective.sights
        model = normal_equations(sights, one.linear)
        spreads = spread_of(sights, one.linear, one.parameters)
        task = Task((1.0, 1.0), (), zncc_loss)
        result = reg.described(one, model, spreads, 0, task)
        step = -torch.linalg.pinv(model.curvature[0], hermitian=True) @ model.gradient[0]
        moved = reg.pose_of(result.eta + step.nan_to_num())
        rest = float(mtre(moved[None], result.pose[None], reg.points))
        return result, rest, objective.renders * reg.levels.share(level)

    def _gap(self, ends, loss, best: int) -> float | None:
        """Loss of the best other place over the best's; None where all ended in one."""
        poses = self.registration.pose_of(ends)
        others = loss[mtre(poses, poses[best : best + 1], self.registration.points) > APART]
        return float(others.min() / loss[best]) if len(others) else None

    def distinct(self, starts: Float[Tensor, "s 6"]) -> Float[Tensor, "k 6"]:
        """Starts that are not nearly an earlier one."""
        reg = self.registration
        return starts[distinct(reg.pose_of(starts), reg.points, len(starts), _SAME)]


def verdict(ended: Ended, before: Before, jumped: float, allowed: float) -> tuple[bool, bool, str]:
    """Whether a short fit can be trusted, whether it at least lies where it did, and the reason.

    Where the images agree as they should and only hold the pose too loosely, as one view of a
    small bone, looking anew would find nothing better.

    Args:
        ended: What to judge.
        before: Of the frames before.
        jumped: mTRE between the pose and what was predicted [mm].
        allowed: How far that may be [mm].
    """
    result, rest = ended
    kept = 1.0 if result.only else result.kept
    gap = float("inf") if result.gap is None else result.gap
    how = (result.loss, kept, gap)
    good, reason = judge(*how, 0.0, False, result.window > 0)
    limit = max(_REST, _REST_IN_SD * result.target_sd)
    if good and (unlike := before.unlike(result)):
        good, reason = False, unlike
    if good and not rest <= limit:
        good, reason = False, f"the steps have not come to rest, {rest:.2g} mm are left"
    if good and not jumped <= allowed:
        good, reason = False, f"the body jumped by {jumped:.3g} mm against its motion so far"
    if not good:
        return False, False, reason
    good, reason = judge(*how, result.target_sd, False, result.window > 0)
    return good, True, "follows the frames before" if good else reason


def searching(preset: Preset, part: float) -> Preset:
    """The plan of a fresh search, once, with so many times the rotations.

    Where the range is larger than usual, more of them go on as well.
    """
    rotations = max(32, round(preset.rotations * part))
    kept = round(preset.kept * max(part, 1.0) ** 0.5)
    return replace(preset, rotations=rotations, kept=kept, attempts=1)
