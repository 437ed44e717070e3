"""Landmarks that a person points at, in the CT and in X-ray images, and the pose they make."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.errors import ConfigError, GeometryError
from drrlib.geometry import CArm, transform_points
from drrlib.registration import arun, pnp
from drrlib.view import View
from drrlib.volume import Volume

_PARALLEL = 1e-4  # of squared sines between rays, below which they do not cross


@dataclass
class Mark:
    """One landmark.

    Attributes:
        ct: Where it is in the CT [mm, world], or None.
        pixels: Where it is in views, by their index: (column, row).
    """

    ct: tuple[float, float, float] | None = None
    pixels: dict[int, tuple[float, float]] = field(default_factory=dict)


class Marks:
    """Landmarks by name; a landmark may be pointed at in the CT and in any view, in any order."""

    def __init__(self):
        self.named: dict[str, Mark] = {}

    def set(
        self,
        name: str,
        *,
        ct: Sequence[float] | None = None,
        view: int | None = None,
        pixel: Sequence[float] | None = None,
    ) -> None:
        """Place a landmark in the CT [mm, world], in a view (column, row), or in both.

        Raises:
            ConfigError: no name, nothing to place, or numbers that are not finite.
        """
        name = name.strip()
        given = [*(() if ct is None else ct), *(() if pixel is None else pixel)]
        if not name or not given or (pixel is None) != (view is None):
            raise ConfigError("a landmark needs a name, and a place in the CT or in a view")
        if not np.isfinite(np.asarray(given, dtype=float)).all():
            raise ConfigError(f"landmark {name!r} is not finite; expected mm and pixels")
        mark = self.named.setdefault(name, Mark())
        if ct is not None:
            mark.ct = tuple(float(x) for x in ct)
        if pixel is not None:
            mark.pixels[view] = tuple(float(x) for x in pixel)

    def drop(self, name: str) -> None:
        """Forget one landmark."""
        if name not in self.named:
            raise ConfigError(f"no landmark is called {name!r}; there are {', '.join(self.named)}")
        del self.named[name]

    def next_name(self) -> str:
        """A number that no landmark has."""
        return next(str(k) for k in range(1, len(self.named) + 2) if str(k) not in self.named)

    def pairs(self, k: int) -> tuple[list[str], Tensor, Tensor]:
        """Landmarks placed in the CT and in view k: names, points [n, 3] and pixels [n, 2]."""
        both = {n: m for n, m in self.named.items() if m.ct is not None and k in m.pixels}
        points = torch.tensor([m.ct for m in both.values()], dtype=torch.float64).reshape(-1, 3)
        pixels = torch.tensor([m.pixels[k] for m in both.values()], dtype=torch.float64)
        return list(both), points, pixels.reshape(-1, 2)

    def crossings(
        self, carms: Sequence[CArm], views: Sequence[View]
    ) -> tuple[list[str], Tensor, Tensor]:
        """Landmarks placed in the CT and in two views or more: names, points [n, 3] of the CT, and
        where their rays cross in the views' common frame [n, 3]."""
        names, points, rooms = [], [], []
        for name, mark in self.named.items():
            if mark.ct is not None and len(mark.pixels) > 1:
                rays = [ray(carms[k], views[k].pose, p) for k, p in mark.pixels.items()]
                names.append(name)
                points.append(mark.ct)
                rooms.append(crossing(*(torch.stack(x) for x in zip(*rays, strict=True))))
        rooms = torch.stack(rooms) if rooms else torch.zeros(0, 3, dtype=torch.float64)
        return names, torch.tensor(points, dtype=torch.float64).reshape(-1, 3), rooms


def ray(
    carm: CArm, pose: Float[Tensor, "4 4"], pixel: Sequence[float]
) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """The source [mm], and the unit direction towards a pixel (column, row)."""
    frame = carm.frame(pose)
    target = frame.corner + pixel[0] * frame.col_step + pixel[1] * frame.row_step
    return frame.source, torch.nn.functional.normalize(target - frame.source, dim=0)


def crossing(sources: Float[Tensor, "n 3"], ways: Float[Tensor, "n 3"]) -> Float[Tensor, "3"]:
    """The point nearest to n >= 2 rays, in least squares.

    Raises:
        GeometryError: parallel rays.
    """
    across = torch.eye(3).to(ways) - ways[:, :, None] * ways[:, None, :]
    normal = across.sum(dim=0)
    if not bool(torch.linalg.eigvalsh(normal)[0] > _PARALLEL):
        raise GeometryError("the rays of a landmark are parallel; expected views from two sides")
    return torch.linalg.solve(normal, (across @ sources[..., None]).sum(dim=0)[:, 0])


def pose_from_marks(
    marks: Marks,
    carms: Sequence[CArm],
    views: Sequence[View],
    k: int,
    start: Float[Tensor, "4 4"],
) -> tuple[Float[Tensor, "4 4"], str]:
    """world_from_camera of view k from landmarks, and a sentence on how well they fit.

    Three landmarks or more that were placed in two views of known relation are crossed and fitted
    in 3D (`arun`); otherwise those of view k give the pose from `start` (`pnp`).

    Raises:
        ConfigError, GeometryError: too few landmarks, or places that hold no pose.
    """
    if len(views) > 1:
        names, points, rooms = marks.crossings(carms, views)
        if len(names) >= 3:
            found = arun(rooms, points)
            off = (transform_points(found, rooms) - points).norm(dim=1)
            return found @ views[k].pose, _told("crossed in 3D", names, off, "mm in the CT")
    names, points, pixels = marks.pairs(k)
    if len(names) < 3:
        raise ConfigError(
            f"landmarks placed in the CT and in this view: {len(names)}; expected three or more: "
            "point at the same bones in both"
        )
    found = pnp(carms[k], points, pixels, start)
    return found.pose, _told("in this view", names, found.errors_mm, "mm at the detector")


def _told(where: str, names: list[str], off: Tensor, unit: str) -> str:
    worst = int(off.argmax())
    rms = float(off.square().mean().sqrt())
    return (
        f"pose from {len(names)} landmarks {where}: off by {rms:.2g} {unit} (rms), most at "
        f"{names[worst]!r} ({float(off[worst]):.2g})"
    )


def densest(
    volume: Volume, carm: CArm, pose: Float[Tensor, "4 4"], pixel: Sequence[float]
) -> tuple[float, float, float]:
    """The densest voxel's centre on the ray of a pixel [mm, world].

    Raises:
        GeometryError: the ray misses the CT.
    """
    source, way = ray(carm, pose, pixel)
    step = 0.5 * float(volume.spacing.min())
    along = torch.arange(0, float(carm.sdd) * 1.5, step, dtype=torch.float64)
    points = source + along[:, None] * way
    index = transform_points(torch.linalg.inv(volume.affine), points).round().long()
    size = torch.tensor(volume.shape)
    inside = ((index >= 0) & (index < size)).all(dim=1)
    if not bool(inside.any()):
        raise GeometryError("the ray through the crosshair misses the CT; move the crosshair")
    index = index[inside]
    mu = volume.mu.detach().cpu()[index[:, 0], index[:, 1], index[:, 2]]
    best = index[int(mu.argmax())].double()
    return tuple((volume.affine[:3, :3] @ best + volume.affine[:3, 3]).tolist())
