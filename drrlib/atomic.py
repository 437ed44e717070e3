"""Files that are there whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary name beside `path`, then rename.

    A process that is killed leaves no half file under the final name, and two processes that
    write the same file do not meet.
    """
    if not path.name:
        raise IsADirectoryError(f"{str(path)!r} is a folder; expected the name of a file")
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
