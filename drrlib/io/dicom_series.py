"""CT series from DICOM files: Hounsfield units with the true affine of the slices."""

import math
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real

import numpy as np
from pydicom.dataset import Dataset

from drrlib.errors import ConfigError, DicomError
from drrlib.io.dicom_headers import Series, SeriesInfo, scan
from drrlib.io.dicom_pixels import can_decode, compression_of, decoded, jpeg2000_size
from drrlib.io.dicom_tags import Header, numbers, read_dataset, whole
from drrlib.io.plausible import warn_of_air

AIR_HU = -1000.0
# Beyond what 16 bits with a sign can hold: a damaged header, or -1000 read without its sign.
FAR_HU = 32768.0


@dataclass(frozen=True, eq=False)
class CTSeries:
    """Voxels of a CT series.

    Attributes:
        hu: Hounsfield units, float32 [x, y, z] = [column, row, slice].
        affine: world_from_voxel [mm, LPS], float64 [4, 4]; sheared where the gantry was tilted,
            always right-handed.
        info: The series that was read.
        note: What `resample` did; empty where the slices are as they were.
    """

    hu: np.ndarray
    affine: np.ndarray
    info: SeriesInfo
    note: str = ""


def list_series(path_or_paths: str | os.PathLike | Iterable) -> list[SeriesInfo]:
    """Every DICOM series of a folder with its sub-folders, a file or a list of these.

    Acquisitions, phases and reconstructions that share a series and lie in one another are listed
    one by one: `read_ct_series(path, part=info.part)` reads that one.

    Reads headers only. File names do not matter; other files are passed over.

    Raises:
        DicomError: a path does not exist.
    """
    return [series.info for series in scan(path_or_paths)[0]]


def read_ct_series(
    path_or_paths: str | os.PathLike | Iterable,
    *,
    series: int | None = None,
    part: str | None = None,
    resample: float | None = None,
) -> CTSeries:
    """Read one CT series.

    Slices are sorted by their position along the normal, and every position must lie on one
    evenly spaced line; the step between slices is kept as a vector, so that a tilted gantry gives
    a sheared affine. RescaleSlope and RescaleIntercept are applied slice by slice; pixels with
    PixelPaddingValue become air (-1000 HU).

    Args:
        path_or_paths: Folder (searched with its sub-folders), file, or list of these.
        series: SeriesNumber; needed where several series are usable.
        part: Which of the stacks that share a series, as `list_series` names it; such as
            "AcquisitionNumber 2".
        resample: Interpolate linearly between the slices to this distance [mm], for series of
            several spacings or with a gap; a warning and `note` say what was done.

    Raises:
        ConfigError: `resample` is no length above 0.
        DicomError: no series or several fit, or the one is not an evenly spaced stack of CT
            slices, cannot be decoded or is damaged.
    """
    if resample is not None and not (isinstance(resample, Real) and 0 < resample < math.inf):
        raise ConfigError(f"resample is {resample!r}; expected a distance above 0 [mm], or None")
    found, ignored = scan(path_or_paths, resample)
    if part is not None:
        named = [s for s in found if s.info.part == part]
        if not named:
            raise DicomError(
                f"no stack has the part {part!r}; choose `part` from:"
                + "".join(f"\n  {s.info}" for s in found)
            )
        found = named
    chosen = _choose(found, ignored, series)
    _check_decoder(chosen)
    headers = chosen.headers
    stack = np.empty((len(headers), headers[0].rows, headers[0].columns), dtype=np.float32)
    path = ds = None
    for k, header in enumerate(headers):
        try:
            if header.path != path:
                path, ds = header.path, read_dataset(header.path, pixels=True)
            stack[k] = _slice_hu(header, ds)
        except DicomError as error:
            raise DicomError(f"{chosen.info.name}, slice {k}: {error}") from error.__cause__
    if chosen.places is not None:
        stack = _between(stack, chosen.places)
        warnings.warn(f"{chosen.info.name}: {chosen.note}", stacklevel=2)
    hu = stack.transpose(2, 1, 0)
    warn_of_air(hu, stacklevel=3)
    return CTSeries(hu, chosen.affine, chosen.info, chosen.note)


def _between(stack: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Slices at fractional places of a stack [slice, row, column]."""
    out = np.empty((len(places), *stack.shape[1:]), dtype=np.float32)
    for new, place in zip(out, places, strict=True):
        k = min(int(place), len(stack) - 2)
        new[:] = stack[k] + np.float32(place - k) * (stack[k + 1] - stack[k])
    return out


def _choose(found: list[Series], ignored: int, number: int | None) -> Series:
    if not found:
        raise DicomError(
            f"no DICOM images found ({ignored} other files); expected the folder or the files of a "
            "CT series"
        )
    fitting = [s for s in found if number is None or s.info.number == number]
    usable = [s for s in fitting if s.info.usable]
    if len(usable) == 1:
        return usable[0]
    if len(fitting) == 1:
        raise DicomError(f"{fitting[0].info.name} cannot be used: {fitting[0].info.reason}")
    listing = "".join(f"\n  {s.info}" for s in (fitting or found))
    if not fitting:
        raise DicomError(f"no series has number {number}; choose `series` from:{listing}")
    if not usable:
        raise DicomError(f"none of {len(fitting)} series is a usable CT:{listing}")
    raise DicomError(
        f"{len(usable)} CT series are usable, expected one; choose by `series=<number>`, or by "
        "`part=<what tells it apart>`, or pass the `paths` of one entry of list_series(...):"
        f"{listing}"
    )


def _check_decoder(chosen: Series) -> None:
    ds = read_dataset(chosen.headers[0].path, pixels=False)
    if not can_decode(ds):
        raise DicomError(
            f"{chosen.info.name}: its compression, {compression_of(ds)}, cannot be decoded here; "
            "pip install pylibjpeg pylibjpeg-openjpeg pylibjpeg-libjpeg, or export the series "
            "uncompressed"
        )


def _slice_hu(header: Header, ds: Dataset | None) -> np.ndarray:
    """Hounsfield units [row, column] of one file, or of one of its frames."""
    if ds is None or "PixelData" not in ds:
        raise DicomError("no pixel data, or the file cannot be read; copy or export it again")
    announced = jpeg2000_size(ds)
    if announced not in (None, (header.rows, header.columns)):
        raise DicomError(
            f"the compressed image announces {announced[0]} x {announced[1]} pixels and the header "
            f"{header.rows} x {header.columns}: the file is damaged"
        )
    try:
        stored = decoded(ds, header.frame)
    except Exception as error:  # decoders raise errors of many kinds
        raise DicomError(
            f"the pixel data cannot be decoded ({type(error).__name__}): damaged or cut short, or "
            "a decoder is missing; copy the file again, or "
            "pip install pylibjpeg pylibjpeg-openjpeg pylibjpeg-libjpeg"
        ) from None  # whose text may quote the file
    if stored.shape != (header.rows, header.columns):
        raise DicomError(
            f"the pixels have shape {stored.shape}; the header says "
            f"({header.rows}, {header.columns}): the file is damaged"
        )
    _check_bits(ds, stored)
    slope, intercept = header.rescale
    hu = stored * slope + intercept
    padding = _padding(ds)
    if padding is not None:
        hu[(stored >= padding[0]) & (stored <= padding[1])] = AIR_HU
    if hu.max() > FAR_HU or hu.min() < -2 * FAR_HU:
        raise DicomError(
            f"values of {hu.min():.6g} to {hu.max():.6g} HU; expected at most {FAR_HU:g}: the "
            f"rescale slope ({slope:g}) or intercept ({intercept:g}) is damaged, or signed values "
            "are declared unsigned (PixelRepresentation 0), as some anonymisers leave them"
        )
    return hu


def _check_bits(ds: Dataset, stored: np.ndarray) -> None:
    """Raises DicomError where words hold more than the pixel, such as bits of an overlay."""
    bits = whole(ds, "BitsStored") or 16
    signed = whole(ds, "PixelRepresentation") == 1
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if stored.min() < low or stored.max() > high:
        raise DicomError(
            f"stored values go from {stored.min()} to {stored.max()}, and {bits} bits (BitsStored) "
            f"hold {low} to {high}: overlay bits are left in the pixels, or the header is damaged; "
            "export the series without overlays"
        )


def _padding(ds: Dataset) -> tuple[float, float] | None:
    """Lowest and highest stored value that means "no measurement here"."""
    found = numbers(ds, "PixelPaddingValue", 1)
    if found is None:
        return None
    limit = numbers(ds, "PixelPaddingRangeLimit", 1)
    both = np.concatenate([found, found if limit is None else limit])
    # Some writers store a negative value with the VR of an unsigned one, or the reverse.
    bits = whole(ds, "BitsAllocated") or 16
    if whole(ds, "PixelRepresentation") == 1:
        both = np.where(both >= 2 ** (bits - 1), both - 2**bits, both)
    else:
        both = np.where(both < 0, both + 2**bits, both)
    return float(both.min()), float(both.max())
