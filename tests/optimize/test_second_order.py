"""Levenberg-Marquardt: its derivatives, its way down, what it does when there is none."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from drrlib.drr import DRR
from drrlib.geometry import CArm, inverse, mtre
from drrlib.lab.phantoms import skull
from drrlib.optimize import (
    Linear,
    Normal,
    Objective,
    Sight,
    covariance,
    levenberg,
    normal_equations,
    residuals,
)
from drrlib.optimize import second_order as module
from drrlib.similarity import Model, get_loss, smooth_fields
from drrlib.volume import Volume
from helpers import worst

CARM = CArm(1020.0, 510.0, 48, 48, 8.0, 8.0)
TRUE = torch.tensor([0.1, 0.4, -0.2, 4.0, -3.0, 5.0], dtype=torch.float64)
NEAR = TRUE + torch.tensor([0.02, -0.03, 0.02, 2.0, -2.0, 3.0])


@pytest.fixture(scope="module")
def volume():
    phantom = skull(6.0)
    return Volume.from_hu(phantom.hu, phantom.affine)


def _sight(volume, eta=TRUE, carm=CARM, turn=0.0, weights=None, noise=0.0, seed=0):
    """A camera turned by `turn` about the patient, and its image of the true pose."""
    backend = "reference" if volume.mu.dtype == torch.float64 else "auto"
    drr = DRR(volume, carm, method="joseph", backend=backend)
    more = torch.tensor([0.0, turn, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    first, second = (carm.pose(x, volume.center) for x in (TRUE, TRUE + more))
    others = dict(first=carm, relative=inverse(first) @ second) if turn else {}
    sight = Sight(drr, torch.zeros(1, 1, 1, 1), weights, **others)
    fixed = sight.render(eta.reshape(-1, 6))
    generator = torch.Generator().manual_seed(seed)
    fixed = fixed + noise * torch.randn(fixed.shape, generator=generator, dtype=torch.float64)
    return dataclasses.replace(sight, fixed=fixed.to(drr.grid.dtype))


def _model(sights, p):
    return normal_equations(sights, Objective(sights).linearize(p))


def _descent(sights, p, steps):
    """From each row of p to the one image of each view."""
    objective = Objective(sights)
    return levenberg(objective, p, objective.linearize(p), steps), objective


def _error(volume, eta):
    pose, true = (CARM.pose(x.reshape(-1, 6), volume.center) for x in (eta, TRUE))
    return mtre(pose, true, volume.targets)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("views", [1, 2])
def test_normal_equations_are_the_derivatives_of_the_loss(weighted, views):
    """In float64: loss and gradient by autograd, the matrix from differences of the residuals."""
    phantom = skull(16.0)
    small = Volume.from_hu(torch.tensor(phantom.hu).double(), phantom.affine)
    carm = CArm(1020.0, 510.0, 14, 12, 26.0, 30.0)
    generator = torch.Generator().manual_seed(2)
    weights = torch.rand(1, 1, 14, 12, generator=generator, dtype=torch.float64)
    weights[..., :3, :5] = 0
    weights = weights if weighted else None
    sights = [_sight(small, carm=carm, turn=1.2 * k, weights=weights) for k in range(views)]
    p = torch.stack([NEAR, TRUE + 0.1])
    model = _model(sights, p)

    loss, q, value = get_loss("zncc"), p.clone().requires_grad_(), 0.0
    for s in sights:
        pose = carm.pose(q, small.center)
        moving = s.drr(pose if s.relative is None else pose @ s.relative)
        value = value + loss(s.fixed, moving, s.weights) / views
    (slope,) = torch.autograd.grad(value.sum(), q)
    assert torch.allclose(model.loss, value, rtol=1e-9)
    assert worst(model.gradient, slope) < 1e-9
    ours = Objective(sights).slope(p)
    assert torch.allclose(ours[0], value, rtol=1e-9) and worst(ours[1], slope) < 1e-9

    matrix = torch.zeros(2, 6, 6, dtype=torch.float64)
    for sight in sights:
        columns = []
        for i in range(6):
            h = torch.zeros(6, dtype=torch.float64)
            h[i] = 1e-6 if i < 3 else 1e-4
            ends = [Objective([sight]).linearize(p + sign * h)[0] for sign in (1, -1)]
            ends = [residuals(sight, end)[0] for end in ends]
            columns.append((ends[0] - ends[1]) / (2 * h[i]))
        j = torch.stack(columns, dim=2)
        matrix += j.mT @ j / views
    assert worst(model.curvature, matrix) < 1e-5


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("grey", [Model(3), Model(1, 2), Model(3, 3)])
def test_regressed_grey_values_have_the_derivative_of_what_they_leave(weighted, grey):
    """The loss is half the part of the variance that is left: by NumPy, and differences."""
    phantom = skull(16.0)
    small = Volume.from_hu(torch.tensor(phantom.hu).double(), phantom.affine)
    carm = CArm(1020.0, 510.0, 14, 12, 26.0, 30.0)
    weights = torch.rand(1, 1, 14, 12, generator=torch.Generator().manual_seed(3)).double()
    weights[..., :3, :5] = 0
    weights = weights if weighted else None
    sight = dataclasses.replace(_sight(small, carm=carm, weights=weights), grey=grey)
    p = NEAR[None]
    model = _model([sight], p)

    root = np.ones(14 * 12) if weights is None else weights.sqrt().numpy().ravel()
    x, f = sight.render(p).numpy().ravel(), sight.fixed.numpy().ravel()
    i, j = np.mgrid[1:28:2, 1:24:2].reshape(2, -1) / [[14], [12]] - 1
    smooth = [i**k * j**n for k in range(4) for n in range(4) if 0 < k + n <= grey.smooth]
    powers = [x**k for k in range(grey.degree + 1)]
    columns = root[:, None] * np.stack([*powers, *smooth], axis=1)
    rest = root * f - columns @ np.linalg.lstsq(columns, root * f, rcond=None)[0]
    around = root * (f - (root**2 @ f) / (root @ root))
    assert float(model.loss) == pytest.approx(0.5 * (rest @ rest) / (around @ around), rel=1e-6)

    for i in range(6):
        h = torch.zeros(1, 6, dtype=torch.float64)
        h[0, i] = 1e-6 if i < 3 else 1e-4
        ends = [float(_model([sight], p + sign * h).loss) for sign in (1, -1)]
        slope = (ends[0] - ends[1]) / float(2 * h[0, i])
        assert float(model.gradient[0, i]) == pytest.approx(slope, rel=1e-4)


def test_curved_grey_values_do_not_move_the_optimum(volume):
    """The fixed image bends as by beam hardening: a cubic finds the pose, a line is pulled off."""
    sight = _sight(volume)
    bent = dataclasses.replace(sight, fixed=sight.fixed - 0.1 * sight.fixed.square())
    ends = [
        _descent([dataclasses.replace(bent, grey=Model(degree))], NEAR[None], 30)[0].parameters
        for degree in (1, 3)
    ]
    line, cubic = (float(_error(volume, end)) for end in ends)
    assert cubic < 1e-2 and line > 10 * cubic


def test_a_smooth_field_does_not_move_the_optimum(volume):
    """As scatter, it lies over the image: its own columns find the pose, a line is pulled off."""
    sight = _sight(volume)
    height, width = sight.fixed.shape[-2:]
    field = 0.5 * smooth_fields(height, width, 2).sum(dim=1).reshape(height, width)
    spoilt = dataclasses.replace(sight, fixed=sight.fixed + field)
    ends = [
        _descent([dataclasses.replace(spoilt, grey=Model(1, k))], NEAR[None], 30)[0].parameters
        for k in (0, 2)
    ]
    line, smooth = (float(_error(volume, end)) for end in ends)
    assert smooth < 1e-2 and line > 10 * smooth


def test_smooth_fields_are_orthogonal_legendre_products():
    fields = smooth_fields(60, 80, 3)
    assert fields.shape == (4800, 9) and fields.abs().max() <= 1
    gram = fields.T @ fields / 4800
    assert (gram - torch.diag(gram.diagonal())).abs().max() < 2e-3
    # The mean of the square of P_i P_j is 1 / (2 i + 1) / (2 j + 1).
    expected = [1 / (2 * i + 1) / (2 * (k - i) + 1) for k in (1, 2, 3) for i in range(k + 1)]
    assert torch.allclose(gram.diagonal(), torch.tensor(expected).double(), atol=2e-3)


def test_rows_of_a_view_take_the_image_of_their_owner(volume):
    other = TRUE + torch.tensor([0.0, 0.3, 0.0, 0.0, 0.0, 0.0])
    sight = _sight(volume, torch.stack([TRUE, other]))
    owner = torch.tensor([1, 0, 1])
    model = _model([sight.rows(owner)], torch.stack([other, TRUE, TRUE]))
    assert model.loss[:2].max() < 1e-10 and model.loss[2] > 1e-2
    assert torch.equal(sight.rows(owner).fixed[1], sight.fixed[0])


@pytest.mark.parametrize("views", [1, 2])
def test_converges_to_the_truth(volume, views):
    sights = [_sight(volume, turn=1.3 * k) for k in range(views)]
    found, objective = _descent(sights, torch.stack([NEAR, TRUE]), 20)
    assert found.settled.all() and found.normal.loss.max() < 1e-8
    assert _error(volume, found.parameters).max() < 0.02
    assert objective.renders < 2 + 2 * 20  # the settled one stops
    at = objective.linearize(found.parameters)
    for kept, anew in zip(found.linear, at, strict=True):
        assert torch.equal(kept.image, anew.image) and torch.equal(kept.jacobian, anew.jacobian)


def test_a_bad_step_is_rejected_and_damped(volume, monkeypatch):
    """Steps turned round only go up: nothing moves, and each try is ten times shorter."""
    right, asked = module._step, []

    def wrong(model, damping):
        asked.append(float(damping[0]))
        return -right(model, damping)

    monkeypatch.setattr(module, "_step", wrong)
    sights = [_sight(volume)]
    before = _model(sights, NEAR[None])
    found, objective = _descent(sights, NEAR[None], 4)
    assert torch.equal(found.parameters[0], NEAR) and not found.settled[0]
    assert torch.equal(found.normal.loss, before.loss)
    assert asked == pytest.approx([1e-3, 1e-2, 1e-1, 1.0]) and objective.renders == 1 + 4


def test_damping_shortens_and_turns_the_step():
    curvature = torch.tensor([[[4.0, 1.0], [1.0, 9.0]]], dtype=torch.float64)
    gradient = torch.tensor([[2.0, -3.0]], dtype=torch.float64)
    model = Normal(torch.ones(1).double(), gradient, curvature)
    newton = module._step(model, torch.zeros(1).double())
    assert torch.allclose(newton, -torch.linalg.solve(curvature, gradient[..., None])[..., 0])
    steep = module._step(model, torch.full((1,), 1e6).double())
    assert torch.allclose(steep, -1e-6 * gradient / torch.tensor([[4.0, 9.0]]), rtol=1e-5)


def test_a_row_that_is_not_finite_stays(volume):
    bad = NEAR.clone()
    bad[0] = math.nan
    p = torch.stack([bad, NEAR])
    found, _ = _descent([_sight(volume)], p, 20)
    assert torch.equal(found.parameters[0].isnan(), p[0].isnan()) and not found.settled[0]
    assert found.settled[1] and float(_error(volume, found.parameters[1])) < 0.02


@pytest.mark.parametrize("part", ["gradient", "curvature"])
def test_a_model_that_is_not_finite_is_not_stepped_into(volume, monkeypatch, part):
    def broken(sights, linear):
        model = normal_equations(sights, linear)
        return model._replace(**{part: torch.full_like(getattr(model, part), math.nan)})

    monkeypatch.setattr(module, "normal_equations", broken)
    found, objective = _descent([_sight(volume)], NEAR[None], 20)
    assert (
        torch.equal(found.parameters[0], NEAR) and not found.settled[0] and objective.renders == 1
    )


def test_no_way_down_leads_out_of_the_patient(volume):
    """An image of air is no better than an unlike one."""
    away = TRUE.clone()
    away[3:] = torch.tensor([900.0, 0.0, 0.0])
    model = _model([_sight(volume)], away[None])
    assert float(model.loss) == pytest.approx(1.0) and not model.gradient.any()


def test_covariance_of_a_linear_model(volume, monkeypatch):
    """White residuals r of a linear model J p: sigma^2 (J^T J)^-1, here with a known answer."""
    n, sigma, rows = 64, 0.1, 200
    generator = torch.Generator().manual_seed(4)
    jacobian = torch.randn(1, n * n, 3, generator=generator, dtype=torch.float64)
    residual = sigma * torch.randn(rows, n * n, generator=generator, dtype=torch.float64)
    jacobian = jacobian.expand(rows, -1, -1)
    monkeypatch.setattr(module, "residuals", lambda *given: (residual, jacobian))
    sight = dataclasses.replace(_sight(volume), fixed=torch.zeros(rows, 1, n, n))
    blank = Linear(residual, jacobian, torch.ones_like(residual))
    matrix = covariance([sight], [blank]).mean(dim=0)
    expected = sigma**2 * torch.linalg.inv(jacobian[0].T @ jacobian[0])
    assert worst(matrix, expected) < 0.1
    # A second view of the same worth halves the variance.
    assert worst(covariance([sight, sight], [blank, blank]).mean(dim=0), matrix / 2) < 1e-9


def test_covariance_knows_noise_that_hangs_together(volume, monkeypatch):
    """One error per block of 8 x 8 pixels tells 64 times less than one per pixel."""
    n, rows = 64, 200
    generator = torch.Generator().manual_seed(5)
    residual = torch.randn(rows, 8, 8, generator=generator, dtype=torch.float64)
    residual = residual.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2).flatten(1)
    jacobian = torch.ones(rows, n * n, 1, dtype=torch.float64)
    monkeypatch.setattr(module, "residuals", lambda *given: (residual, jacobian))
    sight = dataclasses.replace(_sight(volume), fixed=torch.zeros(rows, 1, n, n))
    blank = Linear(residual, jacobian, torch.ones_like(residual))
    found = float(covariance([sight], [blank]).mean())
    assert found == pytest.approx(1 / 64, rel=0.05)  # the variance of a mean of 64 errors


def test_covariance_agrees_with_many_noisy_images(volume):
    """Standard deviations within a factor of 2 of the scatter of 60 registrations."""
    count = 60
    sight = _sight(volume, TRUE.expand(count, 6), noise=0.05)
    rows = TRUE.expand(count, 6).clone()
    found, _ = _descent([sight], rows, 12)
    scatter = (found.parameters - TRUE).square().mean(dim=0).sqrt()
    told = covariance([sight], found.linear).diagonal(dim1=1, dim2=2).sqrt().median(dim=0)
    ratio = told.values / scatter
    assert bool(((ratio > 0.5) & (ratio < 2.0)).all()), ratio
