"""GPU time, wall time and peak memory of one case; memory that runs out is a result."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CalledProcessError, run

import torch
from timing import Case

from drrlib.lab.timing import peak_bytes

OUT_OF_MEMORY = "out of memory"
# [ms] A call that takes longer has no launches worth hiding: one run gives both times.
LONG = 20.0
_CYCLES_PER_MS = 2e6  # of torch.cuda._sleep, for a clock of 2 GHz; a slower one sleeps longer


class Meter:
    """The clocks and the memory counter of "cuda" (the current device) or "cpu"."""

    def __init__(self, device: str):
        self.device = torch.device(device)
        self.cuda = self.device.type == "cuda"

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def time(self, call: Callable) -> tuple[float, float | None]:
        """Wall time and GPU time [ms]; the latter is None without a GPU.

        Wall: from an idle device to a finished result. GPU: between two CUDA events around the
        call. A short call is run a second time for it, behind a sleep of the device while it is
        enqueued, so that what Python needs to launch the kernels does not count, unless the
        call itself waits for the device.
        """
        self.wait()
        events = self._events()
        began = time.perf_counter()
        self._between(call, events)
        wall = 1e3 * (time.perf_counter() - began)
        if events and wall < LONG:
            torch.cuda._sleep(int(_CYCLES_PER_MS * (1.5 * wall + 0.2)))
            self._between(call, events)
        return wall, events[0].elapsed_time(events[1]) if events else None

    def _events(self) -> list:
        return [torch.cuda.Event(enable_timing=True) for _ in range(2)] if self.cuda else []

    def _between(self, call: Callable, events: list) -> None:
        if events:
            events[0].record()
        call()
        if events:
            events[1].record()
        self.wait()

    def peak(self, call: Callable) -> int | None:
        """Bytes that the call allocates at its peak beyond what was there; None without a GPU."""
        self.wait()
        if not self.cuda:
            call()
            return None
        return peak_bytes(call, "cuda")

    def release(self) -> None:
        """Give back what earlier cases left in PyTorch's cache."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def copy_bytes_per_s(self, size: int = 2**30) -> float:
        """Bandwidth of copying a tensor, read and written bytes together; the best of ten."""
        if self.cuda:
            size = min(size, torch.cuda.mem_get_info(self.device)[0] // 4)
        else:
            size = min(size, 2**26)
        a = torch.zeros(size // 4, device=self.device)
        b = torch.zeros_like(a)
        times = (self.time(lambda: b.copy_(a)) for _ in range(10))
        best = min(wall if gpu is None else gpu for wall, gpu in times)
        return 2 * a.nbytes / (best / 1e3)

    @property
    def name(self) -> str:
        if self.cuda:
            return torch.cuda.get_device_name(self.device)
        from record import processor

        return processor()

    @property
    def driver(self) -> str:
        """Version of the NVIDIA driver, "none" on a CPU."""
        if not self.cuda:
            return "none"
        words = ["--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            done = run(["nvidia-smi", *words], capture_output=True, text=True, check=True)
            return done.stdout.splitlines()[0].strip()
        except (OSError, CalledProcessError, IndexError):
            proc = Path("/proc/driver/nvidia/version")
            return proc.read_text().splitlines()[0].strip() if proc.exists() else "unknown"


@dataclass
class GpuCase(Case):
    """A case on a device.

    `run` returns what a user gets; `image` returns all images of the batch as a tensor.

    Attributes:
        status: "ok", "out of memory", or what went wrong.
        gpu_times: [ms], as many as `times` and before them those of the warm-up.
    """

    dtype: str = "float32"
    meter: Meter = field(default_factory=lambda: Meter("cpu"))
    status: str = "ok"
    peak: int | None = None
    gpu_times: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{super().name} {self.dtype}"

    def attempt(self, call: Callable):
        """The call's result, or None after a failure, which `status` then names.

        Raises:
            torch.AcceleratorError: the device itself failed; nothing after it can be trusted.
        """
        if self.status != "ok":
            return None
        try:
            return call()
        except torch.cuda.OutOfMemoryError:
            self.status = OUT_OF_MEMORY
        except Exception as problem:
            if "out of memory" in str(problem):  # said by the driver and not by PyTorch
                self.status = OUT_OF_MEMORY
            elif isinstance(problem, getattr(torch, "AcceleratorError", ())):
                raise
            else:
                self.status = f"failed: {type(problem).__name__}: {_first_line(problem)}"
        self.meter.release()  # here, where the exception no longer holds the tensors
        return None

    def warm(self, seconds: float, runs: int) -> None:
        """Run twice, the second time for `peak`; out if `runs` more would take too long.

        A compiled variant keeps its memory in a pool of its own, which `peak` would not see.
        """
        self.attempt(self.run)
        began = time.perf_counter()
        peak = self.attempt(lambda: self.meter.peak(self.run))
        each = time.perf_counter() - began
        self.peak = None if "compile" in self.variant else peak
        if self.status == "ok" and runs * each > seconds:
            self.status = f"left out: {runs} runs of {each:.1f} s are more than the time left"

    def once(self) -> float:
        """Wall time [ms], and one more of `gpu_times`; 0 once the case has failed."""
        wall, gpu = self.attempt(lambda: self.meter.time(self.run)) or (0.0, None)
        if gpu is not None:
            self.gpu_times.append(gpu)
        return wall

    @property
    def gpu_median(self) -> float | None:
        """Median GPU time [ms] over the runs in `times`."""
        return statistics.median(self.gpu_times[-len(self.times) :]) if self.gpu_times else None


def _first_line(problem: Exception) -> str:
    lines = str(problem).strip().splitlines()
    return lines[0][:160] if lines else "no message"
