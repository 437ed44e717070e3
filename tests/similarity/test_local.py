"""Local normalisation: what it takes away, what it leaves, and its derivative."""

import math

import pytest
import scipy.ndimage
import torch

from drrlib.errors import BackendError
from drrlib.similarity import normalise
from drrlib.similarity.blur import blur


def _image(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_blur_is_a_gaussian():
    image = _image(2, 30, 21)
    inside = scipy.ndimage.gaussian_filter(
        image.numpy(), (0, 2.0, 2.0), mode="constant", truncate=8
    )
    # scipy makes the sampled Gaussian sum to 1, which it does to 1e-7 at this width anyway.
    assert (blur(image, 2.0) - torch.tensor(inside)).abs().max() < 1e-6


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 7, 40), (2, 2, 65, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_compiled_blur_is_the_product_of_matrices(size, dtype):
    from drrlib.similarity import blur as module

    image = _image(*size).to(dtype).requires_grad_()
    rows, columns = (module._matrix(n, 2.5).to(dtype) for n in size[-2:])
    wanted, found = rows @ image @ columns, blur(image, 2.5)
    assert found.shape == image.shape and torch.allclose(found, wanted, atol=5e-7, rtol=0)
    pulled = _image(*size, seed=1).to(dtype)
    (slope,) = torch.autograd.grad(found, image, pulled)
    assert torch.allclose(slope, rows @ pulled @ columns, atol=5e-7, rtol=0)


def test_a_second_derivative_of_the_blur_is_refused():
    image = _image(1, 8, 8).requires_grad_()
    (slope,) = torch.autograd.grad(blur(image, 2.0).square().sum(), image, create_graph=True)
    with pytest.raises(BackendError, match="second derivative"):
        slope.sum().backward()


@pytest.mark.parametrize("weighted", [False, True])
def test_scale_offset_and_slow_fields_vanish(weighted):
    """What a picture does to grey values: another contrast, a shading, a curve."""
    image, ones = _image(1, 60, 60), torch.ones(1, 60, 60).double()
    weights = ones.clone()
    if weighted:
        weights[:, :, 40:] = 0
    plain = normalise(image, weights, 2.5).value
    shading = torch.linspace(0, 3, 60).double()
    other = image.clone()
    other[weights == 0] = 1e6  # what has no weight is not looked at
    turned = normalise(5 * other + shading[:, None], weights, 2.5).value
    assert (turned - plain)[weights > 0].abs().max() < 0.1  # edges see the shading from one side
    assert torch.allclose(normalise(-image, weights, 2.5).value, -plain)
    inside = plain[weights > 0]
    assert abs(float(inside.mean())) < 0.05 and 0.85 < float(inside.std()) < 1.0


@pytest.mark.parametrize("window", [1.5, 4.0])
def test_slope_is_the_derivative(window):
    """Against autograd, which also takes the least variance as fixed."""
    image, weights = _image(2, 14, 17), _image(2, 14, 17, seed=1)
    weights[:, :4, :5] = 0
    jacobian = torch.randn(2, 3, 14, 17, generator=torch.Generator().manual_seed(3)).double()
    found = normalise(image, weights, window).slope(jacobian)
    for n in range(3):
        step = 1e-6
        ends = []
        for sign in (1, -1):
            # The least variance follows the whole image; its part in the difference is small.
            ends.append(normalise(image + sign * step * jacobian[:, n], weights, window).value)
        difference = (ends[0] - ends[1]) / (2 * step)
        assert (difference - found[:, n]).abs().max() < 0.1 * found[:, n].abs().max()
        assert math.isclose(
            float((difference * found[:, n]).sum() / (difference.norm() * found[:, n].norm())),
            1.0,
            abs_tol=2e-3,
        )
    leaf = image.clone().requires_grad_()
    pulled = torch.randn(2, 14, 17, generator=torch.Generator().manual_seed(4)).double()
    (gradient,) = torch.autograd.grad((normalise(leaf, weights, window).value * pulled).sum(), leaf)
    by_slope = (found * pulled[:, None]).sum(dim=(2, 3))
    assert torch.allclose((gradient[:, None] * jacobian).sum(dim=(2, 3)), by_slope, rtol=1e-8)


def test_a_flat_image_is_zero():
    flat = normalise(torch.full((1, 12, 12), 3.0), torch.ones(1, 12, 12), 2.0).value
    assert bool(torch.isfinite(flat).all()) and flat.abs().max() < 1e-2
