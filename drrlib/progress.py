"""A progress bar with the time left, shown only where somebody watches."""

import contextlib
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar

from tqdm.auto import tqdm

_silent = ContextVar("silent", default=False)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """No bar shows in this block: one study has one bar or none, not one for each of its shards."""
    before = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(before)


def progress_bar(total: int, unit: str, wanted: bool = True) -> tqdm:
    """Bar over `total` units; silent unless wanted and the output is a terminal or a notebook.

    Inside a loop that shows a bar of its own it is silent, too. tqdm's own variable TQDM_DISABLE
    silences every bar: a stored notebook should hold none.
    """
    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    silenced = _silent.get() or os.environ.get("TQDM_DISABLE", "") not in ("", "0")
    inside = len(getattr(tqdm, "_instances", ())) > 0
    return tqdm(total=total, unit=unit, disable=silenced or inside or not (wanted and watched))
