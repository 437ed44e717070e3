"""Where the C-arm stands: one pose for all views, its lengths, and how it is moved."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.arrays import Numbers, as_tensor
from drrlib.errors import ConfigError, GeometryError
from drrlib.geometry import (
    PARAMETERS,
    CArm,
    eta,
    inverse,
    to_degrees,
    to_radians,
    transform_points,
)
from drrlib.view import View
from drrlib.volume import Volume

# What a person may change by hand: the six parameters, and the lengths of the C-arm [mm].
ADJUSTABLE = ("sdd", "sod")
STEPS = (0.1, 0.5, 1.0, 5.0, 10.0)  # of step keys: degrees, or mm
_HALF_TURN = 180.0


@dataclass(frozen=True, eq=False)
class Placement:
    """A pose of the views' common frame, told by the view that is looked at. Immutable.

    Attributes:
        eta: Pose parameters of view `active` [6] (rad, mm), as they were set: no number that a
            person typed changes by a conversion.
        carms: The C-arm of each view.
        active: Index of the view that eta is of.
    """

    eta: Float[Tensor, "6"]
    carms: tuple[CArm, ...]
    active: int = 0


class Frames:
    """How the views of one patient position stand to each other.

    Args:
        volume: Its centre is what eta refers to.
        views: X-ray images; several need a pose each, in one frame.

    Raises:
        ConfigError: several views, and one without a pose.
    """

    def __init__(self, volume: Volume, views: Sequence[View]):
        self.center = volume.center
        lacking = [k for k, view in enumerate(views) if view.pose is None]
        if len(views) > 1 and lacking:
            raise ConfigError(
                f"views {lacking} of {len(views)} have no pose; expected world_from_camera for "
                "each, in one frame, so that their places to each other are known"
            )
        several = len(views) > 1
        self.poses = [v.pose if several else torch.eye(4).double() for v in views]

    def pose(self, placement: Placement, k: int | None = None) -> Float[Tensor, "4 4"]:
        """world_from_camera of view k, the world being the CT's; default: of the active one."""
        active = placement.active
        pose = placement.carms[active].pose(placement.eta, self.center)
        if k is None or k == active:
            return pose
        return pose @ inverse(self.poses[active]) @ self.poses[k]

    def eta(self, placement: Placement, k: int) -> Float[Tensor, "6"]:
        """Parameters [6] of the same placement, of view k."""
        if k == placement.active:
            return placement.eta
        return placement.carms[k].eta(self.pose(placement, k), self.center)

    def activate(self, placement: Placement, k: int) -> Placement:
        """The same placement, told by view k."""
        if k == placement.active:
            return placement
        return dataclasses.replace(placement, eta=self.eta(placement, k), active=k)

    def placed(
        self, placement: Placement, pose: Float[Tensor, "4 4"], k: int | None = None
    ) -> Placement:
        """With view k (default: the active one) at this world_from_camera."""
        active = placement.active
        k = active if k is None else k
        pose = pose @ inverse(self.poses[k]) @ self.poses[active]
        return dataclasses.replace(placement, eta=placement.carms[active].eta(pose, self.center))


def changed(placement: Placement, values: dict[str, float], degrees: bool) -> Placement:
    """With other values of parameters or of lengths of the active C-arm; the rest stays exactly.

    Raises:
        ConfigError: an unknown name, or a number that is not finite.
        GeometryError: lengths that no C-arm can have.
    """
    unknown = sorted(set(values) - {*PARAMETERS, *ADJUSTABLE})
    if unknown:
        raise ConfigError(
            f"nothing to move is called {', '.join(unknown)}; choose from "
            f"{', '.join((*PARAMETERS, *ADJUSTABLE))}"
        )
    given = as_tensor([float(x) for x in values.values()], "values", torch.float64)
    if not bool(torch.isfinite(given).all()):
        raise ConfigError("a number is NaN or infinite; expected degrees (or rad) and mm")
    new = placement.eta.clone()
    for index, name in enumerate(PARAMETERS):
        if name in values:
            turn = degrees and index < 3
            new[index] = torch.deg2rad(given.new_tensor(values[name])) if turn else values[name]
    lengths = {name: float(values[name]) for name in ADJUSTABLE if name in values}
    carms = list(placement.carms)
    carms[placement.active] = dataclasses.replace(carms[placement.active], **lengths)
    return dataclasses.replace(placement, eta=new, carms=tuple(carms))


def numbers(placement: Placement) -> dict[str, float]:
    """Parameters and lengths as people state them: degrees and mm."""
    carm = placement.carms[placement.active]
    rows = zip(PARAMETERS, to_degrees(placement.eta).tolist(), strict=True)
    return {**dict(rows), **{name: float(getattr(carm, name)) for name in ADJUSTABLE}}


def nudged(placement: Placement, name: str, step: float) -> Placement:
    """One parameter or length changed by `step` degrees or mm; angles stay within half a turn."""
    if name not in numbers(placement):
        return changed(placement, {name: step}, degrees=True)  # says what there is
    value = numbers(placement)[name] + step
    if name in PARAMETERS[:3] and abs(value) > _HALF_TURN:
        value -= 2 * _HALF_TURN if value > 0 else -2 * _HALF_TURN
    return changed(placement, {name: value}, degrees=True)


def presets(views: Sequence[View], volume: Volume) -> dict[str, Float[Tensor, "6"]]:
    """Poses to begin from, by name: AP, lateral, and what the header of each view says."""
    named = {"AP": eta(), "lateral": eta(phi=90, degrees=True)}
    if views:
        first = views[0]
        if first.start is not None:
            named["header"] = first.start.reshape(-1, 6)[0]
        elif first.pose is not None:
            named["header"] = first.carm.eta(first.pose, volume.center)
    return named


def warnings_about(volume: Volume, carm: CArm, pose: Float[Tensor, "4 4"]) -> str:
    """A sentence on what hides part of the patient: source or detector inside the CT; else ""."""
    frame = carm.frame(pose)
    middle = frame.corner + 0.5 * carm.width * frame.col_step + 0.5 * carm.height * frame.row_step
    voxel_from_world = torch.linalg.inv(volume.affine)
    voxels = transform_points(voxel_from_world, torch.stack([frame.source, middle]))
    last = torch.tensor(volume.shape, dtype=torch.float64) - 0.5
    source, detector = ((voxels > -0.5) & (voxels < last)).all(dim=1).tolist()
    if source:
        return "the X-ray source stands inside the CT: only what lies before it is seen"
    return "the detector stands inside the CT: what lies behind it is not seen" if detector else ""


def as_eta(start: Numbers, degrees: bool = False) -> Float[Tensor, "6"]:
    """Parameters [6] of what was given, in rad and mm.

    Raises:
        ConfigError, ShapeError: not six finite numbers.
    """
    start = as_tensor(start, "eta", torch.float64).detach().cpu()
    if tuple(start.shape) != (6,):
        raise ConfigError(f"eta has shape {tuple(start.shape)}; expected six numbers")
    if not bool(torch.isfinite(start).all()):
        raise GeometryError("eta has NaN or infinite numbers; expected rad and mm")
    return to_radians(start) if degrees else start
