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

Only these tags are read; none of them tells about the patient.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.carm import CArm
from drrlib.errors import ConfigError, DicomError

# Which tag holds a length, at which place, and what it is.
_LENGTHS = {
    "sdd": ("DistanceSourceToDetector", 0, "the source-detector distance"),
    "sod": ("DistanceSourceToPatient", 0, "the source-isocentre distance"),
    "dely": ("ImagerPixelSpacing", 0, "the row spacing at the detector"),
    "delx": ("ImagerPixelSpacing", 1, "the column spacing at the detector"),
}
_RANGE = {"Primary": 180.0, "Secondary": 90.0}  # [deg], either side of 0


def read_header(
    header,
    *,
    sdd: float | None,
    sod: float | None,
    delx: float | None,
    dely: float | None,
    frame: int,
) -> tuple[CArm, Float[Tensor, "6"] | None]:
    """The C-arm and eta of a header; arguments and errors as `CArm.from_dicom`."""
    if not hasattr(header, "get"):
        raise ConfigError(
            f"header is a {type(header).__name__}; expected a pydicom dataset: read the file "
            "with pydicom.dcmread(path, stop_before_pixels=True)"
        )
    given = {"sdd": sdd, "sod": sod, "dely": dely, "delx": delx}
    lengths = {
        name: _length(header, name) if value is None else value for name, value in given.items()
    }
    height, width = _pixels(header, "Rows"), _pixels(header, "Columns")
    turn, flipped = _orientation(header)
    frames = _numbers(header, "NumberOfFrames") or [1.0]
    if not 0 <= frame < frames[0]:
        raise ConfigError(f"frame is {frame}; the image has {frames[0]:g}, counted from 0")
    for tag in ("DetectorPrimaryAngle", "DetectorSecondaryAngle"):
        if any(_numbers(header, tag) or []):
            raise DicomError(
                f"{tag} is not 0: the central ray does not meet the detector at a right angle; "
                "make the CArm and its pose from a calibrated matrix (from_projection_matrix)"
            )
    device = CArm(height=height, width=width, flipped=flipped, **lengths)
    angles = [_angle(header, which, frame) for which in ("Secondary", "Primary")]
    if None in angles:
        return device, None
    return device, torch.tensor(
        [math.radians(a) for a in (*angles, turn)] + [0.0] * 3, dtype=torch.float64
    )


def _numbers(header, tag: str, remedy: str = "") -> list[float] | None:
    """Values of a tag, None if it is missing or empty. The message never repeats the content."""
    try:
        value = header.get(tag)
        if value is None or value == "":
            return None
        many = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        numbers = [float(v) for v in (value if many else [value])]
    except (TypeError, ValueError, OverflowError):
        raise _unusable(tag, remedy) from None  # its text would quote the header
    if not all(math.isfinite(x) for x in numbers):
        raise _unusable(tag, remedy)
    return numbers or None


def _unusable(tag: str, remedy: str = "", expected: str = "a finite number") -> DicomError:
    return DicomError(f"the header has an unusable {tag}; expected {expected}{remedy}")


def _length(header, name: str) -> float:
    tag, place, meaning = _LENGTHS[name]
    remedy = f" for {meaning}; measure it and pass {name}=... [mm]"
    numbers = _numbers(header, tag, remedy)
    if numbers is None:
        raise DicomError(f"the header lacks {tag}; expected a number above 0{remedy}")
    several = 2 if tag == "ImagerPixelSpacing" else 1
    if len(numbers) != several or numbers[place] <= 0:
        raise _unusable(tag, remedy, "a number above 0" if several == 1 else "two numbers above 0")
    return numbers[place]


def _pixels(header, tag: str) -> int:
    numbers = _numbers(header, tag)
    if numbers is None:
        raise DicomError(f"the header lacks {tag}; is it the header of an image?")
    if numbers[0] < 1 or numbers[0] != int(numbers[0]):
        raise _unusable(tag, expected="a whole number of pixels")
    return int(numbers[0])


def _orientation(header) -> tuple[float, bool]:
    """Clockwise turn of the picture [deg], and whether its columns run the other way."""
    turn = (_numbers(header, "FieldOfViewRotation") or [0.0])[0]
    if turn not in (0.0, 90.0, 180.0, 270.0):
        raise _unusable("FieldOfViewRotation", expected="0, 90, 180 or 270")
    flip = str(header.get("FieldOfViewHorizontalFlip") or "NO").strip().upper()
    if flip not in ("YES", "NO"):
        raise _unusable("FieldOfViewHorizontalFlip", expected="YES or NO")
    return turn, flip == "YES"


def _angle(header, which: str, frame: int) -> float | None:
    """Positioner angle of one frame [deg]."""
    tag = f"Positioner{which}Angle"
    first = _numbers(header, tag)
    if first is None:
        return None
    steps = _numbers(header, f"{tag}Increment")
    if frame and steps is None and str(header.get("PositionerMotion")).upper() == "DYNAMIC":
        raise DicomError(
            f"the header lacks {tag}Increment although the positioner moved; expected one value, "
            f"or one for each frame: only the angle of frame 0 is known"
        )
    if steps is not None and len(steps) > 1 and len(steps) <= frame:
        raise _unusable(f"{tag}Increment", expected="one value, or one for each frame")
    change = 0.0 if steps is None else frame * steps[0] if len(steps) == 1 else steps[frame]
    angle = first[0] + change
    if len(first) != 1 or abs(angle) > _RANGE[which]:
        raise _unusable(tag, expected=f"one angle of at most {_RANGE[which]:g} degrees")
    return angle
