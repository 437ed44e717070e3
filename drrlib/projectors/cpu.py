"""The CPU backend as PyTorch sees it: an autograd function, and launches of the kernels."""

import numpy as np
import torch
from torch import Tensor

from drrlib.first_order import first_order
from drrlib.projectors.grid import Grid
from drrlib.turns import turn


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
    with turn(cpu_kernels.forward):
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
    with turn(cpu_kernels.reduce):
        cpu_kernels.reduce(grad.numpy(), sums.numpy(), out)
    return torch.from_numpy(out.sum(axis=1))


def adjoint(grid: Grid, frames: Tensor, grad: Tensor, method: str) -> Tensor:
    """Gradient by the volume [x, y, z]."""
    from drrlib.projectors import cpu_adjoint

    frames = frames.numpy().copy()
    frames[:, :6] += 1.5
    out = np.zeros([n + 3 for n in grid.shape])
    with turn(cpu_adjoint.adjoint):
        cpu_adjoint.adjoint(
            grad.numpy(), np.array(grid.shape), frames, grid.metric.numpy(), method == "joseph", out
        )
    return torch.from_numpy(out[1:-2, 1:-2, 1:-2]).to(grid.mu.dtype)
