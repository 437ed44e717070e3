"""A pelvis: hip bones, sacrum, L4 and L5, both thigh bones, soft tissue and bowel gas.

All numbers are world mm in LPS; z = 0 lies 3 cm above the hip joints. `s` is the side: -1
right, +1 left. Paired parts are drawn on the left. The legs are turned differently, so no side
mirrors the other.
"""

from itertools import pairwise

import numpy as np

from drrlib.lab.phantoms.painting import Marks, Painting, PerAxis, Phantom, phantom
from drrlib.lab.phantoms.shapes import (
    ball,
    capsule,
    curve,
    cut,
    ellipsoid,
    grown,
    mirrored,
    pair,
    ribbon,
    smooth_path,
    tube,
    union,
    vec,
    without,
)
from drrlib.lab.phantoms.spine import Vertebra


def pelvis(
    spacing: PerAxis | None = None, *, shape: PerAxis | None = None, seed: int = 0
) -> Phantom:
    """A pelvis from L4 to the upper third of the thighs; arguments and errors as in `skull`.

    If nothing is given, voxels of 1.5 mm cover a cube of 384 mm. HU reach to about 1500.
    """
    return phantom("pelvis", _paint, (spacing, shape, seed), kind=3, extent=384.0, spacing=1.5)


def _paint(scene: Painting, rng: np.random.Generator) -> Marks:
    tilt = rng.uniform(-1.5, 1.5)
    hips = [vec(s * 89.0, -6.0, -30.0 + tilt * s) + rng.uniform(-1, 1, 3) for s in (-1, 1)]
    _soft_tissue(scene)
    _bowel(scene, rng)
    marks = _lower_spine(scene, rng)
    _sacrum(scene)
    for (s, half), hip, side in zip(scene.sides(), hips, ("right", "left"), strict=True):
        found = _hip_bone(half, half.place(hip), s)
        turn = 0.28 + 0.12 * s + rng.uniform(-0.08, 0.08)
        found |= _thigh_bone(half, half.place(hip), turn, 0.04 * s - 0.08)
        marks |= {f"{side} {name}": half.place(point) for name, point in found.items()}
    return marks


def _soft_tissue(scene: Painting) -> None:
    skin = union(
        ellipsoid((0, 0, 190), (168, 112, 290)),
        ellipsoid((0, 8, -20), (176, 122, 160)),
        *pair(lambda s: capsule((88, 4, -80), (96 + s, 0, -300), 82, 72)),
        blend=30.0,
    )
    scene.onion(skin, (0, 10, 8), (2, -98, 8), (19, 48, 8, 5))
    # inside of the belly: fat between the organs
    scene.fill(ellipsoid((0, -28, 70), (112, 58, 130)), -75, 30)
    for _, half in scene.sides():
        half.fill(ellipsoid((78, 72, -20), (62, 34, 80), (0, 0, -0.5)), 55, 6, 8)
        half.fill(capsule((44, 14, 200), (62, -40, 10), 24, 17), 55, 5)  # psoas
        seam = ribbon([(70, 50, 90), (105, 20, 90)], [(76, 68, -30), (130, 28, -10)], 1.5)
        half.fill(seam, -80)
        for x, y in ((60, -40), (120, -20), (96, 50), (52, 26)):
            half.fill(ellipsoid((x, y, -190), (4, 14, 90), (0, 0, x / 60)), -80)
        half.fill(capsule((54, -74, 10), (74, -58, -220), 5.5), 45)
    scene.onion(ellipsoid((3, -38, -28), (38, 34, 30)), (0, 40), (3.5, 6))


def _bowel(scene: Painting, rng: np.random.Generator) -> None:
    x = [-98, -102, -98, -90, 98, 102, 92, 60, 30, -24, 14, -46, 44, -10]
    y = [-30, -32, -38, -40, -24, -20, -24, -34, -52, -60, -62, -58, -62, -62]
    z = [28, 60, 95, 128, 110, 78, 48, 22, 34, 62, 92, 112, 124, 150]
    for loop in np.column_stack([x, y, z]):
        spot = loop + rng.uniform(-6, 6, 3)
        r = rng.uniform(11, 19)
        lumps = []
        for _ in range(3):
            center = spot + rng.uniform(-0.9, 0.9, 3) * [r, 0.6 * r, r]
            size = r * rng.uniform(0.5, 1.0, 3)
            lumps.append(ellipsoid(center, size, rng.uniform(-1, 1, 3)))
        wall = union(*lumps, blend=7)
        scene.fill(grown(wall, 3.0), 38, 8)
        gas = rng.uniform() < 0.6
        scene.fill(wall, -985 if gas else 15, 0 if gas else 30)
    path = [(6, 26, 10), (-4, 44, -6), (0, 50, -30), (0, 40, -56)]
    rectum = curve(path, 8, [13, 14, 15, 16, 16, 14, 10, 6], 4)
    scene.onion(rectum, (0, 42), (4, -700, 120, 120))


def _lower_spine(scene: Painting, rng: np.random.Generator) -> Marks:
    marks = {}
    lean = rng.uniform(-2, 2)
    size = dict(spinous=36, drop=7, canal=17, yaw=0.02 * lean)
    for number, z, y, pitch in ((3, 178, 18, 0.02), (4, 140, 15, 0.08), (5, 103, 19, 0.30)):
        center, transverse = (lean * (number - 4), y, z), 44 - 2 * (number - 4) ** 2
        bone = Vertebra(center, 50 + number, 36, 28, pitch, transverse=transverse, **size)
        bone.paint(scene, 230, 800)
        marks[f"L{number}"] = center
    return marks | {"sacral promontory": (0, 16, 84)}


def _sacrum(scene: Painting) -> None:
    """Five fused bodies, wings, a row of holes on each side, tail bone."""
    path = smooth_path([(0, 34, 82), (0, 52, 50), (0, 66, 22), (0, 72, -6), (0, 66, -24)], 16)
    edge = [(50, 40, 74), (51, 52, 48), (40, 64, 22), (25, 73, 0), (12, 68, -20)]
    inner = [(12, 34, 80), (12, 50, 52), (11, 64, 24), (10, 71, 0), (4, 66, -20)]
    wing = ribbon(smooth_path(inner, 7), smooth_path(edge, 7), 7.5)
    wings = [wing, ellipsoid((34, 42, 66), (24, 15, 17), (0, 0.4, 0))]
    crest = tube([(0, 68, 72), (1, 82, 48), (0, 91, 20), (0, 86, -6)], 4)
    bodies = tube(path, np.linspace(19, 7, 16))
    sacrum = union(bodies, *map(mirrored, wings), *wings, crest, blend=8)
    flat = vec(0, -0.52, 0.85)
    sacrum = cut(sacrum, flat, float(flat @ [0, 30, 86]) + 4, 3)
    scene.bone(sacrum, 1000, 240, 2.0)
    scene.fill(tube(path[2:14] + vec(0, 13, 5), np.linspace(8, 3, 12)), 20)  # canal
    for z, y, x in ((58, 48, 22), (36, 60, 20), (15, 69, 18), (-3, 73, 15)):
        for _, half in scene.sides():
            half.fill(capsule((x, y - 14, z - 4), (x - 1, y + 14, z + 6), 4.2), 0)
    for z, y in ((66, 43), (42, 57), (19, 67), (-1, 72)):
        scene.fill(ellipsoid((0, y, z), (13, 9, 1.2), (-0.45, 0, 0)), 650)
    tail = np.array([(0, 62, -31), (1, 55, -41), (1.5, 46, -49), (2, 40, -54)])
    for (a, b), r in zip(pairwise(tail), (5.5, 4.2, 3.2), strict=True):
        scene.bone(capsule(a + 0.15 * (b - a), b - 0.1 * (b - a), r), 600, 200, 1.2)


def _hip_bone(scene: Painting, hip: np.ndarray, s: int) -> Marks:
    """Wing, socket and the ring around the hole below it; `hip` is the centre of the joint."""
    crest = [(44, 76, 44), (62, 64, 84), (96, 34, 112)]
    crest += [(126, -12, 116), (134, -54, 92), (124, -82, 58)]
    base = [(56, 56, 34), (72, 48, 58), (92, 26, 70), (110, -6, 68), (118, -40, 52), (116, -66, 40)]
    low = [(58, 50, 20), (66, 38, 16), (76, 22, 8), (90, 4, 4), (100, -26, 2), (104, -46, 6)]
    up = vec(0, 0, 1.5 * s)
    crest, base = (smooth_path(np.array(path) + up, 12) for path in (crest, base))
    pubic = [hip + vec(-20, -22, -2), (44, -62, -40), (24, -78, -52), (10, -80, -60)]
    seat = [hip + vec(-8, 26, -10), (74, 34, -66), (64, 24, -98), (52, -2, -113)]
    ten = np.arange(10)
    bone = union(
        union(ribbon(base, crest, 3.2), ribbon(smooth_path(low, 12), base, 4.2)),
        tube(crest, np.interp(np.linspace(0, 1, 12), [0, 0.2, 0.75, 1], [8.5, 5.5, 6.5, 7])),
        tube([(117, -66, 40), (108, -56, 18), hip + vec(4, -16, 30)], [5, 8.5, 9]),
        curve([(56, 44, 32), (66, 20, 10), hip + vec(-18, -10, 14)], 6, 9),  # brim
        tube([(57, 56, 22), (64, 44, 6), hip + vec(-8, 26, 6)], [9, 9, 12]),  # side of the notch
        union(ball(hip, 34), ball(hip + vec(-8, 0, 8), 31), blend=6),  # cup of the socket
        curve(pubic, 10, np.interp(ten, [0, 5, 9], [13, 7, 8.5])),
        ribbon([(10, -79, -54), (10, -74, -82)], [(26, -76, -54), (18, -70, -86)], 7.0),
        curve([(12, -70, -82), (30, -46, -100), (50, -12, -112)], 7, 6),
        curve(seat, 10, np.interp(ten, [0, 3, 7, 9], [17, 14, 15, 8])),
        capsule((70, 38, -42), (54, 52, -46), 6, 2.5),  # thorn
        blend=7.0,
    )
    # the socket opens to the side, forwards and down
    mouth = capsule(hip, hip + vec(40, -14, -26), 26.5, 38)
    scene.bone(without(bone, union(ball(hip, 26.5), mouth)), 1150, 260, 2.2)
    roof = cut(ball(hip, 30), (-0.15, 0, -1), -float(hip[2]) - 10 - 0.15 * float(hip[0]))
    scene.fill(without(roof, ball(hip, 26.5)), 900)
    scene.fill(grown(ball(hip, 24.5), 2.0), 60)  # joint cartilage
    joint = ribbon([(52, 36, 72), (56, 48, 46)], [(50, 58, 66), (50, 66, 34)], 1.3)
    scene.fill(joint, 40)
    if s > 0:
        scene.fill(ellipsoid((0.5, -76, -67), (3.5, 11, 20)), 110)  # cartilage of the symphysis
    return {"femoral head": hip, "ASIS": crest[-1], "pubis": (10, -80, -60)}


def _thigh_bone(scene: Painting, hip: np.ndarray, turn: float, lean: float) -> Marks:
    """Head, neck at 127 degrees, trochanters and shaft; `turn` [rad] moves the neck forwards."""
    out = vec(np.cos(turn), np.sin(turn), 0.0)  # from head to greater trochanter
    knee = vec(lean, 0.02, -1.0)
    root = hip + 46 * out + vec(0, 0, -36)
    start = root + 4 * out
    greater = ellipsoid(root + 13 * out + vec(0, 3, 16), (12, 15, 22))
    across = vec(-out[1], out[0], 0.0)
    lesser = ellipsoid(root - 14 * out + 10 * across + 42 * knee, (8, 9, 11))

    def shaft(ways: list[float], radii: list[float]):
        """A tube so many mm down from the trochanters."""
        return tube([start + way * knee for way in ways], radii)

    whole = union(
        ball(hip, 24.5),
        capsule(hip, root, 14.5, 17),
        union(greater, ball(root + 6 * out, 17), blend=8),
        lesser,
        shaft([0, 50, 110, 260], [21, 16.5, 14.5, 14]),
        blend=9.0,
    )
    scene.onion(whole, (0, 1100, 40), (1.6, 280, 30, 40), (13, 190, 30, 40))
    # the wall of the shaft grows thick below the trochanters; marrow fat within
    wall = cut(shaft([30, 110, 260], [16, 14.5, 14]), -knee, -float(knee @ (start + 34 * knee)), 6)
    scene.fill(without(wall, shaft([0, 35, 90, 260], [19, 16, 8.5, 7.5])), 1450, 30)
    scene.fill(shaft([60, 110, 260], [2, 7.5, 7]), -30, 10)
    low = [hip + vec(0, 0, -4), root - 12 * out + 20 * knee]
    scene.fill(ribbon([hip + vec(0, 0, 8), root - 10 * out + vec(0, 0, -10)], low, 3), 420)
    middle = 0.5 * (lesser.lower + lesser.upper)
    return {"greater trochanter": root + 20 * out, "lesser trochanter": middle}
