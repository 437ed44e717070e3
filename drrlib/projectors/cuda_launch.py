"""Launches of the Triton kernels: how many programs, how many lanes for a ray, what they are told.

On the device of their tensors and on its current stream. Triton is first imported by the first
launch.
"""

import contextlib
import math

import torch
from torch import Tensor

_LANES = 2**17  # enough to fill a large GPU
_LONG = 16  # pixels along the long side of a tile
UNROLL = 2  # slabs in one turn of the loop: their loads do not wait for each other
REDUCE = {"BLOCK": 64, "num_warps": 1, "enable_fp_fusion": True}


def tiling(height: int, width: int) -> tuple[int, int]:
    """Rays of a program, and lanes for each ray: as many as it takes to fill a large GPU.

    They depend on the detector alone: a pose has the same bits in any batch, on any GPU.
    """
    if height * width == 1:
        return 32, 4  # explicit rays, however many
    if height * width >= _LANES:
        return 64, 1
    return 32, 4 if 4 * height * width >= _LANES else 8


def _tiles(rows: int, cols: int, long: int, short: int) -> int:
    upright = -(-rows // long) * -(-cols // short)
    return max(upright, -(-rows // short) * -(-cols // long))


def _on(device: torch.device) -> contextlib.AbstractContextManager:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def program(rays: int, split: int) -> dict[str, object]:
    """Constants of a program with so many rays and lanes for each, one lane to a thread."""
    warps = rays * split // 32
    # Fused multiply-add, whatever the default of this Triton is.
    return dict(RAYS=rays, LONG=_LONG, SPLIT=split, num_warps=warps, enable_fp_fusion=True)


def layout(
    stack: torch.Size, shape: torch.Size, rows: int, cols: int, lanes: tuple[int, int] | None = None
) -> tuple[int, dict[str, object]]:
    """How many programs take a window of images [batch, height, width] of volumes [*v, x, y, z],
    and what they are told; with other lanes than those of `tiling`."""
    batch, height, width = shape
    volumes = math.prod(stack[:-3])
    own = batch // volumes
    rays, split = lanes or tiling(height, width)
    explicit = height * width == 1
    tiles = -(-own // rays) if explicit else _tiles(rows, cols, _LONG, rays // _LONG)
    told = dict(
        own=own,
        stride=math.prod(stack[-3:]),
        tiles=tiles,
        height=height,
        width=width,
        EXPLICIT=explicit,
    )
    return (volumes if explicit else batch) * tiles, {**told, **program(rays, split)}


def launch_forward(values, geometry, frames, image, sums, window, joseph, keep) -> None:
    from drrlib.projectors import triton_kernels

    row0, col0, rows, cols = window
    programs, told = layout(values.shape, image.shape, rows, cols)
    if programs == 0:
        return
    with _on(values.device):
        triton_kernels.forward[(programs,)](
            mu=values,
            geometry=geometry,
            frames=frames.contiguous(),
            image=image,
            sums=sums,
            row0=row0,
            col0=col0,
            rows=rows,
            cols=cols,
            JOSEPH=joseph,
            GRADIENT=keep,
            UNROLL=UNROLL,
            **told,
        )


def launch_adjoint(grad, whole, frames, scale, out, joseph, fixed) -> None:
    from drrlib.projectors import triton_adjoint

    programs, told = layout(out.shape, grad.shape, *grad.shape[1:])
    if programs == 0:
        return
    with _on(grad.device):
        triton_adjoint.adjoint[(programs,)](
            grad=grad,
            geometry=whole,
            frames=frames.contiguous(),
            scale=scale,
            out=out,
            JOSEPH=joseph,
            FIXED=fixed,
            **told,
        )


def reduce_sums(grad: Tensor, sums: Tensor) -> Tensor:
    """[b, 12] float64: `triton_adjoint.reduce`, then the rows of pixels of each pose."""
    batch, height, width = grad.shape
    if height * width == 1:  # one ray per pose: nothing to add
        source, target = (grad.unsqueeze(-1) * sums).double().reshape(batch, 6).split(3, dim=1)
        return torch.cat([source, target, 0.5 * target, 0.5 * target], dim=1)
    from drrlib.projectors import triton_adjoint

    out = torch.empty(batch, height, 12, dtype=torch.float64, device=grad.device)
    if batch:
        with _on(grad.device):
            triton_adjoint.reduce[(batch * height,)](
                grad=grad, sums=sums, out=out, height=height, width=width, **REDUCE
            )
    return out.sum(dim=1)
