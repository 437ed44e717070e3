"""`drrlib check`: what runs here, how exactly, and how fast."""

import argparse
import math
import os
import platform
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from drrlib.cli.common import DONE, FAILED, parser, run, say
from drrlib.drr import DRR
from drrlib.errors import BackendError
from drrlib.geometry import CArm, eta
from drrlib.projectors import BACKENDS
from drrlib.versions import installed_version
from drrlib.volume import Volume

PACKAGES = ("torch", "numpy", "numba", "scipy", "pydicom", "nibabel", "triton")
# What each extra brings: named by the package that matters.
EXTRAS = {
    "lab": "matplotlib",
    "formats": "SimpleITK",
    "mesh": "trimesh",
    "cma": "cma",
    "cluster": "distributed",
}
BOUND = 1e-3  # error of an image or gradient, as a part of the largest value, that passes
_SECONDS = 1.0  # of timed runs of each call
_EXAMPLES = """
  drrlib check
  drrlib check --voxels 256     a volume as large as a CT, for times that are yours
"""


class Row(NamedTuple):
    """A backend's errors, as parts of the largest value, and times [ms]; or why there are none."""

    backend: str
    image: float = math.nan
    gradient: float = math.nan
    image_ms: float = math.nan
    both_ms: float = math.nan
    why: str = ""


def command() -> argparse.ArgumentParser:
    made = parser(
        "check",
        "Says what runs here: versions, devices, and of every backend the error of image and pose "
        "gradient against the float64 reference, and the time of an image of 200 x 200 pixels. "
        f"Exit status: 0, or 1 where an error is above {BOUND:g}.",
        _EXAMPLES,
        "[--voxels N]",
    )
    made.add_argument("--voxels", type=int, default=128, help="along each side; default: 128")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 all backends that can run are right, 1 one is not, 2 refused."""
    options = command().parse_args(argv)
    return run("check", options, lambda: _check(options))


def _check(options: argparse.Namespace) -> int:
    print("versions")
    _table([["drrlib", installed_version("drrlib")], ["python", platform.python_version()]])
    _table([[name, installed_version(name, "none")] for name in PACKAGES])
    found = {name: installed_version(package, "none") for name, package in EXTRAS.items()}
    missing = [name for name, version in found.items() if version == "none"]
    print(f"  extras that are not installed: {', '.join(missing) or 'none'}")
    print("devices")
    _table([["cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {_processor()}"]])
    for k in range(torch.cuda.device_count()):
        _table([[f"cuda:{k}", torch.cuda.get_device_name(k)]])
    rows = compare_backends(options.voxels)
    print("backends, error against the float64 reference, time of 200 x 200 pixels")
    texts = [["", "image", "gradient", "image", "with gradient"]]
    for row in rows:
        if row.why:
            texts.append([row.backend, row.why])
        else:
            errors = [f"{x:.1e}" for x in (row.image, row.gradient)]
            texts.append([row.backend, *errors, f"{row.image_ms:.1f} ms", f"{row.both_ms:.1f} ms"])
    _table(texts)
    wrong = [r.backend for r in rows if not r.why and not max(r.image, r.gradient) < BOUND]
    print(f"wrong: {', '.join(wrong)}" if wrong else "all backends that can run are right")
    return FAILED if wrong else DONE


def compare_backends(voxels: int = 128) -> list[Row]:
    """Errors on a small image, since the reference is slow, and times of one of 200 x 200."""
    say("check", "comparing backends; the first time the CPU kernel is compiled, half a minute")
    small = DRR(_ball(48).to(torch.float64), _carm(40), backend="reference")
    exact = _image_and_slope(small)
    rows = []
    for backend in BACKENDS[1:]:
        device = "cuda" if backend == "cuda" and torch.cuda.is_available() else "cpu"
        try:
            found = _image_and_slope(DRR(_ball(48).to(device), _carm(40), backend=backend))
            # The reference alone is too slow for a large volume.
            volume = _ball(48 if backend == "reference" else voxels).to(device)
            drr = DRR(volume, _carm(200), backend=backend)
        except BackendError as error:
            rows.append(Row(backend, why=" ".join(str(error).split(": ", 1)[-1].split())))
            continue
        errors = [
            float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, exact, strict=True)
        ]
        with torch.no_grad():
            image_ms = _milliseconds(lambda drr=drr: drr.at(_AT))
        rows.append(
            Row(backend, *errors, image_ms, _milliseconds(lambda drr=drr: _image_and_slope(drr)))
        )
    return rows


_AT = eta(theta=11, phi=27, gamma=4, b=(3.1, -5.2, 7.3), degrees=True)


def _image_and_slope(drr: DRR) -> tuple[Tensor, Tensor]:
    """The image, and the gradient of its mean square by the pose."""
    at = _AT.clone().requires_grad_()
    image = drr.at(at)
    image.square().mean().backward()
    return image.detach().double().cpu(), at.grad


def _ball(voxels: int) -> Volume:
    """A ball of water of 160 mm in air, with one of bone in it and a hole beside, in 192 mm."""
    x = (torch.arange(voxels) + 0.5) / voxels - 0.5
    x, y, z = torch.meshgrid(x * 192, x * 192, x * 192, indexing="ij")
    hu = torch.full_like(x, -1000.0)
    hu[x**2 + y**2 + z**2 < 80**2] = 0.0
    hu[(x - 25) ** 2 + y**2 + (z + 10) ** 2 < 30**2] = 1000.0
    hu[(x + 35) ** 2 + (y - 10) ** 2 + z**2 < 20**2] = -1000.0
    size = 192 / voxels
    affine = torch.diag(torch.tensor([size, size, size, 1.0], dtype=torch.float64))
    affine[:3, 3] = 0.5 * size - 96
    return Volume.from_hu(hu, affine)


def _carm(pixels: int) -> CArm:
    return CArm.square(sdd=1020.0, sod=510.0, pixels=pixels, extent=400.0)


def _milliseconds(call) -> float:
    """The fastest of some runs after one to warm up; that one alone where it takes long."""
    times = []
    while len(times) < 2 or (sum(times) < _SECONDS and len(times) < 20):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        if times[0] > _SECONDS / 2:
            break
    return 1e3 * min(times)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(x.split(":", 1)[1].strip() for x in file if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _table(rows: list[list[str]]) -> None:
    widths = [max((len(r[k]) for r in rows if len(r) > k + 1), default=0) for k in range(5)]
    for row in rows:
        cells = [x.ljust(max(w, 9)) for x, w in zip(row, widths, strict=False)]
        print("  " + "  ".join(cells).rstrip())
