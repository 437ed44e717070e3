"""The tags of one DICOM file that a CT reader needs, checked one by one.

Only the tags in `TAGS` are ever read, so that no message can show data of a patient.
"""

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from drrlib.errors import DicomError
from drrlib.io.quiet import quiet

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# Third value of Image Type of maps that a CT workstation computes: not Hounsfield units.
MAPS = {"PERFUSION", "CBF", "CBV", "MTT", "TTP", "TMAX", "RCBF", "RCBV", "EFF_Z", "EFF_ATOMIC_NUM"}
HOUNSFIELD = {"", "HU", "US", "HU_MOD"}  # US: not specified
DICOMDIR = "1.2.840.10008.1.3.10"
# Only these are repeated in messages; anything else in the tag could be free text.
MODALITIES = set("CT MR PT NM US CR DX XA RF MG OT SC SR PR KO SEG REG DOC".split())
MODALITIES |= {"RTIMAGE", "RTSTRUCT", "RTDOSE", "RTPLAN"}

FARTHEST = 1e7  # [mm]
DAMAGED = "begins as DICOM, but its header cannot be read: damaged or cut short"

GEOMETRY = ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"]
# What tells apart stacks that share a series; only numbers among them are ever shown.
MARKS = [
    *("AcquisitionNumber", "TemporalPositionIdentifier", "TemporalPositionIndex"),
    *("NominalPercentageOfCardiacPhase", "TriggerTime", "StackID", "KVP", "ConvolutionKernel"),
    *("SliceThickness", "ImageType"),
]
TIME = "AcquisitionTime"  # never shown: it only tells what came first
SHARED, FRAMES = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
# Where a multi-frame object keeps what a slice has in its own header (PS3.3 C.7.6.16 and C.8.15.3).
GROUPS = {
    "PlanePositionSequence": ["ImagePositionPatient"],
    "PlaneOrientationSequence": ["ImageOrientationPatient"],
    "PixelMeasuresSequence": ["PixelSpacing", "SliceThickness"],
    "PixelValueTransformationSequence": ["RescaleSlope", "RescaleIntercept", "RescaleType"],
    "FrameContentSequence": ["FrameAcquisitionNumber", "TemporalPositionIndex", "StackID"],
    "CardiacSynchronizationSequence": ["NominalPercentageOfCardiacPhase"],
    "CTXRayDetailsSequence": ["KVP"],
    "CTReconstructionSequence": ["ConvolutionKernel"],
    "CTImageFrameTypeSequence": ["FrameType"],
}
AS_SLICE = {"FrameType": "ImageType", "FrameAcquisitionNumber": "AcquisitionNumber"}
TAGS = [
    *GEOMETRY,
    *MARKS,
    *(TIME, SHARED, FRAMES, "SOPInstanceUID"),
    *("SOPClassUID", "Modality", "SeriesInstanceUID", "SeriesNumber"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "NumberOfFrames", "SamplesPerPixel"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration"),
    *("PhotometricInterpretation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
]
_NUMBERS = {keyword: Tag(keyword) for keyword in (*TAGS, "PixelData")}


@dataclass(frozen=True)
class Header:
    """What is needed of one slice, a file or a frame; a missing or unreadable tag is None.

    `unfit` is the kind of image that makes it no slice of a CT, empty where it is one.
    """

    path: Path
    frame: int | None
    instance: str
    marks: dict[str, str | float]
    unfit: str
    uid: str
    number: int | None
    modality: str
    kind: str
    rows: int | None
    columns: int | None
    position: np.ndarray | None
    orientation: np.ndarray | None
    spacing: np.ndarray | None
    rescale: np.ndarray | None


def read_dataset(path: Path, *, pixels: bool) -> Dataset | None:
    """The tags in `TAGS`, and Pixel Data if asked for; None where the file is not DICOM.

    Files without the 128-byte preamble, as old software wrote them, are read too.

    Raises:
        DicomError: the file begins as DICOM and cannot be read.
    """
    tags = [*_NUMBERS.values()] if pixels else [*_NUMBERS.values()][:-1]
    with quiet(), open(path, "rb") as file:
        head = file.read(132)
        bare = head[128:] != b"DICM"
        if bare and head[:2] not in (b"\x08\x00", b"\x02\x00"):
            return None
        file.seek(0)
        try:
            ds = pydicom.dcmread(
                file, stop_before_pixels=not pixels, specific_tags=tags, force=bare
            )
            meta = getattr(ds, "file_meta", {})
            directory = meta.get("MediaStorageSOPClassUID", "") == DICOMDIR
            unnamed = meta.get("TransferSyntaxUID") is None
        except Exception:  # a damaged header can raise nearly anything
            if not bare:
                raise DicomError(DAMAGED) from None
            return None
    if not bare and not directory and "SeriesInstanceUID" not in ds and "Rows" not in ds:
        raise DicomError(DAMAGED)
    if unnamed:
        ds.file_meta = getattr(ds, "file_meta", None) or FileMetaDataset()
        implicit = ds.original_encoding[0]
        ds.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        )
    return ds


def value(ds: Dataset, keyword: str):
    """Value of a tag; None where it is missing, empty or breaks its own format."""
    try:
        return stated(ds, keyword)
    except ValueError:
        return None


def stated(ds: Dataset, keyword: str):
    """Value of a tag; None where it is missing or empty.

    Raises:
        ValueError: it breaks its own format; says nothing of the content.
    """
    with quiet():
        try:
            tag = _NUMBERS.get(keyword) if isinstance(ds, Dataset) else None
            if tag is None:
                found = ds.get(keyword)
            else:  # many times as quick
                found = ds[tag].value if tag in ds else None
        except Exception:  # pydicom converts on access and lets every error through
            raise ValueError(f"{keyword} breaks its own format") from None
    return None if found is None or found == "" else found


def stated_numbers(ds: Dataset, keyword: str) -> list[float] | None:
    """All numbers of a tag; None where it is missing or empty.

    Raises:
        ValueError: what stands there is no finite number; says nothing of the content.
    """
    found = stated(ds, keyword)
    if isinstance(found, Sequence):
        raise ValueError(f"{keyword} is a sequence")
    try:
        listed = [] if found is None else np.atleast_1d(np.array(found, dtype=np.float64)).tolist()
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{keyword} is no number") from None
    if not np.isfinite(listed).all():
        raise ValueError(f"{keyword} is not finite")
    return listed or None


def numbers(ds: Dataset, keyword: str, count: int) -> np.ndarray | None:
    """`count` finite numbers of a tag, else None."""
    try:
        found = stated_numbers(ds, keyword)
    except ValueError:
        return None
    return None if found is None or len(found) != count else np.array(found)


def _lengths(ds: Dataset, keyword: str, count: int) -> np.ndarray | None:
    """As `numbers`, else None too where one is beyond anything on a scanner, so that sums of
    their products stay finite."""
    found = numbers(ds, keyword, count)
    return None if found is None or np.abs(found).max() > FARTHEST else found


def whole(ds: Dataset, keyword: str) -> int | None:
    """A whole number of a tag, else None."""
    found = numbers(ds, keyword, 1)
    return int(found[0]) if found is not None and found[0] == int(found[0]) else None


def words(ds: Dataset, keyword: str) -> list[str]:
    """Values of a text tag in upper case, and numbers among them as text.

    What else may stand there, such as a sequence, is passed over: as text it would be all that it
    holds, and the text of one that is broken and nested deeply grows without end.
    """
    found = value(ds, keyword)
    found = found if isinstance(found, (MultiValue, list)) else [found]
    return [str(word).strip().upper() for word in found if isinstance(word, (str, int, float))]


def text(ds: Dataset, keyword: str) -> str:
    """The one text of a tag, else nothing; see `words`."""
    found = value(ds, keyword)
    return str(found) if isinstance(found, str) else ""


def kind_of(ds: Dataset) -> str:
    """What sort of image a file is; see `SeriesInfo.kind`."""
    sop = text(ds, "SOPClassUID") or text(ds.file_meta, "MediaStorageSOPClassUID") or CT_IMAGE
    image_type = set(words(ds, "ImageType"))
    if "CT" not in words(ds, "Modality"):
        return "other"
    if sop == SECONDARY_CAPTURE or sop.startswith(SECONDARY_CAPTURE + "."):
        return "secondary capture"
    if not (sop == CT_IMAGE or sop.startswith(CT_IMAGE + ".")):
        return "other"
    if image_type & {"LOCALIZER", "SCOUT", "TOPOGRAM"}:
        return "localizer"
    units = (words(ds, "RescaleType") or [""])[0]
    if image_type & MAPS or units not in HOUNSFIELD or (whole(ds, "SamplesPerPixel") or 1) != 1:
        return "map"
    return "slices"


def read_headers(path: Path) -> list[Header]:
    """Header of each slice of a file; none where it is not a DICOM image.

    Raises:
        DicomError: the file begins as DICOM and cannot be read.
    """
    ds = read_dataset(path, pixels=False)
    if ds is None or not ("SeriesInstanceUID" in ds or "Rows" in ds or words(ds, "Modality")):
        return []  # a DICOMDIR has none of them
    count = whole(ds, "NumberOfFrames") or 1
    enhanced = text(ds, "SOPClassUID").startswith(CT_IMAGE + ".")
    if not enhanced and count == 1:
        return [_header(ds, path, None)]
    frames = value(ds, FRAMES) if isinstance(value(ds, FRAMES), Sequence) else []
    if not enhanced or len(frames) != count:
        whole_file = _header(ds, path, None)
        blank = dict(kind="multi-frame", unfit=whole_file.unfit or "multi-frame")
        return [whole_file if whole_file.kind == "other" else replace(whole_file, **blank)]
    shared = value(ds, SHARED) if isinstance(value(ds, SHARED), Sequence) else []
    slices = [_as_slice(ds, [*shared[:1], frame]) for frame in frames]
    return [replace(_header(x, path, k), kind="multi-frame") for k, x in enumerate(slices)]


def _as_slice(ds: Dataset, groups: list[Dataset]) -> Dataset:
    """Header of one frame, as that of a file with one slice: what is said last holds."""
    found = Dataset()
    found.file_meta = ds.file_meta
    for tag in map(tag_for_keyword, set(TAGS) - {SHARED, FRAMES}):
        if tag in ds:
            with quiet(), contextlib.suppress(Exception):  # of a kind that DICOM does not have
                found[tag] = ds.get_item(tag)
    for group in groups:
        for sequence, keywords in GROUPS.items():
            items = value(group, sequence)
            for keyword in keywords if isinstance(items, Sequence) and items else ():
                given = value(items[0], keyword)
                # The text of a sequence, which errors would make, can grow without end.
                if given is not None and not isinstance(given, Sequence):
                    with quiet(), contextlib.suppress(Exception):
                        setattr(found, AS_SLICE.get(keyword, keyword), given)
    return found


def _header(ds: Dataset, path: Path, frame: int | None) -> Header:
    modality = (words(ds, "Modality") or [""])[0]
    slope, intercept = numbers(ds, "RescaleSlope", 1), numbers(ds, "RescaleIntercept", 1)
    both = slope is not None and intercept is not None
    kind = kind_of(ds)
    return Header(
        path=path,
        frame=frame,
        instance=text(ds, "SOPInstanceUID"),
        marks={tag: _mark(ds, tag) for tag in (*MARKS, TIME) if tag in ds},
        unfit="" if kind == "slices" else kind,
        uid=text(ds, "SeriesInstanceUID"),
        number=whole(ds, "SeriesNumber"),
        modality=modality if modality in MODALITIES else "unknown modality",
        kind=kind,
        rows=whole(ds, "Rows"),
        columns=whole(ds, "Columns"),
        position=_lengths(ds, "ImagePositionPatient", 3),
        orientation=_lengths(ds, "ImageOrientationPatient", 6),
        spacing=_lengths(ds, "PixelSpacing", 2),
        rescale=np.concatenate([slope, intercept]) if both else None,
    )


def _mark(ds: Dataset, tag: str) -> str | float:
    found = numbers(ds, tag, 1)
    return " ".join(words(ds, tag)) if found is None else float(found[0])
