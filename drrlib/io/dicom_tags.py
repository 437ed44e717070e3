"""The tags of one DICOM file that a CT reader needs, checked one by one.

Only the tags in `TAGS` are ever read, so that no message can show data of a patient.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from drrlib.errors import DicomError

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# Third value of Image Type of maps that a CT workstation computes: not Hounsfield units.
MAPS = {"PERFUSION", "CBF", "CBV", "MTT", "TTP", "TMAX", "RCBF", "RCBV", "EFF_Z", "EFF_ATOMIC_NUM"}
HOUNSFIELD = {"", "HU", "US", "HU_MOD"}  # US: not specified
DICOMDIR = "1.2.840.10008.1.3.10"
# Only these are repeated in messages; anything else in the tag could be free text.
MODALITIES = set("CT MR PT NM US CR DX XA RF MG OT SC SR PR KO SEG REG DOC".split())
MODALITIES |= {"RTIMAGE", "RTSTRUCT", "RTDOSE", "RTPLAN"}

# Passing over such a file could lose the end of a series without a word.
DAMAGED = (
    "a file begins as DICOM but its header cannot be read: damaged or cut short; copy or export "
    "the series again, or remove the file"
)

GEOMETRY = ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"]
TAGS = [
    *GEOMETRY,
    *("SOPClassUID", "Modality", "ImageType", "SeriesInstanceUID", "SeriesNumber"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "NumberOfFrames", "SamplesPerPixel"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration"),
    *("PhotometricInterpretation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
]


@dataclass(frozen=True)
class Header:
    """What is needed of one file; a tag that is missing or unreadable is None."""

    path: Path
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
    tags = [*TAGS, "PixelData"] if pixels else TAGS
    with warnings.catch_warnings(), open(path, "rb") as file:
        # pydicom's warnings quote values of the header.
        warnings.simplefilter("ignore")
        head = file.read(132)
        bare = head[128:] != b"DICM"
        if bare and head[:2] not in (b"\x08\x00", b"\x02\x00"):
            return None
        file.seek(0)
        try:
            ds = pydicom.dcmread(
                file, stop_before_pixels=not pixels, specific_tags=list(tags), force=bare
            )
        except Exception:  # a damaged header can raise nearly anything
            if not bare:
                raise DicomError(DAMAGED) from None
            return None
    directory = getattr(ds, "file_meta", {}).get("MediaStorageSOPClassUID", "") == DICOMDIR
    if not bare and not directory and "SeriesInstanceUID" not in ds:
        raise DicomError(DAMAGED)
    if "TransferSyntaxUID" not in getattr(ds, "file_meta", {}):
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = ds.get(keyword)
        except Exception:  # pydicom converts on access and lets every error through
            raise ValueError(f"{keyword} breaks its own format") from None
    return None if found is None or found == "" else found


def stated_numbers(ds: Dataset, keyword: str) -> list[float] | None:
    """All numbers of a tag; None where it is missing or empty.

    Raises:
        ValueError: what stands there is no finite number; says nothing of the content.
    """
    found = stated(ds, keyword)
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


def whole(ds: Dataset, keyword: str) -> int | None:
    """A whole number of a tag, else None."""
    found = numbers(ds, keyword, 1)
    return int(found[0]) if found is not None and found[0] == int(found[0]) else None


def words(ds: Dataset, keyword: str) -> list[str]:
    """Values of a text tag in upper case."""
    found = value(ds, keyword)
    found = [found] if found is None or isinstance(found, str) else list(found)
    return [str(word).strip().upper() for word in found if word is not None]


def kind_of(ds: Dataset) -> str:
    """What sort of image a file is; see `SeriesInfo.kind`."""
    meta = ds.file_meta.get("MediaStorageSOPClassUID", "")
    sop = str(value(ds, "SOPClassUID") or meta or CT_IMAGE)
    image_type = set(words(ds, "ImageType"))
    if "CT" not in words(ds, "Modality"):
        return "other"
    if sop == SECONDARY_CAPTURE or sop.startswith(SECONDARY_CAPTURE + "."):
        return "secondary capture"
    if sop.startswith(CT_IMAGE + ".") or (whole(ds, "NumberOfFrames") or 1) > 1:
        return "multi-frame"
    if sop != CT_IMAGE:
        return "other"
    if image_type & {"LOCALIZER", "SCOUT", "TOPOGRAM"}:
        return "localizer"
    units = (words(ds, "RescaleType") or [""])[0]
    if image_type & MAPS or units not in HOUNSFIELD or (whole(ds, "SamplesPerPixel") or 1) != 1:
        return "map"
    return "slices"


def read_header(path: Path) -> Header | None:
    """Header of one file; None where it is not a DICOM image."""
    ds = read_dataset(path, pixels=False)
    uid = None if ds is None else value(ds, "SeriesInstanceUID")
    modality = "" if ds is None else (words(ds, "Modality") or [""])[0]
    if ds is None:
        return None
    if not (uid or modality):  # a DICOMDIR has neither
        return None
    slope, intercept = numbers(ds, "RescaleSlope", 1), numbers(ds, "RescaleIntercept", 1)
    both = slope is not None and intercept is not None
    return Header(
        path=path,
        uid=str(uid or ""),
        number=whole(ds, "SeriesNumber"),
        modality=modality if modality in MODALITIES else "unknown modality",
        kind=kind_of(ds),
        rows=whole(ds, "Rows"),
        columns=whole(ds, "Columns"),
        position=numbers(ds, "ImagePositionPatient", 3),
        orientation=numbers(ds, "ImageOrientationPatient", 6),
        spacing=numbers(ds, "PixelSpacing", 2),
        rescale=np.concatenate([slope, intercept]) if both else None,
    )
