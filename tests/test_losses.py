"""Similarities: invariance, known values, gradients, constant images."""

import inspect

import pytest
import torch

from drrlib.errors import ConfigError, ShapeError
from drrlib.losses import LOSSES, get_loss, l2, ncc, zncc


def _image(seed, batch=1, size=(5, 4)):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 1, *size, generator=generator, dtype=torch.float64)


def test_values_by_hand():
    a = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    b = torch.tensor([[[[0.0, 1.0], [3.0, 2.0]]]])
    assert zncc(a, b).item() == pytest.approx(0.8)
    assert ncc(a, b).item() == pytest.approx(13 / 14)
    assert l2(a, b).item() == pytest.approx(0.5)


def test_zncc_is_blind_to_scale_and_offset():
    a = _image(0)
    assert torch.allclose(zncc(a, 3 * a + 7), torch.ones(1).double())
    assert torch.allclose(zncc(a, -a), -torch.ones(1).double())
    assert zncc(a.float() + 1000, a.float()).item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck_and_optimum(name):
    fixed, moving = _image(0), _image(1, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: get_loss(name)(fixed, x), moving)
    assert get_loss(name)(fixed, fixed).abs().max() < 1e-12
    assert (get_loss(name)(fixed, moving) > 0).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("value", [0.0, 0.3, 1000.1])
def test_constant_images_are_defined(name, value):
    for dtype in (torch.float32, torch.float64):
        moving = torch.full((2, 1, 50, 50), value, dtype=dtype, requires_grad=True)
        loss = get_loss(name)(_image(0, size=(50, 50)).to(dtype), moving)
        loss.sum().backward()
        assert torch.isfinite(loss).all() and torch.isfinite(moving.grad).all()
        if name == "zncc":
            assert torch.equal(loss, torch.ones_like(loss)) and (moving.grad == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_weights_leave_pixels_out(name):
    fixed, moving = _image(0, size=(5, 8)), _image(1, 2, (5, 8))
    weights = torch.ones(1, 1, 5, 8).double()
    weights[..., 4:] = 0
    whole = get_loss(name)(fixed, moving, weights)
    part = get_loss(name)(fixed[..., :4], moving[..., :4])
    assert torch.allclose(whole, part)


def test_bad_input_is_named():
    with pytest.raises(ConfigError, match="zncc, ncc, l2"):
        get_loss("ssim")
    with pytest.raises(ShapeError, match="one size"):
        inspect.unwrap(zncc)(_image(0), _image(0)[..., :3])
