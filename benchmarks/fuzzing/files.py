"""Whole files of every format, damaged as copies, disks and editors damage them."""

import random
import re
import struct
from pathlib import Path

import torch

from fuzzing.formats import Format, another, formats
from fuzzing.judge import SECRET, said
from fuzzing.spoil import NUMBERS

TOKEN = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
WORDS = [b"", b"nan", b"null", b"true", b"[]", b"{}", b'"', b"<a>", b"-", b"NaN", SECRET.encode()]


class Files:
    """`trial(draw)` writes the files of one format, one of them damaged, and reads them."""

    def __init__(self, folder: Path):
        torch.manual_seed(0)
        self.folder = folder / "files"
        self.folder.mkdir()
        self.formats = formats(folder / "right")
        self.names = sorted(self.formats)

    def trial(self, draw: random.Random) -> str | None:
        chosen = self.formats[draw.choice(self.names)]
        for path in self.folder.iterdir():
            path.unlink()
        files = dict(chosen.files)
        name = draw.choice(chosen.damaged)
        files[name] = self._damaged(draw, files[name])
        if len(files) > 1 and draw.random() < 0.05:
            del files[name]
        for other, data in files.items():
            (self.folder / other).write_bytes(data)
        return self._read(chosen)

    def _read(self, chosen: Format) -> str | None:
        path = self.folder / chosen.first if chosen.first else self.folder
        return said(lambda: chosen.reader(path))

    def _damaged(self, draw: random.Random, data: bytes) -> bytes:
        data = bytearray(data)
        for _ in range(draw.choice([1, 1, 1, 2, 4])):
            change = draw.choices(CHANGES, WEIGHTS)[0]
            data = change(draw, data)
        if draw.random() < 0.04:
            data = bytearray(another(draw, self.formats))  # under this one's name
        return bytes(data)


def _at(draw: random.Random, data: bytearray) -> int:
    """A place, as often in the first part, where headers are, as anywhere."""
    return min(draw.randrange(draw.choice([16, 600, len(data) + 1])), max(len(data) - 1, 0))


def _bits(draw: random.Random, data: bytearray) -> bytearray:
    for _ in range(draw.choice([1, 3, 30]) if data else 0):
        data[_at(draw, data)] ^= 1 << draw.randrange(8)
    return data


def _cut(draw: random.Random, data: bytearray) -> bytearray:
    return data[: draw.randrange(len(data) + 1)]


def _block(draw: random.Random, data: bytearray) -> bytearray:
    """A block that a disk lost, or that stands twice, or elsewhere."""
    begin, size = _at(draw, data), draw.choice([1, 4, 16, 512])
    block, which = data[begin : begin + size], draw.randrange(4)
    if which == 0:
        data[begin : begin + size] = bytes(len(block))
    elif which == 1:
        del data[begin : begin + size]
    elif which == 2:
        data[begin:begin] = block * draw.choice([1, 3])
    else:
        begin = _at(draw, data)
        data[begin : begin + len(block)] = block
    return data


def _poke(draw: random.Random, data: bytearray) -> bytearray:
    """A number of a header becomes another one, in either order of bytes."""
    order, begin = draw.choice("<>"), _at(draw, data) & ~1
    if draw.random() < 0.5:
        form, some = draw.choice("BHIQ"), [0, 1, 2, 2**7, 2**8 - 1]
        bits = 8 * struct.calcsize(form)
        some += [x % 2**bits for x in (2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**63, -1)]
        new = struct.pack(order + form, draw.choice(some))
    else:
        some = [0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), 3.0]
        new = struct.pack(order + draw.choice("fd"), draw.choice(some))
    data[begin : begin + len(new)] = new
    return data


def _number(draw: random.Random, data: bytearray) -> bytearray:
    """A number in a text becomes another one, or no number."""
    found = list(TOKEN.finditer(bytes(data[:20000])))
    if not found:
        return _poke(draw, data)
    token = draw.choice(found)
    new = draw.choice(NUMBERS).encode() if draw.random() < 0.7 else draw.choice(WORDS)
    data[token.start() : token.end()] = new
    return data


def _line(draw: random.Random, data: bytearray) -> bytearray:
    """A line of a text is lost, doubled, or swapped with another one."""
    lines = bytes(data).split(b"\n")
    k, j = draw.randrange(len(lines)), draw.randrange(len(lines))
    which = draw.randrange(4)
    if which == 0:
        del lines[k]
    elif which == 1:
        lines.insert(j, lines[k])
    elif which == 2:
        lines[k], lines[j] = lines[j], lines[k]
    else:
        lines.insert(k, draw.choice([*WORDS, b"\xff\xfe", b"9" * 5000]))
    return bytearray(b"\n".join(lines))


CHANGES = [_bits, _cut, _block, _poke, _number, _line]
WEIGHTS = [4, 2, 2, 3, 3, 1]
