"""Figures of studies: success rates with intervals, losses over steps, success over distance,
distributions of errors, picked landmarks.

All draw into the axes that they are given, from saved tables, so that results replot without a
run: `table` holds rows of `success_table`, `success_by_distance` or as stated, `trials` records of
`registration_trials`. `label` is the column that tells groups apart (None: one group), with a
colour for each in `colors`; `name` is for the legend, `style` of the line, for matplotlib.
Intervals are Wilson's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from drrlib.errors import ConfigError
from drrlib.lab.evaluation import CRITERIA, FOUND, capture_range, success_by_distance
from drrlib.lab.plots.images import BLACK, BLUE, RED, SKY, YELLOW, as_image, radiograph_window

CRITERION_MARKS = dict(zip(CRITERIA, "osD", strict=True))


def draw_rates(
    axes: Axes, table: pd.DataFrame, label: str, paper: Mapping[str, float] | None = None
) -> None:
    """Success rates, a row per value of column `label`, a mark per criterion of the table.

    `paper` holds the paper's rate [%] for some of the rows, drawn as a cross.
    """
    names = list(dict.fromkeys(table[label]))
    known = [criterion for criterion in CRITERION_MARKS if (table["criterion"] == criterion).any()]
    for k, criterion in enumerate(known):
        part = table[table["criterion"] == criterion].set_index(label).loc[names]
        place = np.arange(len(names)) + 0.22 * (k - (len(known) - 1) / 2)
        look = dict(fmt=CRITERION_MARKS[criterion], ms=3.5, lw=1, label=criterion)
        axes.errorbar(part["rate_percent"], place, xerr=_interval(part), **look)
    for name, rate in (paper or {}).items():
        first = "paper" if name == next(iter(paper)) else None
        axes.plot(rate, names.index(name), "x", color=BLACK, ms=7, mew=1.5, label=first)
    axes.set(xlim=(-3, 103), xlabel="successful starts [%]")
    _rows(axes, names)


def draw_losses(axes: Axes, trials: pd.DataFrame, label: str, colors: Mapping[str, str]) -> None:
    """Median loss over steps with the band from the first to the third quartile, per group.

    A start that has ended keeps its lowest loss; the trials need columns loss_<step>.
    """
    for name, part in trials.groupby(label, sort=False):
        steps, losses = traces(part)
        low, middle, high = np.percentile(losses, [25, 50, 75], axis=0)
        axes.fill_between(steps, low, high, color=colors[name], alpha=0.18, lw=0)
        axes.semilogy(steps, middle, color=colors[name], label=name)
    axes.set(xlabel="step", ylabel="loss, 1 - ZNCC [-]")


def draw_traces(axes: Axes, trials: pd.DataFrame, success: pd.Series) -> None:
    """The loss of every start over steps: blue where it succeeded, red where it did not."""
    steps, losses = traces(trials)
    success = success.to_numpy(dtype=bool)
    style = dict(lw=0.4, alpha=min(0.5, 40 / len(losses)), rasterized=True)
    for chosen, color, word in ((~success, RED, "failed"), (success, BLUE, "succeeded")):
        if chosen.any():
            axes.semilogy(steps, losses[chosen].T, color=color, **style)
            axes.plot([], [], color=color, label=f"{int(chosen.sum())} {word}")
    axes.set(xlabel="step", ylabel="loss, 1 - ZNCC [-]")
    axes.legend()


def draw_distance(axes: Axes, table: pd.DataFrame, criterion: str, name: str, **style) -> None:
    """Success rate of one criterion over the start's error, with the interval as a band."""
    part = table[table["criterion"] == criterion]
    middle = (part["from_mm"] + part["to_mm"]) / 2
    line = axes.plot(middle, part["rate_percent"], "o", ms=3, label=name, **style)[0]
    band = dict(color=line.get_color(), alpha=0.12, lw=0)
    axes.fill_between(middle, part["low_percent"], part["high_percent"], **band)
    axes.set(xlabel="mTRE of the start [mm]", ylabel="successful starts [%]", ylim=(-3, 103))


def plot_success_curve(
    axes: Axes,
    trials: pd.DataFrame,
    edges: Sequence[float],
    label: str | None = None,
    colors: Mapping[str, str] | None = None,
) -> None:
    """Success by mTRE < 1 mm over the start's mTRE, binned by `edges` [mm], per group.

    A dashed line in the group's colour ends its capture range, which the legend has in mm; the
    dotted line is at 95 %.
    """
    for name, part, style in _groups(trials, label, colors):
        reach = capture_range(part, edges)
        text = f"{name}: " * (label is not None)
        text += "none" if np.isnan(reach) else f"{reach:.0f} mm"
        table = success_by_distance(part, edges)
        draw_distance(axes, table, FOUND, text, ls="-", **style)
        if not np.isnan(reach):
            axes.axvline(reach, color=axes.lines[-1].get_color(), ls="--", lw=0.8)
    axes.axhline(95, color=BLACK, ls=":", lw=0.6)
    axes.set_xlim(edges[0], edges[-1] + 0.02 * (edges[-1] - edges[0]))
    axes.legend(title="capture range")


def plot_error_distribution(
    axes: Axes,
    trials: pd.DataFrame,
    label: str | None = None,
    colors: Mapping[str, str] | None = None,
) -> None:
    """Share of trials that end below an mTRE, per group, with the line of success at 1 mm.

    The curve of a group with lost trials (NaN) ends below 100 %.
    """
    for name, part, style in _groups(trials, label, colors):
        error = np.sort(part["mtre_mm"].to_numpy(float))  # NaN last
        share = 100 * np.arange(1, len(error) + 1) / len(error)
        axes.step(error, share, where="post", label=name, **style)
    axes.axvline(1.0, color=BLACK, ls=":", lw=0.8)
    axes.set(xscale="log", ylim=(-3, 103), xlabel="mTRE at the end [mm]", ylabel="trials [%]")
    if label is not None:
        axes.legend()


def draw_quartiles(axes: Axes, trials: pd.DataFrame, x: str, y: str, name: str, **style) -> None:
    """Median of column `y` over the values of column `x`, from the first to the third quartile."""
    parts = trials.groupby(x)[y]
    low, middle, high = (parts.quantile(q) for q in (0.25, 0.5, 0.75))
    look = dict(fmt="o", ms=3, capsize=2, label=name) | style
    axes.errorbar(middle.index, middle, yerr=[middle - low, high - middle], **look)


def draw_success(axes: Axes, table: pd.DataFrame, x: str, criterion: str, name: str, **style):
    """Success rate of one criterion over the values of column `x`."""
    part = table[table["criterion"] == criterion].sort_values(x)
    look = dict(fmt="o", ms=3, capsize=2, label=name) | style
    axes.errorbar(part[x], part["rate_percent"], yerr=_interval(part), **look)
    axes.set(ylabel="successful starts [%]", ylim=(-3, 103))


def draw_picks(axes: Axes, image, true: np.ndarray, picked: np.ndarray, names=()) -> None:
    """Landmarks on an image: where they are, where they were picked, and what they are called.

    Args:
        image: One image, [..., height, width].
        true, picked: (column, row) of each landmark [n, 2], pixel centres at half-integers.
        names: One for each landmark, written beside it; () for none.
    """
    array = as_image(image)
    low, high = radiograph_window(array)
    height, width = array.shape
    axes.imshow(array, vmin=low, vmax=high, extent=(0, width, height, 0))
    axes.plot(*np.stack([true, picked]).transpose(2, 0, 1), color=YELLOW, lw=0.8)
    axes.plot(*true.T, "o", mfc="none", mec=SKY, ms=4, mew=1, label="landmark")
    axes.plot(*picked.T, "+", color=YELLOW, ms=5, mew=1.2, label="picked")
    halo = [withStroke(linewidth=1.5, foreground="k")]
    for name, (column, row) in zip(names, true, strict=bool(names)):
        # Towards the middle, so that no name leaves the image.
        right, low = column < 0.75 * width, row < 0.1 * height
        place = dict(xytext=(4 if right else -4, -7 if low else 2), ha="left" if right else "right")
        place |= dict(textcoords="offset points", color="w", fontsize=5.5, path_effects=halo)
        axes.annotate(name, (column, row), **place)
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])


def traces(trials: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Steps [k] and losses [n, k] of the columns loss_<step>; after its end a start's lowest loss.

    Raises:
        ConfigError: the records hold no traces.
    """
    columns = [c for c in trials.columns if c.startswith("loss_")]
    if not columns:
        raise ConfigError("these records hold no losses over steps; set trace in the protocol")
    table = trials[columns].astype(float)
    ended = table.isna() & (trials[["loss"]].to_numpy() >= 0)
    table = table.mask(ended, trials["loss"].astype(float), axis=0)
    return np.array([int(c.removeprefix("loss_")) for c in columns]), table.to_numpy()


def draw_rate_search(axes: Axes, table: pd.DataFrame) -> None:
    """Scores of learning-rate pairs, rows of `rate_trials`, as a map; the best pair is framed."""
    grid = table.pivot(index="lr_rotation", columns="lr_translation", values="score")
    axes.imshow(grid, cmap="Blues_r", vmin=-6, vmax=0, aspect="auto", origin="lower")
    _numbers(axes, grid, ".1f", lambda score: score < -3, fontsize=6)
    best = table.loc[table["score"].idxmin()]
    i, j = grid.index.get_loc(best["lr_rotation"]), grid.columns.get_loc(best["lr_translation"])
    axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, color=RED, lw=2))
    axes.set_xticks(range(len(grid.columns)), [f"{x:g}" for x in grid.columns])
    axes.set_yticks(range(len(grid.index)), [f"{x:g}" for x in grid.index])
    axes.set(xlabel="rate of translation", ylabel="rate of rotation")


def draw_shards(axes: Axes, table: pd.DataFrame, color: str = BLUE) -> None:
    """Which worker computed which shard when: a row per worker, a bar per shard.

    Args:
        table: Columns worker (its label; rows are in order of first appearance), began and ended
            [s], as in `shard_log`.
    """
    names = list(dict.fromkeys(table["worker"]))
    rows, seconds = [names.index(x) for x in table["worker"]], table["ended"] - table["began"]
    axes.barh(rows, seconds, left=table["began"], height=0.6, color=color, ec="w", lw=0.8)
    axes.set_xlabel("time [s]")
    _rows(axes, names)


def draw_rate_map(axes: Axes, table: pd.DataFrame, rows: str, columns: str) -> None:
    """Column rate_percent over columns `rows` and `columns` as a map, dark for high rates, with
    the number in each field; a row of the table for each."""
    order = [list(dict.fromkeys(table[name])) for name in (rows, columns)]
    wide = table.pivot(index=rows, columns=columns, values="rate_percent").loc[order[0], order[1]]
    axes.imshow(wide, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    _numbers(axes, wide, ".0f", lambda rate: rate > 55)
    axes.set_xticks(range(len(order[1])), order[1], rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(order[0])), order[0])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def draw_stated(axes: Axes, trials: pd.DataFrame, label: str) -> None:
    """True error over the stated deviation, a point for each trial: a cross where it doubts.

    Lines: the error is one deviation, two of them (dashed), and 1 mm (dotted). The trials need
    columns mtre_mm, target_sd_mm and converged.
    """
    for k, (name, part) in enumerate(trials.groupby(label, sort=False)):
        for sure, mark in ((True, "o"), (False, "x")):
            these = part[part["converged"] == sure]
            look = dict(ms=3, color=f"C{k}", label=name if sure else None)
            axes.loglog(these["target_sd_mm"], these["mtre_mm"], mark, **look)
    span = np.array([trials["target_sd_mm"].min() / 1.5, trials["target_sd_mm"].max() * 1.5])
    for times, style in ((1, "-"), (2, "--")):
        axes.plot(span, times * span, style, color="0.5", lw=0.8)
    axes.axhline(1, color=RED, lw=0.6, ls=":")
    axes.set(xlabel="stated deviation [mm]", ylabel="true error, mTRE [mm]", xlim=span)
    axes.legend(title="o converged, x doubtful", fontsize=6, title_fontsize=6)


def draw_ratios(axes: Axes, trials: pd.DataFrame, label: str) -> None:
    """Part of the converged trials whose true error is below so many stated deviations."""
    for k, (_, part) in enumerate(trials.groupby(label, sort=False)):
        sure = part[part["converged"].astype(bool)]
        ratio = np.sort(sure["mtre_mm"] / sure["target_sd_mm"])
        axes.step(
            ratio, np.arange(1, len(ratio) + 1) / max(1, len(ratio)), color=f"C{k}", where="post"
        )
    for times, style in ((1, "-"), (2, "--")):
        axes.axvline(times, color="0.5", lw=0.8, ls=style)
    axes.set(xlabel="true error / stated deviation", ylabel="part of the results", xlim=(0, 3))


def _numbers(axes: Axes, grid: pd.DataFrame, digits: str, dark: Callable, **look) -> None:
    """Every value in its field, white where that is dark."""
    look |= dict(ha="center", va="center")
    for (i, j), value in np.ndenumerate(grid.to_numpy()):
        axes.text(j, i, f"{value:{digits}}", color="w" if dark(value) else "k", **look)


def _interval(table: pd.DataFrame) -> list[pd.Series]:
    """Below and above each rate; at 0 and 100 % rounding may put the rate outside of its own."""
    rate = table["rate_percent"]
    return [(rate - table["low_percent"]).clip(0), (table["high_percent"] - rate).clip(0)]


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """Names at the left, the first one on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _groups(trials: pd.DataFrame, label: str | None, colors) -> Iterator[tuple]:
    """Name, trials and look of each group."""
    for name, part in [("", trials)] if label is None else trials.groupby(label, sort=False):
        yield name, part, dict(color=colors[name]) if colors else {}
