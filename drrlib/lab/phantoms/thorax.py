"""A chest with arms raised: cage, spine, shoulder girdle, lungs, heart, great vessels.

All numbers are world mm in LPS; z = 0 lies at the height of T7. `s` is the side: -1 right,
+1 left. Paired parts are drawn on the left. The heart points to the patient's left (+x).
"""

import numpy as np

from drrlib.lab.phantoms.painting import Marks, Painting, PerAxis, Phantom, phantom
from drrlib.lab.phantoms.shapes import (
    Shape,
    ball,
    capsule,
    column,
    curve,
    cut,
    ellipsoid,
    pair,
    ribbon,
    smooth_path,
    triangle,
    tube,
    union,
    vec,
    without,
)
from drrlib.lab.phantoms.spine import Vertebra

BLOOD = 48.0  # HU
# Ribs by number: half width, depth, middle (y), drop towards the front [mm]; last angle [rad].
RIBS = [1, 2, 3, 5, 8, 10, 12]
RIB_SIZES = (
    [66, 90, 108, 126, 138, 138, 128],
    [50, 66, 76, 86, 91, 79, 68],
    [0, -6, -10, -12, -4, 4, 8],
    [32, 46, 58, 74, 92, 112, 125],
    [2.75, 2.7, 2.65, 2.55, 2.3, 1.95, 0.95],
)


def thorax(
    spacing: PerAxis | None = None,
    *,
    shape: PerAxis | None = None,
    seed: int = 0,
    contrast: bool = False,
) -> Phantom:
    """A chest from C7 to L1; spacing, shape, seed and errors as in `skull`.

    If nothing is given, voxels of 1.5 mm cover a cube of 384 mm. HU reach to about 1300.

    Args:
        contrast: Fill the left heart, aorta and coronary arteries with contrast medium.
    """

    def paint(scene: Painting, rng: np.random.Generator) -> Marks:
        breath = rng.uniform(-6, 6)
        _body(scene)
        for s, half in scene.sides():
            half.onion(_lung(s, breath), (0, -150), (1.5, -830, 20, 25))
        _mediastinum(scene)
        for s, half in scene.sides():
            _lung_vessels(half, _lung(s, breath), s, rng)
        _belly(scene, breath)
        marks = _heart(scene, 340.0 if contrast else BLOOD, rng)
        if contrast:
            marks |= _coronaries(scene, rng)
        marks |= _cage(scene, rng)
        for s, half in scene.sides():
            _shoulder(half, 3.0 * s)
        return marks

    return phantom("thorax", paint, (spacing, shape, seed), kind=2, extent=384.0, spacing=1.5)


def spine_y(z: float) -> float:
    """Depth of the front-to-back middle of the vertebral bodies: the thoracic curve [mm]."""
    return 47.0 - 24.0 * ((z - 5.0) / 150.0) ** 2


def _body(scene: Painting) -> None:
    trunk = union(
        ellipsoid((0, 0, -30), (168, 116, 230)),
        column((0, -8, -190), (152, 104), 190, 2.3),
        ellipsoid((0, 12, 112), (150, 84, 62)),
        capsule((0, 10, 130), (0, 0, 260), 62, 54),
        *pair(lambda s: ellipsoid((78, -92 - s, -12), (58, 30, 50))),
        *pair(lambda s: capsule((118, 20, 95), (158, 8, 260), 62, 40)),
        blend=40.0,
    )
    scene.onion(trunk, (0, 10, 8), (2, -95, 8), (15, 40, 8, 4))
    for s, half in scene.sides():  # fat of the armpits, chest muscles
        half.fill(ellipsoid((128, -8, 52), (14, 26, 32), (0, -0.3, 0)), -90, 10)
        half.fill(ellipsoid((70, -94 - s, 30), (46, 9, 44), (0, 0, 0.35)), 55, 8)


def _floor(s: int, breath: float) -> float:
    """Height of the floor of a lung."""
    return -70.0 - 14.0 * (s > 0) + breath


def _lung(s: int, breath: float) -> Shape:
    parts = union(
        ellipsoid((72, 4, -36), (60, 88, 112)),
        ellipsoid((62, 10, 40), (55, 68, 92 + 4.0 * s)),
        blend=30.0,
    )
    return without(parts, ellipsoid((74, -12, _floor(s, breath) - 72), (76, 118, 84)))


def _mediastinum(scene: Painting) -> None:
    middle = union(
        ellipsoid((0, 22, 130), (30, 38, 110)),
        ellipsoid((-2, -6, 66), (29, 34, 50)),
        ellipsoid((0, 38, -20), (27, 40, 150)),
        ellipsoid((3, -54, 40), (9, 36, 90)),
        blend=20.0,
    )
    scene.fill(middle, 20, 15)
    airway = union(
        tube([(1, 2, 230), (2, 8, 120), (5, 22, 62)], 9.0),
        tube([(5, 22, 62), (-18, 24, 42), (-34, 24, 28)], [8.5, 7.5, 6]),
        tube([(5, 22, 62), (26, 27, 40), (42, 30, 26)], [8.5, 7, 5.5]),
        tube([(-34, 24, 28), (-50, 34, -12)], [5.5, 3.5]),
        tube([(42, 30, 26), (56, 40, -14)], [5, 3]),
        blend=4.0,
    )
    scene.onion(airway, (-1.6, 40), (0, -1000))
    scene.fill(tube([(6, 30, 120), (6, 38, 40), (12, 34, -60), (22, 10, -120)], 7), 35)


def _lung_vessels(scene: Painting, lung: Shape, s: int, rng: np.random.Generator) -> None:
    """Branching vessels from the root of the lung, kept where the lung is."""
    root = vec(34.0, 16.0, 24.0 + 4.0 * s)
    scene.fill(ellipsoid(root, (13, 15, 20)), 45, 8)
    ways = [(0.5, 0.1, 1), (1, -0.5, 0.6), (1, 0.5, 0.3), (0.9, -0.5, -0.2)]
    ways += [(0.6, 0.4, -0.9), (0.5, -0.2, -1), (0.9, 0.8, -0.5)]
    ends = [(root, np.array(way) / np.linalg.norm(way), 6.0, 31.0) for way in ways]
    twigs = []
    while ends:
        start, way, radius, length = ends.pop()
        stop = start + length * way
        if radius < 0.75 or (radius < 4.0 and not lung.at(stop) < -2.0):
            continue
        twigs.append(capsule(start, stop, radius, 0.8 * radius))
        for thinner in (0.78, 0.62):
            bend = way + scene.place(rng.normal(scale=0.42, size=3))
            ends.append((stop, bend / np.linalg.norm(bend), radius * thinner, 0.88 * length))
    scene.fill(union(*twigs), 45)


def _belly(scene: Painting, breath: float) -> None:
    for s, half in scene.sides():  # fill under the domes
        floor = _floor(s, breath)
        dome = ellipsoid((74, -12, floor - 72), (74, 98, 82))
        half.fill(cut(dome, (0, 0, 1), floor + 20), 42, 8)
    liver = ellipsoid((-70, -14, -142 + breath), (70, 92, 70))
    scene.fill(union(liver, ellipsoid((10, -44, -126), (62, 42, 34)), blend=30), 62, 5, 4)
    scene.fill(ellipsoid((96, 46, -128), (34, 34, 44), (0, 0.3, 0)), 52, 4)
    stomach = (66, -14, -122 + breath)
    scene.onion(ellipsoid(stomach, (42, 34, 26), (0, 0.35, 0)), (0, 40), (3.5, -990))
    scene.fill(cut(ellipsoid(stomach, (39, 31, 23), (0, 0.35, 0)), (0, -1, 0), 2), 25)
    lumps = [(104, -46, -150, 17), (118, -30, -166, 18), (60, -60, -176, 18)]
    lumps += [(90, -48, -168, 12), (24, -66, -180, 13), (-40, -62, -186, 15)]
    colon = union(*[ball(center, r) for *center, r in lumps], blend=8)
    scene.onion(colon, (0, 35), (2.5, -960, 0, 25))
    scene.fill(ellipsoid((4, 10, -196), (60, 34, 62)), -60, 25)


def _heart(scene: Painting, filled: float, rng: np.random.Generator) -> Marks:
    """Heart and great vessels; left heart and arteries with blood of `filled` HU."""
    size, tilt = 1.0 + rng.uniform(-0.04, 0.04), (0.35, -0.75, 0.55)
    sac = union(
        ellipsoid((30, -36, -34), (44 * size, 42, 62 * size), tilt),
        ellipsoid((-16, -22, -18), (28, 32, 40)),
        ellipsoid((8, -20, 14), (30, 30, 26)),
        blend=24.0,
    )
    scene.onion(sac, (0, 10, 8), (2.5, -50, 20), (5.5, 58, 4))
    scene.fill(ellipsoid((42, -34, -42), (21, 22, 40), tilt), filled, 4)  # left ventricle
    scene.fill(ellipsoid((8, -54, -36), (24, 15, 34), (0.3, -0.4, 0.5)), BLOOD, 4)
    scene.fill(ellipsoid((-22, -20, -20), (19, 23, 30)), BLOOD, 4)
    scene.fill(ellipsoid((12, 8, 2), (30, 18, 22)), filled, 4)
    arch = [(12, -26, -6), (0, -34, 22), (-8, -30, 52), (2, -12, 80), (18, 14, 84)]
    arch += [(26, 34, 66), (26, 42, 30), (22, 36, -40), (16, 30, -110), (12, 24, -230)]
    radii = np.interp(np.linspace(0, 1, 36), [0, 0.2, 0.5, 1], [15, 15.5, 13.5, 10.5])
    scene.onion(curve(arch, 36, radii), (-1.5, 40), (0, filled, 3))
    for path, radii, hu in (
        ([(14, -42, 2), (22, -34, 34), (30, -8, 44), (44, 12, 36)], [14, 13, 12, 9], BLOOD),
        ([(22, -20, 42), (-10, 0, 36), (-36, 12, 30)], [11, 10, 8], BLOOD),
        ([(-26, -10, 130), (-26, -14, 60), (-22, -16, 6)], [8, 9.5, 10], BLOOD),
        ([(-24, -8, -30), (-20, 6, -90), (-16, 14, -230)], [12, 12, 11], BLOOD),
        ([(-2, -20, 84), (-22, -14, 116), (-28, 0, 180)], 5, filled),
        ([(4, -10, 86), (6, -10, 130)], 5, filled),
        ([(16, 4, 88), (26, 4, 120), (30, 6, 180)], 5, filled),
    ):
        scene.fill(tube(path, radii), hu)
    scene.fill(capsule((-4, -16, 94), (14, 2, 95), 1.5), 700)  # lime in the arch wall
    return {"heart apex": (70, -66, -78), "carina": (5, 22, 62), "aortic arch": (18, 14, 84)}


def _coronaries(scene: Painting, rng: np.random.Generator) -> Marks:
    """The three arteries with two branches each; their ends are landmarks."""
    marks = {}
    for name, path in {
        "LAD": [(14, -34, 10), (26, -56, 2), (40, -74, -24), (56, -80, -56), (64, -76, -84)],
        "LCX": [(14, -34, 10), (42, -26, 12), (64, -12, -12), (66, 0, -42), (54, 8, -62)],
        "RCA": [(4, -40, 8), (-16, -58, -2), (-28, -56, -34), (-14, -46, -66), (18, -28, -78)],
    }.items():
        wiggle = np.array(path) + rng.uniform(-1.5, 1.5, (5, 3)) * [[0], [1], [1], [1], [1]]
        way = smooth_path(wiggle, 24)
        scene.fill(tube(way, np.linspace(2.4, 1.3, 24)), 420)
        for at in (8, 14):
            branch = vec(0.3 + 0.5 * rng.uniform(), 0.6, -0.6) * 22
            scene.fill(capsule(way[at], way[at] + branch, 1.3, 0.9), 400)
        marks[name] = way[-1]
    return marks


def _cage(scene: Painting, rng: np.random.Generator) -> Marks:
    marks = {}
    lean = rng.uniform(-3, 3)
    for i in range(-1, 13):  # C7, T1..T12, L1
        z = 140.0 - 22.6 * i - 0.35 * max(i - 4, 0) ** 1.5
        width = np.interp(i, [-1, 3, 12], [30, 27, 42])
        center = (lean * np.sin(i / 4.0), spine_y(z), z)
        pitch = -np.arctan((spine_y(z + 5) - spine_y(z - 5)) / 10.0)
        size = dict(spinous=30, drop=8 + 12 * (2 < i < 10), transverse=36.0 - i, canal=16)
        size |= dict(pitch=pitch, yaw=0.01 * lean)
        Vertebra(center, width, 0.78 * width, 16.5 + 0.45 * i, **size).paint(scene, 230, 800)
        marks["L1" if i == 12 else "C7" if i == -1 else f"T{i + 1}"] = center
    for number in range(1, 13):
        for s, half in scene.sides():
            _rib(half, number, s, marks[f"T{number}"][2] + 8, rng.uniform(-1.5, 1.5, 3))
    right = [(-25, -78, 100), (-17, -86, 78), (-14, -92, 56)]
    manubrium = ribbon(right, [(25, -78, 101), (17, -86, 78), (14, -92, 56)], 4.5)
    right = [(-12, -94, 52), (-16, -99, 0), (-12, -99, -44)]
    blade = ribbon(right, [(13, -94, 52), (17, -99, 0), (11, -99, -44)], 4.2)
    for bone in (manubrium, blade):
        scene.bone(bone, 700, 180, 1.3)
    scene.bone(capsule((1, -98, -46), (2, -94, -70), 4, 2.5), 500, 150)
    return marks


def _rib(scene: Painting, number: int, s: int, z: float, jitter: np.ndarray) -> None:
    """One rib: an arc round the chest that falls towards the front, then its cartilage."""
    half, deep, middle, drop, last = (np.interp(number, RIBS, row) for row in RIB_SIZES)
    half, drop = half + jitter[0] + 0.8 * s, drop + 2 * jitter[1]
    back = spine_y(z)
    angle = np.linspace(0.28, last, 22)
    side, depth = half * np.sin(angle), middle + (deep + 4) * np.cos(angle)
    arc = np.column_stack([side, depth, z - drop * (angle - 0.3) / 2.4])
    arc[:, 2] -= 5 * np.sin(np.clip(angle, 0, np.pi)) * (number > 2)
    path = smooth_path(np.vstack([(17.0, back + 8, z), (38.0, back + 22, z - 1), arc[2::2]]), 26)
    tall = vec(0, 0, 3.6 if number > 1 else 1.5)
    scene.bone(ribbon(path - tall, path + tall, 3.0), 1250, 200, 1.5)
    if number <= 10:
        goal = vec(16, -97, np.interp(number, [1, 7, 10], [84, -38, -52]))
        bend = 0.5 * (path[-1] + goal) + vec(0, -6, -14 if number > 4 else -2)
        scene.fill(curve([path[-1], bend, goal], 7, 4.6), 110, 0, 15)


def _shoulder(scene: Painting, lift: float) -> None:
    bar = [(22, -80, 102), (55, -74, 114), (92, -42, 128 + lift), (128, -4, 136 + lift)]
    thick = np.interp(np.arange(14), [0, 3, 13], [8.5, 5.5, 6])
    scene.bone(curve(bar, 14, thick), 1300, 350, 2.2)
    high, low, socket = (76, 88, 122 + lift), (98, 92, -22 + lift), vec(130, 26, 112 + lift)
    blade = triangle(high, low, socket, 2.2), tube([high, low], 3.6), tube([low, socket], 4.2)
    scene.bone(union(*blade, blend=3), 800, 250, 1.4)
    ridge = [(84, 92, 102 + lift), (112, 80, 122 + lift), (142, 30, 142 + lift)]
    scene.bone(curve(ridge, 8, 5), 900, 250)
    scene.bone(tube([socket + vec(-10, -4, 6), (118, -12, 124 + lift)], 5), 900, 250)
    scene.bone(ellipsoid(socket, (7, 11, 16)), 900, 300)
    head = socket + vec(24, -4, 14)  # of the upper arm, which is raised
    scene.bone(ball(head, 22), 800, 220, 1.5)
    shaft = [head + vec(0, 0, 8), head + vec(8, -2, 60), head + vec(14, -4, 150)]
    scene.onion(tube(shaft, [15, 11, 11]), (0, 1300), (3.5, -20))
