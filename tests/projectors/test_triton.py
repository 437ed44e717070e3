"""The Triton kernels without a GPU: interpreted, and compiled but not run.

Tests marked gpu(interpreter=True), in other files, run on a GPU where there is one, and otherwise
in the process with TRITON_INTERPRET=1 that `test_in_the_interpreter` starts.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from drrlib.projectors import cuda_launch
from helpers import interpreted

ROOT = Path(__file__).resolve().parents[2]
OTHERS = ("test_drr.py", "optimize/test_iteration.py", "test_traversal.py")


@pytest.mark.parametrize("backend", ["cuda"])
def test_in_the_interpreter(backend):
    """All scenes of test_backends.py, and what is below, on the CPU in Triton's interpreter."""
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here: the same tests run on it, compiled")
    if interpreted():
        pytest.skip("TRITON_INTERPRET=1 is set: this process is the interpreter")
    pytest.importorskip("triton", reason="Triton is not installed: no kernels to interpret")
    parts = [["projectors/test_backends.py"], ["projectors/test_cuda.py", *OTHERS]]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    runs = [
        subprocess.Popen(
            [*command, *(f"tests/{name}" for name in part)],
            cwd=ROOT,
            text=True,
            env={**os.environ, "TRITON_INTERPRET": "1"},
            stdout=subprocess.PIPE,
        )
        for part in parts
    ]
    said = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], "\n".join(x[-6000:] for x in said)
    passed = sum(int(re.search(r"(\d+) passed", x).group(1)) for x in said)
    print(f"{passed} tests of the kernels passed in the interpreter")
    assert passed > 120


# --- compiled, not run


LAUNCHED = """
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from drrlib.projectors import Grid, cuda, triton_adjoint, triton_kernels
from helpers import affine, random_volume


class Driver:  # of a T4 that is not there
    is_active = classmethod(lambda cls: True)
    get_current_device = lambda self: 0
    get_current_stream = lambda self, device: 0
    get_current_target = lambda self: GPUTarget("cuda", 75, 32)


class Compiled:
    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return lambda **given: print(self.kernel.warmup(grid=grid, **given).metadata.num_warps)


driver.set_active(Driver())
triton_kernels.forward = Compiled(triton_kernels.forward)
triton_adjoint.adjoint = Compiled(triton_adjoint.adjoint)
triton_adjoint.reduce = Compiled(triton_adjoint.reduce)
grid = Grid(random_volume(), affine())
padded, frames = grid.padded(), torch.zeros(3, 12, dtype=torch.float64)
for size in ((13, 11), (1, 1)):
    arguments = (grid.mu, padded.values, padded.geometry, padded.whole, frames, *size)
    image, sums = cuda.cuda_project(*arguments, False, True, max(size))
    cuda.cuda_frame_gradient(image, sums, padded.values, padded.geometry, frames, False)
    cuda.cuda_volume_gradient(image, padded.whole, frames, [16, 16, 16], False)
"""


def test_launches_give_the_compiler_what_it_takes():
    """Every launch with its real arguments, up to the point where a GPU would be asked."""
    if interpreted() or torch.cuda.is_available():
        pytest.skip("the kernels run in this process: nothing to rehearse")
    pytest.importorskip("triton", reason="Triton is not installed: no kernels to compile")
    run = subprocess.run(
        [sys.executable, "-c", LAUNCHED], cwd=ROOT / "tests", capture_output=True, text=True
    )
    assert run.stdout.split() == ["8", "1", "8", "4", "4"], run.stderr[-3000:]


def _variants():
    """(name, kernel, constants, type of voxels): what `cuda` can launch."""
    from drrlib.projectors import triton_adjoint, triton_kernels

    programs = {cuda_launch.tiling(h, h) for h in (64, 256, 1024)}
    for joseph in (False, True):
        method = "joseph" if joseph else "siddon"
        for rays, split, explicit in [
            *((*p, False) for p in programs),
            (*cuda_launch.tiling(1, 1), True),
        ]:
            shape = {"JOSEPH": joseph, "EXPLICIT": explicit, **cuda_launch.program(rays, split)}
            place = f"{method}, {'explicit, ' if explicit else ''}{rays} rays x {split}"
            types = ("fp32", "fp16", "bf16") if split == 1 else ("fp32",)
            for gradient in (False, True):
                constants = {**shape, "GRADIENT": gradient, "UNROLL": cuda_launch.UNROLL}
                for voxel in types:
                    name = f"forward {place}{', gradient' if gradient else ''}, {voxel}"
                    yield name, triton_kernels.forward, constants, voxel
            for fixed in (False, True):
                name = f"adjoint {place}{', fixed' if fixed else ''}"
                out = "i64" if fixed else "fp32"
                yield name, triton_adjoint.adjoint, {**shape, "FIXED": fixed}, out
    yield "reduce", triton_adjoint.reduce, cuda_launch.REDUCE, "fp64"


def _resources(kernel, constants, voxel, capability):
    """Registers, and bytes of stack and of local memory that a thread takes."""
    import compiled

    typed = "mu" if "mu" in kernel.arg_names else "out"
    option, types = "--dump-resource-usage", {typed: f"*{voxel}"}
    said = compiled.dump(kernel, constants, capability, option, types)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", said)
    assert found, said
    return tuple(map(int, found.groups()))


@pytest.mark.parametrize("capability", [75, 90])
def test_every_variant_compiles_without_spills(monkeypatch, capability):
    """sm_75 is a T4, sm_90 an H100 or H200. A spilled register shows as local memory."""
    if interpreted():
        pytest.skip("TRITON_INTERPRET=1 is set: nothing is compiled")
    pytest.importorskip("triton", reason="Triton is not installed: no kernels to compile")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name, kernel, constants, voxel in _variants():
        registers, stack, local = _resources(kernel, constants, voxel, capability)
        print(f"sm_{capability}  {registers:3d} registers  {name}")
        assert stack == 0 and local == 0, name
        # Of 65536 in a multiprocessor: at least 768 threads of a T4's 1024 stay in flight.
        assert registers <= 80, name
