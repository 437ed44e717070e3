"""Pens of the explorer's picture: colours, letters, lines on a Pillow image."""

import functools
import math

from PIL import Image, ImageDraw, ImageFont

BACKGROUND = (17, 19, 23)
PANEL = (30, 33, 39)
TEXT = (214, 219, 226)
FAINT = (128, 136, 147)
YELLOW, ORANGE, GREEN = (240, 228, 66), (230, 159, 0), (60, 210, 150)
RED, BLUE = (235, 100, 80), (86, 180, 233)


@functools.cache
def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own letters, so that every machine draws the same."""
    return ImageFont.load_default(size)


def write(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    *,
    colour: tuple[int, int, int] = TEXT,
    size: int = 13,
    anchor: str = "la",
    halo: bool = False,
) -> None:
    """Letters at a place; `anchor` as in Pillow; `halo` keeps them legible on any grey."""
    if not text:
        return
    shape, (left, top) = _letters(text, size, anchor)
    x, y = round(at[0] + left), round(at[1] + top)
    if halo:
        draw.bitmap((x + 1, y + 1), shape, fill=(0, 0, 0))
    draw.bitmap((x, y), shape, fill=colour)


@functools.lru_cache(maxsize=512)
def _letters(text: str, size: int, anchor: str) -> tuple[Image.Image, tuple[int, int]]:
    """A text's shape, and its corner's place from the anchor: drawing letters anew takes longer
    than all else in the picture."""
    left, top, right, bottom = (math.floor(x) for x in font(size).getbbox(text, anchor=anchor))
    shape = Image.new("L", (right - left + 2, bottom - top + 2))
    pen = ImageDraw.Draw(shape)
    pen.text((-left, -top), text, fill=255, font=font(size), anchor=anchor)
    return shape, (left, top)


def cross(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    colour: tuple[int, int, int],
    *,
    gap: float = 5,
    reach: float = 14,
) -> None:
    """A crosshair that leaves its middle free."""
    x, y = at
    for a, b in ((-reach, -gap), (gap, reach)):
        draw.line([(x + a, y), (x + b, y)], fill=colour, width=1)
        draw.line([(x, y + a), (x, y + b)], fill=colour, width=1)


def ring(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    radius: float,
    colour: tuple[int, int, int],
    width: int = 1,
) -> None:
    """A circle around a place."""
    x, y = at
    box = [(x - radius, y - radius), (x + radius, y + radius)]
    draw.ellipse(box, outline=colour, width=width)


def panel(width: int, height: int, title: str = "") -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty box with its title, and a pen for it."""
    image = Image.new("RGB", (width, height), PANEL)
    draw = ImageDraw.Draw(image)
    if title:
        write(draw, (5, 3), title, colour=FAINT, size=11)
    return image, draw
