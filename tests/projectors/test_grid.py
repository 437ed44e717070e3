"""The copy of a volume that kernels read: when it is made, and who waits for it."""

import types

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from drrlib.projectors import Grid, project
from drrlib.projectors.grid import _Moment
from helpers import GENERIC_VIEWS, affine, random_volume


class _Questions(TorchDispatchMode):
    """Counts what makes the host wait for a GPU: values that are read, and copies to and fro."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        moved = name == "_to_copy" and (kwargs or {}).get("device") is not None
        if moved or name in ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh"):
            self.asked.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("shape", [(9, 8, 7), (2, 9, 8, 7)])
def test_a_changed_volume_asks_the_device_once(monkeypatch, shape):
    mu = torch.zeros(shape)
    mu[..., 2:6, 1:8, 3:4] = random_volume((4, 7, 1)) + 0.01
    grid = Grid(mu, affine(size=(9, 8, 7)))
    grid.padded()
    other = torch.zeros(shape)
    other[..., 1:3, 0:2, 5:7] = 0.3
    read, cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda x: read.append(tuple(x.shape)) or cpu(x))
    for used in (grid, grid.with_mu(other)):
        used.mu.copy_(other)
        with _Questions() as questions:
            padded = used.padded()
        assert questions.asked == [] and read == [(2, 3)]
        assert padded.lower.tolist() == [1, 0, 5] and padded.count.tolist() == [2, 2, 2]
        assert padded.geometry[:6].tolist() == [1, 0, 5, 2, 2, 2]
        assert padded.whole[:6].tolist() == [0, 0, 0, 9, 8, 7]
        assert torch.equal(padded.geometry[6:], grid.metric.flatten())
        read.clear()
    with _Questions() as questions:  # the counter counts
        torch.nonzero(mu), float(mu.sum())
    assert len(questions.asked) == 2


def test_other_attenuation_in_the_same_place():
    v, mu = GENERIC_VIEWS["oblique"], random_volume()
    grid = Grid(mu, affine())
    before = project(grid, *v.frame, 5, 4)
    other = grid.freeze().with_mu(2 * mu)
    assert torch.allclose(project(other, *v.frame, 5, 4), 2 * before)
    other.mu.mul_(2)
    assert torch.allclose(project(other, *v.frame, 5, 4), 4 * before)
    assert torch.equal(project(grid, *v.frame, 5, 4), before)
    assert grid.with_mu(random_volume((3, 4, 5))).padded().count.tolist() == [3, 4, 5]


class _Stream:
    def __init__(self, number):
        self.cuda_stream, self.said = number, []

    def record_event(self):
        event = types.SimpleNamespace(of=self)
        event.synchronize = lambda: self.said.append("the host waits")
        return event

    def wait_event(self, event):
        self.said.append(f"waits for {event.of.cuda_stream}")


def test_streams_wait_for_the_one_that_makes_the_copy(monkeypatch):
    """With streams that only say what is asked of them: no GPU, so nothing of the order in time."""
    maker, reader, capturing = _Stream(1), _Stream(2), [False]
    current, held = [maker], []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: current[0])
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda x, s: held.append((id(x), s)))
    grid = Grid(random_volume(), affine())
    padded = grid.padded()
    padded._made = _Moment(maker)  # as on a CUDA device
    grid.padded()
    assert maker.said == [] and held == []
    current[0] = reader
    assert grid.padded() is padded
    assert reader.said == ["waits for 1"]
    kept = (padded.values, padded.geometry, padded.whole)
    assert held == [(id(x), reader) for x in kept]
    capturing[0] = True
    grid.padded()
    assert reader.said == ["waits for 1"]
    grid.freeze()
    assert maker.said == ["the host waits"]
