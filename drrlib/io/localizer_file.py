"""CT localizers as views: a file in, picture, geometry and pose out."""

import os
import warnings
from pathlib import Path

import numpy as np
import pydicom
import torch

from drrlib.errors import DicomError
from drrlib.io.dicom_tags import numbers, words
from drrlib.io.localizer_header import localizer_from_dicom
from drrlib.view import View


def is_localizer(path: str | os.PathLike) -> bool:
    """Whether a file is a CT localizer by its header; False for what cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote values of the header
            header = pydicom.dcmread(path, specific_tags=["ImageType"], stop_before_pixels=True)
        return "LOCALIZER" in words(header, "ImageType")
    except Exception:  # a damaged header can raise nearly anything
        return False


def read_localizer(path: str | os.PathLike, **others) -> View:
    """A CT localizer (scout, topogram, surview) as a `View` with its geometry and pose.

    Its values are a picture's: scanners sharpen it. The pose is that of the header, in the patient
    coordinates of every CT with the same FrameOfReferenceUID, and is where `register` begins.

    Args:
        path: The file.
        others: sdd, sod, tube_angle and patient_position as in `localizer_from_dicom`.

    Raises:
        DicomError: no localizer, damaged, or lacking something; names the tag. No message repeats
            a patient's data.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path)
            stored = header.pixel_array.astype(np.float64)
    except Exception as error:  # a damaged file can raise nearly anything
        raise DicomError(
            f"{path.name!r} cannot be read as a DICOM image ({type(error).__name__}): damaged or "
            "cut short, or a decoder is missing"
        ) from None  # whose text may quote the file
    try:
        geometry, pose = localizer_from_dicom(header, **others)
    except DicomError as error:
        raise DicomError(f"{path.name!r}: {error}") from None
    if stored.shape != (geometry.height, geometry.width):
        raise DicomError(f"{path.name!r}: the pixels have shape {stored.shape}; damaged")
    slope = numbers(header, "RescaleSlope", 1)
    image = torch.from_numpy(stored if slope is None else np.sign(slope[0]) * stored)
    notes = (
        "a CT localizer: a fan across the table, parallel along it; values as the scanner has them",
    )
    return View(image, geometry, pose=pose, notes=notes, lines=False)
