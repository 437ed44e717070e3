"""One door for X-ray images: a file in, a `View` out, with what was understood in its notes."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from drrlib.arrays import as_flag, as_number, as_path
from drrlib.errors import ConfigError, DicomError
from drrlib.geometry import CArm, eta
from drrlib.io.calibration import Calibration
from drrlib.io.carm_header import carm_from_dicom, start_from_dicom
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
from drrlib.io.xray_mask import dead_field, header_mask, image_mask
from drrlib.io.xray_values import (
    Meaning,
    known_by_caller,
    line_integrals,
    meaning_of_header,
    meaning_of_image,
    padding_range,
)
from drrlib.view import View

LENGTHS = ("sdd", "sod", "delx", "dely")
ANGLES = ("theta", "phi", "gamma", "b", "flipped")


class _Grey(NamedTuple):
    """Values of the chosen frames [frame, height, width] and what the file says of them."""

    stack: np.ndarray
    full: int
    meaning: Meaning
    known: np.ndarray  # False where the file says that nothing was measured
    header: object | None  # flat DICOM header of the frame
    dataset: object | None  # the whole one
    frame: int  # in that one


def read_xray(
    path: str | os.PathLike,
    *,
    carm: CArm | Calibration | None = None,
    frame: int | str = 0,
    values: str = "auto",
    bone: str = "auto",
    open_field: float | None = None,
    mask: bool = True,
    **geometry,
) -> View:
    """An X-ray image as a `View`: line integrals, C-arm, weights and start; `notes` tell how.

    `read_xray("xray.dcm", sod=700.0)`, `read_xray("cam1.tif", carm=read_mayacam("cam1.txt"))`.
    Look at `view.show()` before trusting what was estimated.

    Args:
        path: DICOM (XA, RF, DX, CR, enhanced XA and XRF, also multi-frame), PNG, TIFF, JPEG, or a
            NumPy file (.npy) of [height, width] or [frame, height, width].
        carm: C-arm of the image, or a calibration, whose pose becomes the view's and whose
            distortion is removed; it goes before a DICOM header's lengths. Pictures need one, or
            all four lengths.
        frame: Frame of a run or page of a stack from 0, or "max" for the largest line integral
            over all frames, as of vessels while they fill.
        values: "counts" (proportional to intensity), "logged" (after a logarithm), "display" or
            "line integrals"; "auto" by header, else by an estimate that is noted.
        bone: "bright" or "dark": how dense matter is stored; "auto" as for `values`.
        open_field: Stored value where nothing attenuates; None to look for it.
        mask: Look for what is no image: beyond shutter, collimator and intensifier, blades, lost
            skin, letters. False leaves weights to the caller.
        geometry: sdd, sod, delx, dely [mm], theta, phi, gamma [rad], b [mm], flipped, as in
            `start_from_dicom`, for what a DICOM header lacks, or for a picture. What a picture has
            no angle for is 0, once one is given.

    Raises:
        ConfigError: the file or an option cannot be used.
        DicomError: a DICOM file that is no X-ray image, is damaged, or lacks a length: names the
            tag and the keyword that replaces it. No message repeats a patient's data.
        GeometryError: lengths that no C-arm can have.
    """
    path = _check_call(path, geometry)
    page = isinstance(frame, int) and not isinstance(frame, bool)
    if not page and not (isinstance(frame, str) and frame == "max"):
        raise ConfigError(f"frame is {frame!r}; expected a number from 0, or 'max'")
    how = _how(carm, values, bone, open_field, mask, geometry)
    with _naming(path):
        source = _open(path)
        frames = list(range(source.count)) if frame == "max" else [frame]
        return _view(source.grey(frames, source.stored(frames)), how)


def read_xray_run(
    path: str | os.PathLike, frames: Sequence[int] | None = None, **options
) -> list[View | None]:
    """The frames of a run, or pages of a stack, as `read_xray` reads each; the file is read once.

    `track(read_xray_run("run.dcm", sod=700.0), volume)`. What is estimated, such as the open field,
    is estimated for each frame on its own; pass `open_field` and `values` where they are known.

    Args:
        path: As in `read_xray`.
        frames: Which ones, in this order, from 0; None for all.
        options: As in `read_xray`, except `frame`.

    Returns:
        A view for each; None for a frame that shows nothing, such as one taken without radiation.

    Raises:
        ConfigError, DicomError, GeometryError: as `read_xray`, or every frame shows nothing.
    """
    if "frame" in options:
        raise ConfigError("frame is an option of read_xray; expected frames=(0, 1, ...) or none")
    known = dict(carm=None, values="auto", bone="auto", open_field=None, mask=True)
    geometry = {name: x for name, x in options.items() if name not in known}
    path = _check_call(path, geometry)
    how = _how(**(known | {n: x for n, x in options.items() if n in known}), geometry=geometry)
    with _naming(path):
        source = _open(path)
        chosen = list(range(source.count)) if frames is None else list(frames)
        wrong = [x for x in chosen if isinstance(x, bool) or not isinstance(x, int)]
        if wrong or not chosen:
            raise ConfigError(f"frames is {frames!r}; expected numbers from 0, at least one")
        stored = source.stored(chosen)
        found = []
        for k, frame in enumerate(chosen):
            grey = source.grey([frame], stored[k : k + 1])
            inside = grey.stack[0][grey.known]
            blank = inside.size == 0 or np.ptp(inside) == 0
            found.append(None if blank else _view(grey, how))
        if not any(found):
            raise ConfigError("every frame is constant; expected a run of X-ray images")
    return found


class _How(NamedTuple):
    """Options of `read_xray`."""

    carm: CArm | Calibration | None
    values: str
    bone: str
    open_field: float | None
    mask: bool
    geometry: dict


class _Source(NamedTuple):
    """A file that was read.

    Attributes:
        count: Its frames.
        stored: Numbers of frames -> their values as stored [frame, height, width].
        grey: Numbers of frames and these values -> what they mean.
    """

    count: int
    stored: Callable[[list[int]], np.ndarray]
    grey: Callable[[list[int], np.ndarray], _Grey]


def _how(carm, values, bone, open_field, mask, geometry) -> _How:
    """The options, checked as far as no image is needed."""
    if open_field is not None:
        open_field = as_number(open_field, "open_field")
    return _How(carm, values, bone, open_field, as_flag(mask, "mask"), geometry)


def _check_call(path: str | os.PathLike, geometry: dict) -> Path:
    path = as_path(path)
    unknown = sorted(set(geometry) - {*LENGTHS, *ANGLES})
    if unknown:
        raise ConfigError(f"unknown {unknown}; choose of {', '.join((*LENGTHS, *ANGLES))}")
    if not path.is_file():
        raise ConfigError(f"{str(path)!r} does not exist or is a folder; expected an image file")
    return path


@contextlib.contextmanager
def _naming(path: Path):
    """Errors that do not name the file do so."""
    try:
        yield
    except (ConfigError, DicomError) as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{str(path)!r}: {error}") from error.__cause__


def _view(grey: _Grey, how: _How) -> View:
    size, carm = grey.stack.shape[1:], how.carm
    device, pose, start, placed = _place(grey, size, carm, how.geometry)
    grey = grey._replace(meaning=known_by_caller(grey.meaning, how.values, how.bone))
    image, kept, notes = _understand(grey, how.open_field, how.mask)
    notes = (*notes, *placed)
    if isinstance(carm, Calibration) and carm.distortion is not None:
        image, kept = (carm.distortion.undistort(x) for x in (image, kept.astype(np.float64)))
        kept = kept > 0.999
        notes += ("distortion removed by the calibration",)
    weights = None if kept.all() else torch.from_numpy(kept.astype(np.float64))
    lines = how.values == "line integrals"
    return View(torch.from_numpy(image), device, weights, pose, start, notes, lines)


def _open(path: Path) -> _Source:
    if is_dicom(path):
        ds = read_dicom(path)
        return _Source(
            frame_count(ds),
            lambda frames: stored_frames(path, ds, frames),
            lambda frames, stored: _dicom_grey(ds, frames, stored),
        )
    picture = read_picture(path)
    pages = len(picture.values)

    def chosen(frames: list[int]) -> np.ndarray:
        for frame in frames:
            if not 0 <= frame < pages:
                raise ConfigError(f"frame is {frame}; the file has {pages}, counted from 0")
        return picture.values[frames]

    def grey(frames: list[int], stored: np.ndarray) -> _Grey:
        known = np.ones(stored.shape[1:], dtype=bool)
        meaning = Meaning(notes=picture.notes)
        return _Grey(stored.astype(np.float64), picture.full, meaning, known, None, None, 0)

    return _Source(pages, chosen, grey)


def _dicom_grey(ds, frames: list[int], stored: np.ndarray) -> _Grey:
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
    return _Grey(stack, full, meaning, known, header, ds, frames[0])


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


def _place(grey: _Grey, size: tuple[int, int], carm, geometry: dict):
    """C-arm, pose, start, and sentences about them."""
    if carm is None and grey.header is None:
        return *_by_hand(size, geometry), ()
    pose = None
    if isinstance(carm, Calibration):
        carm, pose = carm.carm, carm.pose
    if carm is not None:
        if not isinstance(carm, CArm):
            raise ConfigError(f"carm is a {type(carm).__name__}; expected a CArm or a calibration")
        if (carm.height, carm.width) != size:
            raise ConfigError(
                f"carm has {carm.height} x {carm.width} pixels, the image {size[0]} x {size[1]}; "
                f"expected the same: carm.resize{size} if it shows the same field, else carm.crop"
            )
        lengths = set(geometry) & set(LENGTHS)
        if lengths or (grey.header is None and geometry):
            raise ConfigError(f"{sorted(geometry)} come with carm; expected one of both")
    if grey.header is None:
        return carm, pose, None, ()
    by_hand = set(geometry) & set(ANGLES)
    if carm is not None:
        known = {n: float(getattr(carm, n)) for n in LENGTHS} | {"flipped": carm.flipped}
        geometry = known | geometry
    try:
        device, start = start_from_dicom(grey.dataset, frame=grey.frame, **geometry)
        return carm or device, pose, start, ()
    except DicomError as error:
        if by_hand:
            raise
        if carm is not None:
            return carm, pose, None, (f"no start: {error}",)
        lengths = {n: x for n, x in geometry.items() if n in LENGTHS}
        device, _ = carm_from_dicom(grey.dataset, frame=grey.frame, **lengths)
        return device, pose, None, (f"no start: {error}",)


def _by_hand(size: tuple[int, int], geometry: dict):
    """C-arm, no pose, and start of a picture, all from keywords."""
    lacks = [name for name in LENGTHS if geometry.get(name) is None]
    if lacks:
        raise ConfigError(
            "the file tells no geometry; pass carm=CArm(...), a calibration such as "
            f"carm=read_mayacam(path), or {', '.join(f'{x}=...' for x in lacks)} [mm]"
        )
    lengths = {name: geometry[name] for name in LENGTHS}
    flipped = geometry.get("flipped")
    flipped = False if flipped is None else as_flag(flipped, "flipped")
    device = CArm(height=size[0], width=size[1], flipped=flipped, **lengths)
    angles = {n: x for n, x in geometry.items() if n in ("theta", "phi", "gamma", "b")}
    return device, None, eta(**angles) if angles else None


def _understand(
    grey: _Grey, open_field: float | None, mask: bool
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Line integrals, which pixels count, and how both were found."""
    first = grey.stack[0]
    if np.ptp(first[grey.known]) == 0 if grey.known.any() else True:
        raise ConfigError("the image is constant; expected an X-ray image")
    seen = first if len(grey.stack) == 1 else grey.stack.mean(axis=0)
    field, ground = dead_field(seen, grey.full, grey.meaning.dense)
    field &= grey.known
    if not field.any():
        raise ConfigError("no pixel holds an image; pass mask=False and weights of your own")
    meaning = meaning_of_image(grey.meaning, seen, field, grey.full)
    by_header, notes = np.ones_like(field), ()
    if grey.header is not None:
        by_header, notes = header_mask(grey.header, -meaning.dense * seen)
        if (field & by_header).any():
            field &= by_header
    stack, said = line_integrals(grey.stack, meaning, field, grey.full, open_field)
    image = stack.max(axis=0)
    frames = (f"the largest value of {len(stack)} frames",) if len(stack) > 1 else ()
    notes = (*meaning.notes, *said, *frames, *((ground,) if ground else ()), *notes)
    if not mask:
        return image, np.ones_like(field), notes
    kept, found = image_mask(image, field)
    return image, kept, (*notes, *found)
