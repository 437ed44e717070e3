"""Grey values of files that are no DICOM: PNG, TIFF, JPEG, NumPy."""

import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from drrlib.arrays import as_path
from drrlib.errors import ConfigError

MAX_PIXELS = 2**30  # of all pages together
_GREY = {"1", "L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
_COLOUR = {"RGB", "RGBA", "LA", "P", "PA", "CMYK", "YCbCr"}


class Picture(NamedTuple):
    """Stored values.

    Attributes:
        values: [pages, height, width] in the file's own type.
        full: Number of levels that the file's type can hold; 0 for floating-point numbers.
        notes: What was assumed, in plain sentences.
    """

    values: np.ndarray
    full: int
    notes: tuple[str, ...]


def read_picture(path: str | os.PathLike, signed: bool = False) -> Picture:
    """All pages of a grey picture, or of one whose colours are all grey.

    Args:
        path: The file.
        signed: Whether whole numbers may be negative, as Hounsfield units are.

    Raises:
        ConfigError: no such file, not a picture, damaged, coloured, or too large; names the file.
    """
    path = as_path(path)
    if not path.is_file():
        raise ConfigError(f"{str(path)!r} does not exist; expected an image file")
    read = _read_numpy if path.suffix.lower() == ".npy" else _read_pillow
    values, notes = read(path)
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3 or values.size == 0 or values.dtype.kind not in "buif":
        raise ConfigError(
            f"{str(path)!r} holds {values.dtype} numbers of shape {values.shape}; expected grey "
            "values [height, width] or [pages, height, width]"
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ConfigError(f"{str(path)!r} has NaN or infinite pixels; replace them first")
    if values.dtype.kind == "i" and values.min() < 0 and not signed:
        raise ConfigError(f"{str(path)!r} has negative grey values; save them as floating numbers")
    full = 0 if values.dtype.kind == "f" else _levels(values)
    return Picture(values, full, notes)


def _levels(values: np.ndarray) -> int:
    """2^bits of the detector: 8 bits, or the whole bits that the largest value takes."""
    if values.dtype.itemsize == 1:
        return 256
    return 1 << max(int(values.max()).bit_length(), 8)


def _read_numpy(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged file can raise nearly anything
        raise ConfigError(
            f"{str(path)!r} is no readable NumPy array of numbers ({type(error).__name__}); save "
            "it by numpy.save"
        ) from None
    if not isinstance(mapped, np.ndarray) or mapped.size > MAX_PIXELS:
        raise ConfigError(f"{str(path)!r} is not one array of at most {MAX_PIXELS} numbers")
    values = np.array(mapped)
    return values.astype(values.dtype.newbyteorder("=")), ()


def pillow():
    """The modules Image and ImageDraw of Pillow, imported only where one is needed.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        raise ConfigError(
            "pictures and the polygons of shutters need Pillow, which is not installed; "
            "pip install pillow, or drrlib[lab]"
        ) from None
    return Image, ImageDraw


def _read_pillow(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    Image, _ = pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning)
            with Image.open(path) as file:
                count, size = getattr(file, "n_frames", 1), file.size
                if count * size[0] * size[1] > MAX_PIXELS:
                    raise ConfigError(
                        f"{str(path)!r} announces {count} pages of {size[0]} x {size[1]} pixels; "
                        f"expected at most {MAX_PIXELS} together"
                    )
                pages = [_page(file, k, path) for k in range(count)]
    except ConfigError:
        raise
    except Exception as error:  # decoders raise errors of many kinds
        raise ConfigError(
            f"{str(path)!r} cannot be read as a picture ({type(error).__name__}): damaged, too "
            "large, or of another format; expected DICOM, PNG, TIFF, JPEG or .npy"
        ) from None
    if len({p[0].shape for p in pages}) != 1:
        raise ConfigError(f"{str(path)!r} has pages of several sizes; expected one size")
    return np.stack([p[0] for p in pages]), tuple(dict.fromkeys(n for p in pages for n in p[1]))


def _page(file, k: int, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    file.seek(k)
    if file.mode in _GREY:
        grey = np.asarray(file)
        return grey.astype(grey.dtype.newbyteorder("=")), ()
    if file.mode not in _COLOUR:
        raise ConfigError(f"{str(path)!r} has colours of kind {file.mode}; expected grey values")
    colours = np.asarray(file.convert("RGB"))
    spread = np.ptp(colours.astype(np.int16), axis=2)
    share = float((spread > 24).mean())
    if share > 0.02:
        raise ConfigError(
            f"{str(path)!r} is coloured ({100 * share:.0f} % of the pixels); expected grey values"
        )
    note = ("the picture has colour channels; their mean was taken",)
    return np.rint(colours.mean(axis=2)).astype(np.uint8), note if spread.any() else ()
