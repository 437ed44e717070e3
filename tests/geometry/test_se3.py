"""Rigid motions near 0, near pi, and in between."""

import math

import pytest
import torch

from drrlib.errors import GeometryError
from drrlib.geometry import se3

AXES = torch.nn.functional.normalize(
    torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 2, 3], [-2, 1, 0.5]]).double(), dim=1
)


def _same(actual, expected, atol):
    """Absolute closeness only: a relative 1e-5, the default, would hide every error near pi."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    assert actual.shape == expected.shape and actual.isfinite().all()
    assert (actual.double() - expected).abs().max() <= atol, actual


def test_quarter_turn_by_hand():
    t = se3.exp(torch.tensor([0, 0, math.pi / 2, 1.0, 0, 0], dtype=torch.float64))
    # A helix: half pi of turn while moving 1 along the turning x axis; V v = (2/pi)(1, 1, 0).
    expected = [[0, -1, 0, 2 / math.pi], [1, 0, 0, 2 / math.pi], [0, 0, 1, 0], [0, 0, 0, 1]]
    _same(t, expected, 1e-12)
    moved = se3.transform_points(t, torch.tensor([[1.0, 0, 0]]).double())
    _same(moved, [[2 / math.pi, 1 + 2 / math.pi, 0]], 1e-12)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-8, 1e-5, 9e-3, 1.1e-2, 0.5, 2.0, 3.0])
def test_round_trip(angle):
    xi = torch.cat([angle * AXES, 10 * AXES.flip(0)], dim=1)
    _same(se3.log(se3.exp(xi)), xi, 1e-12)
    _same(se3.rotation_angle(se3.exp(xi)[:, :3, :3]), [angle] * 5, 1e-15 + 1e-15 * angle)
    _same(se3.log(se3.exp(xi.float())), xi, 1e-4 if angle == 3.0 else 2e-5)


@pytest.mark.parametrize("below", [1e-1, 1e-3, 1e-5, 1e-7, 1e-9])
def test_near_a_half_turn(below):
    omega = (math.pi - below) * AXES
    rotation = se3.so3_exp(omega)
    _same(se3.so3_log(rotation), omega, 1e-14)
    _same(se3.rotation_angle(rotation), [math.pi - below] * 5, 1e-14)
    xi = torch.cat([omega, 10 * AXES.flip(0)], dim=1)
    _same(se3.log(se3.exp(xi)), xi, 1e-12)


def test_exactly_a_half_turn():
    rotation = 2 * AXES[:, :, None] * AXES[:, None] - torch.eye(3).double()
    omega = se3.so3_log(rotation)
    _same(omega.norm(dim=1), [math.pi] * 5, 1e-14)
    _same(se3.so3_exp(omega), rotation, 1e-14)


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


def test_derivative_at_exactly_zero():
    """d exp(t e_i) / dt at 0 are the six generators, in float32 as in float64."""
    for dtype in (torch.float32, torch.float64):
        j = torch.autograd.functional.jacobian(se3.exp, torch.zeros(6, dtype=dtype))
        expected = torch.zeros(4, 4, 6)
        for i, (row, column) in enumerate(((2, 1), (0, 2), (1, 0))):
            expected[row, column, i], expected[column, row, i] = 1, -1
            expected[i, 3, 3 + i] = 1
        assert torch.equal(j, expected.to(dtype))
        back = torch.autograd.functional.jacobian(
            lambda x: se3.log(se3.exp(x)), torch.zeros(6, dtype=dtype)
        )
        assert torch.equal(back, torch.eye(6, dtype=dtype))


def test_distance_of_equal_poses_has_a_finite_gradient():
    xi = torch.tensor([0.3, -0.2, 0.5, 4.0, 5.0, 6.0], dtype=torch.float64, requires_grad=True)
    angle, shift = se3.geodesic_distance(se3.exp(xi), se3.exp(xi.detach()))
    (angle + shift).backward()
    assert angle < 1e-15 and shift == 0 and xi.grad.isfinite().all()


def test_leading_axes():
    xi = torch.linspace(-1, 1, 36, dtype=torch.float64).reshape(2, 3, 6)
    t = se3.exp(xi)
    assert t.shape == (2, 3, 4, 4)
    _same(se3.log(t), xi, 1e-12)
    _same(t[1, 2], se3.exp(xi[1, 2]), 1e-15)
    assert se3.transform_points(t, torch.ones(1, 1, 5, 3).double()).shape == (2, 3, 5, 3)
