"""One iteration of a descent (render, compare, differentiate, step), also as a CUDA graph.

A small image is rendered in less time than Python takes to start the kernels of an iteration.
A CUDA graph records them once and starts them together: the same kernels, the same numbers.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from drrlib.errors import BackendError, ShapeError
from drrlib.optimize.objective import Objective
from drrlib.optimize.rules import Optimizer, get_optimizer

_WARM_UP = 3  # calls before the recording: compile the kernels, fill the caches


class Iteration:
    """An iteration of a set of starts, repeated by calling it.

    Args:
        objective: What is minimised; for a graph, by backend "cuda" on a CUDA device.
        start: Pose parameters to start from [n, 6] (rad, mm).
        optimizer: A name of `rules.OPTIMIZERS`, or an object.
        graph: Record a CUDA graph and replay it at each call. All tensors then lie on the device,
            and starts that were dropped are rendered on with the others.
        derivative: "exact", or "finite" for central differences.

    Attributes:
        eta: Where the starts are now [n, 6].
        value: Loss [n] before the last step.
        slope: Its gradient [n, 6].

    Raises:
        ShapeError: start is not [n, 6].
        BackendError: a graph without backend "cuda" on a CUDA device.
    """

    def __init__(
        self,
        objective: Objective,
        start: Float[Tensor, "n 6"],
        *,
        optimizer: str | Optimizer = "adam",
        graph: bool = False,
        derivative: str = "exact",
    ):
        for sight in objective.sights if graph else ():
            device, backend = sight.drr.grid.mu.device, sight.drr.backend
            if device.type != "cuda" or backend != "cuda":
                raise BackendError(
                    "a CUDA graph needs backend 'cuda' and a volume on a CUDA device; got backend "
                    f"{backend!r} on {device}: move the volume with volume.to('cuda'), or use "
                    "graph=False"
                )
        if start.ndim != 2 or start.shape[1] != 6:
            raise ShapeError(f"start has shape {tuple(start.shape)}; expected [n, 6]")
        self.objective, self.optimizer = objective, get_optimizer(optimizer)
        device = objective.sights[0].drr.grid.mu.device if graph else start.device
        self._eta = start.detach().to(device, torch.float64).clone()
        self._state = self.optimizer.init(self._eta)
        self._value = self._eta.new_full((len(self._eta),), torch.inf)
        self._slope = torch.zeros_like(self._eta)
        self._scale = self._eta.new_ones(())
        self._alive: Tensor | None = None  # of a graph: rows that have not been dropped
        self._finite = derivative == "finite"
        self._replay = None
        if graph:
            self._alive = torch.arange(len(self._eta), device=device)
            # Cloned: a new state may hold one tensor twice, and here each is overwritten.
            self._state = type(self._state)(*(x.clone() for x in self._state))
            self._record()

    @property
    def eta(self) -> Float[Tensor, "n 6"]:
        """Where the starts are now (rad, mm)."""
        return self._eta if self._alive is None else self._eta[self._alive]

    @property
    def value(self) -> Float[Tensor, " n"]:
        """Loss before the last step."""
        return self._value if self._alive is None else self._value[self._alive]

    @property
    def slope(self) -> Float[Tensor, "n 6"]:
        """Gradient of `value` (per rad, per mm)."""
        return self._slope if self._alive is None else self._slope[self._alive]

    def __call__(self, scale: float = 1.0) -> Float[Tensor, " n"]:
        """One step of all starts; `scale` multiplies the rates. Returns `value`."""
        if self._replay is None:
            new = self._step(scale)
            self._eta, self._value, self._slope, *state = new
            self._state = type(self._state)(*state)
            return self.value
        self._scale.fill_(scale)
        if self._padded != self._copies():
            self._record()  # a volume was changed in place
        self._replay.replay()
        self.objective._count[0] += len(self._eta)
        return self.value

    def keep(self, rows: Bool[Tensor, " n"]) -> None:
        """Go on with some of the starts only."""
        if bool(rows.all()):
            return
        if self._alive is not None:
            self._alive = self._alive[rows.to(self._alive.device)]
            return
        kept = torch.nonzero(rows).flatten()
        self.objective = self.objective.rows(kept)
        self._eta, self._value, self._slope = (
            x[kept] for x in (self._eta, self._value, self._slope)
        )
        self._state = self._state.select(rows)

    def _step(self, scale: float | Tensor) -> list[Tensor]:
        """Parameters after a step, and the loss, its gradient and the state that belong to it."""
        slope_of = self.objective.finite_slope if self._finite else self.objective.slope
        value, slope = slope_of(self._eta)
        moved, state = self.optimizer.step(self._eta, slope, self._state, scale)
        return [moved, value, slope, *state]

    def _run(self) -> None:
        new = self._step(self._scale)
        for old, x in zip(self._kept(), new, strict=True):
            old.copy_(x)

    def _kept(self) -> list[Tensor]:
        return [self._eta, self._value, self._slope, *self._state]

    def _copies(self) -> list:
        """What the kernels read, held as long as a graph does; others where a volume changed."""
        return [sight.drr.grid.padded() for sight in self.objective.sights]

    def _record(self) -> None:
        """Record `_run`; the starts stay where they are."""
        self._padded = self._copies()
        before, count = [x.clone() for x in self._kept()], self.objective.renders
        with torch.cuda.device(self._eta.device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP):
                    self._run()
            torch.cuda.current_stream().wait_stream(side)
            self._replay = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._replay):
                self._run()
        for old, x in zip(self._kept(), before, strict=True):
            old.copy_(x)
        self.objective._count[0] = count  # what warms a graph up is not counted
