"""Similarities: invariance, known values, gradients, constant images."""

import inspect

import pytest
import torch

from drrlib.errors import BackendError, ConfigError, ShapeError
from drrlib.similarity import LOSSES, check_falls, get_loss, l2_loss, ncc, zncc, zncc_loss


def _image(seed, batch=1, size=(5, 4)):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 1, *size, generator=generator, dtype=torch.float64)


def test_values_by_hand():
    a = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    b = torch.tensor([[[[0.0, 1.0], [3.0, 2.0]]]])
    assert zncc(a, b).item() == pytest.approx(0.8)
    assert ncc(a, b).item() == pytest.approx(13 / 14)
    assert l2_loss(a, b).item() == pytest.approx(0.5)


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
        if name not in ("ncc", "l2"):
            assert torch.equal(loss, torch.ones_like(loss)) and (moving.grad == 0).all()


# Patches are a part of the whole image, so their tiling is another one in half of it.
@pytest.mark.parametrize("name", [x for x in LOSSES if x not in ("patch_ncc", "multiscale_ncc")])
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
    bare = inspect.unwrap(zncc)
    with pytest.raises(ShapeError, match="one size"):
        bare(_image(0), _image(0)[..., :3])
    with pytest.raises(ShapeError, match=r"\[batch, 1, height, width\]"):
        bare(_image(0).expand(1, 3, 5, 4), _image(0).expand(1, 3, 5, 4))
    with pytest.raises(ShapeError, match=r"2 \(fixed\), 3 \(moving\)"):
        bare(_image(0, 2), _image(0, 3))
    with pytest.raises(ConfigError, match="none below 0"):
        zncc(_image(0), _image(1), -torch.ones(1, 1, 5, 4).double())
    with pytest.raises(TypeError):
        LOSSES["mine"] = l2_loss


@pytest.mark.parametrize("name", [x for x in LOSSES if x != "l2"])
@pytest.mark.parametrize("away", [0.0, 1e-3])
def test_float32_is_exact_near_the_optimum(name, away):
    """A registration stops at 1e-6; 1 minus a plain float32 sum is off by 3e-6 at 600 x 600."""
    size = (600, 600) if name in ("zncc", "ncc") else (200, 200)
    fixed = _image(0, size=size).cumsum(dim=-1) / size[0]
    moving = (fixed + away * _image(1, size=size)).requires_grad_()
    exact = get_loss(name)(fixed, moving)
    (slope,) = torch.autograd.grad(exact, moving)
    single = moving.detach().float().requires_grad_()
    found = get_loss(name)(fixed.float(), single)
    assert found.item() >= 0 and found.item() == pytest.approx(exact.item(), rel=1e-3, abs=1e-12)
    if away:
        (single_slope,) = torch.autograd.grad(found, single)
        assert (single_slope - slope).norm() < 1e-3 * slope.norm()


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_is_its_images_one_by_one(name):
    fixed, moving = _image(0, 3, (9, 11)), _image(1, 3, (9, 11))
    weights = _image(2, 3, (9, 11))
    loss, one = get_loss(name), slice(0, 1)
    single = [loss(fixed[k : k + 1], moving[k : k + 1], weights[k : k + 1]) for k in range(3)]
    assert torch.allclose(loss(fixed, moving, weights), torch.cat(single), rtol=1e-12)
    shared = [loss(fixed[one], moving[k : k + 1]) for k in range(3)]
    assert torch.allclose(loss(fixed[one], moving), torch.cat(shared), rtol=1e-12)
    assert torch.equal(loss(fixed[one], moving), loss(fixed[one].expand(3, 1, 9, 11), moving))
    shared = fixed[one].clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(shared, moving, weights).sum(), shared)
    whole = fixed[one].repeat(3, 1, 1, 1).requires_grad_()
    (each,) = torch.autograd.grad(loss(whole, moving, weights).sum(), whole)
    assert torch.allclose(slope, each.sum(dim=0, keepdim=True), rtol=1e-9, atol=1e-15)


def test_range_of_zncc():
    a = _image(0, 4, (300, 300)).float()
    for b in (a, -a, 5 - 3 * a, _image(1, 4, (300, 300)).float()):
        assert (zncc(a, b) <= 1).all() and (zncc(a, b) >= -1).all()


@pytest.mark.parametrize("name", LOSSES)
def test_pixels_of_no_weight_may_be_nan(name):
    fixed, moving, weights = _image(0), _image(1), torch.ones(1, 1, 5, 4).double()
    weights[..., 0] = 0
    expected = get_loss(name)(fixed, moving, weights)
    fixed[..., 0] = float("nan")
    moving.requires_grad_()
    found = get_loss(name)(fixed, moving, weights)
    found.sum().backward()
    assert torch.equal(found, expected) and (moving.grad[..., 0] == 0).all()
    assert moving.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_only_the_ratio_of_weights_counts(name):
    fixed, moving = _image(0), _image(1, 3)
    plain, weights = get_loss(name)(fixed, moving), _image(2)
    assert torch.allclose(get_loss(name)(fixed, moving, torch.full_like(fixed, 0.2)), plain)
    assert torch.allclose(
        get_loss(name)(fixed, moving, 5 * weights), get_loss(name)(fixed, moving, weights)
    )


@pytest.mark.parametrize("name", [x for x in LOSSES if x not in ("ncc", "l2")])
def test_is_blind_to_scale_and_offset(name):
    fixed, moving = _image(0, size=(16, 20)), _image(1, 3, (16, 20))
    expected = get_loss(name)(fixed, moving)
    assert torch.allclose(get_loss(name)(fixed, 3 * moving + 7), expected)
    assert torch.allclose(get_loss(name)(0.1 * fixed - 7, moving), expected)
    assert get_loss(name)(fixed, 3 * fixed + 7).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_all_pixels_left_out_is_defined(name):
    moving = _image(1, 2).requires_grad_()
    loss = get_loss(name)(_image(0), moving, torch.zeros_like(_image(0)))
    loss.sum().backward()
    assert loss.isfinite().all() and (moving.grad == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck_of_fixed_and_weighted(name):
    fixed, moving = _image(0).requires_grad_(), _image(1, 3).requires_grad_()
    weights = _image(2)
    assert torch.autograd.gradcheck(lambda f, m: get_loss(name)(f, m, weights), (fixed, moving))


def test_own_functions_pass_through():
    assert get_loss(l2_loss) is l2_loss and get_loss("l2") is LOSSES["l2"]


def test_a_function_without_weights_is_taken_where_none_are_given():
    def mine(fixed, moving):
        return (fixed - moving).abs().mean(dim=(1, 2, 3))

    loss = get_loss(mine)
    assert torch.equal(loss(_image(0), _image(1)), mine(_image(0), _image(1)))
    assert torch.equal(loss(_image(0), _image(1), None), mine(_image(0), _image(1)))
    with pytest.raises(ConfigError, match=r"takes \(fixed, moving\) alone"):
        loss(_image(0), _image(1), _image(2))
    assert get_loss(lambda *images: images[0]) and get_loss(lambda f, m, w=None: f)
    with pytest.raises(ConfigError, match="takes 1 arguments"):
        get_loss(lambda image: image)


def test_a_likeness_is_no_loss():
    for likeness in (zncc, ncc):
        with pytest.raises(ConfigError, match=f'pass "{likeness.__name__}"'):
            get_loss(likeness)
    assert get_loss(zncc_loss) is get_loss("zncc")


def test_a_loss_must_fall_towards_a_match():
    """A likeness under another name is found out by an image that is most like itself."""
    for name in LOSSES:
        check_falls(get_loss(name), _image(0, 2, (16, 16)))
        check_falls(get_loss(name), _image(0, 2, (16, 16)), _image(1, 2, (16, 16)))
    with pytest.raises(ConfigError, match="turn its sign"):
        check_falls(lambda f, m, w: zncc(f, m, w), _image(0))
    hole = _image(0)
    hole[..., 0] = float("nan")
    check_falls(zncc_loss, hole, hole.isfinite().double())
    even = torch.ones(1, 1, 4, 4).double()
    even[..., 1:3, 1:3] = 2  # its own mirror image tells nothing
    check_falls(lambda f, m, w: zncc(f, m, w), even)


def test_arrays_and_single_images_are_taken():
    fixed, moving = _image(0)[0, 0], _image(1)
    expected = zncc(fixed[None, None], moving)
    for image in (fixed, fixed[None], fixed.numpy(), fixed.tolist()):
        assert torch.equal(zncc(image, moving), expected)
    assert torch.equal(l2_loss(fixed.numpy(), moving.numpy()), l2_loss(fixed, moving))


def test_nan_weights_and_other_objects_are_refused():
    with pytest.raises(ConfigError, match="NaN"):
        zncc(_image(0), _image(1), torch.full_like(_image(0), torch.nan))
    with pytest.raises(ConfigError, match="choose one of"):
        inspect.unwrap(get_loss)(["zncc"])


@pytest.mark.parametrize("name", ["zncc", "mutual_information"])
def test_a_second_derivative_raises(name):
    loss, fixed = get_loss(name), torch.rand(1, 1, 9, 9).double()
    moving = torch.rand(1, 1, 9, 9).double().requires_grad_()
    with pytest.raises(BackendError, match="second derivative"):
        torch.autograd.functional.hessian(lambda x: loss(fixed, x).sum(), moving)
