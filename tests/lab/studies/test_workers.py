"""Real worker processes: whatever runs the shards and whoever is killed, the table is the same."""

import contextlib
import importlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

import numba
import pytest
import torch

from drrlib.errors import ConfigError, WorkerError
from drrlib.lab.studies import (
    Protocol,
    finished_trials,
    registration_trials,
    run_study,
    shard_log,
    workers,
)
from drrlib.lab.studies.workers import cores
from study_work import counted, draws, fatal, signals, witness

pytest.importorskip("distributed", reason="Dask is not installed: pip install 'drrlib[cluster]'")

# `drrlib.lab.studies.workers` is the function of this name.
MODULE = importlib.import_module("drrlib.lab.studies.workers")
HERE = Path(__file__).resolve().parent
CONFIG = {"seed": 3, "scale": 2.0}


def wait_for(condition, process=None, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline and (process is None or process.poll() is None)
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not yet waited for does not."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def repeated(function):
    """Calls a function again and again in a thread while the block runs."""
    over = threading.Event()

    def loop():
        while not over.wait(0.02):
            function()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(loop)
        try:
            yield
        finally:
            over.set()
        running.result()


@pytest.fixture
def dask_processes(tmp_path):
    """A scheduler and two workers as users start them, over TCP; no nanny brings one back."""
    file, started = tmp_path / "scheduler.json", []

    def start(*words):
        environment = {**os.environ, "PYTHONPATH": str(HERE), "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "dask", *words, "--scheduler-file", str(file)]
        with (tmp_path / "dask.log").open("a") as log:
            started.append(
                subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=tmp_path)
            )

    start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    wait_for(file.is_file, started[0])
    for _ in range(2):
        start("worker", "--no-nanny", "--nthreads", "1", "--no-dashboard")
    yield file, started
    for process in started:
        process.kill()
        process.wait()


def test_a_registration_study_has_the_same_bits_by_any_way(tmp_path):
    # More pixels than PyTorch adds in one thread, unless it is told to.
    size = dict(volume="thorax", voxel=12.0, pixels=192, levels=((1, 3),), device="cpu")
    config = Protocol(**size).config()
    plain = run_study(registration_trials, config, 4, tmp_path / "plain", shard=1)
    assert plain["loss"].nunique() == 4
    for way in ("in-process", "threads:2", "processes:2", "dask:2"):
        with workers(way, threads=1) as how:
            table = run_study(registration_trials, config, 4, tmp_path / way, shard=1, **how)
        assert table.equals(plain), way


def test_a_killed_worker_costs_its_running_shards_alone(tmp_path, dask_processes):
    file, processes = dask_processes
    (lines := tmp_path / "lines").mkdir()
    config = {**CONFIG, "sleep": 0.05, "lines": str(lines)}
    killed = []

    def kill_one():
        """After each worker has finished some shards."""
        log = shard_log(tmp_path / "study")
        per_worker = log["worker"].value_counts()
        if not killed and len(per_worker) == 2 and per_worker.min() >= 3:
            pid = int(per_worker.index[0].split(":")[1])
            assert pid in [p.pid for p in processes[1:]]
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    with workers(f"file:{file}") as how, repeated(kill_one):
        table = run_study(counted, config, 80, tmp_path / "study", shard=2, **how)
    assert table.equals(run_study(draws, CONFIG, 80, tmp_path / "plain"))
    assert killed
    begun = {int(p.name): [int(x) for x in p.read_text().split()] for p in lines.iterdir()}
    log = shard_log(tmp_path / "study")
    mine = log[log["worker"].str.endswith(f":{killed[0]}")]
    kept = {i for a, b in zip(mine["first"], mine["last"], strict=True) for i in range(a, b + 1)}
    assert len(kept) >= 6
    # What ran twice is at most what the dead worker had not delivered: a shard that was on its way,
    # and the one that it had begun.
    twice = {i for i, n in Counter(itertools.chain(*begun.values())).items() if n > 1}
    assert twice <= set(begun[killed[0]]) - kept and len(twice) <= 4


@pytest.mark.parametrize("way", ["processes:2", "dask:2"])
def test_after_a_killed_caller_another_way_goes_on(tmp_path, way):
    config = {**CONFIG, "sleep": 0.1}
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "from drrlib.lab.studies import run_study, workers\n"
        "from study_work import draws\n"
        f"if __name__ == '__main__':\n    with workers({way!r}) as how:\n"
        f"        run_study(draws, {config!r}, 80, 'study', shard=2, **how)\n"
    )
    folder = tmp_path / "study"
    process = subprocess.Popen([sys.executable, script.name], cwd=tmp_path)
    wait_for(lambda: shard_log(folder)["worker"].nunique() == 2, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    orphans = [int(name.split(":")[1]) for name in shard_log(folder)["worker"].unique()]
    done = finished_trials(draws, config, 80, folder, shard=2)
    assert 4 <= done < 80 and process.pid not in orphans
    other = {"processes:2": "threads:2", "dask:2": "processes:2"}[way]
    with workers(other) as how:
        resumed = run_study(draws, config, 80, folder, shard=2, **how)
    assert resumed.equals(run_study(draws, CONFIG, 80, tmp_path / "plain"))
    # No worker outlives the caller by long, or is there to write into the folder.
    wait_for(lambda: not any(alive(pid) for pid in orphans), seconds=60)


def test_a_broken_pool_says_what_to_do(tmp_path):
    config = {**CONFIG, "at": 9}
    with (
        workers("processes:1") as how,
        pytest.raises(WorkerError, match=r"died.*8 of 20 trials are kept.*run the study again"),
    ):
        run_study(fatal, config, 20, tmp_path, shard=4, **how)


def test_a_shard_that_kills_its_workers_is_given_up(tmp_path):
    import dask

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        workers("dask:1") as how,
        pytest.raises(WorkerError, match=r"all those workers died.*fewer workers"),
    ):
        run_study(fatal, {**CONFIG, "at": 3}, 4, tmp_path, shard=4, **how)


def test_a_lost_scheduler_is_told(tmp_path):
    class Gone(Executor):
        def submit(self, *_):
            """As Dask's client does for what runs when its scheduler goes away."""
            future = Future()
            future.cancel()
            future.set_running_or_notify_cancel()
            return future

    with pytest.raises(WorkerError, match=r"scheduler went away.*0 of 20"):
        run_study(draws, CONFIG, 20, tmp_path, executor=Gone())


def test_each_worker_has_its_share_of_cores_and_its_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    monkeypatch.setattr(MODULE, "cores", lambda: 2 * cores())
    config = {"sleep": 0.3}
    with workers("dask", device="cuda") as how:
        table = run_study(witness, config, 8, tmp_path / "dask", shard=1, **how)
    assert table.groupby("gpu")["pid"].nunique().to_dict() == {"5": 1, "7": 1}
    assert how["threads"] == cores() and set(table["kernel"]) == {cores()}
    assert set(table["torch"]) == {1}
    with workers("processes:2", threads=1) as how:
        table = run_study(witness, config, 4, tmp_path / "processes", shard=1, **how)
    assert set(table["kernel"]) == {1} and set(table["gpu"]) == {"5,7"}
    assert table["pid"].nunique() == 2


@pytest.mark.parametrize("way", ["processes:1", "dask:1"])
def test_ctrl_c_is_left_to_the_caller(tmp_path, way):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.getsignal(signal.SIGINT)
    with workers(way) as how:
        table = run_study(signals, {}, 2, tmp_path, shard=1, **how)
    assert table["ignored"].all() and not table["blocked"].any()
    assert (signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.getsignal(signal.SIGINT)) == before


def test_threads_are_given_back(tmp_path):
    before = torch.get_num_threads(), numba.get_num_threads()
    table = run_study(witness, {}, 2, tmp_path, threads=1)
    assert set(table["kernel"]) == {1} and set(table["torch"]) == {1}
    assert (torch.get_num_threads(), numba.get_num_threads()) == before
    more = run_study(witness, {}, 2, tmp_path / "more", threads=10**6)
    assert set(more["kernel"]) == {numba.config.NUMBA_NUM_THREADS}


def test_shares_of_the_cores(monkeypatch):
    monkeypatch.setattr(MODULE, "cores", lambda: 16)
    shares = {"threads": 1, "threads:4": 4, "threads:5": 3, "threads:40": 1}
    for way, share in shares.items():
        with workers(way) as how:
            assert how["threads"] == share
    with workers("in-process") as how:
        assert how == dict(executor=None, threads=None)


def test_a_worker_of_other_versions_is_refused(tmp_path, monkeypatch):
    with workers("processes:1") as how:
        run_study(draws, CONFIG, 4, tmp_path / "good", **how)
        monkeypatch.setattr("drrlib.lab.studies.runner.installed_version", lambda name: "0.0")
        with pytest.raises(ConfigError, match=r"a worker has .*'0\.0'.*same versions everywhere"):
            run_study(draws, CONFIG, 4, tmp_path / "bad", **how)


@pytest.mark.parametrize(
    ("way", "threads", "told"),
    [
        ("cluster", None, "expected one of in-process, threads"),
        ("in-process:2", None, "expected one of"),
        ("processes:two", None, "expected one of"),
        ("dask:0", None, "at least 1 worker"),
        ("threads:2", 0, "at least 1"),
        ("file:nowhere.json", None, "nowhere.json is no file of a Dask scheduler"),
        ("file:wrong.json", None, "dask scheduler --scheduler-file"),
    ],
)
def test_wrong_names_are_told(tmp_path, monkeypatch, way, threads, told):
    monkeypatch.chdir(tmp_path)
    Path("wrong.json").write_text("{}")
    with pytest.raises(ConfigError, match=told), workers(way, threads):
        pass


def test_what_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(MODULE, "_CONNECT", 1)
    with pytest.raises(WorkerError, match="no Dask scheduler answers at tcp"):
        with workers("tcp://127.0.0.1:9"):
            pass
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"pip install 'drrlib\[cluster\]'"), workers("dask:1"):
        pass


def test_work_that_others_cannot_import_is_refused(tmp_path):
    def local(config, indices):
        return draws(config, indices)

    with workers("threads:1") as how, pytest.raises(ConfigError, match="cannot import"):
        run_study(local, CONFIG, 4, tmp_path, **how)
    assert len(run_study(local, CONFIG, 4, tmp_path)) == 4
