"""The one picture that the browser shows: the image with what is drawn on it, and panels beside it.

Right of the image: the C-arm about the patient, three slices of the CT, the loss of the last looks.
"""

import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from drrlib.lab.explorer import ink
from drrlib.lab.explorer.compose import MODES, compose
from drrlib.lab.explorer.sights import Look
from drrlib.lab.explorer.sketch import Sketch, orientation
from drrlib.lab.explorer.slices import PLANES, Slices
from drrlib.lab.explorer.state import Explorer

MAIN, SIDE = 600, 150  # pixels of the image's longer side, and of a small panel
_QUALITY = {True: 88, False: 94}  # of JPEG, in motion and at rest


class Canvas:
    """Draws an explorer's state.

    Panels that did not change are kept from the last drawing.

    Args:
        state: What to draw.
    """

    def __init__(self, state: Explorer):
        self.state = state
        self.slices = Slices(state.volume)
        self._sketch = Sketch(self.slices, state.volume.center)
        self._kept: dict[str, tuple[tuple, Image.Image]] = {}

    def encoded(self, moving: bool = False) -> tuple[bytes, str]:
        """The picture as bytes, and their format: JPEG, or at rest in mode "blink" a PNG of two
        frames, which the browser shows in turn by itself."""
        stream = io.BytesIO()
        if self.state.mode == "blink" and not moving:
            first, second = self.picture(mode="DRR"), self.picture(mode="X-ray")
            first.save(
                stream,
                "png",
                save_all=True,
                append_images=[second],
                duration=600,
                loop=0,
                compress_level=1,
            )
            return stream.getvalue(), "png"
        picture = self.picture(moving)
        # Colours at full resolution: red and cyan of the overlay are what is looked at.
        picture.save(stream, "jpeg", quality=_QUALITY[moving], subsampling=0)
        return stream.getvalue(), "jpeg"

    def picture(self, moving: bool = False, mode: str | None = None) -> Image.Image:
        """The whole picture, RGB; in the state's mode, or another one."""
        state = self.state
        look = state.look(moving)
        whole = Image.new("RGB", (MAIN + 2 * SIDE, MAIN), ink.BACKGROUND)
        whole.paste(self._main(look, mode or state.mode), (0, 0))
        whole.paste(self._keep("sketch", (state.placement,), self._carm), (MAIN, 0))
        for k, plane in enumerate(PLANES):
            at = (MAIN + (k % 2) * SIDE, SIDE + (k // 2) * SIDE)
            key = (state.spot, *((n, m.ct) for n, m in state.marks.named.items()))
            whole.paste(self._keep(plane, key, lambda p=plane: self._plane(p)), at)
        areas = len(state.areas[state.active].drawn)
        key = (state.spot, state.cursor, len(state.marks.named), areas)
        whole.paste(self._keep("numbers", key, self._numbers), (MAIN + SIDE, 2 * SIDE))
        whole.paste(self._trace(), (MAIN, 3 * SIDE))
        return whole

    def _keep(self, name: str, key: tuple, make: Callable[[], Image.Image]) -> Image.Image:
        if name not in self._kept or self._kept[name][0] != key:
            self._kept[name] = (key, make())
        return self._kept[name][1]

    # --- the image ---------------------------------------------------------------------------

    def _main(self, look: Look, mode: str) -> Image.Image:
        state = self.state
        image = Image.new("RGB", (MAIN, MAIN), ink.BACKGROUND)
        picture = Image.fromarray(compose(mode, look, state.windows, state.negative))
        carm = state.carm
        size = np.array([carm.width * float(carm.delx), carm.height * float(carm.dely)])
        shown = np.maximum(1, np.round(size * (MAIN / size.max()))).astype(int)
        corner = (MAIN - shown) // 2
        image.paste(picture.resize(tuple(shown), Image.Resampling.BILINEAR), tuple(corner))
        draw = ImageDraw.Draw(image)
        scale = shown / np.array([carm.width, carm.height])

        def at(pixel) -> tuple[float, float]:
            return tuple((corner + scale * np.asarray(pixel, dtype=float)).tolist())

        self._areas(draw, at, scale[0] / float(carm.delx))
        self._marks(draw, at)
        self._captions(draw, look, mode)
        return image

    def _areas(self, draw: ImageDraw.ImageDraw, at: Callable, per_mm: float) -> None:
        """Outlines of the regions, corners that wait, and the crosshair."""
        areas = self.state.areas[self.state.active]
        for area in areas.drawn:
            colour = ink.GREEN if area.counts else ink.RED
            points = [at(p) for p in area.points]
            if area.shape == "circle":
                ink.ring(draw, points[0], area.radius_mm * per_mm, colour, 2)
            elif area.shape == "rectangle":
                (a, b), (c, d) = points
                draw.rectangle(
                    [min(a, c), min(b, d), max(a, c), max(b, d)], outline=colour, width=2
                )
            else:
                draw.polygon(points, outline=colour, width=2)
        waiting = [at(p) for p in areas.corners]
        if len(waiting) > 1:
            draw.line(waiting, fill=ink.YELLOW, width=1)
        for point in waiting:
            ink.ring(draw, point, 3, ink.YELLOW, 2)
        if self.state.pointing:
            ink.cross(draw, at(self.state.cursor), ink.YELLOW)
            ink.ring(draw, at(self.state.cursor), self.state.radius_mm * per_mm, (120, 114, 40))

    def _marks(self, draw: ImageDraw.ImageDraw, at: Callable) -> None:
        """Landmarks: where they were placed in this view (orange), where those of the CT fall now
        (green ring), and a line between the two."""
        state = self.state
        named = {name: mark for name, mark in state.marks.named.items() if mark.ct is not None}
        points = [mark.ct for mark in named.values()]
        points += [state.spot] if state.pointing else []
        seen = state.carm.project(points, state.pose).tolist() if points else []
        places = dict(zip(named, seen, strict=False))
        for name, mark in state.marks.named.items():
            picked = mark.pixels.get(state.active)
            if name in places and _near(places[name], state.carm):
                ink.ring(draw, at(places[name]), 6, ink.GREEN, 2)
                if picked is None:
                    _label(draw, at(places[name]), name, ink.GREEN)
                else:
                    draw.line([at(picked), at(places[name])], fill=ink.ORANGE, width=1)
            if picked is not None:
                ink.cross(draw, at(picked), ink.ORANGE, gap=2, reach=7)
                _label(draw, at(picked), name, ink.ORANGE)
        if state.pointing and _near(seen[-1], state.carm):
            ink.cross(draw, at(seen[-1]), ink.GREEN, gap=3, reach=9)

    def _captions(self, draw: ImageDraw.ImageDraw, look: Look, mode: str) -> None:
        state, half = self.state, MAIN / 2
        where = orientation(state.carm, state.pose)
        for side, at, anchor in (
            ("left", (6, half), "lm"),
            ("right", (MAIN - 6, half), "rm"),
            ("top", (half, 6), "ma"),
            ("bottom", (half, MAIN - 6), "md"),
        ):
            ink.write(draw, at, where[side], size=17, anchor=anchor, halo=True)
        ink.write(draw, (8, 6), MODES[mode][0], size=13, halo=True)
        if len(state.views) > 1:
            told = f"view {state.active + 1} of {len(state.views)}"
            ink.write(draw, (MAIN - 8, 6), told, size=13, anchor="ra", halo=True)
        ink.write(draw, (8, MAIN - 6), angles(state.numbers), size=13, anchor="ld", halo=True)
        if not look.moving.any():
            told = "the CT lies outside the beam"
            ink.write(draw, (half, half), told, size=20, colour=ink.ORANGE, anchor="mm", halo=True)

    # --- the panels --------------------------------------------------------------------------

    def _carm(self) -> Image.Image:
        return self._sketch.draw(self.state.carm, self.state.pose, SIDE)

    def _plane(self, name: str) -> Image.Image:
        grey, place, tall = self.slices.plane(name, self.state.spot)
        image, draw = ink.panel(SIDE, SIDE)
        height, width = grey.shape[0] * tall, grey.shape[1]
        scale = SIDE / max(height, width)
        shown = (max(1, round(scale * width)), max(1, round(scale * height)))
        picture = Image.fromarray(np.ascontiguousarray(grey))
        left, top = (SIDE - shown[0]) // 2, (SIDE - shown[1]) // 2
        image.paste(picture.resize(shown, Image.Resampling.BILINEAR), (left, top))
        x, y = left + scale * place[0], top + scale * tall * place[1]
        draw.line([(x, 0), (x, SIDE)], fill=(110, 104, 30))
        draw.line([(0, y), (SIDE, y)], fill=(110, 104, 30))
        ink.cross(draw, (x, y), ink.YELLOW, gap=2, reach=7)
        ink.write(draw, (5, 3), name, colour=ink.FAINT, size=11, halo=True)
        right, up = ("P", "H") if name == "sagittal" else ("L", "A" if name == "axial" else "H")
        ink.write(draw, (SIDE - 4, SIDE / 2), right, size=11, anchor="rm", halo=True)
        ink.write(draw, (SIDE / 2, 3), up, size=11, anchor="ma", halo=True)
        return image

    def _numbers(self) -> Image.Image:
        """Where the crosshairs are."""
        state = self.state
        image, draw = ink.panel(SIDE, SIDE, "crosshairs")
        x, y, z = state.spot
        column, row = state.cursor
        lines = [
            ("CT [mm, LPS]", ink.YELLOW),
            (f"{x:.1f}, {y:.1f}, {z:.1f}", ink.TEXT),
            ("image [column, row]", ink.YELLOW),
            (f"{column:.1f}, {row:.1f}", ink.TEXT),
            (f"landmarks: {len(state.marks.named)}", ink.TEXT),
            (f"regions: {len(state.areas[state.active].drawn)}", ink.TEXT),
        ]
        for k, (text, colour) in enumerate(lines):
            ink.write(draw, (6, 24 + 20 * k), text, colour=colour, size=12)
        return image

    def _trace(self) -> Image.Image:
        """The loss of the last looks; dots where it was looked at in full."""
        state = self.state
        title = "no X-ray image: no loss" if not state.views else "loss of the last looks (log)"
        image, draw = ink.panel(2 * SIDE, SIDE, title)
        if not state.trace:
            return image
        losses = np.array([loss for loss, _ in state.trace])
        shown = np.log10(np.maximum(losses, 1e-8))
        low, high = float(shown.min()), float(shown.max())
        low, high = (low - 0.1, high + 0.1) if high - low < 0.2 else (low, high)
        x = np.linspace(8, 2 * SIDE - 8, len(shown)) if len(shown) > 1 else np.array([8.0])
        y = 38 + (SIDE - 48) * (high - shown) / (high - low)
        points = list(zip(x.tolist(), y.tolist(), strict=True))
        if len(points) > 1:
            draw.line(points, fill=ink.BLUE, width=1)
        for point, (_, rests) in zip(points, state.trace, strict=True):
            if rests:
                ink.ring(draw, point, 2, ink.BLUE, 2)
        ink.write(draw, (2 * SIDE - 6, 3), f"{losses[-1]:.4g}", size=15, anchor="ra")
        best = f"least {losses.min():.4g}"
        ink.write(draw, (2 * SIDE - 6, 20), best, colour=ink.FAINT, size=11, anchor="ra")
        return image


def angles(numbers: dict[str, float]) -> str:
    """A view as it is told in an angiography suite."""
    theta, phi, gamma = (numbers[n] for n in ("theta", "phi", "gamma"))
    parts = [
        f"{abs(theta):.1f}° {'cranial' if theta >= 0 else 'caudal'}",
        f"{abs(phi):.1f}° {'LAO' if phi >= 0 else 'RAO'}",
        f"turned {gamma:.1f}°",
    ]
    return ",  ".join(parts)


def _near(pixel, carm) -> bool:
    """Whether a projected point is finite, and on the detector or close to it."""
    column, row = pixel
    finite = math.isfinite(column) and math.isfinite(row)
    return finite and -carm.width < column < 2 * carm.width and -carm.height < row < 2 * carm.height


def _label(draw: ImageDraw.ImageDraw, at: tuple[float, float], name: str, colour) -> None:
    ink.write(draw, (at[0] + 8, at[1] - 4), name, colour=colour, size=12, anchor="ls", halo=True)
