"""Which pixels of an X-ray image count: weights for `register` and the losses.

A region is an image of weights [height, width], 1 inside and 0 outside. Regions are joined by
multiplication; `outside` turns one round:

    weights = regions.collimated(fixed) * regions.outside(regions.circle(carm, (210, 80), 15.0))
    register(View(fixed, carm, weights), volume, start)

Positions are image coordinates (column, row) in pixels, as `CArm.project` gives them: pixel
(i, j) has its centre at (j + 1/2, i + 1/2).
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.arrays import Numbers, as_length, as_tensor, as_whole
from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry import CArm, Geometry

_CENTRAL = 0.2  # part of the image, around its middle, that is taken to be open
_DEEPEST = 0.4  # a blade reaches at most so far into the image
_REACH = 0.03  # part of the image's size within which a border may be blurred or run askew
_STRAIGHT = 0.9  # part of a border's length that must fall, of a blade that must be dark


def rectangle(
    carm: CArm, rows: tuple[int, int], columns: tuple[int, int]
) -> Float[Tensor, "height width"]:
    """A crop: 1 in the rows from rows[0] to rows[1] - 1, and the same for columns.

    `rectangle(carm, (20, 200), (0, 180))` is image[20:200, 0:180].

    Raises:
        ConfigError: no pixel of the detector, or beyond it.
    """
    _check(carm)
    spans = []
    for name, span, most in (("rows", rows, carm.height), ("columns", columns, carm.width)):
        pair = isinstance(span, (tuple, list)) and len(span) == 2
        first, last = (as_whole(x, name, 0) for x in span) if pair else (0, 0)
        if not first < last <= most:
            raise ConfigError(
                f"{name} is {str(span)[:60]}; expected 0 <= first < last <= {most}, the last one "
                "not included"
            )
        spans.append(slice(first, last))
    weights = torch.zeros(carm.height, carm.width, dtype=torch.float64)
    weights[tuple(spans)] = 1
    return weights


def circle(
    carm: CArm, center: tuple[float, float], radius_mm: float
) -> Float[Tensor, "height width"]:
    """1 where a pixel's centre lies in a circle, such as an image intensifier's field.

    `circle(carm, (0.5 * carm.width, 0.5 * carm.height), 90.0)` is the middle of the detector.

    Args:
        carm: Its pixel spacing makes millimetres of pixels.
        center: (column, row) in image coordinates; it may lie beyond the detector.
        radius_mm: On the detector [mm].

    Raises:
        ShapeError: a centre that is not (column, row).
        ConfigError: no CArm, a radius that is not above 0, or no pixel inside.
    """
    radius_mm = as_length(radius_mm, "radius_mm, on the detector,")
    point = as_tensor(center, "center").detach().to("cpu", torch.float64)
    if tuple(point.shape) != (2,):
        raise ShapeError(f"center has shape {tuple(point.shape)}; expected (column, row)")
    row, column = _pixels(carm)
    center = point.tolist()
    apart = ((column - center[0]) * float(carm.delx), (row - center[1]) * float(carm.dely))
    inside = apart[0].square() + apart[1].square() <= radius_mm**2
    return _not_empty(inside, f"the circle around {tuple(center)}")


def polygon(carm: CArm, corners: Numbers) -> Float[Tensor, "height width"]:
    """1 where a pixel's centre lies in a polygon, such as the outline of an implant.

    `polygon(carm, [(10, 10), (90, 20), (50, 80)])` is a triangle.

    Args:
        carm: The detector.
        corners: (column, row) of three corners or more in image coordinates [n, 2], in order; the
            last is joined to the first.

    Raises:
        ShapeError: not [n, 2] with n >= 3.
        ConfigError: corners that are not finite, or no pixel inside.
    """
    points = as_tensor(corners, "corners").detach().to("cpu", torch.float64).numpy()
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
        raise ShapeError(
            f"corners has shape {points.shape}; expected [n, 2], n >= 3: (column, row) of each"
        )
    if not np.isfinite(points).all():
        raise ConfigError("corners has NaN or infinite positions; expected pixels")
    row, column = (x.numpy() for x in _pixels(carm))
    inside = np.zeros((carm.height, carm.width), dtype=bool)
    for (x, y), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y != y2:  # an edge to the right of a pixel's centre takes it in, or out again
            crossed = (row >= min(y, y2)) & (row < max(y, y2))
            inside ^= crossed & (column < x + (row - y) * ((x2 - x) / (y2 - y)))
    return _not_empty(torch.from_numpy(inside), "the polygon")


def outside(weights: Numbers) -> Float[Tensor, "*image"]:
    """Everything but a region: 1 - weights.

    `outside(polygon(carm, corners))` leaves an implant out.

    Raises:
        ConfigError: weights that are not between 0 and 1.
    """
    weights = as_tensor(weights, "weights")
    if not bool(((weights >= 0) & (weights <= 1)).all()):
        raise ConfigError(
            f"weights go from {float(weights.min()):.3g} to {float(weights.max()):.3g}; expected "
            "a region, from 0 to 1"
        )
    return 1 - weights


def collimated(fixed: Numbers, least: float = 1.0) -> Float[Tensor, "height width"]:
    """The open field between the blades of a collimator, found in the image itself.

    A blade is taken to be a bar along one edge of the image, not deeper than two fifths of it,
    behind which less light arrives than behind the patient. Its border is straight, parallel to
    the edge within about one degree, and the line integral falls across it by `least` or more
    along nine tenths of the open field. One to four edges may have a blade. A margin of up to
    3 % of the image is cut off with it, for the border's blur.

    `collimated(fixed)` of an image with blades at the top and the left is a rectangle of ones
    below and to the right of them.

    Args:
        fixed: Line integrals [height, width], so the blades are bright.
        least: Least fall of the line integral from blade to field: 1 is 2.7 times the light.

    Raises:
        ShapeError: not one image of at least 16 x 16 pixels.
        ConfigError: pixels that are not finite; no blade, or bright parts that are none: use
            `rectangle` or `polygon`.
    """
    fixed = as_tensor(fixed, "fixed").detach()
    if fixed.ndim != 2 or min(fixed.shape) < 16:
        raise ShapeError(
            f"fixed has shape {tuple(fixed.shape)}; expected [height, width] of 16 pixels or more"
        )
    if not bool(torch.isfinite(fixed).all()):
        raise ConfigError("fixed has NaN or infinite pixels; expected line integrals")
    image = fixed.to("cpu", torch.float64)
    size = image.shape
    middle = [(round(n * (0.5 - _CENTRAL / 2)), round(n * (0.5 + _CENTRAL / 2))) for n in size]
    field = middle
    for _ in range(2):  # first seen through the middle alone, then along the whole field
        field = [_open(image, field[1], least), _open(image.T, field[0], least)]
    weights, blades = torch.zeros_like(image), torch.ones_like(image)
    weights[field[0][0] : field[0][1], field[1][0] : field[1][1]] = 1
    (top, bottom), (left, right) = (
        (max(first - _reach(n), 0), last + _reach(n))
        for (first, last), n in zip(field, size, strict=True)
    )
    blades[top:bottom, left:right] = 0  # what lies between is the margin
    if bool(weights.all()):
        raise ConfigError(
            f"no blade: nowhere does the line integral fall by {least} along a straight border "
            "parallel to an edge; without collimator no weights are needed, else use `rectangle`"
        )
    if not _darker(image[blades > 0], image[weights > 0]):
        raise ConfigError(
            "not sure of the blades: what lies beyond the borders that were found is not all "
            "above the line integrals of the field; use `rectangle` or `polygon`"
        )
    return weights


def _open(image: Tensor, along: tuple[int, int], least: float) -> tuple[int, int]:
    """First open row and the one after the last, seen in the columns `along`."""
    height = len(image)
    part = image[:, along[0] : along[1]]
    return _border(part, least), height - _border(part.flip(0), least)


def _border(part: Tensor, least: float) -> int:
    """First row below a blade at the top; 0 where there is none."""
    height = len(part)
    reach = _reach(height)
    fall = (part[:-reach] - part[reach:]).quantile(1 - _STRAIGHT, dim=1)
    falls = torch.nonzero(fall[: round(_DEEPEST * height)] >= least).flatten().tolist()
    for row in reversed(falls):
        # The patient has borders too, but is not dark all the way to the edge.
        if _darker(part[: row + 1], part[row + reach : height // 2]):
            return row + reach
    return 0


def _reach(pixels: int) -> int:
    return max(2, round(_REACH * pixels))


def _darker(blade: Tensor, field: Tensor) -> bool:
    """Whether nearly all of the one is above nearly all of the other."""
    low, high = blade.flatten().quantile(1 - _STRAIGHT), field.flatten().quantile(_STRAIGHT)
    return bool(low > high)


def _pixels(carm: CArm) -> tuple[Tensor, Tensor]:
    """Rows [height, 1] and columns [1, width] of the pixels' centres."""
    _check(carm)
    rows, columns = (torch.arange(n, dtype=torch.float64) + 0.5 for n in (carm.height, carm.width))
    return rows[:, None], columns[None]


def _check(carm) -> None:
    if not isinstance(carm, Geometry):
        raise ConfigError(f"carm is a {type(carm).__name__}; expected the CArm of the image")


def _not_empty(inside: Tensor, what: str) -> Float[Tensor, "height width"]:
    if not bool(inside.any()):
        raise ConfigError(f"{what} holds no pixel's centre; expected (column, row) in pixels")
    return inside.to(torch.float64)
