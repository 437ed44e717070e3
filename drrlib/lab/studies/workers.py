"""Where the shards of a study are computed, by name: this process, threads, processes, Dask.

What is shared out are trials, so the best use of a machine is one process per core with kernels
of one thread: between two renders of a step there is Python to run, which more threads in one
process do not speed up. Fewer workers than cores get the cores divided among them, so that no
two threads ever compete for one.
"""

import contextlib
import json
import logging
import multiprocessing
import multiprocessing.context
import multiprocessing.resource_tracker
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import InvalidStateError, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import torch

from drrlib.errors import ConfigError, WorkerError

WAYS = "in-process, threads[:N], processes[:N], dask[:N], tcp://HOST:PORT or file:PATH"
_CONNECT = 20  # seconds until a scheduler must have answered


@contextlib.contextmanager
def workers(scheduler: str, threads: int | None = None, device: str = "cpu") -> Iterator[dict]:
    """Start or reach workers, and end those that were started.

    with workers("processes:4") as how:
        table = run_study(work, config, 1000, folder, **how)

    Args:
        scheduler: "in-process"; "threads:N", of use where a GPU does the work; "processes:N";
            "dask:N", N processes that Dask watches and replaces when they die; "tcp://host:port"
            or "file:path" (what `dask scheduler --scheduler-file` wrote) for a Dask scheduler
            that runs already, whose workers must have the same packages. Without N: as many as
            there are cores, or with Dask as there are GPUs where `device` is "cuda".
        threads: Of the kernels in each worker; None divides the cores among the workers, and is 1
            where these run already.
        device: What the study computes on. Each Dask worker started here sees one GPU, as cuda:0,
            in turn; workers that run already see what CUDA_VISIBLE_DEVICES said at their start;
            all others see what this process sees.

    Yields:
        The arguments `executor` and `threads` of `run_study`.

    Raises:
        ConfigError: no such scheduler, a number out of range, or Dask is not installed.
        WorkerError: no scheduler answers there.
    """
    named = r"(in-process|threads|processes|dask)(?::(\d+))?"
    found = re.fullmatch(named + r"|(tcp://|file:).+", scheduler)
    if found is None or (found[1] == "in-process" and found[2]):
        raise ConfigError(f"scheduler is {scheduler!r}; expected one of {WAYS}")
    if threads is not None and threads < 1:
        raise ConfigError(f"got {threads} threads for each worker; expected at least 1")
    way, gpus = found[1], visible_gpus() if device.startswith("cuda") else []
    count = int(found[2]) if found[2] else len(gpus) if gpus and way == "dask" else cores()
    if count < 1:
        raise ConfigError(f"scheduler is {scheduler!r}; expected at least 1 worker")
    if way == "in-process":
        yield dict(executor=None, threads=threads)
        return
    threads = threads or (max(1, cores() // count) if way else 1)
    with contextlib.ExitStack() as stack:
        if way == "threads":
            executor = stack.enter_context(ThreadPoolExecutor(count))
        elif way == "processes":
            executor = stack.enter_context(_processes(count))
        else:
            where = stack.enter_context(_cluster(count, gpus)) if way else _address(scheduler)
            executor = stack.enter_context(_dask(where))
        yield dict(executor=executor, threads=threads)


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # what a batch system has left us
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(i) for i in range(torch.cuda.device_count())]
    return [name.strip() for name in named.split(",") if name.strip()]


@contextlib.contextmanager
def _processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """New interpreters: a fork of a process that has run kernels would hang in their threads."""
    others, afterwards = set(multiprocessing.active_children()), contextlib.ExitStack()
    pool = ProcessPoolExecutor(count, mp_context=_Quiet(), initializer=_begin_process)
    with afterwards, pool:
        try:
            yield pool
        except BaseException:
            # Up to Python 3.11 the pool's thread stumbles over futures that were cancelled before
            # their turn, and prints so. Nobody waits for them.
            told = threading.excepthook
            afterwards.callback(setattr, threading, "excepthook", told)
            threading.excepthook = lambda x: issubclass(x.exc_type, InvalidStateError) or told(x)
            # Leaving the block waits for running shards, which nobody wants any more.
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise


class _QuietProcess(multiprocessing.context.SpawnProcess):
    """A process that meets Ctrl-C while it starts as one that ignores it.

    It is born with the signal blocked, as it is in the thread that starts it. What this thread
    misses is kept for it, or meets another one. Windows has no such mask.
    """

    def start(self) -> None:
        if not hasattr(signal, "pthread_sigmask"):
            return super().start()
        # Started by the first process otherwise, and then it unblocks the signal for itself.
        multiprocessing.resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Quiet(multiprocessing.context.SpawnContext):
    Process = _QuietProcess


def _begin_process() -> None:
    """In a process of the pool: leave Ctrl-C to the caller, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # what was blocked is ignored
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _distributed():
    try:
        import distributed
    except ImportError as error:
        raise ConfigError(
            f"this scheduler needs Dask ({error}): pip install 'drrlib[cluster]'"
        ) from error
    return distributed


@contextlib.contextmanager
def _cluster(count: int, gpus: list[str]):
    """A scheduler in this process, and workers in processes of their own, on this machine alone."""
    dd = _distributed()
    home = dict(host="127.0.0.1", protocol="tcp", dashboard=False, dashboard_address=None)
    # One shard at a time. Dask's limit on memory, a share of the machine's for each worker, would
    # kill a worker that holds a large CT.
    options = dict(home, nthreads=1, memory_limit=0, silence_logs=logging.WARNING)
    options["preload"] = [__name__]
    specs = {}
    for i in range(count):
        # A nanny sets this in its worker before any CUDA call, and again after a restart.
        env = {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {}
        specs[i] = {"cls": dd.Nanny, "options": {**options, "env": env}}
    scheduler = {"cls": dd.Scheduler, "options": {**home, "port": 0}}
    with dd.SpecCluster(specs, scheduler, silence_logs=logging.WARNING) as cluster:
        yield cluster


def dask_setup(worker) -> None:
    """Dask calls this in each worker that preloads this module: leave Ctrl-C to the caller."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _dask(where):
    """Dask runs a shard again when its worker dies: four times, and then names it (the scheduler's
    `allowed-failures`). Its `retries` are for calls that raise; ours would raise again. `pure`
    would give equal calls one key, by which a busy scheduler could answer with an earlier run's
    result.
    """
    dd = _distributed()
    try:
        client = dd.Client(where, timeout=_CONNECT, set_as_default=False)
    except OSError as error:
        raise WorkerError(
            f"no Dask scheduler answers at {where} ({error}); start one with `dask scheduler`, or "
            "look at the address that it printed"
        ) from error
    with client:
        if not isinstance(where, dd.SpecCluster) and not client.scheduler_info()["workers"]:
            print("the scheduler has no workers yet; waiting for them", file=sys.stderr)
        yield client.get_executor(pure=False)


def _address(scheduler: str) -> str:
    if not scheduler.startswith("file:"):
        return scheduler
    path = Path(scheduler.removeprefix("file:"))
    try:
        return json.loads(path.read_text(encoding="utf-8"))["address"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{path} is no file of a Dask scheduler ({error}); expected what `dask scheduler "
            "--scheduler-file` writes"
        ) from error
