"""Mutual information: known values, invariance to maps of grey values, memory, chunks."""

import math

import pytest
import torch

from drrlib.errors import ConfigError
from drrlib.similarity import information as losses_information
from drrlib.similarity.information import _information, _Joint, _table, mutual_information_loss


def _image(seed, batch=1, size=(24, 32)):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 1, *size, generator=generator, dtype=torch.float64)


def _smooth(seed, batch=1, size=64):
    """Blobs with few grey values in common, as images have them."""
    coarse = _image(seed, batch, (6, 6))
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")


def test_windows_are_cubic_splines():
    place = torch.tensor([[1.0, 2.5, 3.25, 6.0]], dtype=torch.float64)
    table, _, _ = _table(place, 8)
    assert torch.allclose(table.sum(dim=2), torch.ones(1, 4).double())
    # Values of the cubic B-spline: 2/3 and 1/6 at 0 and 1, 23/48 and 1/48 at 0.5 and 1.5.
    assert table[0, 0].tolist() == pytest.approx([1 / 6, 2 / 3, 1 / 6, 0, 0, 0, 0, 0])
    assert table[0, 1].tolist() == pytest.approx([0, 1 / 48, 23 / 48, 23 / 48, 1 / 48, 0, 0, 0])
    assert table[0, 3].tolist() == pytest.approx([0, 0, 0, 0, 0, 1 / 6, 2 / 3, 1 / 6])
    # The mean place is kept by a B-spline.
    assert torch.allclose((table * torch.arange(8)).sum(dim=2), place)


def test_information_by_hand():
    two = torch.tensor([[[0.5, 0.0], [0.0, 0.5]], [[0.25, 0.25], [0.25, 0.25]]]).double()
    assert _information(two).tolist() == pytest.approx([math.log(2), 0.0])
    uneven = torch.tensor([[[0.5, 0.25], [0.0, 0.25]]]).double()
    # H(row) + H(column) - H(both), rows (3/4, 1/4), columns (1/2, 1/2)
    rows = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    both = -(0.5 * math.log(0.5) + 0.5 * math.log(0.25))
    assert _information(uneven).item() == pytest.approx(rows + math.log(2) - both)


def test_two_grey_values_in_bins_of_their_own():
    """Half the pixels 0 and half 1: windows around bins 1 and 6 of 8 share no bin."""
    fixed = torch.tensor([0.0, 0.0, 1.0, 1.0]).double().reshape(1, 1, 2, 2)
    moving = torch.tensor([0.0, 1.0, 0.0, 1.0]).double().reshape(1, 1, 2, 2)
    assert mutual_information_loss(fixed, moving, bins=8).item() == pytest.approx(1)
    assert mutual_information_loss(fixed, 1 - fixed, bins=8).item() == pytest.approx(0, abs=1e-12)
    three = torch.tensor([0.0, 1.0, 1.0, 1.0]).double().reshape(1, 1, 2, 2)
    # I(fixed, three) = H(three) - H(three | fixed), the second half a bit of information.
    own = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    shared = own - 0.5 * math.log(2)
    expected = 1 - 2 * shared / (math.log(2) + own)
    assert mutual_information_loss(fixed, three, bins=8).item() == pytest.approx(expected)


def test_any_monotone_map_keeps_the_match():
    fixed, other = _smooth(0), _smooth(1)
    unit = (fixed - fixed.amin()) / (fixed.amax() - fixed.amin())
    unlike = mutual_information_loss(fixed, other).item()
    assert unlike > 0.7
    for name, mapped in {
        "square": unit.square(),
        "root": (unit + 0.05).sqrt(),
        "transmission": torch.exp(-2 * unit),
        "negative": -fixed,
    }.items():
        assert mutual_information_loss(fixed, mapped).item() < 0.1, name


def test_range():
    for size in ((5, 4), (16, 16), (40, 40)):
        fixed, moving = _image(0, 20, size), _image(1, 20, size)
        near = fixed + 1e-3 * moving
        for other in (moving, near, -fixed, fixed.round(), moving.round()):
            loss = mutual_information_loss(fixed, other)
            assert (loss >= 0).all() and (loss <= 1).all()


def test_chunks_of_pixels_change_nothing(monkeypatch):
    fixed, moving, weights = _image(0), _image(1, 3), _image(2)
    moving.requires_grad_()
    expected = mutual_information_loss(fixed, moving, weights)
    (slope,) = torch.autograd.grad(expected.sum(), moving)
    monkeypatch.setattr(losses_information, "_CHUNK", 3 * 14 * 50)  # 50 pixels each
    found = mutual_information_loss(fixed, moving, weights)
    assert torch.allclose(found, expected, rtol=1e-12)
    (again,) = torch.autograd.grad(found.sum(), moving)
    assert torch.allclose(again, slope, rtol=1e-9, atol=1e-14)


def test_autograd_keeps_no_windows():
    """Ten images of 128 x 128 by 32 bins would be 5 million numbers; kept are images."""
    fixed, moving = _image(0, size=(128, 128)), _image(1, 10, (128, 128)).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        mutual_information_loss(fixed, moving)
    largest = max(x.numel() for x in kept)
    assert largest == moving.numel()


def test_joint_distributions_add_up():
    place = 1 + 5 * _image(0, 4).flatten(1)
    share = torch.full_like(place[:1], 1 / place.shape[1])
    for joint in _Joint.apply(place[:1], place, share, 8):
        assert torch.allclose(joint.sum(dim=(1, 2)), torch.ones(1).double())


def test_too_few_bins_are_refused():
    with pytest.raises(ConfigError, match="at least 5"):
        mutual_information_loss(_image(0), _image(1), bins=4)
