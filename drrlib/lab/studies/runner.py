"""Studies of many trials: shards that survive a kill, any executor, the same table every time.

A trial is a pure function of the study's configuration and its index. Trials go in shards; a shard
is computed as one call, and its table is written to a temporary name and renamed, so a study that
is killed loses at most the shards that were running, and a second call goes on where it ended.
There is no scheduler here: whatever offers `concurrent.futures.Executor` runs the shards
(`workers` opens the usual ones), and `drrlib study` runs a study from a file.
"""

import functools
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, as_completed
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from drrlib.atomic import write_whole
from drrlib.errors import ConfigError, WorkerError
from drrlib.lab.threads import limited_threads
from drrlib.progress import progress_bar, silent
from drrlib.versions import installed_version

Work = Callable[[Mapping, Sequence[int]], pd.DataFrame]
_log = logging.getLogger("drrlib.lab.studies")


def trial_generator(seed: int, index: int) -> torch.Generator:
    """Random numbers of trial `index`: the same in any order, batch, process or resumed run."""
    state = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)


def run_study(
    work: Work,
    config: Mapping,
    trials: int,
    folder: str | os.PathLike,
    *,
    shard: int = 100,
    executor: Executor | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Compute trials 0 .. trials - 1, or those of them that `folder` does not hold yet.

    Args:
        work: (config, indices) -> table with one row for each index and a column `trial`. A
            function of a module, so that other processes can import it.
        config: What the trials depend on; only values that JSON can hold.
        trials: Number of trials; a larger number than last time adds trials, and computes a
            last shard anew that was not full.
        folder: Where the shards are kept; one study each.
        shard: Trials computed in one call.
        executor: Runs shards, and returns their tables to this process, which alone writes.
            Default: this process, one shard after the other.
        threads: Of the CPU kernels in each call; None leaves them as they are. All at once should
            not be more than the machine has cores. PyTorch computes a shard in one thread
            whatever this is: the last bits of its sums change with its number of threads.
        progress: Show a bar with the time left, where the output is a terminal or notebook.

    Returns:
        The trials in order of their index, the same bits by any executor on processors of one
        kind. `attrs["seconds"]` is the time spent in `work`, summed over all shards and, where
        shards ran elsewhere, over all workers; `shard_log` tells who computed what.

    Raises:
        ConfigError: the folder holds another study, or one begun with other versions of drrlib
            and torch, or a worker has other versions, or a number is out of range.
        WorkerError: the executor lost its processes.
        Whatever `work` raises.
        In each case the shards that were finished by then are kept.
    """
    if executor is not None and (work.__module__ == "__main__" or "<" in work.__qualname__):
        raise ConfigError(
            f"work is {work.__module__}:{work.__qualname__}, which another process cannot import; "
            "move it to the top level of a module"
        )
    spans, folder = _spans(trials, shard), Path(folder)
    _claim(folder, work, config, shard)
    call = functools.partial(_timed, work, dict(config), threads, _versions())
    held = _held(folder, spans)
    tables = {k: pd.read_parquet(path).head(len(spans[k])) for k, path in held.items()}
    with progress_bar(trials, "trial", progress) as bar:
        _complete(tables, folder, spans, call, executor, bar)
    whole = pd.concat([tables[first] for first in spans], ignore_index=True)
    whole.attrs = {"seconds": sum(table.attrs["seconds"] for table in tables.values())}
    return whole


def _complete(tables, folder: Path, spans, call, executor: Executor | None, bar) -> None:
    """Compute the shards that are not among the tables, and write them."""
    trials, done = (sum(len(spans[first]) for first in some) for some in (spans, tables))
    missing = [first for first in spans if first not in tables]
    bar.update(done)
    try:
        for first, table in _compute(call, spans, missing, executor):
            tables[first] = _write(folder, spans[first], table)
            done += len(spans[first])
            bar.update(len(spans[first]))
            made = tables[first].attrs
            who = (first, spans[first][-1], made["worker"], made["seconds"])
            _log.info("%d of %d trials; %d to %d by %s in %.1f s", done, trials, *who)
    except Exception as error:
        kept = f"{done} of {trials} trials are kept in {folder}: run the study again to go on"
        if told := _lost(error, kept):
            raise WorkerError(told) from error
        raise


def finished_trials(
    work: Work, config: Mapping, trials: int, folder: str | os.PathLike, *, shard: int = 100
) -> int:
    """How many trials of a study its folder holds; nothing is written. Errors as `run_study`."""
    spans, folder = _spans(trials, shard), Path(folder)
    _claim(folder, work, config, shard, write=False)
    return sum(len(spans[first]) for first in _held(folder, spans))


def shard_log(folder: str | os.PathLike) -> pd.DataFrame:
    """Who computed which shard of a study and when, in order of time; each trial is in one shard.

    Returns:
        Columns first and last (trial), worker ("host:process id"), and began and ended
        [seconds since 1970, by the worker's clock].
    """
    rows = []
    for path in _shards(Path(folder)).values():
        try:
            table = pd.read_parquet(path, columns=["trial"])
        except FileNotFoundError:  # a longer one has just taken its place
            return shard_log(folder)
        made, trial = table.attrs, table["trial"]
        ended = made["began"] + made["seconds"]
        rows.append((trial.iloc[0], trial.iloc[-1], made["worker"], made["began"], ended))
    columns = ["first", "last", "worker", "began", "ended"]
    return pd.DataFrame(rows, columns=columns).sort_values("began", ignore_index=True)


def _spans(trials: int, shard: int) -> dict[int, range]:
    """First index of each shard -> its indices."""
    if trials < 1 or shard < 1:
        raise ConfigError(f"got {trials} trials in shards of {shard}; expected at least 1 of each")
    return {first: range(first, min(first + shard, trials)) for first in range(0, trials, shard)}


def _compute(call, spans, missing, executor):
    """Yield (first index, table) of the missing shards as they are finished."""
    if executor is None:
        for first in missing:
            yield first, call(spans[first])
        return
    running = {executor.submit(call, spans[first]): first for first in missing}
    try:
        for future in as_completed(running):
            first, table = running.pop(future), future.result()
            # Whoever holds a future of Dask wants its result kept: when the worker that has it
            # dies, the shard is computed again, though its table is here.
            del future
            yield first, table
    finally:
        for future in running:
            future.cancel()


def _timed(work: Work, config: Mapping, threads: int | None, versions: dict, span: range):
    """One shard, computed and checked where it is made."""
    if _versions() != versions:
        raise ConfigError(
            f"a worker has {_versions()}, the study is computed with {versions}; install the same "
            "versions everywhere"
        )
    began, clock = time.time(), time.perf_counter()
    with limited_threads(threads), silent():
        table = work(config, span)
    if not isinstance(table, pd.DataFrame) or list(table.get("trial", ())) != list(span):
        raise ConfigError(
            f"work returned {type(table).__name__} for trials {span.start} to {span.stop - 1}; "
            "expected a DataFrame whose column `trial` holds these indices in order"
        )
    seconds, worker = time.perf_counter() - clock, f"{platform.node()}:{os.getpid()}"
    # Beside the values, so that tables of any origin are equal.
    table.attrs |= {"seconds": seconds, "began": began, "worker": worker}
    return table


def _lost(error: Exception, kept: str) -> str | None:
    """What happened to the workers, and what to do; None of an error of the work itself."""
    if isinstance(error, CancelledError):
        return f"the scheduler went away or cancelled the study; {kept} once it is back"
    if isinstance(error, BrokenExecutor):
        return (
            "a process that computed shards died: killed, or out of memory, or it could not start "
            f"(its own message, if any, is above; a script must start processes under "
            f'`if __name__ == "__main__":`); {kept}, with fewer processes if memory was short'
        )
    if type(error).__name__ == "KilledWorker":  # of Dask, which need not be installed
        kept = f"use fewer workers, or smaller shards; {kept}"
        return f"{error} Perhaps they ran out of memory: {kept}"
    return None


def _versions() -> dict[str, str]:
    return {name: installed_version(name) for name in ("drrlib", "torch")}


def _claim(folder: Path, work: Work, config: Mapping, shard: int, write: bool = True) -> None:
    """Write down whose folder this is, or raise if it is another study's."""
    mine = dict(work=f"{work.__module__}:{work.__qualname__}", shard=shard, versions=_versions())
    try:
        text = json.dumps({**mine, "config": dict(config)}, indent=1, sort_keys=True)
    except TypeError as error:
        raise ConfigError(f"config holds a value that JSON cannot: {error}") from error
    path = folder / "study.json"
    if path.is_file():
        there, mine = json.loads(path.read_text(encoding="utf-8")), json.loads(text)
        there, mine = ({**x.pop("config"), **x} for x in (there, mine))
        apart = [k for k in sorted(there.keys() | mine.keys()) if there.get(k) != mine.get(k)]
        if apart:
            raise ConfigError(
                f"{folder} holds a study that differs in {', '.join(apart)}; use another folder, "
                "or delete this one to start anew"
            )
    elif write:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda name: name.write_text(text + "\n", encoding="utf-8"))


def _shards(folder: Path) -> dict[int, Path]:
    """First index -> file of the longest shard that begins there.

    Of the last shard of a study there may be two, while trials are added to it.
    """
    return {_ends(path)[0]: path for path in sorted(folder.glob("shard-*-*.parquet"), key=_ends)}


def _ends(path: Path) -> tuple[int, int]:
    """First and last index of a shard, from the name of its file."""
    _, first, last = path.stem.split("-")
    return int(first), int(last)


def _held(folder: Path, spans: Mapping[int, range]) -> dict[int, Path]:
    """First index -> file that holds these trials, perhaps with more of them after the last."""
    there = _shards(folder)
    return {k: there[k] for k, s in spans.items() if k in there and _ends(there[k])[1] >= s[-1]}


def _write(folder: Path, span: range, table: pd.DataFrame) -> pd.DataFrame:
    """Returns the shard as read back: a resumed study sees the very same values."""
    path = folder / f"shard-{span.start:07d}-{span.stop - 1:07d}.parquet"
    write_whole(path, lambda name: table.to_parquet(name, index=False))
    for other in folder.glob(f"shard-{span.start:07d}-*.parquet"):
        if _ends(other) < _ends(path):  # from before trials were added
            other.unlink(missing_ok=True)
    return pd.read_parquet(path)
