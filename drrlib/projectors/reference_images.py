"""The definition over many rays: in parts that memory takes; images and endpoint gradients."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from drrlib.projectors import reference
from drrlib.projectors.grid import Grid

# Rays taken at once where no patch size is given: their tables hold nx + ny + nz numbers per ray.
RAYS = 4096


def images(
    grid: Grid,
    frames: Float[Tensor, "b 12"],
    height: int,
    width: int,
    method: str,
    patch_size: int | None,
) -> Float[Tensor, "b height width"]:
    """Line integrals of one volume from each frame (voxel coordinates) to its pixels."""
    source, target = _pixels(frames, height, width)
    if patch_size is None:
        values = rays(grid, source.reshape(-1, 3), target.reshape(-1, 3), method)
        return values.reshape(len(frames), height, width)
    source, target = (x.reshape(len(frames), height, width, 3) for x in (source, target))
    rows = []
    for top in range(0, height, patch_size):
        row = []
        for left in range(0, width, patch_size):
            window = (slice(None), slice(top, top + patch_size), slice(left, left + patch_size))
            s, p = (x[window] for x in (source, target))
            values = rays(grid, s.reshape(-1, 3), p.reshape(-1, 3), method, s.numel())
            row.append(values.reshape(s.shape[:-1]))
        rows.append(torch.cat(row, dim=2))
    return torch.cat(rows, dim=1)


def rays(
    grid: Grid,
    source: Float[Tensor, "ray 3"],
    target: Float[Tensor, "ray 3"],
    method: str,
    most: int = RAYS,
) -> Float[Tensor, " ray"]:
    """Line integrals of segments in voxel coordinates, at most so many at a time.

    Their tables are made again for the backward pass, not kept.
    """
    mu = grid.mu.to(grid.dtype)
    cast = [x.to(mu.dtype).split(most) for x in (source, target)]
    trace = reference.METHODS[method]
    parts = [
        checkpoint(trace, mu, grid.metric, s, p, use_reentrant=False)
        if torch.is_grad_enabled()
        else trace(mu, grid.metric, s, p)
        for s, p in zip(*cast, strict=True)
    ]
    return torch.cat(parts) if parts else mu.new_zeros(0)


def endpoint_gradients(
    grid: Grid, frames: Float[Tensor, "b 12"], height: int, width: int, method: str
) -> tuple[Float[Tensor, "b height width"], Float[Tensor, "b height width 6"]]:
    """Images, and per pixel the derivatives by source and target; both detached."""
    source, target = (x.reshape(-1, 3) for x in _pixels(frames, height, width))
    mu, metric = grid.mu.detach().to(grid.dtype), grid.metric
    values, sums = [], []
    for part in torch.arange(len(source)).split(RAYS):
        with torch.enable_grad():
            ends = [x[part].to(mu.dtype).requires_grad_() for x in (source, target)]
            value = reference.METHODS[method](mu, metric, *ends)
            sums.append(torch.cat(torch.autograd.grad(value.sum(), ends), dim=-1))
        values.append(value.detach())
    shape = (len(frames), height, width)
    return torch.cat(values).reshape(shape), torch.cat(sums).reshape(*shape, 6)


def _pixels(frames: Float[Tensor, "b 12"], height: int, width: int) -> tuple[Tensor, Tensor]:
    """Source and target of every pixel, [b, height * width, 3] each."""
    source, corner, col_step, row_step = frames[:, None, None].split(3, dim=-1)
    i = torch.arange(height, dtype=frames.dtype, device=frames.device)[:, None, None] + 0.5
    j = torch.arange(width, dtype=frames.dtype, device=frames.device)[:, None] + 0.5
    target = corner + j * col_step + i * row_step  # [b, height, width, 3]
    return source.expand_as(target).flatten(1, 2), target.flatten(1, 2)
