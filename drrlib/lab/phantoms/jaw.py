"""Lower jaw, palate and two rows of teeth: three teeth lost, two filled."""

import numpy as np

from drrlib.lab.phantoms.painting import Layer, Painting
from drrlib.lab.phantoms.shapes import (
    capsule,
    ellipsoid,
    ribbon,
    smooth_path,
    tube,
    union,
    vec,
    without,
)

SIDES = (-1, 1)
# widths along the row from the front tooth to the last molar [mm]
WIDTHS = {
    "upper": (8.5, 6.8, 7.6, 7.0, 6.8, 10.2, 9.6, 8.6),
    "lower": (5.4, 6.0, 7.0, 7.0, 7.2, 11.0, 10.4, 9.8),
}
ROWS = {
    "upper": ([(0, -88), (13, -84), (22, -72), (28, -55), (29, -36)], -66.0, 1),
    "lower": ([(0, -85), (11, -81.5), (20, -71), (27, -54), (30, -34)], -67.5, -1),
}


def paint_jaw(scene: Painting, j: float) -> None:
    """Palate, lower jaw shifted by `j` [mm] to the left, hyoid bone, thyroid cartilage."""
    palate = ribbon(
        [(-4, -90, -49), (-19, -74, -48), (-15, -42, -47)],
        [(4, -90, -49), (19, -74, -48), (15, -42, -47)],
        1.4,
    )
    scene.paint_bone(palate, 900, 500)
    halves = []
    for s in SIDES:
        top = [
            (s * 42 + j, -32, -60),
            (s * 34 + j, -52, -72),
            (s * 22 + j, -74, -75),
            (j, -86, -76),
        ]
        low = [
            (s * 46 + j, -18, -68),
            (s * 40 + j, -46, -87),
            (s * 24 + j, -74, -95),
            (j, -82, -96),
        ]
        body = ribbon(smooth_path(top, 7), smooth_path(low, 7), 4.6)
        wide = s * 2.0
        ramus = ribbon(
            [(s * 45 + j, -34, -60), (s * 47 + j, -34, -40), (s * 48, -32, -24)],
            [(s * 46.5 + j, -13, -68), (s * 48 + j, -9, -44), (s * 49, -8, -22)],
            3.4,
        )
        notch = ellipsoid((s * 48, -21, -21 + wide / 2), (12, 7.5, 9))
        head = capsule((s * 43, -6, -17), (s * 57, -3, -17), 4.2)
        neck = capsule((s * 49, -6, -19), (s * 48 + j, -10, -38), 4.0)
        point = capsule((s * 47, -34, -34), (s * 46.5, -33, -17), 4.0, 2.4)
        halves += [body, without(ramus, notch), head, neck, point]
    chin = capsule((j - 7, -85, -92), (j + 7, -85, -92), 5.0)
    scene.paint_bone(union(*halves, chin, blend=7.0), 1700, 500, 2.8)
    for s in SIDES:
        canal = [(s * 45.5 + j, -24, -46), (s * 43 + j, -32, -70), (s * 30 + j, -66, -88)]
        scene.paint(tube(smooth_path(canal, 6), 1.5), 60)
    hyoid = [(-19, -14, -98), (-13, -34, -103), (0, -41, -105), (13, -35, -103), (21, -15, -97)]
    scene.paint_bone(tube(smooth_path(hyoid, 10), 2.6), 800, 300, 1.0)
    thyroid = ribbon(
        [(-18, -14, -113), (0, -44, -112), (17, -14, -114)],
        [(-14, -14, -134), (0, -38, -133), (14, -14, -134)],
        1.2,
    )
    scene.paint(thyroid, 170)


def paint_teeth(scene: Painting, jaw_shift: float, rng: np.random.Generator) -> None:
    """Paint the ridges, roots and crowns of both rows."""
    for row, (half, bite, up) in ROWS.items():
        shift = jaw_shift if row == "lower" else 0.0
        path = smooth_path(half, 60)
        path = np.column_stack([path, np.full(60, bite + up * 13.0)])
        for side in (-1, 1):
            ridge = path[::6] * [side, 1, 1] + vec(shift, 0, 0)
            parts = [tube(ridge, 5.6, 2.0), tube(ridge + vec(0, 1.5, up * 6.0), 5.6, 2.0)]
            scene.paint_bone(union(*parts, blend=3.0), 1050, 420, 1.5)
        length = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(path[:, :2], axis=0).T))])
        for side in (-1, 1):
            at = 0.0
            for number, width in enumerate(WIDTHS[row], start=1):
                middle = at + width / 2
                at += width + 0.25
                x, y = (np.interp(middle, length, path[:, axis]) for axis in (0, 1))
                spot = np.array([side * x + shift, y, bite])
                spot[:2] += rng.uniform(-0.5, 0.5, 2)
                if (row, side, number) in (("lower", -1, 8), ("upper", 1, 8), ("lower", 1, 6)):
                    continue
                _tooth(scene, spot, width, number, up, rng)
                if (row, side, number) == ("upper", -1, 6):
                    scene.paint(
                        capsule(spot + vec(0, -2, up * 1.5), spot + vec(0, 2, up * 2.5), 2.6), 3071
                    )
                if (row, side, number) == ("lower", 1, 5):
                    scene.paint(
                        capsule(spot + vec(0, 0, up * 1), spot + vec(0, 0, up * 4), 2.9), 3000
                    )


def _tooth(scene, spot, width, number, up, rng) -> None:
    molar = number >= 6
    long = (13.0 if molar else 16.0 if number == 3 else 14.0) + rng.uniform(-1, 1)
    crown = 6.0 if molar else 8.5
    r = 0.47 * width
    thick = r if molar else min(r, 3.2)
    neck = spot + vec(0, 0, up * crown)
    spread = [(-2.6, 0.6), (2.6, -0.6)] if molar else [(0.0, 0.0)]
    for dy, dx in spread:
        end = neck + vec(dx, dy, up * long)
        scene.paint_layers(
            capsule(neck + vec(dx / 2, dy / 2, 0), end, 0.85 * thick, 1.3),
            Layer(-0.4, 150),
            Layer(0, 1700),
            Layer(1.7, 250),
        )
    scene.paint_layers(
        capsule(spot + vec(0, 0, up * thick), neck, thick, 0.9 * thick),
        Layer(0, 2500),
        Layer(1.3, 1750),
    )
