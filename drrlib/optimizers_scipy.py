"""Gradient-free search of one start: Nelder-Mead and Powell as SciPy has them.

The "conventional" methods that Alfiansyah et al. 2024 (doi:10.3844/jcssp.2024.1593.1601) name
beside gradients. Every evaluation is one render, counted and kept. SciPy is imported where it is
used, so that a registration by gradients does not need it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.errors import ConfigError


@dataclass(frozen=True)
class GradientFree:
    """A method of scipy.optimize.minimize and how far its first moves reach.

    Args:
        method: "Nelder-Mead" or "Powell".
        step_rotation: Size of the first simplex, or of the first line searches [rad].
        step_translation: The same for the translations [mm].

    Raises:
        ConfigError: another method, or a step that is not a number above 0.
    """

    method: str = "Nelder-Mead"
    step_rotation: float = math.radians(10)
    step_translation: float = 10.0

    def __post_init__(self):
        if self.method not in GRADIENT_FREE.values():
            raise ConfigError(
                f"method is {self.method!r}; choose one of {', '.join(GRADIENT_FREE.values())}"
            )
        for name in ("step_rotation", "step_translation"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a number > 0")

    def search(
        self,
        loss_of: Callable[[Float[Tensor, "1 6"]], float],
        start: Float[Tensor, "6"],
        most: int,
        threshold: float,
    ) -> tuple[Float[Tensor, "k 6"], Float[Tensor, " k"], bool]:
        """Minimise from one start.

        Args:
            loss_of: Loss of one row of parameters; one render.
            start: Parameters to begin with (rad, mm), float64.
            most: Renders allowed.
            threshold: End as soon as a loss lies below.

        Returns:
            All parameters tried, their losses, and whether the method ended by itself.
        """
        from scipy.optimize import minimize

        scale = start.new_tensor([self.step_rotation] * 3 + [self.step_translation] * 3)
        path: list[Tensor] = []
        losses: list[float] = []

        def evaluate(x) -> float:
            if len(losses) >= most or (losses and losses[-1] < threshold):
                raise _Enough
            eta = start + scale * torch.from_numpy(x).to(start)
            path.append(eta)
            losses.append(loss_of(eta[None]))
            # A method that compares must not meet NaN: such a pose is as bad as can be.
            return losses[-1] if math.isfinite(losses[-1]) else math.inf

        zero = torch.zeros(6, dtype=torch.float64)
        options = dict(maxfev=most)
        if self.method == "Nelder-Mead":
            simplex = torch.cat([zero[None], torch.eye(6, dtype=torch.float64)])
            options |= dict(initial_simplex=simplex.numpy(), xatol=1e-4, fatol=1e-9)
        else:
            options |= dict(xtol=1e-4, ftol=1e-9)
        try:
            minimize(evaluate, zero.numpy(), method=self.method, options=options)
            settled = len(losses) < most
        except _Enough:
            settled = False
        return torch.stack(path), start.new_tensor(losses), settled


class _Enough(Exception):
    """The renders are used up, or the loss is low enough."""


GRADIENT_FREE: Mapping[str, str] = MappingProxyType(
    {"nelder-mead": "Nelder-Mead", "powell": "Powell"}
)
