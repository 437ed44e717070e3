"""Timing within a budget: what is counted, what is refused, what is caught. No speeds."""

import math
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from drrlib.errors import ConfigError
from drrlib.lab.paper import paper_times
from drrlib.lab.plots.timing import time_curves
from drrlib.lab.timing import Budget, Timing, is_out_of_memory, once, peak_bytes


def test_one_run_warms_up_and_the_others_count():
    calls = []

    def call():
        time.sleep(0.05 if not calls else 0.002)  # the first one is slow: it is not counted
        calls.append(1)

    seen = Budget(runs=4, seconds=60).time(call)
    assert len(calls) == 5 and seen.runs == 4 and seen.status == "measured"
    assert 2 <= seen.mean_ms < 40 and seen.sd_ms < 40


def test_long_calls_get_fewer_runs_and_the_longest_stands_alone():
    calls = []

    def call():
        time.sleep(0.1)
        calls.append(1)

    seen = Budget(runs=15, seconds=0.36).time(call)
    assert 1 <= seen.runs <= 2 and len(calls) == 1 + seen.runs
    calls.clear()
    alone = Budget(runs=15, seconds=0.15).time(call)
    assert len(calls) == 1 and alone.runs == 1 and math.isnan(alone.sd_ms)
    assert str(alone).endswith("(1 run)")


def test_what_a_first_run_compiles_is_not_the_time_of_a_call(monkeypatch):
    calls = []

    def timed(call, device):
        call()
        return 5000.0 if len(calls) == 1 else 2.0  # [ms] the first run ever compiles

    monkeypatch.setattr("drrlib.lab.timing.once", timed)
    seen = Budget(runs=3, seconds=1.0).time(lambda: calls.append(1), compiles=True)
    assert len(calls) == 5 and seen.runs == 3 and seen.mean_ms == 2.0
    calls.clear()
    assert Budget(runs=3, seconds=1.0).time(lambda: calls.append(1)).mean_ms == 5000.0


def test_what_would_not_fit_is_never_run():
    def never():
        pytest.fail("it was run")

    budget = Budget(seconds=30, memory_gb=2)
    assert budget.time(never, need_bytes=28.04e9).status == "needs 28 GB"
    assert budget.time(never, need_seconds=130).status == "skipped: about 130 s"
    assert budget.time(lambda: None, need_bytes=1.9e9, need_seconds=29).status == "measured"


def test_memory_that_really_runs_out_is_told():
    seen = Budget().time(lambda: torch.zeros(2**60, dtype=torch.uint8))
    assert seen.status == str(seen) == "out of memory" and seen.runs == 0
    assert math.isnan(seen.mean_ms)

    def fails():
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        Budget().time(fails)
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(torch.OutOfMemoryError("CUDA"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_times_are_printed_without_exponents():
    assert str(Timing(1234.5, 5.678, 15, "measured")) == "1234 ± 5.7"
    assert str(Timing(7450.0, 646.6, 15, "measured")) == "7450 ± 647"
    assert str(Timing(21.24, 2.861, 15, "measured")) == "21.2 ± 2.9"
    assert str(Timing(999.6, 99.7, 15, "measured")) == "1000 ± 100"


def test_paper_times_are_table_1():
    table = paper_times()
    assert len(table) == 17
    rows = table.set_index(["group", "size", "patch"])
    # Read off the paper's Table 1.
    for key, mean, sd in (
        (("no patch", 600, 0), 600, 125),
        (("patch 150", 1800, 150), 1490, 26.4),
        (("1024 x 1024", 1024, 16), 7450, 647),
    ):
        assert rows.loc[key, "mean_ms"] == mean and rows.loc[key, "sd_ms"] == pytest.approx(sd)


def test_curves_show_every_cell_that_was_measured():
    rows = [
        dict(group="no patch", size=n, patch=0, what="kernel", mean_ms=n / 10, sd_ms=math.nan)
        for n in (100, 200)
    ]
    rows.append(rows[0] | dict(what="reference", size=400, mean_ms=math.nan))
    rows.append(dict(group="64 x 64", size=64, patch=8, what="kernel", mean_ms=2.0, sd_ms=0.1))
    figure = time_curves(pd.DataFrame(rows), paper_times())
    left, right = figure.axes
    names = [text.get_text() for text in left.get_legend().get_texts()]
    assert names == ["kernel, no patch", "paper (T4), no patch", "paper (T4), patch 150"]
    assert left.lines[0].get_xdata().tolist() == [1e4, 4e4]
    assert left.lines[0].get_ydata().tolist() == [10, 20]
    assert len(right.get_legend().get_texts()) == 2
    assert [t.get_text() for t in right.get_xticklabels()][:3] == ["8", "16", "32"]
    plt.close(figure)


def test_bad_budgets_are_refused():
    for bad in (dict(runs=0), dict(seconds=-1.0), dict(memory_gb=0.0)):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            Budget(**bad)


def test_memory_is_counted():
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("no /proc/self/clear_refs here")
    # In a process of its own: what other tests freed and the C library kept would hide a part.
    code = """
import numpy as np
from drrlib.lab.timing import peak_bytes
peak_bytes(lambda: None)
print(peak_bytes(lambda: np.ones(4_000_000).sum()))
# Small blocks that were used and freed before are counted again.
for _ in range(2):
    print(peak_bytes(lambda: [np.ones(6000) for _ in range(600)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seen = [int(line) for line in done.stdout.split()]
    assert len(seen) == 3 and all(28_000_000 < x < 60_000_000 for x in seen), seen


@pytest.mark.gpu
def test_cuda_is_timed_by_events_and_counted_by_its_allocator():
    a = torch.ones(1000, 1000, device="cuda")
    assert once(lambda: a @ a, "cuda") > 0
    assert 4_000_000 <= peak_bytes(lambda: a + 1, "cuda") < 5_000_000
