"""A small drawing of the C-arm about the patient, from the feet and from the patient's left."""

import math

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from drrlib.geometry import CArm
from drrlib.lab.explorer import ink
from drrlib.lab.explorer.slices import Slices

# Title, world axis to the right, world axis downwards and its sign, letters at right and top.
_SIDES = (
    ("from the feet", 0, (1, 1.0), "L", "A"),
    ("from the left", 1, (2, -1.0), "P", "H"),
)


class Sketch:
    """Draws source, beam and detector about the CT's silhouette.

    Args:
        slices: The CT.
        center: Of the volume [mm, world]; the middle of the drawing.
    """

    def __init__(self, slices: Slices, center: Float[Tensor, "3"]):
        self.center = center.numpy()
        (x, y, z) = slices.bounds()
        # Seen along z: rows along y; along x: rows along z, which points up.
        self._shapes = (
            (slices.silhouette(2), x, y),
            (slices.silhouette(0)[::-1], y, z),
        )

    def draw(
        self, carm: CArm, pose: Float[Tensor, "4 4"], size: int, reach: float = 0.0
    ) -> Image.Image:
        """Both drawings side by side, [size, 2 size].

        Args:
            carm, pose: The C-arm.
            size: Pixels of one side.
            reach: Half of what a drawing shows [mm]; 0 for as much as the C-arm needs.
        """
        frame = carm.frame(pose)
        source, corner, col, row = (x.numpy() for x in frame)
        edges = [corner, corner + carm.width * col]
        edges += [edges[1] + carm.height * row, corner + carm.height * row]
        far = max(np.abs(p - self.center).max() for p in (source, *edges))
        reach = reach or 1.12 * max(far, float(carm.sod), float(carm.sdd) - float(carm.sod))
        both = Image.new("RGB", (2 * size, size), ink.PANEL)
        for k, side in enumerate(_SIDES):
            picture = self._side(side, self._shapes[k], source, edges, size, reach)
            both.paste(picture, (k * size, 0))
        return both

    def _side(self, side, shape, source, edges, size: int, reach: float) -> Image.Image:
        title, right, (down, sign), at_right, at_top = side
        image, draw = ink.panel(size, size, title)
        scale, middle = size / (2 * reach), size / 2

        def at(point) -> tuple[float, float]:
            off = point - self.center
            return middle + scale * off[right], middle + scale * sign * off[down]

        grey, across, along = shape
        low, high = (np.array([across[k], along[k]]) for k in (0, 1))
        corner = np.zeros(3)
        corner[right], corner[down] = low[0], low[1] if sign > 0 else high[1]
        body = Image.fromarray(np.ascontiguousarray(grey))
        wide = [max(2, math.ceil(scale * x)) for x in (high - low)]
        body = body.resize(wide)
        image.paste(body, tuple(round(x) for x in at(corner)), body)  # air lets the panel through
        start, corners = at(source), [at(p) for p in edges]
        for end in corners:
            draw.line([start, end], fill=(96, 90, 60), width=1)
        draw.line([start, _mean(corners)], fill=ink.RED, width=1)
        draw.polygon(corners, outline=ink.BLUE, width=2)
        draw.line([corners[0], corners[2]], fill=ink.BLUE, width=2)
        ink.ring(draw, start, 4, ink.YELLOW, 3)
        ink.write(draw, (size - 4, middle), at_right, colour=ink.FAINT, size=11, anchor="rm")
        ink.write(draw, (middle, 16), at_top, colour=ink.FAINT, size=11, anchor="ma")
        return image


def _mean(points: list[tuple[float, float]]) -> tuple[float, float]:
    return tuple(sum(x) / len(points) for x in zip(*points, strict=True))


def letters(direction: Float[Tensor, "3"] | np.ndarray) -> str:
    """Where in the patient a direction points: one or two of R L A P H F, the stronger first."""
    way = np.asarray(direction, dtype=float)
    way = way / max(float(np.linalg.norm(way)), 1e-12)
    names = [("R", "L"), ("A", "P"), ("F", "H")]
    order = sorted(range(3), key=lambda k: -abs(way[k]))
    return "".join(names[k][int(way[k] > 0)] for k in order[:2] if abs(way[k]) > 0.4)


def orientation(carm: CArm, pose: Float[Tensor, "4 4"]) -> dict[str, str]:
    """Letters for the left, right, top and bottom of the image."""
    frame = carm.frame(torch.as_tensor(pose))
    col, row = frame.col_step.numpy(), frame.row_step.numpy()
    return dict(left=letters(-col), right=letters(col), top=letters(-row), bottom=letters(row))
