"""Silence while a file is read: what pydicom warns and logs quotes values of the header.

A warning can be caught where it is raised, but the same words go to the log "pydicom" as well, and
an application that has set up logging would keep them.
"""

import contextlib
import contextvars
import logging
import warnings
from collections.abc import Iterator

_LOGS = ("pydicom", "pydicom.pixels.decoders.base", "pydicom.pixels.utils")
_READS = contextvars.ContextVar("drrlib_reads", default=False)


class _Silence(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not _READS.get()


for _name in _LOGS:
    logging.getLogger(_name).addFilter(_Silence())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings, and no records of pydicom from this thread; what drrlib itself logs stays."""
    if _READS.get():  # already so, and this is asked for every tag
        yield
        return
    token = _READS.set(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _READS.reset(token)
