"""Geometry of a CT localizer in the header of its CT Image object (DICOM PS3.3 C.8.2.1).

- ImageType: the third value is LOCALIZER.
- ImagePositionPatient, ImageOrientationPatient, PixelSpacing (C.7.6.2): the place of every pixel in
  patient coordinates. The plane is the one through the gantry's axis; the spacing holds there.
- DistanceSourceToDetector, DistanceSourceToPatient: the latter is the distance from the source to
  the gantry's axis, as makers of CT scanners fill it in (C.8.2.1 names the patient, which lies
  there).
- TubeAngle (C.8.15.3.8): 0 with the tube above the table, clockwise for someone who faces the
  gantry where the table enters. The retired AngularPosition is read where TubeAngle is missing
  and taken to mean the same.
- PatientPosition (C.7.3.1.1.2): which way the patient lies in the gantry, hence which side of the
  patient the tube sees. Without it the tube could stand on either side of the picture.
- GantryDetectorTilt: must be 0; a tilted fan is another geometry.

No tag tells the column of the central ray. It is taken to be the middle of the picture, as for
a scan centred in the field of view; a shift of one pixel there tilts the rays by spacing / sod,
which moves what lies 100 mm off the axis by 0.2 mm. TableHeight is measured from the table's top,
not from the patient's origin, and so cannot tell it either. `x0` of the result can be replaced.

Only these tags are read; none of them tells about the patient.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.errors import ConfigError, DicomError
from drrlib.geometry import ScanProjection
from drrlib.io.dicom_tags import numbers, whole, words

# Patient coordinates of what someone who looks into the gantry from the table sees: up and right.
_SEEN = {
    "HFS": ((0, -1, 0), (1, 0, 0)),
    "HFP": ((0, 1, 0), (-1, 0, 0)),
    "FFS": ((0, -1, 0), (-1, 0, 0)),
    "FFP": ((0, 1, 0), (1, 0, 0)),
}
_ASIDE = 0.02  # largest cosine between directions that must be perpendicular, about 1 degree


def localizer_from_dicom(
    header,
    *,
    sdd: float | None = None,
    sod: float | None = None,
    tube_angle: float | None = None,
    patient_position: str | None = None,
) -> tuple[ScanProjection, Float[Tensor, "4 4"]]:
    """Lengths and pose of a CT localizer.

    Nothing is guessed: what the header lacks must be given by keyword, which also replaces what
    the header says.

    Args:
        header: pydicom dataset.
        sdd, sod: Source-detector and source-isocentre distance [mm].
        tube_angle: Where the tube stands [deg]: 0 above the table, 90 to the right of someone who
            looks into the gantry from the table's side.
        patient_position: "HFS", "HFP", "FFS" or "FFP".

    Returns:
        The geometry, and world_from_camera in the patient coordinates of the header, which a CT
        with the same FrameOfReferenceUID shares. `geometry.eta(pose, volume.center)` has the six
        parameters.

    Raises:
        ConfigError: not a dataset, or an unknown patient position.
        DicomError: not a localizer, or names the missing or unusable tag and the keyword that
            replaces it.
        GeometryError: lengths that no scanner can have.
    """
    if not hasattr(header, "get"):
        raise ConfigError(
            f"header is a {type(header).__name__}; expected a pydicom dataset: read the file "
            "with pydicom.dcmread(path, stop_before_pixels=True)"
        )
    if "LOCALIZER" not in words(header, "ImageType"):
        raise DicomError(
            "the header's ImageType lacks LOCALIZER; expected a CT localizer: read slices with "
            "read_ct_series, and X-ray images with carm_from_dicom"
        )
    tilt = numbers(header, "GantryDetectorTilt", 1)
    if tilt is not None and abs(tilt[0]) > 0.1:
        raise DicomError(
            "GantryDetectorTilt is not 0: the fan does not stand across the table; expected an "
            "untilted localizer"
        )
    sdd = _length(header, "DistanceSourceToDetector", "sdd", sdd)
    sod = _length(header, "DistanceSourceToPatient", "sod", sod)
    corner = _needed(header, "ImagePositionPatient", 3)
    directions = _needed(header, "ImageOrientationPatient", 6)
    spacing = _needed(header, "PixelSpacing", 2)
    if spacing.min() <= 0:
        raise DicomError("the header has an unusable PixelSpacing; expected two numbers above 0")
    rows, columns = whole(header, "Rows"), whole(header, "Columns")
    if rows is None or columns is None or min(rows, columns) < 1:
        raise DicomError("the header lacks Rows or Columns; is it the header of an image?")
    ahead = -_tube_direction(header, tube_angle, patient_position)
    along_row, down = _directions(directions, ahead)
    up = -down
    right = np.cross(up, ahead)
    middle = corner + along_row * spacing[1] * (columns - 1) / 2
    middle = middle + down * spacing[0] * (rows - 1) / 2
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, up, ahead], axis=1)
    pose[:3, 3] = middle - sod * ahead
    dely, delx = spacing.tolist()
    flipped = bool(along_row @ right < 0)
    geometry = ScanProjection(sdd, sod, rows, columns, delx, dely, flipped=flipped)
    return geometry, torch.from_numpy(pose)


def _length(header, tag: str, keyword: str, given: float | None) -> float:
    if given is not None:
        return given
    found = numbers(header, tag, 1)
    if found is None or found[0] <= 0:
        raise DicomError(
            f"the header lacks {tag}, or it is unusable; expected a number above 0: look it up in "
            f"the scanner's manual and pass {keyword}=... [mm]"
        )
    return float(found[0])


def _needed(header, tag: str, count: int) -> np.ndarray:
    found = numbers(header, tag, count)
    if found is None:
        raise DicomError(
            f"the header lacks {tag}, or it is unusable; expected {count} numbers. Without it the "
            "place of the pixels is unknown: build the ScanProjection and its pose by hand"
        )
    return found


def _tube_direction(header, angle: float | None, position: str | None) -> np.ndarray:
    """From the isocentre to the tube, a unit vector in patient coordinates."""
    if angle is None:
        for tag in ("TubeAngle", "AngularPosition"):
            found = numbers(header, tag, 1)
            if found is not None:
                angle = float(found[0])
                break
        else:
            raise DicomError(
                "the header lacks TubeAngle and AngularPosition, or they are unusable; expected "
                "where the tube stands: pass tube_angle=... [deg], 0 above the table, 90 to the "
                "right of someone who looks into the gantry"
            )
    if position is None:
        position = (words(header, "PatientPosition") or [""])[0]
        if position not in _SEEN:
            raise DicomError(
                f"the header lacks PatientPosition, or it is none of {', '.join(_SEEN)}; expected "
                "how the patient lay: pass patient_position=..."
            )
    if position not in _SEEN:
        raise ConfigError(f"patient_position is {position!r}; choose one of {', '.join(_SEEN)}")
    up, right = np.array(_SEEN[position], dtype=np.float64)
    return math.cos(math.radians(angle)) * up + math.sin(math.radians(angle)) * right


def _directions(six: np.ndarray, ahead: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors along increasing columns and rows, checked against the beam."""
    along_row, down = six.reshape(2, 3)
    lengths = np.linalg.norm(six.reshape(2, 3), axis=1)
    if abs(lengths - 1).max() > 1e-2 or abs(along_row @ down) > _ASIDE:
        raise DicomError("ImageOrientationPatient is not two perpendicular unit vectors")
    if np.linalg.norm(down[:2]) > _ASIDE:
        raise DicomError(
            "the rows of the picture do not follow the table (ImageOrientationPatient); expected "
            "the patient's long axis along its columns: turn picture and header by 90 degrees"
        )
    if abs(along_row @ ahead) > _ASIDE:
        raise DicomError(
            "the tube does not stand opposite to the picture (TubeAngle or AngularPosition against "
            "ImageOrientationPatient); expected a right angle: check tube_angle and "
            "patient_position"
        )
    # What is left of skew, far below a pixel, goes: the camera must be a rotation.
    down = np.array([0.0, 0.0, np.sign(down[2])])
    along_row = along_row - (along_row @ ahead) * ahead
    along_row = along_row - (along_row @ down) * down
    return along_row / np.linalg.norm(along_row), down
