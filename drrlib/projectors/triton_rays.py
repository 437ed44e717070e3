"""CUDA kernels (Triton) before the march: a program's rays, and how they lie in the grid.

Steps and names are those of `cpu_kernels.py`. `geometry` holds 15 float64 numbers: lower [3],
count [3], metric [3, 3] of `grid.Padded`.
"""

import inspect

import triton
import triton.language as tl

# Not worth a kernel of their own for values of 1 or multiples of 16.
SIZES = ("own", "stride", "tiles", "height", "width", "row0", "col0", "rows", "cols")


def kernel(function):
    """Compile for the GPU; the shape-checking wrapper of tests is taken off first."""
    function = inspect.unwrap(function)
    sizes = [name for name in SIZES if name in inspect.signature(function).parameters]
    return triton.jit(function, do_not_specialize=sizes)


@kernel
def to_axes(a0, a1, x0, x1, x2):
    """(xa, xb, xc), the dominant axis first; a0, a1 say whether it is x, y."""
    return tl.where(a0, x0, tl.where(a1, x1, x2)), tl.where(a0, x1, x0), tl.where(a0 | a1, x2, x1)


@kernel
def from_axes(a0, a1, xa, xb, xc):
    """(x0, x1, x2) again."""
    return tl.where(a0, xa, xb), tl.where(a0, xb, tl.where(a1, xa, xc)), tl.where(a0 | a1, xc, xa)


@kernel
def place(
    frames,
    own,
    tiles,
    row0,
    col0,
    rows,
    cols,
    ray,
    EXPLICIT: tl.constexpr,
    RAYS: tl.constexpr,
    LONG: tl.constexpr,
):
    """Volume of this program; pose, row and column of its rays, and whether there is such a pixel.

    A tile has LONG x RAYS / LONG pixels of one pose. Its long side, along which rays are counted,
    follows the contiguous voxel axis, so that neighbours find their voxels in one cache line.
    """
    tile = tl.program_id(0) % tiles
    if EXPLICIT:
        volume = (tl.program_id(0) // tiles).to(tl.int64)
        pose = tile.to(tl.int64) * RAYS + ray
        i, j, present = ray * 0, ray * 0, pose < own
        pose = volume * own + tl.minimum(pose, own - 1)
    else:
        SHORT: tl.constexpr = RAYS // LONG
        pose = (tl.program_id(0) // tiles).to(tl.int64)
        volume = pose // own
        frame = frames + pose * 12
        by_rows = tl.abs(tl.load(frame + 11)) >= tl.abs(tl.load(frame + 8))
        high, wide = tl.where(by_rows, LONG, SHORT), tl.where(by_rows, SHORT, LONG)
        across = (cols + wide - 1) // wide
        along, beside = ray % LONG, ray // LONG
        i = (tile // across) * high + tl.where(by_rows, along, beside)
        j = (tile % across) * wide + tl.where(by_rows, beside, along)
        present = (i < rows) & (j < cols)
        i, j = row0 + i, col0 + j
    return volume, pose, i, j, present


@kernel
def ends(frames, geometry, pose, i, j):
    """Source s and direction d in padded coordinates, float64; step 1."""
    frame = frames + pose * 12
    s0, s1, s2 = tl.load(frame), tl.load(frame + 1), tl.load(frame + 2)
    column, row = j.to(tl.float64) + 0.5, i.to(tl.float64) + 0.5
    d0 = column * tl.load(frame + 6) + row * tl.load(frame + 9) + (tl.load(frame + 3) - s0)
    d1 = column * tl.load(frame + 7) + row * tl.load(frame + 10) + (tl.load(frame + 4) - s1)
    d2 = column * tl.load(frame + 8) + row * tl.load(frame + 11) + (tl.load(frame + 5) - s2)
    s0 = s0 + (1.5 - tl.load(geometry))
    s1 = s1 + (1.5 - tl.load(geometry + 1))
    s2 = s2 + (1.5 - tl.load(geometry + 2))
    return (s0, s1, s2), (d0, d1, d2)


@kernel
def nothing(s, d):
    """What a ray that reads no voxel has: 0, and NaN where it has no finite place."""
    size = tl.abs(s[0] + s[1] + s[2]) + tl.abs(d[0]) + tl.abs(d[1]) + tl.abs(d[2])
    return tl.where(size < 1e100, 0.0, float("nan"))


@kernel
def clip(lo, hi, c0, m, inverse, below, above):
    """The part of [lo, hi] where c0 + m t lies between two planes."""
    ta, tb = (below - c0) * inverse, (above - c0) * inverse
    beside = (c0 < below) | (c0 >= above)
    crossing = m != 0.0
    low = tl.where(crossing, tl.maximum(lo, tl.minimum(ta, tb)), lo)
    high = tl.where(crossing, tl.minimum(hi, tl.maximum(ta, tb)), tl.where(beside, lo, hi))
    return low, high


@kernel
def trace(s, d, geometry, JOSEPH: tl.constexpr):
    """The ray over its dominant axis, and the slabs that it walks; Joseph step 1.

    Returns: the dominant axis (is it x, is it y); the slabs first .. last - 1, none where the
    ray misses; lo, hi, where the segment cuts them, and whether it ends there; the strides of
    the three axes, dominant first; the line (y0, my, 1/my, z0, mz, 1/mz), with 0 for the inverse
    of a slope of 0.
    """
    size0, size1, size2 = tl.abs(d[0]), tl.abs(d[1]), tl.abs(d[2])
    a0 = (size0 >= size1) & (size0 >= size2)
    a1 = (a0 == 0) & (size1 >= size2)
    n0 = tl.load(geometry + 3).to(tl.int32)
    n1 = tl.load(geometry + 4).to(tl.int32)
    n2 = tl.load(geometry + 5).to(tl.int32)
    na, nb, nc = to_axes(a0, a1, n0, n1, n2)
    steps = to_axes(a0, a1, (n1 + 3) * (n2 + 3), n2 + 3, 1)
    sa, sb, sc = to_axes(a0, a1, s[0], s[1], s[2])
    da, db, dc = to_axes(a0, a1, d[0], d[1], d[2])
    inverse = 1.0 / tl.where(da != 0.0, da, 1.0)
    slope_y, slope_z = db * inverse, dc * inverse
    # A slope whose inverse overflows float32 moves the ray by nothing.
    slope_y = tl.where(tl.abs(slope_y) > 1e-30, slope_y, 0.0)
    slope_z = tl.where(tl.abs(slope_z) > 1e-30, slope_z, 0.0)
    y0, my = (sb - sa * slope_y).to(tl.float32), slope_y.to(tl.float32)
    z0, mz = (sc - sa * slope_z).to(tl.float32), slope_z.to(tl.float32)
    iy = tl.where(my != 0.0, 1.0 / my, 0.0)
    iz = tl.where(mz != 0.0, 1.0 / mz, 0.0)

    margin = 0.5 if JOSEPH else 0.0
    lo, hi = tl.full(my.shape, 1.0, tl.float32), na.to(tl.float32) + 1.0
    lo, hi = clip(lo, hi, y0, my, iy, 1.0 - margin, nb.to(tl.float32) + 1.0 + margin)
    lo, hi = clip(lo, hi, z0, mz, iz, 1.0 - margin, nc.to(tl.float32) + 1.0 + margin)
    start, end = tl.minimum(sa, sa + da).to(tl.float32), tl.maximum(sa, sa + da).to(tl.float32)
    real = (tl.abs(da) > 1e-100) & (nothing(s, d) == 0.0)
    if JOSEPH:  # slabs that hold a part of the segment and whose middle lies in the grid
        low = tl.maximum(tl.ceil(lo - 0.5), tl.floor(start))
        high = tl.minimum(tl.floor(hi - 0.5) + 1.0, tl.ceil(end))
        hit, cut = real & (low < high) & (start < end), (start >= low, end <= high)
    else:
        low, high = tl.floor(tl.maximum(lo, start)), tl.ceil(tl.minimum(hi, end))
        hit = real & (tl.maximum(lo, start) < tl.minimum(hi, end))
        cut = ((start > lo) | (start > low), (end < hi) | (end < high))
    low, high = tl.where(hit, low, 1.0), tl.where(hit, high, 1.0)
    first, last = low.to(tl.int32), high.to(tl.int32)
    span = (tl.maximum(low, start), tl.minimum(high, end))
    return (a0, a1), first, last, span, cut, steps, (y0, my, iy, z0, mz, iz)


@kernel
def length_of(d, geometry):
    """Metric times d [3], and the world length of d [mm]."""
    d0, d1, d2 = d
    metric = geometry + 6
    g0 = tl.load(metric) * d0 + tl.load(metric + 1) * d1 + tl.load(metric + 2) * d2
    g1 = tl.load(metric + 3) * d0 + tl.load(metric + 4) * d1 + tl.load(metric + 5) * d2
    g2 = tl.load(metric + 6) * d0 + tl.load(metric + 7) * d1 + tl.load(metric + 8) * d2
    return (g0, g1, g2), tl.sqrt(g0 * d0 + g1 * d1 + g2 * d2)
