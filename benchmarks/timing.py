"""Timed cases, run in turn so that the machine's noise hits all of them alike."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

PAUSE = 0.005  # [s] between cases: lets another library's spinning threads go to sleep


@dataclass
class Case:
    """One thing to time.

    Attributes:
        what: "image", "image+gradient" (of the ray ends) or "step" (pose to ZNCC to pose gradient).
        run: Does it once; its result is ignored unless `own_clock`.
        image: The image in drrlib's orientation, for the comparison with the reference.
        value: The similarity that a step arrives at.
        own_clock: `run` returns milliseconds itself (a program that reports its own time).
    """

    library: str
    variant: str
    method: str
    what: str
    run: Callable
    image: Callable[[], np.ndarray] | None = None
    value: Callable[[], float] | None = None
    own_clock: bool = False
    times: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        return " ".join(w for w in (self.library, self.method, self.what, self.variant) if w)

    def once(self) -> float:
        """Run and return milliseconds."""
        began = time.perf_counter()
        result = self.run()
        return float(result) if self.own_clock else 1e3 * (time.perf_counter() - began)

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    @property
    def sd(self) -> float:
        return statistics.stdev(self.times) if len(self.times) > 1 else 0.0


def interleave(cases: list[Case], repeats: int, budget_s: float) -> None:
    """Fill `times`: one warm-up run each, then A B C A B C ...

    A case that takes long gets fewer repeats, spread over the rounds, so that all its repeats
    together stay near `budget_s`; at least three, whatever they cost.
    """
    count = {}
    for case in cases:
        warm = max(case.once(), 1e-3)
        count[id(case)] = int(min(repeats, max(3, 1e3 * budget_s // warm)))
    for turn in range(repeats):
        for case in cases:
            k = count[id(case)]
            if (turn + 1) * k // repeats > turn * k // repeats:
                time.sleep(PAUSE)
                case.times.append(case.once())


def in_fresh_process(script: Path, arguments: list[str], timeout: float = 300) -> dict | None:
    """Run `script --memory-of ...` and return the JSON of its last line; None when it fails."""
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        print(f"  memory not measured: {done.stderr.strip().splitlines()[-1:]}")
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])
