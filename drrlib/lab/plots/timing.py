"""Times of one DRR beside the paper's: by pixels, and by the size of the patch."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from drrlib.lab.plots.images import BLUE, ORANGE, SKY, WIDE

COLORS = {"reference": ORANGE, "kernel": BLUE, "kernel+gradient": SKY, "paper (T4)": "0.5"}
_MARKS = {"no patch": "o-", "patch 150": "s--"}


def time_curves(times: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """Left: time against pixels without and with patches; right: against the patch.

    Args:
        times: Columns group, size, patch, what (a key of COLORS), mean_ms, sd_ms; rows without a
            mean are left out. Groups other than "no patch" and "patch 150" go to the right.
        paper: The same without `what`, as from `drrlib.lab.paper.paper_times`.
    """
    table = pd.concat([times, paper.assign(what="paper (T4)")]).dropna(subset="mean_ms")
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDE, 3.3), sharey=True)
    for (what, group), part in table.groupby(["what", "group"], sort=False):
        by_pixels = group in _MARKS
        (left if by_pixels else right).errorbar(
            part["size"] ** 2 if by_pixels else part["patch"],
            part["mean_ms"],
            part["sd_ms"].fillna(0),
            fmt=_MARKS.get(group, "^-"),
            ms=4,
            color=COLORS[what],
            mfc="white" if what not in ("kernel", "reference") else None,
            capsize=2,
            label=f"{what}, {group}",
        )
    left.set(xscale="log", yscale="log", xlabel="pixels of the detector")
    left.set_ylabel("time of one DRR [ms]")
    right.set(xscale="log", xlabel="pixels across the patch")
    ticks = sorted(set(table.loc[~table["group"].isin(_MARKS), "patch"]))
    right.set_xticks(ticks, [str(t) for t in ticks])
    right.minorticks_off()
    for axis in (left, right):
        axis.legend(fontsize=6, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure
