"""The pictures of a report, drawn by matplotlib, which is imported here alone and only if asked."""

import math
import textwrap

import numpy as np

from drrlib.errors import ConfigError
from drrlib.registration.evidence import Evidence
from drrlib.registration.judge import cloud

_TILES = 6  # of the checkerboard, across
_COUNTS = 0.05  # weight below which a pixel is shown as the image alone
_EDGE = (1.0, 0.45, 0.0)
WIDTH = 11.0  # [inch]


def matplotlib_figure():
    """matplotlib's Figure.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            "reports are drawn with matplotlib, which is not installed; pip install drrlib[lab]"
        ) from None
    return Figure


def draw_view(figure, found: Evidence, result=None) -> None:
    """Nine panels of one view into a figure; with `result`, two of them show the stated error."""
    axes = figure.subplots(3, 3).flat
    grey = dict(cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    inside = np.where(found.weights > _COUNTS, found.moving, found.fixed)
    red = np.stack([found.fixed, inside, inside], axis=-1)
    edged = np.repeat(found.fixed[..., None], 3, axis=-1)
    edged[found.edges] = _EDGE
    panels = (
        (found.fixed, "X-ray image"),
        (found.moving, "CT in the place that was found"),
        (edged, "edges of the CT (orange) on the X-ray image"),
        (red, "overlay: red only image, cyan only CT"),
        (_checkerboard(found.fixed, inside), "checkerboard: image and CT in turn"),
    )
    for axis, (picture, label) in zip(axes, panels, strict=False):
        axis.imshow(picture, **grey)
        axis.set_xlabel(label)
    _letter(axes[0], found.letters)
    _letter(axes[1], found.letters)
    axes = list(axes)
    high = max(float(np.quantile(np.abs(found.residual[found.weights > _COUNTS]), 0.98)), 1e-6)
    shown = np.where(found.weights > _COUNTS, found.residual, np.nan)
    axes[5].imshow(shown, cmap="RdBu_r", vmin=-high, vmax=high, interpolation="nearest")
    axes[5].set_facecolor("0.85")
    axes[5].set_xlabel(f"left over: image less CT, ±{high:.2g} deviations")
    axes[6].imshow(found.weights, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    axes[6].set_xlabel("what counted: yellow fully, blue not at all")
    for axis in axes[:7]:
        axis.set(xticks=[], yticks=[])
    _ellipses(axes[7:], result)


def _checkerboard(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    size = fixed.shape[1] / _TILES
    i, j = ((np.arange(n) // size).astype(np.int64) for n in fixed.shape)
    return np.where((i[:, None] + j) % 2 == 0, fixed, moving)


def _letter(axis, letters: tuple[str, str, str, str]) -> None:
    places = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.98), (0.5, 0.02))
    sides = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
    for text, (x, y), (h, v) in zip(letters, places, sides, strict=True):
        box = dict(facecolor="black", edgecolor="none", pad=1.5, alpha=0.6)
        how = dict(ha=h, va=v, color="yellow", fontweight="bold", bbox=box)
        axis.text(x, y, text, transform=axis.transAxes, **how)


def _ellipses(axes, result) -> None:
    """Two standard deviations of the stated error, seen in the image and from the side."""
    spread = None if result is None or result.covariance is None else _spread(result)
    if spread is None or not np.isfinite(spread).all():
        for axis in axes:
            axis.axis("off")
        if result is not None:
            axes[0].text(0.5, 0.5, "no stated error", ha="center", transform=axes[0].transAxes)
        return
    reach = 2.4 * math.sqrt(max(spread.diagonal().max(), 1e-12))
    names = ("across the columns, and upwards [mm]", "", "in depth, and upwards [mm]")
    turn = np.linspace(0, 2 * math.pi, 200)
    circle = np.stack([np.cos(turn), np.sin(turn)])
    for axis, (a, b), text in zip(
        axes, ((0, 1), (2, 1)), ("in the image", "from the side"), strict=True
    ):
        part = spread[np.ix_((a, b), (a, b))]
        values, vectors = np.linalg.eigh(part)
        x, y = vectors @ (2 * np.sqrt(values.clip(0))[:, None] * circle)
        axis.fill(x, y, alpha=0.25, color="tab:blue")
        axis.plot(x, y, color="tab:blue")
        axis.plot(0, 0, "+", color="black")
        axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        axis.set_xlabel(f"stated error {text}, two deviations:\n{names[a]}")
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)


def _spread(result) -> np.ndarray:
    """Covariance of the places of points 50 mm off the CT's middle, in camera axes [mm^2]."""
    step = 50 * np.concatenate([np.eye(3), -np.eye(3)])
    points = result.center + result.center.new_tensor(step)
    eta, covariance = result.eta.double(), result.covariance[:6, :6].double()
    return cloud(result.carm, result.center, points, eta, covariance).numpy()


def height_of(found: Evidence) -> float:
    """Of the figure of one view [inch]."""
    tall = found.fixed.shape[0] / found.fixed.shape[1]
    return min(max(3 * (WIDTH / 3) * tall * 0.95 + 1.4, 6.0), 18.0)


def page(result, found: list[Evidence], said) -> object:
    """One figure with everything: words above, a block for each view."""
    lines = [x for name, value in said.facts for x in textwrap.wrap(f"{name}: {value}", 110)]
    lines = [*textwrap.wrap(said.meaning, 110), "", *lines]
    heights = [0.55 + 0.19 * len(lines), *(height_of(x) for x in found)]
    made = matplotlib_figure()(figsize=(WIDTH, sum(heights)), layout="constrained")
    parts = made.subfigures(len(heights), 1, height_ratios=heights)
    colour = "darkgreen" if result.converged else "firebrick"
    parts[0].text(0.01, 0.97, said.headline, va="top", fontsize=13, color=colour, weight="bold")
    top = 1 - 0.42 / heights[0]
    parts[0].text(0.01, top, "\n".join(lines), va="top", fontsize=9, linespacing=1.35)
    for k, (part, one) in enumerate(zip(parts[1:], found, strict=True)):
        if len(found) > 1:
            part.suptitle(f"view {k + 1} of {len(found)}", fontsize=10)
        draw_view(part, one, result if k == 0 else None)
    return made
