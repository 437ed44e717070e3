"""SciPy's searches: they minimise, they count, they stop."""

import math

import pytest
import torch

from drrlib.errors import ConfigError
from drrlib.optimizers_scipy import GRADIENT_FREE, GradientFree

TRUE = torch.tensor([0.1, -0.2, 0.05, 12.0, -7.0, 3.0], dtype=torch.float64)
SCALE = torch.tensor([0.2, 0.2, 0.2, 10.0, 10.0, 10.0], dtype=torch.float64)


def bowl(eta):
    return float((((eta[0] - TRUE) / SCALE) ** 2).sum())


@pytest.mark.parametrize("method", GRADIENT_FREE.values())
def test_finds_the_bottom_of_a_bowl(method):
    start = torch.zeros(6, dtype=torch.float64)
    path, losses, settled = GradientFree(method).search(bowl, start, 4000, 1e-8)
    assert path.shape == (len(losses), 6) and torch.equal(path[0], start)
    best = path[losses.argmin()]
    assert ((best - TRUE) / SCALE).abs().max() < 1e-3
    assert settled or losses[-1] < 1e-8
    assert all(abs(bowl(e[None]) - float(v)) < 1e-12 for e, v in zip(path, losses, strict=True))


@pytest.mark.parametrize("method", GRADIENT_FREE.values())
def test_stops_at_the_threshold_and_at_the_budget(method):
    start = torch.zeros(6, dtype=torch.float64)
    _, losses, settled = GradientFree(method).search(bowl, start, 4000, 0.5)
    assert losses[-1] < 0.5 and (losses[:-1] >= 0.5).all() and not settled
    _, losses, settled = GradientFree(method).search(bowl, start, 17, 1e-8)
    assert len(losses) == 17 and not settled


@pytest.mark.parametrize("method", GRADIENT_FREE.values())
def test_a_pose_without_a_loss_is_passed_by(method):
    def holed(eta):
        return math.nan if eta[0, 5] > 9 else bowl(eta)

    _, losses, _ = GradientFree(method).search(holed, torch.zeros(6).double(), 4000, 1e-6)
    assert torch.isnan(losses).any() and torch.nan_to_num(losses, nan=1.0).min() < 1e-3


def test_bad_input_is_named():
    with pytest.raises(ConfigError, match="Powell"):
        GradientFree("bfgs")
    with pytest.raises(ConfigError, match="step_rotation"):
        GradientFree(step_rotation=0.0)
