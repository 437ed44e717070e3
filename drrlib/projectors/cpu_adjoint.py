"""CPU kernel (Numba) of the volume gradient: rays spread their values back over the voxels.

The transpose of `cpu_kernels.forward`, walked with the same slabs. Every task owns a block of
slabs of one axis and takes all rays that have this axis as their dominant one, so that no two
tasks write one voxel and the sums come in one order, whatever the number of threads.
"""

import numpy as np
from numba import prange

from drrlib.compiled import kernel
from drrlib.projectors.cpu_kernels import (
    f32,
    i32,
    joseph_cell,
    joseph_weight,
    siddon_slab,
    trace,
)

SLABS = 32  # in a block


@kernel
def spread_slab(out, k, joseph, value, span, steps, line):
    """Add value x weight to the voxels that slab k reads, in the flat padded array `out`."""
    if joseph:
        weight = value * joseph_weight(k, span)
        _, i, wy, wz = joseph_cell(i32(k), steps, line)
        out[i] += weight * (1 - wy) * (1 - wz)
        out[i + steps[2]] += weight * (1 - wy) * wz
        out[i + steps[1]] += weight * wy * (1 - wz)
        out[i + steps[1] + steps[2]] += weight * wy * wz
    else:
        lo, hi = f32(span[0]), f32(span[1])
        t0, ta, tb, t1, i0, i1, i2, _, _ = siddon_slab(i32(k), lo, hi, steps, line)
        out[i0] += value * (ta - t0)
        out[i1] += value * (tb - ta)
        out[i2] += value * (t1 - tb)


@kernel(parallel=True)
def adjoint(grad, count, frames, metric, joseph, out):
    """Volume gradient of a batch of images.

    Args:
        grad: image gradient [b, h, w].
        count: voxels inside the padding [3].
        frames, metric, joseph: as in `cpu_kernels.forward`.
        out: padded array [x, y, z], zero on entry; float64, since a voxel collects many rays.
    """
    strides = np.array([out.shape[1] * out.shape[2], out.shape[2], 1])
    flat = out.ravel()
    blocks = (count + SLABS) // SLABS  # slab indices run from 1 to count
    for axis in range(3):
        for block in prange(blocks[axis]):
            first_slab, last_slab = block * SLABS, (block + 1) * SLABS
            d = np.empty(3)
            for pose in range(grad.shape[0]):
                s = frames[pose]
                for i in range(grad.shape[1]):
                    for j in range(grad.shape[2]):
                        g = grad[pose, i, j]
                        if g == 0:
                            continue
                        for q in range(3):
                            column, row = (j + 0.5) * s[6 + q], (i + 0.5) * s[9 + q]
                            d[q] = s[3 + q] + column + row - s[q]
                        axes, (first, last), span, _, line = trace(s, d, count, joseph)
                        if axes[0] != axis or first >= last:
                            continue
                        square = 0.0
                        for p in range(3):
                            for q in range(3):
                                square += d[p] * metric[p, q] * d[q]
                        value = g * np.sqrt(square) / abs(d[axis])
                        steps = (
                            i32(strides[axes[0]]),
                            i32(strides[axes[1]]),
                            i32(strides[axes[2]]),
                        )
                        for k in range(max(first, first_slab), min(last, last_slab)):
                            spread_slab(flat, k, joseph, value, span, steps, line)
