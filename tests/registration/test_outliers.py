"""Pixels that the CT cannot explain, and those that it can."""

import pytest
import torch

from drrlib.registration.outliers import Fit, fit, misfit
from drrlib.similarity import LINE, Model, smooth_fields
from helpers import worst


@pytest.fixture()
def moving():
    x = torch.linspace(-1, 1, 40, dtype=torch.float64)
    image = 3 * torch.exp(-4 * (x[:, None] ** 2 + 0.5 * x**2)) + 0.3 * torch.sin(9 * x)
    return image.reshape(1, -1)


def fitted(moving, fixed, weights, model=LINE):
    images = [None if x is None else x.reshape(-1, 40, 40) for x in (moving, fixed, weights)]
    return fit(*images, model)


def _tool():
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[12:30, 18:22] = True
    return mask.reshape(1, -1)


def test_a_perfect_fit_keeps_every_pixel(moving):
    found = fitted(moving, 2.5 * moving - 7, None)
    assert found.weights.min() > 1 - 1e-12
    assert found.residual.abs().max() < 1e-7 and float(found.scale) == pytest.approx(0.02)


def test_an_instrument_counts_nothing_and_the_rest_everything(moving):
    tool = _tool()
    fixed = torch.where(tool, moving + 4, moving)
    found = fitted(moving, fixed, None)
    assert found.weights[tool].max() == 0 and found.weights[~tool].min() > 1 - 1e-6
    noise = 0.05 * torch.randn(1, 1600, generator=torch.Generator().manual_seed(0)).double()
    found = fitted(moving, fixed + noise, None)
    assert found.weights[tool].max() == 0 and found.weights[~tool].mean() > 0.9
    deviation = float(noise.std() / moving.std())
    assert float(found.scale) == pytest.approx(deviation, rel=0.15)


def test_a_curve_of_grey_values_is_no_outlier(moving):
    """Hardening bends grey values; a line takes its ends for outliers, a cubic explains them."""
    fixed = moving - 0.08 * moving.square()
    tool = _tool()
    fixed[tool] += 4
    line, cubic = (fitted(moving, fixed, None, Model(degree)) for degree in (1, 3))
    assert cubic.weights[~tool].min() > 1 - 1e-6 and cubic.weights[tool].max() == 0
    assert line.weights[~tool].min() < 0.9
    assert cubic.residual[~tool].abs().max() < 1e-6 < line.residual[~tool].abs().max()


def test_what_is_smooth_is_no_outlier(moving):
    fixed = moving + 0.6 * smooth_fields(40, 40, 2)[:, 3] - 0.4 * smooth_fields(40, 40, 2)[:, 0]
    fixed[_tool()] += 4
    plain, smooth = (fitted(moving, fixed, None, Model(1, k)) for k in (0, 2))
    assert smooth.weights[~_tool()].min() > 1 - 1e-6 and smooth.weights[_tool()].max() == 0
    assert smooth.residual[~_tool()].abs().max() < 1e-6 < plain.residual[~_tool()].abs().max()


@pytest.mark.parametrize(("scale", "offset"), [(0.01, 5.0), (300.0, -40.0)])
def test_grey_values_may_be_scaled_and_shifted(moving, scale, offset):
    noise = 0.1 * torch.randn(1, 1600, generator=torch.Generator().manual_seed(1)).double()
    fixed = torch.where(_tool(), moving + 4, moving + noise)
    plain, other = fitted(moving, fixed, None), fitted(moving, scale * fixed + offset, None)
    assert worst(other.weights, plain.weights) < 1e-8
    assert worst(other.residual, plain.residual) < 1e-8
    assert worst(other.scale, plain.scale) < 1e-8


def test_given_weights_are_kept(moving):
    """What weighs nothing is not looked at; the others lose only what is unexplained."""
    given = torch.full_like(moving, 0.25)
    given[:, :400] = 0
    fixed = torch.where(torch.arange(1600) < 400, 1e4, moving)
    found = fitted(moving, fixed, given)
    assert worst(found.weights, given) < 1e-12 and not found.residual[:, :400].any()
    fixed = torch.where(_tool(), fixed + 4, fixed)
    again = fitted(moving, fixed, given)
    assert not again.weights[_tool()].any() and not again.weights[:, :400].any()
    rest = ~_tool() & (given > 0)
    assert torch.allclose(again.weights[rest], given[rest])


def test_misfit_compares_rows_by_one_measure():
    """The cut-off is that of the best row of the same owner, not a row's own."""
    ones = torch.ones(3, 4, dtype=torch.float64)
    residual = torch.tensor([[0.1, 0.1, 0.1, 0.1], [0.1, 9.0, 9.0, 9.0], [2.0, 2.0, 2.0, 2.0]])
    scale = torch.tensor([0.1, 5.0, 5.0])
    one = Fit(ones, residual.double(), scale.double())
    value = misfit([one], torch.tensor([0, 0, 1]))
    cut = (6 * 0.1) ** 2
    assert torch.allclose(value, torch.tensor([0.01, (0.01 + 3 * cut) / 4, 4.0]).double())
    two = misfit([one, Fit(ones, torch.zeros_like(ones), scale.double())], torch.tensor([0, 0, 1]))
    assert torch.allclose(two, value / 2)


def test_a_worse_image_has_a_larger_misfit(moving):
    """Also where its own robust fit would throw away all that is wrong."""
    fixed = torch.where(_tool(), moving + 4, moving)
    wrong = torch.where(torch.arange(1600) % 3 == 0, moving.flip(1).roll(7), moving)
    found = fitted(torch.cat([moving, wrong]), fixed.expand(2, -1), None)
    value = misfit([found], torch.tensor([0, 0]))
    assert value[1] > 1.5 * value[0]
