"""What the commands share: exit statuses, errors in one line, how a CT is named."""

import argparse
import contextlib
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from drrlib.errors import ConfigError, DrrlibError
from drrlib.io import read_tiff_stack, read_volume
from drrlib.volume import Volume

DONE, FAILED, REFUSED, DOUBTFUL, STOPPED = 0, 1, 2, 3, 130  # exit statuses

# Keywords of Python's functions, which messages name, as options of the command line.
_OPTIONS = {"delx": "--pixel", "dely": "--pixel", "open_field": "--open-field"}
_OPTIONS |= {"mu_per_value": "--mu-per-value", "start": "--start"}
_SAME = "sdd sod theta phi gamma flipped series part resample frame values bone spacing hu".split()
_OPTIONS |= {name: f"--{name}" for name in _SAME}
_PHRASES = (
    ("carm=CArm(...), a calibration such as carm=read_mayacam(path)", "--calibration FILE"),
    ("mask=False", "--no-mask"),
    ("only=True", "--only"),
    ("phi=pi/2", "phi=90"),
    ("gamma=pi", "gamma=180"),
    ("[rad]", "[deg]"),
)


def parser(name: str, text: str, examples: str, usage: str) -> argparse.ArgumentParser:
    """A command's parser, with what it needs at the head of its help and examples at the end."""
    made = argparse.ArgumentParser(
        prog=f"drrlib {name}",
        usage=f"drrlib {name} {usage}",
        description=text,
        epilog=f"examples:\n{examples.strip(chr(10))}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--debug", action="store_true", help="where an error comes from")
    return made


def run(name: str, options: argparse.Namespace, work: Callable[[], int]) -> int:
    """Exit status of `work`; its errors, warnings and log in one line each on stderr."""
    try:
        with _told(name, getattr(options, "quiet", False)):
            return work()
    except KeyboardInterrupt:
        print(f"\n{name}: stopped", file=sys.stderr)
        return STOPPED
    except DrrlibError as error:
        if options.debug:
            traceback.print_exc()
        print(f"{name}: {as_options(str(error))}", file=sys.stderr)
        return REFUSED
    except Exception as error:  # whatever else goes wrong: a full disk, too little memory, a fault
        if options.debug:
            traceback.print_exc()
        hint = "" if options.debug else "; --debug tells where"
        text = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"{name}: failed ({text}){hint}", file=sys.stderr)
        return FAILED


def as_options(message: str) -> str:
    """A message of the library in one line, with options in place of Python's keywords."""
    text = " ".join(message.split())
    for said, here in _PHRASES:
        text = text.replace(said, here)
    names = "|".join(_OPTIONS)
    text = re.sub(rf"\b({names})=(?=[\w'(.-])", lambda m: f"{_OPTIONS[m[1]]} ", text)
    return text.replace("--pixel ..., --pixel ...", "--pixel ...")


@contextlib.contextmanager
def _told(name: str, quiet: bool) -> Iterator[None]:
    """Warnings and the log of registrations go to stderr, a line each; none of them if quiet."""
    log = logging.getLogger("drrlib.registration")
    kept = log.handlers, log.level, log.propagate
    handler = logging.NullHandler() if quiet else logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{name}: %(message)s"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if quiet else "default")
        warnings.showwarning = lambda message, *_: say(name, f"note: {message}")
        log.handlers, log.level, log.propagate = [handler], logging.INFO, False
        try:
            yield
        finally:
            log.handlers, log.level, log.propagate = kept


def say(name: str, text: str, quiet: bool = False) -> None:
    """A line about the progress, on stderr."""
    if not quiet:
        print(f"{name}: {' '.join(text.split())}", file=sys.stderr, flush=True)


def add_ct(parser: argparse.ArgumentParser) -> None:
    """Which CT, and what its file does not tell."""
    parser.add_argument(
        "ct",
        metavar="CT",
        type=Path,
        help="DICOM folder, NIfTI, MetaImage or NRRD; TIFF stack or .npy [slice, row, column]",
    )
    which = parser.add_argument_group("which CT")
    which.add_argument("--series", type=int, help="SeriesNumber, where a folder has several")
    which.add_argument("--part", help="which stack of a series that has several")
    which.add_argument("--resample", type=float, metavar="MM", help="make uneven slices even")
    scale = parser.add_argument_group("of a TIFF stack or .npy file, which do not tell it")
    scale.add_argument(
        "--spacing", type=float, nargs=3, metavar=("X", "Y", "Z"), help="voxels [mm]"
    )
    scale.add_argument(
        "--hu", type=float, nargs=2, metavar=("SLOPE", "INTERCEPT"), help="to Hounsfield units"
    )
    scale.add_argument("--mu-per-value", type=float, metavar="MU", help="or to attenuation [1/mm]")


def read_ct(options: argparse.Namespace) -> Volume:
    """The CT that the options name.

    Raises:
        DrrlibError: it cannot be read, or an option does not fit.
    """
    path = options.ct
    if not path.exists():
        raise ConfigError(f"{str(path)!r} does not exist; expected a CT: a DICOM folder or a file")
    try:
        return _volume(options)
    except DrrlibError as error:
        if path.name in str(error):
            raise
        raise type(error)(f"{path.name!r}: {error}") from error


def _volume(options: argparse.Namespace) -> Volume:
    path, stack = options.ct, (options.spacing, options.hu, options.mu_per_value)
    if path.suffix.lower() in (".tif", ".tiff", ".npy"):
        if options.spacing is None:
            raise ConfigError(
                f"{path.name!r} does not tell the size of its voxels; pass --spacing X Y Z [mm], "
                "and --hu SLOPE INTERCEPT (--hu 1 0 where values are Hounsfield units)"
            )
        spacing, scale = tuple(options.spacing), options.hu and tuple(options.hu)
        return read_tiff_stack(path, spacing, hu=scale, mu_per_value=options.mu_per_value)
    if any(x is not None for x in stack):
        raise ConfigError("--spacing, --hu and --mu-per-value are for TIFF stacks and .npy files")
    which = dict(series=options.series, part=options.part, resample=options.resample)
    return read_volume(path, **{k: x for k, x in which.items() if x is not None})


def check_outputs(paths: Sequence[Path], suffixes: Sequence[str]) -> None:
    """As early as possible: minutes of work must not end with a wrong name.

    Raises:
        ConfigError: a suffix that tells nothing, or a folder that is none or cannot be written.
    """
    for path in paths:
        if not path.name.lower().endswith(tuple(suffixes)):
            raise ConfigError(f"{path.name!r} ends in none of {', '.join(suffixes)}")
        folder = path.parent
        if not folder.is_dir():
            raise ConfigError(
                f"the folder {str(folder)!r} of {path.name!r} does not exist; make it"
            )
        if not os.access(folder, os.W_OK) or path.is_dir():
            raise ConfigError(f"{str(path)!r} cannot be written")


def sizes(volume: Volume) -> str:
    """Of a CT, in one line."""
    count = " x ".join(map(str, volume.shape))
    return f"{count} voxels of {' x '.join(f'{x:.3g}' for x in volume.spacing.tolist())} mm"
