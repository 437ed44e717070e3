"""The reference against closed forms and finite differences, in float64."""

import pytest
import torch

from drrlib.lab.phantoms import Box, Ellipsoid, Scene
from drrlib.projectors import METHODS, Grid, line_integrals, project
from helpers import ALIGNED_VIEWS, GENERIC_VIEWS, affine, random_volume, view, worst

BOXES = Scene(
    [
        Box((-6.0, -5.0, -7.5), (2.0, 4.0, 3.0), 0.02),
        Box((2.0, -2.0, -3.0), (7.0, 7.0, 7.5), 0.05),
        Box((-3.0, -8.0, -1.5), (6.0, -5.0, 6.0), 0.01),
    ]
)
SIZE, SPACING = (32, 16, 12), (0.5, 1.0, 1.5)


@pytest.mark.parametrize("name", [*GENERIC_VIEWS, "AP", "exact lateral", "exact cranial"])
def test_siddon_is_exact(name):
    v = {**GENERIC_VIEWS, **ALIGNED_VIEWS}[name]
    grid_affine = affine(SPACING, SIZE)
    grid = Grid(BOXES.voxelize(SIZE, grid_affine), grid_affine)
    image = project(grid, *v.frame, v.height, v.width, backend="reference")
    truth = BOXES.line_integrals(v.source[:, None, None], v.targets)
    assert truth.max() > 0.1
    assert worst(image, truth) < 1e-10


def test_siddon_is_exact_in_an_oblique_sheared_grid():
    """The same boxes, with object and rays moved by one affine map: the length changes with it."""
    v = GENERIC_VIEWS["oblique"]
    grid_affine = affine(SPACING, SIZE)
    mu = BOXES.voxelize(SIZE, grid_affine)
    shear = torch.tensor(
        [[0.9, 0.2, -0.1, 3.0], [-0.15, 1.1, 0.3, -2.0], [0.05, 0.1, -0.8, 1.0], [0, 0, 0, 1]],
        dtype=torch.float64,
    )  # mirrors too: negative determinant
    source, target = (x @ shear[:3, :3].T + shear[:3, 3] for x in (v.source, v.targets))
    integral = line_integrals(Grid(mu, shear @ grid_affine), source, target)
    truth = BOXES.line_integrals(v.source[:, None, None], v.targets)
    stretch = (target - source).norm(dim=-1) / (v.targets - v.source).norm(dim=-1)
    assert worst(integral, truth * stretch) < 1e-10


@pytest.mark.parametrize("method", METHODS)
def test_ellipsoid_converges(method):
    """Finer voxels approach the smooth object; Joseph on its own is not exact for voxels."""
    ball = Ellipsoid((0.3, -0.2, 0.5), (6.0, 5.0, 7.0), 0.03)
    v = GENERIC_VIEWS["oblique"]
    truth = ball.line_integrals(v.source[:, None, None], v.targets)
    errors = []
    for n in (16, 48):
        a = affine((16 / n,) * 3, (n,) * 3)
        grid = Grid(ball.voxelize((n,) * 3, a), a)
        image = project(grid, *v.frame, v.height, v.width, method=method)
        errors.append(float((image - truth).square().mean().sqrt() / truth.max()))
    assert errors[1] < 0.01 and errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("method", METHODS)
def test_gradcheck(method):
    v = view(0.23, 0.41, (3, 2), offset=(0.3, 0.1, 0.2))
    mu = random_volume((5, 6, 4), dtype=torch.float64).requires_grad_()
    a = affine((3.0, 2.5, 4.0), (5, 6, 4))
    frame = [x.clone().requires_grad_() for x in v.frame]

    def image(mu, *frame):
        return project(Grid(mu, a), *frame, 3, 2, method=method)

    assert torch.autograd.gradcheck(image, (mu, *frame), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("patch", [1, 4, 7, 100])
def test_patches_change_nothing(method, patch):
    v = GENERIC_VIEWS["oblique"]
    grid = Grid(random_volume(), affine())
    whole = project(grid, *v.frame, v.height, v.width, method=method, backend="reference")
    parts = project(
        grid, *v.frame, v.height, v.width, method=method, backend="reference", patch_size=patch
    )
    assert torch.equal(whole, parts)
