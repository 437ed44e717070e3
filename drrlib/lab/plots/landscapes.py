"""Pictures of loss landscapes: planes as contours, planes as surfaces, single profiles."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from drrlib.errors import ConfigError
from drrlib.lab.landscapes import ROTATION_PAIRS, TRANSLATION_PAIRS, lowest_curvature
from drrlib.lab.plots.images import ORANGE, WIDE

PAIRS = (*ROTATION_PAIRS, *TRANSLATION_PAIRS)
LEVELS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
_ROTATIONS = ("theta", "phi", "gamma")


def landscape_panels(
    table: pd.DataFrame,
    loss: str,
    *,
    label: str,
    stride: int = 1,
    levels: tuple[float, ...] = LEVELS,
) -> Figure:
    """Six planes as filled contours: rotations above, translations below, one colour scale.

    The scale goes with the square root of the loss, which for ZNCC and NCC is the distance of the
    unit images. White lines mark `levels`, as on the colour bar; the dashed line is the
    border of where the plane is convex, see `lowest_curvature`; the cross is the optimum.

    Args:
        table: Columns first, second (names), a, b (offsets, deg or mm), and one of the loss.
        loss: That column.
        label: What the colour bar says.
        stride: Grid steps of the differences that judge convexity.
    """
    grids = [plane_of(table, pair, loss) for pair in PAIRS]
    top = max(float(grid.max()) for _, _, grid in grids)
    levels = [x for x in levels if x < top]
    look = dict(levels=top * np.linspace(0, 1, 31) ** 2, norm=PowerNorm(0.5, 0, top))
    figure, axes = plt.subplots(2, 3, figsize=(WIDE, 0.62 * WIDE))
    for axis, pair, (a, b, grid) in zip(axes.flat, PAIRS, grids, strict=True):
        shown = axis.contourf(a, b, grid.T, cmap="viridis", zorder=-1, antialiased=False, **look)
        axis.set_rasterization_zorder(0)  # a few kilobytes instead of thousands of polygons
        lines = axis.contour(a, b, grid.T, levels, colors="white", linewidths=0.6)
        bend = lowest_curvature(torch.tensor(grid), (a[1] - a[0], b[1] - b[0]), stride).numpy()
        if bend.min() < 0 < bend.max():
            axis.contour(
                a[stride:-stride],
                b[stride:-stride],
                bend.T,
                [0.0],
                colors=ORANGE,
                linewidths=1.2,
                linestyles="dashed",
            )
        axis.plot(0, 0, "+", color="white", ms=6, mew=1.0)
        axis.set(xlabel=_axis_label(pair[0]), ylabel=_axis_label(pair[1]), box_aspect=1)
        axis.spines[:].set_visible(False)
    bar = figure.colorbar(shown, ax=axes, shrink=0.9, pad=0.02, aspect=30)
    bar.add_lines(lines)
    bar.set_label(label)
    bar.set_ticks([0, *levels, top], labels=[f"{x:.2g}" for x in (0, *levels, top)])
    return figure


def landscape_surfaces(table: pd.DataFrame, losses: dict[str, str]) -> go.Figure:
    """The same planes as surfaces to turn by hand, with a button for each loss.

    Args:
        table: As for `landscape_panels`.
        losses: Column of the table -> name on its button; the first is shown at first.
    """
    figure = make_subplots(
        2, 3, specs=[[{"type": "scene"}] * 3] * 2, horizontal_spacing=0.01, vertical_spacing=0.02
    )
    buttons = []
    for k, (loss, name) in enumerate(losses.items()):
        grids = [plane_of(table, pair, loss) for pair in PAIRS]
        top = max(float(grid.max()) for _, _, grid in grids)
        for index, (pair, (a, b, grid)) in enumerate(zip(PAIRS, grids, strict=True)):
            surface = go.Surface(
                x=a.round(3),
                y=b.round(3),
                z=grid.T.round(4).astype(np.float32),
                cmin=0,
                cmax=top,
                colorscale="Viridis",
                visible=k == 0,
                showscale=index == 0,
                name=" and ".join(pair),
                colorbar=dict(title=name, thickness=12, len=0.6),
                contours_z=dict(show=True, usecolormap=True, highlightcolor="white"),
            )
            figure.add_trace(surface, row=index // 3 + 1, col=index % 3 + 1)
        shown = [k == n // len(PAIRS) for n in range(len(PAIRS) * len(losses))]
        buttons.append(dict(label=name, method="update", args=[{"visible": shown}]))
    for index, pair in enumerate(PAIRS):
        figure.update_scenes(
            dict(
                xaxis_title=_axis_label(pair[0]),
                yaxis_title=_axis_label(pair[1]),
                zaxis_title="loss",
                aspectmode="manual",
                aspectratio=dict(x=1, y=1, z=0.7),
                camera_eye=dict(x=1.5, y=-1.5, z=1.1),
            ),
            row=index // 3 + 1,
            col=index % 3 + 1,
        )
    menu = dict(type="buttons", direction="right", buttons=buttons, x=0, y=1.06, xanchor="left")
    figure.update_layout(height=760, margin=dict(l=0, r=0, t=50, b=0), updatemenus=[menu])
    return figure


def profile_lines(axis: Axes, table: pd.DataFrame, basins: pd.DataFrame, colors: dict) -> None:
    """Profiles of several parameters in one panel, drawn thick where they are convex.

    Args:
        axis: The panel.
        table: Columns parameter, offset, loss.
        basins: Columns parameter, convex_below, convex_above: the thick part.
        colors: parameter -> colour.
    """
    reach = basins.set_index("parameter")
    for name, part in table.groupby("parameter", sort=False):
        below, above = reach.loc[name, ["convex_below", "convex_above"]]
        thick = part[part["offset"].between(-below, above)]
        axis.plot(part["offset"], part["loss"], color=colors[name], lw=0.9, label=name)
        axis.plot(thick["offset"], thick["loss"], color=colors[name], lw=2.8)
    axis.axvline(0, color="0.8", lw=0.6, zorder=0)


def plane_of(
    table: pd.DataFrame, pair: tuple[str, str], loss: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets a [n], b [m] and losses [n, m] of one pair of parameters.

    Raises:
        ConfigError: the table lacks this pair, or a point of its grid.
    """
    part = table[(table["first"] == pair[0]) & (table["second"] == pair[1])]
    grid = part.pivot(index="a", columns="b", values=loss)
    if grid.empty or grid.isna().any(axis=None):
        raise ConfigError(f"the table has no complete grid of {pair[0]} and {pair[1]}")
    return grid.index.to_numpy(), grid.columns.to_numpy(), grid.to_numpy()


def _axis_label(name: str) -> str:
    return f"{name} [deg]" if name in _ROTATIONS else f"{name} [mm]"
