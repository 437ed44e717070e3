"""A closed surface as a volume of one material: implants and instruments from STL, OBJ, PLY.

How much of a voxel is filled is found along lines through it: where a line crosses the surface
inwards, all beyond is filled, where it crosses outwards, it no longer is, and the voxel of the
crossing gets its part exactly. Lines run along all three axes and the middle of the three answers
is taken, so that a small hole, which spoils some lines of one direction, does no harm.
"""

import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from drrlib.arrays import as_length, as_path, as_whole
from drrlib.errors import ConfigError, VolumeError
from drrlib.volume import Volume

MAX_VOXELS = 2**26  # some ten seconds and 3 GiB
_CHUNK = 2_000_000  # line-triangle pairs at once
_PAIRS = 15_000_000  # in all along one axis, some seconds
_OPEN = 0.02  # share of lines that may end inside, beyond which a surface is open


def read_mesh(
    path: str | os.PathLike, mu: float, *, voxel: float = 0.5, scale: float = 1.0, lines: int = 3
) -> Volume:
    """Volume of a closed surface, filled with one material; its axes are those of the file.

    `read_mesh("femoral.stl", mu=1.0)`.

    Args:
        path: STL, OBJ, PLY or another format of `trimesh`, the extra `mesh`.
        mu: Attenuation of the material [1/mm]: at 60 keV titanium about 0.35, steel 0.95.
        voxel: Edge of the voxels [mm]; a border of two empty ones is left around the mesh.
        scale: Millimetres in a unit of the file: 1000 for metres. The file's axes are taken as
            LPS; for RAS turn the affine's first two rows round.
        lines: Lines along each edge of a voxel, so that lines^2 go through it.

    Raises:
        ConfigError: trimesh is not installed, or a number out of range.
        VolumeError: no surface, an open one, or too many voxels; names the file.
    """
    mu, voxel = as_length(mu, "mu"), as_length(voxel, "voxel")
    scale, lines = as_length(scale, "scale"), as_whole(lines, "lines")
    corners = scale * _triangles(as_path(path))
    low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
    if np.prod((high - low) / voxel + 5, dtype=float) > MAX_VOXELS:
        raise VolumeError(
            f"{os.fspath(path)!r} is {np.round(high - low, 1).tolist()} mm large, too large for "
            f"voxels of {voxel} mm; take a larger voxel, or correct scale"
        )
    shape = tuple(np.ceil((high - low) / voxel).astype(np.int64) + 4)
    origin = 0.5 * (low + high) - 0.5 * voxel * (np.array(shape) - 1)
    a, b, c = (_fill((corners - origin) / voxel, shape, axis, lines, path) for axis in range(3))
    filled = np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))  # the middle one
    affine = torch.diag(torch.tensor([voxel, voxel, voxel, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.from_numpy(origin)
    return Volume(torch.from_numpy((mu * filled).astype(np.float32)), affine)


def _triangles(path: Path) -> Float[ndarray, "n 3 3"]:
    """Corners of all triangles, with outward normals."""
    if not path.is_file():
        raise VolumeError(f"{str(path)!r} does not exist; expected STL, OBJ or PLY")
    try:
        import trimesh
    except ImportError:
        raise ConfigError(
            "meshes are read by trimesh, which is not installed; pip install drrlib[mesh]"
        ) from None
    try:
        mesh = trimesh.load(path, force="mesh", process=True)
        corners = np.asarray(mesh.triangles, dtype=np.float64)
    except Exception as error:  # a damaged file can raise nearly anything
        raise VolumeError(
            f"{str(path)!r} cannot be read as a surface ({type(error).__name__}); expected STL, "
            "OBJ or PLY"
        ) from None
    if corners.ndim != 3 or len(corners) < 4 or not np.isfinite(corners).all():
        raise VolumeError(f"{str(path)!r} holds no closed surface; expected at least 4 triangles")
    middle = corners.mean(axis=(0, 1))
    signed = np.einsum("ni,ni->", corners[:, 0] - middle, np.cross(*_edges(corners)))
    return corners if signed >= 0 else corners[:, ::-1]


def _edges(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]


def _fill(corners: np.ndarray, shape, axis: int, lines: int, path) -> Float[ndarray, "x y z"]:
    """Filled part of every voxel by lines along one axis; corners in voxels."""
    u, v = (axis + 1) % 3, (axis + 2) % 3
    # In lines across; a hair off, so that no line meets an edge that lies on the grid.
    across = (corners[..., [u, v]] + 0.5) * lines - 0.5 + np.array([1.2345e-5, 2.3451e-5])
    a, b, c = np.concatenate([across, corners[..., [axis]]], axis=2).transpose(1, 0, 2)
    size = (shape[u] * lines, shape[v] * lines, shape[axis])
    change = np.zeros((shape[u], shape[v], shape[axis] + 1))
    balance = np.zeros(size[:2], dtype=np.int32)
    first = np.ceil(np.minimum(np.minimum(a, b), c)[:, :2]).astype(np.int64).clip(0)
    last = np.floor(np.maximum(np.maximum(a, b), c)[:, :2]).astype(np.int64)
    count = (last - first + 1).clip(0)
    pairs = count.prod(axis=1)
    ends = np.cumsum(pairs)
    if ends[-1] > _PAIRS:
        raise VolumeError(
            f"{os.fspath(path)!r} has triangles of {ends[-1]:.2g} lines in all, expected at most "
            f"{_PAIRS:.2g}: take a larger voxel or fewer lines, or correct scale"
        )
    for lower in range(0, int(ends[-1]), _CHUNK):
        pair = np.arange(lower, min(lower + _CHUNK, ends[-1]))
        triangle = np.searchsorted(ends, pair, side="right")
        within = pair - (ends - pairs)[triangle]
        i = first[triangle, 0] + within // count[triangle, 1]
        j = first[triangle, 1] + within % count[triangle, 1]
        _cross(a[triangle], b[triangle], c[triangle], (i, j), change, balance, lines)
    if (balance != 0).mean() > _OPEN:
        raise VolumeError(
            f"{os.fspath(path)!r} is an open surface ({100 * (balance != 0).mean():.0f} % of the "
            "lines do not leave it again); close its holes first"
        )
    filled = np.cumsum(change[..., :-1], axis=2) / lines**2
    return np.moveaxis(filled.clip(0, 1), (0, 1, 2), (u, v, axis))


def _cross(a, b, c, at, change, balance, lines: int) -> None:
    """Add what each crossing of a line with a triangle changes along the line."""
    i, j = at
    (x1, y1), (x2, y2) = (b - a)[:, :2].T, (c - a)[:, :2].T
    x, y = i - a[:, 0], j - a[:, 1]
    area = x1 * y2 - x2 * y1
    with np.errstate(divide="ignore", invalid="ignore"):
        s, t = (x * y2 - x2 * y) / area, (x1 * y - x * y1) / area
        hit = (s >= 0) & (t >= 0) & (s + t <= 1) & (area != 0)
    i, j, s, t = i[hit], j[hit], s[hit], t[hit]
    height = a[hit, 2] + s * (b - a)[hit, 2] + t * (c - a)[hit, 2]
    into = np.where(area[hit] > 0, -1.0, 1.0)  # an outward normal along the line leaves
    k = np.floor(height + 0.5).astype(np.int64)
    part = k + 0.5 - height
    np.add.at(change, (i // lines, j // lines, k), into * part)
    np.add.at(change, (i // lines, j // lines, k + 1), into * (1 - part))
    np.add.at(balance, (i, j), into.astype(np.int32))
