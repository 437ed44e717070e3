"""One picture of two images: the modes in which an X-ray image and a DRR are compared by eye.

Images are float32 [height, width] and become grey values 0..1 by a window (black, white) first.
Bright is dense. Pictures are uint8 [height, width, 3].
"""

from collections.abc import Callable

import numpy as np

from drrlib.errors import ConfigError
from drrlib.lab.explorer.sights import Look

TILES = 8  # squares across the checkerboard
_EDGE = 0.85  # quantile of the DRR's slope above which there is an edge
DIM = 0.4  # grey values of pixels that do not count


def scaled(image: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Grey values 0..1: `window` says which values are black and white; either may be larger."""
    low, high = window
    span = high - low if high != low else 1e-6
    return np.clip((image - np.float32(low)) * np.float32(1 / span), 0, 1)


def good_window(image: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, float]:
    """Values for black and white that suit one image: 2nd and 99.7th percentile of what counts.

    (0, 1) where nothing is above 0 or nothing counts.
    """
    seen = image[weights > 0] if weights is not None else image.ravel()
    seen = seen[:: max(1, len(seen) // 50_000)]
    body = seen[seen > 0.02 * seen.max()] if len(seen) and seen.max() > 0 else seen
    if not len(body):
        return 0.0, 1.0
    low, high = np.percentile(body, (2, 99.7)).tolist()
    return (low, high) if high > low else (low, low + 1.0)


def _drr(fixed: np.ndarray | None, moving: np.ndarray) -> np.ndarray:
    return moving


def _xray(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    return fixed


def _overlay(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    return np.stack([fixed, moving, moving], axis=-1)


def _checkerboard(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    size = max(fixed.shape) / TILES
    rows, columns = ((np.arange(n) // size).astype(int) for n in fixed.shape)
    return np.where((rows[:, None] + columns) % 2 == 0, fixed, moving)


def _edges(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """The X-ray image, and the DRR's edges on it in green."""
    slope = np.zeros_like(moving)
    slope[:, 1:-1] = np.abs(moving[:, 2:] - moving[:, :-2])
    slope[1:-1] += np.abs(moving[2:] - moving[:-2])
    # A sample of the slopes will do for a quantile.
    steep = slope[slope > 0.01].ravel()[::7]
    least = float(np.quantile(steep, _EDGE)) if len(steep) else 1.0
    line = np.clip((slope - 0.6 * least) / (0.4 * least), 0, 1)
    grey = 0.85 * fixed * (1 - line)
    return np.stack([grey, grey + line, grey + 0.35 * line], axis=-1)


def _difference(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """White where both agree; red where the X-ray image is denser, blue where the DRR is."""
    apart = np.clip(2 * (fixed - moving), -1, 1)
    more, less = np.maximum(apart, 0), np.maximum(-apart, 0)
    return np.stack([1 - less, 1 - 0.8 * (more + less), 1 - more], axis=-1)


# Mode -> (what it shows, in words; its function). "blink" is shown as two pictures in turn.
MODES: dict[str, tuple[str, Callable]] = {
    "DRR": ("simulated image (DRR)", _drr),
    "X-ray": ("X-ray image", _xray),
    "overlay": ("red: X-ray, cyan: DRR, grey: both", _overlay),
    "checkerboard": ("squares in turn: X-ray (top left), DRR", _checkerboard),
    "blink": ("X-ray and DRR in turn", _drr),
    "edges": ("X-ray, with the DRR's edges in green", _edges),
    "difference": ("red: X-ray denser, blue: DRR denser", _difference),
}
_GREY = ("DRR", "X-ray", "checkerboard", "blink", "edges")  # where bright may mean thin


def check_mode(mode: str, has_xray: bool) -> str:
    """The mode itself.

    Raises:
        ConfigError: an unknown one, or one that needs an X-ray image where there is none.
    """
    if mode not in MODES:
        raise ConfigError(f"mode is {mode!r}; choose one of {', '.join(MODES)}")
    if mode != "DRR" and not has_xray:
        raise ConfigError(f"mode {mode!r} needs an X-ray image; give a View, or choose 'DRR'")
    return mode


def compose(
    mode: str,
    look: Look,
    windows: tuple[tuple[float, float], tuple[float, float]],
    negative: bool = False,
) -> np.ndarray:
    """The picture [height, width, 3] of one mode, uint8.

    Args:
        mode: Of MODES; "blink" gives the DRR, and its other picture is that of "X-ray".
        look: X-ray image and DRR.
        windows: (black, white) of the X-ray image, and of the DRR.
        negative: Show dense as dark, in the modes of grey values.
    """
    pair = [
        None if image is None else scaled(image, window)
        for image, window in zip((look.fixed, look.moving), windows, strict=True)
    ]
    if negative and mode in _GREY:
        pair = [None if x is None else 1 - x for x in pair]
    picture = MODES[mode][1](*pair)
    if look.weights is not None and mode != "DRR":
        counts = DIM + (1 - DIM) * np.clip(look.weights, 0, 1)
        picture = picture * (counts if picture.ndim == 2 else counts[..., None])
    whole = np.clip(255 * picture, 0, 255).astype(np.uint8)
    return whole if whole.ndim == 3 else np.repeat(whole[..., None], 3, axis=-1)
