"""C-arm geometry in the header of an X-ray image (XA, DX, CR), as DICOM PS3.3 defines it.

- DistanceSourceToDetector (C.8.7.5): source to detector centre [mm].
- DistanceSourceToPatient (C.8.7.5): source to isocentre [mm] for a C-arm. For a DX column stand it
  is the distance to the table or bucky instead, so there pass `sod` by hand.
- ImagerPixelSpacing (C.8.7.2): row, then column spacing at the detector [mm]. PixelSpacing may be
  calibrated to the patient's depth and is not used.
- PositionerPrimaryAngle (LAO +) and PositionerSecondaryAngle (cranial +) of the first frame [deg];
  PositionerPrimaryAngleIncrement and ...Secondary...: one value is the mean change per frame, a
  list holds every frame's offset from the first (C.8.7.5.1.3).
- FieldOfViewRotation, clockwise [deg], then FieldOfViewHorizontalFlip: what was done to the pixels
  after they left the detector (C.8.11.4). DICOM does not say how the detector itself is mounted;
  the unturned picture is taken to be the radiographic one, seen from the detector with the head
  up. Other devices need `flipped` or gamma set by hand.
- The isocentre is projected to the middle of the image, as the XA object assumes (PS3.17
  FFF.2.1.5.2): x0 = y0 = 0.

For the start of a registration (`start_from_dicom`) also:

- PatientOrientation (C.7.6.1.1.1): where in the patient the stored rows and columns point. It
  settles turn and flip, whatever the device does.
- PatientPosition (C.7.3.1.1.2) is an annotation. The positioner angles "shall be with respect to
  the patient" (C.8.7.5.1.2), so prone or on the side changes nothing; feet first leaves open
  which way up the picture is.
- TableMotion and increments (C.8.7.4) are relative to the first frame. No tag of these objects
  says where a CT lies relative to the isocentre, so that b is not in the header.

Enhanced XA and XRF keep all this in functional groups, shared or of each frame, which
`xray_file.flat_header` lays flat.

Only these tags are read; none of them names the patient.
"""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from pydicom.dataset import Dataset
from torch import Tensor

from drrlib.arrays import as_flag, as_number, as_numbers, as_whole
from drrlib.errors import ConfigError, DicomError
from drrlib.geometry import CArm, eta
from drrlib.io.carm_tags import (
    lengths_of,
    numbers_of,
    orientation_of,
    pixels_of,
    positioner_angle,
    unusable,
)
from drrlib.io.dicom_tags import words
from drrlib.io.quiet import quiet
from drrlib.io.xray_file import TABLE, flat_header, is_grouped

# Towards what in the patient a letter of PatientOrientation points, in LPS.
_LETTERS = {"L": (1, 0, 0), "P": (0, 1, 0), "H": (0, 0, 1)}
_LETTERS |= {"R": (-1, 0, 0), "A": (0, -1, 0), "F": (0, 0, -1)}
_TABLE = ("TableVerticalIncrement", "TableLongitudinalIncrement", "TableLateralIncrement")


def carm_from_dicom(
    header,
    *,
    sdd: float | None = None,
    sod: float | None = None,
    delx: float | None = None,
    dely: float | None = None,
    frame: int = 0,
) -> tuple[CArm, Float[Tensor, "6"] | None]:
    """Intrinsics and positioner angles of an XA, DX or CR image.

    No length is guessed: what the header lacks must be given by keyword, which also replaces
    what the header says.

    Args:
        header: pydicom dataset.
        sdd, sod: Source-detector and source-isocentre distance [mm].
        delx, dely: Column and row spacing at the detector [mm].
        frame: Which frame of a run, from 0; its angles differ where the positioner moved.

    Returns:
        The C-arm, and eta with the angles and no offset; None where the header lacks a
        positioner angle.

    Raises:
        ConfigError: not a dataset, or no such frame.
        DicomError: names the missing or unusable tag and the keyword that replaces it.
        GeometryError: lengths that no C-arm can have.
    """
    frame = as_whole(frame, "frame", 0)
    lengths = dict(sdd=sdd, sod=sod, dely=dely, delx=delx)
    with _flat(header, frame) as (header, place):
        device, turn = _device(header, lengths, place)
        angles = [positioner_angle(header, which, place) for which in ("Secondary", "Primary")]
    return device, None if None in angles else eta(angles[0], angles[1], turn, degrees=True)


def start_from_dicom(
    header,
    *,
    theta: float | None = None,
    phi: float | None = None,
    gamma: float | None = None,
    b: Sequence[float] | None = None,
    flipped: bool | None = None,
    sdd: float | None = None,
    sod: float | None = None,
    delx: float | None = None,
    dely: float | None = None,
    frame: int = 0,
) -> tuple[CArm, Float[Tensor, "6"]]:
    """The C-arm of an XA or DX image, and an eta to start its registration from.

    Nothing is guessed: what the header lacks is named in the error, with the keyword that replaces
    it. A keyword also replaces what the header says.

    Args:
        header: pydicom dataset.
        theta, phi: Cranial(+)/caudal(-) and LAO(+)/RAO(-) angle [rad]; from the positioner angles.
        gamma: Turn of the detector [rad]; from PatientOrientation, else from FieldOfViewRotation.
        b: Offset of the isocentre from the CT's centre [mm, LPS]; 0 unless given, since no header
            knows the CT. The nearer the CT's middle is to the isocentre, the better the start.
        flipped: As in `CArm`; from PatientOrientation, else, or if gamma is given, from
            FieldOfViewHorizontalFlip.
        sdd, sod, delx, dely, frame: As in `carm_from_dicom`.

    Returns:
        The C-arm, and eta [6], float64, for `register` and `CArm.pose`.

    Raises:
        ConfigError: not a dataset, no such frame, or a keyword that is not finite.
        DicomError: names the tag that is missing, unusable or in contradiction, and the keyword.
        GeometryError: lengths that no C-arm can have.
    """
    offset = [0.0] * 3 if b is None else list(as_numbers(b, "b", 3))
    given = {"theta": theta, "phi": phi, "gamma": gamma}
    theta, phi, gamma = (None if x is None else as_number(x, n) for n, x in given.items())
    flipped = None if flipped is None else as_flag(flipped, "flipped")
    frame = as_whole(frame, "frame", 0)
    lengths = dict(sdd=sdd, sod=sod, dely=dely, delx=delx)
    with _flat(header, frame) as (flat, place):
        if b is None and frame and _table_moved(header, flat, frame):
            raise DicomError(
                f"the table moved before frame {frame}; its tags tell the way in the table's own "
                "directions and only since frame 0: pass b=... [mm], or use frame 0"
            )
        return _start(flat, place, lengths, (theta, phi, gamma), offset, flipped)


def _start(header, frame: int, lengths, given, offset, flipped) -> tuple[CArm, Float[Tensor, "6"]]:
    """As `start_from_dicom`, from a flat header."""
    device, turn = _device(header, lengths, frame)
    theta, phi, gamma = given
    angles = []
    for name, which, value in (("theta", "Secondary", theta), ("phi", "Primary", phi)):
        known = positioner_angle(header, which, frame) if value is None else None
        if value is None and known is None:
            raise DicomError(
                f"the header lacks Positioner{which}Angle, which tells {name}; pass {name}=... "
                "[rad] (theta=0, phi=0: detector in front of the patient; phi=pi/2: at the left)"
            )
        angles.append(math.radians(known) if value is None else value)
    start = eta(*angles, 0.0, offset)
    if flipped is not None:
        device = dataclasses.replace(device, flipped=flipped)
    if gamma is not None:
        start[2] = gamma
    elif words(header, "PatientOrientation"):
        device, start[2] = _as_stored(header, device, start, flipped)
    else:
        _check_head_first(header)
        start[2] = math.radians(turn)
    return device, start


@contextlib.contextmanager
def _flat(header, frame: int) -> Iterator[tuple[Dataset, int]]:
    """A header without functional groups, and the frame's number in it; errors name the groups.

    Raises:
        ConfigError: no such frame.
    """
    with quiet():
        if not is_grouped(header):
            yield header, frame
            return
        _check_frame(header, frame)
        try:
            yield flat_header(header, frame), 0
        except DicomError as error:
            raise DicomError(
                f"{error} (looked for at the top and in the functional groups of frame {frame}: "
                "XRayGeometrySequence, where DistanceSourceToIsocenter is taken for "
                "DistanceSourceToPatient; FramePixelDataPropertiesSequence, FieldOfViewSequence, "
                "PositionerPositionSequence, PatientOrientationInFrameSequence)"
            ) from None


def _check_frame(header, frame: int) -> None:
    frames = numbers_of(header, "NumberOfFrames") or [1.0]
    if not 0 <= frame < frames[0]:
        raise ConfigError(f"frame is {frame}; the image has {frames[0]:g}, counted from 0")


def _device(header, given: dict[str, float | None], frame: int) -> tuple[CArm, float]:
    """The C-arm, and the clockwise turn of the picture [deg]."""
    if not hasattr(header, "get"):
        raise ConfigError(
            f"header is a {type(header).__name__}; expected a pydicom dataset: read the file "
            "with pydicom.dcmread(path, stop_before_pixels=True)"
        )
    lengths = lengths_of(header, given)
    height, width = pixels_of(header, "Rows"), pixels_of(header, "Columns")
    turn, flipped = orientation_of(header)
    _check_frame(header, frame)
    for tag in ("DetectorPrimaryAngle", "DetectorSecondaryAngle"):
        if any(numbers_of(header, tag) or []):
            raise DicomError(
                f"{tag} is not 0: the central ray does not meet the detector at a right angle; "
                "make the CArm and its pose from a calibrated matrix (from_projection_matrix)"
            )
    return CArm(height=height, width=width, flipped=flipped, **lengths), turn


def _table_moved(header, flat: Dataset, frame: int) -> bool:
    """Whether the table stands elsewhere than at frame 0; flat: the header of the frame."""
    if is_grouped(header):
        first = flat_header(header, 0)
        places = [(numbers_of(flat, tag), numbers_of(first, tag)) for tag in TABLE]
        return any(a is not None and b is not None and abs(a[0] - b[0]) > 0.05 for a, b in places)
    if "DYNAMIC" not in words(header, "TableMotion"):
        return False
    steps = [numbers_of(header, tag) for tag in _TABLE]
    return any(s is None or any(s[: frame + 1]) for s in steps)


def _check_head_first(header) -> None:
    position = (words(header, "PatientPosition") or ["HFS"])[0]
    if not position.startswith("HF"):
        raise DicomError(
            "PatientPosition is not head first and the header lacks PatientOrientation, so it is "
            "open which way up the picture is; pass gamma=0 if the head is at the top, gamma=pi "
            "if it is at the bottom"
        )


def _as_stored(header, device: CArm, start: Tensor, flipped: bool | None) -> tuple[CArm, float]:
    """The C-arm and gamma for which rows and columns point where PatientOrientation says."""
    texts = words(header, "PatientOrientation")
    if (words(header, "AnatomicalOrientationType") or ["BIPED"]) != ["BIPED"]:
        raise DicomError(
            "AnatomicalOrientationType is not BIPED, so PatientOrientation has the letters of an "
            "animal; pass gamma=... [rad] and flipped=..."
        )
    if len(texts) != 2 or any(t[:1] not in _LETTERS for t in texts):
        raise unusable(
            "PatientOrientation",
            "; or pass gamma=... [rad] and flipped=...",
            "two of the letters A, P, L, R, H, F",
        )
    wanted = torch.tensor([_LETTERS[t[0]] for t in texts], dtype=torch.float64)
    fits = []
    mirrors = (False, True) if flipped is None else (flipped,)
    for mirror, quarter in itertools.product(mirrors, range(4)):
        turned = start.clone()
        turned[2] = (quarter if quarter < 3 else -1) * math.pi / 2
        other = dataclasses.replace(device, flipped=mirror)
        frame = other.frame(other.pose(turned[None], torch.zeros(3, dtype=torch.float64)))
        steps = torch.stack([frame.col_step[0] / other.delx, frame.row_step[0] / other.dely])
        fits.append((float((steps * wanted).sum(dim=1).min()), other, float(turned[2])))
    best = max(fits, key=lambda fit: fit[0])
    # The first letter is the main direction, so its cosine is at least 1 / sqrt(3).
    if best[0] < 0.5:
        raise DicomError(
            "PatientOrientation does not fit the view: no turn or flip of the picture at these "
            "theta and phi lets rows and columns point there; correct theta=... and phi=... [rad], "
            "or pass gamma=... and flipped=..."
        )
    return best[1], best[2]
