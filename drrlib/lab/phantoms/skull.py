"""A head: brain case, face, jaw, teeth and upper neck, different on the left and the right.

All numbers are world mm in LPS; z = 0 lies a little above the ear holes. `s` is the side: -1
right, +1 left.
"""

import numpy as np

from drrlib.lab.phantoms.jaw import paint_jaw, paint_teeth
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
    cut,
    ellipsoid,
    grown,
    ribbon,
    ring,
    smooth_path,
    triangle,
    tube,
    union,
    vec,
    without,
)
from drrlib.lab.phantoms.spine import Vertebra

EXTENT = 256.0
SIDES = (-1, 1)


def skull(
    spacing: PerAxis | None = None,
    *,
    shape: PerAxis | None = None,
    seed: int = 0,
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
    size, spacing = grid(spacing, shape, EXTENT, 1.0)
    scene = Painting(check_seed(seed))
    rng = np.random.default_rng([scene.seed, 1])
    vary = _Variation(rng)
    cavity, vault = brain_cavity(vary)
    scene.paint_layers(
        soft_tissue(cavity, vary), Layer(0, 25, 10), Layer(2.0, -60, 25), Layer(5.0, 45, 8)
    )
    _brain_case(scene, cavity, vault, vary)
    _skull_base(scene, vary)
    _face(scene, vary)
    _air_spaces(scene, vary)
    paint_jaw(scene, vary.jaw_shift)
    paint_teeth(scene, vary.jaw_shift, rng)
    marks = _neck(scene, vary)
    marks |= {
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
    return phantom(scene, "skull", size, spacing, marks)


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
        offset = self.orbit_offset[(s + 1) // 2]
        return np.array([s * 32.5, -74.0, 3.0 + 1.2 * s]) + offset


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
    for s in SIDES:
        dome = ellipsoid((s * 31, -56, 0.5 + s), (23, 36, 20), (0, 0, -0.2 * s))
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
    j = vary.jaw_shift
    scalp = grown(cavity, 12.0)
    face = union(
        ellipsoid((0, -42, -12), (67, 53, 60)),
        ellipsoid((0, -40, -62), (53, 52, 46)),
        capsule((j, -82, -94), (j, -74, -80), 15),
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
    ears = [
        without(
            ellipsoid((s * (77 + 0.5 * s), 16, -8 + 3 * s), (5, 17, 30), (-0.25, 0, s * 0.45)),
            ellipsoid((s * (83 + 0.5 * s), 12, -7 + 3 * s), (5, 9, 18), (-0.25, 0, s * 0.45)),
        )
        for s in SIDES
    ]
    return union(scalp, face, nose, *ears, blend=10.0)


def _brain_case(scene: Painting, cavity: Shape, vault: Shape, vary: _Variation) -> None:
    # two tables with spongy diploe between; the base is thinner than the vault
    brow = ellipsoid((3, -72, 18), (36, 17.5, 15), (0.1, 0, 0))
    outside = union(
        grown(vault, 7.2), cut(grown(cavity, 3.8), (0, 0, -1), 38.0, 6.0), brow, blend=8
    )
    scene.paint_layers(outside, Layer(0, 1500, 60), Layer(1.9, 620, 90, 110))
    inner = cut(grown(cavity, 1.8), (0, 0, -1), 38.0)
    scene.paint_layers(inner, Layer(0, 1600, 60))
    scene.paint_bone(tube([(0, 96, 14), (1, 101, 8), (0, 97, 2)], 3.5), 1300, 700)  # inion
    for s in SIDES:
        # brow ridge, large wing of the sphenoid
        ridge = [(s * 6, -84, 17), (s * 24, -83, 24 + s), (s * 43, -73, 20 + s), (s * 52, -60, 10)]
        scene.paint_bone(tube(smooth_path(ridge, 8), 4.5), 1300, 700)
        scene.paint_bone(
            ribbon(
                [(s * 22, -26, 13), (s * 40, -30, 14), (s * 56, -36, 22)],
                [(s * 22, -20, 4), (s * 34, -36, -2), (s * 50, -44, 4)],
                1.5,
            ),
            1200,
            900,
        )
    scene.paint_layers(cavity, Layer(0, 20), Layer(2.5, 37, 2, 3), Layer(7.0, 31, 2, 2))
    falx = ribbon(
        [(0, -68, 20), (0, -50, 90), (0, 40, 98), (0, 86, 50)],
        [(0, -60, 30), (0, -40, 70), (0, 40, 70), (0, 70, 38)],
        0.8,
    )
    scene.paint(falx, 90)
    scene.paint_layers(tube([(0, -50, 84), (1, -30, 92)], 1.5), Layer(0, 700))  # falx calcification
    for s in SIDES:
        front = [(s * 8, -22, 36), (s * 9, 5, 42), (s * 16, 34, 36), (s * 30, 18, 12)]
        scene.paint(tube(smooth_path(front, 9), [5, 5.5, 5, 5, 5.5, 6.5, 5.5, 4, 3 + s]), 8)
        scene.paint(ball((s * 17, 36, 33), 2.5), 320)  # calcified plexus
    scene.paint(ball((1, 14, 26), 2.4), 420)  # calcified pineal gland
    # sutures: narrow wavy gaps cut into the outer table, from ear to ear
    rng = np.random.default_rng(17)
    for tilt, reach, count in ((-0.32, 1.75, 64), (0.96, 1.25, 44)):
        gap = []
        for turn in np.linspace(-reach, reach, count):
            lean = tilt * np.cos(0.75 * turn) + 0.045 * rng.uniform(-1, 1)
            way = np.array([np.sin(turn) * np.cos(lean), np.sin(lean), np.cos(turn) * np.cos(lean)])
            gap.append((0, 8, 42) + _reach(cavity, np.array([0, 8, 42.0]), way, 4.4) * way)
        scene.paint(tube(gap, 1.5), 60)


def _reach(shape: Shape, start: np.ndarray, way: np.ndarray, height: float) -> float:
    """How far from `start` along `way` the shape's surface lies `height` [mm] behind one."""
    low, high = 20.0, 130.0
    for _ in range(9):
        middle = 0.5 * (low + high)
        x, y, z = np.float32(start + middle * way).reshape(3, 1)
        below = float(shape.distance(x, y, z)[0, 0, 0]) < height
        low, high = (middle, high) if below else (low, middle)
    return low


def _skull_base(scene: Painting, vary: _Variation) -> None:
    # clivus from the back of the sella to the foramen magnum, body of the sphenoid
    scene.paint_bone(
        tube([(0, -6, 15), (0, -4, 6), (0, 4, -12), (0, 11, -32)], [3, 6, 7, 4]), 1300, 550
    )
    scene.paint_bone(ellipsoid((0, -24, -5), (17, 17, 12)), 1100, 500, 2)
    scene.paint(ball((0, -15, 9), 5.5), 40)
    for s in SIDES:
        # small wing with its clinoid process, side of the foramen magnum
        scene.paint_bone(tube([(s * 30, -24, 15), (s * 9, -19, 16), (s * 8, -13, 15)], 2.2))
        scene.paint_bone(tube([(s * 9, 16, -38), (s * 17, 26, -36), (s * 10, 38, -36)], 5), 1300)
        scene.paint_bone(ellipsoid((s * 13, 15, -42), (7, 11, 6), (0, 0, -s * 0.5)), 1200, 400)
        # petrous pyramid with the very dense ear capsule, mastoid
        pyramid = [(s * 60, 16, -12), (s * 38, 5 + s, -5), (s * 14, -5, -8)]
        scene.paint_bone(tube(pyramid, [9, 8.5, 4.5], 6.0), 1300, 480, 2.0)
        scene.paint(ellipsoid((s * 35, 4 + s, -4), (6.5, 4.5, 4.5), (0, 0, s * 0.5)), 1900)
        scene.paint(capsule((s * 16, 6, -2), (s * 27, 5, -3), 2.6), 30)
        scene.paint_bone(
            tube([(s * 60, 22, -9), (s * 57, 21, -26), (s * 53, 16, -42)], [9, 9, 4.5], 8.0),
            750,
            60,
            1.2,
        )
        scene.paint_bone(tube([(s * 40, 5, -16), (s * 36, -2, -46 + 5 * s)], [2.5, 1.2]))
        for a, b, c in vary.cell[:30]:  # mastoid air cells, larger on the left
            spot = (s * (58 + 5 * b), 22 + 10 * c, -16 + 16 * a)
            scene.paint_layers(
                ball(spot, 2.7 + 0.9 * b * c + 0.4 * s), Layer(0, 350), Layer(0.7, -900)
            )
        scene.paint(capsule((s * 84, 8, -13), (s * 66, 7, -11), 3.5), -1000)  # ear canal
        scene.paint(capsule((s * 66, 7, -11), (s * 47, 5, -8), 3.0), -950)


def _face(scene: Painting, vary: _Variation) -> None:
    for s in SIDES:
        eye = vary.orbit(s)
        apex = np.array([s * 13.0, -33.0, 5.0])
        wall = union(capsule(eye + vec(s * 0.0, 2, 0), apex, 21.5, 6), blend=0)
        scene.paint_layers(cut(wall, (0, -1, 0), 80.0), Layer(0, 800), Layer(1.2, 60))
        rim = smooth_path(
            [
                eye + p
                for p in (
                    [-s * 18, -8, 12],
                    [-s * 20, -8, -4],
                    [-s * 10, -9, -18],
                    [s * 8, -7, -20],
                    [s * 20, 2, -10],
                    [s * 21, 6, 6],
                    [s * 12, -3, 19],
                    [-s * 6, -8, 19],
                    [-s * 18, -8, 12],
                )
            ],
            25,
        )
        scene.paint_bone(tube(rim, 3.3), 1350, 700, 1.6)
        # upper jaw bone around its sinus, cheek bone, arch
        scene.paint_bone(grown(_cheek_sinus(s), 2.2), 650, 60, 1.4)
        scene.paint_bone(
            tube([(s * 10, -84, -8), (s * 14, -82, -30), (s * 17, -82, -48)], [3.5, 4, 6], 4.0),
            1000,
            450,
        )
        cheek = [(s * 36, -74, -27), (s * 47, -68, -22), (s * 54, -60, -18)]
        scene.paint_bone(tube(cheek, [6, 8.5, 6], 5.0), 1350, 500, 2)
        scene.paint_bone(tube([(s * 53, -62, -18), (s * 53, -66, -4), (s * 51, -66, 12)], 4), 1400)
        arch = [(s * 54, -60, -19), (s * 63, -42, -20 + s), (s * 67, -20, -17), (s * 62, 2, -12)]
        scene.paint_bone(tube(smooth_path(arch, 9), 3.4), 1400, 600)
        # wing plates behind the upper jaw
        for x in (11, 18):
            scene.paint_bone(
                triangle((s * 14, -34, -10), (s * x, -44, -46), (s * x, -33, -44), 1.3)
            )
        # orbit content: fat, eyeball with lens, nerve
        inner = cut(capsule(eye + vec(0, 0, 0), apex, 18.8, 4.0), (0, -1, 0), 84.0)
        scene.paint(inner, -70, 8)
        scene.paint(capsule(eye + vec(0, 8, 0), apex, 2.4), 35)
        scene.paint_layers(ball(eye + vec(s * 1, -6, 0), 12.2), Layer(0, 55), Layer(1.2, 12))
        scene.paint(ellipsoid(eye + vec(s * 1, -15, 0), (4.5, 2.4, 4.5)), 85)
    scene.paint_bone(tube([(0, -85, 18), (0, -91, 8), (0.5, -100, -8)], [5, 4.2, 2.2]), 1300, 600)


def _cheek_sinus(s: int) -> Shape:
    """Air of one maxillary sinus, a rounded pyramid; the left one is larger."""
    return union(
        ellipsoid((s * 31, -64, -27), (14 + 1.4 * s, 13, 10)),
        ellipsoid((s * 28, -52, -25), (10, 12, 11)),
        ellipsoid((s * 30, -62, -40 - s), (9 + s, 11, 9)),
        blend=9.0,
    )


def _air_spaces(scene: Painting, vary: _Variation) -> None:
    bent = vary.septum
    # nasal cavity: pear-shaped, then its walls, the septum and the six conchae
    cavity = ribbon(
        [(0, -88, -14), (0, -66, 2), (0, -40, -2)],
        [(0, -90, -42), (0, -66, -44), (0, -34, -40)],
        10.5,
    )
    narrow = ribbon([(0, -84, 2), (0, -44, 8)], [(0, -86, -12), (0, -44, -10)], 5)
    nose = union(cavity, narrow, blend=8)
    scene.paint_layers(cut(nose, (0, -1, 0), 82), Layer(0, 450), Layer(0.9, 30))
    scene.paint_layers(nose, Layer(2.2, -1000))
    for s in SIDES:
        for z, r in ((-41, 4.6), (-29, 4.0), (-17, 2.8)):
            scene.paint_layers(
                capsule((s * 7.5, -84, z), (s * 7.5, -46, z - 1), r - 0.3 * s),
                Layer(0, 40),
                Layer(r - 1.2, 350),
            )
        scene.paint(capsule((s * 6, -104, -38), (s * 6, -88, -40), 4), -1000)  # nostril
        scene.paint(_cheek_sinus(s), -1000)
        for a, b, c in vary.cell[30:54]:  # ethmoid cells
            center = (s * (9 + 2.5 * a * b), -58 + 19 * b, 3 + 8 * c - 3 * b)
            scene.paint_layers(ball(center, 5.0 + 1.3 * a), Layer(0, 450), Layer(0.9, -990))
    plate = [(bent * t, y, 0) for t, y in ((0.1, -92), (0.9, -76), (1.0, -60), (0.2, -38))]
    scene.paint(
        ribbon([(x, y, 4) for x, y, _ in plate], [(x, y, -44) for x, y, _ in plate], 1.1), 330
    )
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
        scene.paint_layers(sinus, Layer(-1.3, 1300), Layer(0, -1000))
    scene.paint(ellipsoid((6, -26, -6), (11, 12, 8.5)), -1000)
    scene.paint(ellipsoid((-9, -27, -7), (5, 10, 6.5)), -1000)
    # throat
    pharynx = [(0, -30, -30), (0, -20, -44), (0, -16, -62), (0, -17, -84), (0, -22, -104)]
    scene.paint(
        union(
            tube(smooth_path(pharynx, 9), [8, 8, 7, 6, 6.5, 7, 8, 7, 7], 4),
            capsule((0, -24, -108), (0, -22, -200), 8.5),
            blend=5,
        ),
        -1000,
    )
    scene.paint(
        ribbon([(-12, -82, -54), (12, -82, -54)], [(-13, -34, -52), (14, -34, -52)], 0.9), -900
    )


def _neck(scene: Painting, vary: _Variation) -> dict[str, np.ndarray]:
    # atlas: a ring with side masses; axis with its tooth; then plain vertebrae
    c1 = np.array([0.8, 24.0, -53.0])
    scene.paint_bone(
        without(ring(c1, 19.5, 3.8, (0.08, 0.05, 0)), ball(c1 + vec(0, 4, 0), 13)), 1300, 600
    )
    for s in SIDES:
        scene.paint_bone(ellipsoid(c1 + vec(s * 18, -8, s * 0.8), (7.5, 10, 7.5)), 1000, 350)
        scene.paint_bone(
            capsule(c1 + vec(s * 24, -4, 0), c1 + vec(s * (37 + s), -1, -2), 4), 1000, 350
        )
    scene.paint_bone(capsule(c1 + vec(0, 20, 0), c1 + vec(0, 24, -1), 4), 1000, 350)
    y = [13.5, 11.5, 10.5, 11.5, 14.5, 19.5]
    z = [-71.0, -90.0, -107.0, -124.0, -141.0, -159.0]
    marks = {}
    for i, (yi, zi) in enumerate(zip(y, z, strict=True)):
        shift, turn = vary.neck[i]
        first = i == 0
        bone = Vertebra(
            (0.8 * shift, yi, zi),
            21 if first else 19.5 + i,
            16.5,
            18 if first else 14.0,
            pitch=(0.12, 0.16, 0.06, -0.06, -0.16, -0.22)[i],
            spinous=22 if first else 15 + 3 * i,
            drop=5 + i,
            transverse=25 + 0.4 * i,
            canal=16,
            yaw=0.05 * turn,
        )
        bone.paint(scene, 450, 1150)
        marks[f"C{i + 2}"] = np.array(bone.center)
    tooth = capsule((0.5, 13, -66), (0.5, 9.5, -46), 5.6, 4.6)
    scene.paint_bone(tooth, 1200, 450, 1.8)
    scene.paint(ball((0.5, 2.0, -52), 2.0), 60)
    return {name: marks[name] for name in ("C2", "C3", "C4")}
