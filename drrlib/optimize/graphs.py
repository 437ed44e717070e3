"""One iteration of a registration (render, compare, differentiate, step), also as a CUDA graph.

A small image is rendered in less time than Python takes to start the fifty kernels of an iteration.
A CUDA graph records them once and starts them together: the same kernels, the same numbers.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.drr import DRR
from drrlib.errors import BackendError, ShapeError
from drrlib.optimize.rules import get_optimizer
from drrlib.similarity.correlation import get_loss

_WARM_UP = 3  # calls before the recording: compile the kernels, fill the caches


class Iteration:
    """A registration iteration for a fixed set of starts, repeated by calling it.

    Args:
        drr: Renderer; for a graph with backend "cuda".
        fixed: X-ray image as line integrals [1, 1, height, width], or one for each start [n, ...].
        start: Pose parameters eta to start from [n, 6] (rad, mm).
        loss, optimizer: As in `drrlib.optimize.loop.descend`.
        graph: Record a CUDA graph and replay it at each call; otherwise run operation by
            operation, on any device.

    Attributes:
        eta: Where the starts are now [n, 6]; a tensor that every call overwrites.
        value: Loss [n] before the last step; overwritten, too.
        slope: Its gradient [n, 6]; overwritten, too.

    Raises:
        ShapeError: fixed or start do not fit.
        BackendError: a graph without backend "cuda" on a CUDA device.
    """

    def __init__(
        self,
        drr: DRR,
        fixed: Float[Tensor, "k 1 height width"],
        start: Float[Tensor, "n 6"],
        *,
        loss: str | Callable = "zncc",
        optimizer: object = "adam",
        graph: bool = False,
    ):
        device = drr.grid.mu.device
        if graph and (device.type != "cuda" or drr.backend != "cuda"):
            raise BackendError(
                f"a CUDA graph needs backend 'cuda' and a volume on a CUDA device; got backend "
                f"{drr.backend!r} on {device}: move the volume with volume.to('cuda'), or use "
                "graph=False"
            )
        size = (1, drr.carm.height, drr.carm.width)
        whole = start.ndim == 2 and start.shape[1] == 6 and tuple(fixed.shape[1:]) == size
        if not whole or len(fixed) not in (1, len(start)):
            raise ShapeError(
                f"fixed has shape {tuple(fixed.shape)} and start {tuple(start.shape)}; expected "
                f"[n, 6] and {(1, *size)}, or an image for each start"
            )
        self.drr, self.loss, self.optimizer = drr, get_loss(loss), get_optimizer(optimizer)
        self.fixed = fixed.detach().to(device, drr.grid.dtype)
        self.eta = start.detach().to(device, torch.float64).clone()
        # Cloned: a new state may hold one tensor twice, and here each is overwritten.
        self.state = [x.clone() for x in self.optimizer.init(self.eta)]
        self._kind = type(self.optimizer.init(self.eta))
        self.value = self.eta.new_full((len(self.eta),), torch.inf)
        self.slope = torch.zeros_like(self.eta)
        self._scale = self.eta.new_ones(())
        self._replay = None
        if graph:
            self._record()

    def __call__(self, scale: float = 1.0) -> Float[Tensor, " n"]:
        """One step of all starts; `scale` multiplies the rates. Returns `value`."""
        self._scale.fill_(scale)
        if self._replay is None:
            self._run()
        else:
            if self._padded is not self.drr.grid.padded():
                self._record()  # the volume was changed in place
            self._replay.replay()
        return self.value

    def _run(self) -> None:
        eta = self.eta.clone().requires_grad_()
        value = self.loss(self.fixed, self.drr(self.drr.pose(eta)))
        (slope,) = torch.autograd.grad(value.sum(), eta)
        state = self._kind(*self.state)
        moved, state = self.optimizer.step(eta.detach(), slope, state, self._scale)
        new = [moved, value.detach(), slope, *state]
        for old, x in zip([self.eta, self.value, self.slope, *self.state], new, strict=True):
            old.copy_(x)

    def _record(self) -> None:
        """Record `_run`; the starts stay where they are."""
        self._padded = self.drr.grid.padded()
        kept = [self.eta, self.value, self.slope, *self.state]
        before = [x.clone() for x in kept]
        with torch.cuda.device(self.eta.device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP):
                    self._run()
            torch.cuda.current_stream().wait_stream(side)
            self._replay = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._replay):
                self._run()
        for old, x in zip(kept, before, strict=True):
            old.copy_(x)
