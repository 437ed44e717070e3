"""CT series from DICOM files: Hounsfield units with the true affine of the slices."""

import os
import struct
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder
from pydicom.uid import JPEG2000TransferSyntaxes

from drrlib.errors import DicomError
from drrlib.io.dicom_headers import Series, SeriesInfo, scan
from drrlib.io.dicom_tags import Header, numbers, read_dataset, whole

AIR_HU = -1000.0
FAR_HU = 65536.0  # far beyond the extended CT scale; a damaged header


@dataclass(frozen=True, eq=False)
class CTSeries:
    """Voxels of a CT series.

    Attributes:
        hu: Hounsfield units, float32 [x, y, z] = [column, row, slice].
        affine: world_from_voxel [mm, LPS], float64 [4, 4]; sheared where the gantry was tilted,
            always right-handed.
        info: The series that was read.
    """

    hu: np.ndarray
    affine: np.ndarray
    info: SeriesInfo


def list_series(path_or_paths: str | os.PathLike | Iterable) -> list[SeriesInfo]:
    """Every DICOM series of a folder with its sub-folders, a file or a list of these.

    Reads headers only. File names do not matter; other files are passed over.

    Raises:
        DicomError: a path does not exist.
    """
    return [series.info for series in scan(path_or_paths)[0]]


def read_ct_series(
    path_or_paths: str | os.PathLike | Iterable, *, series: int | None = None
) -> CTSeries:
    """Read one CT series.

    Slices are sorted by their position along the normal, and every position must lie on one
    evenly spaced line; the step between slices is kept as a vector, so that a tilted gantry gives
    a sheared affine. RescaleSlope and RescaleIntercept are applied slice by slice; pixels with
    PixelPaddingValue become air (-1000 HU).

    Args:
        path_or_paths: Folder (searched with its sub-folders), file, or list of these.
        series: SeriesNumber; needed where several series are usable.

    Raises:
        DicomError: no series or several fit, or the one is not an evenly spaced stack of CT
            slices, cannot be decoded or is damaged.
    """
    found, ignored = scan(path_or_paths)
    chosen = _choose(found, ignored, series)
    _check_decoder(chosen)
    headers = chosen.headers
    stack = np.empty((len(headers), headers[0].rows, headers[0].columns), dtype=np.float32)
    for k, header in enumerate(headers):
        try:
            stack[k] = _slice_hu(header)
        except DicomError as error:
            raise DicomError(f"{chosen.info.name}, slice {k}: {error}") from error.__cause__
    return CTSeries(hu=stack.transpose(2, 1, 0), affine=chosen.affine, info=chosen.info)


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
        f"{len(usable)} CT series are usable, expected one; choose by `series=<number>`, or pass "
        f"the `paths` of one entry of list_series(...):{listing}"
    )


def _check_decoder(chosen: Series) -> None:
    ds = read_dataset(chosen.headers[0].path, pixels=False)
    syntax = ds.file_meta.TransferSyntaxUID
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    # Deflated and big-endian data have decoders of their own in pydicom, always available.
    if not available:
        raise DicomError(
            f"{chosen.info.name}: its compression, {syntax.name}, cannot be decoded here; "
            "pip install pylibjpeg pylibjpeg-openjpeg pylibjpeg-libjpeg, or export the series "
            "uncompressed"
        )


def _slice_hu(header: Header) -> np.ndarray:
    """Hounsfield units [row, column] of one file."""
    ds = read_dataset(header.path, pixels=True)
    if ds is None or "PixelData" not in ds:
        raise DicomError("no pixel data, or the file cannot be read; copy or export it again")
    announced = jpeg2000_size(ds)
    if announced not in (None, (header.rows, header.columns)):
        raise DicomError(
            f"the compressed image announces {announced[0]} x {announced[1]} pixels and the header "
            f"{header.rows} x {header.columns}: the file is damaged"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stored = ds.pixel_array
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
    slope, intercept = header.rescale
    hu = stored * slope + intercept
    padding = _padding(ds)
    if padding is not None:
        hu[(stored >= padding[0]) & (stored <= padding[1])] = AIR_HU
    if np.abs(hu).max() > FAR_HU:
        raise DicomError(
            f"values up to {np.abs(hu).max():.3g} HU; expected at most {FAR_HU:g}: the rescale "
            f"slope ({slope:g}) or intercept ({intercept:g}) is damaged"
        )
    return hu


def jpeg2000_size(ds: Dataset) -> tuple[int, int] | None:
    """(rows, columns) that a JPEG 2000 stream announces, read before anything is decoded: a few
    bytes could ask for gigabytes. Source: ISO/IEC 15444-1, A.5.1 (SIZ marker)."""
    if ds.file_meta.TransferSyntaxUID not in JPEG2000TransferSyntaxes:
        return None
    at = ds.PixelData.find(b"\xff\x4f\xff\x51")
    fields = ds.PixelData[at + 8 : at + 24]
    if at < 0 or len(fields) < 16:
        return 0, 0
    right, bottom, left, top = struct.unpack(">4I", fields)
    return bottom - top, right - left


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
