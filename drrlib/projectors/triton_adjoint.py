"""CUDA kernels (Triton) of the backward pass: volume gradient, and sums over the pixels of a pose.

The volume gradient is the transpose of `triton_kernels.forward`, walked with the same slabs. Rays
of all programs meet in one voxel, so they add with atomics. Where the sum must not depend on
their order, it is one of integers: FIXED counts in units of 1 / scale.
"""

import triton.language as tl

from drrlib.projectors.triton_kernels import joseph_cell, joseph_weight, siddon_slab
from drrlib.projectors.triton_rays import ends, kernel, length_of, place, to_axes, trace


@kernel
def add(out, index, value, scale, mask, FIXED: tl.constexpr):
    """Add to voxels that other rays may be adding to."""
    if FIXED:
        value = tl.floor(value.to(tl.float64) * scale + 0.5).to(tl.int64)
    tl.atomic_add(out + index, value, mask=mask, sem="relaxed")


@kernel
def spread_slab(
    out, k, inside, value, scale, span, steps, line, JOSEPH: tl.constexpr, FIXED: tl.constexpr
):
    """Add value x weight to the voxels that slab k reads, in the flat padded array `out`."""
    value = tl.where(inside, value, 0.0)  # lengths past the end have no meaning
    if JOSEPH:
        _, i, wy, wz = joseph_cell(k, steps, line)
        weight = value * joseph_weight(k, span)
        add(out, i, weight * (1 - wy) * (1 - wz), scale, inside, FIXED)
        add(out, i + steps[2], weight * (1 - wy) * wz, scale, inside, FIXED)
        add(out, i + steps[1], weight * wy * (1 - wz), scale, inside, FIXED)
        add(out, i + steps[1] + steps[2], weight * wy * wz, scale, inside, FIXED)
    else:
        t0, ta, tb, t1, i0, i1, i2, _, _, cross_y, cross_z = siddon_slab(k, span, steps, line)
        add(out, i0, value * (ta - t0), scale, inside, FIXED)
        add(out, i1, value * (tb - ta), scale, inside & (cross_y | cross_z), FIXED)
        add(out, i2, value * (t1 - tb), scale, inside & cross_y & cross_z, FIXED)


@kernel
def adjoint(
    grad,
    geometry,
    frames,
    scale,
    out,
    own,
    stride,
    tiles,
    height,
    width,
    JOSEPH: tl.constexpr,
    FIXED: tl.constexpr,
    EXPLICIT: tl.constexpr,
    RAYS: tl.constexpr,
    LONG: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Volume gradient of a batch of images; one program per tile.

    Args:
        grad: image gradient [batch, height, width] float32.
        geometry: of the whole grid, not of its support: every voxel has a gradient.
        frames, own, stride, tiles, height, width, EXPLICIT: as in `triton_kernels.forward`.
        scale: [1] float64.
        out: padded array of each volume, flat, zero on entry; float32, with FIXED int64 in units
            of 1 / scale.
    """
    lane = tl.arange(0, RAYS * SPLIT)
    volume, pose, i, j, present = place(
        frames, own, tiles, 0, 0, height, width, lane % RAYS, EXPLICIT, RAYS, LONG
    )
    out += volume * stride
    s, d = ends(frames, geometry, pose, i, j)
    axes, first, last, span, _, steps, line = trace(s, d, geometry, JOSEPH)
    g = tl.load(grad + (pose * height * width + (i * width + j)), mask=present, other=0.0)
    hit = present & (first < last) & (g != 0.0)
    da, _, _ = to_axes(axes[0], axes[1], d[0], d[1], d[2])
    _, length = length_of(d, geometry)
    value = g * (length / tl.where(hit, tl.abs(da), 1.0)).to(tl.float32)
    last = tl.where(hit, last, first)
    unit = tl.load(scale)
    for step in range(0, tl.max(last - first), SPLIT):
        k = first + lane // RAYS + step
        spread_slab(out, k, k < last, value, unit, span, steps, line, JOSEPH, FIXED)


@kernel
def reduce(grad, sums, out, height, width, BLOCK: tl.constexpr):
    """Chain the image gradient [batch, height, width] through `sums` to the frames.

    One row of pixels is one program; out [batch, height, 12] float64 is added by the caller, in
    one order.
    """
    row = tl.program_id(0).to(tl.int64)
    s0, s1, s2, p0, p1, p2, c0, c1, c2 = (tl.zeros([BLOCK], tl.float32),) * 9
    for left in range(0, width, BLOCK):
        j = left + tl.arange(0, BLOCK)
        inside = j < width
        g = tl.load(grad + row * width + j, mask=inside, other=0.0)
        ray = sums + (row * width + j) * 6
        q0 = g * tl.load(ray + 3, mask=inside, other=0.0)
        q1 = g * tl.load(ray + 4, mask=inside, other=0.0)
        q2 = g * tl.load(ray + 5, mask=inside, other=0.0)
        s0 += g * tl.load(ray, mask=inside, other=0.0)
        s1 += g * tl.load(ray + 1, mask=inside, other=0.0)
        s2 += g * tl.load(ray + 2, mask=inside, other=0.0)
        column = j.to(tl.float32) + 0.5
        p0, p1, p2 = p0 + q0, p1 + q1, p2 + q2
        c0, c1, c2 = c0 + column * q0, c1 + column * q1, c2 + column * q2
    middle = (row % height).to(tl.float64) + 0.5
    out += row * 12
    tl.store(out, tl.sum(s0).to(tl.float64))
    tl.store(out + 1, tl.sum(s1).to(tl.float64))
    tl.store(out + 2, tl.sum(s2).to(tl.float64))
    tl.store(out + 6, tl.sum(c0).to(tl.float64))
    tl.store(out + 7, tl.sum(c1).to(tl.float64))
    tl.store(out + 8, tl.sum(c2).to(tl.float64))
    q0, q1, q2 = tl.sum(p0).to(tl.float64), tl.sum(p1).to(tl.float64), tl.sum(p2).to(tl.float64)
    tl.store(out + 3, q0)
    tl.store(out + 4, q1)
    tl.store(out + 5, q2)
    tl.store(out + 9, middle * q0)
    tl.store(out + 10, middle * q1)
    tl.store(out + 11, middle * q2)
