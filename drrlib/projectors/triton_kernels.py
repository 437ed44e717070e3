"""CUDA kernels (Triton): one march per ray gives the line integral and its endpoint gradients.

The derivation, the steps and the names are those of `cpu_kernels.py`; to be read beside it.
What differs:

- A program takes RAYS rays, neighbours on the detector, and SPLIT lanes for each of them: lane
  l walks the slabs first + l, first + l + SPLIT, ... Slabs are independent, so a short launch
  fills the GPU without a second kernel; the lanes of a ray are added at the end, in one order.
- The number of slabs is known before the loop: one maximum over the program, none in the loop.
  A lane that is done, and a crossing that a slab does not have, load nothing.
- Positions, and the line over its dominant axis, are computed in float64 and then rounded, as on
  the CPU; the rest is float32, also where the volume is float16 or bfloat16. A bfloat16 is only
  ever loaded and widened, which is a shift: GPUs without bfloat16 arithmetic (sm_75) can do it.
- Joseph's cut slabs are in the same loop as the whole ones, with their weight.

What comes before the march, and `geometry`, is in `triton_rays.py`.
"""

import triton.language as tl

from drrlib.projectors.triton_rays import (
    ends,
    from_axes,
    kernel,
    length_of,
    nothing,
    place,
    to_axes,
    trace,
)


@kernel
def siddon_slab(k, span, steps, line):
    """Siddon steps 2-4 in slab k, cut to t in [lo, hi].

    Returns t at the slab's start, at its first and second crossing and at its end; the flat
    indices of the three voxels between them; the crossings in y and in z, and whether they are.
    """
    y0, my, iy, z0, mz, iz = line
    t0, t1 = k.to(tl.float32), k.to(tl.float32) + 1.0
    t0, t1 = tl.maximum(t0, span[0]), tl.minimum(t1, span[1])
    # Rounding must not step below the layer of zeros.
    y, y_end = tl.maximum(tl.floor(y0 + my * t0), 0.0), tl.maximum(tl.floor(y0 + my * t1), 0.0)
    z, z_end = tl.maximum(tl.floor(z0 + mz * t0), 0.0), tl.maximum(tl.floor(z0 + mz * t1), 0.0)
    # Step 2: where the slab's y plane and z plane are crossed; its end if they are not.
    ty = ((y + tl.where(my > 0, 1.0, 0.0)) - y0) * iy
    tz = ((z + tl.where(mz > 0, 1.0, 0.0)) - z0) * iz
    cross_y, cross_z = y != y_end, z != z_end
    ty = tl.where(cross_y, tl.minimum(tl.maximum(ty, t0), t1), t1)
    tz = tl.where(cross_z, tl.minimum(tl.maximum(tz, t0), t1), t1)
    dy = tl.where(cross_y, tl.where(my > 0, steps[1], -steps[1]), 0)
    dz = tl.where(cross_z, tl.where(mz > 0, steps[2], -steps[2]), 0)
    # Steps 3 and 4: the nearer plane first.
    y_first = ty < tz
    ta, tb = tl.minimum(ty, tz), tl.maximum(ty, tz)
    i0 = k * steps[0] + y.to(tl.int32) * steps[1] + z.to(tl.int32) * steps[2]
    i1 = i0 + tl.where(y_first, dy, dz)
    i2 = i0 + (dy + dz)
    return t0, ta, tb, t1, i0, i1, i2, ty, tz, cross_y, cross_z


@kernel
def siddon_sums(mu, k, inside, span, steps, line):
    """Step 5 in slab k: what it adds to (S, Ay, By, Az, Bz)."""
    t0, ta, tb, t1, i0, i1, i2, ty, tz, cross_y, cross_z = siddon_slab(k, span, steps, line)
    once, both = inside & (cross_y | cross_z), inside & cross_y & cross_z
    v0 = tl.load(mu + i0, mask=inside, other=0.0).to(tl.float32)
    v1 = tl.load(mu + i1, mask=once).to(tl.float32)
    v2 = tl.load(mu + i2, mask=both).to(tl.float32)
    v1 = tl.where(once, v1, v0)
    v2 = tl.where(both, v2, v1)
    total = v0 * (ta - t0) + v1 * (tb - ta) + v2 * (t1 - tb)
    e0, e1 = v0 - v1, v1 - v2
    ey, ez = tl.where(ty < tz, e0, e1), tl.where(ty < tz, e1, e0)
    return total, ey, ey * ty, ez, ez * tz


@kernel
def joseph_cell(k, steps, line):
    """Joseph step 2 in slab k: t, flat index of the lowest of four voxels, weights in y, z."""
    y0, my, _, z0, mz, _ = line
    t = k.to(tl.float32) + 0.5
    # Rounding must not step below the layer of zeros.
    y, z = tl.maximum(y0 + my * t - 0.5, 0.0), tl.maximum(z0 + mz * t - 0.5, 0.0)
    jy, jz = tl.floor(y), tl.floor(z)
    index = k * steps[0] + jy.to(tl.int32) * steps[1] + jz.to(tl.int32) * steps[2]
    return t, index, y - jy, z - jz


@kernel
def joseph_weight(k, span):
    """How much of slab k lies between the ends of the segment (step 3)."""
    t0, t1 = k.to(tl.float32), k.to(tl.float32) + 1.0
    return tl.maximum(tl.minimum(t1, span[1]) - tl.maximum(t0, span[0]), 0.0)


@kernel
def joseph_sample(mu, k, inside, steps, line):
    """The sample of slab k, its slopes in y and z, and t."""
    t, i, wy, wz = joseph_cell(k, steps, line)
    v00 = tl.load(mu + i, mask=inside, other=0.0).to(tl.float32)
    v01 = tl.load(mu + (i + steps[2]), mask=inside, other=0.0).to(tl.float32)
    v10 = tl.load(mu + (i + steps[1]), mask=inside, other=0.0).to(tl.float32)
    v11 = tl.load(mu + (i + steps[1] + steps[2]), mask=inside, other=0.0).to(tl.float32)
    low, high = v00 + wz * (v01 - v00), v10 + wz * (v11 - v10)
    slope_y = high - low
    slope_z = (v01 - v00) + wy * ((v11 - v10) - (v01 - v00))
    return low + wy * slope_y, slope_y, slope_z, t


@kernel
def joseph_sums(mu, k, inside, span, steps, line):
    """What slab k adds to (S, Ay, By, Az, Bz), slopes in the place of Siddon's jumps."""
    sample, slope_y, slope_z, t = joseph_sample(mu, k, inside, steps, line)
    weight = joseph_weight(k, span)
    ey, ez = weight * slope_y, weight * slope_z
    return weight * sample, ey, ey * t, ez, ez * t


@kernel
def at_ends(mu, first, last, span, cut, steps, line, JOSEPH: tl.constexpr):
    """Attenuation at the low and the high end of the segment, zero outside the grid."""
    low, high = cut[0] & (first < last), cut[1] & (first < last)
    if JOSEPH:
        low_value, _, _, _ = joseph_sample(mu, first, low, steps, line)
        high_value, _, _, _ = joseph_sample(mu, last - 1, high, steps, line)
    else:
        _, _, _, _, i, _, _, _, _, _, _ = siddon_slab(first, span, steps, line)
        low_value = tl.load(mu + i, mask=low, other=0.0).to(tl.float32)
        _, _, _, _, _, _, i, _, _, _, _ = siddon_slab(last - 1, span, steps, line)
        high_value = tl.load(mu + i, mask=high, other=0.0).to(tl.float32)
    return low_value, high_value


@kernel
def add_lanes(x, RAYS: tl.constexpr, SPLIT: tl.constexpr):
    """The sum over the lanes of each ray, given to all of them."""
    if SPLIT > 1:
        total = tl.sum(tl.reshape(x, [SPLIT, RAYS]), axis=0)
        x = tl.reshape(tl.broadcast_to(total[None, :], [SPLIT, RAYS]), [SPLIT * RAYS])
    return x


@kernel
def finish(
    mu,
    geometry,
    image,
    sums,
    keep,
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
    JOSEPH: tl.constexpr,
    GRADIENT: tl.constexpr,
    RAYS: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Store the value of each ray, and its endpoint gradients, from what its lanes added up.

    Args:
        image, sums: where the pixel of each lane is.
        keep: lanes that store.
        added: (S, Ay, By, Az, Bz).
    """
    total, ay, by, az, bz = added
    da, db, dc = to_axes(axes[0], axes[1], d[0], d[1], d[2])
    g, length = length_of(d, geometry)
    hit, miss = first < last, nothing(s, d).to(tl.float32)
    da, length = tl.where(hit, da, 1.0).to(tl.float32), tl.where(hit, length, 1.0).to(tl.float32)
    integral = add_lanes(total, RAYS, SPLIT) / tl.abs(da)
    tl.store(image, tl.where(hit, length * integral, miss), mask=keep)
    if GRADIENT:
        ay, by = add_lanes(ay, RAYS, SPLIT), add_lanes(by, RAYS, SPLIT)
        az, bz = add_lanes(az, RAYS, SPLIT), add_lanes(bz, RAYS, SPLIT)
        low_value, high_value = at_ends(mu, first, last, span, cut, steps, line, JOSEPH)
        at_source = tl.where(da > 0, low_value, high_value)
        at_target = tl.where(da > 0, high_value, low_value)
        # Minor axes from the sums, the dominant one from the two identities.
        sa, _, _ = to_axes(axes[0], axes[1], s[0], s[1], s[2])
        sa, db, dc = sa.to(tl.float32), db.to(tl.float32), dc.to(tl.float32)
        scale = 1.0 / tl.abs(da)
        if JOSEPH:
            ky, kz = scale, scale
        else:
            ky, kz = -scale * line[2], -scale * line[5]
        py, pz = ky * (by - sa * ay) / da, kz * (bz - sa * az) / da
        sy, sz = ky * ay - py, kz * az - pz
        inside_s = (integral - at_source - db * sy - dc * sz) / da
        inside_p = (at_target - integral - db * py - dc * pz) / da
        s0, s1, s2 = from_axes(axes[0], axes[1], inside_s, sy, sz)
        p0, p1, p2 = from_axes(axes[0], axes[1], inside_p, py, pz)
        # E = L I
        g0, g1, g2 = g[0].to(tl.float32), g[1].to(tl.float32), g[2].to(tl.float32)
        stretch = integral / length
        tl.store(sums, tl.where(hit, length * s0 - stretch * g0, miss), mask=keep)
        tl.store(sums + 1, tl.where(hit, length * s1 - stretch * g1, miss), mask=keep)
        tl.store(sums + 2, tl.where(hit, length * s2 - stretch * g2, miss), mask=keep)
        tl.store(sums + 3, tl.where(hit, length * p0 + stretch * g0, miss), mask=keep)
        tl.store(sums + 4, tl.where(hit, length * p1 + stretch * g1, miss), mask=keep)
        tl.store(sums + 5, tl.where(hit, length * p2 + stretch * g2, miss), mask=keep)


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
    """Render a window of the detectors, and keep the endpoint gradients; one program per tile.

    Args:
        mu: padded values of each volume, flat; float32, float16 or bfloat16.
        geometry: see the top of this file.
        frames: source, corner, column step, row step per pose [batch, 12], float64.
        image: [batch, height, width] float32, written inside the window.
        sums: [batch, height, width, 6] float32 for dE/dsource, dE/dtarget; untouched without
            GRADIENT.
        own: poses of each volume, one volume after the other.
        stride: values of a volume.
        tiles: tiles of a pose; a pose that needs fewer finds the rest empty.
        row0, col0, rows, cols: the window.
        EXPLICIT: detectors are single pixels; a program takes those of RAYS poses of a volume, and
            tiles are programs of a volume.
    """
    lane = tl.arange(0, RAYS * SPLIT)
    slab = lane // RAYS
    volume, pose, i, j, present = place(
        frames, own, tiles, row0, col0, rows, cols, lane % RAYS, EXPLICIT, RAYS, LONG
    )
    mu += volume * stride
    s, d = ends(frames, geometry, pose, i, j)
    axes, first, last, span, cut, steps, line = trace(s, d, geometry, JOSEPH)
    last = tl.where(present, last, first)

    total = tl.zeros([RAYS * SPLIT], tl.float32)
    ay, by, az, bz = total, total, total, total
    for step in range(0, tl.max(last - first), SPLIT * UNROLL):
        for u in tl.static_range(UNROLL):
            k = first + slab + (step + u * SPLIT)
            if JOSEPH:
                t, a, b, c, e = joseph_sums(mu, k, k < last, span, steps, line)
            else:
                t, a, b, c, e = siddon_sums(mu, k, k < last, span, steps, line)
            total += t
            if GRADIENT:
                ay, by, az, bz = ay + a, by + b, az + c, bz + e

    pixel, added = pose * height * width + (i * width + j), (total, ay, by, az, bz)
    finish(
        mu,
        geometry,
        image + pixel,
        sums + pixel * 6,
        present & (slab == 0),
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
