"""Times the explorer from a slider's movement to the picture's bytes, against the bare render.

python benchmarks/explorer.py --threads 2

A movement of a slider sets its value, as a browser's message does; the state moves, the DRR is
rendered, compared and composed, panels are drawn, the picture is encoded, the widgets follow. What
the browser takes to show it is not in it. Both are measured in turn at the same poses and pixels.
"""

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
ROWS = HERE / "explorer.jsonl"


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--size", type=int, default=200, help="rows and columns of the image")
    add("--voxels", type=int, default=256, help="along each edge of the volume")
    add("--modes", nargs="+", default=None, help="all, unless some are named")
    add("--repeats", type=int, default=30)
    add("--threads", type=int, default=min(2, os.cpu_count() or 1))
    add("--no-append", action="store_true", help="print without adding rows to explorer.jsonl")
    return parser.parse_args(words)


def scene_of(options: argparse.Namespace):
    """Volume, view and pose: those of render.py."""
    import torch
    from scene import DETECTOR, POSES, SDD, SOD, blobs

    from drrlib import DRR, CArm, View, Volume

    made = blobs(options.voxels)
    volume = Volume(made.mu, made.affine)
    carm = CArm.square(SDD, SOD, options.size, DETECTOR)
    start = torch.tensor(POSES["oblique"], dtype=torch.float64)
    return volume, View(DRR(volume, carm).at(start), carm, start=start)


async def measured(options: argparse.Namespace) -> list[dict]:
    """Medians of every mode, and of the bare render; in a loop, as in a notebook's kernel."""
    import torch
    from timing import Case, interleave

    from drrlib.lab.explorer import MODES, explore

    volume, view = scene_of(options)
    panel = explore(volume, view, budget=float("inf"))  # moving images keep all their pixels
    state, drr = panel.state, panel.state.sights.drr
    angle = itertools.cycle(5 + 0.37 * k for k in range(17))

    def bare() -> None:
        with torch.no_grad():
            drr.at(state.eta)

    def moved(mode: str) -> None:
        state.mode = mode
        panel.pose.sliders["theta"].value = next(angle)

    modes = options.modes or list(MODES)
    for mode in modes:
        moved(mode)  # everything is compiled, and windows are known
    assert state.look(True).moving.shape == (options.size, options.size)
    cases = [Case("drrlib", "", "", "bare render", bare)]
    cases += [Case("drrlib", mode, "", "explorer", lambda m=mode: moved(m)) for mode in modes]
    interleave(cases, options.repeats, budget_s=30)
    render = cases[0].median
    cpu = {case.variant: cpu_ms(case.run, options.repeats) for case in cases}
    return [
        dict(
            what=case.what,
            mode=case.variant,
            median_ms=round(case.median, 2),
            min_ms=round(min(case.times), 2),
            sd_ms=round(case.sd, 2),
            ratio=round(case.median / render, 3),
            cpu_ms=round(cpu[case.variant], 2),
            cpu_ratio=round(cpu[case.variant] / cpu[""], 3),
            repeats=len(case.times),
        )
        for case in cases
    ]


def cpu_ms(run: Callable[[], None], repeats: int) -> float:
    """Milliseconds of processor time of one call, all threads together, the median: what other
    processes of a shared machine take is not in it."""
    took = []
    for _ in range(repeats):
        began = time.process_time()
        run()
        took.append(1e3 * (time.process_time() - began))
    return statistics.median(took)


def main(words: list[str] | None = None) -> int:
    options = arguments(words)
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    import numba
    import record
    import torch

    torch.set_num_threads(options.threads)
    numba.set_num_threads(min(options.threads, numba.config.NUMBA_NUM_THREADS))
    rows = asyncio.run(measured(options))
    print(f"{options.size}² pixels, {options.voxels}³ voxels, {options.threads} threads")
    for row in rows:
        name = f"{row['what']} {row['mode']}"
        wall = f"{row['median_ms']:8.1f} ms, x {row['ratio']:.2f}"
        print(f"{name:24}{wall}; processor {row['cpu_ms']:6.1f} ms, x {row['cpu_ratio']:.2f}")
    if not options.no_append:
        where = record.circumstances(options.threads)
        size = dict(detector=options.size, volume=options.voxels)
        with ROWS.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({**where, **size, **row}) + "\n" for row in rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
