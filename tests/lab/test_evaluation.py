"""Tables of success and error, by hand; the committed studies stay readable."""

import math

import numpy as np
import pandas as pd
import pytest

from drrlib.errors import ConfigError
from drrlib.lab.evaluation import (
    capture_range,
    converged_table,
    error_table,
    rate_columns,
    success_by_distance,
    success_table,
)
from drrlib.lab.paper import repository


def wilson(hits, count):
    """Wilson 1927, doi:10.1080/01621459.1927.10502953, with the normal quantile of 97.5 %."""
    z = 1.959963984540054
    rate, share = hits / count, z * z / count
    middle = (rate + share / 2) / (1 + share)
    half = z / (1 + share) * math.sqrt(rate * (1 - rate) / count + share / count / 4)
    return middle - half, middle + half


def bins(*successes, trials=20, width=10.0):
    """`trials` starts in the middle of each bin of so many mm, so many of them successful."""
    rows = [
        dict(start_mtre_mm=(k + 0.5) * width, mtre_mm=0.5 if i < hits else 30.0)
        for k, hits in enumerate(successes)
        for i in range(trials)
    ]
    return pd.DataFrame(rows)


def test_rates_have_wilson_s_interval():
    # Newcombe 1998, Table I: 81/263, 15/148, 0/20, 1/29.
    for hits, count, low, high in (
        (81, 263, 25.53, 36.62),
        (15, 148, 6.24, 16.05),
        (0, 20, 0.0, 16.11),
        (1, 29, 0.61, 17.18),
    ):
        row = rate_columns(hits, count)
        assert row["rate_percent"] == pytest.approx(100 * hits / count)
        assert abs(row["low_percent"] - low) < 1e-2 and abs(row["high_percent"] - high) < 1e-2
    for count in range(1, 99):
        none, all_of_them = rate_columns(0, count), rate_columns(count, count)
        assert none["low_percent"] == 0 and all_of_them["high_percent"] == 100
        assert all_of_them["low_percent"] == pytest.approx(100 - none["high_percent"])
    assert all(math.isnan(value) for value in rate_columns(0, 0).values())
    with pytest.raises(ValueError, match="5"):
        rate_columns(5, 4)


def test_success_table_by_hand():
    trials = pd.DataFrame(
        {
            "optimizer": ["a", "a", "b", "a"],
            "loss": [1e-7, 1e-3, 5e-7, math.nan],
            "zncc": [0.9999, 0.9985, 0.9999, math.nan],
            "mtre_mm": [0.1, 0.5, 3.0, math.nan],
            "start_mtre_mm": [5.0, 15.0, 25.0, 12.0],
        }
    )
    table = success_table(trials, ["optimizer"]).set_index(["optimizer", "criterion"])
    for key, hits, count in (
        (("a", "loss < 1e-6"), 1, 3),
        (("a", "ZNCC > 0.999"), 1, 3),
        (("a", "mTRE < 1 mm"), 2, 3),
        (("b", "loss < 1e-6"), 1, 1),
        (("b", "mTRE < 1 mm"), 0, 1),
    ):
        row, (low, high) = table.loc[key], wilson(hits, count)
        assert (row["successes"], row["trials"]) == (hits, count)
        assert row["rate_percent"] == pytest.approx(100 * hits / count)
        assert row["low_percent"] == pytest.approx(100 * low, rel=1e-12, abs=1e-12)
        assert row["high_percent"] == pytest.approx(100 * high, rel=1e-12)
    assert success_table(trials)["trials"].tolist() == [4, 4, 4]
    bins = success_by_distance(trials, [0, 10, 20, 30, 40])
    part = bins[bins["criterion"] == "mTRE < 1 mm"]
    assert part[["from_mm", "successes", "trials"]].values.tolist() == [
        [0, 1, 1],
        [10, 1, 2],
        [20, 0, 1],
    ]
    assert success_by_distance(trials, [5, 25])["trials"].tolist() == [4, 4, 4]
    with pytest.raises(ConfigError, match="2 starts lie outside of 10 to 20"):
        success_by_distance(trials, [10, 20])
    with pytest.raises(ConfigError, match="list of columns"):
        success_table(trials, "optimizer")


def test_the_capture_range_ends_before_the_first_bin_that_fails():
    edges = [0, 10, 20, 30, 40]
    assert capture_range(bins(20, 19, 18, 20), edges) == 20  # 95 % is enough, 90 % is not
    assert capture_range(bins(20, 19, 18, 20), edges, share=0.9) == 35  # the largest start
    assert capture_range(bins(20, 18, 20, 20), edges) == 10
    assert math.isnan(capture_range(bins(18, 20, 20, 20), edges))
    # 95 % exactly, whatever the rounding of 0.95.
    for count in range(20, 400, 20):
        assert capture_range(bins(count * 19 // 20, trials=count), edges) == 5
    with pytest.raises(ConfigError, match="20 starts lie outside of 0 to 30"):
        capture_range(bins(20, 20, 20, 20), edges[:-1])
    with pytest.raises(ConfigError, match="fewest is 0"):
        capture_range(bins(20), edges, fewest=0)


def test_bins_of_few_trials_are_joined_outwards():
    few = bins(9, 10, 10, 10, trials=10)
    edges = [0, 10, 20, 30, 40]
    assert capture_range(few, edges) == 35  # 19 of 20 twice, where one bin alone had 90 %
    assert np.isnan(capture_range(few, edges, fewest=10))
    assert capture_range(few[:35], edges) == 20  # 15 are left, which no bin judges
    lost = few.assign(mtre_mm=few["mtre_mm"].mask(few.index >= 38))
    assert capture_range(lost, edges) == 20  # a lost trial is a failure
    assert math.isnan(capture_range(few[10:29], edges))  # 19 trials
    # A bin with enough trials cannot hide behind few successes before it: 28 of 29, but 18 of 19.
    hidden = pd.concat([bins(10, trials=10), bins(0, 18, trials=19)[19:]])
    assert capture_range(hidden, edges, fewest=20) == 15
    assert math.isnan(capture_range(hidden, edges, fewest=19))
    # An empty bin passes nothing on but its edge.
    assert capture_range(pd.concat([bins(20), few[30:], few[30:]]), edges) == 35


def test_error_table_by_hand():
    trials = pd.DataFrame(
        {
            "method": ["a"] * 5 + ["b"] * 3,
            "mtre_mm": [0.4, 0.1, 0.2, 9.0, math.nan, 5.0, math.nan, math.nan],
            "start_mtre_mm": [10.0] * 8,
            "rotation_in_plane_deg": [0.1, 0.2, 0.3, 4.0, math.nan, 1.0, math.nan, math.nan],
            "depth_mm": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
            "renders": [100, 200, 300, 400, 500, 60, 70, 80],
        }
    )
    table = error_table(trials, ["method"])
    assert list(table) == [
        "method",
        "trials",
        "successes",
        "rate_percent",
        "low_percent",
        "high_percent",
        "mtre_median_mm",
        "mtre_p95_mm",
        "success_mtre_median_mm",
        "success_mtre_p95_mm",
        "rotation_in_plane_median_deg",
        "depth_median_mm",
        "renders_median",
        "capture_range_mm",
    ]
    a, b = (row for _, row in table.iterrows())
    low, high = wilson(3, 5)
    assert (a["method"], a["trials"], a["successes"]) == ("a", 5, 3)
    assert list(a[3:6]) == pytest.approx([60.0, 100 * low, 100 * high])
    # In order 0.1 0.2 0.4 9 lost; of the successes, 95 % lies at 1.9 between 0.2 and 0.4.
    assert list(a[6:10]) == pytest.approx([0.4, math.inf, 0.2, 0.38])
    assert list(a[10:13]) == pytest.approx([0.3, 3.0, 300.0])
    assert (b["successes"], b["rate_percent"], b["mtre_median_mm"]) == (0, 0.0, math.inf)
    assert math.isnan(b["success_mtre_median_mm"]) and b["renders_median"] == 70
    whole = error_table(trials.drop(columns=["depth_mm", "renders"]))
    assert whole["trials"].tolist() == [8] and "depth_median_mm" not in whole
    # In order 0.1 0.2 0.4 5 9 and three lost: the middle of 8 lies between 5 and 9.
    assert whole["mtre_median_mm"][0] == pytest.approx(7.0)
    with pytest.raises(ConfigError, match="list of columns"):
        error_table(trials, "method")


def test_error_table_has_the_capture_range_of_each_group():
    trials = pd.concat(
        [bins(20, 20).assign(m="a"), bins(20, 0).assign(m="b"), bins(0).assign(m=None)]
    )
    table = error_table(trials, ["m"])
    assert table["trials"].tolist() == [40, 40, 20]  # a group without a name counts, too
    # Bins of 5 mm: of b, (0, 5] succeeds; the empty (5, 10] is joined with (10, 15], which fails.
    assert table["capture_range_mm"].tolist()[:2] == [15.0, 5.0]
    assert math.isnan(table["capture_range_mm"][2])
    assert error_table(trials, ["m"], [0, 20])["capture_range_mm"][1:].isna().all()
    same = bins(20).assign(start_mtre_mm=0.0)
    assert error_table(same)["capture_range_mm"].tolist() == [0.0]  # all start at the truth


def test_converged_table_by_hand():
    said = [True] * 4 + [False] * 6
    error = [0.1, 0.2, 0.3, 7.0, 0.4, 0.5, 6.0, math.nan, 8.0, 9.0]
    trials = pd.DataFrame({"converged": said, "mtre_mm": error})
    row = converged_table(trials).iloc[0]
    names = ["trials", "true_positives", "false_positives", "false_negatives", "true_negatives"]
    assert row[names].tolist() == [10, 3, 1, 2, 4]
    low, high = wilson(3, 5)
    assert row[5:8].tolist() == pytest.approx([60.0, 100 * low, 100 * high])
    low, high = wilson(1, 10)
    assert row[8:].tolist() == pytest.approx([100.0, 1000 * low, 1000 * high])
    apart = converged_table(trials.assign(kind=["x"] * 7 + ["y"] * 3), ["kind"])
    assert apart["kind"].tolist() == ["x", "y"] and apart["true_negatives"].tolist() == [1, 3]
    assert math.isnan(apart["sensitivity_percent"][1])  # none was found
    for bad in (trials.drop(columns="converged"), trials.assign(converged=1)):
        with pytest.raises(ConfigError, match="expected bool"):
            converged_table(bad)


def test_committed_trials_are_readable():
    """They were written before some columns were."""
    trials = pd.read_parquet(repository() / "results" / "full" / "08_monte_carlo.trials.parquet")
    keys = ["subject", "view", "optimizer"]
    table = error_table(trials, keys)
    stored = success_table(trials, keys)
    stored = stored[stored["criterion"] == "mTRE < 1 mm"].reset_index(drop=True)
    same = [*keys, "trials", "successes", "rate_percent", "low_percent", "high_percent"]
    pd.testing.assert_frame_equal(table[same], stored[same])
    assert (table["success_mtre_p95_mm"] < 1).all()
    assert (table["mtre_p95_mm"] >= table["mtre_median_mm"]).all()
