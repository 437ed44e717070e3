"""What is done to a header: wrong values, kinds, lengths, orders, sequences, syntaxes."""

import random
import struct

import pydicom

from fuzzing.judge import SECRET
from fuzzing.tree import LONG, PIXELS, SPECIES, SYNTAX, UNDEFINED, File, Node, encoded, item

NUMBERS = "0 1 -1 2 3 7 255 65535 -3.5 0.5 1e9 1e-30 1e30 1e300 1e308 -1e308 1e400 nan inf -inf"
NUMBERS = [*NUMBERS.split(), "9" * 20, "9" * 400, "1_0", "0x10", "+1", " 1 ", "1,5", "", "-0", "1e"]
TEXTS = [
    *("", " ", "\0", SECRET, SECRET * 20, "\\", "\\\\\\", "1\\2", "CT", "MR", "XA", "NO", "YES"),
    *("ORIGINAL\\PRIMARY\\LOCALIZER", "DERIVED\\SECONDARY\\MPR", "LOG", "DISP", "L\\F", "A\\R"),
    *("MONOCHROME1", "RGB", "PALETTE COLOR", "RECTANGULAR", "CIRCULAR\\POLYGONAL", "NONE", "HU"),
    *("20200230", "250000.5", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1..2"),
    *("STATIC", "DYNAMIC", "HFS", "FFDR", "INVERSE", "TO_LINEAR", "FOR PRESENTATION", "MG"),
]
BYTES = [*(t.encode() for t in TEXTS), b"\xff\xfe", b"\x80" * 7, "\u0661\u00e9".encode(), b"\r\n"]
CHARSETS = [
    *("ISO_IR 100", "ISO_IR 192", "GB18030", "GBK", "ISO 2022 IR 87", "\\ISO 2022 IR 149"),
    *("ISO 2022 IR 6\\ISO 2022 IR 159", "nonsense", SECRET, "\\", "ISO_IR 13\\ISO_IR 13"),
]
KINDS = [x.encode() for x in "DS IS LO CS UI US SS UL FL FD OB OW UN SQ UT AT DA TM PN UV".split()]
KINDS += [b"ZZ", b"\0\0", b"  "]
PACKS = {b"US": "H", b"SS": "h", b"UL": "I", b"SL": "i", b"FL": "f", b"FD": "d", b"OW": "H"}
PACKS |= {b"UV": "Q", b"SV": "q", b"OF": "f", b"OD": "d"}
SYNTAXES = [
    *SPECIES,
    *("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80"),
    *("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.5"),
    *("1.2.840.10008.1.2.4.102", "1.2.3.4", SECRET, "", "1.2.840.10008.5.1.4.1.1.2"),
]


def spoil(draw: random.Random, file: File, tags: list[int]) -> None:
    """One thing goes wrong with one element, at the top or in a sequence."""
    if draw.random() < 0.06:
        _meta(draw, file)
        return
    nodes = draw.choice(_places(file.body))
    tag = draw.choice(tags) if draw.random() < 0.8 or not nodes else draw.choice(nodes).tag
    at = next((k for k, node in enumerate(nodes) if node.tag == tag), None)
    if at is None and draw.random() < 0.5:  # rather what is there than what is not
        nodes = next((x for x in _places(file.body) if any(n.tag == tag for n in x)), nodes)
        at = next((k for k, node in enumerate(nodes) if node.tag == tag), None)
    if at is None:
        if draw.random() < 0.3:
            _other(draw, nodes, file.order)
            return
        nodes.append(Node(tag, _usual(tag), b""))
        nodes.sort(key=lambda node: node.tag)
        at = next(k for k, node in enumerate(nodes) if node.tag == tag)
    change = draw.choices(CHANGES, WEIGHTS)[0]
    change(draw, nodes, at, file.order)


def _places(nodes: list[Node]) -> list[list[Node]]:
    """The elements at the top, and those of each item below."""
    found = [nodes]
    for node in nodes:
        if not isinstance(node.value, bytes):
            for inner in node.value:
                found += _places(inner)
    return found


def _usual(tag: int) -> bytes:
    try:
        return pydicom.datadict.dictionary_VR(tag).split(" or ")[0].encode()
    except KeyError:
        return b"UN"


def content(draw: random.Random, vr: bytes, order: str) -> bytes:
    """A value, often of the right form."""
    form, chance = PACKS.get(vr), draw.random()
    if chance < 0.1:
        return bytes(draw.randrange(256) for _ in range(draw.randrange(20)))
    if form and chance < 0.8:
        return b"".join(_packed(draw, form, order) for _ in range(draw.choice([1, 1, 2, 3, 6])))
    if vr == b"AT" and chance < 0.8:
        return struct.pack(order + "HH", 0x20, draw.choice([0x32, 0x9111, 0]))
    if chance < 0.55:
        count = draw.choice([1, 1, 2, 3, 6, 40])
        return "\\".join(draw.choice(NUMBERS) for _ in range(count)).encode()
    return draw.choice(BYTES)


def _packed(draw: random.Random, form: str, order: str) -> bytes:
    if form in "fd":
        some = [0.0, 1.0, -1.0, 0.5, 1e30, -1e-30, float("nan"), float("inf"), 180.0, 1e-310]
        return struct.pack(order + form, draw.choice(some))
    bits = 8 * struct.calcsize(form)
    raw = draw.choice([0, 1, 2, 3, 8, 12, 16, 2**bits - 1, 2 ** (bits - 1), draw.getrandbits(bits)])
    return struct.pack(order + form.upper(), raw)


def _value(draw: random.Random, nodes: list[Node], at: int, order: str) -> None:
    nodes[at].value, nodes[at].length = content(draw, nodes[at].vr, order), None


def _part(draw: random.Random, nodes: list[Node], at: int, order: str) -> None:
    """One number of several is another one."""
    node = nodes[at]
    if not isinstance(node.value, bytes) or node.tag == PIXELS:
        _items(draw, nodes, at, order)
        return
    form = PACKS.get(node.vr)
    if form:
        size = struct.calcsize(form)
        k = size * draw.randrange(max(len(node.value) // size, 1))
        node.value = node.value[:k] + _packed(draw, form, order) + node.value[k + size :]
    else:
        parts = node.value.split(b"\\")
        parts[draw.randrange(len(parts))] = draw.choice(NUMBERS).encode()
        node.value = b"\\".join(parts)


def _kind(draw: random.Random, nodes: list[Node], at: int, order: str) -> None:
    node = nodes[at]
    if not isinstance(node.value, bytes):
        node.value = encoded(node.value[0] if node.value else [], order, False)
    node.vr = draw.choice(KINDS)
    if draw.random() < 0.5:
        node.value = content(draw, node.vr, order)


def _length(draw: random.Random, nodes: list[Node], at: int, order: str) -> None:
    node = nodes[at]
    true = len(node.value) if isinstance(node.value, bytes) else len(encoded([node], order, False))
    lies = [0, 1, true + 1, true + 8, max(true - 1, 0), true // 2, 0xFFFF, 2**31, UNDEFINED]
    node.length = draw.choice(lies)


def _twice(draw: random.Random, nodes: list[Node], at: int, order: str) -> None:
    again = nodes[at].copied()
    if draw.random() < 0.7:
        again.value = content(draw, again.vr, order)
    nodes.insert(draw.choice([at, at + 1, len(nodes)]), again)


def _drop(draw: random.Random, nodes: list[Node], at: int, order: str) -> None:
    del nodes[at]


def _other(draw: random.Random, nodes: list[Node], order: str) -> None:
    draw.choice([_order, _private, _charset])(draw, nodes, 0, order)


def _order(draw: random.Random, nodes: list[Node], at: int, order: str) -> None:
    draw.choice([draw.shuffle, lambda x: x.reverse()])(nodes)


def _private(draw: random.Random, nodes: list[Node], at: int, order: str) -> None:
    group = draw.choice([0x0009, 0x0019, 0x0029, 0x7FE1, 0x0001, 0x0028])
    made = [
        Node(group << 16 | 0x10, b"LO", draw.choice([b"DRRLIB TEST", b"", SECRET.encode()])),
        Node(group << 16 | 0x1001, draw.choice(KINDS), b""),
        Node(group << 16 | 0x1002, b"SQ", [[Node(0x00100010, b"PN", SECRET.encode())]]),
    ]
    made[1].value = content(draw, made[1].vr, order)
    nodes += draw.sample(made, draw.choice([1, 2, 3]))
    if draw.random() < 0.8:
        nodes.sort(key=lambda node: node.tag)


def _charset(draw: random.Random, nodes: list[Node], at: int, order: str) -> None:
    nodes.insert(0, Node(0x00080005, b"CS", draw.choice(CHARSETS).encode()))
    texts = [n for n in nodes if n.vr in (b"LO", b"SH", b"CS", b"PN", b"LT", b"UT")]
    if texts:
        escaped = [b"\x1b$B;3ED\x1b(B", b"\xc4\xe3\xa9", b"\x1b$)C\xb1\xe8", b"\x1b\x1b", b"\xff"]
        draw.choice(texts).value = draw.choice(escaped)


def _nest(draw: random.Random, nodes: list[Node], at: int, order: str) -> None:
    """A sequence where none belongs, or one that is broken or deep."""
    node = nodes[at]
    inner = Node(node.tag, node.vr if isinstance(node.value, bytes) else b"LO", b"1\\2")
    node.vr, node.length = b"SQ", None
    which = draw.randrange(6)
    if which == 0:
        node.value = []
    elif which == 1:
        node.value = [[]]
    elif which == 2:
        node.value = [[inner, Node(0x00100010, b"PN", SECRET.encode())]] * draw.choice([1, 2, 40])
    elif which == 3:
        node.value = item(content(draw, b"UN", order), order)
    elif which == 4:
        node.value = struct.pack(order + "HHI", 0xFFFE, 0xE0DD, 0) + content(draw, b"UN", order)
    else:
        node.value, deep = b"", draw.choice([3, 60, 700, 4000])
        while deep and len(node.value) < 60000:
            node.value, deep = (
                item(encoded([Node(node.tag, b"SQ", node.value)], order, False), order),
                deep - 1,
            )


def _items(draw: random.Random, nodes: list[Node], at: int, order: str) -> None:
    """Items of a sequence are lost, doubled, swapped, or empty."""
    held = [n for n in nodes if not isinstance(n.value, bytes) and n.value]
    if not held:
        _value(draw, nodes, at, order)
        return
    items = draw.choice(held).value
    k = draw.randrange(len(items))
    which = draw.randrange(5)
    if which == 0:
        del items[k]
    elif which == 1:
        items.insert(k, [node.copied() for node in items[k]])
    elif which == 2:
        items[k] = []
    elif which == 3:
        items.reverse()
    else:
        items.extend([[]] * draw.choice([1, 50]))


def _pixels(draw: random.Random, nodes: list[Node], at: int, order: str) -> None:
    """Pixel data too short, too long, of another kind, or in parts."""
    node = next((n for n in nodes if n.tag == PIXELS), None)
    if node is None:
        _value(draw, nodes, at, order)
        return
    data, which = node.value, draw.randrange(7)
    if which == 0:
        node.value = data[: draw.randrange(len(data) + 1)]
    elif which == 1:
        node.value = data * draw.choice([2, 3])
    elif which == 2:
        node.value = data + bytes(draw.choice([1, 2, 7]))
    elif which == 3:
        node.value, node.length = item(b"", order) + item(data, order), UNDEFINED
        node.vr = b"OB"
    elif which == 4:
        node.tag = draw.choice([0x7FE00008, 0x7FE00009, 0x7FE00001])
    elif which == 5:
        node.value = bytes(len(data))
    else:
        k = draw.randrange(max(len(data), 1))
        node.value = data[:k] + content(draw, b"UN", order) + data[k:]


def _meta(draw: random.Random, file: File) -> None:
    """The transfer syntax says something else than what is there; or meta information is lost."""
    which = draw.randrange(4)
    if which == 0:
        file.syntax = draw.choice(SPECIES)  # written so, said otherwise
    elif which == 1 and file.meta:
        del file.meta[draw.randrange(len(file.meta))]
    elif which == 2 and file.meta:
        node = draw.choice(file.meta)
        node.value = content(draw, node.vr, "<")
    else:
        for node in file.meta:
            if node.tag == SYNTAX:
                node.value = draw.choice(SYNTAXES).encode()


CHANGES = [_value, _part, _kind, _length, _twice, _drop, _nest, _items, _pixels, _order]
CHANGES += [_private, _charset]
WEIGHTS = [6, 5, 2, 1, 1, 3, 1.5, 1, 1, 0.3, 0.4, 0.4]
assert not set(PACKS) - LONG - {b"US", b"SS", b"UL", b"SL", b"FL", b"FD"}
