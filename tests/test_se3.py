"""Rigid motions near 0, near pi, and in between."""

import math

import pytest
import torch

from drrlib import se3
from drrlib.errors import GeometryError

AXES = torch.nn.functional.normalize(
    torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 2, 3], [-2, 1, 0.5]]).double(), dim=1
)


def test_quarter_turn_by_hand():
    t = se3.exp(torch.tensor([0, 0, math.pi / 2, 1.0, 0, 0], dtype=torch.float64))
    # A helix: half pi of turn while moving 1 along the turning x axis; V v = (2/pi)(1, 1, 0).
    expected = [[0, -1, 0, 2 / math.pi], [1, 0, 0, 2 / math.pi], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert torch.allclose(t, torch.tensor(expected, dtype=torch.float64), atol=1e-12)
    moved = se3.transform_points(t, torch.tensor([[1.0, 0, 0]]).double())
    assert torch.allclose(
        moved, torch.tensor([[2 / math.pi, 1 + 2 / math.pi, 0]], dtype=torch.float64)
    )


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-8, 1e-5, 9e-3, 1.1e-2, 0.5, 2.0, 3.0])
def test_round_trip(angle):
    xi = torch.cat([angle * AXES, 10 * AXES.flip(0)], dim=1)
    assert torch.allclose(se3.log(se3.exp(xi)), xi, atol=1e-12, rtol=1e-9)
    assert torch.allclose(se3.rotation_angle(se3.exp(xi)[:, :3, :3]), torch.tensor(angle).double())


@pytest.mark.parametrize("below", [1e-1, 1e-3, 1e-5, 1e-7, 1e-9])
def test_near_a_half_turn(below):
    omega = (math.pi - below) * AXES
    rotation = se3.so3_exp(omega)
    assert torch.allclose(se3.so3_log(rotation), omega, atol=1e-9)
    assert torch.allclose(se3.rotation_angle(rotation), torch.tensor(math.pi - below).double())


def test_exactly_a_half_turn():
    rotation = 2 * AXES[:, :, None] * AXES[:, None] - torch.eye(3).double()
    omega = se3.so3_log(rotation)
    assert torch.allclose(omega.norm(dim=1), torch.tensor(math.pi).double())
    assert torch.allclose(se3.so3_exp(omega), rotation, atol=1e-9)


@pytest.mark.parametrize("angle", [0.0, 1e-6, 9.9e-3, 0.7, 2.9])
def test_gradients(angle):
    xi = torch.cat([angle * AXES, AXES.flip(0)], dim=1).requires_grad_()
    assert torch.autograd.gradcheck(se3.exp, xi)
    assert torch.autograd.gradcheck(lambda x: se3.log(se3.exp(x)), xi, atol=1e-5)


def test_inverse_and_distance():
    t = se3.exp(torch.tensor([0.3, -0.2, 0.5, 4.0, 5.0, 6.0], dtype=torch.float64))
    assert torch.allclose(t @ se3.inverse(t), torch.eye(4).double(), atol=1e-12)
    other = t @ se3.exp(torch.tensor([0, 0.25, 0, 0, 0, 0]).double())
    angle, shift = se3.geodesic_distance(t, other)
    assert torch.isclose(angle, torch.tensor(0.25).double()) and shift < 1e-12


def test_other_matrices_are_refused():
    good = torch.eye(4, dtype=torch.float64)
    se3.check_rigid(good)
    for bad, message in (
        (2 * good, "no scale"),
        (torch.diag(torch.tensor([1.0, 1, -1, 1])).double(), "determinant -1"),
        (good * math.nan, "NaN"),
        ((good + torch.nn.functional.one_hot(torch.tensor(3), 4).double()[:, None] * 0.1), "last"),
    ):
        with pytest.raises(GeometryError, match=message):
            se3.check_rigid(bad, "pose")
