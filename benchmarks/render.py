"""Times drrlib's rendering, and its peers' on the same volume and geometry: see README.md.

python benchmarks/render.py --quick --peers none
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

WIDE = 400  # detector at which other volumes and the frontal pose are measured
PEER_LIMIT = 0.05  # a larger error is another image and not a less exact one
OWN_LIMIT = {"oblique": 2e-5, "ap": 1e-3}  # rays in voxel faces may take either neighbour


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--sizes", type=int, nargs="+", default=[100, 200, 400, 600, 900, 1200, 1800])
    add("--volumes", type=int, nargs="+", default=[256, 128, 512], help="the first gets all sizes")
    add("--ct", help="a NIfTI file in place of the analytic volumes")
    add("--repeats", type=int, default=15)
    add("--budget", type=float, default=2.5, help="seconds for the repeats of one case")
    add("--peers", nargs="+", default=["all"], help="all, none, or names")
    add("--threads", type=int, default=min(2, os.cpu_count() or 1))
    add("--quick", action="store_true", help="100 and 200 only, five repeats")
    add("--check", action=argparse.BooleanOptionalAction, default=True, help="tests first")
    add("--no-append", action="store_true", help="leave results.csv as it is")
    add("--memory", action=argparse.BooleanOptionalAction, default=True)
    add("--memory-of", help=argparse.SUPPRESS)
    chosen = parser.parse_args(words)
    if chosen.quick:
        chosen.sizes = [n for n in chosen.sizes if n <= 200] or chosen.sizes[:1]
        chosen.volumes, chosen.repeats = chosen.volumes[:1], min(chosen.repeats, 5)
    return chosen


def main(words: list[str] | None = None) -> int:
    options = arguments(words)
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # before anything that reads them is imported
    import memory

    if options.memory_of:
        print(json.dumps(memory.here(json.loads(options.memory_of), options.threads)))
        return 0
    import record
    import report
    from peers import choose

    peers = choose(options.peers)
    if options.check and not tests_are_green():
        print("the projectors' tests are red: nothing was measured", file=sys.stderr)
        return 1
    if not options.check:
        print("note: without --check no row is appended to results.csv")
    common = record.circumstances(options.threads)
    print(f"{common['device']}, {options.threads} threads, {record.versions()}")
    rows = []
    if options.memory:
        rows += memory.measure(HERE / "render.py", options, peers)
        report.memory(rows)
    for scene, views in scenes(options):
        rows += measure(scene, views, options, peers)
    report.goals(rows)
    if options.check and not options.no_append:
        record.append([{**common, **row} for row in rows])
        print(f"{len(rows)} rows appended to {record.RESULTS}")
    return 0


def scenes(options: argparse.Namespace):
    """Each scene with its views: all sizes once; other volumes and the frontal pose at one."""
    from scene import blobs, ct

    first, *others = options.volumes
    scene = ct(options.ct) if options.ct else blobs(first)
    frontal = [scene.view("ap", WIDE)] if WIDE in options.sizes else []
    yield scene, [*(scene.view("oblique", n) for n in options.sizes), *frontal]
    for n in [] if options.ct else others:
        scene = blobs(n)
        yield scene, [scene.view("oblique", WIDE)]


def measure(scene, views, options, peers) -> list[dict]:
    """Verify and time all libraries on each view; rows for results.csv."""
    import ours
    import record
    import report
    from peers import load
    from scene import STEP
    from timing import interleave

    adapters = [ours.DrrLib(scene, options.threads), *load(peers, scene, options.threads)]
    reference = ours.Reference(scene)
    versions = {a.library: record.versions(a.version) for a in adapters}
    rows = []
    for view in views:
        began = time.perf_counter()
        fixed = adapters[0].image(scene.view(view.pose, view.n, STEP))
        cases = [case for adapter in adapters for case in adapter.cases(view, fixed)]
        errors = verify(cases, reference, view)
        interleave(cases, options.repeats, options.budget)
        block = []
        for case in cases:
            block.append(
                {
                    "versions": versions[case.library],
                    "library": case.library,
                    "variant": case.variant,
                    "method": case.method,
                    "what": case.what,
                    "scene": scene.name,
                    "pose": view.pose,
                    "volume": scene.volume,
                    "detector": view.n,
                    "median_ms": round(case.median, 4),
                    "min_ms": round(min(case.times), 4),
                    "sd_ms": round(case.sd, 4),
                    "repeats": len(case.times),
                    "rel_error": f"{errors[case.library, case.variant, case.method]:.2e}",
                }
            )
        report.table(block, time.perf_counter() - began)
        rows += block
    return rows


def verify(cases, reference, view) -> dict:
    """Relative error of each library's image, by (library, variant, method).

    Raises:
        SystemExit: an image is not the one that all should render, or a step arrives at
            another similarity than drrlib's. A time would then mean nothing.
    """
    errors, similarity = {}, {}
    for case in cases:
        if case.image:
            error = reference.error(case.image(), view, case.method)
            limit = OWN_LIMIT[view.pose] if case.library == "drrlib" else PEER_LIMIT
            if not error <= limit:
                raise SystemExit(
                    f"{case.name} at {view.n}, {view.pose}: image is {error:.1e} off the "
                    f"reference; expected at most {limit:g}: check the adapter's geometry"
                )
            errors[case.library, case.variant, case.method] = error
        if case.value:
            value = case.value()
            own = similarity.setdefault(case.method == "siddon", value)  # drrlib comes first
            if not abs(value - own) <= 0.02:
                raise SystemExit(
                    f"{case.name} at {view.n}: similarity {value:.4f}, drrlib's is {own:.4f}: "
                    "the two do not take the same step"
                )
    return errors


def tests_are_green() -> bool:
    """Run the projectors' tests; red tests block the benchmark."""
    print("tests/projectors first (--no-check leaves them out):", flush=True)
    command = [sys.executable, "-m", "pytest", "tests/projectors", "-q", "-x", "--no-header"]
    return subprocess.run(command, cwd=HERE.parent, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
