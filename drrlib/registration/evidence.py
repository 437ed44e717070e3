"""What an X-ray image and the CT in its place have in common: pictures for `report`, as arrays."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor

from drrlib.drr import DRR, limited
from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry import CArm, Geometry, inverse
from drrlib.registration.cut import Beyond, Covered, continued
from drrlib.similarity import normalise
from drrlib.view import View, as_views
from drrlib.volume import Volume

_ACROSS = 512  # pixels across a picture, at most
_LETTERS = (("R", "L"), ("A", "P"), ("F", "H"))  # towards - and + of x, y, z
_SIDES = 256  # steps of grey by which the CT's values are brought to the image's
_GRAIN = 1.2  # deviation of the Gaussian that smooths what is left over [pixels]
_SECOND = 0.5  # a second letter stands where a direction leans so much towards it


class Evidence(NamedTuple):
    """One view, arrays of [height, width]; of one bone among others, what lies around it.

    Attributes:
        fixed: The X-ray image, 0 to 1, dense is bright.
        moving: The CT in its place, in the grey values of the image.
        edges: Where the CT has edges, among the pixels that count.
        weights: How much pixels counted, 0 to 1.
        residual: What was compared, image less CT, in standard deviations of the image's; smoothed
            a little, so that contours stand out of the grain.
        likeness: Correlation of what was compared, over the pixels that counted.
        letters: Towards what in the patient the picture's left, right, top and bottom point.
    """

    fixed: np.ndarray
    moving: np.ndarray
    edges: np.ndarray
    weights: np.ndarray
    residual: np.ndarray
    likeness: float
    letters: tuple[str, str, str, str]


def gather(result, views: View | Sequence[View], volume: Volume) -> list[Evidence]:
    """Evidence of each view.

    Raises:
        ConfigError: nothing that was registered.
        ShapeError: a view of another size than the result's camera.
    """
    views = as_views(views)
    if not isinstance(volume, Volume):
        raise ConfigError(f"volume is a {type(volume).__name__}; expected the registered Volume")
    first, carm = views[0], result.carm
    if (first.carm.height, first.carm.width) != (carm.height, carm.width):
        raise ShapeError(
            f"the view has {first.carm.height} x {first.carm.width} pixels, the registration was "
            f"of {carm.height} x {carm.width}; expected the same view"
        )
    if len(views) > 1 and any(v.pose is None for v in views):
        raise ConfigError("several views need a pose each, as in `register`")
    views[0] = dataclasses.replace(first, carm=carm)
    around = continued(volume) if result.window else None
    found = []
    for view in views:
        pose = result.pose if len(views) == 1 else result.pose @ inverse(first.pose) @ view.pose
        found.append(_of_view(result, _small(view), volume, pose, around))
    return found


def _small(view: View) -> View:
    factor = max(1, -(-max(view.carm.height, view.carm.width) // _ACROSS))
    if factor == 1:
        return view
    return view.resize(max(1, view.carm.height // factor), max(1, view.carm.width // factor))


def _of_view(result, view: View, volume: Volume, pose: Tensor, around: Volume | None) -> Evidence:
    with torch.no_grad():
        drr = DRR(volume, view.carm, method="joseph")
        shown = drr(pose)  # [1, height, width]
        if view.most is not None:
            shown = limited(shown, view.most)
        fixed = -view.image if result.inverted else view.image
        weights = torch.ones_like(fixed) if view.weights is None else view.weights
        if around is not None or result.only:
            weights = weights * _left(result, around, view.carm, pose, shown)
        shown = shown.double().cpu()
        compared, against = fixed[None], shown
        if result.window:
            window = result.window * max(1.0, min(fixed.shape) / 256)
            pair = (normalise(x, weights[None], window).value for x in (compared, against))
            compared, against = pair
        against = _fitted(compared[0], against[0], weights)
        spread = _weighted(compared[0], weights)[1]
    fixed, shown, weights = (x.numpy() for x in (fixed, shown[0], weights))
    counts = weights > 0.05 * weights.max()
    grey, like = _greys(fixed, shown, counts)
    part = _around(counts) if result.only else (slice(None), slice(None))
    return Evidence(
        grey[part],
        (np.where(counts, like, 0.0) if result.only else like)[part],
        (_edges(like) & counts)[part],
        (weights / max(weights.max(), 1e-12))[part],
        gaussian_filter(((compared[0] - against) / spread).numpy(), _GRAIN)[part],
        _likeness(compared[0], against, torch.from_numpy(weights)),
        _letters(view.carm, pose),
    )


def _around(counts: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of what counts, with a margin: where one bone among others lies."""
    spans = []
    for axis in (1, 0):
        inside = np.flatnonzero(counts.any(axis=axis))
        margin = max(8, (inside[-1] - inside[0]) // 3) if len(inside) else 0
        first, last = (inside[0], inside[-1]) if len(inside) else (0, counts.shape[1 - axis])
        spans.append(slice(max(0, first - margin), last + margin + 1))
    return tuple(spans)


def _left(result, around: Volume | None, carm: Geometry, pose: Tensor, shown: Tensor) -> Tensor:
    """What rays keep of their weight beyond the CT, or beside the bone, [height, width]."""
    beyond = None if around is None else Beyond(DRR(around, carm, method="joseph"), carm)
    seen = Covered(beyond) if result.only else beyond
    return seen(pose[None], shown[None])[0, 0].double().cpu()


def _weighted(image: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation."""
    total = weights.sum().clamp_min(1e-12)
    mean = (weights * image).sum() / total
    return mean, ((weights * (image - mean).square()).sum() / total).sqrt().clamp_min(1e-12)


def _fitted(fixed: Tensor, moving: Tensor, weights: Tensor) -> Tensor:
    """The moving image with the scale and offset that fit the fixed one best."""
    (a, s), (b, t) = _weighted(fixed, weights), _weighted(moving, weights)
    alike = (weights * (fixed - a) * (moving - b)).sum() / weights.sum().clamp_min(1e-12) / (s * t)
    return a + alike * s / t * (moving - b)


def _likeness(fixed: Tensor, fitted: Tensor, weights: Tensor) -> float:
    (a, s), (b, t) = _weighted(fixed, weights), _weighted(fitted, weights)
    mean = (weights * (fixed - a) * (fitted - b)).sum() / weights.sum().clamp_min(1e-12)
    return float(mean / (s * t))


def _greys(fixed: np.ndarray, moving: np.ndarray, counts: np.ndarray):
    """Both images from 0 to 1: the fixed one between its 1st and 99.5th percentile, the moving one
    by ranks in the fixed one's values, over the pixels that count."""
    steps = np.linspace(0, 1, _SIDES)
    ours, theirs = (np.quantile(x[counts], steps) for x in (fixed, moving))
    low, high = np.quantile(fixed[counts], (0.01, 0.995))
    like = np.interp(moving, *_rising(theirs, ours))
    return tuple(np.clip((x - low) / max(high - low, 1e-12), 0, 1) for x in (fixed, like))


def _rising(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equal values of x once, with the mean of their y."""
    values, place = np.unique(x, return_inverse=True)
    return values, np.bincount(place, y) / np.bincount(place)


def _edges(image: np.ndarray) -> np.ndarray:
    """Ridges of the slope that are steeper than what lies around them."""
    smooth = gaussian_filter(image, 1.5)
    down, right = np.gradient(smooth)
    steep = np.hypot(down, right)
    i, j = np.indices(image.shape)
    unit = np.stack([down, right]) / np.maximum(steep, 1e-12)
    ahead, behind = (
        map_coordinates(steep, [i + s * unit[0], j + s * unit[1]], order=1, mode="nearest")
        for s in (1, -1)
    )
    ridge = (steep >= ahead) & (steep > behind)
    around = gaussian_filter(steep, image.shape[1] / 16)
    return ridge & (steep > 1.5 * around) & (steep > max(np.quantile(steep, 0.6), 0.008))


def _letters(carm: Geometry, pose: Tensor) -> tuple[str, str, str, str]:
    device = carm if isinstance(carm, CArm) else carm.fan
    frame = device.frame(pose)
    right, down = (x / x.norm() for x in (frame.col_step, frame.row_step))
    return tuple(_letter(x) for x in (-right, right, -down, down))


def _letter(direction: Tensor) -> str:
    """As DICOM's PatientOrientation: the main direction, then one that it leans to."""
    ranked = sorted(range(3), key=lambda k: -abs(float(direction[k])))
    first, second = (float(direction[k]) for k in ranked[:2])
    letters = [_LETTERS[k][int(direction[k] > 0)] for k in ranked[:2]]
    return "".join(letters) if abs(second) > _SECOND * abs(first) else letters[0]
