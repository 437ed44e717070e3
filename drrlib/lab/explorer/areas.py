"""Regions that a person draws in an image, and the weights that they make."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib import regions
from drrlib.errors import ConfigError
from drrlib.geometry import CArm

SHAPES = ("circle", "rectangle", "polygon")


@dataclass(frozen=True)
class Area:
    """One shape in pixels (column, row) of the full detector.

    Attributes:
        shape: "circle", "rectangle" or "polygon".
        points: The circle's centre; two opposite corners; or three corners and more.
        radius_mm: Of a circle, on the detector.
        counts: Whether what lies inside counts; False leaves it out.
    """

    shape: str
    points: tuple[tuple[float, float], ...]
    radius_mm: float = 0.0
    counts: bool = True

    def weights(self, carm: CArm) -> Float[Tensor, "height width"]:
        """1 inside, 0 outside.

        Raises:
            ConfigError: too few points, an unknown shape, or a shape without a pixel.
        """
        if self.shape == "circle" and len(self.points) == 1:
            return regions.circle(carm, self.points[0], self.radius_mm)
        if self.shape == "rectangle" and len(self.points) == 2:
            columns, rows = (sorted(x) for x in zip(*self.points, strict=True))
            first = [max(0, int(low)) for low, _ in (rows, columns)]
            last = [
                min(most, int(-(-high // 1)))
                for (_, high), most in ((rows, carm.height), (columns, carm.width))
            ]
            return regions.rectangle(carm, (first[0], last[0]), (first[1], last[1]))
        if self.shape == "polygon" and len(self.points) >= 3:
            return regions.polygon(carm, self.points)
        expected = "one centre for a circle, two corners for a rectangle, three or more otherwise"
        raise ConfigError(f"a {self.shape} of {len(self.points)} points; expected {expected}")


@dataclass
class Areas:
    """The shapes drawn in one view, and corners that are no shape yet.

    A pixel counts if it lies in any of the shapes that count (where there are some), and in none
    of those that are left out.

    Attributes:
        drawn: Shapes, in the order of drawing.
        corners: Points (column, row) for the next rectangle or polygon.
        version: Grows with each change of the shapes.
    """

    drawn: list[Area] = field(default_factory=list)
    corners: list[tuple[float, float]] = field(default_factory=list)
    version: int = 0

    def add(self, area: Area, carm: CArm) -> None:
        """Take a shape that holds a pixel, and leaves one.

        Raises:
            ConfigError: it does not.
        """
        area.weights(carm)
        self._weights([*self.drawn, area], carm)
        self.drawn.append(area)
        self.version += 1

    def drop(self) -> None:
        """Forget the last corner, or the last shape where no corner waits."""
        if self.corners:
            self.corners.pop()
        elif self.drawn:
            self.drawn.pop()
            self.version += 1
        else:
            raise ConfigError("nothing is drawn; expected a shape or a corner to take back")

    def clear(self) -> None:
        """Forget everything."""
        self.drawn, self.corners = [], []
        self.version += 1

    def weights(self, carm: CArm) -> Float[Tensor, "height width"] | None:
        """Weights of all shapes, or None where nothing is drawn."""
        return self._weights(self.drawn, carm) if self.drawn else None

    def _weights(self, areas: list[Area], carm: CArm) -> Float[Tensor, "height width"]:
        total = torch.zeros(carm.height, carm.width, dtype=torch.float64)
        for area in (x for x in areas if x.counts):
            total = torch.maximum(total, area.weights(carm))
        if not any(x.counts for x in areas):
            total = torch.ones_like(total)
        for area in (x for x in areas if not x.counts):
            total = total * regions.outside(area.weights(carm))
        if not bool((total > 0).any()):
            raise ConfigError("the shapes leave no pixel that counts; take one back first")
        return total
