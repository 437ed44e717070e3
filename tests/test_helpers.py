"""The comparators see what they must see."""

import math

import pytest
import torch

from helpers import outside_band, worst

EXPECTED = torch.linspace(0.1, 1.0, 100)


def _one(index: int, value: float) -> torch.Tensor:
    changed = EXPECTED.clone()
    changed[index] = value
    return changed


@pytest.mark.parametrize(
    "wrong",
    [-EXPECTED, 1.01 * EXPECTED, _one(50, 0.0), _one(3, math.nan), EXPECTED.roll(1)],
    ids=["sign", "bias of 1 %", "dropped ray", "NaN", "shifted"],
)
def test_comparators_reject(wrong):
    assert worst(wrong, EXPECTED) > 5e-3
    assert outside_band(wrong, EXPECTED, 1e-3) > 0


def test_comparators_accept_rounding():
    assert worst(EXPECTED * (1 + 1e-7), EXPECTED) < 1e-6
    assert outside_band(EXPECTED * (1 + 1e-7), EXPECTED, 1e-6) == 0
