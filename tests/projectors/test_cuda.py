"""The CUDA backend on a GPU, or in Triton's interpreter (see test_triton.py): what PyTorch asks of
it, memory, devices. Its values and gradients are judged in test_backends.py."""

import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch

from drrlib.drr import DRR
from drrlib.errors import BackendError
from drrlib.geometry import CArm
from drrlib.projectors import (
    METHODS,
    Grid,
    choose_backend,
    cuda,
    cuda_launch,
    line_integrals,
    project,
)
from drrlib.registration import Schedule, descend
from drrlib.volume import Volume
from helpers import (
    GENERIC_VIEWS,
    KERNELS,
    affine,
    outside_band,
    placed,
    random_volume,
    view,
    worst,
)

triton_runs = pytest.mark.gpu(interpreter=True)


def _frames(grid, *views):
    """Frames [b, 12] in voxel coordinates."""
    rows = []
    for v in views:
        rows.append(grid.frames(*v.frame))
    return torch.cat(rows)


@triton_runs
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tiling", [(64, 1), (32, 4), (32, 8)])
def test_every_tiling_agrees(monkeypatch, tiling, method):
    """Also those that the small scenes here would not choose, upright and lying."""
    assert tiling in {cuda_launch.tiling(h, h) for h in (64, 256, 1024)}
    monkeypatch.setattr(cuda_launch, "tiling", lambda height, width: tiling)
    for v in (GENERIC_VIEWS["oblique"], view(1.36, 0.31, (17, 5), offset=(0.23, 0.11, 0.47))):
        results = []
        for mu, choice in (
            (placed(random_volume(), "cuda"), "cuda"),
            (random_volume().double(), "reference"),
        ):
            frame = [x.clone().requires_grad_() for x in v.frame]
            mu = mu.requires_grad_()
            image = project(
                Grid(mu, affine()), *frame, v.height, v.width, method=method, backend=choice
            )
            image.sum().backward()
            results.append([image.detach().cpu(), mu.grad.cpu(), *(x.grad for x in frame)])
        for ours, truth in zip(*results, strict=True):
            assert worst(ours, truth) < 4e-5


@triton_runs
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_half_volumes_are_summed_in_float32(dtype, method):
    mu, v = random_volume().to(dtype), GENERIC_VIEWS["lateral"]
    ours = placed(mu.clone(), "cuda").requires_grad_()
    frame = [x.clone().requires_grad_() for x in v.frame]
    image = project(Grid(ours, affine()), *frame, v.height, v.width, method=method, backend="cuda")
    image.sum().backward()
    exact = mu.double().requires_grad_()
    true_frame = [x.clone().requires_grad_() for x in v.frame]
    truth = project(Grid(exact, affine()), *true_frame, v.height, v.width, method=method)
    truth.sum().backward()
    assert image.dtype == torch.float32 and ours.grad.dtype == dtype
    assert worst(image.detach().cpu(), truth.detach()) < 2e-5
    assert all(worst(x.grad, y.grad) < 4e-5 for x, y in zip(frame, true_frame, strict=True))
    assert worst(ours.grad.cpu(), exact.grad) < torch.finfo(dtype).eps


@triton_runs
def test_operators_are_what_torch_asks_of_them():
    """Schema, fake implementation and gradient, as torch.library.opcheck tests them."""
    mu, v = placed(random_volume((6, 5, 7)), "cuda").requires_grad_(), view(0.21, 0.37, (5, 4))
    grid = Grid(mu, affine(size=(6, 5, 7)))
    padded, frames = grid.padded(), _frames(grid, v).requires_grad_()
    box = (padded.values, padded.geometry)
    arguments = (mu, *box, padded.whole, frames, 5, 4, False, True, 5)
    image, sums = cuda.cuda_project(*arguments)
    grad, detached = torch.cos(image.detach()), frames.detach()
    for operator, given in (
        (cuda.cuda_project, arguments),
        (cuda.cuda_frame_gradient, (grad, sums.detach(), *box, detached, False)),
        (cuda.cuda_volume_gradient, (grad, padded.whole, detached, [6, 5, 7], False)),
    ):
        torch.library.opcheck(operator, given, atol=1e-6, rtol=1e-5)
    (slope,) = torch.autograd.grad(image.square().sum(), frames, create_graph=True)
    with pytest.raises(RuntimeError, match=r"second derivative"):
        slope.sum().backward()


# By itself: torch.compile cannot trace the wrappers that check shapes in tests.
COMPILED = """
import torch
from drrlib.errors import BackendError
from drrlib.projectors import Grid, cuda, project
from helpers import affine, interpreted, placed, random_volume, view

mu, v = placed(random_volume((8, 9, 7)), "cuda"), view(0.21, 0.37, (6, 5))
grid = Grid(mu, affine(size=(8, 9, 7)))

def energy(source):
    return project(grid, source, *v.frame[1:], 6, 5, backend="cuda").square().sum()

compiled = torch.compile(energy, backend="aot_eager" if interpreted() else "inductor")
source = placed(v.source, "cuda").clone().requires_grad_()
for factor in (1.0, 3.0):
    mu.mul_(factor)
    values = compiled(source), energy(source)
    slopes = [torch.autograd.grad(x, source)[0] for x in values]
    assert values[1] > 0
    torch.testing.assert_close(*values, rtol=1e-5, atol=0)
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-9)
cut = torch._dynamo.utils.counters["graph_break"]
assert cut
cut.clear()
grid = grid.freeze()
torch._dynamo.reset()
# As for sums of more than 64 MiB: how much memory is free cannot be asked in a graph.
cuda._SMALL, cuda._budget = 0, lambda device: torch._dynamo.graph_break() or 2**30
whole = torch.compile(
    energy, backend="aot_eager" if interpreted() else "inductor", fullgraph=True
)
torch.testing.assert_close(whole(source), energy(source), rtol=1e-5, atol=0)
slopes = [torch.autograd.grad(x(source), source)[0] for x in (whole, energy)]
torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-9)
unbroken = torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0 and not cut
refused = 0
for transform in (torch.func.grad, torch.func.jacfwd, torch.func.vmap):
    try:
        torch.compile(lambda x: transform(energy)(x), backend="aot_eager")(source.detach())
    except BackendError:
        refused += 1
print("agrees", refused, unbroken)
"""


@triton_runs
def test_compiled_function_gives_the_same_and_sees_a_changed_volume():
    """And goes through in one piece with a frozen one; torch.func is refused there, too."""
    tests = Path(__file__).resolve().parents[1]
    run = subprocess.run(
        [sys.executable, "-c", COMPILED], cwd=tests, capture_output=True, text=True
    )
    assert run.stdout.strip() == "agrees 3 True", run.stderr[-3000:]


@triton_runs
@pytest.mark.parametrize("method", METHODS)
def test_deterministic_volume_gradient(method):
    """Under torch.use_deterministic_algorithms: the same sums, in whole numbers."""
    v = GENERIC_VIEWS["oblique"]
    mu = placed(random_volume(), "cuda").requires_grad_()
    grid = Grid(mu, affine())

    def gradient():
        image = project(grid, *v.frame, v.height, v.width, method=method, backend="cuda")
        return torch.autograd.grad(torch.sin(300 * image).sum(), mu)[0]

    plain = gradient()
    torch.use_deterministic_algorithms(True)
    try:
        first, second = gradient(), gradient()
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(first, second) and worst(first, plain) < 1e-5


@triton_runs
def test_out_of_memory_with_a_volume_for_each_pose(monkeypatch):
    mu = torch.stack([random_volume(seed=seed) for seed in range(3)])
    grid = Grid(placed(mu, "cuda"), affine())
    frames = _frames(grid, *(view(0.1 * k, 0.3, (4, 5)) for k in range(3)))
    image, slope = _slope(grid, frames)
    memory = _Memory(most=2)
    monkeypatch.setattr(cuda, "launch_forward", memory)
    with pytest.warns(UserWarning, match="out of memory"):
        again = _slope(grid, frames)
    assert torch.equal(again[0], image) and torch.equal(again[1], slope)
    assert memory.asked == [3, 1, 1, 1]


class _Memory:
    """Stands in for the launch of the march: more than `most` images with sums do not fit."""

    def __init__(self, most):
        self.most, self.launch, self.asked = most, cuda.launch_forward, []

    def __call__(self, values, geometry, frames, image, sums, window, joseph, keep):
        if keep:
            self.asked.append(len(frames))
            if len(frames) > self.most:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory (a test)")
        self.launch(values, geometry, frames, image, sums, window, joseph, keep)


def _slope(grid, frames, size=(4, 5)):
    frames = frames.clone().requires_grad_()
    image = cuda.project(grid, frames, *size, "siddon", None)
    (slope,) = torch.autograd.grad(image.square().sum(), frames)
    return image.detach(), slope


@triton_runs
def test_out_of_memory_halves_the_batch_and_changes_no_bit(monkeypatch):
    grid = Grid(placed(random_volume(), "cuda"), affine())
    frames = _frames(grid, *(view(0.1 * k, 0.3, (4, 5)) for k in range(5)))
    image, slope = _slope(grid, frames)
    memory = _Memory(most=2)
    monkeypatch.setattr(cuda, "launch_forward", memory)
    with pytest.warns(UserWarning, match="out of memory") as said:
        again = _slope(grid, frames)
    assert torch.equal(again[0], image) and torch.equal(again[1], slope)
    assert memory.asked == [5, 5, 2, 2, 1] and len(said) == 2
    memory.most = 0
    with pytest.warns(UserWarning), pytest.raises(torch.cuda.OutOfMemoryError):
        _slope(grid, frames)


@triton_runs
def test_memory_budget_chooses_the_batch(monkeypatch):
    grid = Grid(placed(random_volume(), "cuda"), affine())
    frames = _frames(grid, *(view(0.1 * k, 0.3, (4, 5)) for k in range(5)))
    image, slope = _slope(grid, frames)
    memory = _Memory(most=5)
    monkeypatch.setattr(cuda, "launch_forward", memory)
    monkeypatch.setattr(cuda, "_SMALL", 0)
    monkeypatch.setattr(cuda, "_budget", lambda device: 3 * 28 * 4 * 5)  # for three images
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = _slope(grid, frames)
    assert torch.equal(again[0], image) and torch.equal(again[1], slope)
    assert memory.asked == [3, 2]


def test_batches_cover_everything_once():
    seen = []

    def run(part):
        if part.stop - part.start > 3:
            raise torch.cuda.OutOfMemoryError("a test")
        seen.extend(range(part.start, part.stop))

    with pytest.warns(UserWarning, match="2 images at a time"):
        cuda.in_batches(run, 2, 11, 8)
    assert seen == list(range(2, 11))
    cuda.in_batches(run, 3, 3, 4)


@triton_runs
def test_registration_takes_a_volume_on_the_gpu():
    size = (12, 14, 10)
    carm = CArm(200.0, 110.0, 12, 12, 5.0, 5.0)
    found = []
    for backend in ("cuda", "cpu"):
        mu = placed(random_volume(size), backend)
        volume = Volume(mu, affine((2.0, 1.5, 2.5), size, (5.0, 1.0, -3.0)))
        fixed = torch.cos(torch.arange(144.0)).reshape(12, 12)
        drr = DRR(volume, carm, backend=backend)
        found.append(descend(fixed, drr, torch.zeros(2, 6), schedule=Schedule(((1, 2),))))
    assert torch.allclose(found[0].trace.loss, found[1].trace.loss, atol=1e-5)
    assert torch.allclose(found[0].eta, found[1].eta, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", KERNELS)
def test_many_random_rays(backend, method):
    """A million of them on a GPU, against the reference in float64 there."""
    count = 10**6 if torch.cuda.is_available() and backend == "cuda" else 500
    mu = placed(random_volume((24, 20, 28)), backend)
    generator = torch.Generator().manual_seed(5)
    ends = 60 * torch.rand(2, count, 3, generator=generator, dtype=torch.float64) - 30
    s, p = (x.to(mu.device) for x in ends)
    shape = affine((1.0, 1.3, 0.9), (24, 20, 28))
    value = line_integrals(Grid(mu, shape), s, p, method=method, backend=backend)
    truth = line_integrals(Grid(mu.double(), shape), s, p, method=method, backend="reference")
    assert torch.isfinite(value).all()
    assert outside_band(value, truth, 1e-5) <= max(1e-4, 1.0 / count)


def test_named_backend_says_what_is_missing(monkeypatch):
    grid = Grid(random_volume(), affine())
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendError, match=r"volume\.to\('cuda'\)"):
        choose_backend(grid, "cuda")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose_backend(grid, "auto") == "cpu"
    with pytest.raises(BackendError, match="float64"):
        choose_backend(Grid(random_volume(dtype=torch.float64), affine()), "cuda")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendError, match="not installed"):
        choose_backend(grid, "cuda")


class _Elsewhere:
    """Stands in for a float32 volume on a GPU that is not here."""

    device, dtype = torch.device("cuda", 0), torch.float32


@pytest.fixture
def gpu(monkeypatch):
    """A GPU as far as its name and age go; and a grid there."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a GPU of tests")
    answers = cuda._old_triton, cuda.fault
    for kept in answers:
        kept.cache_clear()
    grid = Grid(random_volume(), affine())
    grid.mu = _Elsewhere()
    yield grid
    for kept in answers:
        kept.cache_clear()


def _triton(monkeypatch, version):
    monkeypatch.setitem(sys.modules, "triton", types.SimpleNamespace(__version__=version))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)


@pytest.mark.parametrize("version, takes", [("3.2.0", False), ("3.3.0", True), ("3.10.1+x", True)])
def test_an_old_triton_is_named(monkeypatch, gpu, version, takes):
    _triton(monkeypatch, version)
    monkeypatch.setattr(cuda, "fault", lambda device: None)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert choose_backend(gpu) == ("cuda" if takes else "reference")
    assert len(said) == (not takes)
    if not takes:
        assert "Triton 3.2.0 cannot compile" in str(said[0].message)
        with pytest.raises(BackendError, match=r"need Triton 3\.3"):
            choose_backend(gpu, "cuda")


@pytest.mark.parametrize("failure", ["compiler", "numbers", "memory"])
def test_auto_takes_the_reference_where_the_kernels_fail(monkeypatch, gpu, failure):
    """And says what to report; a backend that was named is not tried out."""
    _triton(monkeypatch, "3.3.0")
    failures = dict(compiler=ValueError("no such opcode"), memory=torch.cuda.OutOfMemoryError("x"))
    asked = []

    def march(grid, frames, height, width, *options):
        asked.append(options)
        if failure in failures:
            raise failures[failure]
        return torch.ones(1, height, width), torch.ones(1, height, width, 6)

    monkeypatch.setattr(cuda, "march", march)
    monkeypatch.setattr(cuda, "cuda_reduce", lambda image, sums: torch.ones(1, 12))
    monkeypatch.setattr(cuda, "_box", lambda device: (Grid(torch.ones(2, 2, 2), affine()), None))
    if failure == "memory":
        with pytest.raises(torch.cuda.OutOfMemoryError):
            choose_backend(gpu)
        return
    with pytest.warns(UserWarning, match="please report") as said:
        assert choose_backend(gpu) == choose_backend(gpu) == "reference"
    words = {"compiler": "ValueError: no such opcode", "numbers": "the image of a box is wrong"}
    assert words[failure] in str(said[0].message) and "a GPU of tests" in str(said[0].message)
    assert len(asked) == 1 and choose_backend(gpu, "cuda") == "cuda"


@triton_runs
def test_the_box_that_is_tried_out_is_right():
    cuda.fault.cache_clear()
    assert cuda.fault(placed(torch.zeros(1), "cuda").device) is None


def test_half_volumes_render_without_a_gpu():
    mu, v = random_volume().half(), GENERIC_VIEWS["oblique"]
    image = project(Grid(mu, affine()), *v.frame, v.height, v.width)
    truth = project(Grid(mu.double(), affine()), *v.frame, v.height, v.width)
    assert image.dtype == torch.float32 and worst(image, truth) < 2e-5
    assert Volume(torch.full((96, 96, 96), 0.2).half(), affine()).to(torch.float32).mu.max() > 0.1


# --- only on a GPU


@pytest.mark.gpu
def test_auto_takes_the_kernels():
    assert choose_backend(Grid(random_volume().cuda(), affine())) == "cuda"
    assert choose_backend(Grid(random_volume().half().cuda(), affine())) == "cuda"
    assert choose_backend(Grid(random_volume().double().cuda(), affine())) == "reference"


@pytest.mark.gpu
def test_poses_on_either_side_give_the_same():
    v, grid = GENERIC_VIEWS["oblique"], Grid(random_volume().cuda(), affine())
    images, slopes = [], []
    for device in ("cpu", "cuda"):
        frame = [x.to(device).requires_grad_() for x in v.frame]
        image = project(grid, *frame, v.height, v.width)
        image.sum().backward()
        images.append(image)
        slopes.append(frame[0].grad.cpu())
    assert torch.equal(*images) and torch.equal(*slopes)
    host = Grid(random_volume(), affine())
    there = project(host, *(x.cuda() for x in v.frame), 3, 3)
    assert torch.equal(there, project(host, *v.frame, 3, 3))


@pytest.mark.gpu
def test_runs_on_the_current_stream():
    """The kernel waits for what is before it in its stream, and only there."""
    v, grid = GENERIC_VIEWS["oblique"], Grid(random_volume().cuda(), affine())
    expected = project(grid, *v.frame, v.height, v.width)
    frame = [x.cuda() for x in v.frame]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        late = torch.zeros_like(frame[0])
        torch.cuda._sleep(200_000_000)  # about a tenth of a second
        late.copy_(frame[0])
        image = project(grid, late, *frame[1:], v.height, v.width)
    stream.synchronize()
    assert torch.equal(image, expected)


@pytest.mark.gpu
def test_shapes_one_after_the_other():
    """No buffer and no compiled size is left over from the call before."""
    for size, voxels in (((13, 11), (16, 16, 16)), ((200, 180), (40, 31, 22)), ((1, 7), (9, 9, 9))):
        v, a = view(0.21, 0.37, size), affine(size=voxels)
        for batch in (1, 3):
            frame = [x.expand(batch, 3).cuda() for x in v.frame]
            image = project(Grid(random_volume(voxels).cuda(), a), *frame, *size)
            truth = project(Grid(random_volume(voxels).double().cuda(), a), *frame, *size)
            assert worst(image, truth) < 2e-5


@pytest.mark.gpu
def test_gradients_repeat_bit_by_bit():
    grid = Grid(random_volume((40, 40, 40)).cuda(), affine(size=(40, 40, 40)))
    frames = _frames(grid, *(view(0.1 * k, 0.3) for k in range(7)))
    first = _slope(grid, frames, (150, 130))
    for _ in range(5):
        again = _slope(grid, frames, (150, 130))
        assert torch.equal(again[0], first[0]) and torch.equal(again[1], first[1])


@pytest.mark.gpu
def test_every_device_of_the_machine():
    v = GENERIC_VIEWS["oblique"]
    images = []
    for index in range(torch.cuda.device_count()):
        grid = Grid(random_volume().to(f"cuda:{index}"), affine())
        images.append(project(grid, *v.frame, v.height, v.width).cpu())
    assert all(torch.equal(image, images[0]) for image in images)
