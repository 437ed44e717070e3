"""Studies of many trials: shards that survive a kill, any executor, the same table every time.

A trial is a pure function of the study's configuration and its index. Trials go in shards; a shard
is computed as one call, and its table is written to a temporary name and renamed, so a study that
is killed loses at most the shards that were running, and a second call goes on where it ended.
There is no scheduler here: whatever offers `concurrent.futures.Executor` runs the shards.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from drrlib.atomic import write_whole
from drrlib.errors import ConfigError
from drrlib.progress import progress_bar

Work = Callable[[Mapping, Sequence[int]], pd.DataFrame]


def trial_generator(seed: int, index: int) -> torch.Generator:
    """Random numbers of trial `index`: the same in any order, batch, process or resumed run."""
    state = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)


def installed_version(package: str) -> str:
    """As its metadata say; "unknown" for a package that runs from its sources."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def run_study(
    work: Work,
    config: Mapping,
    trials: int,
    folder: str | os.PathLike,
    *,
    shard: int = 100,
    executor: Executor | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Compute trials 0 .. trials - 1, or those of them that `folder` does not hold yet.

    Args:
        work: (config, indices) -> table with one row for each index and a column `trial`. A
            function of a module, so that other processes can import it.
        config: What the trials depend on; only values that JSON can hold.
        trials: Number of trials; a larger number than last time adds trials.
        folder: Where the shards are kept; one study each.
        shard: Trials computed in one call.
        executor: Runs shards, and returns their tables to this process, which alone writes.
            Default: this process, one shard after the other.
        progress: Show a bar with the time left, where the output is a terminal or notebook.

    Returns:
        The trials in order of their index. `attrs["seconds"]` is the time spent in `work`, summed
        over all shards and, where shards ran elsewhere, over all workers.

    Raises:
        ConfigError: the folder holds another study, or one begun with other versions of drrlib
            and torch, or a number is out of range.
        Whatever `work` raises: shards that were finished by then are kept.
    """
    if trials < 1 or shard < 1:
        raise ConfigError(f"got {trials} trials in shards of {shard}; expected at least 1 of each")
    folder = Path(folder)
    _claim(folder, work, config, shard)
    spans = {first: range(first, min(first + shard, trials)) for first in range(0, trials, shard)}
    tables = {first: _read(folder, span) for first, span in spans.items()}
    missing = [first for first, table in tables.items() if table is None]
    bar = progress_bar(trials, "trial", progress)
    bar.update(trials - sum(len(spans[first]) for first in missing))
    for first, table in _compute(work, config, spans, missing, executor):
        tables[first] = _write(folder, spans[first], table)
        bar.update(len(spans[first]))
    bar.close()
    whole = pd.concat([tables[first] for first in spans], ignore_index=True)
    whole.attrs = {"seconds": sum(table.attrs["seconds"] for table in tables.values())}
    return whole


def _compute(work, config, spans, missing, executor):
    """Yield (first index, table) of the missing shards as they are finished."""
    if executor is None:
        for first in missing:
            yield first, _timed(work, config, spans[first])
        return
    running = {executor.submit(_timed, work, config, spans[first]): first for first in missing}
    try:
        for future in as_completed(running):
            yield running[future], future.result()
    finally:
        for future in running:
            future.cancel()


def _timed(work: Work, config: Mapping, span: range) -> pd.DataFrame:
    """One shard, checked where it was made."""
    began = time.perf_counter()
    table = work(config, span)
    if not isinstance(table, pd.DataFrame) or list(table.get("trial", ())) != list(span):
        raise ConfigError(
            f"work returned {type(table).__name__} for trials {span.start} to {span.stop - 1}; "
            "expected a DataFrame whose column `trial` holds these indices in order"
        )
    table.attrs["seconds"] = time.perf_counter() - began
    return table


def _claim(folder: Path, work: Work, config: Mapping, shard: int) -> None:
    """Write down whose folder this is, or raise if it is another study's."""
    record = {"work": f"{work.__module__}:{work.__qualname__}", "shard": shard}
    record["versions"] = {name: installed_version(name) for name in ("drrlib", "torch")}
    try:
        text = json.dumps({**record, "config": dict(config)}, indent=1, sort_keys=True)
    except TypeError as error:
        raise ConfigError(f"config holds a value that JSON cannot: {error}") from error
    path = folder / "study.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        write_whole(path, lambda name: name.write_text(text + "\n", encoding="utf-8"))
        return
    there, mine = json.loads(path.read_text(encoding="utf-8")), json.loads(text)
    if there != mine:
        there, mine = ({**x.pop("config"), **x} for x in (there, mine))
        names = sorted(there.keys() | mine.keys())
        apart = [k for k in names if there.get(k) != mine.get(k)]
        raise ConfigError(
            f"{folder} holds a study that differs in {', '.join(apart)}; use another folder, or "
            "delete this one to start anew"
        )


def _name(folder: Path, span: range) -> Path:
    return folder / f"shard-{span.start:07d}-{span.stop - 1:07d}.parquet"


def _read(folder: Path, span: range) -> pd.DataFrame | None:
    path = _name(folder, span)
    return pd.read_parquet(path) if path.is_file() else None


def _write(folder: Path, span: range, table: pd.DataFrame) -> pd.DataFrame:
    """Returns the shard as read back: a resumed study sees the very same values."""
    path = _name(folder, span)
    write_whole(path, lambda name: table.to_parquet(name, index=False))
    return pd.read_parquet(path)
