"""What can be asked of a DICOM file's compressed pixels before they are decoded."""

import struct

from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder
from pydicom.uid import JPEG2000TransferSyntaxes

from drrlib.io.dicom_tags import value
from drrlib.io.quiet import quiet


def can_decode(ds: Dataset) -> bool:
    """Whether a decoder of the file's compression is installed.

    Deflated and big-endian data have decoders of their own, always available.
    """
    try:
        with quiet():
            return get_decoder(ds.file_meta.TransferSyntaxUID).is_available
    except Exception:  # no UID that pydicom knows, or something else in its place
        return False


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
