"""Figures of studies: success rates with intervals, losses over steps, success over distance,
distributions of errors, picked landmarks.

All take saved tables (`success_table`, records of `registration_trials`), so that results replot
without a run. Each draws into the axes it is given.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from drrlib.errors import ConfigError
from drrlib.lab.evaluation import CRITERIA, FOUND, capture_range, success_by_distance
from drrlib.lab.plots.images import BLACK, BLUE, RED, SKY, YELLOW, as_image, radiograph_window

CRITERION_MARKS = dict(zip(CRITERIA, "osD", strict=True))


def draw_rates(
    axes: Axes, table: pd.DataFrame, label: str, paper: Mapping[str, float] | None = None
) -> None:
    """Success rates with Wilson intervals, a row per value of column `label`, a mark per
    criterion that the table has.

    Args:
        table: Rows of `success_table`.
        paper: The paper's rate [%] for some of the rows, drawn as a cross.
    """
    names = list(dict.fromkeys(table[label]))
    known = [criterion for criterion in CRITERION_MARKS if (table["criterion"] == criterion).any()]
    for k, criterion in enumerate(known):
        part, mark = table[table["criterion"] == criterion], CRITERION_MARKS[criterion]
        part = part.set_index(label).loc[names]
        rate = part["rate_percent"]
        # At 0 and 100 % rounding may put the rate outside of its interval.
        error = [(rate - part["low_percent"]).clip(0), (part["high_percent"] - rate).clip(0)]
        place = np.arange(len(names)) + 0.22 * (k - (len(known) - 1) / 2)
        axes.errorbar(rate, place, xerr=error, fmt=mark, ms=3.5, lw=1, label=criterion)
    for name, rate in (paper or {}).items():
        first = "paper" if name == next(iter(paper)) else None
        axes.plot(rate, names.index(name), "x", color=BLACK, ms=7, mew=1.5, label=first)
    axes.set(xlim=(-3, 103), xlabel="successful starts [%]", yticks=range(len(names)))
    axes.set_yticklabels(names)
    axes.set_ylim(len(names) - 0.5, -0.5)


def draw_losses(axes: Axes, trials: pd.DataFrame, label: str, colors: Mapping[str, str]) -> None:
    """Median loss over steps with the band from the first to the third quartile, per group.

    A start that has ended keeps its lowest loss.

    Args:
        trials: Records with columns loss_<step>.
        label: Column that tells the groups apart.
        colors: A colour per group.
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
    """Success rate of one criterion over the start's error, with Wilson's band.

    Args:
        table: Rows of `success_by_distance`.
        name: For the legend.
        style: Of the line, for matplotlib.
    """
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
    """Success by mTRE < 1 mm over the start's mTRE with Wilson's band, per group.

    A dashed line in the group's colour ends its capture range, which the legend has in mm; the
    dotted line is at 95 %.

    Args:
        trials: Records of `registration_trials`.
        edges: Of the bins of the start's mTRE [mm].
        label: Column that tells the groups apart; None: one group.
        colors: A colour per group.
    """
    for name, part in _groups(trials, label):
        reach = capture_range(part, edges)
        text = f"{name}: " * (label is not None)
        text += "none" if np.isnan(reach) else f"{reach:.0f} mm"
        style = dict(ls="-", color=colors[name]) if colors else dict(ls="-")
        draw_distance(axes, success_by_distance(part, edges), FOUND, text, **style)
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

    Args:
        trials: Records with a column mtre_mm.
        label: Column that tells the groups apart; None: one group.
        colors: A colour per group.
    """
    for name, part in _groups(trials, label):
        error = np.sort(part["mtre_mm"].to_numpy(float))  # NaN last
        share = 100 * np.arange(1, len(error) + 1) / len(error)
        style = dict(color=colors[name]) if colors else {}
        axes.step(error, share, where="post", label=name, **style)
    axes.axvline(1.0, color=BLACK, ls=":", lw=0.8)
    axes.set(xscale="log", ylim=(-3, 103), xlabel="mTRE at the end [mm]", ylabel="trials [%]")
    if label is not None:
        axes.legend()


def draw_quartiles(axes: Axes, trials: pd.DataFrame, x: str, y: str, name: str, **style) -> None:
    """Median of column `y` over the values of column `x`, from the first to the third quartile.

    Args:
        name: For the legend.
        style: Of the line, for matplotlib.
    """
    parts = trials.groupby(x)[y]
    low, middle, high = (parts.quantile(q) for q in (0.25, 0.5, 0.75))
    error = [middle - low, high - middle]
    axes.errorbar(middle.index, middle, yerr=error, fmt="o", ms=3, capsize=2, label=name, **style)


def draw_success(axes: Axes, table: pd.DataFrame, x: str, criterion: str, name: str, **style):
    """Success rate of one criterion over the values of column `x`, with Wilson's interval.

    Args:
        table: Rows of `success_table`.
        name: For the legend.
        style: Of the line, for matplotlib.
    """
    part = table[table["criterion"] == criterion].sort_values(x)
    rate = part["rate_percent"]
    # At 0 and 100 % rounding may put the rate outside of its interval.
    error = [(rate - part["low_percent"]).clip(0), (part["high_percent"] - rate).clip(0)]
    axes.errorbar(part[x], rate, yerr=error, fmt="o", ms=3, capsize=2, label=name, **style)
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
    """Scores of learning-rate pairs as a map; the chosen pair is framed.

    Args:
        table: Rows of `rate_trials` of one step rule.
    """
    grid = table.pivot(index="lr_rotation", columns="lr_translation", values="score")
    axes.imshow(grid, cmap="Blues_r", vmin=-6, vmax=0, aspect="auto", origin="lower")
    for (i, j), value in np.ndenumerate(grid.to_numpy()):
        dark = {"color": "w" if value < -3 else "k"}
        axes.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=6, **dark)
    best = table.loc[table["score"].idxmin()]
    i, j = (
        list(x).index(best[k])
        for x, k in ((grid.index, "lr_rotation"), (grid.columns, "lr_translation"))
    )
    axes.add_patch(_frame(j, i))
    axes.set(xticks=range(len(grid.columns)), yticks=range(len(grid.index)))
    axes.set_xticklabels([f"{x:g}" for x in grid.columns])
    axes.set_yticklabels([f"{x:g}" for x in grid.index])
    axes.set(xlabel="rate of translation", ylabel="rate of rotation")


def _groups(trials: pd.DataFrame, label: str | None) -> Iterator[tuple[str, pd.DataFrame]]:
    yield from [("", trials)] if label is None else trials.groupby(label, sort=False)


def draw_shards(axes: Axes, table: pd.DataFrame, color: str = BLUE) -> None:
    """Which worker computed which shard when: a row per worker, a bar per shard.

    Args:
        table: Columns worker (its label; rows are in order of first appearance), began and ended
            [s], as in `shard_log`.
    """
    names = list(dict.fromkeys(table["worker"]))
    rows, seconds = [names.index(x) for x in table["worker"]], table["ended"] - table["began"]
    axes.barh(rows, seconds, left=table["began"], height=0.6, color=color, ec="w", lw=0.8)
    axes.set(xlabel="time [s]", yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5))
    axes.set_yticklabels(names)


def _frame(column: float, row: float):
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, color=RED, lw=2)


def draw_rate_map(axes: Axes, table: pd.DataFrame, rows: str, columns: str) -> None:
    """Success rates [%] as a map, dark for high ones, with the number in each field.

    Args:
        table: Columns `rows`, `columns` and rate_percent; one row for each field.
    """
    order = [list(dict.fromkeys(table[name])) for name in (rows, columns)]
    wide = table.pivot(index=rows, columns=columns, values="rate_percent")
    wide = wide.loc[order[0], order[1]]
    axes.imshow(wide, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (i, j), rate in np.ndenumerate(wide.to_numpy()):
        axes.text(j, i, f"{rate:.0f}", ha="center", va="center", color="w" if rate > 55 else "k")
    axes.set_xticks(range(len(order[1])), order[1], rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(order[0])), order[0])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
