"""A registration iteration that is repeated by calling it; what a CUDA graph asks of it."""

import copy
import inspect

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from drrlib.drr import DRR
from drrlib.errors import BackendError, ConfigError, ShapeError
from drrlib.geometry import CArm, ScanProjection
from drrlib.optimize import OPTIMIZERS, Iteration, Objective, Sight, get_optimizer
from drrlib.registration import Schedule, descend
from drrlib.similarity import get_loss
from drrlib.volume import Volume
from helpers import KERNELS, affine, placed, random_volume

TRUTH = torch.tensor([[0.21, 0.37, -0.12, 1.0, -2.0, 0.7]], dtype=torch.float64)
OFFSETS = [[0.05, -0.04, 0.03, 1.0, -0.5, 1.5], [0.0, 0.0, 0.06, 0.0, 2.0, 0.0]]
STARTS = TRUTH + torch.tensor(OFFSETS, dtype=torch.float64)


def _scene(backend="cpu", n=12):
    mu = placed(random_volume((12, 14, 10)), backend)
    volume = Volume(mu, affine((2.0, 1.5, 2.5), (12, 14, 10), (5.0, 1.0, -3.0)))
    drr = DRR(volume, CArm(200.0, 110.0, n, n, 60.0 / n, 64.0 / n, 1.0, -2.0), backend=backend)
    return drr, drr(drr.pose(TRUTH)).detach()


def _objective(drr, fixed, loss="zncc"):
    return Objective([Sight(drr, fixed)], get_loss(loss))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("backend", KERNELS)
def test_repeats_the_loop_written_out(backend, optimizer):
    drr, fixed = _scene(backend)
    iteration = Iteration(_objective(drr, fixed), STARTS, optimizer=optimizer)
    eta, rule = STARTS, get_optimizer(optimizer)
    state = rule.init(eta)
    for scale in (1.0, 0.5):
        value = iteration(scale)
        leaf = eta.clone().requires_grad_()
        expected = get_loss("zncc")(fixed, drr(drr.pose(leaf)))
        (slope,) = torch.autograd.grad(expected.sum(), leaf)
        eta, state = rule.step(eta, slope, state, scale)
        assert torch.allclose(value.cpu(), expected.detach().double().cpu(), rtol=1e-6)
        assert torch.allclose(iteration.eta.cpu(), eta, rtol=1e-9)


class _NothingFromTheHost(TorchDispatchMode):
    """Fails where an operation takes a tensor of the host. Only a number may take part in
    arithmetic, as a 0-d tensor: it goes with the kernel's arguments."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        copies = function.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
        for x in torch.utils._pytree.tree_leaves((args, kwargs)):
            if not isinstance(x, torch.Tensor) or x.device.type == "meta":
                continue
            if x.ndim or copies:
                raise AssertionError(f"{function} takes a {tuple(x.shape)} tensor of the host")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_iteration_moves_nothing_between_host_and_device(optimizer, scan):
    """On the meta device nothing can be read back, and any tensor of the host is seen. A graph
    cannot be recorded otherwise."""
    drr, fixed = _scene()
    if scan:
        drr = drr.with_carm(ScanProjection(200.0, 110.0, 12, 12, 5.0, 5.0))
    drr.grid.padded()
    drr.backend, drr._center = "cuda", drr._center.to("meta")
    drr.grid = copy.copy(drr.grid)
    drr.grid.mu = drr.grid.mu.to("meta")
    drr.grid._padded = copy.copy(drr.grid._padded)
    drr.grid._padded.version = drr.grid.mu._version
    for thing, kept in ((drr.grid, ("_host",)), (drr.grid._padded, ())):
        for name, x in vars(thing).items():
            if isinstance(x, torch.Tensor) and name not in kept:
                setattr(thing, name, x.to("meta"))
    # The kernels have a meaning on the meta device, but may not be asked for by name there.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("drrlib.projectors.ops.choose_backend", lambda grid, backend: "cuda")
        patch.setattr("drrlib.arrays.check_values", lambda values, name: None)
        objective = _objective(drr, fixed.to("meta"))
        iteration = Iteration(objective, STARTS.to("meta"), optimizer=optimizer)
        with _NothingFromTheHost():
            iteration._run()
            for number in (STARTS, torch.tensor(1.0)):
                with pytest.raises(AssertionError, match="of the host"):
                    number.to(iteration.eta)
    assert iteration.eta.device.type == "meta"


def test_starts_that_are_dropped_cost_nothing_more():
    drr, fixed = _scene()
    objective = _objective(drr, fixed)
    both, one = Iteration(objective, STARTS), Iteration(_objective(drr, fixed), STARTS[1:])
    both(), one()
    both.keep(torch.tensor([False, True]))
    for _ in range(3):
        assert torch.equal(both(0.5), one(0.5)) and torch.equal(both.eta, one.eta)
    assert objective.renders == 2 + 3


def test_a_graph_is_not_replaced_by_something_else():
    drr, fixed = _scene()
    with pytest.raises(BackendError, match="CUDA graph needs"):
        Iteration(_objective(drr, fixed), STARTS, graph=True)
    with pytest.raises(ShapeError, match="expected"):
        inspect.unwrap(Iteration.__init__)(
            Iteration.__new__(Iteration), _objective(drr, fixed), STARTS[0]
        )


def _descend(drr, fixed, **options):
    """Twice at one size, where one of the starts is at its goal and stops."""
    starts = torch.cat([STARTS, TRUTH])
    schedule = Schedule(((1, 2), (1, 3)), threshold=1e-6)
    return descend(fixed, drr, starts, schedule=schedule, **options)


def _agree(found, expected):
    assert found.reason == expected.reason and len(set(found.reason)) > 1
    assert torch.equal(found.trace.level, expected.trace.level)
    pairs = [(getattr(found.trace, x), getattr(expected.trace, x)) for x in ("eta", "loss")]
    pairs += [(getattr(found, x), getattr(expected, x)) for x in ("eta", "loss")]
    for ours, theirs in pairs:
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("each", [False, True])
def test_a_descent_takes_the_same_way_by_recorded_iterations(backend, each, monkeypatch):
    """All but the recording itself, which needs a GPU."""
    drr, fixed = _scene(backend)
    fixed = fixed.expand(3, -1, -1, -1) if each else fixed
    expected = _descend(drr, fixed)
    made = []

    class Unrecorded(Iteration):
        def __init__(self, objective, start, *, graph, **options):
            made.append(graph)
            super().__init__(objective, start, **options)
            self._state = type(self._state)(*(x.clone() for x in self._state))
            self._alive = torch.arange(len(start))

        def __call__(self, scale):
            self._scale.fill_(scale)
            self._run()
            return self.value

    monkeypatch.setattr("drrlib.optimize.loop.Iteration", Unrecorded)
    found = _descend(drr, fixed, graph=True)
    assert made == [True, True]
    _agree(found, expected)
    assert found.renders > expected.renders  # the start that stopped is rendered on


def test_a_descent_without_a_gpu_refuses_a_graph():
    drr, fixed = _scene()
    with pytest.raises(BackendError, match="CUDA graph needs"):
        _descend(drr, fixed, graph=True)
    for options in (dict(derivative="finite"), dict(optimizer="powell")):
        with pytest.raises(ConfigError, match="graph=False"):
            _descend(drr, fixed, graph=True, **options)


@pytest.mark.gpu
def test_a_descent_by_graphs_takes_the_same_way():
    drr, fixed = _scene("cuda", 64)
    _agree(_descend(drr, fixed, graph=True), _descend(drr, fixed))


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_replay_gives_the_bits_of_the_eager_iteration(optimizer):
    drr, fixed = _scene("cuda", 64)
    eager = Iteration(_objective(drr, fixed), STARTS, optimizer=optimizer)
    graph = Iteration(_objective(drr, fixed), STARTS, optimizer=optimizer, graph=True)
    for step in range(20):
        assert torch.equal(eager(0.9**step), graph(0.9**step).cpu())
        assert torch.equal(eager.eta, graph.eta.cpu())


@pytest.mark.gpu
def test_a_graph_sees_a_changed_volume():
    drr, fixed = _scene("cuda", 64)
    graph = Iteration(_objective(drr, fixed, "l2"), STARTS, graph=True)
    before = graph().clone()
    drr.grid.mu.mul_(2)
    graph._eta.copy_(STARTS)
    eager = Iteration(_objective(drr, fixed, "l2"), STARTS)
    assert torch.equal(graph().cpu(), eager()) and not torch.equal(before, graph.value)
