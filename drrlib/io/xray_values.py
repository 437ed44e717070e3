"""From grey values to line integrals: what the values mean, by the header or else by the image.

Kinds of values, and what becomes of them:

- "counts": proportional to the beam's intensity I. The line integral is -log((v + 1) / (open + 1)).
- "logged": linear in the line integral already, as after a logarithm.
- "display": made for the eye. Taken as "logged", of which only the order is sure.
- "line integrals": taken as they are.

What the header says (DICOM PS3.3):

- PixelIntensityRelationship (C.8.11.3.1.2 for DX, C.8.7.1.1.2 for XA): LIN is counts, LOG logged,
  DISP for display; in XA a Modality LUT table turns LOG and DISP back into intensity.
- PixelIntensityRelationshipSign: 1 where lower values mean less beam, -1 where they mean more.
- PresentationIntentType FOR PRESENTATION: processed, whatever the relationship says.
- Without a relationship only the picture is known: MONOCHROME1 or PresentationLUTShape INVERSE
  show low values white. Radiographs (CR, DX) are shown with bone white, fluoroscopy (XA, RF)
  with bone dark. Windows cut values off and are not applied.
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from drrlib.errors import ConfigError, DicomError
from drrlib.io.dicom_tags import numbers, stated_numbers, value, words

KINDS = ("counts", "logged", "display", "line integrals")
_SURE = 0.15  # difference of mean ranks, 0 to 1, below which the way up is not sure
_RADIOGRAPHS = {"CR", "DX", "DR", "IO", "PX", "MG"}


@dataclass(frozen=True)
class Meaning:
    """What grey values mean.

    Attributes:
        kind: One of `KINDS`; "" where it is open.
        dense: 1 where dense matter has the greater values, -1 the smaller ones; 0 where it is open.
        notes: How this is known, in plain sentences.
    """

    kind: str = ""
    dense: int = 0
    notes: tuple[str, ...] = ()

    def said(self, *notes: str) -> "Meaning":
        return dataclasses.replace(self, notes=(*self.notes, *notes))


def meaning_of_header(header) -> Meaning:
    """What a DICOM header says of its values, where a Modality LUT table has been applied.

    Args:
        header: Flat header, see `xray_file.flat_header`.

    Raises:
        DicomError: a sign that is neither 1 nor -1.
    """
    relationship = (words(header, "PixelIntensityRelationship") or [""])[0]
    modality = (words(header, "Modality") or [""])[0]
    presented = "FOR PRESENTATION" in words(header, "PresentationIntentType")
    dense = _sign(header)
    radiograph = modality in _RADIOGRAPHS
    if value(header, "ModalityLUTSequence") and relationship in ("LOG", "DISP"):
        note = "a Modality LUT turned the values back into beam intensity"
        return Meaning("counts", -1, (note,))
    if presented or relationship == "DISP":
        why = "FOR PRESENTATION" if presented else "PixelIntensityRelationship DISP"
        made = f"the image is made for the eye ({why}): only the order of its values is sure"
        return _shown(header, radiograph, Meaning("display", dense, (made,)))
    if relationship in ("LIN", "LOG"):
        kind = "counts" if relationship == "LIN" else "logged"
        sign = "" if dense else ", sign not stated: taken as more for more beam"
        note = f"PixelIntensityRelationship {relationship}{sign}: values are {kind}"
        return Meaning(kind, dense or -1, (note,))
    if modality == "CR":
        note = "the header says nothing of the values; computed radiographs (CR) are logged"
        return _shown(header, True, Meaning("display", dense, (note,)))
    if modality in ("XA", "RF"):
        note = f"the header says nothing of the values; {modality} is taken as counts"
        return _shown(header, False, Meaning("counts", dense, (note,)))
    return Meaning("", dense, ("the header says nothing of what the values mean",))


def _sign(header) -> int:
    """Dense values' direction by PixelIntensityRelationshipSign, 0 if it is missing."""
    try:
        stated = stated_numbers(header, "PixelIntensityRelationshipSign")
    except ValueError:
        stated = [0.0]
    if stated is None:
        return 0
    # Some writers store -1 as an unsigned number.
    number = -1.0 if stated[0] == 65535 else stated[0]
    if number not in (1.0, -1.0):
        raise DicomError(
            "the header has an unusable PixelIntensityRelationshipSign; expected 1 or -1: pass "
            "bone='bright' or bone='dark' as the stored values have it"
        )
    return -int(number)


def _shown(header, radiograph: bool, meaning: Meaning) -> Meaning:
    """With the direction in which the picture is shown, where the sign does not tell it."""
    inverse = shown_inverted(header)
    if meaning.dense:
        bright = meaning.dense == (-1 if inverse else 1)
        usual = "" if bright == radiograph else ", unlike the usual"
        return meaning.said(f"by its sign, bone is shown {'white' if bright else 'dark'}{usual}")
    way = "white" if radiograph else "dark"
    dense = (1 if radiograph else -1) * (-1 if inverse else 1)
    lowest = "white" if inverse else "black"
    return dataclasses.replace(meaning, dense=dense).said(
        f"the lowest value is shown {lowest} and bone is taken to be shown {way}"
    )


def shown_inverted(header) -> bool:
    """Whether the lowest value is shown white. INVERSE repeats MONOCHROME1, see C.8.11.3.1.2."""
    first = "MONOCHROME1" in words(header, "PhotometricInterpretation")
    slope = numbers(header, "RescaleSlope", 1)
    falls = slope is not None and bool(slope[0] < 0)
    return (first or "INVERSE" in words(header, "PresentationLUTShape")) != falls


def known_by_caller(meaning: Meaning, values: str, bone: str) -> Meaning:
    """With what the caller knows, which goes before the header.

    Raises:
        ConfigError: an unknown word.
    """
    if not isinstance(values, str) or values not in ("auto", *KINDS):
        raise ConfigError(f"values is {values!r}; choose one of auto, {', '.join(KINDS)}")
    if not isinstance(bone, str) or bone not in ("auto", "bright", "dark"):
        raise ConfigError(f"bone is {bone!r}; choose auto, bright or dark, as stored")
    if values != "auto":
        meaning = Meaning(values, meaning.dense, (f"values were said to be {values}",))
        if not meaning.dense and values in ("counts", "line integrals"):
            meaning = dataclasses.replace(meaning, dense=-1 if values == "counts" else 1)
    if bone != "auto":
        dense = 1 if bone == "bright" else -1
        meaning = dataclasses.replace(meaning, dense=dense).said(f"bone was said to be {bone}")
    return meaning


def meaning_of_image(meaning: Meaning, values: np.ndarray, field: np.ndarray, full: int) -> Meaning:
    """The rest, estimated: which way up, and counts or logged.

    Args:
        meaning: What is known; only what is open is estimated.
        values: [height, width].
        field: True where there may be an image, False outside an intensifier's circle.
        full: Number of levels of the file's type; 0 for floating-point numbers.
    """
    inside = values[field]
    if not meaning.kind and not full and inside.min() >= -0.5 and 1.05 < inside.max() < 25:
        note = f"floating-point values of up to {inside.max():.3g}: taken as line integrals"
        return dataclasses.replace(meaning, kind="line integrals", dense=1).said(note)
    if not meaning.dense:
        dense, why = _which_way_up(values, field, full)
        way = "bright" if dense == 1 else "dark"
        meaning = dataclasses.replace(meaning, dense=dense).said(
            f"estimated: bone is {way} ({why}); pass bone='dark' or 'bright' if that is wrong"
        )
    if not meaning.kind:
        kind = "counts" if meaning.dense == -1 else "logged"
        why = (
            "dark bone is taken to be raw intensity"
            if kind == "counts"
            else "bright bone is taken to be after a logarithm"
        )
        meaning = dataclasses.replace(meaning, kind=kind).said(
            f"estimated: values are {kind} ({why}); pass values='counts' or 'logged' if not"
        )
    return meaning


def _which_way_up(values: np.ndarray, field: np.ndarray, full: int) -> tuple[int, str]:
    """1 where dense matter seems to be bright, -1 dark; and by which sign.

    A tenth of the field at one limit of the file's type is a saturated open field. Else bodies are
    thick in the middle and thin at their rim, where there may be open field too. Ranks are
    compared, so that counts and logarithms are judged alike.
    """
    inside = values[field]
    top, bottom = (float((inside == x).mean()) for x in (full - 1, 0))
    if full and max(top, bottom) > 0.1 and max(top, bottom) > 3 * min(top, bottom):
        dense, share, end = (-1, top, "greatest") if top > bottom else (1, bottom, "smallest")
        return dense, f"{100 * share:.0f} % of the field have the {end} value, as open fields may"
    order = np.sort(inside[:: max(1, inside.size // 100_000)])
    below, upto = (np.searchsorted(order, inside, side) for side in ("left", "right"))
    ranks = 0.5 * (below + upto) / len(order)
    rows, columns = np.nonzero(field)
    middle = [(x.min() + x.max() + 1) / 2 for x in (rows, columns)]
    reach = [max((x.max() - x.min() + 1) / 2, 1) for x in (rows, columns)]
    apart = np.hypot((rows + 0.5 - middle[0]) / reach[0], (columns + 0.5 - middle[1]) / reach[1])
    rim = apart > 0.85 if (apart > 0.85).any() else apart >= np.median(apart)
    higher = float(ranks[apart < 0.5].mean() - ranks[rim].mean())
    way = "brighter" if higher > 0 else "darker"
    sure = "" if abs(higher) > _SURE else ", but only a little: NOT SURE"
    dense = 1 if higher > 0 else -1
    return dense, f"the middle is {way} than the rim, where bodies are thin{sure}"


def line_integrals(
    stack: np.ndarray, meaning: Meaning, field: np.ndarray, full: int, open_field: float | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Line integrals of values [frame, height, width], and what was assumed.

    Args:
        stack: Values, of one meaning.
        meaning: With kind and direction known.
        field: True where there is an image [height, width].
        full: Number of levels of the file's type; 0 for floating-point numbers.
        open_field: Value where nothing attenuates; None to look for it.
    """
    if meaning.kind == "line integrals":
        return stack * meaning.dense if meaning.dense == -1 else stack, ()
    # More where more radiation arrived; upside down, nothing arrived at the greatest value.
    top = float(full - 1) if full else float(stack.max())
    upright = meaning.dense == -1
    beam = stack if upright else top - stack
    inside = beam[:, field]
    if open_field is None:
        found, note = _open_field(inside)
    else:
        found = float(open_field) if upright else top - float(open_field)
        note = f"open field given as {open_field:g}"
    if meaning.kind == "counts":
        if found <= 0:
            raise ConfigError(
                f"the open field would be {found:g} counts; expected more than 0: pass "
                "open_field=..., or values='logged' if the values are after a logarithm"
            )
        one = 1.0 if full else 1e-3 * found
        upside = () if upright else (f"the beam is taken as {top:g} less the value",)
        return 0.0 - np.log((beam.clip(0) + one) / (found + one)), (*upside, note)
    span = float(full) if full else float(np.ptp(inside)) or 1.0
    levels = float(full) if full else 256.0
    scale = math.log(levels) / span
    slope = f"a whole range of values is taken as ln({levels:g}) = {math.log(levels):.1f}"
    return (found - beam) * scale, (note, f"the scale of the line integrals is not known: {slope}")


def _open_field(inside: np.ndarray) -> tuple[float, str]:
    """Beam value where nothing attenuates, and how sure that is."""
    every = max(1, inside.size // 400_000)
    sample = np.sort(inside.ravel()[::every])
    found = float(sample[min(int(0.998 * len(sample)), len(sample) - 1)])
    middle = float(np.median(sample))
    near = float((sample > found - 0.05 * abs(found - middle)).mean())
    at_top = float((sample >= sample[-1]).mean())
    if at_top > 0.005:
        return found, (
            f"the open field is saturated in {100 * at_top:.1f} % of the pixels: line integrals "
            "near 0 are too small there"
        )
    if near > 0.02:
        return found, f"open field found ({100 * near:.0f} % of the pixels)"
    return found, (
        "no open field found: the most radiated pixels are taken as open, so that all line "
        "integrals may lack a constant; pass open_field=... if it is known"
    )


def padding_range(header) -> tuple[float, float] | None:
    """Lowest and highest stored value that means that nothing was measured."""
    first = value(header, "PixelPaddingValue")
    last = value(header, "PixelPaddingRangeLimit")
    if not isinstance(first, int):
        return None
    last = last if isinstance(last, int) else first
    return float(min(first, last)), float(max(first, last))
