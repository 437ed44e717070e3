"""Wrong arguments, wrong headers, wrong bytes: drrlib answers with errors of its own.

python benchmarks/fuzz.py --calls 10000 --headers 100000 --files 10000 --xrays 10000

Faults: a raw error, a trial of more than ten seconds of computing, the end of the process, and a
message, warning or log record that repeats what stands in a file. Each is printed once, with the
command that does its trial again; its input is kept in `--keep`. The whole run above takes
some 20 minutes of one core: 18 of them for CT headers.

Trials run in one process of their own, which a watchdog ends where a trial does not return, and
which is started again behind it. A trial is known by its kind, seed and number alone:

python benchmarks/fuzz.py --again headers 0 1234
"""

import argparse
import collections
import faulthandler
import json
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KINDS = ("calls", "headers", "files", "xrays")
ROWS = Path(__file__).with_name("fuzz.jsonl")
SLOW = 10.0  # seconds of computing, whatever else the machine does
HANG = 45.0  # seconds of the wall's clock after which a trial is taken not to return
MEMORY = 8 * 2**30  # bytes of addresses, so that a trial that asks for more fails alone


def trials(kind: str, folder: Path):
    """The object whose `trial(draw)` does one."""
    if kind == "calls":
        from fuzzing.calls import Calls as Kind
    elif kind == "files":
        from fuzzing.files import Files as Kind
    elif kind == "xrays":
        from fuzzing.headers import Xrays as Kind
    else:
        from fuzzing.headers import Headers as Kind
    return Kind(folder)


def attempt(tried, kind: str, seed: int, number: int) -> str | None:
    """What is wrong with one trial."""
    began = time.process_time()
    found = tried.trial(random.Random(f"{kind} {seed} {number}"))
    took = time.process_time() - began
    return f"slow: {took:.0f} s; {found or ''}" if took > SLOW else found


def keep(tried, kind: str, seed: int, number: int, where: Path) -> None:
    """The input of the trial that was done last: its files, or its call as text."""
    place = where / f"{kind}-{seed}-{number}"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(tried.folder, place)
    given = getattr(tried, "given", "")
    if given:
        (place / "call.txt").write_text(given, encoding="utf-8", errors="replace")


def work(options) -> int:
    """Trials in this process; the number of each is told in a mapped file before it begins."""
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1)
    faulthandler.enable()
    limit_memory()
    import torch

    torch.set_num_threads(1)
    folder, kind = Path(options.folder), options.work
    os.chdir(folder)  # a call may write a file of any name
    tried = trials(kind, folder)
    if hasattr(tried, "warm"):
        tried.warm()
    with open(folder / "number", "r+b") as file, mmap.mmap(file.fileno(), 8) as told:
        for number in range(options.first, options.last):
            struct.pack_into("<q", told, 0, number)
            found = attempt(tried, kind, options.seed, number)
            if found:
                print(json.dumps([number, found]), flush=True)
                if options.keep:
                    keep(tried, kind, options.seed, number, Path(options.keep))
        struct.pack_into("<q", told, 0, options.last)
    return 0


def limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, hard))


class Worker:
    """A process that does trials from `first` on, and the watch over it."""

    def __init__(self, kind: str, options, first: int, last: int, folder: Path):
        self.folder, self.first = folder, first
        (folder / "number").write_bytes(struct.pack("<q", -1))
        command = [sys.executable, __file__, "--work", kind, "--seed", str(options.seed)]
        command += ["--first", str(first), "--last", str(last), "--folder", str(folder)]
        command += ["--keep", str(options.keep)] if options.keep else []
        with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err)

    @property
    def number(self) -> int:
        """Of the trial that it does; -1 before the first."""
        return struct.unpack("<q", (self.folder / "number").read_bytes())[0]

    def watch(self, stop: float) -> str:
        """Waits for its end; what ended it, empty if nothing was wrong."""
        seen, since = self.number, time.monotonic()
        while self.process.poll() is None:
            time.sleep(0.1)
            now, number = time.monotonic(), self.number
            if number != seen:
                seen, since = number, now
            if now > stop:
                self.end()
                return "time"
            if now - since > (HANG if number >= 0 else 600):  # kernels are compiled at first
                if hasattr(faulthandler, "register"):
                    self.process.send_signal(signal.SIGUSR1)  # it prints where it is
                    time.sleep(1)
                self.end()
                return f"it did not return within {HANG:.0f} s: {self.last_words()}"
        code = self.process.returncode
        return f"the process ended with {code}: {self.last_words()}" if code else ""

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def last_words(self) -> str:
        lines = (self.folder / "err").read_text(errors="replace").splitlines()
        places = [x.strip() for x in lines if x.strip().startswith("File") and "fuzz" not in x]
        return (places or lines[-1:] or [""])[0][:200]

    def faults(self) -> list[tuple[int, str]]:
        lines = (self.folder / "out").read_text().splitlines()
        return [tuple(json.loads(line)) for line in lines if line.startswith("[")]


def run(kind: str, count: int, options, stop: float) -> dict:
    """So many trials of a kind, until the time is up; prints what is wrong and counts it."""
    began, cpu = time.monotonic(), children()
    number, faults = options.first, []
    last = options.first + count
    while number < last and time.monotonic() < stop:
        with tempfile.TemporaryDirectory(dir=memory_disk()) as folder:
            worker = Worker(kind, options, number, last, Path(folder))
            why = worker.watch(stop)
            faults += worker.faults()
            number = worker.number
            if why and why != "time":
                faults.append((number, why))
                if options.keep and number >= 0:
                    place = Path(options.keep) / f"{kind}-{options.seed}-{number}"
                    shutil.copytree(folder, place, dirs_exist_ok=True)
                if number < 0:  # it did not even begin
                    raise SystemExit(f"{kind}: {why}")
                number += 1
    seen = collections.Counter()
    for number_of, text in faults:
        seen[text[:60]] += 1
        if seen[text[:60]] == 1:
            print(f"{text}\n  again: --again {kind} {options.seed} {number_of}", flush=True)
    row = dict(kind=kind, seed=options.seed, first=options.first, trials=max(number, 0))
    row["trials"] -= options.first
    row |= dict(asked=count, faults=len(faults), kinds_of_faults=len(seen))
    row |= dict(wall_s=round(time.monotonic() - began, 1), cpu_s=round(children() - cpu, 1))
    print(f"{kind}: {row['trials']} of {count} trials in {row['cpu_s']:.0f} s of computing, "
          f"{len(faults)} faults of {len(seen)} kinds", flush=True)  # fmt: skip
    return row


def children() -> float:
    """Seconds of computing of all processes that were started and have ended."""
    times = os.times()
    return times.children_user + times.children_system


def memory_disk() -> str | None:
    """A folder that lies in memory, where there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def again(options) -> int:
    """One trial in this process, with what it says."""
    kind, seed, number = options.again[0], int(options.again[1]), int(options.again[2])
    with tempfile.TemporaryDirectory(dir=memory_disk()) as folder:
        tried = trials(kind, Path(folder))
        found = attempt(tried, kind, seed, number)
        keep(tried, kind, seed, number, Path(options.keep or "."))
    print(found or "nothing is wrong")
    return int(bool(found))


def parsed(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    for kind in KINDS:
        add(f"--{kind}", type=int, default=0, metavar="N", help="trials")
    add("--seconds", type=float, default=7200.0, help="of the wall's clock, for all of them")
    add("--seed", type=int, default=0)
    add("--first", type=int, default=0, help="number of the first trial")
    add("--keep", type=os.path.abspath, help="folder for the inputs of faults")
    add("--record", action="store_true", help=f"add a row for each kind to {ROWS.name}")
    add("--again", nargs=3, metavar=("KIND", "SEED", "NUMBER"), help="one trial once more")
    for inner in ("--work", "--folder"):
        add(inner, help=argparse.SUPPRESS)
    add("--last", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv=None) -> int:
    """Number of faults."""
    options = parsed(argv)
    if options.work:
        return work(options)
    if options.again:
        return again(options)
    stop = time.monotonic() + options.seconds
    where = {}
    if options.record:
        import record

        where = record.circumstances(1) | {"versions": record.versions()}
    rows = [run(k, getattr(options, k), options, stop) for k in KINDS if getattr(options, k)]
    if options.record:
        with ROWS.open("a", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(where | row) + "\n" for row in rows)
    return sum(row["faults"] for row in rows)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
