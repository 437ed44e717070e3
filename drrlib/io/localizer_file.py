"""CT localizers as views: a file in, picture, geometry and pose out."""

import os

import numpy as np
import torch

from drrlib.arrays import as_path
from drrlib.errors import ConfigError, DicomError
from drrlib.io.dicom_tags import numbers, words
from drrlib.io.localizer_header import localizer_from_dicom
from drrlib.io.xray_file import is_dicom, open_dicom, stored_frames
from drrlib.view import View


def is_localizer(path: str | os.PathLike) -> bool:
    """Whether a file is a CT localizer by its header; False for what is no readable DICOM file."""
    try:
        path = as_path(path)
        return is_dicom(path) and "LOCALIZER" in words(open_dicom(path, ["ImageType"]), "ImageType")
    except (OSError, ConfigError, DicomError):
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
    path = as_path(path)
    header = open_dicom(path)
    try:
        geometry, pose = localizer_from_dicom(header, **others)
    except DicomError as error:
        raise DicomError(f"{path.name!r}: {error}") from None
    stored = stored_frames(path, header, [0])[0].astype(np.float64)
    slope = numbers(header, "RescaleSlope", 1)
    image = torch.from_numpy(-stored if slope is not None and slope[0] < 0 else stored)
    notes = (
        "a CT localizer: a fan across the table, parallel along it; values as the scanner has them",
    )
    return View(image, geometry, pose=pose, notes=notes, lines=False)
