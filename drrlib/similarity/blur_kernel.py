"""The Gaussian of `blur` on the CPU, compiled by Numba."""

import numpy as np
from numba import prange

from drrlib.compiled import kernel

_ROWS = 16  # of one task


@kernel
def scale(tap, line, out):
    """out = tap line"""
    for x in range(len(out)):
        out[x] = tap * line[x]


@kernel
def add(tap, one, other, out):
    """out += tap (one + other)"""
    for x in range(len(out)):
        out[x] += tap * (one[x] + other[x])


@kernel
def add_one(tap, line, out):
    """out += tap line"""
    for x in range(len(out)):
        out[x] += tap * line[x]


@kernel(parallel=True)
def blurred(images, taps, out):
    """Each image by a symmetric filter along rows and columns; nothing comes in from outside.

    Args:
        images: [n, h, w] floats, contiguous.
        taps: The filter's middle and one of its halves [r + 1], of the same type.
        out: As `images`.
    """
    count, height, width = images.shape
    reach = len(taps) - 1
    tasks = -(-height // _ROWS)
    for task in prange(count * tasks):
        image, first = images[task // tasks], (task % tasks) * _ROWS
        padded = np.zeros(width + 2 * reach, images.dtype)  # air on either side of a row
        line = padded[reach : reach + width]
        for y in range(first, min(height, first + _ROWS)):
            scale(taps[0], image[y], line)
            for k in range(1, reach + 1):
                above, below = y - k, y + k
                if above >= 0 and below < height:
                    add(taps[k], image[above], image[below], line)
                elif above >= 0 or below < height:
                    add_one(taps[k], image[above if above >= 0 else below], line)
            row = out[task // tasks, y]
            scale(taps[0], line, row)
            for k in range(1, reach + 1):
                left, right = padded[reach - k :], padded[reach + k :]
                add(taps[k], left, right, row)
