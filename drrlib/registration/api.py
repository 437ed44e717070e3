"""2D/3D registration that does not get lost, in one call."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.arrays import Numbers, as_flag, as_numbers
from drrlib.drr import DRR
from drrlib.errors import ConfigError, GeometryError
from drrlib.geometry import BEHIND, CArm, depth, inverse
from drrlib.optimize import Objective, covariance, normal_equations
from drrlib.registration.candidates import EVERYWHERE
from drrlib.registration.descent import PAPER, descend
from drrlib.registration.judge import hold
from drrlib.registration.levels import level_sight
from drrlib.registration.pipeline import RANGE, Registration
from drrlib.registration.plan import Preset
from drrlib.registration.result import RegistrationResult
from drrlib.view import View, as_views, check_images, check_starts
from drrlib.volume import Volume


def register(
    views: View | Sequence[View],
    volume: Volume,
    start: Numbers | None = None,
    *,
    preset: str | Preset | None = None,
    search: tuple[float, float] | None = None,
    free: Sequence[str] = (),
    loss: str | Callable = "zncc",
    backend: str = "auto",
    only: bool = False,
) -> RegistrationResult:
    """Find the pose of an X-ray image, and say how sure it is.

    Args:
        views: The X-ray image as line integrals with its C-arm; or several of one patient position,
            whose `pose`s say how the cameras stood to each other.
        volume: CT as attenuation.
        start: Pose parameters eta of the first view to search around, [6], or several [s, 6];
            None for what the first view knows; where it knows nothing, all directions of view are
            tried, for some four times the cost.
        preset: "robust" looks everywhere in the range and again where it is not sure; "xray" does
            so for pictures of unknown making: both images are normalised in windows, negatives
            are found, and rays that leave the CT do not count; "fast" tries less and stops at
            about 100 pixels across; "paper" is one start, one level and 250 steps of Adam without
            any search; or a `Preset`. None for "robust", and for "xray" where a view says that its
            values are no line integrals (`View.lines`).
        search: How far the pose may be from a start: each angle [rad] and each shift [mm]. None
            for 45 degrees and 60 mm. With pi, only the start's isocentre counts, as if there were
            none; that is what is searched where there is none, with 100 mm around the CT's centre.
        free: Lengths of the C-arm to find with the pose at the finest level: "sdd", "delx",
            "dely", "x0", "y0". One view holds their combination with the pose weakly: see
            `condition`.
        loss: "zncc", whose optimum Levenberg-Marquardt finds and outliers do not move; or another
            name of `similarity.LOSSES` or a function (fixed, moving, weights) -> [n], by Adam
            alone.
        backend: As in `DRR`.
        only: Whether the volume is one bone, or an implant, among others that the images show:
            then only pixels count that its image covers, and a few beside, by preset "xray".

    Returns:
        The pose of the best place. `converged` is False where another place fits nearly as well,
        where the images are unlike, or where the image does not hold the pose.

    Raises:
        ShapeError, ConfigError: what is wrong with which argument.
        GeometryError: views that look away from each other, or from the volume.
    """
    if not isinstance(volume, Volume):
        raise ConfigError(f"volume is a {type(volume).__name__}; expected a Volume")
    views = as_views(views)
    first, (start, search) = views[0], look_where(views[0], volume, start, search, preset)
    if preset == "paper":
        if len(views) > 1 or free or first.weights is not None or tuple(search) != RANGE:
            raise ConfigError('preset "paper" takes one whole image, fixed lengths and no search')
        return _as_in_the_paper(first, volume, start, loss, backend)
    found = prepare(views, volume, preset, backend, only)(
        [v.image for v in views],
        start.reshape(1, -1, 6),
        weights=[v.weights for v in views],
        search=search,
        free=free,
        loss=loss,
    )
    return found[0]


def prepare(
    views: Sequence[View], volume: Volume, preset: str | Preset | None, backend: str, only: bool
) -> Registration:
    """The pipeline for these cameras; arguments and errors as in `register`."""
    if preset is None:
        lines = all(view.lines for view in views) and not as_flag(only, "only")
        preset = "robust" if lines else "xray"
    return Registration(
        volume,
        [v.carm for v in views],
        relatives=relative_poses(views),
        preset=preset,
        backend=backend,
        only=only,
        most=[v.most for v in views],
    )


def look_where(
    view: View,
    volume: Volume,
    start: Numbers | None,
    search: tuple[float, float] | None,
    preset: str | Preset | None,
) -> tuple[Tensor, tuple[float, float]]:
    """Where to begin, [6] or [s, 6], and how far to look; without a start, zeros and everywhere.

    Raises:
        ShapeError, ConfigError, GeometryError: as `register`.
    """
    if not (preset is None or isinstance(preset, (str, Preset))):
        raise ConfigError(f"preset is a {type(preset).__name__}; expected a name or a Preset")
    start = _start(view, volume, start)
    if search is not None:
        search = as_numbers(search, "search", 2)
    else:
        search = EVERYWHERE if start is None else RANGE
    if start is None:
        _check_no_start(view, search, preset)
        start = torch.zeros(6, dtype=torch.float64)
    return start, search


def _start(view: View, volume: Volume, start: Numbers | None) -> Tensor | None:
    """Where to look, [6] or [s, 6]; None where nothing is known."""
    if start is not None:
        return check_starts(start)
    if view.start is None and view.pose is not None:
        if float(depth(volume.center, view.pose)) < 0:
            raise GeometryError(
                f"by the view's pose, which is where to look, the volume's centre lies {BEHIND}"
            )
        return view.carm.eta(view.pose, volume.center)
    return view.start


def _check_no_start(view: View, search, preset) -> None:
    """Raises ConfigError where only a start says where to look."""
    few = len(search) == 2 and search[0] < EVERYWHERE[0]
    if few or preset == "paper" or not isinstance(view.carm, CArm):
        raise ConfigError(
            "no start is given and the view knows none; pass start=eta(theta, phi, ..., "
            "degrees=True) near the pose. Without one, all directions are searched: leave out "
            'search and preset "paper". A CT localizer always needs a start'
        )


def relative_poses(views: Sequence[View]) -> list[Float[Tensor, "4 4"]]:
    """Of each camera, its pose seen from the first.

    Raises:
        ConfigError, GeometryError: several views that do not say so, or look away from each other.
    """
    _check_poses(views)
    if len(views) == 1:
        return [torch.eye(4, dtype=torch.float64)]
    return [inverse(views[0].pose) @ view.pose for view in views]


def _check_poses(views: Sequence[View]) -> None:
    lacking = [k for k, view in enumerate(views) if view.pose is None]
    if len(views) > 1 and lacking:
        raise ConfigError(
            f"views {lacking} of {len(views)} have no pose; expected world_from_camera for each, "
            "in one frame, so that their places to each other are known"
        )
    if not lacking and views:
        first = views[0]
        isocenter = first.pose[:3, 3] + float(first.carm.sod) * first.pose[:3, 2]
        for k, view in enumerate(views):
            if float(depth(isocenter, view.pose)) < 0:
                raise GeometryError(f"view {k} has the isocentre of view 0 {BEHIND}")


def _as_in_the_paper(view: View, volume: Volume, start, loss, backend) -> RegistrationResult:
    """One descent, and the paper's own criterion of success."""
    drr = DRR(volume, view.carm, backend=backend)
    found = descend(view, drr, start, loss=loss, schedule=PAPER).best
    smooth = DRR(volume, view.carm, method="joseph", backend=backend)
    images, _ = check_images(view.image, view.carm)
    objective = Objective([level_sight(smooth, view.carm, images, None, 1)])
    shown = objective.linearize(found.eta[None])
    spreads = covariance(objective.sights, shown)[0]
    curvature = normal_equations(objective.sights, shown).curvature[0]
    held = hold(view.carm, volume.center, volume.targets, found.eta, curvature, spreads)
    return replace(
        found,
        converged=found.loss < PAPER.threshold,
        covariance=spreads,
        kept=1.0,
        condition=held.condition,
        target_sd=held.target_sd,
        renders=found.renders + 1,
        preset="paper",
    )
