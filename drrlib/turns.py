"""Turns at the threads of the CPU kernels.

Numba's threads are one pool for the process: launches take turns, since its workqueue layer does
not bear two at once, and a forked process has no pool where the layer is OpenMP.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

from drrlib.errors import BackendError

_SILENCE = 3.0  # [s] that a first call may take before it says why


class _Pool:
    """Whose turn it is, and whether this process was forked from one that had threads."""

    def __init__(self):
        self.turn, self.lost = threading.Lock(), False

    def forked(self) -> None:
        self.turn = threading.Lock()  # a thread of the parent may have held it
        with contextlib.suppress(KeyError, ValueError):  # not imported, no threads yet
            self.lost = self.lost or sys.modules["numba"].threading_layer() == "omp"


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forked)


@contextlib.contextmanager
def turn(kernel) -> Iterator[None]:
    """A turn for a launch; says so where the first one takes long: it is being compiled.

    Raises:
        BackendError: a forked process, whose parent had the threads.
    """
    if _pool.lost:
        raise BackendError(
            "this process was forked from one whose CPU kernels already had threads, which "
            "OpenMP does not survive: start workers with spawn (DataLoader(..., "
            "multiprocessing_context='spawn'), multiprocessing.get_context('spawn')), or set "
            "NUMBA_THREADING_LAYER=workqueue in the environment before Python starts"
        )
    with _pool.turn:
        if kernel.signatures:
            yield
            return
        kept = "kept for later runs" if kernel.stats.cache_path else "not kept: see above"
        message = f"drrlib: compiling the CPU kernel (about half a minute, {kept}) ..."
        timer = threading.Timer(_SILENCE, print, [message], {"file": sys.stderr, "flush": True})
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
