"""What a registration returns: a pose, how sure it is, and the way there."""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from drrlib.arrays import Numbers, as_path, as_tensor
from drrlib.atomic import write_whole
from drrlib.errors import ConfigError
from drrlib.geometry import CArm, Geometry, PoseErrors, ScanProjection, mrpd, mtre, pose_errors
from drrlib.optimize import Trace
from drrlib.view import View
from drrlib.volume import Volume

_FORMAT = "drrlib registration 1"
_GEOMETRIES = {kind.__name__: kind for kind in (CArm, ScanProjection)}
_TUPLES = {kind.__name__: kind for kind in (Trace,)}


class _Foreign(ValueError):
    """A reason of our own, which quotes nothing of the file."""


class Comparison(NamedTuple):
    """A pose against another one.

    Attributes:
        mtre: Mean distance of the targets, points 50 mm off the volume's centre [mm].
        mrpd: Their mean distance to the rays of their images: what one view shows of it [mm].
        parts: Rotation and translation, in the plane and across it.
    """

    mtre: Float[Tensor, "*n"]
    mrpd: Float[Tensor, "*n"]
    parts: PoseErrors

    def __repr__(self) -> str:
        if self.mtre.ndim:
            return f"Comparison({len(self.mtre)} poses, median mTRE {self.mtre.median():.3g} mm)"
        turn = math.degrees(self.parts.rotation.detach())
        return (
            f"Comparison(mTRE {self.mtre:.3g} mm, {turn:.3g} deg, "
            f"{self.parts.in_plane:.3g} mm in plane, {self.parts.depth:.3g} mm in depth)"
        )


@dataclass(frozen=True, eq=False, repr=False)
class RegistrationResult:
    """What was found, by `register` for one image, or by `descend` for each of n starts.

    Of one registration, numbers are plain floats and bools; of n starts, tensors [n] and tuples,
    and `result[i]` is one of them, `result.best` that of lowest loss.

    Attributes:
        eta: Pose parameters [*n, 6] (rad, mm).
        pose: The same as world_from_camera [*n, 4, 4].
        loss: Of the pose at the finest level used, over the pixels that count.
        converged: Whether the pose can be trusted; of `descend`, whether a stopping rule was met.
        reason: Why, or why not.
        carm: The camera, with the lengths that were freed.
        center: The volume's centre, which eta refers to [mm, world].
        renders: Images rendered, counted in pixels of the full detector.
        seconds: Wall time; of a batch, its share.
        gap: Misfit of the second-best place over that of the best, both at the finest level at
            which several were refined; infinite where all candidates ended in one place. This and
            what follows: None where nothing was searched or judged.
        agreement: Part of the coarse candidates that ended in the best place.
        kept: Part of the image that counts; the rest was taken for outliers, or seen past the end
            of the CT.
        condition: Condition number of the Gauss-Newton matrix, in millimetres at points 50 mm off
            the centre.
        covariance: Of eta and the freed lengths, from the residual image [k, k], and of pictures
            from `doubt`, too; that of 1 - ZNCC whatever the loss.
        target_sd: Standard deviation that it gives to these points [mm].
        across_sd, depth_sd: Its parts across the view and along it [mm].
        inverted: Whether the image was found to be a negative.
        places: Poses refined at that level [m, 6], best first.
        misfits: Their mean squared residuals, or of pictures their losses [m].
        path: (stage, eta, loss) of the best pose after each stage.
        attempts: How often the search was made.
        trace: Every step of a descent.
        preset: Name of the preset, "own" for one that was given as a `Preset`.
        window: Of the windows in which images were compared [pixels]; 0 for line integrals.
        only: Whether the volume was one bone among others.
    """

    eta: Float[Tensor, "*n 6"]
    pose: Float[Tensor, "*n 4 4"]
    loss: float | Float[Tensor, " n"]
    converged: bool | Bool[Tensor, " n"]
    reason: str | tuple[str, ...]
    carm: Geometry
    center: Float[Tensor, "3"]
    renders: float
    seconds: float
    gap: float | None = None
    agreement: float | None = None
    kept: float | None = None
    condition: float | None = None
    covariance: Float[Tensor, "k k"] | None = None
    target_sd: float | None = None
    across_sd: float | None = None
    depth_sd: float | None = None
    inverted: bool | None = None
    places: Float[Tensor, "m 6"] | None = None
    misfits: Float[Tensor, " m"] | None = None
    path: tuple[tuple[str, Tensor, float], ...] = ()
    attempts: int = 1
    trace: Trace | None = None
    preset: str | None = None
    window: float = 0.0
    only: bool = False

    def __repr__(self) -> str:
        if self.eta.ndim > 1:
            good, count = int(self.converged.sum()), len(self.eta)
            return f"{good} of {count} starts converged; best: {self.best}"
        angles = ", ".join(f"{a:+.2f}" for a in torch.rad2deg(self.eta[:3]).tolist())
        shift = ", ".join(f"{b:+.2f}" for b in self.eta[3:].tolist())
        sure = "" if self.target_sd is None else f"+-{self.target_sd:.2g} mm"
        if self.depth_sd is not None:
            sure += f" ({self.across_sd:.2g} across, {self.depth_sd:.2g} in depth)"
        sure += "; " if sure else ""
        return (
            f"{'converged' if self.converged else 'NOT converged'}: {self.reason}; loss "
            f"{self.loss:.3g}; theta, phi, gamma = {angles} deg; b = {shift} mm; {sure}"
            f"{self.renders:.0f} full renders in {self.seconds:.1f} s"
        )

    def __eq__(self, other: object) -> bool:
        """Whether every number is the same, NaN included."""
        if not isinstance(other, RegistrationResult):
            return NotImplemented
        return plain(self) == plain(other)

    __hash__ = None

    def __len__(self) -> int:
        if self.eta.ndim == 1:
            raise TypeError("this result is of one registration and has no length")
        return len(self.eta)

    def __getitem__(self, index: int) -> "RegistrationResult":
        """Result of one start."""
        if self.eta.ndim == 1:
            raise TypeError("this result is of one registration; only those of n starts have parts")
        own = {name: getattr(self, name)[index] for name in ("eta", "pose", "reason")}
        trace = self.trace
        if trace is not None:
            trace = Trace(trace.eta[:, index], trace.loss[:, index], trace.level)
        return dataclasses.replace(
            self,
            **own,
            loss=float(self.loss[index]),
            converged=bool(self.converged[index]),
            trace=trace,
        )

    @property
    def best(self) -> "RegistrationResult":
        """The start of lowest loss; NaN counts as worst. Of one registration, itself."""
        if self.eta.ndim == 1:
            return self
        return self[int(torch.nan_to_num(self.loss, nan=torch.inf).argmin())]

    def compare(self, pose: "Numbers | RegistrationResult") -> Comparison:
        """How far this pose is from another: world_from_camera [4, 4] or eta [6], or a result."""
        if isinstance(pose, RegistrationResult):
            pose = pose.pose
        pose = as_tensor(pose, "pose", torch.float64)
        if pose.shape[-1:] == (6,):
            pose = self.carm.pose(pose, self.center)
        points = self.center + 50 * torch.cat([torch.eye(3), -torch.eye(3)]).to(self.center)
        pair = (self.pose, pose)
        return Comparison(mtre(*pair, points), mrpd(*pair, points), pose_errors(*pair, self.center))

    def save(self, path: str | os.PathLike) -> Path:
        """Write everything as JSON, without a lost digit; `load` reads it back equal."""
        return write_json(path, _FORMAT, plain(self))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "RegistrationResult":
        """Read what `save` wrote.

        Raises:
            ConfigError: the file cannot be read, or is something else.
        """
        return read_json(path, _FORMAT, cls.from_plain)

    @classmethod
    def from_plain(cls, entries: dict) -> "RegistrationResult":
        """A result from what `plain` made of it; raises nearly anything where it did not."""
        found = cls(**{name: restored(x) for name, x in entries.items()})
        if found.eta.shape[-1:] != (6,) or found.pose.shape != (*found.eta.shape[:-1], 4, 4):
            raise _Foreign("eta and pose are not those of the same poses")
        if found.eta.numel():
            repr(found)  # numbers where there must be some
        return found

    def show(self, views: View | Sequence[View], volume: Volume):
        """Draw what speaks for the pose and against it; see `report`.

        Returns:
            The matplotlib figure, for a notebook to display or `.savefig(path)`.

        Raises:
            ConfigError: matplotlib is not installed.
            ShapeError, ConfigError: not the views of this registration.
        """
        from drrlib.registration.report import figure

        return figure(self.best, views, volume)

    def report(
        self,
        path: str | os.PathLike,
        views: View | Sequence[View],
        volume: Volume,
        *,
        names: Sequence[str] = (),
    ) -> Path:
        """Write one page for a person: verdict, pose, stated error, pictures of each view.

        The pictures: the X-ray image, the CT in its place, its edges on the image, overlay,
        checkerboard, what is left over, and which pixels counted.

        Args:
            path: .html (one file, pictures inside), .png or .pdf.
            views: As they were given to `register`.
            volume: Likewise.
            names: Of files, to be shown under "Where this comes from"; give none that name a
                patient.

        Raises:
            ConfigError: another suffix, or matplotlib is not installed.
            ShapeError, ConfigError: not the views of this registration.
        """
        from drrlib.registration.report import write_report

        return write_report(self.best, path, views, volume, names)

    def to_slicer(self, path: str | os.PathLike) -> Path:
        """Write the pose for 3D Slicer; see `geometry.poses.write_tfm`."""
        from drrlib.geometry import write_tfm

        return write_tfm(path, self.best.pose)


def write_json(path: str | os.PathLike, form: str, entries: dict) -> Path:
    """Write entries with the name of their form; `read_json` reads them back."""
    path = as_path(path)
    text = json.dumps({"format": form, **entries}, indent=1, allow_nan=False)
    write_whole(path, lambda name: name.write_text(text + "\n", encoding="utf-8", newline="\n"))
    return path


def read_json(path: str | os.PathLike, form: str, made: Callable[[dict], object]):
    """What `made` makes of the entries that `write_json` wrote.

    Raises:
        ConfigError: the file cannot be read, or is something else. Its text is not repeated.
    """
    path = as_path(path)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if entries.pop("format", None) != form:
            raise _Foreign(f"it does not say that it is a {form}")
        return made(entries)
    except Exception as error:  # what stands there can be nearly anything
        why = str(error) if isinstance(error, _Foreign) else type(error).__name__
        raise ConfigError(
            f"{path.name} is no saved {form.split()[1]} ({why}); expected a file that .save wrote"
        ) from None  # whose text may quote the file


def plain(value: object) -> object:
    """As JSON has it: tensors by their type and rows, numbers that are not finite as text."""
    if isinstance(value, Tensor):
        rows = plain(value.tolist())
        return {"tensor": rows, "dtype": str(value.dtype), "shape": list(value.shape)}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if type(value).__name__ in _TUPLES:
        return {type(value).__name__: {k: plain(v) for k, v in value._asdict().items()}}
    if isinstance(value, tuple | list):
        return [plain(x) for x in value]
    if dataclasses.is_dataclass(value):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        kind = type(value).__name__
        return {kind: fields} if kind in _GEOMETRIES else fields
    return value


def restored(value: object) -> object:
    """What `plain` was given."""
    if isinstance(value, list):
        return tuple(restored(x) for x in value)
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        dtype = getattr(torch, value["dtype"].removeprefix("torch."))
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{value['dtype']} is no type of numbers")
        return torch.tensor(restored(value["tensor"]), dtype=dtype).reshape(value["shape"])
    if "float" in value:
        return float(value["float"])
    ((kind, fields),) = value.items()
    return {**_GEOMETRIES, **_TUPLES}[kind](**{k: restored(v) for k, v in fields.items()})
