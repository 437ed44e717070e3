"""Rows of results.csv and gpu_results.csv, which only grow: what was measured, where, how."""

import csv
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results.csv"
COLUMNS = (
    "date",
    "commit",
    "dirty",
    "device",
    "threads",
    "versions",
    "library",
    "variant",
    "method",
    "what",
    "scene",
    "pose",
    "volume",
    "detector",
    "median_ms",
    "min_ms",
    "sd_ms",
    "repeats",
    "bytes_per_ray",
    "rel_error",
)
GPU_RESULTS = RESULTS.with_name("gpu_results.csv")
GPU_COLUMNS = (
    "date",
    "commit",
    "dirty",
    "device",
    "driver",
    "versions",
    "library",
    "variant",
    "method",
    "dtype",
    "what",
    "scene",
    "pose",
    "volume",
    "detector",
    "batch",
    "patch",
    "status",
    "gpu_ms",
    "wall_ms",
    "wall_min_ms",
    "wall_mean_ms",
    "wall_sd_ms",
    "repeats",
    "peak_bytes",
    "rel_error",
    "crossings_per_ray",
    "copy_bytes_per_s",
)


def circumstances(threads: int) -> dict:
    """The columns that all rows of a run share."""
    changed = _git("status", "--porcelain")
    names = ("results.csv", "gpu_results.csv")
    names += ("explorer.jsonl", "tracking.jsonl", "fuzz.jsonl", "bodies.jsonl")
    rows = tuple(f"benchmarks/{name}" for name in names)
    lines = [x for x in (changed or "").splitlines() if not x.endswith(rows)]
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": _git("rev-parse", "--short=12", "HEAD") or "unknown",
        "dirty": "unknown" if changed is None else bool(lines),
        "device": processor(),
        "threads": threads,
    }


def versions(own: str = "") -> str:
    """Such as "python 3.11.7, torch 2.13.0, ..."."""
    names = [f"python {platform.python_version()}"]
    for name in ("drrlib", "torch", "numpy"):
        try:
            names.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            names.append(f"{name} from this folder" if name == "drrlib" else f"{name} unknown")
    return ", ".join([*names, own] if own else names)


def processor() -> str:
    """Model name and number of processors."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{name} x {os.cpu_count()}"


def append(rows: list[dict], path: Path = RESULTS, columns: tuple = COLUMNS) -> None:
    """Add rows at the end of the file; the header is written once.

    Raises:
        SystemExit: the file has other columns, so that rows would not mean what they say.
    """
    new = not path.exists()
    if not new:
        with path.open(newline="") as file:
            header = tuple(next(csv.reader(file), ()))
        if header != columns:
            raise SystemExit(f"{path} has columns {header}; expected {columns}: move it away")
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", restval="")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip("\n") if done.returncode == 0 else None
