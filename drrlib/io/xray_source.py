"""What stands in the file of an X-ray image, and what the file says of it; any of its frames."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from drrlib.errors import ConfigError
from drrlib.io.carm_tags import positioner_angle
from drrlib.io.dicom_tags import whole
from drrlib.io.pictures import read_picture
from drrlib.io.xray_file import (
    flat_header,
    frame_count,
    is_dicom,
    is_grouped,
    modality_table_values,
    read_dicom,
    stored_frames,
    voi_table_values,
)
from drrlib.io.xray_values import Meaning, meaning_of_header, padding_range


class Grey(NamedTuple):
    """Values of the chosen frames [frame, height, width] and what the file says of them."""

    stack: np.ndarray
    full: int
    meaning: Meaning
    known: np.ndarray  # False where the file says that nothing was measured
    header: object | None  # flat DICOM header of the frame
    dataset: object | None  # the whole one
    frame: int  # in that one


class Source(NamedTuple):
    """A file that was read.

    Attributes:
        count: Its frames.
        stored: Numbers of frames -> their values as stored [frame, height, width].
        grey: Numbers of frames and these values -> what they mean.
    """

    count: int
    stored: Callable[[list[int]], np.ndarray]
    grey: Callable[[list[int], np.ndarray], Grey]


def open_source(path: Path) -> Source:
    """A DICOM file or a picture.

    Raises:
        ConfigError, DicomError: the file cannot be used.
    """
    if is_dicom(path):
        ds = read_dicom(path)
        return Source(
            frame_count(ds),
            lambda frames: stored_frames(path, ds, frames),
            lambda frames, stored: _of_dicom(ds, frames, stored),
        )
    picture = read_picture(path)
    pages = len(picture.values)

    def chosen(frames: list[int]) -> np.ndarray:
        for frame in frames:
            if not 0 <= frame < pages:
                raise ConfigError(f"frame is {frame}; the file has {pages}, counted from 0")
        return picture.values[frames]

    def grey(frames: list[int], stored: np.ndarray) -> Grey:
        known = np.ones(stored.shape[1:], dtype=bool)
        meaning = Meaning(notes=picture.notes)
        return Grey(stored.astype(np.float64), picture.full, meaning, known, None, None, 0)

    return Source(pages, chosen, grey)


def _of_dicom(ds, frames: list[int], stored: np.ndarray) -> Grey:
    header = flat_header(ds, frames[0])
    if len(frames) > 1:
        _check_still(ds, frames)
    meaning = meaning_of_header(header)
    bits = whole(header, "BitsStored") or whole(header, "BitsAllocated") or 16
    stack, full = stored.astype(np.float64), 1 << bits
    if whole(header, "PixelRepresentation") == 1 and stored.min() < 0:
        stack += 1 << (bits - 1)
    table = modality_table_values(header, stored)
    if table is None and meaning.kind == "display":
        table = voi_table_values(header, stored)
        if table is not None:
            meaning = meaning.said("the header's VOI LUT table was applied")
    if table is not None:
        stack, full = table, 1 << max(int(table.max()).bit_length(), 8)
    known = np.ones(stored.shape[1:], dtype=bool)
    padding = padding_range(header)
    if padding is not None:
        known = ((stored < padding[0]) | (stored > padding[1])).all(axis=0)
    return Grey(stack, full, meaning, known, header, ds, frames[0])


def _check_still(ds, frames: list[int]) -> None:
    """A maximum over frames needs one pose for all of them."""
    enhanced = is_grouped(ds)
    for which in ("Primary", "Secondary"):
        angles = []
        for k in (frames[0], frames[-1]):
            header = flat_header(ds, k)
            angles.append(positioner_angle(header, which, 0 if enhanced else k))
        if None not in angles and abs(angles[0] - angles[1]) > 0.05:
            raise ConfigError(
                "frame is 'max', but the positioner moved during the run; expected one pose for "
                "all frames: choose one frame"
            )
