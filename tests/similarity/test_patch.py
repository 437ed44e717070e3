"""Patch NCC: the tiling, the values of patches, what a patch without contrast does."""

import pytest
import torch

from drrlib.errors import ConfigError
from drrlib.similarity import zncc
from drrlib.similarity.patch import _patches, _tiling, multiscale_ncc_loss, patch_ncc_loss


def _image(seed, batch=1, size=(24, 32)):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 1, *size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("size", [0.1, 0.25, 0.4, 1.0])
@pytest.mark.parametrize("pixels", [1, 2, 3, 5, 8, 16, 23, 24, 32, 50, 64, 97, 200, 600])
def test_patches_cover_the_image_and_overlap_by_about_half(pixels, size):
    edge, step = _tiling(pixels, size)
    assert (pixels - edge) % step == 0 and step <= edge <= pixels
    assert edge >= min(3, pixels)
    if size * pixels >= 4:
        assert abs(edge - size * pixels) <= 0.35 * size * pixels
        assert 0.3 * edge <= step <= 0.7 * edge or edge == pixels


def test_sizes_that_divide_are_met():
    assert _tiling(64, 0.25) == (16, 8) and _tiling(32, 0.25) == (8, 4)
    # 7 x 7 patches of 16 x 16 pixels
    assert _patches(_image(0, 2, (64, 64)), 0.25).shape == (2, 49, 256)


def test_one_patch_is_the_regularised_zncc_of_the_image():
    fixed, moving = _image(0), _image(1, 3)
    # u = x / sqrt(1.01 var): the loss is (1 - ZNCC) / 1.01.
    expected = (1 - zncc(fixed, moving)) / 1.01
    assert torch.allclose(patch_ncc_loss(fixed, moving, size=1.0), expected)
    both = multiscale_ncc_loss(fixed, moving, sizes=(1.0, 0.25))
    parts = [1.01 * expected, expected, patch_ncc_loss(fixed, moving)]
    assert torch.allclose(both, sum(parts) / 3)


def test_patches_with_contrast_are_blind_to_a_scale_and_offset_each():
    fixed = _image(0, size=(16, 16))
    other = fixed.clone()
    other[..., :8] = 1.3 * fixed[..., :8] + 5
    # Four patches that do not overlap; a grey value of 5 more makes the floor larger for all.
    a, b = (torch.stack(torch.tensor_split(x, 2, dim=-1), 1).flatten(0, 1) for x in (fixed, other))
    assert torch.allclose(zncc(a, b), torch.ones(2).double())
    assert patch_ncc_loss(fixed, 1.3 * fixed + 5).item() < 1e-12
    assert 1 - zncc(fixed, other).item() > 0.3 > patch_ncc_loss(fixed, other).item()


def test_noise_in_a_patch_without_contrast_counts_little():
    """Half of the image is empty but for grain of 1e-4 of the object's deviation."""
    fixed, grain = _image(0, size=(32, 32)), 1e-4 * _image(2, size=(32, 32))
    fixed[..., 16:] = 0
    moving = (fixed + grain).requires_grad_()
    loss = patch_ncc_loss(fixed + grain.flip(-1), moving)
    (slope,) = torch.autograd.grad(loss, moving)
    assert loss.item() < 1e-6
    # Wholly empty patches: columns 20 on. Plain ZNCC has a slope of about 1 / deviation there.
    bare = moving.detach()[..., 20:].clone().requires_grad_()
    (plain,) = torch.autograd.grad(zncc(grain.flip(-1)[..., 20:], bare), bare)
    assert slope[..., 20:].abs().max() < 1e-4 * plain.abs().max()
    # Beside an object that is off by a pixel the grain weighs about 1e-4 / 0.01, since (u - v)
    # and the slope of u are each divided by the root of the floor; two grains add in square.
    off = (fixed.roll(1, dims=2) + grain).requires_grad_()
    (slope,) = torch.autograd.grad(patch_ncc_loss(fixed + grain.flip(-1), off), off)
    assert slope[..., 20:].norm() < 0.03 * slope[..., :16].norm()


def test_an_empty_corner_gives_no_nan():
    fixed, moving = (torch.zeros(1, 1, 32, 32) for _ in range(2))
    fixed[..., 3:9, 3:9], moving[..., 4:10, 3:9] = 1.0, 1.0
    moving.requires_grad_()
    for loss_of in (patch_ncc_loss, multiscale_ncc_loss):
        loss = loss_of(fixed, moving)
        (slope,) = torch.autograd.grad(loss.sum(), moving)
        assert 0 < loss.item() < 2 and slope.isfinite().all()


def test_a_patch_counts_by_its_weights():
    fixed, moving, weights = _image(0), _image(1), torch.ones(1, 1, 24, 32).double()
    weights[..., :16] = 0  # patches of 8 columns every 4: five of seven see columns 16 on
    found = patch_ncc_loss(fixed, moving, weights)
    other = moving.clone()
    other[..., :16] = _image(3)[..., :16]
    assert torch.equal(patch_ncc_loss(fixed, other, weights), found)
    assert not torch.allclose(patch_ncc_loss(fixed, moving), found)


def test_bad_sizes_are_refused():
    for size in (0.0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="part of the image"):
            patch_ncc_loss(_image(0), _image(1), size=size)
