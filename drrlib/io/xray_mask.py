"""Which pixels of an X-ray image hold an image: by its header, and by what is seen.

By the header: display shutters (PS3.3 C.7.6.11), collimators (C.8.7.3) and round fields of view
(C.8.7.2), whose edges count pixels from 1. A collimator or field is believed only where the image
does not contradict it: beyond it there must be less structure than inside.

By the image: what no radiation reached (outside the intensifier's circle, behind blades), blades
with a soft border, the rim of a saturated open field, where skin is lost, and letters.
"""

import itertools

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import ConvexHull

from drrlib import regions
from drrlib.errors import ConfigError
from drrlib.io.dicom_tags import stated_numbers, words
from drrlib.io.pictures import pillow

_RIM = 0.02  # of the image's size: as far from anything seen, the open field is open
_LETTER = 0.0015  # of the image's area: the largest letter
_SMALL = 256  # pixels along a side where blades are looked for


def dead_field(values: np.ndarray, full: int, dense: int = 0) -> tuple[np.ndarray, str]:
    """False where a constant ground at an end of the range comes in from the image's border.

    Air beside a body may be such a ground too. Where it is open which end is dense, a ground is
    believed to lie outside of the beam if what it leaves is a disc, or convex with a step at its
    border; skin is no step.

    Args:
        values: [height, width].
        full: Number of levels of the file's type; 0 for floating-point numbers.
        dense: 1 if dense matter has the greater values, -1 if the smaller, 0 if that is open.

    Returns:
        The field [height, width], and a sentence; empty where all of it is field.
    """
    low, high = float(values.min()), float(values.max())
    step = (full if 0 < full <= 256 else (high - low)) / 256
    # A ground may be smeared by compression; or a thick body may be nearly as dark as it.
    spreads = (8, 3, 0.5) if 0 < full <= 256 else (1, 0.1)
    for (end, way), spread in itertools.product(((low, -1), (high, 1)), spreads):
        ground = _from_border(np.abs(values - end) < spread * step)
        rest = ~ground
        if ground.mean() < 0.005 or rest.mean() < 0.05:
            continue
        disc = _is_disc(rest)
        if dense == -way or not (disc or _is_beam(values, ground, end, dense == way)):
            continue
        field = ndimage.distance_transform_edt(rest) > _glow(values, rest)
        what = "outside of a round field" if disc else "outside of the beam"
        return field, f"{100 * (~field).mean():.0f} % of the image lie {what} (constant ground)"
    return np.ones(values.shape, dtype=bool), ""


def _is_beam(values: np.ndarray, ground: np.ndarray, end: float, dense: bool) -> bool:
    """Whether a ground at one end of the range is lead, and not air beside a body."""
    constant = float((values[ground] == end).mean()) > 0.7
    if dense:
        return constant
    rest = ndimage.binary_fill_holes(~ground)
    if constant and _is_rectangle(rest):
        return True
    i, j = np.nonzero(rest & ~ndimage.binary_erosion(rest))
    hull = ConvexHull(np.stack([i, j], axis=1)).volume if min(np.ptp(i), np.ptp(j)) > 8 else np.inf
    inward = ndimage.distance_transform_edt(~ground)
    near = max(2.0, 0.005 * min(values.shape))
    jump = np.median(np.abs(values[(inward > near) & (inward <= near + 1)] - end))
    span = np.percentile(np.abs(values - end), 99)
    return constant and rest.sum() > 0.95 * hull and bool(jump > 0.4 * span)


def _is_rectangle(part: np.ndarray) -> bool:
    """Whether a mask fills the rectangle around it, as a field between blades does."""
    rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
    around = part[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return bool(around.mean() > 0.985)


def _glow(values: np.ndarray, rest: np.ndarray) -> float:
    """Pixels from the ground to where the field has risen: beside it the intensifier glows."""
    inward = np.ceil(ndimage.distance_transform_edt(rest)).astype(np.int64)
    reach = max(4, round(0.04 * min(values.shape)))
    near = (inward >= 1) & (inward <= reach)
    places = np.arange(1, reach + 1)
    profile = ndimage.median(values, np.where(near, inward, 0), places)
    change = np.abs(np.diff(ndimage.uniform_filter1d(profile, 3)))
    return int(change.argmax()) + 1 + _margin(values.shape)


def _from_border(part: np.ndarray) -> np.ndarray:
    """Of a mask, what hangs together with the image's border; specks inside of it included."""
    labels, count = ndimage.label(part)
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    large = np.bincount(labels.ravel(), minlength=count + 1) >= 0.002 * part.size
    chosen = np.intersect1d(np.unique(rim[rim > 0]), np.flatnonzero(large))
    return np.isin(labels, chosen) if len(chosen) else np.zeros_like(part)


def _is_disc(part: np.ndarray) -> bool:
    """Whether a mask is a disc, perhaps cut off by the image's borders."""
    rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
    if len(rows) < 8 or len(columns) < 8:
        return False
    whole = ndimage.binary_fill_holes(part)
    edge = whole & ~ndimage.binary_erosion(whole, border_value=1)
    i, j = np.nonzero(edge)
    if len(i) < 16:
        return False
    # Circle by linear least squares: i^2 + j^2 = 2 a i + 2 b j + c. Twice, without outliers.
    keep = np.ones(len(i), dtype=bool)
    for _ in range(3):
        system = np.stack([2.0 * i, 2.0 * j, np.ones(len(i))], axis=1)
        a, b, c = np.linalg.lstsq(system[keep], (i * i + j * j)[keep].astype(float), rcond=None)[0]
        radius = np.sqrt(max(c + a * a + b * b, 1e-9))
        off = np.abs(np.hypot(i - a, j - b) - radius)
        keep = off <= max(0.02 * radius, 2.0)
        if keep.sum() < 16:
            return False
    turn = np.histogram(np.arctan2(i[keep] - a, j[keep] - b), 36, (-np.pi, np.pi))[0]
    size = min(part.shape)
    return bool(keep.mean() > 0.55 and (turn > 0).sum() >= 18 and 0.2 * size < radius < 1.2 * size)


def _margin(shape: tuple[int, ...]) -> int:
    return max(2, round(0.008 * min(shape)))


_SHAPES = ("RECTANGULAR", "CIRCULAR", "POLYGONAL")  # other words are not repeated


def header_mask(header, beam: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """True where shutter, collimator and round field of view leave the image open.

    Args:
        header: Flat DICOM header.
        beam: Values, more where more radiation arrived [height, width].
    """
    kept, notes = np.ones(beam.shape, dtype=bool), []
    for name, what in (("Shutter", "display shutter"), ("Collimator", "collimator")):
        for shape in words(header, f"{name}Shape"):
            part = _shape(header, name, shape, beam.shape)
            if part is None or part.mean() < 0.01:
                kind = f"{shape.lower()} " if shape in _SHAPES else ""
                notes.append(f"the header's {kind}{what} cannot be used: ignored")
            elif name == "Collimator" and not _believable(part, beam):
                notes.append(f"the header's {what} does not fit the image: ignored")
            elif not part.all():
                kept &= part
                notes.append(f"{what} of the header: {100 * (~part).mean():.0f} % left out")
    part = _round_field(header, beam.shape)
    if part is not None and not part.all() and _believable(part, beam):
        kept &= part
        notes.append(f"round field of view of the header: {100 * (~part).mean():.0f} % left out")
    return kept, tuple(notes)


def _shape(header, name: str, shape: str, size: tuple[int, int]) -> np.ndarray | None:
    """Open part of one shape; rows and columns of the header count from 1."""
    row, column = np.arange(1, size[0] + 1)[:, None], np.arange(1, size[1] + 1)[None]
    try:
        if shape == "RECTANGULAR":
            edges = ("LeftVertical", "RightVertical", "UpperHorizontal", "LowerHorizontal")
            left, right, top, bottom = (stated_numbers(header, f"{name}{e}Edge")[0] for e in edges)
            return (column >= left) & (column <= right) & (row >= top) & (row <= bottom)
        if shape == "CIRCULAR":
            center = stated_numbers(header, f"CenterOfCircular{name}")
            radius = stated_numbers(header, f"RadiusOfCircular{name}")[0]
            return np.hypot(row - center[0], column - center[1]) <= radius
        if shape == "POLYGONAL":
            corners = stated_numbers(header, f"VerticesOfThePolygonal{name}")
            return _polygon(
                [(c, r) for r, c in zip(corners[::2], corners[1::2], strict=True)], size
            )
    except (TypeError, ValueError, IndexError):
        return None
    return None


def _polygon(corners: list[tuple[float, float]], size: tuple[int, int]) -> np.ndarray | None:
    if len(corners) < 3:
        return None
    Image, ImageDraw = pillow()
    drawn = Image.new("1", (size[1], size[0]))
    ImageDraw.Draw(drawn).polygon([(x - 1, y - 1) for x, y in corners], fill=1, outline=1)
    return np.asarray(drawn)


def _round_field(header, size: tuple[int, int]) -> np.ndarray | None:
    if "ROUND" not in words(header, "FieldOfViewShape"):
        return None
    try:
        diameter = stated_numbers(header, "FieldOfViewDimensions")[0]
        dely, delx = stated_numbers(header, "ImagerPixelSpacing")
    except (TypeError, ValueError):
        return None
    row = (np.arange(size[0])[:, None] + 0.5 - size[0] / 2) * dely
    column = (np.arange(size[1])[None] + 0.5 - size[1] / 2) * delx
    part = np.hypot(row, column) <= diameter / 2
    return part if part.any() else None


def _believable(part: np.ndarray, beam: np.ndarray) -> bool:
    """Whether there is less structure beyond a border than inside, as behind lead."""
    beyond = ~ndimage.binary_dilation(part, iterations=_margin(beam.shape))
    if beyond.sum() < 50:
        return True
    change = ndimage.gaussian_gradient_magnitude(beam.astype(np.float64), 1.5)
    return bool(np.median(change[beyond]) < 0.5 * np.median(change[part]))


def image_mask(integrals: np.ndarray, field: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """True where the image itself shows no blade, no lost skin and no letters.

    Args:
        integrals: Line integrals [height, width].
        field: True where there is a beam.
    """
    notes = []
    kept = field.copy()
    blades = _blades(integrals, field)
    if blades is not None and not blades.all():
        kept &= blades
        notes.append(f"blades of a collimator: {100 * (~blades).mean():.0f} % left out")
    saturated = kept & (integrals <= integrals[kept].min() + 1e-9)
    letters = _letters(integrals, kept)
    if letters.any():
        notes.append(f"letters or markers at the ends of the range: {100 * letters.mean():.2g} %")
        kept &= ~letters
    if saturated.mean() > 0.005:
        reach = max(2, round(_RIM * min(integrals.shape)))
        seen = field & ~ndimage.binary_dilation(saturated, iterations=1)
        near = ndimage.distance_transform_edt(~seen) <= reach
        rim = saturated & near
        kept &= ~rim
        notes.append(
            f"rim of the saturated open field, where skin is lost: {100 * rim.mean():.0f} %"
        )
    return kept, tuple(notes)


def _blades(integrals: np.ndarray, field: np.ndarray) -> np.ndarray | None:
    """Rectangle between blades with soft borders, found in a small copy; None without any."""
    if not field.all():
        return None
    height, width = integrals.shape
    step = max(1, min(height, width) // _SMALL)
    if min(height, width) // step < 16:
        return None
    small = integrals[: height // step * step, : width // step * step]
    small = small.reshape(height // step, step, width // step, step).mean(axis=(1, 3))
    try:
        found = regions.collimated(torch.from_numpy(small)).numpy() > 0
    except ConfigError:
        return None
    rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    kept = np.zeros_like(field)
    last = [height if rows[-1] == found.shape[0] - 1 else (rows[-1] + 1) * step]
    last += [width if columns[-1] == found.shape[1] - 1 else (columns[-1] + 1) * step]
    kept[rows[0] * step : last[0], columns[0] * step : last[1]] = True
    return kept


def _letters(integrals: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Small specks at either end of the range that stand out of what surrounds them."""
    inside = integrals[kept]
    low, high = float(inside.min()), float(inside.max())
    found = np.zeros_like(kept)
    most = _LETTER * kept.size
    around = ndimage.uniform_filter(integrals, max(9, min(kept.shape) // 30))
    stands_out = kept & (np.abs(integrals - around) > 0.25 * (high - low))
    for end in (low, high):
        marked = stands_out & (np.abs(integrals - end) <= 0.015 * (high - low))
        labels, count = ndimage.label(marked)
        if not count:
            continue
        numbers = np.arange(1, count + 1)
        size = ndimage.sum_labels(np.ones_like(integrals), labels, numbers)
        found |= np.isin(labels, numbers[(size >= 6) & (size <= most)])
    if found.mean() > 0.03:  # not letters, but noise or a texture
        return np.zeros_like(kept)
    return ndimage.binary_dilation(found, iterations=max(2, _margin(kept.shape) // 3))
