"""Time drrlib's renderer beside other programs, on one volume and one pose.

    python benchmarks/render.py --quick                 a minute, few sizes
    python benchmarks/render.py                         everything that is installed
    python benchmarks/render.py --peers itk,rtk --sizes 200,400 --repeats 20

What is timed: `image` without gradients; `sums`, the image with what its backward pass needs;
`gradients`, image and backward pass to source and detector; `step`, from the six pose
parameters through the image and the zero-normalised cross-correlation to their gradient.
Rows are appended to benchmarks/results.csv, but only if the projector tests pass first.
"""

import argparse
import csv
import datetime
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).with_name("results.csv")
SDD, SOD, DETECTOR, EXTENT = 1020.0, 510.0, 400.0, 256.0  # mm
ETA = [0.12, 0.35, 0.0, 3.0, -5.0, 7.0]  # oblique: rad and mm
MOVED = [0.16, 0.30, 0.03, 6.0, -1.0, 4.0]  # where the fixed image of a step was taken
STEP_SIZE = 200  # torch peers need gigabytes above it
CHECKED_RAYS = 4096
WORST_ERROR = 0.05  # of a peer's image; above it the geometries differ and it is not timed
COLUMNS = (
    "date commit dirty cpu threads versions library variant method what volume detector "
    "median_ms min_ms sd_ms repeats bytes_per_ray rel_error"
).split()


@dataclass
class Task:
    """One thing to time. A float that `run` returns replaces the clock's milliseconds."""

    library: str
    variant: str
    method: str
    what: str
    volume: int
    detector: int
    run: Callable[[], object]
    error: float = float("nan")
    times: list[float] = field(default_factory=list)

    def median(self) -> float:
        return statistics.median(self.times)

    def row(self) -> dict:
        sd = statistics.stdev(self.times) if len(self.times) > 1 else 0.0
        return {
            **{name: getattr(self, name) for name in COLUMNS[6:12]},
            "median_ms": f"{self.median():.3f}",
            "min_ms": f"{min(self.times):.3f}",
            "sd_ms": f"{sd:.3f}",
            "repeats": len(self.times),
            "bytes_per_ray": "",
            "rel_error": "" if self.error != self.error else f"{self.error:.2e}",
        }


# --- the scene


def make_volume(size: int):
    """A box-like body that fills the grid, with balls, a cavity and texture; no symmetry."""
    import numpy as np

    axis = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij", sparse=True)
    body = (x / 0.97) ** 8 + (y / 0.95) ** 8 + (z / 0.98) ** 8 < 1
    mu = 0.02 + 0.002 * np.sin(9 * x + 5 * y) * np.cos(7 * z - 3 * x)
    balls = [(0.35, -0.2, 0.4, 0.3, 0.03), (-0.5, 0.3, -0.1, 0.22, 0.05), (0.1, 0.5, -0.6, 0.2, 1)]
    for cx, cy, cz, radius, value in balls:
        inside = (x - cx) ** 2 + 1.5 * (y - cy) ** 2 + (z - cz) ** 2 < radius**2
        mu = np.where(inside, 0.0005 if value == 1 else mu + value, mu)
    mu = np.where(body, mu, 0).astype(np.float32)
    spacing = EXTENT / size
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -(size - 1) / 2 * spacing
    return mu, affine


def make_carm(n: int):
    from drrlib.carm import CArm

    return CArm(SDD, SOD, n, n, DETECTOR / n, DETECTOR / n)


def render(grid, carm, eta, method: str = "siddon"):
    """[1, n, n] of drrlib's kernel for eta [1, 6]."""
    from drrlib.projectors import project

    frame = carm.frame(carm.pose(eta, eta.new_zeros(3)))
    return project(grid, *frame, carm.height, carm.width, method=method, backend="cpu")


def eta_tensor(values=ETA):
    import torch

    return torch.tensor([values], dtype=torch.float64)


class Truth:
    """Line integrals of a sample of the pixels by the float64 reference."""

    def __init__(self, mu, affine, n: int):
        import torch

        from drrlib.projectors import Grid, line_integrals

        rng = torch.Generator().manual_seed(0)
        self.pixels = torch.randperm(n * n, generator=rng)[:CHECKED_RAYS]
        carm = make_carm(n)
        pose = carm.pose(eta_tensor(), torch.zeros(3, dtype=torch.float64))
        source, corner, col_step, row_step = (x[0] for x in carm.frame(pose))
        i, j = (self.pixels // n)[:, None] + 0.5, (self.pixels % n)[:, None] + 0.5
        target = corner + j * col_step + i * row_step
        grid = Grid(torch.from_numpy(mu).double(), torch.from_numpy(affine))
        with torch.no_grad():
            self.values = {
                method: line_integrals(grid, source, target, method=method, backend="reference")
                for method in ("siddon", "joseph")
            }

    def error(self, image, method: str) -> float:
        """Relative RMS error of an image [n, n]; all but Joseph's are held to the exact one."""
        import torch

        truth = self.values["joseph" if method == "joseph" else "siddon"]
        values = torch.as_tensor(image.copy()).double().flatten()[self.pixels]
        return float((values - truth).norm() / truth.norm())


# --- tasks


def own_tasks(mu, affine, n: int, truth: Truth) -> list[Task]:
    import torch

    from drrlib.losses import zncc
    from drrlib.projectors import Grid, project

    grid, carm, size = Grid(torch.from_numpy(mu), torch.from_numpy(affine)), make_carm(n), len(mu)
    frame = carm.frame(carm.pose(eta_tensor(), torch.zeros(3, dtype=torch.float64)))
    with torch.no_grad():
        fixed = render(grid, carm, eta_tensor(MOVED))[:, None]
    tasks = []
    for method in ("siddon", "joseph"):

        def image(method=method):
            with torch.no_grad():
                return project(grid, *frame, n, n, method=method, backend="cpu")

        def sums(method=method):
            ends = [x.detach().requires_grad_() for x in frame]
            return project(grid, *ends, n, n, method=method, backend="cpu")

        def gradients(sums=sums, weights=torch.ones(1, n, n)):
            sums().backward(weights)

        def step(method=method):
            eta = eta_tensor().requires_grad_()
            zncc(fixed, render(grid, carm, eta, method)[:, None]).sum().backward()

        error = truth.error(image()[0].numpy(), method)
        for run in (image, sums, gradients, step):
            tasks.append(Task("drrlib", "cpu", method, run.__name__, size, n, run, error))
    return tasks


def peer_tasks(name, mu, affine, n, truth, threads, quick, versions) -> list[Task]:
    """Tasks of one peer whose image agrees with the reference; says why where there are none."""
    import peers
    import torch

    from drrlib.projectors import Grid

    carm = make_carm(n)
    pose = carm.pose(eta_tensor(), torch.zeros(3, dtype=torch.float64))[0].numpy()
    grid = Grid(torch.from_numpy(mu), torch.from_numpy(affine))
    with torch.no_grad():
        fixed = render(grid, carm, eta_tensor(MOVED))[0]
    scene = peers.Scene(mu, affine, pose, SDD, SOD, n, DETECTOR / n, fixed)
    tasks = []
    try:
        for variant in peers.PEERS[name](scene, threads, quick):
            versions[variant.library] = variant.version
            error = truth.error(variant.image() * variant.scale, variant.method)
            if error > WORST_ERROR:
                print(f"  {name} {variant.name}: image is off by {error:.1%}, not timed")
                continue

            def image(variant=variant):
                variant.image()
                return variant.milliseconds() if variant.milliseconds else None

            runs = {"image": image}
            if variant.step:
                runs["step"] = variant.step
            for what, run in runs.items():
                own = (variant.library, variant.name, variant.method)
                tasks.append(Task(*own, what, len(mu), n, run, error))
    except (ImportError, OSError, RuntimeError, AttributeError, TypeError) as error:
        print(f"  {name} left out: {type(error).__name__}: {str(error)[:200]}")
    return tasks


def measure(tasks: list[Task], repeats: int, seconds: float) -> None:
    """Interleave the repeats; a task stops early (3 at least) once it has had its seconds."""
    for task in tasks:
        task.run()  # compile, allocate, fill caches
    for turn in range(repeats):
        for task in tasks:
            if turn >= 3 and sum(task.times) > 1e3 * seconds:
                continue
            time.sleep(0.005)  # lets another library's waiting threads go to sleep
            start = time.perf_counter()
            reported = task.run()
            elapsed = 1e3 * (time.perf_counter() - start)
            task.times.append(reported if isinstance(reported, float) else elapsed)


# --- memory


def _memory(key: str) -> int:
    return 1024 * int(re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def memory_probe(size: int, n: int, method: str) -> None:
    """Print the bytes per ray beyond volume and image of one forward and backward pass."""
    import torch

    from drrlib.projectors import Grid

    mu, affine = make_volume(size)
    grid = Grid(torch.from_numpy(mu), torch.from_numpy(affine))

    def once(pixels: int) -> None:
        eta = eta_tensor().requires_grad_()
        render(grid, make_carm(pixels), eta, method).mean().backward()

    once(32)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _memory("VmRSS")
    once(n)
    print((_memory("VmHWM") - before) / n**2 - 4)  # the image itself takes 4


def bytes_per_ray(size: int, n: int, method: str) -> float | None:
    command = [sys.executable, __file__, "--memory-probe", f"{size},{n},{method}"]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        print(f"  memory not measured: {run.stderr.strip().splitlines()[-1:]}")
        return None
    return float(run.stdout.split()[-1])


# --- report


def print_table(tasks: list[Task]) -> None:
    """Times of one volume and detector, and the ratios that matter."""
    for task in tasks:
        row = task.row()
        print(
            f"  {task.library:12s}{task.variant:14s}{task.method:10s}{task.what:10s}"
            f"{task.median():10.1f} ms  min {min(task.times):9.1f}  sd {float(row['sd_ms']):7.1f}"
            f"  x{len(task.times):<3d} image error {task.error:.1e}"
        )
    own = {(t.method, t.what): t.median() for t in tasks if t.library == "drrlib"}
    for task in tasks:
        if task.library == "drrlib":
            continue
        method = "joseph" if task.method == "joseph" else "siddon"
        for what in ("image", "sums", "gradients") if task.what == "image" else ("step",):
            ratio = task.median() / own[method, what]
            name = f"{task.library} {task.variant}"
            print(f"  {name} {task.what} / drrlib {method} {what}: {ratio:.2f}")


def append(rows: list[dict]) -> None:
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} rows appended to {RESULTS.relative_to(ROOT)}")


def _git(*words: str) -> str:
    run = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    return run.stdout.strip()


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.*)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor()


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repeats")
    parser.add_argument("--sizes", type=_numbers, help="detector sizes (100,200,400,600)")
    parser.add_argument("--volumes", type=_numbers, help="volume sizes (256,128); the first gets "
                        "every detector, the others only the one nearest to 200")  # fmt: skip
    parser.add_argument("--repeats", type=int, help="at most (10; quick 5)")
    parser.add_argument("--peers", default="all", help="all, none, or itk,rtk,... (all)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-append", action="store_true", help="leave results.csv alone")
    parser.add_argument("--no-check", action="store_true", help="skip the tests; appends nothing")
    parser.add_argument("--memory-probe", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.sizes = options.sizes or ([100, 200] if options.quick else [100, 200, 400, 600])
    options.volumes = options.volumes or ([256] if options.quick else [256, 128])
    options.repeats = options.repeats or (5 if options.quick else 10)
    return options


def main() -> int:
    options = arguments()
    # Read by the libraries when they are imported, so before any of them.
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        os.environ[name] = str(options.threads)
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    if options.memory_probe:
        size, n, method = options.memory_probe.split(",")
        memory_probe(int(size), int(n), method)
        return 0
    if not options.no_check:
        tests = ["-m", "pytest", "tests/projectors", "-q", "-x"]
        if subprocess.run([sys.executable, *tests], cwd=ROOT).returncode:
            print("the projector tests fail: nothing is timed (--no-check looks all the same)")
            return 1

    import numba
    import torch

    from peers import PEERS

    torch.set_num_threads(options.threads)
    names = {"all": list(PEERS), "none": []}.get(options.peers, options.peers.split(","))
    if unknown := set(names) - set(PEERS):
        print(f"unknown peers {sorted(unknown)}; choose from {', '.join(PEERS)}")
        return 2
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions["numba"] = numba.__version__
    rows = []
    for size in options.volumes:
        mu, affine = make_volume(size)
        first = size == options.volumes[0]
        nearest = min(options.sizes, key=lambda n: abs(n - STEP_SIZE))
        for n in options.sizes if first else [nearest]:
            print(f"volume {size}^3, detector {n}^2, {options.threads} threads", flush=True)
            truth = Truth(mu, affine, n)
            fast, slow = own_tasks(mu, affine, n, truth), []
            for name in names:
                in_torch = name in ("diffdrr", "nanodrr")
                if in_torch and not (first and n == nearest):
                    continue
                found = peer_tasks(
                    name, mu, affine, n, truth, options.threads, options.quick, versions
                )
                (slow if in_torch else fast).extend(found)
            measure(fast, options.repeats, seconds=8.0)
            measure(slow, min(options.repeats, 5), seconds=12.0)
            print_table(fast + slow)
            rows += [task.row() for task in fast + slow]
    for method in ("siddon", "joseph"):
        n = 600 if options.quick else 1800
        found = bytes_per_ray(options.volumes[0], n, method)
        if found is None:
            continue
        print(f"memory of image and backward pass, {n}^2, {method}: {found:.1f} bytes per ray")
        task = Task("drrlib", "cpu", method, "memory", options.volumes[0], n, print, times=[0.0])
        timeless = {"median_ms": "", "min_ms": "", "sd_ms": "", "repeats": 1}
        rows.append({**task.row(), **timeless, "bytes_per_ray": f"{found:.1f}"})
    common = {
        "date": datetime.date.today().isoformat(),
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "dirty": int(bool(_git("status", "--porcelain", "--", "drrlib", "benchmarks/*.py"))),
        "cpu": _cpu(),
        "threads": options.threads,
        "versions": " ".join(f"{name}={version}" for name, version in versions.items()),
    }
    if not (options.no_append or options.no_check):
        append([{**common, **row} for row in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
