"""Step rules of the paper on a batch of starts: GD, GDM, GDDM, Adam.

Source: Alfiansyah et al. 2024, doi:10.3844/jcssp.2024.1593.1601, Eq. 3-6; Adam by Kingma and
Ba 2015. Every row of the parameters [n, 6] moves as if it were alone. Columns 0-2 (angles)
use `lr_rotation`, columns 3-5 (millimetres) use `lr_translation`. A row whose gradient is not
finite stays where it is, and so does its state; the caller sees it in the gradient.

GD and Adam are torch.optim's SGD and Adam. The momentum of Eq. 4 and 5 starts from v = 0, where
torch.optim.SGD(momentum, dampening) sets v = grad in its first step; for the same gradients
torch's v is larger by dampening * momentum^k * (first gradient), k steps later. The dampening
is beta for GDM and gamma for GDDM.

Starting from v = 0, GDDM is GDM with rates (1 - gamma) / (1 - beta) times as large (8 with the
defaults): the two differ in what a rate means and in nothing else.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from drrlib.errors import ConfigError, ShapeError

Rows = Float[Tensor, "n 6"]


class State(NamedTuple):
    """First and second moments and step counts, one row per start."""

    first: Rows
    second: Rows
    count: Int[Tensor, " n"]

    def select(self, mask: Bool[Tensor, " n"]) -> "State":
        """The rows that go on."""
        return State(*(x[mask] for x in self))


@dataclass(frozen=True)
class Optimizer:
    """Learning rates, and what all step rules share.

    Args:
        lr_rotation: Rate of the angles: [rad^2] per unit of loss for GD and its kin, since the
            gradient is in 1/rad; [rad] for Adam, whose direction has no unit.
        lr_translation: Rate of the translations: [mm^2] per unit of loss, or [mm].

    Raises:
        ConfigError: a rate, decay or eps out of range.
    """

    lr_rotation: float
    lr_translation: float

    def __post_init__(self):
        for name in ("lr_rotation", "lr_translation"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a number >= 0")
        for name in ("beta", "beta1", "beta2", "gamma"):
            if not 0 <= getattr(self, name, 0.0) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 <= {name} < 1")
        if not 0 < getattr(self, "eps", 1.0) < math.inf:
            raise ConfigError(f"eps is {self.eps}; expected a number > 0")

    def init(self, params: Rows) -> State:
        """State before the first step."""
        if params.ndim != 2 or params.shape[1] != 6:
            raise ShapeError(f"params has shape {tuple(params.shape)}; expected [n, 6]")
        zero = torch.zeros_like(params)
        return State(zero, zero, torch.zeros(len(params), dtype=torch.long, device=params.device))

    def step(
        self, params: Rows, grad: Rows, state: State, scale: float | Tensor = 1.0
    ) -> tuple[Rows, State]:
        """New parameters and state; `scale` multiplies both rates, for schedules.

        Raises:
            ShapeError: params, grad and state do not hold the same starts.
        """
        if not params.shape == grad.shape == state.first.shape:
            raise ShapeError(
                f"params has shape {tuple(params.shape)}, grad {tuple(grad.shape)}, state "
                f"{tuple(state.first.shape)}; expected one shape: use state.select as for params"
            )
        sound = torch.isfinite(grad).all(dim=1)
        count = state.count + 1
        change, first, second = self.change(torch.nan_to_num(grad), state, count)
        # Filled on the device; a copy from the host could not go into a CUDA graph.
        rates = params.new_full((6,), self.lr_translation)
        rates[:3] = self.lr_rotation
        row = sound[:, None]
        moved = torch.where(row, params - scale * rates * change, params)
        return moved, State(
            torch.where(row, first, state.first),
            torch.where(row, second, state.second),
            torch.where(sound, count, state.count),
        )


@dataclass(frozen=True)
class GD(Optimizer):
    """Gradient descent (Eq. 3): theta <- theta - alpha grad."""

    lr_rotation: float = 0.05
    lr_translation: float = 150.0

    def change(self, grad, state, count):
        """What the rates multiply, here the gradient, and the new moments."""
        return grad, state.first, state.second


@dataclass(frozen=True)
class GDM(Optimizer):
    """With momentum (Eq. 4): v <- beta v + (1 - beta) grad; theta <- theta - alpha v."""

    lr_rotation: float = 0.05
    lr_translation: float = 150.0
    beta: float = 0.9

    def change(self, grad, state, count):
        """The new first moment, and the new moments (Eq. 4)."""
        v = self.beta * state.first + (1 - self.beta) * grad
        return v, v, state.second


@dataclass(frozen=True)
class GDDM(Optimizer):
    """With dampened momentum (Eq. 5): v <- beta v + (1 - gamma) grad.

    The equation is garbled in print; this is the form of the code it descends from, with
    momentum 0.9 and dampening 0.2.
    """

    lr_rotation: float = 0.05
    lr_translation: float = 150.0
    beta: float = 0.9
    gamma: float = 0.2

    def change(self, grad, state, count):
        """The new first moment, and the new moments (Eq. 5)."""
        v = self.beta * state.first + (1 - self.gamma) * grad
        return v, v, state.second


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam with bias correction (Eq. 6). The rates are about the size of one step."""

    lr_rotation: float = 0.02
    lr_translation: float = 2.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def change(self, grad, state, count):
        """The first moment over the root of the second, and the new moments (Eq. 6)."""
        first = self.beta1 * state.first + (1 - self.beta1) * grad
        second = self.beta2 * state.second + (1 - self.beta2) * grad.square()
        # In float64: 1 - 0.999 has only four digits in float32.
        steps = count[:, None].double()
        m = first / (1 - self.beta1**steps).to(grad)
        v = second / (1 - self.beta2**steps).to(grad)
        return m / (v.sqrt() + self.eps), first, second


OPTIMIZERS: Mapping[str, type[Optimizer]] = MappingProxyType(
    {"gd": GD, "gdm": GDM, "gddm": GDDM, "adam": Adam}
)


def get_optimizer(optimizer: str | Optimizer) -> Optimizer:
    """The step rule of that name at its default rates, or the given object itself.

    Raises:
        ConfigError: an unknown name, or an object without `init` and `step`.
    """
    if not isinstance(optimizer, str):
        if isinstance(optimizer, type) or not all(hasattr(optimizer, x) for x in ("init", "step")):
            raise ConfigError(
                f"optimizer is {optimizer!r}; choose one of {', '.join(OPTIMIZERS)} or pass an "
                "object with init and step, such as Adam()"
            )
        return optimizer
    if optimizer.lower() not in OPTIMIZERS:
        raise ConfigError(
            f"optimizer is {optimizer!r}; choose one of {', '.join(OPTIMIZERS)} or pass an "
            "object of drrlib.optimize.rules"
        )
    return OPTIMIZERS[optimizer.lower()]()
