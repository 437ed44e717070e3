"""Two fluoroscopes' pictures of a made-up wrist and knee, on disk as a laboratory would keep them.

Two bones, each cut out of a CT of its own, lie among small ones of which there is no model; a metal
implant, whose image is a plateau, sits on a thicker bone. Eight bits, grain, scatter that fills in
behind what is dense, a saturated open field, a round intensifier.
"""

import atexit
import functools
import itertools
import json
import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from drrlib.drr import DRR
from drrlib.errors import ConfigError
from drrlib.geometry import so3_exp
from drrlib.io import read_mayacam, read_mesh, read_tiff_stack
from drrlib.lab.phantoms.closed_form import Ellipsoid, Scene
from drrlib.lab.phantoms.painting import Painting
from drrlib.lab.phantoms.shapes import Shape, ball, ellipsoid, tube, union
from drrlib.volume import Volume

PIXELS, FOCAL, AWAY = 256, 1750.0, 1000.0  # across; [pixels]; source to the middle [mm]
BETWEEN = math.radians(110.0)  # the views
SPACING = (0.8, 0.8, 1.0)  # of the bones' stacks [mm]
_WATER, _BONE = 0.02, 0.035  # [1/mm]
_SCATTER, _PHOTONS = 0.15, 4000.0  # part of the open beam; of a pixel in it
# Rotation vector [rad] and place of the middle [mm] of each body in the room.
PLACES = {
    "radius": ((0.10, -0.06, 0.15), (9.0, -5.0, -18.0)),
    "ulna": ((0.06, 0.12, -0.35), (-16.0, 6.0, -20.0)),
    "implant": ((0.15, 0.25, -0.10), (4.0, -3.0, 2.0)),
}


@functools.lru_cache(maxsize=1)
def biplane_folder() -> Path:
    """A temporary folder with the phantom, made when first asked for, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="drrlib_biplane_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_biplane(folder)
    return folder


def write_biplane(folder: Path, seed: int = 0) -> None:
    """Write calibrations, bones, an implant, images, and cases.json with the true poses.

    Raises:
        ConfigError: trimesh is not installed (the extra `mesh`).
    """
    for name in ("calibration", "images", "models"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    cameras = [f"calibration/cam{k}.txt" for k in (1, 2)]
    for file, turn in zip(cameras, (0.0, BETWEEN), strict=True):
        (folder / file).write_text(_mayacam(turn), "utf-8")
    for name, shape in (("radius", _radius()), ("ulna", _ulna())):
        _write_stack(folder / f"models/{name}.tif", shape, seed)
    _implant_mesh().export(folder / "models/implant.stl")
    bodies, cases = {}, {}
    for name, (turn, middle) in PLACES.items():
        model = f"models/{name}.{'stl' if name == 'implant' else 'tif'}"
        body = _read(folder / model)
        place = _place(body, turn, middle)
        bodies[name] = Volume(body.mu, place @ body.affine)
        images = [f"images/{'knee' if name == 'implant' else 'wrist'}_cam{k}.tif" for k in (1, 2)]
        cases[name] = dict(images=images, model=model, place=place.tolist(), known=True)
    for names, around, joint in (
        (("radius", "ulna"), _hand(), "wrist"),
        (("implant",), _thigh(), "knee"),
    ):
        for k, file in enumerate(cameras, 1):
            dice = np.random.default_rng([seed, k, len(joint)])
            lines = _line_integrals(folder / file, [bodies[n] for n in names], around)
            _save(folder / f"images/{joint}_cam{k}.tif", [_picture(lines, dice)])
    about = dict(calibration=cameras, spacing=SPACING, cases=cases)
    (folder / "cases.json").write_text(json.dumps(about), "utf-8")


def _mayacam(turn: float) -> str:
    """A camera whose axis passes through the origin, turned about the room's z."""
    c, s = math.cos(turn), math.sin(turn)
    rows = [[c, s, 0.0], [0.0, 0.0, -1.0], [-s, c, 0.0]]
    half = (PIXELS - 1) / 2
    matrix = [[FOCAL, 0, half], [0, FOCAL, half], [0, 0, 1]]
    table = {"image size": [[PIXELS, PIXELS]], "camera matrix": matrix, "rotation": rows}
    table["translation"] = [[0.0], [0.0], [AWAY]]
    parts = [
        "\n".join([name, *(",".join(map(str, row)) for row in value)])
        for name, value in table.items()
    ]
    return "\n\n".join(parts) + "\n"


def _radius() -> Shape:
    shaft = tube([(-2, 0, -32), (0, 1, 0), (1, 2, 20)], [6, 5, 7])
    ridge = tube([(-7, -3, -32), (-5, 0, 0), (-4, 3, 18)], [3, 3, 5])
    return union(shaft, ridge, ellipsoid((2, 2, 24), (13, 7, 7)), ball((12, 4, 29), 4), blend=3.0)


def _ulna() -> Shape:
    shaft = tube([(1, -1, -32), (0, 0, 0), (0, 1, 22)], [5.5, 4, 4])
    ridge = tube([(6, 4, -32), (4, 4, -5), (3, 2, 20)], [3.5, 2.5, 2])
    return union(shaft, ridge, ball((0, 1, 25), 6), ball((-7, 4, 31), 3), blend=2.0)


def _write_stack(path: Path, shape: Shape, seed: int) -> None:
    """The bone alone, 12 bits, all else 0, as bones cut out of a CT are kept."""
    scene = Painting(seed)
    scene.bone(shape, cortex=1900, spongy=500, wall=2.0)
    hu = scene.render((40, 36, 76), np.array(SPACING))
    _save(path, list(hu.clip(0, 4095).round().astype(np.uint16).transpose(2, 1, 0)))


def _implant_mesh():
    """Two runners of unequal width, a bridge in front and two pegs, as one mesh."""
    try:
        import trimesh
    except ImportError:
        raise ConfigError(
            "the phantom's implant is made by trimesh, which is not installed; pip install "
            "drrlib[mesh]"
        ) from None

    def runner(x: float, width: float, start: float, sweep: float, radius: float):
        """A bent bar: a wall of 4 mm swept about the x axis."""
        angles = np.linspace(start, start + sweep, 40)
        corners = [(radius + u, x + side * width) for u, side in ((0, -1), (4, -1), (4, 1), (0, 1))]
        ring = [[w, r * np.cos(t), -r * np.sin(t)] for t in angles for r, w in corners]
        quads = [[0, 1, 2, 3], [-1, -2, -3, -4]]
        for k, i in itertools.product(range(0, len(ring) - 4, 4), range(4)):
            j = (i + 1) % 4
            quads.append([k + i, k + 4 + i, k + 4 + j, k + j])
        quads = np.array(quads) % len(ring)
        made = trimesh.Trimesh(ring, np.concatenate([quads[:, :3], quads[:, [0, 2, 3]]]))
        if made.volume < 0:
            made.invert()
        return made

    parts = [runner(-19, 9, 0.2, 3.3, 19.0), runner(18, 7, 0.35, 3.0, 17.5)]
    parts.append(runner(0, 14, 2.6, 0.9, 19.0))
    for x, height in ((-19, 13.0), (18, 11.0)):
        peg = trimesh.creation.cylinder(radius=3, height=height, sections=24)
        peg.apply_translation((x, 0, height / 2 - 19.5))
        parts.append(peg)
    return trimesh.util.concatenate(parts).apply_scale(1.33)


def _read(model: Path) -> Volume:
    if model.suffix == ".stl":
        return read_mesh(model, mu=0.9, voxel=0.8)
    return read_tiff_stack(model, SPACING, mu_per_value=2e-5)


def _place(body: Volume, turn, middle) -> Tensor:
    place = torch.eye(4, dtype=torch.float64)
    place[:3, :3] = so3_exp(torch.tensor(turn, dtype=torch.float64))
    place[:3, 3] = torch.tensor(middle, dtype=torch.float64) - place[:3, :3] @ body.center
    return place


def _hand() -> Scene:
    """Soft tissue, and bones of the hand that no model has."""
    parts = [Ellipsoid((-2, 0, 0), (34, 26, 130), _WATER)]
    small = [((8, -4, 22), (9, 7, 8)), ((-8, 2, 21), (8, 7, 7)), ((1, 1, 37), (10, 8, 7))]
    small += [((14, -6, 58), (5, 5, 22)), ((2, 0, 62), (5, 5, 22)), ((-10, 3, 58), (5, 4, 20))]
    return Scene([*parts, *(Ellipsoid(c, r, _BONE - _WATER) for c, r in small)])


def _thigh() -> Scene:
    """Soft tissue, the bone that carries the implant, and the one below."""
    return Scene([
        Ellipsoid((0, 0, 0), (48, 45, 150), _WATER),
        Ellipsoid((2, 4, 60), (13, 12, 66), _BONE - _WATER),
        Ellipsoid((0, 2, -70), (22, 16, 42), _BONE - _WATER),
    ])  # fmt: skip


def _line_integrals(calibration: Path, bodies: list[Volume], around: Scene) -> np.ndarray:
    camera = read_mayacam(calibration)
    total = sum(DRR(body, camera.carm)(camera.pose[None])[0, 0].double() for body in bodies)
    pixels = camera.carm.pixel_centers(camera.pose)
    return (total + around.line_integrals(camera.pose[:3, 3], pixels)).numpy()


def _picture(lines: np.ndarray, dice: np.random.Generator) -> np.ndarray:
    """Counts of eight bits, the open field saturated, nothing outside of the intensifier."""
    beam = np.exp(-lines) + _SCATTER
    seen = dice.poisson(_PHOTONS * beam) / (_PHOTONS * (1 + 0.5 * _SCATTER))
    rows = np.arange(PIXELS) - (PIXELS - 1) / 2
    inside = np.hypot(rows[:, None], rows) < 0.48 * PIXELS
    return np.where(inside, (255 * seen).clip(8, 255), 0).round().astype(np.uint8)


def _save(path: Path, pages: list[np.ndarray]) -> None:
    from PIL import Image

    first, *others = [Image.fromarray(page) for page in pages]
    first.save(path, save_all=True, append_images=others)
