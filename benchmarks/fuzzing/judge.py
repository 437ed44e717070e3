"""What counts as a fault: a raw error, or words that repeat what a file holds of a patient."""

import logging
import os
import sys
import traceback
import warnings
from pathlib import Path

from drrlib.errors import DrrlibError

SECRET = "SECRET"  # stands in the place of a patient's data; no message may repeat it


class _Kept(logging.Handler):
    """Log messages, which would otherwise go to the screen."""

    def __init__(self):
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


_LOG = _Kept()
logging.getLogger().addHandler(_LOG)


def said(texts, allowed: tuple = ()) -> str | None:
    """What is wrong with the words, warnings, log, or error of a call; None where nothing is.

    Args:
        texts: Makes the call and returns what it says, a list of texts.
        allowed: Errors that its documentation names besides drrlib's own.
    """
    _LOG.texts.clear()
    begun = _written()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            found = list(texts())
        except (DrrlibError, *allowed) as error:
            found = chain(error)
        except Exception as error:  # a raw one is what is looked for
            return raw(error)
    found += [str(w.message) for w in warned] + _LOG.texts + _printed(begun)
    leaks = [t for t in found if SECRET in t.upper()]
    return f"a message repeats the file: {leaks[0][-300:]}" if leaks else None


def chain(error: BaseException) -> list[str]:
    """Texts of an error and of those that a traceback shows above it."""
    texts = []
    while error is not None:
        texts.append(str(error))
        above = None if error.__suppress_context__ else error.__context__
        error = error.__cause__ or above
    return texts


def raw(error: BaseException) -> str:
    """Kind and place of an error, then its text."""
    lines = traceback.extract_tb(error.__traceback__)
    ours = [x for x in lines if "drrlib" in x.filename and "fuzz" not in Path(x.filename).name]
    ours = [x for x in ours if Path(x.filename).parent.name != "fuzzing"]
    line = (ours or lines)[-1]
    deep = lines[-1]
    inner = "" if deep is line else f" in {Path(deep.filename).name}:{deep.lineno}"
    where = f"{Path(line.filename).name}:{line.lineno}{inner}"
    return f"{type(error).__name__} at {where}: {str(error)[:160]}"


def _written() -> int:
    """Size of what libraries have written to this process's error stream, where that is a file."""
    sys.stderr.flush()
    return os.fstat(2).st_size


def _printed(begun: int) -> list[str]:
    """What was written there since, by libraries that are not Python's."""
    if _written() <= begun or not os.path.exists("/dev/stderr"):
        return []
    try:
        with open("/dev/stderr", "rb") as file:
            file.seek(begun)
            return [file.read(4000).decode(errors="replace")]
    except OSError:  # a screen or a pipe, which cannot be read back
        return []
