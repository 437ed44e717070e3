"""Committed studies: success tables follow from the records of single trials, README from both."""

import json
import re

import pandas as pd
import pytest

from drrlib.lab.evaluation import converged_table, error_table, success_table
from drrlib.lab.paper import repository

FULL = repository() / "results" / "full"
# (records, table, columns that tell groups apart)
TABLES = [
    ("07_optimizer_comparison.trials", "07_optimizer_comparison.summary", 3),
    ("08_monte_carlo.trials", "08_monte_carlo.summary", 3),
    ("08_monte_carlo.changes", "08_monte_carlo.change_rates", 1),
]
# (records, table, columns that tell groups apart, how it is made)
ERRORS = [
    ("09_beyond_the_paper.ablation_trials", "09_beyond_the_paper.ablation", 1, error_table),
    ("09_beyond_the_paper.robust_trials", "09_beyond_the_paper.robust", 1, error_table),
    ("09_beyond_the_paper.robust_trials", "09_beyond_the_paper.converged", 1, converged_table),
    ("10_real_ct.ct_trials", "10_real_ct.ct_errors", 2, error_table),
    ("10_real_ct.ct_trials", "10_real_ct.ct_converged", 1, converged_table),
    ("10_real_ct.harder_trials", "10_real_ct.harder", 2, error_table),
    ("10_real_ct.harder_trials", "10_real_ct.harder_converged", 1, converged_table),
]


def differences(records: pd.DataFrame, table: pd.DataFrame, groups: int) -> list[str]:
    """Rows of a success table that do not follow from its records."""
    again = success_table(records, list(table.columns[:groups]))
    if list(again.columns) != list(table.columns) or len(again) != len(table):
        return [f"{len(again)} rows of {list(again.columns)}, stored are {len(table)}"]
    rows = []
    for (_, mine), (_, stored) in zip(again.iterrows(), table.iterrows(), strict=True):
        apart = [c for c in table if mine[c] != stored[c] and not _close(mine[c], stored[c])]
        rows += [f"{stored[c]!r} in {c}, should be {mine[c]!r}" for c in apart]
    return rows


def _close(a, b) -> bool:
    return isinstance(a, float) and abs(a - b) < 1e-6


@pytest.mark.parametrize(("records", "table", "groups"), TABLES, ids=[t[1] for t in TABLES])
def test_success_tables_follow_from_the_trials(records, table, groups):
    trials = pd.read_parquet(FULL / f"{records}.parquet")
    assert not differences(trials, pd.read_csv(FULL / f"{table}.csv"), groups)


@pytest.mark.parametrize(("records", "table", "groups", "make"), ERRORS, ids=[e[1] for e in ERRORS])
def test_tables_of_errors_follow_from_the_trials(records, table, groups, make):
    trials = pd.read_parquet(FULL / f"{records}.parquet")
    trials["view"] = trials["view"].replace({0: "AP", 1: "lateral"})
    stored = pd.read_csv(FULL / f"{table}.csv")
    again = make(trials, list(stored.columns[:groups]))
    pd.testing.assert_frame_equal(again, stored, check_dtype=False, rtol=1e-6)


@pytest.mark.parametrize("study", ["09_beyond_the_paper.robust_trials", "10_real_ct.ct_trials"])
def test_a_thousand_registrations_are_there_and_readme_counts_them(study):
    text = (repository() / "README.md").read_text(encoding="utf-8")
    trials = pd.read_parquet(FULL / f"{study}.parquet")
    subjects = trials["subject"] if "subject" in trials else pd.Series("skull", trials.index)
    for _, part in trials.groupby(subjects):
        assert part["trial"].tolist() == list(range(1000))
        found = part["mtre_mm"] < 1
        assert f"| {found.sum()} of 1000 |" in text
        assert not (part["converged"] & ~found).sum() > 1


@pytest.mark.parametrize(("notebook", "count"), [("07", 300), ("08", 1000)])
def test_every_trial_is_there_once_from_the_same_starts(notebook, count):
    trials = pd.read_parquet(next(FULL.glob(f"{notebook}_*.trials.parquet")))
    start = ["start_theta_deg", "start_bx_mm"]
    for _, group in trials.groupby(["subject", "view", "optimizer"]):
        assert group["trial"].tolist() == list(range(count))
    for _, group in trials.groupby(["view", "trial"]):
        assert (group[start].nunique() == 1).all()


def test_readme_states_the_rates_of_the_records():
    text = (repository() / "README.md").read_text(encoding="utf-8")
    rates = 0
    for path in FULL.glob("*.run.json"):
        for row in json.loads(path.read_text())["comparisons"]:
            if row["unit"] == "%":
                rates += 1
                shown = rf"{row['ours']:.1f} % \((paper )?{row['paper']:g}\)"
                assert re.search(shown, text), f"README lacks {shown} ({row['quantity']})"
    assert rates >= 6


def test_a_changed_rate_is_seen():
    trials = pd.read_parquet(FULL / "08_monte_carlo.changes.parquet")
    table = pd.read_csv(FULL / "08_monte_carlo.change_rates.csv")
    table.loc[1, "successes"] += 1
    assert len(differences(trials, table, 1)) == 1
    assert differences(trials.iloc[1:], pd.read_csv(FULL / "08_monte_carlo.change_rates.csv"), 1)
