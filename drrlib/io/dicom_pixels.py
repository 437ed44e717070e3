"""What can be asked of a DICOM file's compressed pixels before they are decoded."""

import struct

import numpy as np
from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder, pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000TransferSyntaxes

from drrlib.io.dicom_tags import value
from drrlib.io.quiet import quiet

# What decoders look at.
_TAGS = [
    *("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration", "NumberOfFrames"),
    *("PixelData", "FloatPixelData", "DoubleFloatPixelData", "ExtendedOffsetTable"),
    "ExtendedOffsetTableLengths",
]


def can_decode(ds: Dataset) -> bool:
    """Whether a decoder of the file's compression is installed.

    Deflated and big-endian data have decoders of their own, always available.
    """
    try:
        with quiet():
            return get_decoder(ds.file_meta.TransferSyntaxUID).is_available
    except Exception:  # no UID that pydicom knows, or something else in its place
        return False


def decoded(ds: Dataset, index: int | None) -> np.ndarray:
    """Stored values of one frame; raises nearly anything where they cannot be read.

    No error of a decoder may be made of a sequence: its text can grow without end.
    """
    with quiet():
        for tag in map(tag_for_keyword, _TAGS):
            if tag in ds and isinstance(ds[tag].value, Sequence):
                raise ValueError("a sequence stands in the place of a number")
        return pixel_array(ds, index=index)


def compression_of(ds: Dataset) -> str:
    """Name of the transfer syntax; nothing of a text that DICOM does not know."""
    with quiet():
        syntax = getattr(ds.file_meta, "TransferSyntaxUID", None)
    known = isinstance(syntax, str) and syntax in UID_dictionary
    return UID_dictionary[syntax][0] if known else "which DICOM does not know"


def jpeg2000_size(ds: Dataset) -> tuple[int, int] | None:
    """(rows, columns) that a JPEG 2000 stream announces, read before anything is decoded: a few
    bytes could ask for gigabytes. Source: ISO/IEC 15444-1, A.5.1 (SIZ marker)."""
    with quiet():
        syntax = ds.file_meta.TransferSyntaxUID
    if syntax not in JPEG2000TransferSyntaxes:
        return None
    data = value(ds, "PixelData")
    at = data.find(b"\xff\x4f\xff\x51") if isinstance(data, bytes) else -1
    fields = b"" if at < 0 else data[at + 8 : at + 24]
    if len(fields) < 16:
        return 0, 0
    right, bottom, left, top = struct.unpack(">4I", fields)
    return bottom - top, right - left
