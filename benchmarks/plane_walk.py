"""Siddon from plane to plane: the other way to walk, kept here to be compared with drrlib's.

A ray keeps its voxel and the next plane of each axis; every turn goes on to the nearest of them.
Turns are counted before the loop, and what happens at a plane is chosen by selects, not branches.
One voxel is loaded in a turn, and each turn needs the one before it; drrlib's slabs need nothing
of each other. Everything before and after the loop is drrlib's own (`triton_kernels`).
"""

import torch
import triton.language as tl
from torch import Tensor

from drrlib.projectors import Grid, cuda_launch
from drrlib.projectors.triton_kernels import finish
from drrlib.projectors.triton_rays import ends, kernel, place, trace

LANES = (32, 1)  # rays of a program, and lanes for each: a warp that waits for no other


@kernel
def voxel_at(c0, m, t):
    """The voxel of a minor axis that holds position t; never below the layer of zeros."""
    return tl.maximum(tl.floor(c0 + m * t), 0.0)


@kernel
def forward(
    mu,
    geometry,
    frames,
    image,
    sums,
    own,
    stride,
    tiles,
    height,
    width,
    row0,
    col0,
    rows,
    cols,
    JOSEPH: tl.constexpr,
    GRADIENT: tl.constexpr,
    EXPLICIT: tl.constexpr,
    RAYS: tl.constexpr,
    LONG: tl.constexpr,
    SPLIT: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """As `triton_kernels.forward` with one lane for each ray: JOSEPH is False, SPLIT is 1."""
    volume, pose, i, j, present = place(
        frames, own, tiles, row0, col0, rows, cols, tl.arange(0, RAYS), EXPLICIT, RAYS, LONG
    )
    mu += volume * stride
    s, d = ends(frames, geometry, pose, i, j)
    axes, first, last, span, cut, steps, line = trace(s, d, geometry, False)
    last = tl.where(present, last, first)
    y0, my, iy, z0, mz, iz = line

    k, t, hi = first, span[0], span[1]
    y, z = voxel_at(y0, my, t), voxel_at(z0, mz, t)
    turns_y = tl.abs(voxel_at(y0, my, hi) - y).to(tl.int32)
    turns_z = tl.abs(voxel_at(z0, mz, hi) - z).to(tl.int32)
    turns = tl.where(first < last, last - first + turns_y + turns_z, 0)
    up_y, up_z = tl.where(my > 0, 1.0, -1.0), tl.where(mz > 0, 1.0, -1.0)
    step_y = tl.where(my > 0, steps[1], -steps[1])
    step_z = tl.where(mz > 0, steps[2], -steps[2])
    at = k * steps[0] + y.to(tl.int32) * steps[1] + z.to(tl.int32) * steps[2]
    # The next planes; an axis whose planes are all behind the ray's end has none.
    plane, far = k.to(tl.float32) + 1.0, float("inf")
    plane_y, plane_z = y + tl.where(my > 0, 1.0, 0.0), z + tl.where(mz > 0, 1.0, 0.0)
    value = tl.load(mu + at, mask=turns > 0, other=0.0).to(tl.float32)

    total = tl.zeros([RAYS], tl.float32)
    ay, by, az, bz = total, total, total, total
    for step in range(0, tl.max(turns), UNROLL):
        for u in tl.static_range(UNROLL):
            more = step + u + 1 < turns
            # From the plane's number, not by adding up: rounding must not grow along the ray.
            ty = tl.where(turns_y > 0, (plane_y - y0) * iy, far)
            tz = tl.where(turns_z > 0, (plane_z - z0) * iz, far)
            is_y = (ty <= tz) & (ty < plane)
            is_z = (ty > tz) & (tz < plane)
            to = tl.where(is_y, ty, tl.where(is_z, tz, plane))
            to = tl.minimum(tl.maximum(to, t), hi)
            total += value * (to - t)
            at += tl.where(is_y, step_y, tl.where(is_z, step_z, steps[0]))
            after = tl.load(mu + at, mask=more, other=0.0).to(tl.float32)
            if GRADIENT:
                jump = tl.where(more, value - after, 0.0)
                jump_y, jump_z = tl.where(is_y, jump, 0.0), tl.where(is_z, jump, 0.0)
                ay, by, az, bz = ay + jump_y, by + jump_y * to, az + jump_z, bz + jump_z * to
            plane_y += tl.where(is_y, up_y, 0.0)
            plane_z += tl.where(is_z, up_z, 0.0)
            turns_y -= is_y.to(tl.int32)
            turns_z -= is_z.to(tl.int32)
            plane += tl.where(is_y | is_z, 0.0, 1.0)
            value, t = tl.where(more, after, 0.0), to

    pixel, added = pose * height * width + (i * width + j), (total, ay, by, az, bz)
    finish(
        mu,
        geometry,
        image + pixel,
        sums + pixel * 6,
        present,
        added,
        s,
        d,
        axes,
        first,
        last,
        span,
        cut,
        steps,
        line,
        JOSEPH,
        GRADIENT,
        RAYS,
        SPLIT,
    )


def march(grid: Grid, frames: Tensor, height: int, width: int, keep: bool) -> tuple[Tensor, Tensor]:
    """As `cuda.march` with "siddon": images [b, h, w], and sums [b, h, w, 6] if `keep`."""
    padded = grid.padded()
    image = torch.empty(len(frames), height, width, device=frames.device)
    kept = (height, width) if keep else (0, 0)
    sums = torch.empty(len(frames), *kept, 6, device=frames.device)
    programs, told = cuda_launch.layout(padded.values.shape, image.shape, height, width, LANES)
    forward[(programs,)](
        mu=padded.values,
        geometry=padded.geometry,
        frames=frames,
        image=image,
        sums=sums,
        row0=0,
        col0=0,
        rows=height,
        cols=width,
        JOSEPH=False,
        GRADIENT=keep,
        UNROLL=cuda_launch.UNROLL,
        **told,
    )
    return image, sums
