"""One look for all figures: `use_style` first, then small helpers for grey images and overlays.

Images are tensors or arrays with one image each, [..., height, width]; bright is dense. Figures
show them in a grid of so many `columns` and a `width` [inch], with a line of text, its label, under
each. ConfigError: no image, or not one label for each.
"""

from collections.abc import Sequence

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from drrlib.errors import ConfigError, ShapeError

NARROW, WIDE = 3.5, 7.2  # figure widths [inch]: one column, two columns

# Okabe and Ito's colours, told apart with any colour vision.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, RED, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"

# The same colour for an optimizer in every notebook.
OPTIMIZER_COLORS = {
    "GD": BLACK,
    "GDM": ORANGE,
    "GDDM": SKY,
    "Adam": BLUE,
    "LM": GREEN,
    "Nelder-Mead": PURPLE,
    "Powell": RED,
}


def use_style() -> None:
    """Set matplotlib's defaults: 8 pt, 3.5 inch wide, colour-blind-safe, no titles needed."""
    style = {
        "figure.figsize": (NARROW, 0.7 * NARROW),
        "figure.dpi": 120,
        "figure.constrained_layout.use": True,
        "savefig.dpi": 200,
        "svg.hashsalt": "drrlib",  # the same figure gives the same file
        "font.size": 8,
        "axes.prop_cycle": matplotlib.cycler(color=[BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK]),
        "axes.grid": False,
        "legend.frameon": False,
        "lines.linewidth": 1.2,
        "image.cmap": "gray",
        "image.interpolation": "nearest",
    }
    plt.rcParams.update(style | {f"axes.spines.{side}": False for side in ("top", "right")})


def as_image(image) -> np.ndarray:
    """One image as float [H, W].

    Raises:
        ShapeError: fewer than two axes, or more than one image.
    """
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu().numpy()
    array = np.asarray(image, dtype=float)
    if array.ndim < 2 or array.size != array.shape[-1] * array.shape[-2]:
        raise ShapeError(
            f"image has shape {tuple(array.shape)}; expected one image [..., height, width], "
            "so pass images one by one"
        )
    return array.reshape(array.shape[-2:])


def show_images(
    images: Sequence,
    labels: Sequence[str] | None = None,
    *,
    window: tuple[float, float] | None = None,
    columns: int = 4,
    width: float = WIDE,
) -> Figure:
    """Grey images, all in one window (black, white; default: their common range), stated below."""
    arrays = [as_image(image) for image in images]
    if arrays:
        low, high = window or (min(a.min() for a in arrays), max(a.max() for a in arrays))
        window = (low, high)
    figure = _grid(arrays, labels, columns, width, [window] * len(arrays))
    figure.supxlabel(f"grey window {round(low, 3):g} to {round(high, 3):g}", fontsize=7)
    return figure


def radiograph_window(image) -> tuple[float, float]:
    """Values for black and white that suit one DRR: 5th and 99.5th percentile of what is not air.

    Rounded to two digits after the point, as they are stated under the image. (0, 1) where no
    pixel is above 0.
    """
    array = as_image(image)
    if not (array > 0).any():
        return 0.0, 1.0
    low, high = np.percentile(array[array > 0], (5, 99.5)).round(2).tolist()
    return low, max(high, round(low + 0.01, 2))


def show_radiographs(
    images: Sequence,
    labels: Sequence[str],
    windows: Sequence[tuple[float, float]],
    *,
    columns: int = 4,
    width: float = WIDE,
) -> Figure:
    """Grey images, each in a window of its own, stated under it.

    Anatomies and views differ too much in thickness for one window; for a comparison of grey
    values use `show_images`.
    """
    labels = [f"{t}\n{a:g} to {b:g}" for t, (a, b) in zip(labels, windows, strict=True)]
    figure = _grid([as_image(x) for x in images], labels, columns, width, windows)
    figure.supxlabel("under each image: line integrals shown as black and as white", fontsize=7)
    return figure


def show_signed(
    images: Sequence,
    labels: Sequence[str],
    limits: Sequence[float] | None = None,
    *,
    columns: int = 3,
    width: float = WIDE,
) -> Figure:
    """Images of both signs: blue below zero, white at zero, red above.

    `limits` are the absolute values of full colour, for each image; default: the 99th percentile.
    They are added to the labels.
    """
    arrays = [as_image(image) for image in images]
    if limits is None:
        limits = [float(np.percentile(np.abs(a), 99)) or 1.0 for a in arrays]
    labels = [f"{t}, ±{m:.2g}" for t, m in zip(labels, limits, strict=True)]
    figure = _grid(arrays, labels, columns, width, [(-m, m) for m in limits], cmap="RdBu_r")
    figure.supxlabel("blue: negative, red: positive; full colour at the value stated", fontsize=7)
    return figure


def show_overlays(
    fixed,
    moving: Sequence,
    labels: Sequence[str] | None = None,
    *,
    columns: int = 4,
    width: float = WIDE,
) -> Figure:
    """Overlays of one fixed image with the moving ones, such as the steps of a registration."""
    figure = _grid([overlay(fixed, image) for image in moving], labels, columns, width)
    figure.supxlabel("red: fixed only, cyan: moving only, grey: both", fontsize=7)
    return figure


def overlay(fixed, moving) -> np.ndarray:
    """Colour image [H, W, 3] in 0..1: fixed in red, moving in cyan, grey where they agree.

    Each image is scaled to its own range, since the two may differ in brightness.

    Raises:
        ShapeError: the images differ in size.
    """
    red, cyan = _unit_pair(fixed, moving)
    return np.stack([red, cyan, cyan], axis=-1)


def checkerboard(fixed, moving, tiles: int = 8) -> np.ndarray:
    """Grey image [H, W] in 0..1 of both images in turn, fixed first, `tiles` squares across.

    Edges run on from tile to tile where the images fit. Each is scaled to its own range.

    Raises:
        ShapeError: the images differ in size.
        ConfigError: fewer than one tile, or tiles smaller than a pixel.
    """
    a, b = _unit_pair(fixed, moving)
    if not 1 <= tiles <= a.shape[1]:
        raise ConfigError(f"tiles is {tiles}; expected 1 to {a.shape[1]}, the columns")
    size = a.shape[1] / tiles
    i, j = ((np.arange(n) // size).astype(int) for n in a.shape)
    return np.where((i[:, None] + j) % 2 == 0, a, b)


def _unit_pair(fixed, moving) -> list[np.ndarray]:
    """Both images, each scaled from its own range to 0..1."""
    pair = [as_image(fixed), as_image(moving)]
    if pair[0].shape != pair[1].shape:
        raise ShapeError(f"fixed is {pair[0].shape}, moving is {pair[1].shape}; expected one size")
    ranges = [(a, a.min(), a.max()) for a in pair]
    return [(a - x) / (y - x) if y > x else np.zeros_like(a) for a, x, y in ranges]


def _grid(arrays, labels, columns: int, width: float, windows=None, **show) -> Figure:
    if labels is not None and len(labels) != len(arrays):
        raise ConfigError(f"got {len(labels)} labels for {len(arrays)} images; give one for each")
    if not arrays:
        raise ConfigError("got no image; expected at least one")
    columns = min(columns, len(arrays))
    rows = -(-len(arrays) // columns)
    height, breadth = arrays[0].shape[:2]
    cell = width / columns
    lines = 0 if labels is None else 1 + max(text.count("\n") for text in labels)
    size = (width, rows * (cell * height / breadth + 0.05 + 0.15 * lines) + 0.25)  # [inch]
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for index, (axis, array) in enumerate(zip(axes.flat, arrays, strict=False)):
        low, high = windows[index] if windows else (None, None)
        axis.imshow(array, vmin=low, vmax=high, **show)
        if labels is not None:
            axis.set_xlabel(labels[index])
    return figure
