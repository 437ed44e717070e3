"""X-ray images in DICOM files: frames as stored, and one flat header for each frame.

XA, RF, DX, CR and their like keep their tags at the top. Enhanced XA and XRF keep them in
functional groups (PS3.3 C.8.19.6), shared by all frames or one item for each; here they are laid
flat, so that one reader serves both:

- XRayGeometrySequence: DistanceSourceToIsocenter becomes DistanceSourceToPatient, which for XA is
  the same; DistanceSourceToDetector.
- PositionerPositionSequence: PositionerPrimaryAngle, PositionerSecondaryAngle of that frame.
- FramePixelDataPropertiesSequence: ImagerPixelSpacing, PixelIntensityRelationship and its sign.
- FieldOfViewSequence, CollimatorShapeSequence, FrameDisplayShutterSequence,
  PatientOrientationInFrameSequence, FrameVOILUTSequence, PixelValueTransformationSequence.
- TablePositionSequence, which only tells whether the table moved.
- PixelIntensityRelationshipLUTSequence: its item TO_LINEAR stands for a Modality LUT.

Only the tags listed here are read; none of them names the patient.
"""

import copy
from pathlib import Path

import numpy as np
import pydicom
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from drrlib.errors import ConfigError, DicomError
from drrlib.io.dicom_pixels import can_decode, compression_of, decoded, jpeg2000_size
from drrlib.io.dicom_tags import FRAMES, SHARED, numbers, stated_numbers, value, whole, words
from drrlib.io.quiet import quiet

SHAPES = [
    *("ShutterShape", "ShutterLeftVerticalEdge", "ShutterRightVerticalEdge"),
    *("ShutterUpperHorizontalEdge", "ShutterLowerHorizontalEdge", "CenterOfCircularShutter"),
    *("RadiusOfCircularShutter", "VerticesOfThePolygonalShutter"),
    *("CollimatorShape", "CollimatorLeftVerticalEdge", "CollimatorRightVerticalEdge"),
    *("CollimatorUpperHorizontalEdge", "CollimatorLowerHorizontalEdge"),
    *("CenterOfCircularCollimator", "RadiusOfCircularCollimator"),
    "VerticesOfThePolygonalCollimator",
]
GROUPS = [
    *("XRayGeometrySequence", "PositionerPositionSequence", "FramePixelDataPropertiesSequence"),
    *("FieldOfViewSequence", "CollimatorShapeSequence", "FrameDisplayShutterSequence"),
    *("PatientOrientationInFrameSequence", "FrameVOILUTSequence"),
    *("PixelValueTransformationSequence", "PixelIntensityRelationshipLUTSequence"),
    "TablePositionSequence",
]
TABLE = [
    *("TableTopVerticalPosition", "TableTopLongitudinalPosition", "TableTopLateralPosition"),
    *("TableHorizontalRotationAngle", "TableHeadTiltAngle", "TableCradleTiltAngle"),
]
TAGS = [
    *("SOPClassUID", "Modality", "ImageType", "PresentationIntentType", "PatientOrientation"),
    *("AnatomicalOrientationType", "PatientPosition", "TableMotion", "TableVerticalIncrement"),
    *("TableLongitudinalIncrement", "TableLateralIncrement", "PositionerMotion"),
    *("PositionerPrimaryAngle", "PositionerSecondaryAngle", "DetectorPrimaryAngle"),
    *("PositionerPrimaryAngleIncrement", "PositionerSecondaryAngleIncrement"),
    *("DetectorSecondaryAngle", "DistanceSourceToDetector", "DistanceSourceToPatient"),
    *("ImagerPixelSpacing", "FieldOfViewShape", "FieldOfViewDimensions", "FieldOfViewRotation"),
    *("FieldOfViewHorizontalFlip", "BurnedInAnnotation", "LossyImageCompression"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration"),
    *("PixelIntensityRelationship", "PixelIntensityRelationshipSign", "RescaleSlope"),
    *("RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence", "PresentationLUTShape"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit"),
    *SHAPES,
    *(SHARED, FRAMES),
]
_TOP = set(TAGS) - {SHARED, FRAMES}
_COUNT = tag_for_keyword("NumberOfFrames")
_PATIENT = tag_for_keyword("DistanceSourceToPatient")
MAX_PIXELS = 2**30
_INSTALL = "pip install pylibjpeg pylibjpeg-openjpeg pylibjpeg-libjpeg"


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does, with its preamble or, as old software wrote, without."""
    with open(path, "rb") as file:
        head = file.read(132)
    return head[128:] == b"DICM" or head[:4] in (b"\x08\x00\x05\x00", b"\x08\x00\x08\x00")


def open_dicom(path: Path, tags: list[str] | None = None) -> Dataset:
    """A file's tags, all or these, with or without a preamble; it then has a transfer syntax.

    Raises:
        DicomError: damaged; names the file.
    """
    try:
        with quiet():
            ds = pydicom.dcmread(path, specific_tags=tags, force=True)
    except Exception as error:  # a damaged header can raise nearly anything
        raise DicomError(
            f"{str(path)!r} begins as DICOM but cannot be read ({type(error).__name__}): damaged "
            "or cut short; copy or export it again"
        ) from None
    if "TransferSyntaxUID" not in ds.file_meta:
        implicit = ds.original_encoding[0]
        ds.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        )
    return ds


def read_dicom(path: Path) -> Dataset:
    """The tags in `TAGS` and the pixel data of one X-ray image.

    Raises:
        DicomError: not an X-ray projection image, or damaged; names the file.
    """
    ds = open_dicom(path, [*TAGS, "PixelData"])
    if "PixelData" not in ds or not (whole(ds, "Rows") and whole(ds, "Columns")):
        raise DicomError(f"{str(path)!r} holds no image; expected an X-ray image with pixel data")
    modality = (words(ds, "Modality") or [""])[0]
    if modality in ("CT", "MR", "PT", "NM", "US", "SEG"):
        raise DicomError(
            f"{str(path)!r} has Modality {modality}; expected an X-ray image such as XA, RF, DX or "
            "CR: for a CT use read_volume, for its localizer read_localizer"
        )
    if (whole(ds, "SamplesPerPixel") or 1) != 1:
        raise DicomError(f"{str(path)!r} is coloured; expected grey values, one sample per pixel")
    return ds


def frame_count(ds: Dataset) -> int:
    """Raises DicomError for a number that no file holds."""
    count = max(whole(ds, "NumberOfFrames") or 1, 1)
    if count > MAX_PIXELS:
        raise DicomError(f"the header announces more than {MAX_PIXELS} frames: it is damaged")
    return count


def stored_frames(path: Path, ds: Dataset, frames: list[int]) -> np.ndarray:
    """Stored values [frame, height, width] of the named frames.

    Raises:
        ConfigError: no such frame.
        DicomError: too many pixels, a compression without decoder, or damaged data.
    """
    count, size = frame_count(ds), (whole(ds, "Rows"), whole(ds, "Columns"))
    for frame in frames:
        if not 0 <= frame < count:
            raise ConfigError(
                f"frame is {frame}; {str(path)!r} has {count}, counted from 0, and frame='max' "
                "takes the densest value of all"
            )
    if size[0] * size[1] * len(frames) > MAX_PIXELS:
        raise DicomError(f"{str(path)!r} announces more than {MAX_PIXELS} pixels; damaged?")
    if jpeg2000_size(ds) not in (None, size):
        raise DicomError(
            f"{str(path)!r}: the compressed image announces another size than the header: damaged"
        )
    if not can_decode(ds):
        raise DicomError(
            f"{str(path)!r}: its compression, {compression_of(ds)}, cannot be decoded here; "
            f"{_INSTALL}, or export it uncompressed"
        )
    try:
        with quiet():
            if "NumberOfFrames" in ds and count == 1:
                del ds.NumberOfFrames
            found = [decoded(ds, f if count > 1 else None) for f in frames]
    except Exception as error:  # decoders raise errors of many kinds
        raise DicomError(
            f"{str(path)!r}: the pixel data cannot be decoded ({type(error).__name__}): damaged or "
            f"cut short, or a decoder is missing; copy the file again, or {_INSTALL}"
        ) from None  # whose text may quote the file
    if any(f.shape != size for f in found):
        raise DicomError(
            f"{str(path)!r}: the pixels have shape {found[0].shape}; the header says {size}: the "
            "file is damaged"
        )
    return np.stack(found)


def is_grouped(ds) -> bool:
    """Whether tags of frames sit in functional groups."""
    return isinstance(ds, Dataset) and (SHARED in ds or FRAMES in ds)


def flat_header(ds: Dataset, frame: int) -> Dataset:
    """The header of one frame with every tag at the top; functional groups are laid flat.

    Raises:
        DicomError: groups for each frame that do not reach to this one.
    """
    flat = Dataset()
    _copy(ds, flat, _TOP)
    if not is_grouped(ds):
        return flat
    frames = _items(ds, FRAMES)
    if frames and len(frames) <= frame:
        raise DicomError(
            f"{FRAMES} describes {len(frames)} frames, and frame {frame}, counted from 0, was "
            "asked for: the header is damaged; export the image again"
        )
    for group in (*_items(ds, SHARED)[:1], *frames[frame : frame + 1]):
        for name in GROUPS:
            for item in _items(group, name):
                _lay_flat(flat, name, item)
    # What is said of this frame is no longer said of a run.
    flat[_COUNT] = DataElement(_COUNT, "IS", 1)
    return flat


def _items(ds: Dataset, name: str) -> list[Dataset]:
    """Items of a sequence; none where it is missing or something else stands there."""
    found = value(ds, name)
    return list(found) if isinstance(found, Sequence) else []


def _copy(source: Dataset, flat: Dataset, keywords) -> None:
    """Elements as they are, without a look at their values, which may be damaged."""
    for tag in source.keys():
        if keyword_for_tag(tag) in keywords:
            try:
                flat[tag] = copy.copy(source.get_item(tag))  # the original stays as it is
            except Exception:  # of a kind that DICOM does not have: there, and unusable
                flat[tag] = DataElement(tag, "OB", b"?")


def _lay_flat(flat: Dataset, name: str, item: Dataset) -> None:
    if name == "PixelIntensityRelationshipLUTSequence":
        if "TO_LINEAR" in words(item, "LUTFunction"):
            flat.ModalityLUTSequence = [item]
        return
    _copy(item, flat, {*_TOP, *TABLE})
    isocenter = numbers(item, "DistanceSourceToIsocenter", 1)
    if isocenter is not None:
        flat[_PATIENT] = DataElement(_PATIENT, "DS", f"{isocenter[0]:.9g}")
    for count in (1, 2):
        sides = numbers(item, "FieldOfViewDimensionsInFloat", count)
        if sides is not None and (abs(sides) < 1e6).all():
            flat.FieldOfViewDimensions = [round(x) for x in sides.tolist()]


def modality_table_values(header: Dataset, stored: np.ndarray) -> np.ndarray | None:
    """Stored values through the Modality LUT's table, as float64; None where there is none.

    Raises:
        DicomError: a table that cannot be used.
    """
    if not value(header, "ModalityLUTSequence"):
        return None
    tables = _items(header, "ModalityLUTSequence")
    found = _through_table(tables[0], stored) if tables else None
    if found is None:
        raise DicomError(
            "the header has an unusable ModalityLUTSequence; export the image again, or pass its "
            "values as a NumPy file"
        )
    return found


def voi_table_values(header: Dataset, stored: np.ndarray) -> np.ndarray | None:
    """Stored values through the first VOI LUT table; None where there is none that can be used.

    Windows are no tables: they cut values off. The rescale slope comes before the table.
    """
    tables = _items(header, "VOILUTSequence")
    if not tables:
        return None
    slope, offset = numbers(header, "RescaleSlope", 1), numbers(header, "RescaleIntercept", 1)
    rescaled = stored if slope is None or offset is None else np.rint(stored * slope + offset)
    return _through_table(tables[0], rescaled)


def _through_table(item: Dataset, values: np.ndarray) -> np.ndarray | None:
    """Values through a table (PS3.3 C.11.1.1); None if it is damaged.

    LUTDescriptor: number of entries (0 for 65536), first value mapped, bits. Values beyond either
    end take that end's entry.
    """
    descriptor, data = numbers(item, "LUTDescriptor", 3), value(item, "LUTData")
    if not isinstance(data, bytes):
        try:
            data = stated_numbers(item, "LUTData")
        except ValueError:
            return None
    if descriptor is None or data is None:
        return None
    count, first, bits = (int(x) for x in descriptor)
    first = first - 65536 if first > 32767 and values.min() < 0 else first
    count = count or 65536
    if isinstance(data, bytes):
        wide = len(data) >= 2 * count
        table = np.frombuffer(data, dtype="<u2" if wide else "u1")
    else:
        table = np.array(data)
    if not 8 <= bits <= 16 or not 0 < count <= len(table):
        return None
    places = (values.astype(np.int64) - first).clip(0, count - 1)
    return table[:count].astype(np.float64)[places]
