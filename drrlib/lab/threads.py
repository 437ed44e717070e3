"""How many threads a piece of work may take."""

import contextlib
from collections.abc import Iterator

import numba
import torch


@contextlib.contextmanager
def limited_threads(threads: int | None = None) -> Iterator[None]:
    """One thread for PyTorch, so many for Numba.

    Set here and not by environment variables: these are read when a library is loaded, which in a
    new process may be before anybody can set them, and each kind of worker has other ways.
    """
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(1)
    if threads is not None:
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])
