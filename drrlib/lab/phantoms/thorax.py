"""A chest with arms raised: cage, spine, shoulder girdle, lungs, heart, great vessels.

All numbers are world mm in LPS; z = 0 lies at the height of T7. `s` is the side: -1 right,
+1 left. The heart points to the patient's left (+x).
"""

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
    Shape,
    ball,
    capsule,
    column,
    cut,
    ellipsoid,
    ribbon,
    smooth_path,
    triangle,
    tube,
    union,
    vec,
    without,
)
from drrlib.lab.phantoms.spine import Vertebra

EXTENT = 384.0
SIDES = (-1, 1)


def thorax(
    spacing: PerAxis | None = None,
    *,
    shape: PerAxis | None = None,
    seed: int = 0,
    contrast: bool = False,
) -> Phantom:
    """A chest from C7 to L1.

    Args:
        spacing: Voxel edges [mm], one number or (x, y, z); 1.5 mm if nothing is given.
        shape: Voxels, one number or (x, y, z); default: a 384 mm cube is covered.
        seed: Chooses the individual. The same seed is the same object at any resolution.
        contrast: Fill the left heart, aorta and coronary arteries with contrast medium.

    Returns:
        Phantom with HU from -1000 (exact, outside) to about 1300.

    Raises:
        ConfigError: bad spacing, shape or seed.
    """
    size, spacing = grid(spacing, shape, EXTENT, 1.5)
    scene = Painting(check_seed(seed))
    rng = np.random.default_rng([scene.seed, 2])
    breath = rng.uniform(-6, 6)
    _body(scene)
    lungs = {s: _lung(s, breath) for s in SIDES}
    for s in SIDES:
        scene.paint_layers(lungs[s], Layer(0, -150), Layer(1.5, -830, 20, 25))
    _mediastinum(scene)
    for s in SIDES:
        _lung_vessels(scene, lungs[s], s, rng)
    _belly(scene, breath)
    marks = _heart(scene, rng, contrast)
    marks |= _cage(scene, rng)
    _shoulders(scene)
    return phantom(scene, "thorax", size, spacing, marks)


def spine_y(z: float) -> float:
    """Depth of the front-to-back middle of the vertebral bodies: the thoracic curve [mm]."""
    return 47.0 - 24.0 * ((z - 5.0) / 150.0) ** 2


def _body(scene: Painting) -> None:
    trunk = union(
        ellipsoid((0, 0, -30), (168, 116, 230)),
        column((0, -8, -190), (152, 104), 190, 2.3),
        ellipsoid((0, 12, 112), (150, 84, 62)),
        capsule((0, 10, 130), (0, 0, 260), 62, 54),
        *[ellipsoid((s * 78, -92 - s, -12), (58, 30, 50)) for s in SIDES],
        *[capsule((s * 118, 20, 95), (s * 158, 8, 260), 62, 40) for s in SIDES],
        blend=40.0,
    )
    scene.paint_layers(trunk, Layer(0, 10, 8), Layer(2, -95, 8), Layer(15, 40, 8, 4))
    for s in SIDES:  # fat of the armpits, chest muscles
        scene.paint(ellipsoid((s * 128, -8, 52), (14, 26, 32), (0, -0.3 * s, 0)), -90, 10)
        scene.paint(ellipsoid((s * 70, -94 - s, 30), (46, 9, 44), (0, 0, s * 0.35)), 55, 8)


def _lung(s: int, breath: float) -> Shape:
    top = 4.0 * s
    parts = union(
        ellipsoid((s * 72, 4, -36), (60, 88, 112)),
        ellipsoid((s * 62, 10, 40), (55, 68, 92 + top)),
        blend=30.0,
    )
    floor = -70.0 - 14.0 * (s > 0) + breath
    dome = ellipsoid((s * 74, -12, floor - 72), (76, 118, 84))
    return without(parts, dome)


def _mediastinum(scene: Painting) -> None:
    middle = union(
        ellipsoid((0, 22, 130), (30, 38, 110)),
        ellipsoid((-2, -6, 66), (29, 34, 50)),
        ellipsoid((0, 38, -20), (27, 40, 150)),
        ellipsoid((3, -54, 40), (9, 36, 90)),
        blend=20.0,
    )
    scene.paint(middle, 20, 15)
    airway = union(
        tube([(1, 2, 230), (2, 8, 120), (5, 22, 62)], 9.0),
        tube([(5, 22, 62), (-18, 24, 42), (-34, 24, 28)], [8.5, 7.5, 6]),
        tube([(5, 22, 62), (26, 27, 40), (42, 30, 26)], [8.5, 7, 5.5]),
        tube([(-34, 24, 28), (-50, 34, -12)], [5.5, 3.5]),
        tube([(42, 30, 26), (56, 40, -14)], [5, 3]),
        blend=4.0,
    )
    scene.paint_layers(airway, Layer(-1.6, 40), Layer(0, -1000))
    scene.paint(tube([(6, 30, 120), (6, 38, 40), (12, 34, -60), (22, 10, -120)], 7), 35)


def _lung_vessels(scene: Painting, lung: Shape, s: int, rng: np.random.Generator) -> None:
    """Branching vessels from the root of the lung, kept where the lung is."""

    def inside(point) -> bool:
        x, y, z = np.float32(point).reshape(3, 1)
        return float(lung.distance(x, y, z)[0, 0, 0]) < -2.0

    root = np.array([s * 34.0, 16.0, 24.0 + 4.0 * s])
    scene.paint(ellipsoid(root, (13, 15, 20)), 45, 8)
    twigs = []
    starts = [
        (s * 0.5, 0.1, 1),
        (s, -0.5, 0.6),
        (s, 0.5, 0.3),
        (s * 0.9, -0.5, -0.2),
        (s * 0.6, 0.4, -0.9),
        (s * 0.5, -0.2, -1),
        (s * 0.9, 0.8, -0.5),
    ]
    ends = [(root, np.array(way) / np.linalg.norm(way), 6.0, 31.0) for way in starts]
    while ends:
        start, way, radius, length = ends.pop()
        stop = start + length * way
        if radius < 0.75 or (radius < 4.0 and not inside(stop)):
            continue
        twigs.append(capsule(start, stop, radius, 0.8 * radius))
        for thinner in (0.78, 0.62):
            bend = way + rng.normal(scale=0.42, size=3)
            ends.append((stop, bend / np.linalg.norm(bend), radius * thinner, 0.88 * length))
    scene.paint(union(*twigs), 45)


def _belly(scene: Painting, breath: float) -> None:
    for s in SIDES:  # fill under the domes
        floor = -70.0 - 14.0 * (s > 0) + breath
        dome = ellipsoid((s * 74, -12, floor - 72), (74, 98, 82))
        scene.paint(cut(dome, (0, 0, 1), floor + 20), 42, 8)
    liver = union(
        ellipsoid((-70, -14, -142 + breath), (70, 92, 70)),
        ellipsoid((10, -44, -126), (62, 42, 34)),
        blend=30,
    )
    scene.paint(liver, 62, 5, 4)
    scene.paint(ellipsoid((96, 46, -128), (34, 34, 44), (0, 0.3, 0)), 52, 4)
    scene.paint_layers(
        ellipsoid((66, -14, -122 + breath), (42, 34, 26), (0, 0.35, 0)),
        Layer(0, 40),
        Layer(3.5, -990),
    )
    scene.paint(
        cut(ellipsoid((66, -14, -122 + breath), (39, 31, 23), (0, 0.35, 0)), (0, -1, 0), 2), 25
    )
    colon = [
        ball((x, y, z), r)
        for x, y, z, r in (
            (104, -46, -150, 17),
            (118, -30, -166, 18),
            (60, -60, -176, 18),
            (90, -48, -168, 12),
            (24, -66, -180, 13),
            (-40, -62, -186, 15),
        )
    ]
    scene.paint_layers(union(*colon, blend=8), Layer(0, 35), Layer(2.5, -960, 0, 25))
    scene.paint(ellipsoid((4, 10, -196), (60, 34, 62)), -60, 25)


def _heart(scene: Painting, rng: np.random.Generator, contrast: bool) -> dict:
    size = 1.0 + rng.uniform(-0.04, 0.04)
    blood, filled = 48.0, 340.0 if contrast else 48.0
    tilt = (0.35, -0.75, 0.55)
    sac = union(
        ellipsoid((30, -36, -34), (44 * size, 42, 62 * size), tilt),
        ellipsoid((-16, -22, -18), (28, 32, 40)),
        ellipsoid((8, -20, 14), (30, 30, 26)),
        blend=24.0,
    )
    scene.paint_layers(sac, Layer(0, 10, 8), Layer(2.5, -50, 20), Layer(5.5, 58, 4))
    scene.paint(ellipsoid((42, -34, -42), (21, 22, 40), tilt), filled, 4)  # left ventricle
    scene.paint(ellipsoid((8, -54, -36), (24, 15, 34), (0.3, -0.4, 0.5)), blood, 4)
    scene.paint(ellipsoid((-22, -20, -20), (19, 23, 30)), blood, 4)
    scene.paint(ellipsoid((12, 8, 2), (30, 18, 22)), filled, 4)
    arch = [
        (12, -26, -6),
        (0, -34, 22),
        (-8, -30, 52),
        (2, -12, 80),
        (18, 14, 84),
        (26, 34, 66),
        (26, 42, 30),
        (22, 36, -40),
        (16, 30, -110),
        (12, 24, -230),
    ]
    radii = np.interp(np.linspace(0, 1, 36), [0, 0.2, 0.5, 1], [15, 15.5, 13.5, 10.5])
    aorta = tube(smooth_path(arch, 36), list(radii))
    scene.paint_layers(aorta, Layer(-1.5, 40), Layer(0, filled, 3))
    scene.paint(
        tube([(14, -42, 2), (22, -34, 34), (30, -8, 44), (44, 12, 36)], [14, 13, 12, 9]), blood
    )
    scene.paint(tube([(22, -20, 42), (-10, 0, 36), (-36, 12, 30)], [11, 10, 8]), blood)
    scene.paint(tube([(-26, -10, 130), (-26, -14, 60), (-22, -16, 6)], [8, 9.5, 10]), blood)
    scene.paint(tube([(-24, -8, -30), (-20, 6, -90), (-16, 14, -230)], [12, 12, 11]), blood)
    for path in (
        [(-2, -20, 84), (-22, -14, 116), (-28, 0, 180)],
        [(4, -10, 86), (6, -10, 130)],
        [(16, 4, 88), (26, 4, 120), (30, 6, 180)],
    ):
        scene.paint(tube(path, 5), filled)
    scene.paint(capsule((-4, -16, 94), (14, 2, 95), 1.5), 700)  # lime in the arch wall
    marks = {"heart apex": (70, -66, -78), "carina": (5, 22, 62), "aortic arch": (18, 14, 84)}
    if contrast:
        paths = {
            "LAD": [(14, -34, 10), (26, -56, 2), (40, -74, -24), (56, -80, -56), (64, -76, -84)],
            "LCX": [(14, -34, 10), (42, -26, 12), (64, -12, -12), (66, 0, -42), (54, 8, -62)],
            "RCA": [(4, -40, 8), (-16, -58, -2), (-28, -56, -34), (-14, -46, -66), (18, -28, -78)],
        }
        for name, path in paths.items():
            wiggle = np.array(path) + rng.uniform(-1.5, 1.5, (5, 3)) * [[0], [1], [1], [1], [1]]
            curve = smooth_path(wiggle, 24)
            scene.paint(tube(curve, list(np.linspace(2.4, 1.3, 24))), 420)
            for at in (8, 14):
                way = np.array([0.3 + 0.5 * rng.uniform(), 0.6, -0.6]) * 22
                scene.paint(capsule(curve[at], curve[at] + way, 1.3, 0.9), 400)
            marks[name] = curve[-1]
    return marks


def _cage(scene: Painting, rng: np.random.Generator) -> dict:
    marks = {}
    lean = rng.uniform(-3, 3)
    for i in range(-1, 13):  # C7, T1..T12, L1
        z = 140.0 - 22.6 * i - 0.35 * max(i - 4, 0) ** 1.5
        width = np.interp(i, [-1, 3, 12], [30, 27, 42])
        x = lean * np.sin(i / 4.0)
        slope = (spine_y(z + 5) - spine_y(z - 5)) / 10.0
        bone = Vertebra(
            (x, spine_y(z), z),
            width,
            0.78 * width,
            16.5 + 0.45 * i,
            pitch=-np.arctan(slope),
            spinous=30,
            drop=8 + 12 * (2 < i < 10),
            transverse=36.0 - i,
            canal=16,
            yaw=0.01 * lean,
        )
        bone.paint(scene, 230, 800)
        marks["L1" if i == 12 else "C7" if i == -1 else f"T{i + 1}"] = np.array(bone.center)
    for number in range(1, 13):
        top = marks[f"T{number}"][2] + 8
        for s in SIDES:
            _rib(scene, number, s, top, rng.uniform(-1.5, 1.5, 3))
    manubrium = ribbon(
        [(-25, -78, 100), (-17, -86, 78), (-14, -92, 56)],
        [(25, -78, 101), (17, -86, 78), (14, -92, 56)],
        4.5,
    )
    blade = ribbon(
        [(-12, -94, 52), (-16, -99, 0), (-12, -99, -44)],
        [(13, -94, 52), (17, -99, 0), (11, -99, -44)],
        4.2,
    )
    scene.paint_bone(manubrium, 700, 180, 1.3)
    scene.paint_bone(blade, 700, 180, 1.3)
    scene.paint_bone(capsule((1, -98, -46), (2, -94, -70), 4, 2.5), 500, 150)
    return marks


def _rib(scene: Painting, number: int, s: int, z: float, jitter: np.ndarray) -> None:
    """One rib: an arc round the chest that falls towards the front, then its cartilage."""
    knots = [1, 2, 3, 5, 8, 10, 12]
    half = np.interp(number, knots, [66, 90, 108, 126, 138, 138, 128]) + jitter[0] + 0.8 * s
    deep = np.interp(number, knots, [50, 66, 76, 86, 91, 79, 68])
    middle = np.interp(number, knots, [0, -6, -10, -12, -4, 4, 8])
    drop = np.interp(number, knots, [32, 46, 58, 74, 92, 112, 125]) + 2 * jitter[1]
    last = np.interp(number, knots, [2.75, 2.7, 2.65, 2.55, 2.3, 1.95, 0.95])
    back = spine_y(z)
    head = np.array([s * 17.0, back + 8, z])
    angle = np.linspace(0.28, last, 22)
    side, depth = s * half * np.sin(angle), middle + (deep + 4) * np.cos(angle)
    arc = np.column_stack([side, depth, z - drop * (angle - 0.3) / 2.4])
    arc[:, 2] -= 5 * np.sin(np.clip(angle, 0, np.pi)) * (number > 2)
    joint = np.array([s * 38.0, back + 22, z - 1])
    path = smooth_path(np.vstack([head, joint, arc[2::2]]), 26)
    tall = np.array([0, 0, 3.6 if number > 1 else 1.5])
    scene.paint_bone(ribbon(path - tall, path + tall, 3.0), 1250, 200, 1.5)
    if number <= 10:
        goal = (s * 16, -97, np.interp(number, [1, 7, 10], [84, -38, -52]))
        bend = 0.5 * (path[-1] + goal) + vec(0, -6, -14 if number > 4 else -2)
        scene.paint(tube(smooth_path([path[-1], bend, goal], 7), 4.6), 110, 0, 15)


def _shoulders(scene: Painting) -> None:
    for s in SIDES:
        lift = 3.0 * s
        bar = [
            (s * 22, -80, 102),
            (s * 55, -74, 114),
            (s * 92, -42, 128 + lift),
            (s * 128, -4, 136 + lift),
        ]
        thick = list(np.interp(np.arange(14), [0, 3, 13], [8.5, 5.5, 6]))
        scene.paint_bone(tube(smooth_path(bar, 14), thick), 1300, 350, 2.2)
        high, low = np.array([s * 76, 88, 122 + lift]), np.array([s * 98, 92, -22 + lift])
        socket = np.array([s * 130, 26, 112 + lift])
        blade = union(
            triangle(high, low, socket, 2.2),
            tube([high, low], 3.6),
            tube([low, socket], 4.2),
            blend=3,
        )
        scene.paint_bone(blade, 800, 250, 1.4)
        ridge = [(s * 84, 92, 102 + lift), (s * 112, 80, 122 + lift), (s * 142, 30, 142 + lift)]
        scene.paint_bone(tube(smooth_path(ridge, 8), 5), 900, 250)
        scene.paint_bone(
            tube([socket + vec(-s * 10, -4, 6), (s * 118, -12, 124 + lift)], 5), 900, 250
        )
        scene.paint_bone(ellipsoid(socket, (7, 11, 16)), 900, 300)
        # upper arm, raised
        head = socket + vec(s * 24, -4, 14)
        scene.paint_bone(ball(head, 22), 800, 220, 1.5)
        shaft = tube(
            [head + vec(0, 0, 8), head + vec(s * 8, -2, 60), head + vec(s * 14, -4, 150)],
            [15, 11, 11],
        )
        scene.paint_layers(shaft, Layer(0, 1300), Layer(3.5, -20))
