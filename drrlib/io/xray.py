"""One door for X-ray images: a file in, a `View` out, with what was understood in its notes."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from drrlib.arrays import as_flag, as_number, as_path, check_kind
from drrlib.errors import ConfigError, DicomError
from drrlib.geometry import CArm, eta
from drrlib.io.calibration import Calibration
from drrlib.io.carm_header import carm_from_dicom, start_from_dicom
from drrlib.io.xray_mask import dead_field, header_mask, image_mask
from drrlib.io.xray_source import Grey, open_source
from drrlib.io.xray_values import (
    known_by_caller,
    line_integrals,
    meaning_of_image,
)
from drrlib.view import View

LENGTHS = ("sdd", "sod", "delx", "dely")
ANGLES = ("theta", "phi", "gamma", "b", "flipped")


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
    path = _file(path)
    page = isinstance(frame, int) and not isinstance(frame, bool)
    if not page and not (isinstance(frame, str) and frame == "max"):
        raise ConfigError(f"frame is {frame!r}; expected a number from 0, or 'max'")
    given = dict(carm=carm, values=values, bone=bone, open_field=open_field, mask=mask)
    how = _How.of(given | geometry)
    with _naming(path):
        source = open_source(path)
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
    path, how = _file(path), _How.of(options)
    with _naming(path):
        source = open_source(path)
        chosen = list(range(source.count)) if frames is None else _listed(frames)
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
    """Options of `read_xray`, checked as far as no image is needed."""

    geometry: dict
    carm: CArm | Calibration | None = None
    values: str = "auto"
    bone: str = "auto"
    open_field: float | None = None
    mask: bool = True

    @classmethod
    def of(cls, options: dict) -> "_How":
        """From all of them, lengths and angles among them."""
        known = {name: x for name, x in options.items() if name in cls._fields[1:]}
        if known.get("open_field") is not None:
            known["open_field"] = as_number(known["open_field"], "open_field")
        if "mask" in known:
            known["mask"] = as_flag(known["mask"], "mask")
        geometry = {name: x for name, x in options.items() if name not in known}
        unknown = sorted(set(geometry) - {*LENGTHS, *ANGLES})
        if unknown:
            raise ConfigError(f"unknown {unknown}; choose of {', '.join((*LENGTHS, *ANGLES))}")
        return cls(geometry, **known)


def _listed(frames: object) -> list:
    check_kind(frames, (list, tuple, range), "frames")
    return list(frames)


def _file(path: str | os.PathLike) -> Path:
    path = as_path(path)
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


def _view(grey: Grey, how: _How) -> View:
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


def _place(grey: Grey, size: tuple[int, int], carm, geometry: dict):
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
    grey: Grey, open_field: float | None, mask: bool
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
