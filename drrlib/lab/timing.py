"""Times and memory of single calls, within a budget: what would not fit is said, not tried."""

import ctypes
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from drrlib.errors import ConfigError


class Timing(NamedTuple):
    """Times of one call.

    Attributes:
        mean_ms, sd_ms: Mean and sample standard deviation [ms]; NaN where there is none.
        runs: Timed runs behind them.
        status: "measured", "out of memory", "needs N GB" or "skipped: about N s".
    """

    mean_ms: float
    sd_ms: float
    runs: int
    status: str

    def __str__(self) -> str:
        """As printed in a table: mean ± sd [ms], or why there is none."""
        if self.status != "measured":
            return self.status
        spread = f" ± {_digits(self.sd_ms, 2)}" if self.runs > 1 else " (1 run)"
        return _digits(self.mean_ms, 3) + spread


@dataclass(frozen=True)
class Budget:
    """What a measurement may cost.

    Args:
        runs: Timed runs of a call, after one to warm up.
        seconds: Time for one call with all its runs. A call that takes long gets fewer runs; one
            so long that there is room for a single run stands alone, its first run counted.
        memory_gb: Memory that a call may need [GB, 1e9 bytes].

    Raises:
        ConfigError: a value that is not positive.
    """

    runs: int = 15
    seconds: float = 60.0
    memory_gb: float = 8.0

    def __post_init__(self):
        for name in ("runs", "seconds", "memory_gb"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected more than 0")

    def time(
        self,
        call: Callable[[], object],
        *,
        need_bytes: float = 0.0,
        need_seconds: float = 0.0,
        device: str = "cpu",
        compiles: bool = False,
    ) -> Timing:
        """Time `call`, unless it is expected to need more than the budget.

        Args:
            need_bytes, need_seconds: What one run is expected to take, from a smaller one.
            device: "cpu" for the wall clock, "cuda" for CUDA events.
            compiles: The first run compiles what it needs for this size; it is not timed, and its
                time not counted as the call's.
        """
        if need_bytes > 1e9 * self.memory_gb:
            return _without(f"needs {_digits(need_bytes / 1e9, 3)} GB")
        if need_seconds > self.seconds:
            return _without(f"skipped: about {_digits(need_seconds, 2)} s")
        try:
            if compiles:
                call()
            first = once(call, device)
            room = int((1e3 * self.seconds - first) / max(first, 1e-6))
            times = [once(call, device) for _ in range(min(self.runs, room))] or [first]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return _without("out of memory")
        sd = statistics.stdev(times) if len(times) > 1 else math.nan
        return Timing(statistics.fmean(times), sd, len(times), "measured")


def once(call: Callable[[], object], device: str = "cpu") -> float:
    """Run `call` and return milliseconds: wall clock, or CUDA events on "cuda"."""
    if device == "cpu":
        began = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - began)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; the CPU allocator has no class for it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("not enough memory", "can't allocate memory", "out of memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def peak_bytes(call: Callable[[], object], device: str = "cpu") -> int:
    """How far `call` raises the memory in use above where it stood.

    CPU: resident memory of this process; what an earlier call freed is first given back to the
    system where the C library can do that; what it cannot give back hides as much of the call's
    need. CUDA: memory of PyTorch's allocator.

    Raises:
        OSError: this system does not tell (other than Linux).
    """
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc; kept blocks would hide as much of the call's need
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # peak := present
    before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}: peak memory cannot be measured here")


def _digits(value: float, n: int) -> str:
    """At least n digits, without an exponent for large numbers."""
    text = f"{value:.{n}g}"
    return f"{value:.0f}" if "e+" in text else text


def _without(status: str) -> Timing:
    return Timing(math.nan, math.nan, 0, status)
