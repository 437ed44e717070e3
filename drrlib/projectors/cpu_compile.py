"""How the CPU kernels are compiled, and kept for later runs where that is allowed."""

import functools
import inspect
import sys

import numba


def kernel(function=None, **options):
    """Compile for the CPU. Reassociation lets the compiler sum in vector lanes; NaN and infinity
    keep their meaning. A shape-checking wrapper, which tests put around every function, is
    taken off first: Numba compiles the plain function."""
    if function is None:
        return functools.partial(kernel, **options)
    math = {"reassoc", "contract", "nsz", "arcp"}
    options = dict(options, fastmath=math, error_model="numpy", nogil=True)
    try:
        return numba.njit(inspect.unwrap(function), cache=True, **options)
    except RuntimeError:  # "no locator available": neither here nor at home may files be written
        _say_uncached()
        return numba.njit(inspect.unwrap(function), **options)


@functools.cache
def _say_uncached() -> None:
    print(
        "drrlib: no folder for compiled CPU kernels can be written, so each process compiles them "
        "anew, about half a minute: set NUMBA_CACHE_DIR to one that can",
        file=sys.stderr,
        flush=True,
    )
