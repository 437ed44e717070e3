"""2D/3D registration that does not get lost: sweep, coarse descent, few fine steps, a judgement.

One start can fall into the wrong valley, and what decides is rotation. So the pipeline

1. sweeps coarse images of many rotations, each with all shifts at once (`matching`),
2. lets the best few descend together at that level, dropping the worse half on the way,
3. refines those that ended in different places by Levenberg-Marquardt at finer levels of detector
   and volume (`levenberg`), with grey values that may differ as those of an X-ray image do
   (`grey_values`) and without pixels that no pose explains (`outliers`), and
4. says how sure the best one is: how much worse the second place is, and how tightly the image
   holds each parameter.

The paper's own run, one start and one level (Alfiansyah et al. 2024), is the preset "paper".
"""

import math
from collections.abc import Callable, Sequence
from types import MappingProxyType

from jaxtyping import Float
from torch import Tensor

from drrlib.checks import check_image, check_starts
from drrlib.drr import DRR
from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry.carm import CArm
from drrlib.geometry.metrics import targets
from drrlib.optimize.loop import descend
from drrlib.optimize.second_order import Sight, covariance, linearize, normal_equations
from drrlib.registration.judge import hold
from drrlib.registration.levels import View
from drrlib.registration.pipeline import Registration
from drrlib.registration.result import PRESETS, Preset, RegistrationResult
from drrlib.volume import Volume

__all__ = ["PRESETS", "Preset", "Registration", "RegistrationResult", "View", "register"]

PAPER = "paper"
# The paper's run in the words of `descend`: one level, constant rates, its criterion of success.
PAPER_RUN = MappingProxyType(dict(levels=((1, 250),), schedule="constant", threshold=1e-6))


def register(
    fixed: Float[Tensor, "*image"],
    volume: Volume,
    carm: CArm,
    start: Float[Tensor, "*s 6"],
    *,
    preset: str | Preset = "robust",
    search: tuple[float, float] = (math.radians(45.0), 60.0),
    weights: Float[Tensor, "*image"] | None = None,
    views: Sequence[View] = (),
    free: Sequence[str] = (),
    loss: str | Callable = "zncc",
    seed: int = 0,
    backend: str = "auto",
) -> RegistrationResult:
    """Find the pose of an X-ray image, and say how sure it is.

    Args:
        fixed: X-ray image as line integrals [height, width].
        volume: CT as attenuation.
        carm: Intrinsics of the X-ray image.
        start: Pose parameters eta to search around, [6], or several [s, 6].
        preset: "robust" looks everywhere in the range and again where it is not sure, "fast"
            tries less and stops at about 100 pixels across; "paper" is one start, one level and
            250 steps of Adam without any search; or a `Preset`.
        search: How far the pose may be from a start: each angle [rad] and each shift [mm].
        weights: Weight of each pixel; 0 leaves it out: masks, crops, collimators. See `regions`.
        views: Further images of the same patient position by cameras whose poses relative to the
            first are known.
        free: Lengths of the C-arm to find with the pose at the finest level: "sdd", "delx",
            "dely", "x0", "y0". One view holds their combination with the pose weakly: see
            `condition`.
        loss: "zncc", whose optimum Levenberg-Marquardt finds and outliers do not move; or another
            name of `losses.LOSSES` or a function (fixed, moving, weights) -> [n], by Adam alone.
        seed: Of the sweep.
        backend: As in `DRR`.

    Returns:
        The pose of the best place. `converged` is False where another place fits nearly as well,
        where the images are unlike, or where the image does not hold the pose.

    Raises:
        ShapeError, ConfigError: what is wrong with which argument.
    """
    start = check_starts(start)[None]
    if fixed.ndim == 4 and len(fixed) != 1:
        raise ShapeError(
            f"fixed has shape {tuple(fixed.shape)}; expected one image: for many use Registration"
        )
    if preset == PAPER:
        if views or free or weights is not None:
            raise ConfigError('preset "paper" takes one whole image and fixed lengths')
        return _as_in_the_paper(fixed, volume, carm, start[0], loss, backend)
    prepared = Registration(
        volume, carm, others=[(v.carm, v.relative) for v in views], preset=preset, backend=backend
    )
    found = prepared(
        [fixed, *(v.fixed for v in views)], start, weights=[weights, *(v.weights for v in views)],
        search=search, free=free, loss=loss, seed=seed,
    )  # fmt: skip
    return found[0]


def _as_in_the_paper(fixed, volume, carm, start, loss, backend) -> RegistrationResult:
    """One descent, and the paper's own criterion of success."""
    image, _ = check_image(fixed, carm)
    options = dict(loss=loss, backend=backend, progress=False)
    found = descend(image, volume, carm, start, **options, **PAPER_RUN)
    drr = DRR(volume, carm, method="joseph", backend=backend)
    sight = Sight(
        drr, image.to(drr.grid.mu.device, drr.grid.dtype), None,
        lambda p: carm.frame(carm.pose(p, volume.center)),
    )  # fmt: skip
    linear = linearize([sight], found.eta[None])
    spreads = covariance([sight], linear)[0]
    model = normal_equations([sight], linear)
    held = hold(carm, volume.center, targets(volume), found.eta, model.curvature[0], spreads)
    return RegistrationResult(
        eta=found.eta,
        pose=found.pose,
        carm=carm,
        loss=found.loss,
        converged=found.loss < PAPER_RUN["threshold"],
        reason=found.reason[found.best],
        gap=math.nan,
        agreement=math.nan,
        kept=1.0,
        condition=held.condition,
        covariance=spreads,
        target_sd=held.target_sd,
        places=found.final_eta,
        misfits=found.final_loss,
        path=(("start", start[found.best], float(found.trace_loss[0, found.best])),),
        attempts=1,
        renders=float(sum(found.renders.values()) + 1),
        seconds=found.seconds,
    )
