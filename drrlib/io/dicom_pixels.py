"""What can be asked of a DICOM file's compressed pixels before they are decoded."""

import struct
import warnings

from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder
from pydicom.uid import JPEG2000TransferSyntaxes


def can_decode(ds: Dataset) -> bool:
    """Whether a decoder of the file's compression is installed.

    pydicom has no entry for a compression that it does not know, and says so by an exception.
    Deflated and big-endian data have decoders of their own, always available.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's text quotes a value that breaks its format
            return get_decoder(ds.file_meta.TransferSyntaxUID).is_available
    except NotImplementedError:
        return False


def jpeg2000_size(ds: Dataset) -> tuple[int, int] | None:
    """(rows, columns) that a JPEG 2000 stream announces, read before anything is decoded: a few
    bytes could ask for gigabytes. Source: ISO/IEC 15444-1, A.5.1 (SIZ marker)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        syntax = ds.file_meta.TransferSyntaxUID
    if syntax not in JPEG2000TransferSyntaxes:
        return None
    at = ds.PixelData.find(b"\xff\x4f\xff\x51")
    fields = ds.PixelData[at + 8 : at + 24]
    if at < 0 or len(fields) < 16:
        return 0, 0
    right, bottom, left, top = struct.unpack(">4I", fields)
    return bottom - top, right - left
