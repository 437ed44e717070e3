"""What one tag of an X-ray header says about the C-arm, or which keyword replaces it.

No message repeats what a tag holds. Which tags, and what they mean: see `carm_header`.
"""

from drrlib.errors import DicomError
from drrlib.io.dicom_tags import stated_numbers, words

# Which tag holds a length, at which place, and what it is.
_LENGTHS = {
    "sdd": ("DistanceSourceToDetector", 0, "the source-detector distance"),
    "sod": ("DistanceSourceToPatient", 0, "the source-isocentre distance"),
    "dely": ("ImagerPixelSpacing", 0, "the row spacing at the detector"),
    "delx": ("ImagerPixelSpacing", 1, "the column spacing at the detector"),
}
_RANGE = {"Primary": 180.0, "Secondary": 90.0}  # [deg], either side of 0


def lengths_of(header, given: dict[str, float | None]) -> dict[str, float]:
    """Given ones before the header's; all that lack are told at once."""
    lengths, lacking = {}, {}
    for name, value in given.items():
        try:
            lengths[name] = _length(header, name) if value is None else value
        except DicomError as error:
            lacking[name] = str(error)
    if lacking:
        first, *others = lacking
        more = f"; likewise {', '.join(f'{name}=...' for name in others)}" if others else ""
        raise DicomError(lacking[first] + more)
    return lengths


def numbers_of(header, tag: str, remedy: str = "") -> list[float] | None:
    """Values of a tag, None if it is missing or empty. The message never repeats the content."""
    try:
        return stated_numbers(header, tag)
    except ValueError:
        raise unusable(tag, remedy) from None


def unusable(tag: str, remedy: str = "", expected: str = "a finite number") -> DicomError:
    return DicomError(f"the header has an unusable {tag}; expected {expected}{remedy}")


def _length(header, name: str) -> float:
    tag, place, meaning = _LENGTHS[name]
    remedy = f" for {meaning}; measure it and pass {name}=... [mm]"
    numbers = numbers_of(header, tag, remedy)
    if numbers is None:
        raise DicomError(f"the header lacks {tag}; expected a number above 0{remedy}")
    several = 2 if tag == "ImagerPixelSpacing" else 1
    if len(numbers) != several or numbers[place] <= 0:
        raise unusable(tag, remedy, "a number above 0" if several == 1 else "two numbers above 0")
    return numbers[place]


def pixels_of(header, tag: str) -> int:
    numbers = numbers_of(header, tag)
    if numbers is None:
        raise DicomError(f"the header lacks {tag}; is it the header of an image?")
    if numbers[0] < 1 or numbers[0] != int(numbers[0]):
        raise unusable(tag, expected="a whole number of pixels")
    return int(numbers[0])


def orientation_of(header) -> tuple[float, bool]:
    """Clockwise turn of the picture [deg], and whether its columns run the other way."""
    turn = (numbers_of(header, "FieldOfViewRotation") or [0.0])[0]
    if turn not in (0.0, 90.0, 180.0, 270.0):
        raise unusable("FieldOfViewRotation", expected="0, 90, 180 or 270")
    flip = (words(header, "FieldOfViewHorizontalFlip") or ["NO"])[0]
    if flip not in ("YES", "NO"):
        raise unusable("FieldOfViewHorizontalFlip", expected="YES or NO")
    return turn, flip == "YES"


def positioner_angle(header, which: str, frame: int) -> float | None:
    """Positioner angle of one frame [deg]."""
    tag = f"Positioner{which}Angle"
    first = numbers_of(header, tag)
    if first is None:
        return None
    steps = numbers_of(header, f"{tag}Increment")
    if frame and steps is None and "DYNAMIC" in words(header, "PositionerMotion"):
        raise DicomError(
            f"the header lacks {tag}Increment although the positioner moved; expected one value, "
            f"or one for each frame: only the angle of frame 0 is known"
        )
    if steps is not None and len(steps) > 1 and len(steps) <= frame:
        raise unusable(f"{tag}Increment", expected="one value, or one for each frame")
    change = 0.0 if steps is None else frame * steps[0] if len(steps) == 1 else steps[frame]
    angle = first[0] + change
    if len(first) != 1 or abs(angle) > _RANGE[which]:
        raise unusable(tag, expected=f"one angle of at most {_RANGE[which]:g} degrees")
    return angle
