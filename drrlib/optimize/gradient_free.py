"""Gradient-free search of one start: Nelder-Mead and Powell from SciPy, CMA-ES from pycma.

The first two are the "conventional" methods that Alfiansyah et al. 2024
(doi:10.3844/jcssp.2024.1593.1601) name beside gradients. CMA-ES (Hansen and Ostermeier 2001,
doi:10.1162/106365601750190398) is what 2D/3D registration without gradients uses today, as in
xReg (Grupp et al. 2020, doi:10.1007/s11548-020-02162-7). Every evaluation is one render, counted
and kept. The packages are imported where they are used: registration by gradients needs neither.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.errors import ConfigError

# Ends of a search, in units of its first steps: those smaller than this, losses closer than this.
_STEP_TOLERANCE, _LOSS_TOLERANCE = 1e-4, 1e-9

Losses = Callable[[Float[Tensor, "m 6"]], Float[Tensor, " m"]]
Tried = tuple[Float[Tensor, "k 6"], Float[Tensor, " k"], bool]


@dataclass(frozen=True)
class SciPySearch:
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
        if self.method not in ("Nelder-Mead", "Powell"):
            raise ConfigError(f"method is {self.method!r}; choose Nelder-Mead or Powell")
        _check_steps(self)

    def search(
        self,
        losses_of: Losses,
        start: Float[Tensor, "6"],
        most: int,
        threshold: float,
        scale: float = 1.0,
        number: int = 0,
    ) -> Tried:
        """Minimise from one start.

        Args:
            losses_of: Losses of rows of parameters, one render each.
            start: Parameters to begin with (rad, mm), float64.
            most: Renders allowed.
            threshold: End as soon as a loss lies below.
            scale: Factor of the first steps, below 1 where the start is already good.
            number: Of this start among those of a call; these methods draw nothing.

        Returns:
            All parameters tried, their losses, and whether the method ended by itself.
        """
        from scipy.optimize import minimize

        steps = _steps(self, start, scale)
        path: list[Tensor] = []
        losses: list[float] = []

        def evaluate(x) -> float:
            if len(losses) >= most or (losses and losses[-1] < threshold):
                raise _Enough
            eta = start + steps * torch.from_numpy(x).to(start)
            path.append(eta)
            losses.append(float(losses_of(eta[None])))
            # A method that compares must not meet NaN: such a pose is as bad as can be.
            return losses[-1] if math.isfinite(losses[-1]) else math.inf

        zero = torch.zeros(6, dtype=torch.float64)
        options = dict(maxfev=most)
        if self.method == "Nelder-Mead":
            simplex = torch.cat([zero[None], torch.eye(6, dtype=torch.float64)])
            ends = dict(xatol=_STEP_TOLERANCE, fatol=_LOSS_TOLERANCE)
            options |= dict(initial_simplex=simplex.numpy(), **ends)
        else:
            options |= dict(xtol=_STEP_TOLERANCE, ftol=_LOSS_TOLERANCE)
        try:
            minimize(evaluate, zero.numpy(), method=self.method, options=options)
            settled = len(losses) < most
        except _Enough:
            settled = False
        return torch.stack(path), start.new_tensor(losses), settled


@dataclass(frozen=True)
class CmaEs:
    """CMA-ES: each generation is one batch of renders, drawn from a Gaussian that learns.

    Args:
        step_rotation: Standard deviation of the first generation in each angle [rad]. A third of
            the range that is to be searched is a good one.
        step_translation: The same for the translations [mm].
        population: Renders in a generation; None for the method's own, 9 for six parameters.
        seed: Start i of a call draws from a generator seeded by (seed, i); or a seed for each
            start, which then does not depend on the others.

    Raises:
        ConfigError: pycma is not installed, or a number out of range.
    """

    step_rotation: float = math.radians(10)
    step_translation: float = 10.0
    population: int | None = None
    seed: int | Sequence[int] = 0

    def __post_init__(self):
        _check_steps(self)
        if self.population is not None and self.population < 4:
            raise ConfigError(f"population is {self.population}; expected a whole number >= 4")
        if min([self.seed] if isinstance(self.seed, int) else self.seed, default=0) < 0:
            raise ConfigError(f"seed is {self.seed}; expected whole numbers >= 0")
        _pycma()  # better here than after the first render

    def search(
        self,
        losses_of: Losses,
        start: Float[Tensor, "6"],
        most: int,
        threshold: float,
        scale: float = 1.0,
        number: int = 0,
    ) -> Tried:
        """As `SciPySearch.search`; the start itself is the first render.

        A generation that meets the threshold is rendered and counted whole, and only what is left
        of `most` is rendered of the last.
        """
        steps = _steps(self, start, scale)
        seed = [self.seed, number] if isinstance(self.seed, int) else [self.seed[number]]
        dice = np.random.default_rng(seed)
        options = dict(
            randn=lambda *shape: dice.standard_normal(shape),
            seed=math.nan,  # no global state
            verbose=-9,
            verb_log=0,
            signals_filename="",
            tolx=_STEP_TOLERANCE,
            tolfun=_LOSS_TOLERANCE,
        )
        if self.population is not None:
            options["popsize"] = self.population
        strategy = _pycma().CMAEvolutionStrategy(np.zeros(6), 1.0, options)
        path, losses = [start[None]], [losses_of(start[None])]
        count, settled = 1, False
        while count < most and not bool((losses[-1] < threshold).any()):
            drawn = strategy.ask()
            rows = torch.from_numpy(np.stack(drawn[: most - count])).to(start)
            path.append(start + steps * rows)
            losses.append(losses_of(path[-1]))
            count += len(rows)
            if len(rows) < len(drawn):
                break
            # As for the others: a pose without a loss ranks last.
            strategy.tell(drawn, losses[-1].nan_to_num(nan=math.inf, posinf=math.inf).tolist())
            if strategy.stop():
                settled = True
                break
        return torch.cat(path), torch.cat(losses).to(start), settled


GradientFree = SciPySearch | CmaEs


class _Enough(Exception):
    """The renders are used up, or the loss is low enough."""


def _steps(method: GradientFree, start: Tensor, scale: float) -> Float[Tensor, "6"]:
    return scale * start.new_tensor([method.step_rotation] * 3 + [method.step_translation] * 3)


def _check_steps(method: GradientFree) -> None:
    for name in ("step_rotation", "step_translation"):
        if not 0 < getattr(method, name) < math.inf:
            raise ConfigError(f"{name} is {getattr(method, name)}; expected a number > 0")


def _pycma():
    try:
        import cma
    except ImportError as error:
        raise ConfigError(
            "optimizer CMA-ES needs the package cma, which is not installed; run: pip install cma "
            "(or install drrlib[cma]), or choose nelder-mead or powell"
        ) from error
    return cma


GRADIENT_FREE: Mapping[str, Callable[[], GradientFree]] = MappingProxyType(
    {
        "nelder-mead": partial(SciPySearch, "Nelder-Mead"),
        "powell": partial(SciPySearch, "Powell"),
        "cma-es": CmaEs,
    }
)
