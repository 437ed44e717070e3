"""A study from a file: `drrlib study FILE.toml --scheduler WAY --output TABLE`.

The file names the work, how many trials, and what they depend on:

    work = "registration"            # or "rates", or "package.module:function"
    trials = 1000
    shard = 100                      # trials computed in one call
    folder = "results/full/studies/thousand"   # from where the command is given

    [config]                         # for "registration", entries of Protocol
    volume = "skull"

The same command goes on where the last one ended, with any scheduler.
"""

import argparse
import importlib
import json
import logging
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from drrlib.atomic import write_whole
from drrlib.errors import ConfigError, DrrlibError, WorkerError
from drrlib.lab.evaluation import error_table, success_table
from drrlib.lab.studies.landmarks import landmark_trials
from drrlib.lab.studies.looks import look_trials
from drrlib.lab.studies.pipeline import pipeline_trials
from drrlib.lab.studies.protocol import Protocol
from drrlib.lab.studies.registration import rate_trials, registration_trials
from drrlib.lab.studies.runner import Work, finished_trials, run_study
from drrlib.lab.studies.similarity import similarity_trials
from drrlib.lab.studies.workers import WAYS, workers

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

WORKS = {"registration": registration_trials, "rates": rate_trials, "pipeline": pipeline_trials}
# Works whose protocol is one entry of many.
_PROTOCOL_INSIDE = (rate_trials, pipeline_trials, landmark_trials, similarity_trials, look_trials)
_WRITERS = {".parquet": pd.DataFrame.to_parquet, ".csv": pd.DataFrame.to_csv}
DONE, FAILED, REFUSED, STOPPED = 0, 1, 2, 130  # exit statuses


@dataclass(frozen=True)
class Study:
    """What `run_study` is to do, and nothing about where."""

    work: Work
    trials: int
    shard: int
    folder: Path
    config: dict

    def finished(self) -> int:
        """How many trials its folder holds."""
        return finished_trials(self.work, self.config, self.trials, self.folder, shard=self.shard)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 a trial or its workers failed, 2 refused, 130 stopped by Ctrl-C."""
    options = _options(argv)
    try:
        study = read_study(options)
        # As early as the folder: an hour of work must not end with a wrong name.
        if options.output and options.output.suffix not in _WRITERS:
            raise ConfigError(
                f"output is {options.output}; expected a name that ends in .parquet or .csv"
            )
        if options.dry_run:
            print(_plan(study, options))
            return DONE
        return _run(study, options)
    except DrrlibError as error:
        print(f"study: {error}", file=sys.stderr)
        return FAILED if isinstance(error, WorkerError) else REFUSED


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    text, layout = __doc__.split("\n", 1), argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="drrlib study",
        formatter_class=layout,
        description="Run a study from a file, or go on with it.",
        epilog=text[1].strip("\n"),
    )
    parser.add_argument("file", type=Path, help="the study, in TOML")
    parser.add_argument("--scheduler", default="in-process", help=f"{WAYS}; default: in-process")
    parser.add_argument("--threads", type=int, help="of the kernels, in each worker")
    parser.add_argument("--output", type=Path, help="where the table goes, .parquet or .csv")
    parser.add_argument("--dry-run", action="store_true", help="only say what would run")
    own = parser.add_argument_group("instead of what the file says")
    own.add_argument("--folder", type=Path, help="where the finished shards are kept")
    own.add_argument("--trials", type=int, help="a larger number than last time adds trials")
    own.add_argument("--shard", type=int, help="trials computed in one call")
    own.add_argument("--seed", type=int, help="of [config], or of its protocol")
    return parser.parse_args(argv)


def read_study(options: argparse.Namespace) -> Study:
    """The file with what the command line sets in its place.

    Raises:
        ConfigError: the file cannot be read, names something unknown, lacks something, or leaves
            to workers elsewhere what they compute on.
    """
    try:
        entries = tomllib.loads(options.file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{options.file} cannot be read as TOML: {error}") from error
    kinds = dict(work=str, trials=int, shard=int, folder=str, config=dict)
    unknown = sorted(set(entries) - set(kinds))
    if unknown:
        raise ConfigError(
            f"{options.file} has {', '.join(unknown)}; expected {', '.join(kinds)}, and what the "
            "trials depend on below [config]"
        )
    given = {k: getattr(options, k) for k in ("trials", "shard", "folder")}
    entries |= {k: v for k, v in given.items() if v is not None}
    entries = {"shard": 100, "config": {}} | entries
    for name, kind in kinds.items():
        if name not in entries:
            raise ConfigError(f"{options.file} lacks {name}; add a line `{name} = ...`")
        if not isinstance(entries[name], (kind, Path)) or isinstance(entries[name], bool):
            raise ConfigError(f"{name} is {entries[name]!r}; expected a {kind.__name__}")
    work, config = find_work(entries["work"]), entries["config"]
    if options.seed is not None:
        holder = config.setdefault("protocol", {}) if work in _PROTOCOL_INSIDE else config
        holder["seed"] = options.seed
    elsewhere = options.scheduler.startswith(("tcp://", "file:"))
    if work is registration_trials:
        config = _protocol(config, elsewhere)
    elif work in _PROTOCOL_INSIDE:
        config = {**config, "protocol": _protocol(config.get("protocol", {}), elsewhere)}
    return Study(work, entries["trials"], entries["shard"], Path(entries["folder"]), config)


def find_work(name: str) -> Work:
    """A work by its short name, or "package.module:function" imported."""
    if name in WORKS:
        return WORKS[name]
    module, _, function = name.partition(":")
    if not (module and function):
        raise ConfigError(
            f"work is {name!r}; expected {', '.join(WORKS)} or 'package.module:function'"
        )
    try:
        work = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"work {name!r} cannot be imported: {error}; start from the folder that holds the "
            "module, or install its package"
        ) from error
    if not callable(work):
        raise ConfigError(f"work {name!r} is a {type(work).__name__}; expected a function")
    return work


def _protocol(config: dict, elsewhere: bool) -> dict:
    """Every entry of the protocol. What "auto" stands for is settled here, once for all workers:
    left to them, one study could mix devices."""
    protocol = Protocol.of(config)
    if elsewhere and protocol.device == "auto":
        raise ConfigError(
            "device is 'auto', and what the workers of a running scheduler have is not known "
            'here; write device = "cpu" or "cuda" below [config]'
        )
    return protocol.config()


def _run(study: Study, options: argparse.Namespace) -> int:
    if not sys.stderr.isatty():  # a terminal has the progress bar
        told, log = logging.StreamHandler(sys.stderr), logging.getLogger("drrlib.lab.studies")
        told.setFormatter(logging.Formatter("study: %(message)s"))
        log.handlers, log.level, log.propagate = [told], logging.INFO, False
    device = study.config.get("protocol", study.config).get("device", "cpu")
    try:
        with workers(options.scheduler, options.threads, device) as how:
            how["shard"] = study.shard
            table = run_study(study.work, study.config, study.trials, study.folder, **how)
    except KeyboardInterrupt:
        print(f"\nstudy: stopped; {_kept(study)}", file=sys.stderr)
        return STOPPED
    except DrrlibError:
        raise
    except Exception:  # of the work: whoever wrote it wants to see where
        traceback.print_exc()
        print(f"study: a trial failed; {_kept(study)}", file=sys.stderr)
        return FAILED
    if output := options.output:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(output, lambda name: _WRITERS[output.suffix](table, name, index=False))
    print(f"{len(table)} trials, {table.attrs['seconds']:.1f} s of work; shards in {study.folder}")
    if study.work is registration_trials:
        print(success_table(table).round(1).to_string(index=False))
    if study.work is pipeline_trials:
        print(error_table(table, ["view"]).round(3).T.to_string(header=False))
    return DONE


def _kept(study: Study) -> str:
    done = study.finished()
    return f"{done} of {study.trials} trials are kept in {study.folder}; the same command goes on"


def _plan(study: Study, options: argparse.Namespace) -> str:
    trials = f"{study.trials} in shards of {study.shard}; {study.finished()} finished"
    return f"""\
work       {study.work.__module__}:{study.work.__qualname__}
trials     {trials}
folder     {study.folder}
scheduler  {options.scheduler}
output     {options.output or "none"}
config     {json.dumps(study.config)}"""
