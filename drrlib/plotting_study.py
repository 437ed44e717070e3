"""Figures of studies: success rates with their intervals, losses over steps, success over distance.

All take saved tables (`success_table`, records of `registration_trials`), so that results replot
without a run. Each draws into the axes it is given.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from drrlib.errors import ConfigError
from drrlib.plotting import BLACK, BLUE, RED
from drrlib.study_registration import CRITERIA

CRITERION_MARKS = dict(zip(CRITERIA, "osD", strict=True))


def draw_rates(
    axes: Axes, table: pd.DataFrame, label: str, paper: Mapping[str, float] | None = None
) -> None:
    """Success rates with Wilson intervals, a row per value of column `label`, a mark per criterion.

    Args:
        table: Rows of `success_table`.
        paper: The paper's rate [%] for some of the rows, drawn as a cross.
    """
    names = list(dict.fromkeys(table[label]))
    for k, (criterion, mark) in enumerate(CRITERION_MARKS.items()):
        part = table[table["criterion"] == criterion].set_index(label).loc[names]
        rate = part["rate_percent"]
        # At 0 and 100 % rounding may put the rate outside of its interval.
        error = [(rate - part["low_percent"]).clip(0), (part["high_percent"] - rate).clip(0)]
        place = np.arange(len(names)) + 0.22 * (k - 1)
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
