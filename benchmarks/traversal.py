"""Two ways to walk and two ways to lay out the voxels, compared without a GPU: see README.md.

python benchmarks/traversal.py        # tables, and traversal.csv; with a GPU also times

Instructions are read from what Triton compiles. Turns, voxels and memory sectors are counted from
the geometry: for some programs of a launch, lane by lane, which addresses a warp asks for together.
"""

import argparse
import re
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

RESULTS = HERE / "traversal.csv"
WALKS = ("slabs", "planes")
SCENES = ("512x512x133", "256x256x256")
VIEWS = ("ap", "30/20", "lateral")
PIXELS, PROGRAMS = 200, 150
WARP, LONG = 32, 16  # lanes; those along the long side of a tile
SECTOR = 32  # bytes that memory moves at once
BRICK = 4  # voxels along an edge: 64 of them are two cache lines
COLUMNS = (
    "date",
    "commit",
    "dirty",
    "versions",
    "volume",
    "pose",
    "detector",
    "walk",
    "crossings_per_ray",
    "turns_per_crossing",
    "instructions_75",
    "instructions_90",
    "per_crossing_75",
    "per_crossing_90",
    "asked_rows",
    "asked_bricks",
    "fetched_rows",
    "fetched_bricks",
)


class Slabs(NamedTuple):
    """What rays do in their slabs: [ray, slab], of which the first `count` of each are walked.

    Attributes:
        voxels: x, y, z of the three voxels of a slab [3, ray, slab, 3], padded coordinates.
        read: which of them are read [3, ray, slab].
    """

    count: np.ndarray
    voxels: np.ndarray
    read: np.ndarray


def slabs(source: np.ndarray, step: np.ndarray, size: np.ndarray) -> Slabs:
    """`triton_kernels.siddon_slab` for rays whose ends lie outside the grid, in float64.

    Args:
        source, step: [ray, 3], padded coordinates: voxels of the grid are 1 .. size.
    """
    a = np.abs(step).argmax(axis=1)
    axes = np.stack([a, np.where(a == 0, 1, 0), np.where(a == 2, 1, 2)], axis=1)
    s, d = (np.take_along_axis(x, axes, axis=1) for x in (source, step))
    n = size[axes]
    slope = d[:, 1:] / d[:, :1]
    base = s[:, 1:] - s[:, :1] * slope
    low, high = np.ones(len(s)), n[:, 0] + 1.0
    for q in (0, 1):
        with np.errstate(divide="ignore", invalid="ignore"):
            faces = np.stack([np.ones(len(s)), n[:, q + 1] + 1.0])
            ends = np.sort((faces - base[:, q]) / slope[:, q], axis=0)
        beside = (base[:, q] < 1) | (base[:, q] >= n[:, q + 1] + 1)
        level = slope[:, q] == 0
        low = np.where(level, low, np.maximum(low, ends[0]))
        high = np.where(level, np.where(beside, low, high), np.minimum(high, ends[1]))
    first = np.floor(low).astype(int)
    count = np.where(low < high, np.ceil(high).astype(int) - first, 0)
    k = first[:, None] + np.arange(max(1, count.max()))
    begin = np.floor(base[:, None] + slope[:, None] * k[..., None])  # [ray, slab, 2]
    end = np.floor(base[:, None] + slope[:, None] * (k[..., None] + 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        at = (begin + (slope > 0)[:, None] - base[:, None]) / slope[:, None]
    cross = begin != end
    at = np.where(cross, at, k[..., None] + 1)
    y_first = at[..., 0] < at[..., 1]
    middle = np.where(np.stack([y_first, ~y_first], axis=-1), end, begin)
    local = np.stack([np.concatenate([k[..., None], x], -1) for x in (begin, middle, end)])
    back = np.broadcast_to(axes.argsort(axis=1)[None, :, None], local.shape)
    voxels = np.take_along_axis(local, back, axis=-1).astype(int)
    walked = np.arange(k.shape[1]) < count[:, None]
    read = np.stack([walked, walked & cross.any(-1), walked & cross.all(-1)])
    return Slabs(count, voxels, read)


def by_rows(voxels: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Address of a voxel as drrlib keeps it, z contiguous, three voxels of padding."""
    x, y, z = np.moveaxis(voxels, -1, 0)
    return 4 * ((x * (size[1] + 3) + y) * (size[2] + 3) + z)


def by_bricks(voxels: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Address where bricks of BRICK^3 voxels lie together."""
    many = -(-(size + 3) // BRICK)
    (x, y, z), (i, j, k) = (np.moveaxis(v, -1, 0) for v in (voxels // BRICK, voxels % BRICK))
    return 4 * (((x * many[1] + y) * many[2] + z) * BRICK**3 + (i * BRICK + j) * BRICK + k)


def sectors(address: np.ndarray, read: np.ndarray) -> np.ndarray:
    """Sectors that a warp's loads ask for, each load by itself, and the different ones of all.

    Args:
        address, read: [lane, load].
    """
    place = np.sort(np.where(read, address // SECTOR, -1), axis=0)
    new = (np.diff(place, axis=0, prepend=-1) != 0) & (place >= 0)
    return np.array([new.sum(), len(np.unique(place[new]))])


def walks(view, shape: tuple, affine: np.ndarray, programs: int = PROGRAMS) -> dict[str, dict]:
    """Both walks of some tiles of an image, drawn at random: what `COLUMNS` say of each."""
    from drrlib.projectors import cuda_launch

    size, inverse = np.array(shape), np.linalg.inv(affine)
    points = [inverse[:3, :3] @ x + inverse[:3, 3] + 1.5 for x in view.frame()[:2]]
    column, row = (inverse[:3, :3] @ x for x in view.frame()[2:])
    lanes = cuda_launch.tiling(view.n, view.n)[1]
    upright = abs(row[2]) >= abs(column[2])
    high, wide = (LONG, WARP // LONG) if upright else (WARP // LONG, LONG)
    tiles = [(i, j) for i in range(0, view.n, high) for j in range(0, view.n, wide)]
    dice = np.random.default_rng(0)
    found = {walk: np.zeros(7) for walk in WALKS}
    for tile in dice.choice(len(tiles), min(programs, len(tiles)), replace=False):
        i, j = (x.ravel() for x in np.mgrid[:high, :wide] + np.array(tiles[tile])[:, None, None])
        i, j = (x[(i < view.n) & (j < view.n), None] + 0.5 for x in (i, j))
        step = points[1] + j * column + i * row - points[0]
        walked = slabs(np.broadcast_to(points[0], step.shape), step, size)
        visited = walked.read.sum(axis=(0, 2))
        if not visited.any():
            continue
        for walk in WALKS:
            # Slabs load the first voxels of all lanes together, then the second ones, then the
            # third; lanes take different slabs. Planes load each ray's voxels in their order.
            if walk == "slabs":
                voxels, read = (np.concatenate(list(x), axis=1) for x in walked[1:])
                turns = _up(walked.count.max(), lanes * cuda_launch.UNROLL)
            else:
                voxels, read = _in_order(walked, visited)
                turns = _up(visited.max(), cuda_launch.UNROLL)
            rows, bricks = (sectors(f(voxels, size), read) for f in (by_rows, by_bricks))
            found[walk] += [len(i), visited.sum(), WARP * turns, *rows, *bricks]
    return {walk: _means(*x) for walk, x in found.items()}


def _up(count: int, multiple: int) -> int:
    return multiple * -(-int(count) // multiple)


def _in_order(walked: Slabs, visited: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxels of each ray as it meets them [lane, turn, 3], and whether it still does."""
    read = walked.read.transpose(1, 2, 0).reshape(len(visited), -1)
    order = np.argsort(~read, axis=1, kind="stable")[:, : visited.max(), None]
    voxels = walked.voxels.transpose(1, 2, 0, 3).reshape(len(visited), -1, 3)
    on = np.arange(visited.max()) < visited[:, None]
    return np.take_along_axis(voxels, order, axis=1), on


def _means(rays, crossings, turns, rows, rows_once, bricks, bricks_once) -> dict[str, float]:
    """Bytes: `asked` of the first cache, `fetched` by it if it keeps all that a tile needs."""
    return {
        "crossings_per_ray": crossings / rays,
        "turns_per_crossing": turns / crossings,
        "asked_rows": SECTOR * rows / crossings,
        "asked_bricks": SECTOR * bricks / crossings,
        "fetched_rows": SECTOR * rows_once / crossings,
        "fetched_bricks": SECTOR * bricks_once / crossings,
    }


def instructions(walk: str, pixels: int, capability: int) -> float:
    """Instructions of one turn of the loop, as compiled for this kind of GPU."""
    import compiled
    import plane_walk

    from drrlib.projectors import cuda_launch, triton_kernels

    kernel = triton_kernels.forward if walk == "slabs" else plane_walk.forward
    lanes = cuda_launch.tiling(pixels, pixels) if walk == "slabs" else plane_walk.LANES
    given = dict(JOSEPH=False, GRADIENT=True, EXPLICIT=False, UNROLL=cuda_launch.UNROLL)
    given |= cuda_launch.program(*lanes)
    return loop_length(compiled.dump(kernel, given, capability, "-sass", {})) / cuda_launch.UNROLL


def loop_length(sass: str) -> int:
    """Instructions of the longest loop in a listing of cuobjdump.

    Raises:
        SystemExit: it has no loop.
    """
    lines = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", sass)
    places = [int(address, 16) for address, _ in lines]
    longest = 0
    for place, (_, words) in zip(places, lines, strict=True):
        target = re.search(r"\bBRA\b.*?(0x[0-9a-f]+)", words)
        if target and int(target.group(1), 16) < place:
            inside = [x for x in places if int(target.group(1), 16) <= x <= place]
            longest = max(longest, len(inside))
    if not longest:
        raise SystemExit("no loop in what was compiled: cuobjdump writes its listing otherwise")
    return longest


def table(programs: int, pixels: int) -> list[dict]:
    """A row for each volume, view and walk."""
    import record
    import triton
    from gpu_plan import VOLUMES
    from scene import POSES, View

    common = record.circumstances(1)
    del common["device"], common["threads"]
    common["versions"] = record.versions(f"triton {triton.__version__}")
    code = {
        walk: {f"instructions_{sm}": instructions(walk, pixels, sm) for sm in (75, 90)}
        for walk in WALKS
    }
    rows = []
    for volume in SCENES:
        shape, size = VOLUMES[volume]
        spacing = np.array(size) / shape
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = 0.5 * (spacing - size)
        for pose in VIEWS:
            view = View(pose, pixels, POSES[pose], (0.0, 0.0, 0.0))
            place = {**common, "volume": volume, "pose": pose, "detector": pixels}
            for walk, means in walks(view, shape, affine, programs).items():
                turns = means["turns_per_crossing"]
                each = {
                    name.replace("instructions", "per_crossing"): x * turns
                    for name, x in code[walk].items()
                }
                found = {k: round(float(x), 3) for k, x in {**means, **code[walk], **each}.items()}
                rows.append({**place, "walk": walk, **found})
    return rows


def timed(device: str, volumes: dict[str, tuple], pixels: int, repeats: int = 25) -> None:
    """Print the times of both walks, taken in turn, on a device that runs the kernels.

    Raises:
        SystemExit: their images differ.
    """
    import plane_walk
    import torch
    from gpu_timing import Meter
    from scene import blobs

    from drrlib.projectors import Grid, cuda

    meter = Meter(device)
    print(f"\n{meter.name}, driver {meter.driver}: an image with its sums, median [ms]")
    for volume, (shape, size) in volumes.items():
        scene = blobs(shape, size=size).to(device)
        grid = Grid(scene.mu, torch.from_numpy(scene.affine))
        for pose in VIEWS:
            points = [torch.from_numpy(x)[None] for x in scene.view(pose, pixels).frame()]
            rest = (grid.frames(*points), pixels, pixels)
            calls = {
                "slabs": partial(cuda.march, grid, *rest, "siddon", True),
                "planes": partial(plane_walk.march, grid, *rest, True),
            }
            images = [call()[0] for call in calls.values()]
            off = float((images[0] - images[1]).abs().max() / images[0].max())
            if not off < 1e-4:
                raise SystemExit(f"{volume}, {pose}: the two walks differ by {off:.1e}")
            times = {name: [] for name in calls}
            for turn in range(repeats + 3):
                for name, call in calls.items():
                    wall, gpu = meter.time(call)
                    if turn >= 3:  # warm
                        times[name].append(wall if gpu is None else gpu)
            found = ", ".join(f"{name} {np.median(x):.4f}" for name, x in times.items())
            print(f"{volume:12} {pose:8} {found}; images differ by {off:.1e}")


def main(words: list[str] | None = None) -> int:
    import record

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=PROGRAMS, help="of each launch")
    parser.add_argument("--pixels", type=int, default=PIXELS, help="along a side of the detector")
    parser.add_argument("--no-write", action="store_true", help="leave traversal.csv as it is")
    options = parser.parse_args(words)
    rows = table(options.programs, options.pixels)
    print("a voxel: turns; instructions for sm_75 / sm_90; bytes asked for and fetched, in bricks")
    for row in rows:
        print(
            f"{row['volume']:12} {row['pose']:8} {row['walk']:7}{row['turns_per_crossing']:6.2f}; "
            f"{row['per_crossing_75']:.0f} / {row['per_crossing_90']:.0f}; {row['asked_rows']:.1f}"
            f", {row['fetched_rows']:.1f}; {row['asked_bricks']:.1f}, {row['fetched_bricks']:.1f}"
        )
    if not options.no_write:
        RESULTS.unlink(missing_ok=True)  # all of it is counted anew
        record.append(rows, RESULTS, COLUMNS)
    import torch

    if torch.cuda.is_available():
        from gpu_plan import VOLUMES

        timed("cuda", {name: VOLUMES[name] for name in SCENES}, options.pixels)
    else:
        print("no CUDA device: nothing was timed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
