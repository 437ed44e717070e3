"""A pelvis: hip bones, sacrum, L4 and L5, both thigh bones, soft tissue and bowel gas.

All numbers are world mm in LPS; z = 0 lies 3 cm above the hip joints. `s` is the side: -1
right, +1 left. The legs are turned differently, so no side mirrors the other.
"""

from itertools import pairwise

import numpy as np

from drrlib.lab.phantoms.painting import (
    Layer,
    Painting,
    PerAxis,
    Phantom,
    check_seed,
    grid,
    phantom,
)
from drrlib.lab.phantoms.shapes import (
    ball,
    capsule,
    cut,
    ellipsoid,
    grown,
    ribbon,
    smooth_path,
    tube,
    union,
    vec,
    without,
)
from drrlib.lab.phantoms.spine import Vertebra

EXTENT = 384.0
SIDES = (-1, 1)


def pelvis(
    spacing: PerAxis | None = None,
    *,
    shape: PerAxis | None = None,
    seed: int = 0,
) -> Phantom:
    """A pelvis from L4 to the upper third of the thighs.

    Args:
        spacing: Voxel edges [mm], one number or (x, y, z); 1.5 mm if nothing is given.
        shape: Voxels, one number or (x, y, z); default: a 384 mm cube is covered.
        seed: Chooses the individual. The same seed is the same object at any resolution.

    Returns:
        Phantom with HU from -1000 (exact, outside) to about 1500.

    Raises:
        ConfigError: bad spacing, shape or seed.
    """
    size, spacing = grid(spacing, shape, EXTENT, 1.5)
    scene = Painting(check_seed(seed))
    rng = np.random.default_rng([scene.seed, 3])
    tilt = rng.uniform(-1.5, 1.5)
    hips = {s: np.array([s * 89.0, -6.0, -30.0 + tilt * s]) + rng.uniform(-1, 1, 3) for s in SIDES}
    _soft_tissue(scene)
    _bowel(scene, rng)
    marks = _lower_spine(scene, rng)
    for s in SIDES:
        marks |= _hip_bone(scene, hips[s], s)
        turn = 0.28 + 0.12 * s + rng.uniform(-0.08, 0.08)
        marks |= _thigh_bone(scene, hips[s], s, turn, 0.04 * s)
    return phantom(scene, "pelvis", size, spacing, marks)


def _soft_tissue(scene: Painting) -> None:
    skin = union(
        ellipsoid((0, 0, 190), (168, 112, 290)),
        ellipsoid((0, 8, -20), (176, 122, 160)),
        *[capsule((s * 88, 4, -80), (s * (96 + s), 0, -300), 82, 72) for s in SIDES],
        blend=30.0,
    )
    scene.paint_layers(skin, Layer(0, 10, 8), Layer(2, -98, 8), Layer(19, 48, 8, 5))
    # inside of the belly: fat between the organs
    scene.paint(ellipsoid((0, -28, 70), (112, 58, 130)), -75, 30)
    for s in SIDES:
        scene.paint(ellipsoid((s * 78, 72, -20), (62, 34, 80), (0, 0, -s * 0.5)), 55, 6, 8)
        scene.paint(capsule((s * 44, 14, 200), (s * 62, -40, 10), 24, 17), 55, 5)  # psoas
        scene.paint(
            ribbon(
                [(s * 70, 50, 90), (s * 105, 20, 90)], [(s * 76, 68, -30), (s * 130, 28, -10)], 1.5
            ),
            -80,
        )
        for x, y in ((60, -40), (120, -20), (96, 50), (52, 26)):
            scene.paint(ellipsoid((s * x, y, -190), (4, 14, 90), (0, 0, s * x / 60)), -80)
        scene.paint(capsule((s * 54, -74, 10), (s * 74, -58, -220), 5.5), 45)
    scene.paint_layers(ellipsoid((3, -38, -28), (38, 34, 30)), Layer(0, 40), Layer(3.5, 6))


def _bowel(scene: Painting, rng: np.random.Generator) -> None:
    loops = [
        (-98, -30, 28),
        (-102, -32, 60),
        (-98, -38, 95),
        (-90, -40, 128),
        (98, -24, 110),
        (102, -20, 78),
        (92, -24, 48),
        (60, -34, 22),
        (30, -52, 34),
        (-24, -60, 62),
        (14, -62, 92),
        (-46, -58, 112),
        (44, -62, 124),
        (-10, -62, 150),
    ]
    for spot in loops:
        spot = np.array(spot) + rng.uniform(-6, 6, 3)
        r = rng.uniform(11, 19)
        lumps = [
            ellipsoid(
                spot + rng.uniform(-0.9, 0.9, 3) * [r, 0.6 * r, r],
                r * rng.uniform(0.5, 1.0, 3),
                rng.uniform(-1, 1, 3),
            )
            for _ in range(3)
        ]
        wall = union(*lumps, blend=7)
        scene.paint(grown(wall, 3.0), 38, 8)
        gas = rng.uniform() < 0.6
        scene.paint(wall, -985 if gas else 15, 0 if gas else 30)
    rectum = tube(
        smooth_path([(6, 26, 10), (-4, 44, -6), (0, 50, -30), (0, 40, -56)], 8),
        [13, 14, 15, 16, 16, 14, 10, 6],
        4,
    )
    scene.paint_layers(rectum, Layer(0, 42), Layer(4, -700, 120, 120))


def _lower_spine(scene: Painting, rng: np.random.Generator) -> dict:
    marks = {}
    lean = rng.uniform(-2, 2)
    rows = ((3, 178, 18, -0.02), (4, 140, 15, -0.08), (5, 103, 19, -0.30))
    for number, z, y, pitch in rows:
        bone = Vertebra(
            (lean * (number - 4), y, z),
            50 + number,
            36,
            28,
            pitch=-pitch,
            spinous=36,
            drop=7,
            transverse=44 - 2 * (number - 4) ** 2,
            canal=17,
            yaw=0.02 * lean,
        )
        bone.paint(scene, 230, 800)
        marks[f"L{number}"] = np.array(bone.center)
    # sacrum: five fused bodies, wings, a row of holes on each side, tail bone
    path = smooth_path([(0, 34, 82), (0, 52, 50), (0, 66, 22), (0, 72, -6), (0, 66, -24)], 16)
    bodies = tube(path, list(np.linspace(19, 7, 16)))
    wings = []
    for s in SIDES:
        edge = [
            (s * 50, 40, 74),
            (s * 51, 52, 48),
            (s * 40, 64, 22),
            (s * 25, 73, 0),
            (s * 12, 68, -20),
        ]
        inner = [
            (s * 12, 34, 80),
            (s * 12, 50, 52),
            (s * 11, 64, 24),
            (s * 10, 71, 0),
            (s * 4, 66, -20),
        ]
        wings.append(ribbon(smooth_path(inner, 7), smooth_path(edge, 7), 7.5, 0))
        wings.append(ellipsoid((s * 34, 42, 66), (24, 15, 17), (0, s * 0.4, 0)))
    crest = tube([(0, 68, 72), (1, 82, 48), (0, 91, 20), (0, 86, -6)], 4)
    sacrum = union(bodies, *wings, crest, blend=8)
    flat = np.array([0, -0.52, 0.85])
    sacrum = cut(sacrum, flat, float(flat @ [0, 30, 86]) + 4, 3)
    scene.paint_bone(sacrum, 1000, 240, 2.0)
    scene.paint(tube(path[2:14] + vec(0, 13, 5), list(np.linspace(8, 3, 12))), 20)  # canal
    for z, y, x in ((58, 48, 22), (36, 60, 20), (15, 69, 18), (-3, 73, 15)):
        for s in SIDES:
            scene.paint(capsule((s * x, y - 14, z - 4), (s * (x - 1), y + 14, z + 6), 4.2), 0)
    for z, y in ((66, 43), (42, 57), (19, 67), (-1, 72)):
        scene.paint(ellipsoid((0, y, z), (13, 9, 1.2), (-0.45, 0, 0)), 650)
    tail = [(0, 62, -31), (1, 55, -41), (1.5, 46, -49), (2, 40, -54)]
    for (a, b), r in zip(pairwise(tail), (5.5, 4.2, 3.2), strict=True):
        a, b = np.array(a), np.array(b)
        scene.paint_bone(capsule(a + 0.15 * (b - a), b - 0.1 * (b - a), r), 600, 200, 1.2)
    marks["sacral promontory"] = np.array([0, 16, 84])
    return marks


def _hip_bone(scene: Painting, hip: np.ndarray, s: int) -> dict:
    up = 1.5 * s
    crest = [
        (44, 76, 44),
        (62, 64, 84),
        (96, 34, 112),
        (126, -12, 116),
        (134, -54, 92),
        (124, -82, 58),
    ]
    waist = [
        (56, 56, 34),
        (72, 48, 58),
        (92, 26, 70),
        (110, -6, 68),
        (118, -40, 52),
        (116, -66, 40),
    ]
    crest, waist = (smooth_path([(s * x, y, z + up) for x, y, z in p], 12) for p in (crest, waist))
    low = smooth_path(
        [
            (s * 58, 50, 20),
            (s * 66, 38, 16),
            (s * 76, 22, 8),
            (s * 90, 4, 4),
            (s * 100, -26, 2),
            (s * 104, -46, 6),
        ],
        12,
    )
    wing = union(ribbon(waist, crest, 3.2), ribbon(low, waist, 4.2))
    rim = tube(crest, list(np.interp(np.linspace(0, 1, 12), [0, 0.2, 0.75, 1], [8.5, 5.5, 6.5, 7])))
    spine_low = tube(
        [(s * 117, -66, 40), (s * 108, -56, 18), hip + vec(s * 4, -16, 30)], [5, 8.5, 9]
    )
    brim = tube(
        smooth_path([(s * 56, 44, 32), (s * 66, 20, 10), hip + vec(-s * 18, -10, 14)], 6), 9
    )
    notch_side = tube([(s * 57, 56, 22), (s * 64, 44, 6), hip + vec(-s * 8, 26, 6)], [9, 9, 12])
    cup = union(ball(hip, 34), ball(hip + vec(-s * 8, 0, 8), 31), blend=6)
    pubic = [
        hip + vec(-s * 20, -22, -2),
        (s * 44, -62, -40),
        (s * 24, -78, -52),
        (s * 10, -80, -60),
    ]
    upper_branch = tube(
        smooth_path(pubic, 10), list(np.interp(np.arange(10), [0, 5, 9], [13, 7, 8.5]))
    )
    body = ribbon(
        [(s * 10, -79, -54), (s * 10, -74, -82)], [(s * 26, -76, -54), (s * 18, -70, -86)], 7.0
    )
    lower_branch = tube(
        smooth_path([(s * 12, -70, -82), (s * 30, -46, -100), (s * 50, -12, -112)], 7), 6
    )
    seat = [hip + vec(-s * 8, 26, -10), (s * 74, 34, -66), (s * 64, 24, -98), (s * 52, -2, -113)]
    sitting = tube(
        smooth_path(seat, 10), list(np.interp(np.arange(10), [0, 3, 7, 9], [17, 14, 15, 8]))
    )
    thorn = capsule((s * 70, 38, -42), (s * 54, 52, -46), 6, 2.5)
    bone = union(
        wing,
        rim,
        spine_low,
        brim,
        notch_side,
        cup,
        upper_branch,
        body,
        lower_branch,
        sitting,
        thorn,
        blend=7.0,
    )
    # the socket opens to the side, forwards and down
    mouth = capsule(hip, hip + vec(s * 40, -14, -26), 26.5, 38)
    scene.paint_bone(without(bone, union(ball(hip, 26.5), mouth)), 1150, 260, 2.2)
    roof = cut(ball(hip, 30), (-s * 0.15, 0, -1), -float(hip[2]) - 10 - 0.15 * s * float(hip[0]))
    scene.paint(without(roof, ball(hip, 26.5)), 900)
    scene.paint(grown(ball(hip, 24.5), 2.0), 60)  # joint cartilage
    joint = ribbon([(s * 52, 36, 72), (s * 56, 48, 46)], [(s * 50, 58, 66), (s * 50, 66, 34)], 1.3)
    scene.paint(joint, 40)
    if s > 0:
        scene.paint(ellipsoid((0.5, -76, -67), (3.5, 11, 20)), 110)  # cartilage of the symphysis
    side = "left" if s > 0 else "right"
    return {
        f"{side} femoral head": hip,
        f"{side} ASIS": crest[-1],
        f"{side} pubis": np.array([s * 10, -80, -60]),
    }


def _thigh_bone(scene: Painting, hip: np.ndarray, s: int, turn: float, spread: float) -> dict:
    """Head, neck at 127 degrees, trochanters and shaft; `turn` [rad] moves the neck forwards."""
    out = np.array([s * np.cos(turn), np.sin(turn), 0.0])  # from head to greater trochanter
    knee = np.array([s * (spread - 0.08), 0.02, -1.0])
    root = hip + 46 * out + vec(0, 0, -36)
    neck = capsule(hip, root, 14.5, 17)
    greater = union(
        ellipsoid(root + 13 * out + vec(0, 3, 16), (12, 15, 22)), ball(root + 6 * out, 17), blend=8
    )
    across = np.array([-out[1], out[0], 0.0]) * s
    lesser = ellipsoid(root - 14 * out + 10 * across + 42 * knee, (8, 9, 11))
    start = root + 4 * out
    upper = tube(
        [start, start + 50 * knee, start + 110 * knee, start + 260 * knee], [21, 16.5, 14.5, 14]
    )
    head = ball(hip, 24.5)
    whole = union(head, neck, greater, lesser, upper, blend=9.0)
    scene.paint_layers(whole, Layer(0, 1100, 40), Layer(1.6, 280, 30, 40), Layer(13, 190, 30, 40))
    # the wall of the shaft grows thick below the trochanters; marrow fat within
    outer = tube([start + 30 * knee, start + 110 * knee, start + 260 * knee], [16, 14.5, 14])
    core = tube(
        [start, start + 35 * knee, start + 90 * knee, start + 260 * knee], [19, 16, 8.5, 7.5]
    )
    scene.paint(without(cut(outer, -knee, -float(knee @ (start + 34 * knee)), 6), core), 1450, 30)
    scene.paint(
        tube([start + 60 * knee, start + 110 * knee, start + 260 * knee], [2, 7.5, 7]), -30, 10
    )
    beam = ribbon(
        [hip + vec(0, 0, 8), root - 10 * out + vec(0, 0, -10)],
        [hip + vec(0, 0, -4), root - 12 * out + 20 * knee],
        3,
    )
    scene.paint(beam, 420)
    side = "left" if s > 0 else "right"
    return {
        f"{side} greater trochanter": root + 20 * out,
        f"{side} lesser trochanter": lesser.center,
    }
