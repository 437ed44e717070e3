"""One look for all figures: `use_style` first, then small helpers for grey images and overlays."""

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
    plt.rcParams.update(
        {
            "figure.figsize": (NARROW, 0.7 * NARROW),
            "figure.dpi": 120,
            "figure.constrained_layout.use": True,
            "savefig.dpi": 200,
            "svg.hashsalt": "drrlib",  # the same figure gives the same file
            "font.size": 8,
            "axes.prop_cycle": matplotlib.cycler(
                color=[BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK]
            ),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": False,
            "legend.frameon": False,
            "lines.linewidth": 1.2,
            "image.cmap": "gray",
            "image.interpolation": "nearest",
        }
    )


def as_image(image) -> np.ndarray:
    """A tensor or array with one image, of any shape [..., height, width], as float [H, W].

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
    """Grey images in a grid, all in one window (default: their common range), stated below.

    Args:
        images: One image each, [..., height, width]; bright is dense.
        labels: One line of text under each image.
        window: Values shown as black and as white.
        columns: Images in a row.
        width: Of the figure [inch].
    """
    arrays = [as_image(image) for image in images]
    if not arrays:
        raise ConfigError("got no image; expected at least one")
    low, high = window or (min(a.min() for a in arrays), max(a.max() for a in arrays))
    figure = _grid(arrays, labels, columns, width, vmin=low, vmax=high)
    figure.supxlabel(f"grey window {round(low, 3):g} to {round(high, 3):g}", fontsize=7)
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
    arrays = [overlay(fixed, image) for image in moving]
    if not arrays:
        raise ConfigError("got no moving image; expected at least one")
    figure = _grid(arrays, labels, columns, width)
    figure.supxlabel("red: fixed only, cyan: moving only, grey: both", fontsize=7)
    return figure


def overlay(fixed, moving) -> np.ndarray:
    """Colour image [H, W, 3] in 0..1: fixed in red, moving in cyan, grey where they agree.

    Each image is scaled to its own range, since the two may differ in brightness.

    Raises:
        ShapeError: the images differ in size.
    """
    red, cyan = _unit_range(as_image(fixed)), _unit_range(as_image(moving))
    if red.shape != cyan.shape:
        raise ShapeError(f"fixed is {red.shape}, moving is {cyan.shape}; expected one size")
    return np.stack([red, cyan, cyan], axis=-1)


def _unit_range(array: np.ndarray) -> np.ndarray:
    low, high = array.min(), array.max()
    return (array - low) / (high - low) if high > low else np.zeros_like(array)


def _grid(arrays, labels, columns: int, width: float, **show) -> Figure:
    if labels is not None and len(labels) != len(arrays):
        raise ConfigError(f"got {len(labels)} labels for {len(arrays)} images; give one for each")
    columns = min(columns, len(arrays))
    rows = -(-len(arrays) // columns)
    height, breadth = arrays[0].shape[:2]
    cell = width / columns
    line = 0.2 if labels is not None else 0.0  # [inch]
    size = (width, rows * (cell * height / breadth + line) + 0.25)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for index, (axis, array) in enumerate(zip(axes.flat, arrays, strict=False)):
        axis.imshow(array, **show)
        if labels is not None:
            axis.set_xlabel(labels[index])
    return figure
