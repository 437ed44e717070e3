"""The kernels against the reference in float64: values, all gradients, adjointness."""

import errno
import inspect
import math
import os
import re
import subprocess
import sys
import time
from unittest import mock

import numpy as np
import pytest
import torch

from drrlib.errors import (
    BackendError,
    ConfigError,
    DtypeError,
    GeometryError,
    ShapeError,
    VolumeError,
)
from drrlib.projectors import (
    METHODS,
    Grid,
    choose_backend,
    endpoint_gradients,
    line_integrals,
    project,
)
from helpers import (
    ALIGNED_VIEWS,
    GENERIC_VIEWS,
    KERNELS,
    affine,
    outside_band,
    placed,
    random_volume,
    view,
    worst,
)

# Of the largest value. On these scenes the float32 reference itself is off by up to 2e-5 (image)
# and, where a ray grazes an edge, by 1e-2 (gradient).
IMAGE, VOLUME, GRADIENT = 2e-5, 4e-5, 4e-5

SCENES = {
    "cube": ((16, 16, 16), affine()),
    "anisotropic": ((20, 9, 14), affine((0.8, 1.7, 1.1), (20, 9, 14), (1.0, -2.0, 0.5))),
    "mirrored": ((16, 12, 10), affine((-1.0, 1.2, 1.5), (16, 12, 10))),
    "sheared": (
        (14, 14, 14),
        affine(size=(14, 14, 14))
        @ torch.tensor(
            [[1.0, 0.2, 0, 0], [0, 0.9, 0.3, 0], [0.1, 0, 1.1, 0], [0, 0, 0, 1]],
            dtype=torch.float64,
        ),
    ),
    "one voxel": ((1, 1, 1), affine((9.0, 8.0, 7.0), (1, 1, 1))),
    "plate": ((24, 1, 24), affine((1.0, 4.0, 1.0), (24, 1, 24))),
}


def _both(backend):
    """One volume for a kernel, and in float64 for the reference."""
    return (placed(random_volume(), backend), backend), (random_volume().double(), "reference")


def _render(mu, a, v, method, backend):
    """Image, frame gradients and volume gradient for one fixed weighting of the pixels."""
    mu = placed(mu.clone(), backend).requires_grad_()
    frame = [x.clone().requires_grad_() for x in v.frame]
    image = project(Grid(mu, a), *frame, v.height, v.width, method=method, backend=backend)
    weights = torch.cos(torch.arange(image.numel()).reshape(image.shape) * 0.7)
    image.backward(weights.to(image))
    return image.detach().cpu(), [x.grad for x in frame], mu.grad.cpu()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("name", GENERIC_VIEWS)
@pytest.mark.parametrize("backend", KERNELS)
def test_generic_views(backend, name, scene, method):
    size, a = SCENES[scene]
    mu, v = random_volume(size), GENERIC_VIEWS[name]
    image, frame, volume = _render(mu, a, v, method, backend)
    true_image, true_frame, true_volume = _render(mu.double(), a, v, method, "reference")
    assert worst(image, true_image) < IMAGE
    assert worst(volume, true_volume) < VOLUME
    for ours, truth in zip(frame, true_frame, strict=True):
        assert worst(ours, truth) < GRADIENT


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ALIGNED_VIEWS)
@pytest.mark.parametrize("backend", KERNELS)
def test_grid_aligned_views(backend, name, method):
    """Rays inside faces and through edges may fall to either side; values stay close, finite."""
    mu, v = random_volume(), ALIGNED_VIEWS[name]
    image, frame, volume = _render(mu, affine(), v, method, backend)
    true_image, _, _ = _render(mu.double(), affine(), v, method, "reference")
    assert outside_band(image, true_image, IMAGE) <= 0.005
    assert worst(image, true_image) < 0.07
    assert all(torch.isfinite(x).all() for x in (*frame, volume))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 63, 257])
@pytest.mark.parametrize("backend", KERNELS)
def test_explicit_rays(backend, count, method):
    """Segments that begin and end anywhere: outside, inside, on the wrong side."""
    generator = torch.Generator().manual_seed(count)
    ends = 40 * torch.rand(2, count, 3, generator=generator, dtype=torch.float64) - 20
    weights = torch.randn(count, generator=generator, dtype=torch.float64)
    results = []
    for mu, choice in _both(backend):
        s, p = (x.clone().requires_grad_() for x in ends)
        value = line_integrals(
            Grid(mu.requires_grad_(), affine()), s, p, method=method, backend=choice
        )
        (value * weights.to(value)).sum().backward()
        results.append((value.detach().cpu(), mu.grad.cpu(), s.grad, p.grad))
    assert worst(results[0][0], results[1][0]) < 1e-5
    assert outside_band(results[0][1], results[1][1], VOLUME) <= 0.005
    for ours, truth in zip(results[0][2:], results[1][2:], strict=True):
        rows = (ours - truth).norm(dim=1) / truth.norm(dim=1).clamp_min(0.01)
        assert (rows > 1e-3).double().mean() <= 0.02  # a ray may graze an edge
        assert torch.isfinite(ours).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", KERNELS)
def test_short_segments_at_the_border(backend, method):
    """They begin and end in slabs that a ray enters or leaves sideways."""
    generator = torch.Generator().manual_seed(7)
    size, count = (6, 5, 7), 20000 if backend == "cpu" else 3000
    s, way = 9 * torch.rand(2, count, 3, generator=generator, dtype=torch.float64) - 4.5
    way *= torch.logspace(-3, 0.5, count, dtype=torch.float64)[:, None]
    results = []
    for mu, choice in (
        (placed(random_volume(size), backend), backend),
        (random_volume(size).double(), "reference"),
    ):
        grid = Grid(mu.requires_grad_(), affine(size=size))
        value = line_integrals(grid, s, s + way, method=method, backend=choice)
        value.sum().backward()
        results.append((value.detach().cpu(), mu.grad.cpu()))
    assert (results[1][0] > 0).double().mean() > 0.3
    assert worst(results[0][0], results[1][0]) < 1e-5
    assert worst(results[0][1], results[1][1]) < VOLUME


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", [*KERNELS, "reference"])
def test_adjoint_identity(backend, method):
    """<A mu, y> = <mu, A* y>."""
    v = GENERIC_VIEWS["oblique"]
    mu = placed(random_volume(), backend).requires_grad_()
    image = project(Grid(mu, affine()), *v.frame, v.height, v.width, method=method, backend=backend)
    y = torch.randn(image.shape, generator=torch.Generator().manual_seed(1)).to(image)
    image.backward(y)
    left, right = (image.detach().double() * y).sum(), (mu.detach().double() * mu.grad).sum()
    scale = (image.detach().double() * y).abs().sum()
    assert abs(left - right) / scale < 1e-6


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_is_no_worse_than_the_float32_reference(kernel):
    """Over all scenes and views, the kernel's image error against float64 is the smaller one."""
    errors = {kernel: [], "reference": []}
    for size, a in SCENES.values():
        for v in GENERIC_VIEWS.values():
            mu = random_volume(size)
            shape = (v.height, v.width)
            truth = project(Grid(mu.double(), a), *v.frame, *shape, backend="reference")
            for backend, found in errors.items():
                image = project(Grid(placed(mu, backend), a), *v.frame, *shape, backend=backend)
                found.append(worst(image.cpu(), truth))
    assert max(errors[kernel]) < 2 * max(errors["reference"])
    assert sum(errors[kernel]) < sum(errors["reference"])


EDGES = {
    "inside a face": ((-30.0, 2.0, 0.5), (30.0, 2.0, 0.5)),
    "inside two faces": ((-30.0, 2.0, 3.0), (30.0, 2.0, 3.0)),
    "along the outer face": ((-30.0, 8.0, 0.5), (30.0, 8.0, 0.5)),
    "along the lower outer face": ((-30.0, -8.0, 0.5), (30.0, -8.0, 0.5)),
    "through all corners": ((-20.0, -20.0, -20.0), (20.0, 20.0, 20.0)),
    "touching a corner": ((-8.0, -24.0, 0.5), (24.0, 8.0, 0.5)),
    "missing": ((-30.0, 20.0, 0.0), (30.0, 21.0, 3.0)),
    "ending before the grid": ((-30.0, 0.3, 0.2), (-9.0, 0.3, 0.2)),
    "source inside": ((0.3, 0.4, 0.2), (30.0, 3.0, 1.0)),
    "both ends in one voxel": ((0.1, 0.2, 0.3), (0.7, 0.4, 0.6)),
    "both ends inside": ((-3.3, 0.4, 0.2), (4.6, 2.7, 1.3)),
    "leaving sideways in the first slab": ((0.1, 7.7, 0.2), (30.0, 37.0, 1.0)),
    "no length": ((0.3, 0.4, 0.2), (0.3, 0.4, 0.2)),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("backend", KERNELS)
def test_edge_cases_agree_and_are_finite(backend, name, method):
    results = []
    for mu, choice in _both(backend):
        s, p = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in EDGES[name])
        value = line_integrals(Grid(mu, affine()), s, p, method=method, backend=choice)
        value.backward()
        results.append(value.detach().double().cpu())
        assert torch.isfinite(s.grad).all() and torch.isfinite(p.grad).all()
    assert abs(results[0] - results[1]) < 1e-6 * max(1.0, float(results[1].abs()))


def test_segments_add_up():
    """Cutting a ray anywhere inside the volume gives two parts whose sum is the whole."""
    s, p = torch.tensor([-30.0, 3.0, 2.0]).double(), torch.tensor([28.0, -4.0, -1.0]).double()
    middle = s + torch.linspace(0.1, 0.9, 37, dtype=torch.float64)[:, None] * (p - s)
    grid = Grid(random_volume(), affine())
    whole = line_integrals(grid, s, p)
    parts = line_integrals(grid, s, middle) + line_integrals(grid, middle, p)
    assert torch.allclose(parts, whole.expand_as(parts), rtol=3e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", KERNELS)
def test_patches_batches_and_strides_change_nothing(backend, method):
    v, other = GENERIC_VIEWS["oblique"], GENERIC_VIEWS["lateral"]
    mu = random_volume((16, 12, 10))
    mu = placed(mu, backend)
    strided = mu.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert not strided.is_contiguous()
    frames = [torch.cat(pair) for pair in zip(v.frame, other.frame, strict=True)]
    grid = Grid(mu, affine(size=(16, 12, 10)))
    whole = project(grid, *frames, v.height, v.width, method=method, backend=backend)
    single = project(grid, *v.frame, v.height, v.width, method=method, backend=backend)
    assert torch.equal(whole[:1], single)
    patches = (5, 16) if backend == "cuda" else (1, 4, 5, 16)  # an interpreted launch is slow
    for patch in patches:
        parts = project(
            grid, *frames, v.height, v.width, method=method, backend=backend, patch_size=patch
        )
        assert torch.equal(whole, parts)
    strided_grid = Grid(strided, affine(size=(16, 12, 10)))
    again = project(strided_grid, *frames, v.height, v.width, method=method, backend=backend)
    assert torch.equal(whole, again)


def _stack(backend):
    """Three volumes on one grid, with supports of their own."""
    mu = torch.stack([random_volume((16, 12, 10), seed) for seed in range(3)])
    mu[0, :3], mu[1, :, :, 7:] = 0, 0
    return placed(mu, backend)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", [*KERNELS, "reference"])
def test_a_volume_for_each_pose(backend, method):
    """Image, pose gradient and volume gradient are those of each volume by itself."""
    mu = _stack(backend).requires_grad_()
    a, size = affine(size=(16, 12, 10)), (8, 6)  # two tiles; an interpreted one is slow
    views = [view(*angles, size) for angles in ((0.21, 0.37), (-0.13, 1.41), (1.36, 0.31))]
    frames = [torch.cat(x).requires_grad_() for x in zip(*(v.frame for v in views), strict=True)]
    image = project(Grid(mu, a), *frames, *size, method=method, backend=backend)
    image.square().sum().backward()
    for k, v in enumerate(views):
        one = mu[k].detach().clone().requires_grad_()
        frame = [x.clone().requires_grad_() for x in v.frame]
        alone = project(Grid(one, a), *frame, *size, method=method, backend=backend)
        alone.square().sum().backward()
        assert worst(image[k].detach().cpu(), alone[0].detach().cpu()) < 2e-6
        assert worst(mu.grad[k].cpu(), one.grad.cpu()) < VOLUME
        for together, single in zip(frames, frame, strict=True):
            assert worst(together.grad[k], single.grad[0]) < GRADIENT


@pytest.mark.parametrize("backend", [*KERNELS, "reference"])
def test_a_volume_for_each_set_of_rays(backend):
    mu = _stack(backend)
    generator = torch.Generator().manual_seed(3)
    s, p = 40 * torch.rand(2, 3, 5, 9, 3, generator=generator, dtype=torch.float64) - 20
    a = affine(size=(16, 12, 10))
    value = line_integrals(Grid(mu, a), s, p, backend=backend)
    assert value.shape == (3, 5, 9)
    for k in range(3):
        alone = line_integrals(Grid(mu[k], a), s[k], p[k], backend=backend)
        assert worst(value[k].cpu(), alone.cpu()) < 1e-5


@pytest.mark.parametrize("backend", [*KERNELS, "reference"])
def test_a_changed_stack_is_seen_and_a_frozen_one_says_so(backend):
    v, mu = GENERIC_VIEWS["oblique"], _stack(backend)
    frame = [x.expand(3, 3) for x in v.frame]
    grid = Grid(mu, affine(size=(16, 12, 10)))
    frozen = grid.freeze()
    before = project(grid, *frame, 5, 4, backend=backend)
    assert torch.equal(before, project(frozen, *frame, 5, 4, backend=backend))
    mu[1].mul_(2)
    after = project(grid, *frame, 5, 4, backend=backend)
    assert torch.equal(after[0], before[0]) and torch.allclose(after[1], 2 * before[1])
    single = Grid(mu[0], grid.affine).freeze()
    for changed, ends in ((frozen, frame), (single, v.frame)):
        mu[0].mul_(2)
        with pytest.raises(VolumeError, match="freeze it again"):
            project(changed, *ends, 5, 4, backend=backend)
    with pytest.raises(ConfigError, match="will change"):
        Grid(mu.requires_grad_(), affine()).freeze()


@pytest.mark.parametrize("backend", [*KERNELS, "reference"])
def test_volumes_of_inference_mode_are_seen_anew(backend):
    v = GENERIC_VIEWS["oblique"]
    with torch.inference_mode():
        grid = Grid(placed(random_volume(), backend).clone(), affine())
        before = project(grid, *v.frame, 5, 4, backend=backend)
        grid.mu.mul_(2)
        assert torch.allclose(project(grid, *v.frame, 5, 4, backend=backend), 2 * before)
        with pytest.raises(ConfigError, match="inference_mode"):
            grid.freeze()


@pytest.mark.parametrize("inside", ["grid made before", "grid made there"])
@pytest.mark.parametrize("backend", [*KERNELS, "reference"])
def test_inference_mode_leaves_later_gradients_alone(backend, inside):
    """What a grid keeps of a render is there for all."""
    v, mu, a = view(0.21, 0.37, (5, 4)), placed(random_volume(), backend), affine()
    grid = Grid(mu, a)
    with torch.inference_mode():
        grid = grid if inside == "grid made before" else Grid(mu, a)
        project(grid, *v.frame, 5, 4, backend=backend)
    slopes = []
    for used in (grid, Grid(mu, a)):
        source = v.source.clone().requires_grad_()
        image = project(used, source, *v.frame[1:], 5, 4, backend=backend)
        slopes += torch.autograd.grad(image.sum(), source)
    assert torch.equal(*slopes)


def test_as_many_volumes_as_poses():
    v, grid = GENERIC_VIEWS["oblique"], Grid(_stack("cpu"), affine(size=(16, 12, 10)))
    with pytest.raises(ShapeError, match="3 volumes for 1 poses"):
        project(grid, *v.frame, 5, 4)
    with pytest.raises(ShapeError, match="3 volumes for 4 poses"):
        endpoint_gradients(grid, torch.zeros(4, 12, dtype=torch.float64), 5, 4)
    with pytest.raises(ShapeError, match=r"rays \[3, ..., 3\]"):
        line_integrals(grid, torch.zeros(2, 3), torch.ones(2, 3))


@pytest.mark.parametrize("size", [(1, 37), (37, 1), (5, 50), (50, 5)])
@pytest.mark.parametrize("backend", KERNELS)
def test_detectors_of_any_shape_are_covered(backend, size):
    for theta, phi in ((0.21, 0.37), (1.36, 0.31)):  # tiles upright and lying
        v = view(theta, phi, size)
        images = [
            project(Grid(mu, affine()), *v.frame, *size, backend=choice).cpu()
            for mu, choice in _both(backend)
        ]
        assert worst(images[0], images[1]) < IMAGE


def test_gradients_repeat_bit_by_bit_for_any_thread_count():
    import numba

    v, before, runs = GENERIC_VIEWS["oblique"], numba.get_num_threads(), []
    most = numba.config.NUMBA_NUM_THREADS
    try:
        for threads in (1, most, 1):
            numba.set_num_threads(threads)
            runs.append(_render(random_volume(), affine(), v, "siddon", "cpu"))
    finally:
        numba.set_num_threads(before)
    for image, frame, volume in runs[1:]:
        assert torch.equal(image, runs[0][0]) and torch.equal(volume, runs[0][2])
        assert all(torch.equal(x, y) for x, y in zip(frame, runs[0][1], strict=True))


@pytest.mark.parametrize("backend", KERNELS)
def test_empty_space_is_skipped_exactly(backend):
    """A padded volume gives the image of its support."""
    v = GENERIC_VIEWS["oblique"]
    mu = torch.zeros(20, 22, 24)
    mu[4:14, 6:16, 8:18] = random_volume((10, 10, 10))
    a = affine(size=(20, 22, 24))
    image = project(Grid(placed(mu, backend), a), *v.frame, v.height, v.width, backend=backend)
    truth = project(Grid(mu.double(), a), *v.frame, v.height, v.width)
    assert worst(image.cpu(), truth) < IMAGE
    empty = Grid(placed(torch.zeros(4, 5, 6), backend), affine())
    assert (project(empty, *v.frame, 3, 3, backend=backend) == 0).all()


@pytest.mark.parametrize("backend", KERNELS)
def test_volume_changed_in_place_is_seen(backend):
    v, mu = GENERIC_VIEWS["oblique"], placed(random_volume(), backend)
    grid = Grid(mu, affine())
    before = project(grid, *v.frame, v.height, v.width, backend=backend)
    mu.mul_(2)
    after = project(grid, *v.frame, v.height, v.width, backend=backend)
    assert torch.allclose(after, 2 * before)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", KERNELS)
def test_endpoint_gradients_agree(backend, method):
    v = GENERIC_VIEWS["oblique"]
    results = []
    for mu, choice in _both(backend):
        grid = Grid(mu, affine())
        frames = grid.frames(*v.frame)
        found = endpoint_gradients(grid, frames, v.height, v.width, method=method, backend=choice)
        results.append([x.cpu() for x in found])
    assert worst(results[0][0], results[1][0]) < IMAGE
    assert outside_band(results[0][1], results[1][1], 1e-4) <= 0.005


# A loss that is linear in the image has a constant slope: its second derivative is not zero.
@pytest.mark.parametrize("loss", [torch.sum, lambda image: image.square().sum()])
@pytest.mark.parametrize("backend", ["reference", *KERNELS])
def test_second_derivative_raises(backend, loss):
    v, mu = GENERIC_VIEWS["oblique"], placed(random_volume(), backend)
    source = v.source.clone().requires_grad_()

    def energy(source):
        grid = Grid(mu, affine())
        return loss(project(grid, source, *v.frame[1:], v.height, v.width, backend=backend))

    def march(source):
        grid = Grid(mu, affine())
        frames = grid.frames(source, *v.frame[1:])
        return endpoint_gradients(grid, frames, v.height, v.width, backend=backend)[0].sum()

    (slope,) = torch.autograd.grad(energy(source), source, create_graph=True)
    (plain,) = torch.autograd.grad(energy(source), source)
    assert torch.equal(slope, plain)
    for ask in (
        lambda: slope.sum().backward(),
        lambda: torch.autograd.functional.jvp(energy, source, torch.ones_like(source)),
        lambda: torch.autograd.functional.hessian(energy, source),
        lambda: torch.func.jacfwd(energy)(source.detach()),
        lambda: torch.func.jacfwd(march)(source.detach()),
        lambda: torch.func.jacrev(march)(source.detach()),
        lambda: torch.func.hessian(energy)(source.detach()),
        lambda: torch.func.vmap(energy)(torch.stack([v.source, v.source])),
    ):
        with pytest.raises(BackendError, match=r"second derivative|torch\.func"):
            ask()


# 1e30 is finite and no place either: the ray has a value, and may not reach into other memory.
@pytest.mark.parametrize("bad", [math.nan, -math.inf, 1e30])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", ["reference", *KERNELS])
def test_a_ray_that_is_nowhere_is_nan_and_leaves_the_others_alone(backend, method, bad):
    v, mu = view(0.21, 0.37, (5, 4)), placed(random_volume(), backend).requires_grad_()

    def run(which, axis, value):
        frames = [x.repeat(3, 1) for x in v.frame]
        frames[which][1, axis] = value
        frames = [x.requires_grad_() for x in frames]
        image = project(Grid(mu, affine()), *frames, 5, 4, method=method, backend=backend)
        slopes = torch.autograd.grad(image.sum(), [*frames, mu])
        return image.detach().cpu(), torch.cat(slopes[:4], dim=1), slopes[4]

    image, slopes, _ = run(0, 0, v.source[0, 0])
    for which, axis in ((0, 0), (3, 1)):
        found, found_slopes, volume = run(which, axis, bad)
        for got, expected in ((found, image), (found_slopes, slopes)):
            assert torch.equal(got[[0, 2]], expected[[0, 2]])
            assert math.isfinite(bad) or torch.isnan(got[1]).all()
        assert torch.isfinite(volume).all() or math.isfinite(bad)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", ["reference", *KERNELS])
def test_a_voxel_that_is_nan_spoils_the_rays_that_meet_it_alone(backend, method):
    v, mu = GENERIC_VIEWS["oblique"], random_volume()
    grids = [Grid(placed(x, backend), affine()) for x in (mu, mu.clone())]
    grids[1].mu[3, 4, 5] = torch.nan
    whole, part = (
        project(g, *v.frame, v.height, v.width, method=method, backend=backend) for g in grids
    )
    lost = torch.isnan(part)
    assert 0 < lost.sum() < lost.numel() / 4 and torch.equal(part[~lost], whole[~lost])


ODD = [0.0, 1e-320, 1e-160, 1e-40, 1e-8, 0.5, 3.0, 1e8, 1e20, 1e38, 1e160, math.inf, math.nan]


@pytest.mark.parametrize("method", METHODS)
def test_rays_of_any_numbers_stay_inside_the_volume(method):
    draw = np.random.default_rng(0)
    ends = draw.choice([*ODD, *(-x for x in ODD)], (2, 20000, 3))
    ends = np.where(draw.random(ends.shape) < 0.5, ends, draw.uniform(-20, 20, ends.shape))
    mu = random_volume((7, 1, 16)).requires_grad_()
    value = line_integrals(Grid(mu, affine()), *ends, method=method, backend="cpu")
    value.sum().backward()
    with np.errstate(invalid="ignore"):
        apart = np.abs(ends[0] - ends[1]).max(axis=1)
    known = (np.abs(ends) < 1e30).all(axis=(0, 2)) & (apart > 1e-8)
    assert torch.isfinite(value[known]).all() and torch.isfinite(mu.grad).all()
    assert (torch.isnan(value) | torch.isfinite(value)).all()


IN_ITS_OWN_PROCESS = {
    "fork": """
with multiprocessing.get_context("fork").Pool(1) as pool:
    try:
        pool.map(render, [0])
    except BackendError as error:
        print(error)
""",
    "threads": """
threads = [threading.Thread(target=render, args=(k,)) for k in range(4)]
[t.start() for t in threads], [t.join() for t in threads]
print(len(seen), len({x.tobytes() for x in seen}))
""",
}


@pytest.mark.parametrize(
    "name, layer, said",
    [("fork", "omp", "spawn"), ("fork", "workqueue", "^$"), ("threads", "workqueue", "^5 1$")],
)
def test_rendering_in_other_processes_and_threads(name, layer, said):
    if name == "fork" and sys.platform != "linux":
        pytest.skip("processes are forked, and Numba brings OpenMP, on Linux alone")
    script = f"""
import multiprocessing, threading
from drrlib.errors import BackendError
from drrlib.projectors import Grid, project
from helpers import affine, random_volume, view
grid, v, seen = Grid(random_volume((64, 64, 64)), affine()), view(0.21, 0.37, (99, 99)), []
def render(k):
    for _ in range(20 if k else 1):
        image = project(grid, *v.frame, 99, 99).numpy()
    seen.append(image)
render(0)
{IN_ITS_OWN_PROCESS[name]}"""
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert re.search(said, run.stdout.strip()), run.stdout


def test_without_a_folder_to_write_to_kernels_are_compiled_anew(monkeypatch, capfd):
    from drrlib import compiled

    def add(x):
        return x + 1

    # What Numba calls where neither the package nor the home folder may be written.
    refused = RuntimeError("cannot cache function 'add': no locator available")
    enable = mock.Mock(side_effect=refused)
    monkeypatch.setattr("numba.core.dispatcher.Dispatcher.enable_caching", enable)
    compiled._say_uncached.cache_clear()
    assert [compiled.kernel(add)(1) for _ in range(2)] == [2, 2] and enable.called
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "NUMBA_CACHE_DIR" in said[0]


def test_compiling_says_so(monkeypatch, capfd):
    from types import SimpleNamespace

    from drrlib import turns

    monkeypatch.setattr(turns, "_SILENCE", 0.01)
    stats = SimpleNamespace(cache_path=None)
    for signatures, said in (([], True), (["compiled before"], False)):
        with turns.turn(SimpleNamespace(signatures=signatures, stats=stats)):
            time.sleep(0.2)
        assert ("compiling the CPU kernel" in capfd.readouterr().err) is said


def test_named_backend_never_falls_back():
    grid = Grid(random_volume(dtype=torch.float64), affine())
    assert choose_backend(grid) == "reference"
    assert choose_backend(Grid(random_volume(), affine())) == "cpu"
    with pytest.raises(BackendError, match="float32"):
        choose_backend(grid, "cpu")
    with pytest.raises(ConfigError, match="reference, cpu"):
        choose_backend(grid, "gpu")


def test_bad_input_is_named():
    v, grid = GENERIC_VIEWS["oblique"], Grid(random_volume(), affine())
    with pytest.raises(ConfigError, match="siddon, joseph"):
        project(grid, *v.frame, 3, 3, method="bresenham")
    with pytest.raises(ConfigError, match="height is 0"):
        project(grid, *v.frame, 0, 3)
    with pytest.raises(ConfigError, match="patch_size is -1"):
        project(grid, *v.frame, 3, 3, patch_size=-1)
    with pytest.raises(ShapeError, match="do not broadcast"):
        # Past the shape check that tests put in front, as users run it.
        inspect.unwrap(line_integrals)(grid, torch.zeros(3, 3), torch.ones(4, 3))
    with pytest.raises(GeometryError, match="affine"):
        Grid(random_volume(), torch.zeros(4, 4))
    with pytest.raises(DtypeError, match="int64"):
        inspect.unwrap(Grid.__init__)(object.__new__(Grid), torch.ones(2, 2, 2).long(), affine())


@pytest.mark.parametrize("step", ["save", "load"])
def test_a_full_disk_costs_a_compilation_and_one_line(step, monkeypatch, capfd):
    """Numba raises where it cannot save or read a kernel that it has compiled."""
    from numba.core.caching import IndexDataCacheFile

    from drrlib import compiled

    def add(x):
        return x + 1

    full = mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr(IndexDataCacheFile, step, full)
    monkeypatch.setattr(IndexDataCacheFile, "_save_data", mock.Mock())
    monkeypatch.setattr(IndexDataCacheFile, "_save_index", mock.Mock())
    compiled._say_uncached.cache_clear()
    kernels = [compiled.kernel(add) for _ in range(2)]
    assert [kernel(1) for kernel in kernels] == [2, 2] and full.called
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "No space left" in said[0] and "NUMBA_CACHE_DIR" in said[0]
