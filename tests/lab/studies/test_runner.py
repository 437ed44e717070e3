"""Shards: the same table by any way, after any kill; what does not fit is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import pytest
import torch

import study_work
from drrlib.errors import ConfigError
from drrlib.lab.studies import finished_trials, run_study, shard_log, trial_generator
from study_work import draws

HERE = Path(__file__).resolve().parent


def test_a_trial_depends_on_seed_and_index_alone():
    first = [torch.rand(3, generator=trial_generator(5, i)) for i in (0, 1, 7)]
    again = [torch.rand(3, generator=trial_generator(5, i)) for i in (7, 1, 0)]
    assert all(torch.equal(a, b) for a, b in zip(first, again[::-1], strict=True))
    assert len({float(x[0]) for x in first}) == 3
    assert not torch.equal(first[0], torch.rand(3, generator=trial_generator(6, 0)))


def test_shards_and_executors_change_nothing(tmp_path):
    config = {"seed": 3, "scale": 2.0}
    plain = run_study(draws, config, 23, tmp_path / "a", shard=5)
    assert plain["trial"].tolist() == list(range(23)) and plain.attrs["seconds"] > 0
    assert plain.equals(run_study(draws, config, 23, tmp_path / "b", shard=7))
    with ThreadPoolExecutor(3) as pool:
        assert plain.equals(run_study(draws, config, 23, tmp_path / "c", shard=5, executor=pool))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert plain.equals(run_study(draws, config, 23, tmp_path / "d", shard=5, executor=pool))


def test_finished_shards_are_not_computed_again(tmp_path):
    config = {"seed": 3, "scale": 2.0}
    before = run_study(draws, config, 20, tmp_path, shard=5)
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.glob("shard-*")}
    assert len(kept) == 4
    (tmp_path / "shard-0000005-0000009.parquet").unlink()
    assert before.equals(run_study(draws, config, 20, tmp_path, shard=5))
    changed = [p.name for p, at in kept.items() if p.stat().st_mtime_ns != at]
    assert changed == ["shard-0000005-0000009.parquet"]
    longer = run_study(draws, config, 30, tmp_path, shard=5)
    assert longer[:20].equals(before) and len(longer) == 30


def _spans(folder):
    log = shard_log(folder).sort_values("first")
    return log[["first", "last"]].values.tolist()


def test_added_trials_take_the_place_of_a_last_shard_that_was_not_full(tmp_path):
    config = {"seed": 3, "scale": 2.0}
    run_study(draws, config, 5, tmp_path, shard=2)
    assert _spans(tmp_path) == [[0, 1], [2, 3], [4, 4]]
    short = (tmp_path / "shard-0000004-0000004.parquet").read_bytes()
    longer = run_study(draws, config, 6, tmp_path, shard=2)
    assert longer["trial"].tolist() == [0, 1, 2, 3, 4, 5]
    assert _spans(tmp_path) == [[0, 1], [2, 3], [4, 5]]
    assert not (tmp_path / "shard-0000004-0000004.parquet").exists()
    # As a process leaves it that is killed after it has written, before it has removed.
    (tmp_path / "shard-0000004-0000004.parquet").write_bytes(short)
    assert _spans(tmp_path) == [[0, 1], [2, 3], [4, 5]]
    assert run_study(draws, config, 6, tmp_path, shard=2).equals(longer)


def test_fewer_trials_are_taken_from_what_is_there(tmp_path):
    config = {"seed": 3, "scale": 2.0}
    longer = run_study(draws, config, 6, tmp_path, shard=2)
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.glob("shard-*")}
    assert finished_trials(draws, config, 5, tmp_path, shard=2) == 5
    shorter = run_study(draws, config, 5, tmp_path, shard=2)
    assert shorter.equals(longer[:5]) and shorter.attrs["seconds"] > 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("shard-*")} == kept
    assert finished_trials(draws, config, 8, tmp_path, shard=2) == 6


def test_a_killed_study_goes_on_to_the_same_table(tmp_path):
    config = {"seed": 3, "scale": 2.0, "sleep": 0.05}
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from drrlib.lab.studies import run_study\nfrom study_work import draws\n"
        f"run_study(draws, {config!r}, 40, sys.argv[2], shard=2)\n"
    )
    command = [sys.executable, "-c", code, str(HERE), str(tmp_path / "killed")]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "killed").glob("shard-*.parquet"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = len(list((tmp_path / "killed").glob("shard-*.parquet")))
    assert 3 <= finished < 20
    resumed = run_study(draws, config, 40, tmp_path / "killed", shard=2)
    assert resumed.equals(run_study(draws, {**config, "sleep": 0}, 40, tmp_path / "whole"))


def test_a_failure_keeps_what_was_finished(tmp_path):
    config = {"seed": 3, "scale": 2.0, "broken": 12}
    with pytest.raises(RuntimeError, match="trial 12"):
        run_study(draws, config, 20, tmp_path, shard=5)
    assert len(list(tmp_path.glob("shard-*.parquet"))) == 2
    assert not list(tmp_path.glob("*.tmp"))
    with ThreadPoolExecutor(2) as pool, pytest.raises(RuntimeError, match="trial 12"):
        run_study(draws, config, 20, tmp_path, shard=5, executor=pool)


def test_another_study_is_not_mixed_in(tmp_path):
    run_study(draws, {"seed": 3, "scale": 2.0}, 4, tmp_path)
    with pytest.raises(ConfigError, match="differs in scale, seed"):
        run_study(draws, {"seed": 4, "scale": 1.0}, 4, tmp_path)
    with pytest.raises(ConfigError, match="differs in shard"):
        run_study(draws, {"seed": 3, "scale": 2.0}, 4, tmp_path, shard=3)
    with pytest.raises(ConfigError, match="differs in work"):
        run_study(study_work.wrong, {"seed": 3, "scale": 2.0}, 4, tmp_path)
    assert json.loads((tmp_path / "study.json").read_text())["config"] == {"seed": 3, "scale": 2.0}


def test_versions_are_not_mixed(tmp_path, monkeypatch):
    run_study(draws, {"seed": 3, "scale": 2.0}, 4, tmp_path)
    monkeypatch.setattr("drrlib.lab.studies.runner.installed_version", lambda name: "0.0")
    with pytest.raises(ConfigError, match="differs in versions"):
        run_study(draws, {"seed": 3, "scale": 2.0}, 4, tmp_path)


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ConfigError, match="0 trials"):
        run_study(draws, {}, 0, tmp_path)
    with pytest.raises(ConfigError, match="JSON cannot"):
        run_study(draws, {"seed": torch.zeros(2)}, 4, tmp_path / "a")
    with pytest.raises(ConfigError, match="trials 0 to 3; expected a DataFrame"):
        run_study(study_work.wrong, {}, 4, tmp_path / "b")
    assert not list((tmp_path / "b").glob("shard-*"))


def test_the_comparison_sees_a_difference(tmp_path):
    table = run_study(draws, {"seed": 3, "scale": 2.0}, 5, tmp_path)
    other = table.copy()
    other.loc[2, "value"] += 1e-12
    assert not table.equals(other) and isinstance(other, pd.DataFrame)
