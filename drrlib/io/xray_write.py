"""Write an X-ray image, such as a DRR, as a valid DICOM X-ray angiogram (PS3.3 A.14).

Values are counts: open x exp(-line integral), rounded, which PixelIntensityRelationship LIN says.
The header has lengths and positioner angles, as `carm_header` reads them. It cannot hold two things
of a pose: the translation b, which no tag tells, and a turn of the picture between the quarter
turns of FieldOfViewRotation.
"""

import hashlib
import math
import os
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset

from drrlib.arrays import Numbers, as_path, as_tensor, check_kind
from drrlib.atomic import write_whole
from drrlib.errors import ConfigError, GeometryError, ShapeError
from drrlib.geometry import CArm, to_degrees
from drrlib.io.dicom_write import decimal, new_dataset, new_uid

XRAY_ANGIOGRAM = "1.2.840.10008.5.1.4.1.1.12.1"
OPEN = 60000  # counts where nothing attenuates; line integrals up to 11 are above 0


def write_xray(
    path: str | os.PathLike,
    image: Numbers,
    carm: CArm,
    eta: Numbers | None = None,
    *,
    description: str = "drrlib DRR",
) -> Path:
    """Write one X-ray image; `read_xray` reads back image, C-arm, and the angles of `eta`.

    The same arguments give the same bytes, UIDs included. No patient is named.

    Args:
        path: Where to, such as "xray.dcm".
        image: Line integrals [height, width], or with leading axes of length 1. What is below 0,
            as by noise, is kept down to -0.09.
        carm: Its C-arm, with the detector's middle on the central ray (x0 = y0 = 0).
        eta: Pose parameters [6] (rad, mm), of which the header holds the angles; gamma to the next
            quarter turn. None to leave the angles out.
        description: SeriesDescription, at most 64 characters.

    Raises:
        ShapeError, ConfigError: an image of another size, or that is not finite; a description.
        GeometryError: a C-arm or angles that the header cannot hold.
        OSError: it cannot be written.
    """
    path = as_path(path)
    check_kind(carm, CArm, "carm")
    image = as_tensor(image, "image").detach().cpu().double().numpy()
    if image.shape[-2:] != (carm.height, carm.width) or image.size != carm.height * carm.width:
        raise ShapeError(
            f"image has shape {image.shape}; expected one image of the C-arm's "
            f"{carm.height} x {carm.width} pixels"
        )
    if not np.isfinite(image).all():
        raise ConfigError("image has NaN or infinite pixels; replace them first")
    if (
        not isinstance(description, str)
        or len(description) > 64
        or "\\" in description
        or not description.isascii()
    ):
        raise ConfigError("description is not plain text of at most 64 characters without \\")
    if float(carm.x0) or float(carm.y0):
        raise GeometryError(
            "the header of an X-ray image holds a C-arm whose central ray meets the middle of the "
            "detector; expected a CArm with x0 = y0 = 0"
        )
    counts = np.rint(OPEN * np.exp(-image.reshape(image.shape[-2:]))).clip(0, 65535)
    ds = _dataset(counts.astype("<u2"), carm, _angles(carm, eta), description)
    write_whole(path, lambda name: ds.save_as(name, enforce_file_format=True))
    return path


def _angles(carm: CArm, eta: Numbers | None) -> tuple[float, float, int] | None:
    """Primary and secondary angle, and the clockwise quarter turn of the picture [deg]."""
    if eta is None:
        return None
    eta = as_tensor(eta, "eta").detach().cpu().double()
    if tuple(eta.shape) != (6,):
        raise ShapeError(f"eta has shape {tuple(eta.shape)}; expected (6,)")
    center = eta.new_zeros(3)
    theta, phi, gamma = to_degrees(carm.eta(carm.pose(eta, center), center))[:3].tolist()
    if not all(math.isfinite(x) for x in (theta, phi, gamma)):
        raise GeometryError("eta has angles that are not finite; expected rad")
    return phi, theta, 90 * round(gamma / 90) % 360


def _dataset(
    counts: np.ndarray, carm: CArm, angles: tuple[float, float, int] | None, description: str
) -> FileDataset:
    """The object; attributes in the order of the X-Ray Angiographic Image IOD."""
    key = hashlib.sha256(f"{counts.shape}{description}{carm}{angles}".encode())
    key.update(counts.tobytes())
    key = key.hexdigest()
    ds = new_dataset(XRAY_ANGIOGRAM, key, "image")
    ds.Modality, ds.SeriesInstanceUID, ds.SeriesNumber = "XA", new_uid(key, "series"), 1
    ds.SeriesDescription = description
    ds.Manufacturer = "drrlib"
    ds.InstanceNumber, ds.PatientOrientation = 1, ""
    ds.ImageType = ["DERIVED", "PRIMARY", "SINGLE PLANE"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = counts.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LIN", 1
    ds.KVP, ds.RadiationSetting, ds.XRayTubeCurrent, ds.ExposureTime = None, "GR", None, None
    ds.FieldOfViewRotation = angles[2] if angles else 0
    ds.FieldOfViewHorizontalFlip = "YES" if carm.flipped else "NO"
    ds.ImagerPixelSpacing = decimal([float(carm.dely), float(carm.delx)])
    ds.DistanceSourceToDetector = decimal([float(carm.sdd)])[0]
    ds.DistanceSourceToPatient = decimal([float(carm.sod)])[0]
    if angles:
        ds.PositionerMotion = "STATIC"
        ds.PositionerPrimaryAngle, ds.PositionerSecondaryAngle = decimal(angles[:2])
    ds.PixelData = counts.tobytes()
    return ds
