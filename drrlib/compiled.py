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
        compiled = numba.njit(inspect.unwrap(function), cache=True, **options)
    except RuntimeError:  # "no locator available": neither here nor at home may files be written
        _say_uncached("no folder for compiled CPU kernels can be written")
        return numba.njit(inspect.unwrap(function), **options)
    if hasattr(compiled, "_cache"):  # not where NUMBA_DISABLE_JIT leaves the plain function
        compiled._cache = _Forgiving(compiled._cache)
    return compiled


class _Forgiving:
    """Numba's cache of one kernel, whose failures cost a compilation and not the image.

    A kernel is compiled and usable before it is saved; Numba raises all the same where the disk is
    full, a quota is used up, or a file that was cut short comes back.
    """

    def __init__(self, cache):
        self._cache = cache

    def __getattr__(self, name):
        return getattr(self._cache, name)

    def load_overload(self, *key):
        """The kernel kept for these types; None where there is none that can be read."""
        try:
            return self._cache.load_overload(*key)
        except Exception as error:  # unpickling a damaged file can raise nearly anything
            self._failed(error)
            return None

    def save_overload(self, *kernel) -> None:
        """Keep a kernel, if that is possible."""
        try:
            self._cache.save_overload(*kernel)
        except Exception as error:  # of the disk, or of a damaged index
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        why = getattr(error, "strerror", None) or type(error).__name__
        _say_uncached(f"compiled CPU kernels can be neither kept nor read ({why})")


@functools.cache
def _say_uncached(why: str) -> None:
    print(
        f"drrlib: {why}, so each process compiles them anew, about half a minute: set "
        "NUMBA_CACHE_DIR to a folder that can be written and has room",
        file=sys.stderr,
        flush=True,
    )
