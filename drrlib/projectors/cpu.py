"""The CPU backend as PyTorch sees it: an autograd function, and launches of the kernels.

Numba's threads are one pool for the process: launches take turns, since its workqueue layer does
not bear two at once, and a forked process has no pool where the layer is OpenMP.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from drrlib.errors import BackendError
from drrlib.first_order import first_order
from drrlib.projectors.grid import Grid

_SILENCE = 3.0  # [s] that a first call may take before it says why


class _Pool:
    """Whose turn it is, and whether this process was forked from one that had threads."""

    def __init__(self):
        self.turn, self.lost = threading.Lock(), False

    def forked(self) -> None:
        self.turn = threading.Lock()  # a thread of the parent may have held it
        with contextlib.suppress(KeyError, ValueError):  # not imported, no threads yet
            self.lost = self.lost or sys.modules["numba"].threading_layer() == "omp"


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forked)


class Project(torch.autograd.Function):
    """Images of the fused kernel; backward is a product with the sums of the same march."""

    @staticmethod
    def forward(ctx, mu, frames, grid, height, width, method, patch_size):
        keep = ctx.needs_input_grad[1]
        image, sums = forward(grid, frames, height, width, method, patch_size, keep=keep)
        ctx.save_for_backward(mu, frames, *([sums] if keep else []))
        ctx.grid, ctx.method = grid, method
        return image

    @staticmethod
    @first_order
    def backward(ctx, grad):
        _, frames, *sums = ctx.saved_tensors
        grad = grad.contiguous()
        grad_mu = grad_frames = None
        if ctx.needs_input_grad[0]:
            grad_mu = adjoint(ctx.grid, frames, grad, ctx.method)
        if ctx.needs_input_grad[1]:
            grad_frames = reduce(grad, sums[0])
        return grad_mu, grad_frames, None, None, None, None, None


def forward(
    grid: Grid, frames: Tensor, height, width, method, patch_size=None, *, keep: bool = True
) -> tuple[Tensor, Tensor]:
    """Images [b, height, width], and dE/dsource, dE/dtarget [b, height, width, 6] if `keep`."""
    from drrlib.projectors import cpu_kernels

    padded = grid.padded()
    frames = frames.numpy().copy()
    by_rows = np.abs(frames[:, 11]) >= np.abs(frames[:, 8])
    frames[:, :3] += 1.5 - padded.lower
    frames[:, 3:6] += 1.5 - padded.lower
    batch = len(frames)
    image = torch.empty(batch, height, width)
    kept = (height, width) if keep else (0, 0)
    sums = torch.empty(batch, *kept, 6)
    patch = patch_size or max(height, width)
    with _turn(cpu_kernels.forward):
        for top in range(0, height, patch):
            for left in range(0, width, patch):
                window = np.array([top, left, min(patch, height - top), min(patch, width - left)])
                cpu_kernels.forward(
                    padded.values.numpy(),
                    padded.count,
                    frames,
                    grid.metric.numpy(),
                    method == "joseph",
                    window,
                    image.numpy(),
                    sums.numpy(),
                    by_rows,
                )
    return image, sums


def reduce(grad: Tensor, sums: Tensor) -> Tensor:
    """Gradient by the frames [b, 12], float64."""
    from drrlib.projectors import cpu_kernels

    out = np.empty((*grad.shape[:2], 12))
    with _turn(cpu_kernels.reduce):
        cpu_kernels.reduce(grad.numpy(), sums.numpy(), out)
    return torch.from_numpy(out.sum(axis=1))


def adjoint(grid: Grid, frames: Tensor, grad: Tensor, method: str) -> Tensor:
    """Gradient by the volume [x, y, z]."""
    from drrlib.projectors import cpu_adjoint

    frames = frames.numpy().copy()
    frames[:, :6] += 1.5
    out = np.zeros([n + 3 for n in grid.shape])
    with _turn(cpu_adjoint.adjoint):
        cpu_adjoint.adjoint(
            grad.numpy(), np.array(grid.shape), frames, grid.metric.numpy(), method == "joseph", out
        )
    return torch.from_numpy(out[1:-2, 1:-2, 1:-2]).to(grid.mu.dtype)


@contextlib.contextmanager
def _turn(kernel) -> Iterator[None]:
    """A turn for a launch; says so where the first one takes long: it is being compiled.

    Raises:
        BackendError: a forked process, whose parent had the threads.
    """
    if _pool.lost:
        raise BackendError(
            "this process was forked from one whose CPU kernels already had threads, which "
            "OpenMP does not survive: start workers with spawn (DataLoader(..., "
            "multiprocessing_context='spawn'), multiprocessing.get_context('spawn')), or set "
            "NUMBA_THREADING_LAYER=workqueue in the environment before Python starts"
        )
    with _pool.turn:
        if kernel.signatures:
            yield
            return
        kept = "kept for later runs" if kernel.stats.cache_path else "not kept: see above"
        message = f"drrlib: compiling the CPU kernel (about half a minute, {kept}) ..."
        timer = threading.Timer(_SILENCE, print, [message], {"file": sys.stderr, "flush": True})
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
