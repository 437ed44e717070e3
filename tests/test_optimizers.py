"""The paper's step rules against torch.optim and against numbers by hand."""

import math

import pytest
import torch

from drrlib.errors import ConfigError
from drrlib.optimizers import GD, GDDM, GDM, OPTIMIZERS, Adam, get_optimizer

TARGET = torch.tensor([[1.0, -2.0, 3.0, 4.0, -5.0, 6.0], [0.5, 0, 0, 1, 1, 1]]).double()


def _slope(params):
    return torch.tensor([2.0, 4, 6, 1, 3, 5]).double() * (params - TARGET)


def _ours(optimizer, steps, params=None):
    params = torch.zeros_like(TARGET) if params is None else params
    state = optimizer.init(params)
    for _ in range(steps):
        params, state = optimizer.step(params, _slope(params), state)
    return params


def _theirs(make, steps):
    rot, trans = (torch.zeros(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = make([{"params": [rot], "lr": 0.01}, {"params": [trans], "lr": 0.03}])
    for _ in range(steps):
        grad = _slope(torch.cat([rot, trans], dim=1).detach())
        rot.grad, trans.grad = grad[:, :3].clone(), grad[:, 3:].clone()
        optimizer.step()
    return torch.cat([rot, trans], dim=1).detach()


@pytest.mark.parametrize("steps", [1, 2, 30])
def test_gd_and_adam_equal_torch(steps):
    gd = _theirs(lambda p: torch.optim.SGD(p, lr=1), steps)
    assert torch.allclose(_ours(GD(0.01, 0.03), steps), gd, atol=1e-12)
    adam = _theirs(lambda p: torch.optim.Adam(p, lr=1), steps)
    assert torch.allclose(_ours(Adam(0.01, 0.03), steps), adam, atol=1e-12)


def test_gddm_differs_from_torch_in_the_first_step_only():
    """torch starts with v = grad, the paper with v = 0, so (1 - 0.2) grad; the recursion is one."""
    grad = _slope(torch.zeros_like(TARGET))
    first = _ours(GDDM(1.0, 1.0), 1)
    assert torch.allclose(first, -0.8 * grad)
    theirs = _theirs(lambda p: torch.optim.SGD(p, momentum=0.9, dampening=0.2), 2)
    rates = torch.tensor([0.01] * 3 + [0.03] * 3).double()
    x1 = -rates * grad
    v2 = 0.9 * grad + 0.8 * _slope(x1)
    assert torch.allclose(theirs, x1 - rates * v2)


def test_gdm_by_hand():
    """grad 1, 1 with beta 0.9: v = 0.1, then 0.19; positions -0.1 and -0.29 at rate 1."""
    ones, optimizer = torch.ones(1, 6), GDM(1.0, 2.0)
    params, state = optimizer.step(torch.zeros(1, 6), ones, optimizer.init(ones))
    params, state = optimizer.step(params, ones, state)
    assert torch.allclose(params, torch.tensor([[-0.29] * 3 + [-0.58] * 3]))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rows_move_as_if_alone(name):
    optimizer = OPTIMIZERS[name](0.01, 0.02)
    together = _ours(optimizer, 5)
    state = optimizer.init(torch.zeros(2, 6).double())
    keep = torch.tensor([False, True])
    params = torch.zeros(2, 6).double()
    params, state = params[keep], state.select(keep)
    for _ in range(5):
        grad = torch.tensor([2.0, 4, 6, 1, 3, 5]).double() * (params - TARGET[1:])
        params, state = optimizer.step(params, grad, state)
    assert torch.equal(params, together[1:])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_row_without_a_finite_gradient_stays(name):
    optimizer = OPTIMIZERS[name]()
    params = torch.zeros(2, 6)
    grad = torch.ones(2, 6)
    grad[0, 4] = math.nan
    moved, state = optimizer.step(params, grad, optimizer.init(params))
    assert (moved[0] == 0).all() and (moved[1] != 0).all()
    assert state.count.tolist() == [0, 1] and torch.isfinite(state.first).all()


def test_scale_multiplies_the_rates():
    optimizer, params, grad = GD(1.0, 1.0), torch.zeros(1, 6), torch.ones(1, 6)
    moved, _ = optimizer.step(params, grad, optimizer.init(params), scale=0.25)
    assert torch.equal(moved, -0.25 * grad)


def test_names():
    assert get_optimizer("Adam") == Adam() and get_optimizer(GD(1.0, 1.0)) == GD(1.0, 1.0)
    with pytest.raises(ConfigError, match="gd, gdm, gddm, adam"):
        get_optimizer("lbfgs")
    with pytest.raises(ConfigError, match="lr_rotation is -1"):
        GD(-1.0, 1.0)
