"""Lower jaw, palate and two rows of teeth: three teeth lost, two filled."""

import numpy as np

from drrlib.lab.phantoms.painting import Painting
from drrlib.lab.phantoms.shapes import (
    Shape,
    capsule,
    curve,
    ellipsoid,
    mirrored,
    ribbon,
    smooth_path,
    tube,
    union,
    vec,
    without,
)

# Of each row: the left half of its curve, the height of the bite, which way the roots point, and
# the widths from the front tooth to the last molar [mm].
ROWS = {
    "upper": (
        [(0, -88), (13, -84), (22, -72), (28, -55), (29, -36)],
        (-66.0, 1),
        (8.5, 6.8, 7.6, 7.0, 6.8, 10.2, 9.6, 8.6),
    ),
    "lower": (
        [(0, -85), (11, -81.5), (20, -71), (27, -54), (30, -34)],
        (-67.5, -1),
        (5.4, 6.0, 7.0, 7.0, 7.2, 11.0, 10.4, 9.8),
    ),
}
LOST = (("lower", -1, 8), ("upper", 1, 8), ("lower", 1, 6))  # row, side, number
# Ends of a filling from the bite towards the root [mm], radius, HU.
FILLED = {
    ("upper", -1, 6): ((-2, 1.5), (2, 2.5), 2.6, 3071),
    ("lower", 1, 5): ((0, 1), (0, 4), 2.9, 3000),
}


def paint_jaw(scene: Painting, j: float) -> None:
    """Palate, lower jaw shifted by `j` [mm] to the left, hyoid bone, thyroid cartilage."""
    left = [(4, -90, -49), (19, -74, -48), (15, -42, -47)]
    palate = ribbon([(-4, -90, -49), (-19, -74, -48), (-15, -42, -47)], left, 1.4)
    scene.bone(palate, 900, 500)
    chin = capsule((j - 7, -85, -92), (j + 7, -85, -92), 5.0)
    halves = [mirrored(part) for part in _half_jaw(-1, -j)] + _half_jaw(1, j)
    scene.bone(union(*halves, chin, blend=7.0), 1700, 500, 2.8)
    for s, half in scene.sides():
        canal = np.array([(45.5, -24, -46), (43, -32, -70), (30, -66, -88)]) + vec(s * j, 0, 0)
        half.fill(curve(canal, 6, 1.5), 60)
    hyoid = [(-19, -14, -98), (-13, -34, -103), (0, -41, -105), (13, -35, -103), (21, -15, -97)]
    scene.bone(curve(hyoid, 10, 2.6), 800, 300, 1.0)
    low = [(-14, -14, -134), (0, -38, -133), (14, -14, -134)]
    thyroid = ribbon([(-18, -14, -113), (0, -44, -112), (17, -14, -114)], low, 1.2)
    scene.fill(thyroid, 170)


def _half_jaw(s: int, j: float) -> list[Shape]:
    """Body, ascending branch with its notch, joint head, neck and front point."""
    top = np.array([(42, -32, -60), (34, -52, -72), (22, -74, -75), (0, -86, -76)]) + vec(j, 0, 0)
    low = np.array([(46, -18, -68), (40, -46, -87), (24, -74, -95), (0, -82, -96)]) + vec(j, 0, 0)
    front = [(45 + j, -34, -60), (47 + j, -34, -40), (48, -32, -24)]
    branch = ribbon(front, [(46.5 + j, -13, -68), (48 + j, -9, -44), (49, -8, -22)], 3.4)
    return [
        ribbon(smooth_path(top, 7), smooth_path(low, 7), 4.6),
        without(branch, ellipsoid((48, -21, -21 + s), (12, 7.5, 9))),
        capsule((43, -6, -17), (57, -3, -17), 4.2),
        capsule((49, -6, -19), (48 + j, -10, -38), 4.0),
        capsule((47, -34, -34), (46.5, -33, -17), 4.0, 2.4),
    ]


def paint_teeth(scene: Painting, jaw_shift: float, rng: np.random.Generator) -> None:
    """Paint the ridges, roots and crowns of both rows."""
    for row, (half, (bite, up), widths) in ROWS.items():
        shift = jaw_shift if row == "lower" else 0.0
        path = np.column_stack([smooth_path(half, 60), np.full(60, bite + up * 13.0)])
        length = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(path[:, :2], axis=0).T))])
        for side in (-1, 1):
            ridge = path[::6] * [side, 1, 1] + vec(shift, 0, 0)
            parts = tube(ridge, 5.6, 2.0), tube(ridge + vec(0, 1.5, up * 6.0), 5.6, 2.0)
            scene.bone(union(*parts, blend=3.0), 1050, 420, 1.5)
        for side in (-1, 1):
            at = 0.0
            for number, width in enumerate(widths, start=1):
                x, y = (np.interp(at + width / 2, length, path[:, axis]) for axis in (0, 1))
                at += width + 0.25
                spot = vec(side * x + shift, y, bite)
                spot[:2] += rng.uniform(-0.5, 0.5, 2)
                if (row, side, number) not in LOST:
                    _tooth(scene, spot, width, number, up, rng)
                if (row, side, number) in FILLED:
                    *ends, radius, hu = FILLED[row, side, number]
                    ends = [spot + vec(0, y, up * z) for y, z in ends]
                    scene.fill(capsule(*ends, radius), hu)


def _tooth(scene, spot, width, number, up, rng) -> None:
    molar = number >= 6
    long = (13.0 if molar else 16.0 if number == 3 else 14.0) + rng.uniform(-1, 1)
    r = 0.47 * width
    thick = r if molar else min(r, 3.2)
    neck = spot + vec(0, 0, up * (6.0 if molar else 8.5))
    for dy, dx in [(-2.6, 0.6), (2.6, -0.6)] if molar else [(0.0, 0.0)]:
        start, end = neck + vec(dx / 2, dy / 2, 0), neck + vec(dx, dy, up * long)
        root = capsule(start, end, 0.85 * thick, 1.3)
        scene.onion(root, (-0.4, 150), (0, 1700), (1.7, 250))
    crown = capsule(spot + vec(0, 0, up * thick), neck, thick, 0.9 * thick)
    scene.onion(crown, (0, 2500), (1.3, 1750))
