"""Gradient correlation: known values, invariance, edges that count, masks, directions."""

import pytest
import torch

from drrlib.errors import ShapeError
from drrlib.similarity import LOSSES, zncc

gradient_ncc = LOSSES["gradient_ncc"]


def _image(seed, batch=1, size=(12, 9)):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 1, *size, generator=generator, dtype=torch.float64)


def _sobel(x, dim):
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).double()
    return torch.conv2d(x, (kernel if dim == -1 else kernel.T)[None, None])


def _ramp(power, size=12):
    return (torch.arange(size, dtype=torch.float64) ** power).expand(1, 1, size, size)


def test_is_the_mean_of_both_directions():
    fixed, moving = _image(0), _image(1, 3)
    parts = [zncc(*(_sobel(x, dim) for x in (fixed, moving))) for dim in (-1, -2)]
    assert torch.allclose(gradient_ncc(fixed, moving), 1 - (parts[0] + parts[1]) / 2)


def test_is_blind_to_scale_offset_and_a_slope_of_the_grey_values():
    fixed, moving = _image(0), _image(1)
    expected = gradient_ncc(fixed, moving)
    slope = 4 * torch.arange(9, dtype=torch.float64)  # one number more in every derivative
    assert torch.allclose(gradient_ncc(fixed, 3 * moving + 7 + slope), expected)
    assert not torch.allclose(1 - zncc(fixed, 3 * moving + 7 + slope), 1 - zncc(fixed, moving))
    assert gradient_ncc(fixed, -fixed).item() == pytest.approx(2.0)


def test_a_direction_without_change_does_not_count():
    assert gradient_ncc(_ramp(2), _ramp(2)).item() == 0
    # Quadratic and cubic columns: ZNCC of 2 (j + 1) and of 3 (j + 1)^2 + 1 (Sobel's own
    # difference) for j = 0 to 9; it is blind to factor and offset.
    j = torch.arange(1, 11, dtype=torch.float64).expand(1, 1, 10, 10)
    expected = 1 - zncc(j, j.square())
    assert torch.allclose(gradient_ncc(_ramp(2), _ramp(3)), expected)
    # One image changes along the rows and the other along the columns: nothing in common.
    assert gradient_ncc(_ramp(2), _ramp(2).mT).item() == 1
    # A linear ramp has the same derivative everywhere.
    assert gradient_ncc(_ramp(1), _ramp(1)).item() == 1


def test_no_derivative_sees_a_masked_pixel():
    fixed, moving = _image(0), _image(1).requires_grad_()
    weights = torch.ones_like(fixed)
    weights[..., 5, 4] = 0
    expected = gradient_ncc(fixed, moving, weights)
    for value in (1e6, float("nan")):
        other = fixed.clone()
        other[..., 5, 4] = value
        assert torch.equal(gradient_ncc(other, moving, weights), expected)
    (slope,) = torch.autograd.grad(expected, moving)
    assert slope[..., 5, 4] == 0 and (slope != 0).sum() > 50
    # By hand: the sums over those inner pixels whose neighbourhood is whole.
    keep = torch.ones(10, 7, dtype=torch.bool)
    keep[4 - 1 : 7 - 1, 3 - 1 : 6 - 1] = False  # rows 4 to 6, columns 3 to 5 of the image
    terms = []
    for dim in (-1, -2):
        pair = [_sobel(x, dim)[0, 0][keep] for x in (fixed, moving.detach())]
        terms.append(torch.corrcoef(torch.stack(pair))[0, 1])
    assert expected.item() == pytest.approx(1 - float(sum(terms)) / 2)


def test_small_images_are_refused():
    with pytest.raises(ShapeError, match="at least 3 x 3"):
        gradient_ncc(_image(0, size=(2, 8)), _image(1, size=(2, 8)))
