"""A detector of pixels behind a source, whatever the beam: lengths, windows, larger pixels."""

import dataclasses
import math
import operator
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from drrlib.arrays import as_whole
from drrlib.errors import ConfigError, GeometryError, ShapeError

Scalar = float | int | Tensor
LENGTHS = ("sdd", "sod", "delx", "dely", "x0", "y0")


class Frame(NamedTuple):
    """Where source and detector stand for each pose [mm, world], float64.

    Pixel (i, j) has its centre at corner + (j + 1/2) col_step + (i + 1/2) row_step. All four are
    linear in the twelve numbers of the pose, so that the frame of a derivative of the pose is the
    derivative of the frame.
    """

    source: Float[Tensor, "*b 3"]
    corner: Float[Tensor, "*b 3"]
    col_step: Float[Tensor, "*b 3"]
    row_step: Float[Tensor, "*b 3"]


@dataclass(frozen=True)
class Detector:
    """Lengths and pixels of a CArm or a ScanProjection, which say what they mean; and what pixels
    allow, whatever the beam: windows, and larger or smaller ones."""

    sdd: Scalar
    sod: Scalar
    height: int
    width: int
    delx: Scalar
    dely: Scalar
    x0: Scalar = 0.0
    y0: Scalar = 0.0
    flipped: bool = False

    def __post_init__(self):
        value = {}
        for name in LENGTHS:
            length = getattr(self, name)
            if isinstance(length, Tensor) and length.ndim:
                raise ShapeError(f"{name} has shape {tuple(length.shape)}; expected a 0-d tensor")
            if isinstance(length, Tensor):
                length = length.detach()
            try:
                number = math.nan if isinstance(length, str) else float(length)
            except (TypeError, ValueError, OverflowError, RuntimeError):
                number = math.nan
            value[name] = number
            if not math.isfinite(number):
                raise GeometryError(f"{name} is {length!r:.60}; expected a finite length [mm]")
        for name in ("sdd", "delx", "dely"):
            if value[name] <= 0:
                raise GeometryError(f"{name} is {value[name]} mm; expected more than 0")
        if not 0 < value["sod"] < value["sdd"]:
            raise GeometryError(
                f"sod is {value['sod']} mm with sdd {value['sdd']} mm; the isocentre must lie "
                "between source and detector, so expected 0 < sod < sdd"
            )
        for name in ("height", "width"):
            pixels = getattr(self, name)
            try:
                count = 0 if isinstance(pixels, bool) else operator.index(pixels)
            except TypeError:
                count = 0
            if count < 1:
                raise GeometryError(f"{name} is {pixels!r}; expected a whole number of pixels >= 1")

    def crop(self, top: int, left: int, height: int, width: int):
        """The window of so many rows and columns, for image[..., top:top+height, left:left+width].

        Raises:
            ConfigError: the window leaves the detector.
        """
        top, left = as_whole(top, "top", 0), as_whole(left, "left", 0)
        height, width = as_whole(height, "height"), as_whole(width, "width")
        if top + height > self.height or left + width > self.width:
            raise ConfigError(
                f"the window of {height} x {width} pixels at ({top}, {left}) leaves the detector "
                f"of {self.height} x {self.width}; expected a window inside it"
            )
        return self.window(top, left, height, width)

    def window(self, top: int, left: int, height: int, width: int):
        """As `crop`, for a window that may reach beyond the detector."""
        return dataclasses.replace(
            self,
            height=height,
            width=width,
            x0=self.x0 + self.delx * (left + 0.5 * (width - self.width)),
            y0=self.y0 + self.dely * (top + 0.5 * (height - self.height)),
        )

    def resize(self, height: int, width: int):
        """The same detector with other numbers of rows and columns, for a resampled image.

        Raises:
            ConfigError: not whole numbers of at least 1.
        """
        height, width = as_whole(height, "height"), as_whole(width, "width")
        delx, dely = self.delx * (self.width / width), self.dely * (self.height / height)
        return dataclasses.replace(self, height=height, width=width, delx=delx, dely=dely)

    def join(self, binning: int):
        """As `downsample`; where the size is no multiple, pixels are added below and right."""
        height, width = (-(-n // binning) * binning for n in (self.height, self.width))
        return self.window(0, 0, height, width).downsample(binning)

    def downsample(self, factor: int):
        """The same detector with factor x factor pixels joined into one.

        Raises:
            ConfigError: the factor does not divide height and width.
        """
        factor = as_whole(factor, "factor")
        if self.height % factor or self.width % factor:
            raise ConfigError(
                f"factor is {factor} for a detector of {self.height} x {self.width} pixels; "
                "expected a divisor of both"
            )
        return self.resize(self.height // factor, self.width // factor)
