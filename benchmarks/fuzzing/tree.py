"""DICOM files as trees of raw elements, written in ways that no DICOM writer would."""

import copy
import struct
import zlib
from dataclasses import dataclass

import pydicom
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr, write_data_element
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

LONG = {x.encode() for x in "OB OD OF OL OV OW SQ SV UC UN UR UT UV".split()}
SPECIES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
UNDEFINED = 0xFFFFFFFF
ITEM, PIXELS, SYNTAX = 0xFFFEE000, 0x7FE00010, 0x00020010


@dataclass(slots=True)
class Node:
    """One element: its value as bytes, or as the items of a sequence.

    `length` is what the file says of the value's length, where that is not so.
    """

    tag: int
    vr: bytes
    value: "bytes | list[list[Node]]"
    length: int | None = None

    def copied(self) -> "Node":
        value = self.value
        if not isinstance(value, bytes):
            value = [[node.copied() for node in item] for item in value]
        return Node(self.tag, self.vr, value, self.length)


@dataclass
class File:
    """One DICOM file: its meta information and its elements, and how they are written."""

    meta: list[Node]
    body: list[Node]
    syntax: str = ExplicitVRLittleEndian

    @property
    def order(self) -> str:
        return ">" if self.syntax == ExplicitVRBigEndian else "<"

    def copied(self) -> "File":
        parts = ([node.copied() for node in part] for part in (self.meta, self.body))
        return File(*parts, self.syntax)

    def written(self) -> bytes:
        meta = encoded(self.meta, "<", False)
        head = encoded([Node(0x00020000, b"UL", struct.pack("<I", len(meta)))], "<", False)
        body = encoded(self.body, self.order, self.syntax == ImplicitVRLittleEndian)
        if self.syntax == DeflatedExplicitVRLittleEndian:
            squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            body = squeeze.compress(body) + squeeze.flush()
        return bytes(128) + b"DICM" + head + meta + body


def encoded(nodes: list[Node], order: str, implicit: bool) -> bytes:
    """Elements one after the other, in the order in which they are given."""
    parts = []
    for node in nodes:
        value = node.value
        if not isinstance(value, bytes):
            value = b"".join(item(encoded(x, order, implicit), order) for x in value)
        length = len(value) if node.length is None else node.length
        parts.append(_head(node, length, order, implicit) + value)
    return b"".join(parts)


def item(content: bytes, order: str) -> bytes:
    return struct.pack(order + "HHI", ITEM >> 16, ITEM & 0xFFFF, len(content)) + content


def _head(node: Node, length: int, order: str, implicit: bool) -> bytes:
    group, element = node.tag >> 16, node.tag & 0xFFFF
    if implicit:
        return struct.pack(order + "HHI", group, element, length & UNDEFINED)
    if node.vr in LONG:
        return struct.pack(order + "HH2sHI", group, element, node.vr, 0, length & UNDEFINED)
    return struct.pack(order + "HH2sH", group, element, node.vr, min(length, 0xFFFF))


def file_of(ds: pydicom.Dataset, syntax: str = ExplicitVRLittleEndian) -> File:
    """A data set as a tree. `syntax` is one of `SPECIES`, or another, whose pixels `ds` has."""
    ds = copy.deepcopy(ds)
    written = syntax if syntax in SPECIES else ExplicitVRLittleEndian
    ds.file_meta.TransferSyntaxUID = syntax
    order = ">" if written == ExplicitVRBigEndian else "<"
    if order == ">":
        ds.PixelData = struct.pack(
            f">{len(ds.PixelData) // 2}H",
            *struct.unpack(f"<{len(ds.PixelData) // 2}H", ds.PixelData),
        )
    correct_ambiguous_vr(ds, order == "<")
    meta = [n for n in nodes_of(ds.file_meta, "<") if n.tag != 0x00020000]
    return File(meta, nodes_of(ds, order), written)


def nodes_of(ds: pydicom.Dataset, order: str) -> list[Node]:
    return [_node(element, order) for element in ds]


def _node(element: pydicom.DataElement, order: str) -> Node:
    if element.VR == "SQ":
        return Node(int(element.tag), b"SQ", [nodes_of(x, order) for x in element.value])
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = order == "<", True
    write_data_element(file, element)
    length = UNDEFINED if element.is_undefined_length else None
    return Node(int(element.tag), element.VR.encode(), file.getvalue()[8:], length)


def tag_of(keyword: str) -> int:
    return int(Tag(keyword))
