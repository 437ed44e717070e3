"""The paper's step rules against torch.optim and against numbers by hand."""

import inspect
import math

import pytest
import torch

from drrlib.errors import ConfigError, ShapeError
from drrlib.optimize import GD, GDDM, GDM, OPTIMIZERS, Adam, get_optimizer

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


@pytest.mark.parametrize(
    ("rule", "momentum", "dampening"), [(GDM(0.01, 0.03), 0.9, 0.9), (GDDM(0.01, 0.03), 0.9, 0.2)]
)
def test_momentum_is_torch_from_another_start(rule, momentum, dampening):
    """v = dampening / momentum * grad before the first step makes it v = grad, torch's start."""
    params = torch.zeros_like(TARGET)
    state = rule.init(params)._replace(first=dampening / momentum * _slope(params))
    for _ in range(30):
        params, state = rule.step(params, _slope(params), state)
    theirs = _theirs(lambda p: torch.optim.SGD(p, momentum=momentum, dampening=dampening), 30)
    assert torch.allclose(params, theirs, rtol=0, atol=1e-12)


def test_momentum_lags_torch_by_a_known_amount():
    """Same gradients: v of torch minus ours is dampening * momentum^k * (first gradient)."""
    generator = torch.Generator().manual_seed(0)
    grads = torch.randn(6, 1, 6, generator=generator, dtype=torch.float64)
    optimizer = GDDM(1.0, 1.0)
    state, theirs = optimizer.init(grads[0]), grads[0]
    for k, grad in enumerate(grads):
        _, state = optimizer.step(torch.zeros_like(grad), grad, state)
        theirs = 0.9 * theirs + 0.8 * grad if k else grad
        assert torch.allclose(theirs - state.first, 0.2 * 0.9**k * grads[0], rtol=0, atol=1e-14)


def test_dampening_is_a_rate():
    """From v = 0 both rules sum the same past gradients: GDDM is GDM at (1 - 0.2) / (1 - 0.9) = 8
    times the rates."""
    dampened = _ours(GDDM(0.001, 0.003), 40)
    assert torch.allclose(dampened, _ours(GDM(0.008, 0.024), 40), atol=1e-12)
    assert not torch.allclose(dampened, _ours(GDM(0.001, 0.003), 40), atol=1e-3)


def test_adam_in_float32():
    """The bias corrections keep their digits: the first step is the rate, whatever the slope."""
    params, grad = torch.zeros(1, 6), torch.tensor([[1e-3, 1, 1e3, -1e-3, -1, -1e3]])
    moved, _ = Adam(0.5, 2.0).step(params, grad, Adam().init(params))
    assert torch.allclose(moved, torch.tensor([[-0.5] * 3 + [2.0] * 3]), rtol=2e-5 * 0.6, atol=0)


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
    # Afterwards the row goes on as if that step had not been.
    again, _ = optimizer.step(moved[:1], grad[1:], state.select(torch.tensor([True, False])))
    assert torch.equal(again[0], moved[1])
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
    for bad in (None, Adam):
        with pytest.raises(ConfigError, match="init and step"):
            inspect.unwrap(get_optimizer)(bad)
    for make, message in (
        (lambda: GD(-1.0, 1.0), "lr_rotation is -1"),
        (lambda: GD(1.0, math.inf), "lr_translation is inf"),
        (lambda: GDM(beta=1.0), "beta is 1"),
        (lambda: GDDM(gamma=-0.1), "gamma is -0.1"),
        (lambda: Adam(beta2=math.nan), "beta2 is nan"),
        (lambda: Adam(eps=0.0), "eps is 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            make()
    with pytest.raises(TypeError):
        OPTIMIZERS["mine"] = Adam


def test_shapes_are_checked():
    """Tests check annotations first; here the functions themselves."""
    state = GD().init(torch.zeros(2, 6))
    with pytest.raises(ShapeError, match=r"expected \[n, 6\]"):
        inspect.unwrap(GD.init)(GD(), torch.zeros(2, 5))
    with pytest.raises(ShapeError, match=r"state\.select"):
        inspect.unwrap(GD.step)(GD(), torch.zeros(1, 6), torch.zeros(1, 6), state)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_dropping_a_start_midway_changes_nothing_for_the_others(name):
    optimizer = OPTIMIZERS[name](0.01, 0.02)
    params = torch.zeros_like(TARGET)
    state = optimizer.init(params)
    for _ in range(3):
        params, state = optimizer.step(params, _slope(params), state)
    keep = torch.tensor([False, True])
    params, state = params[keep], state.select(keep)
    assert state.count.tolist() == [3]
    for _ in range(2):
        grad = torch.tensor([2.0, 4, 6, 1, 3, 5]).double() * (params - TARGET[1:])
        params, state = optimizer.step(params, grad, state)
    assert torch.equal(params, _ours(optimizer, 5)[1:])
