"""A head: brain case, face, jaw, teeth and upper neck, different on the left and the right.

All numbers are world mm in LPS; z = 0 lies a little above the ear holes. `s` is the side: -1
right, +1 left. Paired parts are drawn on the left.
"""

import numpy as np

from drrlib.lab.phantoms.jaw import paint_jaw, paint_teeth
from drrlib.lab.phantoms.painting import Marks, Painting, PerAxis, Phantom, phantom
from drrlib.lab.phantoms.shapes import (
    Shape,
    ball,
    capsule,
    curve,
    cut,
    ellipsoid,
    grown,
    pair,
    ribbon,
    ring,
    triangle,
    tube,
    union,
    vec,
    without,
)
from drrlib.lab.phantoms.spine import Vertebra


def skull(
    spacing: PerAxis | None = None, *, shape: PerAxis | None = None, seed: int = 0
) -> Phantom:
    """A head with neck down to C4/C5.

    Args:
        spacing: Voxel edges [mm], one number or (x, y, z); 1 mm if nothing is given.
        shape: Voxels, one number or (x, y, z); default: a 256 mm cube is covered.
        seed: Chooses the individual. The same seed is the same object at any resolution.

    Returns:
        Phantom with HU from -1000 (exact, outside) to 3071 (a filling).

    Raises:
        ConfigError: bad spacing, shape or seed.
    """
    return phantom("skull", _paint, (spacing, shape, seed), kind=1, extent=256.0, spacing=1.0)


def _paint(scene: Painting, rng: np.random.Generator) -> Marks:
    vary = _Variation(rng)
    cavity, vault = brain_cavity(vary)
    scene.onion(soft_tissue(cavity, vary), (0, 25, 10), (2.0, -60, 25), (5.0, 45, 8))
    _brain_case(scene, cavity, vault)
    _brain(scene, cavity)
    _skull_base(scene, vary)
    _face(scene, vary)
    _nose(scene, vary)
    _sinuses_and_throat(scene)
    paint_jaw(scene, vary.jaw_shift)
    paint_teeth(scene, vary.jaw_shift, rng)
    return _neck(scene, vary) | {
        "nasion": (0, -86, 16),
        "sella": (0, -15, 8),
        "left gonion": (47.5, -16, -72),
        "right gonion": (-46, -14, -71),
        "left orbit": vary.orbit(1),
        "right orbit": vary.orbit(-1),
        "vertex": (0, 8, 103 + vary.height + 7),
        "inion": (0, 101, 8),
        "menton": (vary.jaw_shift, -84, -99),
    }


class _Variation:
    """Seeded differences between individuals, and between the two sides of each."""

    def __init__(self, rng: np.random.Generator):
        self.height, self.length, self.width = rng.uniform(-3, 3, 3)
        self.bump = 4 + rng.uniform(-1, 1)  # one-sided flattening of the back of the head
        self.septum = rng.uniform(2, 4) * rng.choice([-1, 1])
        self.jaw_shift = rng.uniform(1, 2.5)
        self.orbit_offset = rng.uniform(-1.2, 1.2, (2, 3))
        self.cell = rng.uniform(-1, 1, (60, 3))
        self.neck = rng.uniform(-1, 1, (8, 2))

    def orbit(self, s: int) -> np.ndarray:
        """Centre of the opening of an orbit; the left one sits higher."""
        return vec(s * 32.5, -74.0, 3.0 + 1.2 * s) + self.orbit_offset[(s + 1) // 2]


def brain_cavity(vary: _Variation) -> tuple[Shape, Shape]:
    """Inside of the brain case with the steps of the three fossae, and its vault alone."""
    h, n, w = vary.height, vary.length, vary.width
    upper = union(
        ellipsoid((0, 8, 42), (65 + w / 2, 82 + n / 2, 61 + h)),
        ellipsoid((1.5, -34, 42), (50 + w / 2, 44 + n / 2, 46)),
        ellipsoid((vary.bump, 48, 34), (58, 46 + n / 2, 52), (0, 0, 0.12)),
        blend=14.0,
    )
    # floor of the front fossa: lowest in the midline, domed over the orbits
    base = cut(upper, (0, -0.06, -1), -10.0, 8.0)
    for dome in pair(lambda s: ellipsoid((31, -56, 0.5 + s), (23, 36, 20), (0, 0, -0.2))):
        base = without(base, dome)
    cavity = union(
        base,
        ellipsoid((37, -6, 8), (27, 35, 25), (0, 0, 0.25)),
        ellipsoid((-36, -8, 9), (27, 33, 24), (0, 0, -0.25)),
        ellipsoid((0, 44, -1), (52, 42, 34)),
        capsule((0, 14, 12), (0, 25, -48), 14, 13),
        ball((0, -15, 11), 6.5),
        blend=8.0,
    )
    return cavity, cut(upper, (0, 0, -1), -26.0, 34.0)


def soft_tissue(cavity: Shape, vary: _Variation) -> Shape:
    """Skin surface: scalp, face, nose, ears, neck."""

    def ear(s: int) -> Shape:
        whole = ellipsoid((77 + 0.5 * s, 16, -8 + 3 * s), (5, 17, 30), (-0.25, 0, 0.45))
        shell = ellipsoid((83 + 0.5 * s, 12, -7 + 3 * s), (5, 9, 18), (-0.25, 0, 0.45))
        return without(whole, shell)

    face = union(
        ellipsoid((0, -42, -12), (67, 53, 60)),
        ellipsoid((0, -40, -62), (53, 52, 46)),
        capsule((vary.jaw_shift, -82, -94), (vary.jaw_shift, -74, -80), 15),
        ellipsoid((0, 20, -110), (57, 54, 70)),
        capsule((0, 34, -42), (0, 26, -110), 50, 55),
        capsule((0, 26, -110), (0, 28, -190), 55, 64),
        blend=14.0,
    )
    nose = union(
        capsule((0, -88, 10), (1, -110, -22), 5, 9),
        ellipsoid((1, -102, -31), (15, 13, 8)),
        capsule((-14, -87, -64), (14, -87, -64), 10),
        blend=8.0,
    )
    return union(grown(cavity, 12.0), face, nose, *pair(ear), blend=10.0)


def _brain_case(scene: Painting, cavity: Shape, vault: Shape) -> None:
    # two tables with spongy diploe between; the base is thinner than the vault
    brow = ellipsoid((3, -72, 18), (36, 17.5, 15), (0.1, 0, 0))
    base = cut(grown(cavity, 3.8), (0, 0, -1), 38.0, 6.0)
    outside = union(grown(vault, 7.2), base, brow, blend=8)
    scene.onion(outside, (0, 1500, 60), (1.9, 620, 90, 110))
    scene.onion(cut(grown(cavity, 1.8), (0, 0, -1), 38.0), (0, 1600, 60))
    scene.bone(tube([(0, 96, 14), (1, 101, 8), (0, 97, 2)], 3.5), 1300, 700)  # inion
    for s, half in scene.sides():
        # brow ridge, large wing of the sphenoid
        ridge = [(6, -84, 17), (24, -83, 24 + s), (43, -73, 20 + s), (52, -60, 10)]
        half.bone(curve(ridge, 8, 4.5), 1300, 700)
        upper = [(22, -26, 13), (40, -30, 14), (56, -36, 22)]
        wing = ribbon(upper, [(22, -20, 4), (34, -36, -2), (50, -44, 4)], 1.5)
        half.bone(wing, 1200, 900)


def _brain(scene: Painting, cavity: Shape) -> None:
    scene.onion(cavity, (0, 20), (2.5, 37, 2, 3), (7.0, 31, 2, 2))
    low = [(0, -60, 30), (0, -40, 70), (0, 40, 70), (0, 70, 38)]
    falx = ribbon([(0, -68, 20), (0, -50, 90), (0, 40, 98), (0, 86, 50)], low, 0.8)
    scene.fill(falx, 90)
    scene.fill(tube([(0, -50, 84), (1, -30, 92)], 1.5), 700)  # falx calcification
    for s, half in scene.sides():
        ventricle = [(8, -22, 36), (9, 5, 42), (16, 34, 36), (30, 18, 12)]
        half.fill(curve(ventricle, 9, [5, 5.5, 5, 5, 5.5, 6.5, 5.5, 4, 3 + s]), 8)
        half.fill(ball((17, 36, 33), 2.5), 320)  # calcified plexus
    scene.fill(ball((1, 14, 26), 2.4), 420)  # calcified pineal gland
    # sutures: narrow wavy gaps cut into the outer table, from ear to ear
    rng = np.random.default_rng(17)
    for tilt, reach, count in ((-0.32, 1.75, 64), (0.96, 1.25, 44)):
        gap = []
        for turn in np.linspace(-reach, reach, count):
            lean = tilt * np.cos(0.75 * turn) + 0.045 * rng.uniform(-1, 1)
            way = vec(np.sin(turn) * np.cos(lean), np.sin(lean), np.cos(turn) * np.cos(lean))
            gap.append((0, 8, 42) + _reach(cavity, vec(0, 8, 42), way, 4.4) * way)
        scene.fill(tube(gap, 1.5), 60)


def _reach(shape: Shape, start: np.ndarray, way: np.ndarray, height: float) -> float:
    """How far from `start` along `way` the shape's surface lies `height` [mm] behind one."""
    low, high = 20.0, 130.0
    for _ in range(9):
        middle = 0.5 * (low + high)
        below = shape.at(start + middle * way) < height
        low, high = (middle, high) if below else (low, middle)
    return low


def _skull_base(scene: Painting, vary: _Variation) -> None:
    # clivus from the back of the sella to the foramen magnum, body of the sphenoid
    clivus = [(0, -6, 15), (0, -4, 6), (0, 4, -12), (0, 11, -32)]
    scene.bone(tube(clivus, [3, 6, 7, 4]), 1300, 550)
    scene.bone(ellipsoid((0, -24, -5), (17, 17, 12)), 1100, 500, 2)
    scene.fill(ball((0, -15, 9), 5.5), 40)
    for s, half in scene.sides():
        # small wing with its clinoid process, side of the foramen magnum
        half.bone(tube([(30, -24, 15), (9, -19, 16), (8, -13, 15)], 2.2))
        half.bone(tube([(9, 16, -38), (17, 26, -36), (10, 38, -36)], 5), 1300)
        half.bone(ellipsoid((13, 15, -42), (7, 11, 6), (0, 0, -0.5)), 1200, 400)
        # petrous pyramid with the very dense ear capsule, mastoid
        pyramid = tube([(60, 16, -12), (38, 5 + s, -5), (14, -5, -8)], [9, 8.5, 4.5], 6.0)
        half.bone(pyramid, 1300, 480, 2.0)
        half.fill(ellipsoid((35, 4 + s, -4), (6.5, 4.5, 4.5), (0, 0, 0.5)), 1900)
        half.fill(capsule((16, 6, -2), (27, 5, -3), 2.6), 30)
        mastoid = tube([(60, 22, -9), (57, 21, -26), (53, 16, -42)], [9, 9, 4.5], 8.0)
        half.bone(mastoid, 750, 60, 1.2)
        half.bone(tube([(40, 5, -16), (36, -2, -46 + 5 * s)], [2.5, 1.2]))
        for a, b, c in vary.cell[:30]:  # mastoid air cells, larger on the left
            cell = ball((58 + 5 * b, 22 + 10 * c, -16 + 16 * a), 2.7 + 0.9 * b * c + 0.4 * s)
            half.onion(cell, (0, 350), (0.7, -900))
        half.fill(capsule((84, 8, -13), (66, 7, -11), 3.5), -1000)  # ear canal
        half.fill(capsule((66, 7, -11), (47, 5, -8), 3.0), -950)


def _face(scene: Painting, vary: _Variation) -> None:
    x, y = [-18, -20, -10, 8, 20, 21, 12, -6, -18], [-8, -8, -9, -7, 2, 6, -3, -8, -8]
    rim = np.column_stack([x, y, [12, -4, -18, -20, -10, 6, 19, 19, 12]])
    for s, half in scene.sides():
        eye, apex = half.place(vary.orbit(s)), (13, -33, 5)
        wall = capsule(eye + vec(0, 2, 0), apex, 21.5, 6)
        half.onion(cut(wall, (0, -1, 0), 80.0), (0, 800), (1.2, 60))
        half.bone(curve(eye + rim, 25, 3.3), 1350, 700, 1.6)
        # upper jaw bone around its sinus, cheek bone, arch
        half.bone(grown(_cheek_sinus(s), 2.2), 650, 60, 1.4)
        front = tube([(10, -84, -8), (14, -82, -30), (17, -82, -48)], [3.5, 4, 6], 4.0)
        half.bone(front, 1000, 450)
        cheek = tube([(36, -74, -27), (47, -68, -22), (54, -60, -18)], [6, 8.5, 6], 5.0)
        half.bone(cheek, 1350, 500, 2)
        half.bone(tube([(53, -62, -18), (53, -66, -4), (51, -66, 12)], 4), 1400)
        arch = [(54, -60, -19), (63, -42, -20 + s), (67, -20, -17), (62, 2, -12)]
        half.bone(curve(arch, 9, 3.4), 1400, 600)
        for x in (11, 18):  # wing plates behind the upper jaw
            half.bone(triangle((14, -34, -10), (x, -44, -46), (x, -33, -44), 1.3))
        # orbit content: fat, eyeball with lens, nerve
        half.fill(cut(capsule(eye, apex, 18.8, 4.0), (0, -1, 0), 84.0), -70, 8)
        half.fill(capsule(eye + vec(0, 8, 0), apex, 2.4), 35)
        half.onion(ball(eye + vec(1, -6, 0), 12.2), (0, 55), (1.2, 12))
        half.fill(ellipsoid(eye + vec(1, -15, 0), (4.5, 2.4, 4.5)), 85)
    scene.bone(tube([(0, -85, 18), (0, -91, 8), (0.5, -100, -8)], [5, 4.2, 2.2]), 1300, 600)


def _cheek_sinus(s: int) -> Shape:
    """Air of one maxillary sinus, a rounded pyramid; the left one is larger."""
    return union(
        ellipsoid((31, -64, -27), (14 + 1.4 * s, 13, 10)),
        ellipsoid((28, -52, -25), (10, 12, 11)),
        ellipsoid((30, -62, -40 - s), (9 + s, 11, 9)),
        blend=9.0,
    )


def _nose(scene: Painting, vary: _Variation) -> None:
    # nasal cavity: pear-shaped, then its walls, the six conchae, nostrils and the septum
    low = [(0, -90, -42), (0, -66, -44), (0, -34, -40)]
    cavity = ribbon([(0, -88, -14), (0, -66, 2), (0, -40, -2)], low, 10.5)
    narrow = ribbon([(0, -84, 2), (0, -44, 8)], [(0, -86, -12), (0, -44, -10)], 5)
    nose = union(cavity, narrow, blend=8)
    scene.onion(cut(nose, (0, -1, 0), 82), (0, 450), (0.9, 30))
    scene.onion(nose, (2.2, -1000))
    for s, half in scene.sides():
        for z, r in ((-41, 4.6), (-29, 4.0), (-17, 2.8)):
            concha = capsule((7.5, -84, z), (7.5, -46, z - 1), r - 0.3 * s)
            half.onion(concha, (0, 40), (r - 1.2, 350))
        half.fill(capsule((6, -104, -38), (6, -88, -40), 4), -1000)  # nostril
        half.fill(_cheek_sinus(s), -1000)
        for a, b, c in vary.cell[30:54]:  # ethmoid cells
            cell = ball((9 + 2.5 * a * b, -58 + 19 * b, 3 + 8 * c - 3 * b), 5.0 + 1.3 * a)
            half.onion(cell, (0, 450), (0.9, -990))
    plate = np.array([(0.1, -92, 0), (0.9, -76, 0), (1.0, -60, 0), (0.2, -38, 0)])
    plate *= (vary.septum, 1, 1)
    scene.fill(ribbon(plate + vec(0, 0, 4), plate + vec(0, 0, -44), 1.1), 330)


def _sinuses_and_throat(scene: Painting) -> None:
    # frontal sinus: two unequal lobes inside the brow; sphenoid sinus with an oblique wall
    big = union(
        ellipsoid((9, -81, 24), (9, 4.5, 11), (0.15, 0, 0.1)),
        ellipsoid((17, -80, 30), (8, 4, 11), (0.15, 0, 0.2)),
        ellipsoid((27, -77, 28), (8, 3.5, 7), (0.15, 0, 0.3)),
        blend=3,
    )
    small = union(
        ellipsoid((-8, -82, 21), (7, 4.2, 8), (0.15, 0, -0.1)),
        ellipsoid((-15, -80, 24), (6, 3.5, 6), (0.15, 0, -0.2)),
        blend=3,
    )
    for sinus in (big, small):
        scene.onion(sinus, (-1.3, 1300), (0, -1000))
    scene.fill(ellipsoid((6, -26, -6), (11, 12, 8.5)), -1000)
    scene.fill(ellipsoid((-9, -27, -7), (5, 10, 6.5)), -1000)
    pharynx = [(0, -30, -30), (0, -20, -44), (0, -16, -62), (0, -17, -84), (0, -22, -104)]
    throat = curve(pharynx, 9, [8, 8, 7, 6, 6.5, 7, 8, 7, 7], 4)
    scene.fill(union(throat, capsule((0, -24, -108), (0, -22, -200), 8.5), blend=5), -1000)
    mouth = ribbon([(-12, -82, -54), (12, -82, -54)], [(-13, -34, -52), (14, -34, -52)], 0.9)
    scene.fill(mouth, -900)


def _neck(scene: Painting, vary: _Variation) -> Marks:
    # atlas: a ring with side masses; axis with its tooth; then plain vertebrae
    c1 = vec(0.8, 24.0, -53.0)
    atlas = without(ring(c1, 19.5, 3.8, (0.08, 0.05, 0)), ball(c1 + vec(0, 4, 0), 13))
    scene.bone(atlas, 1300, 600)
    for s, half in scene.sides():
        at = half.place(c1)
        half.bone(ellipsoid(at + vec(18, -8, s * 0.8), (7.5, 10, 7.5)), 1000, 350)
        half.bone(capsule(at + vec(24, -4, 0), at + vec(37 + s, -1, -2), 4), 1000, 350)
    scene.bone(capsule(c1 + vec(0, 20, 0), c1 + vec(0, 24, -1), 4), 1000, 350)
    depth = [13.5, 11.5, 10.5, 11.5, 14.5, 19.5]
    level = [-71.0, -90.0, -107.0, -124.0, -141.0, -159.0]
    pitch = [0.12, 0.16, 0.06, -0.06, -0.16, -0.22]
    marks = {}
    for i, (y, z) in enumerate(zip(depth, level, strict=True)):
        shift, turn = vary.neck[i]
        width, height, spinous = (21, 18, 22) if i == 0 else (19.5 + i, 14.0, 15 + 3 * i)
        size = dict(drop=5 + i, transverse=25 + 0.4 * i, canal=16, spinous=spinous)
        marks[f"C{i + 2}"] = center = (0.8 * shift, y, z)
        bone = Vertebra(center, width, 16.5, height, pitch[i], yaw=0.05 * turn, **size)
        bone.paint(scene, 450, 1150)
    tooth = capsule((0.5, 13, -66), (0.5, 9.5, -46), 5.6, 4.6)
    scene.bone(tooth, 1200, 450, 1.8)
    scene.fill(ball((0.5, 2.0, -52), 2.0), 60)
    return {name: marks[name] for name in ("C2", "C3", "C4")}
