"""What a descent keeps of its starts: where each is, its best pose so far, who still runs."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

RAN_OUT, LOST = "steps ran out", "loss or gradient not finite"
BELOW, SETTLED = "loss below threshold", "loss settled"


class Trace(NamedTuple):
    """Every step of a descent; NaN once a start has stopped.

    Attributes:
        eta: [steps, *n, 6] (rad, mm), for the n starts.
        loss: [steps, *n].
        level: Pixels of the detector joined along each side, at each step.
    """

    eta: Float[Tensor, "... 6"]
    loss: Float[Tensor, "..."]
    level: Int[Tensor, "..."]


class Search:
    """State of all starts, with the trace of every step.

    Args:
        eta: Pose parameters to start from [n, 6], float64; not changed.
        threshold: A start stops when its loss falls below this at the last level.
        patience: A start leaves a level when its loss has not improved by 0.1 % for so many steps.
    """

    def __init__(
        self, eta: Float[Tensor, "n 6"], threshold: float = -math.inf, patience: float = math.inf
    ):
        self.eta = eta.clone()
        self.threshold, self.patience = threshold, patience
        self.reason = [RAN_OUT] * len(eta)
        self._etas: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._levels: list[int] = []
        self.enter(1, last=True)

    def enter(self, level: int, last: bool) -> None:
        """Begin a level: its losses are not comparable with those of the level before."""
        self.level, self.last = level, last
        self.best_eta = self.eta.clone()
        self.best_loss = self.eta.new_full((len(self.eta),), torch.inf)
        self.mark = self.best_loss.clone()
        self.waited = torch.zeros(len(self.eta), dtype=torch.long)
        self.reason = [r if r == LOST else RAN_OUT for r in self.reason]
        self.running = torch.tensor([r != LOST for r in self.reason], dtype=torch.bool)

    @property
    def active(self) -> Int[Tensor, " m"]:
        """Indices of the starts that still run."""
        return torch.nonzero(self.running).flatten()

    @property
    def trace(self) -> Trace:
        """What was recorded so far; empty before the first step."""
        if not self._losses:
            empty = self.eta.new_zeros(0, *self.eta.shape)
            return Trace(empty, empty[..., 0], torch.zeros(0, dtype=torch.long))
        levels = torch.tensor(self._levels)
        return Trace(torch.stack(self._etas), torch.stack(self._losses), levels)

    def record(
        self, active: Int[Tensor, " m"], value: Float[Tensor, " m"], slope: Float[Tensor, "m 6"]
    ) -> Bool[Tensor, " m"]:
        """Store one step of the active starts; returns which of them go on."""
        everyone = self.eta.new_full((len(self.eta),), torch.nan)
        everyone[active] = value
        where = torch.full_like(self.eta, torch.nan)
        where[active] = self.eta[active]
        self._store(everyone, where)
        better = active[value < self.best_loss[active]]
        self.best_loss[better] = everyone[better]
        self.best_eta[better] = self.eta[better]
        # Progress counts from the last mark, so that many small steps add up.
        moved = self.best_loss[active] < 0.999 * self.mark[active]
        self.mark[active[moved]] = self.best_loss[active[moved]]
        self.waited[active] += 1
        self.waited[active[moved]] = 0
        sound = torch.isfinite(value) & torch.isfinite(slope).all(dim=1)
        below = (value < self.threshold) & sound
        settled = (self.waited[active] >= self.patience) & ~below
        for mask, reason in ((~sound, LOST), (below, BELOW), (settled & sound, SETTLED)):
            if reason == BELOW and not self.last:
                continue
            for i in active[mask].tolist():
                self.reason[i] = reason
        keep = sound & ~below & ~settled
        self.running[active[~keep]] = False
        return keep

    def record_runs(self, runs: dict[int, tuple[Tensor, Tensor, bool]]) -> None:
        """Store whole runs of single starts: parameters [k, 6], losses [k], whether it settled."""
        length = max((len(losses) for _, losses, _ in runs.values()), default=0)
        losses = self.eta.new_full((length, len(self.eta)), torch.nan)
        etas = self.eta.new_full((length, len(self.eta), 6), torch.nan)
        for i, (path, values, settled) in runs.items():
            etas[: len(values), i], losses[: len(values), i] = path, values
            lowest = int(torch.nan_to_num(values, nan=torch.inf).argmin())
            self.best_eta[i], self.best_loss[i] = path[lowest], values[lowest]
            if not bool(torch.isfinite(values[lowest])):
                self.reason[i] = LOST
            elif values[lowest] < self.threshold and self.last:
                self.reason[i] = BELOW
            elif settled:
                self.reason[i] = SETTLED
        for everyone, where in zip(losses, etas, strict=True):
            self._store(everyone, where)

    def leave(self) -> None:
        """End a level: the next one goes on from the best pose of this one."""
        self.eta = self.best_eta.clone()

    def _store(self, losses: Tensor, etas: Tensor) -> None:
        self._losses.append(losses)
        self._etas.append(etas)
        self._levels.append(self.level)
