"""Pose parameters by name, in radians and degrees."""

import math

import pytest
import torch

from drrlib.errors import DtypeError, ShapeError
from drrlib.geometry import PARAMETERS, eta, to_degrees, to_radians


def test_parameters_by_name():
    row = eta(theta=10, phi=30, gamma=-5, b=(3, -5, 7), degrees=True)
    expected = [math.radians(10), math.radians(30), math.radians(-5), 3, -5, 7]
    assert row.dtype == torch.float64 and row.tolist() == pytest.approx(expected)
    assert torch.equal(eta(), torch.zeros(6, dtype=torch.float64)) and len(PARAMETERS) == 6
    assert eta(phi=1.5).tolist() == [0, 1.5, 0, 0, 0, 0]


def test_rows_broadcast_and_take_gradients():
    phi = torch.tensor([0.0, 1.0], requires_grad=True)
    rows = eta(phi=phi, b=[[1, 2, 3]])
    assert rows.shape == (2, 6) and rows[1].tolist() == [0, 1, 0, 1, 2, 3]
    rows.sum().backward()
    assert phi.grad.tolist() == [1, 1]
    with pytest.raises(ShapeError, match="do not broadcast"):
        eta(theta=[1, 2], phi=[1, 2, 3])
    with pytest.raises(ShapeError, match=r"b has shape \(2,\)"):
        eta(b=(1, 2))
    with pytest.raises(DtypeError, match="phi is a str"):
        eta(phi="lateral")


def test_degrees_and_back():
    rows = torch.tensor([[180.0, 90.0, -45.0, 1.0, 2.0, 3.0]], dtype=torch.float64)
    turned = to_radians(rows)
    assert turned[0].tolist() == pytest.approx([math.pi, math.pi / 2, -math.pi / 4, 1, 2, 3])
    assert torch.allclose(to_degrees(turned), rows)
