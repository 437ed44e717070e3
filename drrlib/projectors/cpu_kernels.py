"""CPU kernels (Numba): one march per ray gives the line integral and its endpoint gradients.

Steps and symbols are those of `reference.py`; what differs is how they are walked.

A ray is written over the coordinate t of its dominant axis a: the two other coordinates are
y(t) = y0 + my t and z(t) = z0 + mz t with |my|, |mz| <= 1. In the slab t in [k, k + 1] it
crosses at most one plane of each, so a slab has up to three segments and needs nothing from
the slab before it: no sorted list, no running state, and the loop over k is a plain sum that
the compiler turns into vector instructions.

Coordinates are those of the padded array (`grid.Padded`): its voxel i fills [i, i + 1), and
the voxels of the grid are 1 .. n.

Gradient. With I = sum V_k (t_{k+1} - t_k) / |D_a| and a crossing of a y plane at t_m from
V- to V+, dI/dt_m = (V- - V+) / |D_a| and moving the line by dy at t_m moves t_m by -dy / my.
So four sums, A = sum (V- - V+) and B = sum (V- - V+) t_m for y and for z, hold the gradient
of the two minor axes; for Joseph they are sums of the slopes of the bilinear interpolation.
The dominant axis follows without a sum of its own: shifting the source along the ray changes
only the length of the segment, hence D . dI/ds = I - V(s) and D . dI/dp = V(p) - I, where
V(s) and V(p) are the attenuation at the ends (zero outside the grid).
"""

import numpy as np
from numba import prange

from drrlib.compiled import kernel

f32, i32, u32 = np.float32, np.int32, np.uint32


# Rays are walked in tiles of 16 along the image axis that follows the contiguous voxel axis:
# neighbours then find their voxels in the first-level cache.
TILE_LONG, TILE_SHORT = 16, 2


@kernel
def slab_range(lo, hi, start, end, joseph):
    """Slabs, where to cut them, and at which ends, of a segment start .. end in a grid lo .. hi.

    Siddon walks every slab that holds a part of both; Joseph those that hold a part of the segment
    and whose middle, where the sample is taken, lies in the grid. The segment alone cuts a slab:
    what sticks out of the grid elsewhere reads zeros.
    """
    if joseph:
        low = max(np.ceil(lo - 0.5), np.floor(start))
        high = min(np.floor(hi - 0.5) + 1.0, np.ceil(end))
        hit, cut = low < high and start < end, (start >= low, end <= high)
    else:
        low, high = np.floor(max(lo, start)), np.ceil(min(hi, end))
        hit, cut = max(lo, start) < min(hi, end), (start > lo, end < hi)
    slabs = (int(low), int(high)) if hit else (1, 1)
    return slabs, (max(low, start), min(high, end)), cut


@kernel
def trace(s, d, count, joseph):
    """The ray over its dominant axis, and the slabs that it walks.

    Returns (a, b, c) the axes, dominant first (Joseph step 1); the slabs first .. last - 1, none
    where the ray misses; (lo, hi), where the segment cuts the first and the last of them, NaN
    where its ends are not finite; whether it ends there; and the line (y0, my, 1/my, z0, mz,
    1/mz), with 0 for the inverse of a slope of 0.
    """
    size0, size1, size2 = abs(d[0]), abs(d[1]), abs(d[2])
    a, b, c = 2, 0, 1
    if size0 >= size1 and size0 >= size2:
        a, b, c = 0, 1, 2
    elif size1 >= size2:
        a, b, c = 1, 0, 2
    da = d[a] if d[a] != 0.0 else np.nan
    my, mz = d[b] / da, d[c] / da
    # A slope whose inverse overflows float32 moves the ray by nothing.
    my, mz = my if abs(my) > 1e-30 else 0.0, mz if abs(mz) > 1e-30 else 0.0
    y0, z0 = s[b] - s[a] * my, s[c] - s[a] * mz
    iy = 1.0 / my if my != 0.0 else 0.0
    iz = 1.0 / mz if mz != 0.0 else 0.0
    lo, hi = 1.0, count[a] + 1.0
    margin = 0.5 if joseph else 0.0  # by so much samples reach beyond the grid [voxel]
    for c0, m, inverse, n in ((y0, my, iy, count[b]), (z0, mz, iz, count[c])):
        below, above = 1.0 - margin, n + 1.0 + margin
        if m != 0.0:
            ta, tb = (below - c0) * inverse, (above - c0) * inverse
            lo, hi = max(lo, min(ta, tb)), min(hi, max(ta, tb))
        elif c0 < below or c0 >= above:
            hi = lo
    line = (f32(y0), f32(my), f32(iy), f32(z0), f32(mz), f32(iz))
    start, end = min(s[a], s[a] + d[a]), max(s[a], s[a] + d[a])
    slabs, span, cut = slab_range(lo, hi, start, end, joseph)
    if not abs(d[a]) > 1e-100:
        slabs = (1, 1)
    if not abs(s[0] + s[1] + s[2]) + size0 + size1 + size2 < 1e100:
        slabs, span = (1, 1), (np.nan, np.nan)
    return (a, b, c), slabs, span, cut, line


@kernel
def siddon_slab(k, lo, hi, steps, line):
    """Siddon steps 2-4 in slab k, cut to t in [lo, hi].

    Returns t at the slab's start, at its first and second crossing and at its end; the flat
    indices of the three voxels between them; the crossings in y and in z.
    """
    sa, sb, sc = steps
    y0, my, iy, z0, mz, iz = line
    t0, t1 = f32(k), f32(k) + f32(1)
    t0 = t0 if t0 > lo else lo
    t1 = t1 if t1 < hi else hi
    # Rounding must not step below the layer of zeros.
    y, y_end = max(np.floor(y0 + my * t0), f32(0)), max(np.floor(y0 + my * t1), f32(0))
    z, z_end = max(np.floor(z0 + mz * t0), f32(0)), max(np.floor(z0 + mz * t1), f32(0))
    # Step 2: where the slab's y plane and z plane are crossed; its end if they are not.
    ty = ((y + (f32(1) if my > 0 else f32(0))) - y0) * iy
    tz = ((z + (f32(1) if mz > 0 else f32(0))) - z0) * iz
    ty = ty if ty > t0 else t0
    ty = ty if ty < t1 else t1
    tz = tz if tz > t0 else t0
    tz = tz if tz < t1 else t1
    same_y, same_z = y == y_end, z == z_end
    ty = t1 if same_y else ty
    tz = t1 if same_z else tz
    dy = i32(0) if same_y else (sb if my > 0 else i32(-sb))
    dz = i32(0) if same_z else (sc if mz > 0 else i32(-sc))
    # Steps 3 and 4: the nearer plane first.
    y_first = ty < tz
    ta = ty if y_first else tz
    tb = tz if y_first else ty
    i0 = i32(i32(k * sa) + i32(i32(i32(y) * sb) + i32(i32(z) * sc)))
    i1 = i32(i0 + (dy if y_first else dz))
    i2 = i32(i0 + i32(dy + dz))
    return t0, ta, tb, t1, u32(i0), u32(i1), u32(i2), ty, tz


@kernel
def siddon_slabs(mu, first, last, lo, hi, steps, line):
    """Step 5 over slabs first .. last - 1: (S, Ay, By, Az, Bz)."""
    total = f32(0)
    ay, by, az, bz = f32(0), f32(0), f32(0), f32(0)
    for k in range(first, last):
        t0, ta, tb, t1, i0, i1, i2, ty, tz = siddon_slab(i32(k), lo, hi, steps, line)
        v0, v1, v2 = mu[i0], mu[i1], mu[i2]
        total += v0 * (ta - t0) + v1 * (tb - ta) + v2 * (t1 - tb)
        e0, e1 = v0 - v1, v1 - v2
        ey = e0 if ty < tz else e1
        ez = e1 if ty < tz else e0
        ay += ey
        by += ey * ty
        az += ez
        bz += ez * tz
    return total, ay, by, az, bz


@kernel
def siddon_ray(mu, slabs, span, cut, steps, line):
    """The five sums of one ray and the attenuation at its two ends."""
    first, last = slabs
    lo, hi = f32(span[0]), f32(span[1])
    total, ay, by, az, bz = siddon_slabs(mu, first, last, lo, hi, steps, line)
    low_value, high_value = f32(0), f32(0)
    if cut[0]:
        low_value = mu[siddon_slab(i32(first), lo, hi, steps, line)[4]]
    if cut[1]:
        high_value = mu[siddon_slab(i32(last - 1), lo, hi, steps, line)[6]]
    return total, ay, by, az, bz, low_value, high_value


@kernel
def joseph_cell(k, steps, line):
    """Joseph step 2 in slab k: t, flat index of the lowest of four voxels, weights in y, z."""
    sa, sb, sc = steps
    y0, my, _, z0, mz, _ = line
    t = f32(k) + f32(0.5)
    y, z = y0 + my * t - f32(0.5), z0 + mz * t - f32(0.5)
    y = y if y > f32(0) else f32(0)  # rounding must not step below the layer of zeros
    z = z if z > f32(0) else f32(0)
    jy, jz = np.floor(y), np.floor(z)
    index = i32(i32(k * sa) + i32(i32(i32(jy) * sb) + i32(i32(jz) * sc)))
    return t, index, y - jy, z - jz


@kernel
def joseph_slabs(mu, first, last, steps, line):
    """Slabs first .. last - 1: (S, Ay, By, Az, Bz), slopes in the place of Siddon's jumps."""
    total = f32(0)
    ay, by, az, bz = f32(0), f32(0), f32(0), f32(0)
    sb, sc = steps[1], steps[2]
    for k in range(first, last):
        t, i, wy, wz = joseph_cell(i32(k), steps, line)
        v00, v01 = mu[u32(i)], mu[u32(i32(i + sc))]
        v10, v11 = mu[u32(i32(i + sb))], mu[u32(i32(i32(i + sb) + sc))]
        low, high = v00 + wz * (v01 - v00), v10 + wz * (v11 - v10)
        slope_y = high - low
        slope_z = (v01 - v00) + wy * ((v11 - v10) - (v01 - v00))
        total += low + wy * slope_y
        ay += slope_y
        by += slope_y * t
        az += slope_z
        bz += slope_z * t
    return total, ay, by, az, bz


@kernel
def joseph_weight(k, span):
    """How much of slab k lies between the ends of the segment (step 3)."""
    return min(k + 1.0, span[1]) - max(float(k), span[0])


@kernel
def joseph_ray(mu, slabs, span, cut, steps, line):
    """The five sums of one ray and the samples in the slabs that hold its two ends.

    The first and the last slab, where they are cut, are added beside the loop over whole ones.
    """
    first, last = slabs
    cut_low, cut_high = span[0] > first, span[1] < last
    whole = (first + 1 if cut_low else first, last - 1 if cut_high else last)
    total, ay, by, az, bz = joseph_slabs(mu, whole[0], whole[1], steps, line)
    low_value, high_value = f32(0), f32(0)
    if cut[0]:
        low_value, a, b, c, e = joseph_slabs(mu, first, first + 1, steps, line)
        weight = f32(joseph_weight(first, span) if cut_low else 0.0)
        total, ay, by = total + weight * low_value, ay + weight * a, by + weight * b
        az, bz = az + weight * c, bz + weight * e
    if cut[1]:
        high_value, a, b, c, e = joseph_slabs(mu, last - 1, last, steps, line)
        added = cut_low and last - 1 == first  # one slab holds both ends
        weight = f32(joseph_weight(last - 1, span) if cut_high and not added else 0.0)
        total, ay, by = total + weight * high_value, ay + weight * a, by + weight * b
        az, bz = az + weight * c, bz + weight * e
    return total, ay, by, az, bz, low_value, high_value


@kernel
def march(mu, strides, count, joseph, s, d, metric, sums):
    """Line integral E of one ray, and dE/ds, dE/dp in `sums` [6] (voxel coordinates).

    Args: mu flat padded values; strides, count [3]; s, d source and direction [3].
    """
    axes, slabs, span, cut, line = trace(s, d, count, joseph)
    if slabs[0] >= slabs[1]:
        nothing = 0.0 if span[0] == span[0] else np.nan
        sums[:] = nothing
        return nothing
    a, b, c = axes
    da = d[a]
    steps = (i32(strides[a]), i32(strides[b]), i32(strides[c]))
    if joseph:
        total, ay, by, az, bz, low_value, high_value = joseph_ray(mu, slabs, span, cut, steps, line)
        ky, kz = 1.0, 1.0
    else:
        total, ay, by, az, bz, low_value, high_value = siddon_ray(mu, slabs, span, cut, steps, line)
        ky, kz = -line[2], -line[5]
    at_source, at_target = (low_value, high_value) if da > 0 else (high_value, low_value)
    # Minor axes from the sums, the dominant one from the two identities.
    scale = 1.0 / abs(da)
    integral = total * scale
    py = scale * ky * (by - s[a] * ay) / da
    pz = scale * kz * (bz - s[a] * az) / da
    sy, sz = scale * ky * ay - py, scale * kz * az - pz
    length, inside = 0.0, np.empty(6)
    inside[a] = (integral - at_source - d[b] * sy - d[c] * sz) / da
    inside[b], inside[c] = sy, sz
    inside[3 + a] = (at_target - integral - d[b] * py - d[c] * pz) / da
    inside[3 + b], inside[3 + c] = py, pz
    # E = L I
    for i in range(3):
        g = metric[i, 0] * d[0] + metric[i, 1] * d[1] + metric[i, 2] * d[2]
        length += d[i] * g
        sums[i], sums[3 + i] = -integral * g, integral * g
    length = np.sqrt(length)
    for i in range(6):
        sums[i] = sums[i] / length + length * inside[i]
    return length * integral


@kernel(parallel=True)
def forward(mu, count, frames, metric, joseph, window, image, sums, by_rows):
    """Render a window of the detectors, and keep the endpoint gradients.

    Args:
        mu: padded values [x, y, z], float32.
        count: voxels inside the padding [3].
        frames: source, corner, column step, row step per pose [b, 12], padded coordinates.
        metric: [3, 3] squared world length [mm2] of a voxel-coordinate step.
        joseph: method.
        window: first row, first column, rows, columns.
        image: [b, h, w] float32, written inside the window.
        sums: [b, h, w, 6] float32 for dE/dsource, dE/dtarget; [b, 0, 0, 6] to leave them out.
        by_rows: [b] whether rows (else columns) follow the contiguous voxel axis.
    """
    row0, col0, rows, cols = window
    strides = np.array([mu.shape[1] * mu.shape[2], mu.shape[2], 1])
    flat = mu.ravel()
    upright = -(-rows // TILE_LONG) * -(-cols // TILE_SHORT)
    lying = -(-rows // TILE_SHORT) * -(-cols // TILE_LONG)
    tiles = max(upright, lying)  # a pose that needs fewer finds the rest empty
    keep = sums.shape[1] > 0
    for task in prange(frames.shape[0] * tiles):
        pose, tile = task // tiles, task % tiles
        frame = frames[pose]
        high, wide = (TILE_LONG, TILE_SHORT) if by_rows[pose] else (TILE_SHORT, TILE_LONG)
        across = -(-cols // wide)
        top, left = (tile // across) * high, (tile % across) * wide
        d, ray = np.empty(3), np.empty(6)
        for j in range(col0 + left, col0 + min(left + wide, cols)):
            for i in range(row0 + top, row0 + min(top + high, rows)):
                for q in range(3):
                    column, row = (j + 0.5) * frame[6 + q], (i + 0.5) * frame[9 + q]
                    d[q] = frame[3 + q] + column + row - frame[q]
                image[pose, i, j] = march(flat, strides, count, joseph, frame, d, metric, ray)
                if keep:
                    for q in range(6):
                        sums[pose, i, j, q] = ray[q]


@kernel(parallel=True)
def reduce(grad, sums, out):
    """Chain the image gradient [b, h, w] through `sums` to the frames: out [b, h, 12].

    One row of pixels is one sum in float64, so the result never depends on the thread count.
    """
    height, width = grad.shape[1], grad.shape[2]
    for task in prange(grad.shape[0] * height):
        pose, i = task // height, task % height
        row = np.zeros(12)
        for j in range(width):
            g = np.float64(grad[pose, i, j])
            for q in range(3):
                at_target = g * sums[pose, i, j, 3 + q]
                row[q] += g * sums[pose, i, j, q]
                row[3 + q] += at_target
                row[6 + q] += (j + 0.5) * at_target
        for q in range(3):
            row[9 + q] = (i + 0.5) * row[3 + q]
        out[pose, i] = row
