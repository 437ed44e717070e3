"""How registrations are judged: tables of success and error, the same in every notebook.

A trial is a row of `studies.registration_trials`, or any with its columns; `by` names columns that
tell groups of trials apart, such as optimizer and view. Rates are in percent, with Wilson's 95 %
interval low_percent to high_percent. ConfigError: `by` is one string or names a column that is not
there, or a start lies outside of all bins (`edges` [mm], rising) of its mTRE.

The three criteria of success are never mixed: the loss below 1e-6, ZNCC above 0.999, and the true
pose found (mTRE below 1 mm). All three judge the same pose, that of the lowest loss of a run.

The one table of errors is that of `error_table`; success there is mTRE < 1 mm:

| column | what it holds |
|---|---|
| (columns of `by`) | what tells the groups apart |
| trials, successes | numbers of trials |
| rate_percent, low_percent, high_percent | success rate, Wilson's 95 % interval [%] |
| mtre_median_mm, mtre_p95_mm | median, 95th percentile of mTRE over all trials [mm] |
| success_mtre_median_mm, success_mtre_p95_mm | the same over successes [mm]; NaN without one |
| mrpd_median_mm | mean reprojection distance [mm] |
| rotation_in_plane_median_deg, rotation_out_of_plane_median_deg | parts of the rotation [deg] |
| in_plane_median_mm, depth_median_mm | parts of the translation [mm] |
| seconds_median, renders_median | cost of a trial |
| capture_range_mm | see `capture_range`, starts by mTRE [mm]; NaN: none |

From mrpd_median_mm on, columns are medians over all trials, and left out if the trials lack what
they summarise. A trial that was lost (its error is NaN) counts as infinitely wrong, so a median is
infinite where half of the trials were lost. Successes alone tell the accuracy of a method, all
trials tell what a user gets.

Source: van de Kraats et al. 2005, doi:10.1109/TMI.2005.853240, for accuracy over successes and the
capture range; their success is mTRE < 2 mm.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from drrlib.errors import ConfigError

FOUND = "mTRE < 1 mm"
# Criterion of success -> the column that it needs, and what that must hold.
CRITERIA = {
    "loss < 1e-6": lambda t: t["loss"] < 1e-6,
    "ZNCC > 0.999": lambda t: t["zncc"] > 0.999,
    FOUND: lambda t: t["mtre_mm"] < 1.0,
}
_NEEDS = dict(zip(CRITERIA, ("loss", "zncc", "mtre_mm"), strict=True))
# Columns of the trials whose medians are reported, and their units.
_MEDIANS = dict(mrpd="_mm", rotation_in_plane="_deg", rotation_out_of_plane="_deg", in_plane="_mm")
_MEDIANS |= dict(depth="_mm", seconds="", renders="")


def success_table(trials: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Success rates by each criterion whose column (loss, zncc, mtre_mm) the trials have.

    Returns:
        Columns `by`, criterion, successes, trials, rate_percent, low_percent, high_percent.
    """
    rows = []
    for key, group in _groups(trials, by):
        for criterion in (c for c, column in _NEEDS.items() if column in group):
            hits, count = int(CRITERIA[criterion](group).sum()), len(group)
            row = dict(key, criterion=criterion, successes=hits, trials=count)
            rows.append(row | rate_columns(hits, count))
    return pd.DataFrame(rows)


def success_by_distance(trials: pd.DataFrame, edges: Sequence[float]) -> pd.DataFrame:
    """`success_table` of starts binned by their mTRE, with columns from_mm and to_mm.

    Bins without a start are left out.
    """
    where = _bins(trials["start_mtre_mm"], edges)
    tables = [
        success_table(trials[where == i]).assign(from_mm=low, to_mm=high)
        for i, (low, high) in enumerate(itertools.pairwise(edges))
        if (where == i).any()
    ]
    return pd.concat(tables, ignore_index=True)


def capture_range(
    trials: pd.DataFrame, edges: Sequence[float], share: float = 0.95, fewest: int = 20
) -> float:
    """The largest mTRE of a start [mm] up to which every bin has at least `share` successes.

    Success is mTRE < 1 mm. A bin of fewer than `fewest` trials says little (of fewer than 20, one
    failure is more than 5 %), so it is judged together with the next ones outwards, as soon as
    they are that many. A bin of that many must succeed on its own, too: the few before it do not
    hide its failures. What is left at the outer end with fewer is not judged, and the range ends
    before it.

    Returns:
        Upper edge of the last bin before the first that fails, or the largest start if that is
        less, as where no bin fails: then the range may be longer. NaN if the first bin fails, or
        there are fewer than `fewest` trials.

    Raises:
        ConfigError: a start lies outside of all bins, or `fewest` is below 1.
    """
    if fewest < 1:
        raise ConfigError(f"fewest is {fewest}; expected at least 1 trial to judge a bin by")
    where, met = _bins(trials["start_mtre_mm"], edges), CRITERIA[FOUND](trials)
    reached, hits, count = np.nan, 0, 0
    for i, high in enumerate(edges[1:]):
        own = met[where == i]
        hits, count = hits + int(own.sum()), count + len(own)
        if count < fewest:
            continue
        if hits / count < share or (len(own) >= fewest and own.mean() < share):
            break
        reached, hits, count = float(high), 0, 0
    return float(np.minimum(reached, trials["start_mtre_mm"].max()))


def error_table(
    trials: pd.DataFrame, by: Sequence[str] = (), edges: Sequence[float] | None = None
) -> pd.DataFrame:
    """One row per group: success, errors, cost and capture range, as the module describes.

    Args:
        trials: Of its columns, mtre_mm and start_mtre_mm are needed.
        edges: Of the bins for the capture range [mm]; None: every 5 mm, the same for all groups.
    """
    if edges is None:
        edges = np.arange(0.0, trials["start_mtre_mm"].max() + 10.0, 5.0).tolist()
    rows = []
    for key, group in _groups(trials, by):
        met = CRITERIA[FOUND](group)
        hits, count, error = int(met.sum()), len(group), group["mtre_mm"]
        row = dict(key, trials=count, successes=hits) | rate_columns(hits, count)
        for name, values in (("mtre", error), ("success_mtre", error[met])):
            row[f"{name}_median_mm"] = _quantile(values, 0.5)
            row[f"{name}_p95_mm"] = _quantile(values, 0.95)
        for name, unit in _MEDIANS.items():
            if name + unit in group:
                row[f"{name}_median{unit}"] = _quantile(group[name + unit], 0.5)
        rows.append({**row, "capture_range_mm": capture_range(group, edges)})
    return pd.DataFrame(rows)


def converged_table(trials: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """How far a registration's own verdict can be trusted: `converged` against mTRE < 1 mm.

    Returns:
        Columns `by`, trials, true_positives (converged and found), false_positives (converged,
        not found), false_negatives (found, not converged), true_negatives;
        sensitivity_percent, low_percent, high_percent: share of the found that are called
        converged, NaN if none was found; false_per_1000, false_low_per_1000,
        false_high_per_1000: false positives in 1000 trials, with Wilson's interval.

    Raises:
        ConfigError: no boolean column `converged`.
    """
    if "converged" not in trials or trials["converged"].dtype != bool:
        kind = trials["converged"].dtype if "converged" in trials else "missing"
        raise ConfigError(
            f"column converged is {kind}; expected bool, whether the registration says that it "
            "has found the pose"
        )
    rows = []
    for key, group in _groups(trials, by):
        said, met = group["converged"], CRITERIA[FOUND](group)
        true, false, missed = (int(x.sum()) for x in (said & met, said & ~met, ~said & met))
        row = dict(key, trials=len(group), true_positives=true, false_positives=false)
        row |= dict(false_negatives=missed, true_negatives=len(group) - true - false - missed)
        rate = rate_columns(true, true + missed)
        row |= {"sensitivity_percent": rate.pop("rate_percent"), **rate}
        names = ("false_per_1000", "false_low_per_1000", "false_high_per_1000")
        wrong = rate_columns(false, len(group)).values()
        rows.append(row | {k: 10 * v for k, v in zip(names, wrong, strict=True)})
    return pd.DataFrame(rows)


def rate_columns(hits: int, count: int) -> dict[str, float]:
    """rate_percent with Wilson's interval low_percent to high_percent; NaN of nothing."""
    from scipy.stats import binomtest  # half a second, which workers need not wait for

    if not count:
        return dict(rate_percent=np.nan, low_percent=np.nan, high_percent=np.nan)
    low, high = binomtest(hits, count).proportion_ci(method="wilson")
    return dict(rate_percent=100 * hits / count, low_percent=100 * low, high_percent=100 * high)


def _groups(trials: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[dict, pd.DataFrame]]:
    """Values of the columns `by` and the trials that have them, in the order of the trials."""
    if isinstance(by, str) or not set(by) <= set(trials.columns):
        raise ConfigError(f"by is {by!r}; expected a list of columns, of {list(trials.columns)}")
    groups = [((), trials)]
    if by:
        groups = trials.groupby(list(by), sort=False, observed=True, dropna=False)
    return ((dict(zip(by, key, strict=True)), group) for key, group in groups)


def _bins(starts: pd.Series, edges: Sequence[float]) -> pd.Series:
    """Index of the bin (low, high] of each start; the first bin has its lower edge, too."""
    where = pd.cut(starts, list(edges), labels=False, include_lowest=True)
    if where.isna().any():
        raise ConfigError(
            f"{int(where.isna().sum())} starts lie outside of {edges[0]:g} to {edges[-1]:g} mm; "
            f"they reach from {starts.min():g} to {starts.max():g}: widen the edges"
        )
    return where


def _quantile(values: pd.Series, q: float) -> float:
    """With NaN as infinite; between a finite and an infinite value it is infinite."""
    if values.empty:
        return np.nan
    known = values.astype(float).fillna(np.inf)
    above = float(known.quantile(q, interpolation="higher"))
    return above if np.isinf(above) else float(known.quantile(q))
