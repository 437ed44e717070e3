"""Studies from a file: the same tables as in Python, and messages instead of tracebacks."""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from drrlib.lab.paper import paper_value, repository
from drrlib.lab.studies import Protocol, rate_trials, registration_trials, run_study
from drrlib.lab.studies.command import DONE, FAILED, REFUSED, STOPPED, main, read_study
from study_work import draws

HERE = Path(__file__).resolve().parent
STUDIES = repository() / "data" / "studies"
SMALL = dict(volume="thorax", voxel=12.0, pixels=12, levels=[[1, 3]], device="cpu")
DRAWS = 'work = "study_work:draws"\ntrials = 20\nshard = 4\nfolder = "kept"\n[config]\nseed = 3\n'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text, **config):
    lines = [f"{k} = {json.dumps(v)}" for k, v in config.items()]
    Path("study.toml").write_text(text + "\n".join(lines) + "\n")


def small_study():
    head = 'work = "registration"\ntrials = 3\nshard = 2\nfolder = "kept"\n[config]\n'
    write(head, **SMALL)


def test_a_registration_study_prints_its_rates(capsys):
    small_study()
    assert main(["study.toml", "--seed", "4", "--output", "out/table.parquet"]) == DONE
    said = capsys.readouterr().out
    assert all(name in said for name in ("3 trials", "loss < 1e-6", "ZNCC > 0.999", "mTRE < 1 mm"))
    config = Protocol(**SMALL, seed=4).config()
    expected = run_study(registration_trials, config, 3, "python")
    assert pd.read_parquet("out/table.parquet").equals(expected)
    # The record is that of the same study in Python, which goes on with it.
    assert run_study(registration_trials, config, 3, "kept", shard=2).equals(expected)
    assert json.loads(Path("kept/study.json").read_text())["work"].startswith(
        "drrlib.lab.studies.registration:"
    )


def test_the_command_line_wins_over_the_file(capsys):
    write(DRAWS, scale=2.0)
    words = "--trials 6 --shard 2 --folder other --seed 5 --output t.csv --scheduler threads:2"
    assert main(["study.toml", *words.split()]) == DONE
    assert "6 trials" in capsys.readouterr().out
    assert len(list(Path("other").glob("shard-*"))) == 3 and not Path("kept").exists()
    expected = run_study(draws, {"seed": 5, "scale": 2.0}, 6, "python")
    assert pd.read_csv("t.csv").equals(expected)


def test_a_search_of_rates_has_its_protocol_inside():
    protocol = json.dumps(SMALL).replace('":', '" =')
    config = f"rotation = [0.01]\ntranslation = [1.0]\nstarts = 1\nprotocol = {protocol}\n"
    Path("study.toml").write_text(f'work="rates"\ntrials=1\nfolder="k"\n[config]\n{config}')
    assert main(["study.toml", "--seed", "9", "--output", "t.parquet"]) == DONE
    inside = Protocol(**SMALL, seed=9).config()
    expected = rate_trials(dict(protocol=inside, rotation=[0.01], translation=[1.0], starts=1), [0])
    assert pd.read_parquet("t.parquet").equals(expected)


def test_a_study_of_a_pipeline_prints_the_table_of_errors(capsys):
    inside = "voxel = 8.0\npixels = 48\nstart_rotation = 5.0\nstart_translation = 5.0\n"
    config = 'method = "fast"\nviews = [[0.0, 0.0, 0.0]]\neffects = {}\n'
    head = f'work="pipeline"\ntrials=1\nfolder="k"\n[config]\n{config}[config.protocol]\n{inside}'
    Path("study.toml").write_text(head)
    assert main(["study.toml", "--seed", "2", "--output", "t.parquet"]) == DONE
    assert "mtre_median_mm" in capsys.readouterr().out
    protocol = json.loads(Path("k/study.json").read_text())["config"]["protocol"]
    assert protocol["seed"] == 2 and protocol["device"] in ("cpu", "cuda")
    assert pd.read_parquet("t.parquet")["start_mtre_mm"][0] > 0


def test_a_dry_run_writes_nothing(capsys):
    write(DRAWS, scale=2.0)
    assert main(["study.toml", "--dry-run", "--output", "t.csv"]) == DONE
    said = capsys.readouterr().out
    assert "study_work:draws" in said and "20 in shards of 4; 0 finished" in said
    assert sorted(p.name for p in Path().iterdir()) == ["study.toml"]
    assert main(["study.toml", "--trials", "8"]) == DONE
    assert main(["study.toml", "--dry-run"]) == DONE
    assert "20 in shards of 4; 8 finished" in capsys.readouterr().out
    assert main(["study.toml", "--dry-run", "--seed", "8"]) == REFUSED
    assert "differs in seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words", "told"),
    [
        (None, [], "No such file"),
        ("trials = ", [], "cannot be read as TOML"),
        ("trails = 3\n", [], "has trails; expected work, trials"),
        ("trials = 3\n", [], "lacks work"),
        ('work = "registration"\nfolder = "k"\n', [], "lacks trials"),
        ('work = "registration"\ntrials = 3\n', [], "lacks folder"),
        ('work = "registration"\ntrials = "3"\nfolder = "k"\n', [], "trials is '3'"),
        ('work = "registration"\ntrials = true\nfolder = "k"\n', [], "trials is True"),
        (
            'work = "draws"\ntrials = 3\nfolder = "k"\n',
            [],
            "expected registration, rates, pipeline or",
        ),
        ('work = "no_module:draws"\ntrials = 3\nfolder = "k"\n', [], "No module named"),
        ('work = "study_work:nothing"\ntrials = 3\nfolder = "k"\n', [], "nothing"),
        ('work = "study_work:__name__"\ntrials = 3\nfolder = "k"\n', [], "expected a function"),
        (DRAWS, ["--trials", "0"], "got 0 trials"),
        (DRAWS, ["--scheduler", "slurm"], "scheduler is 'slurm'"),
        (DRAWS, ["--output", "table.xlsx"], "ends in .parquet or .csv"),
        ("small", ["--scheduler", "tcp://127.0.0.1:9"], "device is 'auto'"),
        ("small_volum", [], "a protocol has no volum"),
        ("small_pixels", [], "pixels of a protocol is '64'; expected int"),
        ("small_levels", [], "levels of a protocol is 250; expected Sequence"),
        ("small_loss", [], "loss"),
        ("rates", [], "has sart, which this work makes nothing of; it takes protocol, rotation"),
        ("rates", ["--trials", "2"], "has sart"),
    ],
)
def test_bad_input_is_told_in_one_line(capsys, text, words, told):
    head = 'work = "registration"\ntrials = 3\nfolder = "kept"\n[config]\nvolume = "thorax"\n'
    rates = "rotation = [0.1]\ntranslation = [1.0]\nstarts = 1\nsart = 2\nprotocol = {}\n"
    if text == "rates":
        text = f'work = "rates"\ntrials = 1\nfolder = "kept"\n[config]\n{rates}'
    more = dict(
        small="",
        small_volum="volum = 3",
        small_pixels='pixels = "64"',
        small_levels="levels = 250",
        small_loss='loss = "mse"\nvoxel = 12.0\npixels = 8',
    )
    if text is not None:
        Path("study.toml").write_text(head + more[text] + "\n" if text in more else text)
    assert main(["study.toml", *words]) == REFUSED
    said = capsys.readouterr().err
    assert told in said and "Traceback" not in said


def test_a_trial_that_fails_is_shown_and_the_rest_is_kept(capsys):
    write(DRAWS, scale=2.0, broken=9)
    assert main(["study.toml"]) == FAILED
    said = capsys.readouterr().err
    assert "trial 9 cannot be done" in said and "8 of 20 trials are kept in kept" in said


def test_lost_workers_are_told(capsys):
    write(DRAWS.replace("draws", "fatal"), scale=2.0, at=9)
    assert main(["study.toml", "--scheduler", "processes:1"]) == FAILED
    said = capsys.readouterr().err
    assert "8 of 20 trials are kept" in said and "Traceback" not in said


@contextlib.contextmanager
def started(way, *paths):
    """The command in a process that can be sent Ctrl-C, with the folders of its modules."""
    command = [sys.executable, "-m", "drrlib", "study", "study.toml", "--scheduler", way]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [HERE, *paths]))}
    with subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background jobs, such as these tests may be, inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        yield process


@pytest.mark.parametrize("way", ["in-process", "processes:2", "dask:2"])
def test_ctrl_c_keeps_what_is_finished(way):
    if way.startswith("dask"):
        pytest.importorskip("distributed", reason="Dask is not installed")
    write(DRAWS, scale=2.0, sleep=0.2)
    with started(way) as process:
        for line in process.stderr:
            if line.startswith("study: 4 of 20 trials"):  # one line for each finished shard
                break
        # Let go of the finished shard first: Python drops an interrupt that meets a __del__, and
        # one would have to press again.
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of the group
        said = process.stderr.read()
    assert process.returncode == STOPPED, said
    assert "trials are kept in kept; the same command goes on" in said
    assert "Traceback" not in said and "Warning" not in said
    write(DRAWS, scale=2.0, sleep=0.2)
    assert main(["study.toml", "--output", "t.parquet"]) == DONE
    whole = run_study(draws, {"seed": 3, "scale": 2.0}, 20, "python")
    assert pd.read_parquet("t.parquet").equals(whole)


def test_ctrl_c_while_processes_start_is_told_in_one_line(folder):
    """Python runs this file at its start, before a process of a pool can know what it is."""
    write(DRAWS, scale=2.0)
    (folder / "sitecustomize.py").write_text(
        "import os, pathlib, sys, time\n"
        "if '--multiprocessing-fork' in sys.orig_argv:\n"
        "    pathlib.Path(f'starting-{os.getpid()}').touch()\n"
        "    time.sleep(1)\n"
    )
    deadline = time.monotonic() + 120
    with started("processes:2", folder) as process:
        while not list(folder.glob("starting-*")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == STOPPED, said
    assert "0 of 20 trials are kept in kept" in said
    assert "Traceback" not in said and "KeyboardInterrupt" not in said


def test_a_protocol_inside_gets_the_seed(capsys):
    head = 'work = "drrlib.lab.studies:landmark_trials"\ntrials = 1\nfolder = "k"\n'
    Path("study.toml").write_text(head + '[config]\nstart = "arun"\nerror_mm = 1.0\n')
    assert main(["study.toml", "--seed", "7", "--dry-run"]) == DONE
    config = json.loads(capsys.readouterr().out.split("config ", 1)[1])
    assert config["protocol"]["seed"] == 7 and config["protocol"]["device"] in ("cpu", "cuda")
    assert set(config) == {"start", "error_mm", "protocol"}


def test_the_example_files_are_studies(capsys):
    files = sorted(STUDIES.glob("*.toml"))
    assert len(files) >= 2
    for file in files:
        assert main([str(file), "--dry-run"]) == DONE
    given = dict.fromkeys(["trials", "shard", "folder", "seed"])
    options = argparse.Namespace(file=STUDIES / "thousand.toml", scheduler="file:x", **given)
    study = read_study(options)
    assert study.trials == paper_value("Fig. 8", "starts")
    assert study.config["start_rotation"] == paper_value("Fig. 8", "rotation range")
    assert study.config["start_translation"] == paper_value("Fig. 8", "translation range")
    assert study.config["levels"] == [[1, paper_value("Text", "iterations allowed")]]
