"""From shapes to voxels: layers of HU painted one over another on a world-mm grid.

The scene is fixed in world mm, so any grid samples the same object. A voxel that a surface
crosses gets the mixture of both sides (partial volume): the share of the inside is taken as
1/2 - distance / edge, clipped to [0, 1], which is exact for a flat surface facing an axis.
Texture is a sum of plane waves, already averaged over the voxel in closed form.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from drrlib.errors import ConfigError
from drrlib.lab.phantoms.shapes import Point, Shape, mirrored

PerAxis = float | Point  # one number, or three for x, y, z
Marks = dict[str, Point]  # landmarks [mm, world]
AIR = -1000.0
FINEST_PAINTED = 2.0  # voxels wider than this [mm] are painted finer and averaged
SLAB_VOXELS = 400_000  # keeps the temporary arrays inside the processor's cache


@dataclass(frozen=True)
class Phantom:
    """A made-up CT.

    Attributes:
        hu: Hounsfield units, float32 [x, y, z]; exactly -1000 outside the body.
        affine: world_from_voxel, float64 [4, 4]; LPS mm, grid centre at the world origin.
        name: What it shows and the seed.
        landmarks: Named anatomical points in world mm.
    """

    hu: np.ndarray
    affine: np.ndarray
    name: str
    landmarks: dict[str, tuple[float, float, float]] = field(default_factory=dict)


class Layer(NamedTuple):
    """Material deeper than `depth` [mm] below a shape's surface: mean HU and texture HU.

    `coarse` and `fine` are the standard deviations of slow and quick texture.
    """

    depth: float
    hu: float
    coarse: float = 0.0
    fine: float = 0.0


class Texture:
    """Smooth noise that depends on seed and world position only; unit variance, zero mean."""

    def __init__(self, seed: int, shortest: float, longest: float, waves: int = 40):
        rng = np.random.default_rng([seed, round(shortest), round(longest)])
        direction = rng.normal(size=(waves, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        length = np.exp(rng.uniform(np.log(shortest), np.log(longest), (waves, 1)))
        self.k = 2 * np.pi * direction / length
        self.phase = rng.uniform(0, 2 * np.pi, waves)

    def on(self, x, y, z, spacing: Point) -> np.ndarray:
        """Mean of the noise over each voxel, float32 [len x, len y, len z]."""
        # cos(kx + ly + mz + phase) = Re of a product of three 1-d factors: one matrix product
        # (each factor averaged over its voxel edge, hence the sinc)
        factors = [
            np.exp(1j * np.outer(v.astype(float), k)) * np.sinc(k * h / (2 * np.pi))
            for v, k, h in zip((x, y, z), self.k.T, spacing, strict=True)
        ]
        factors[0] = factors[0] * np.exp(1j * self.phase)
        plane = (factors[0][:, None] * factors[1][None]).reshape(-1, len(self.phase))
        left = np.hstack([plane.real, -plane.imag]).astype(np.float32)
        right = np.hstack([factors[2].real, factors[2].imag]).astype(np.float32)
        # Not left @ right.T: the last bits of a BLAS product change with its number of threads.
        out = np.einsum("ik,jk->ij", left, right)
        out *= np.float32(np.sqrt(2 / len(self.phase)))
        return out.reshape(len(x), len(y), len(z))


@dataclass
class Painting:
    """An ordered list of (shape, layers): later shapes are painted over earlier ones.

    `side` -1 mirrors what is painted at x = 0; +1 leaves it as it is.
    """

    seed: int
    side: int = 1
    items: list[tuple[Shape, list[Layer]]] = field(default_factory=list)

    def sides(self) -> Iterator[tuple[int, "Painting"]]:
        """The patient's right (-1) and left (+1): paint each as if it were the left one."""
        return ((s, replace(self, side=s)) for s in (-1, 1))

    def place(self, point: Point) -> np.ndarray:
        """From a point of this side to its world point, and back."""
        return np.array(point, float) * (self.side, 1, 1)

    def fill(self, shape: Shape, hu: float, coarse: float = 0.0, fine: float = 0.0) -> None:
        """Fill a shape with one material."""
        self.onion(shape, (0.0, hu, coarse, fine))

    def onion(self, shape: Shape, *layers: tuple[float, ...]) -> None:
        """Fill a shape with an onion of layers (entries of `Layer`), outermost first."""
        shape = shape if self.side > 0 else mirrored(shape)
        self.items.append((shape, [Layer(*layer) for layer in layers]))

    def bone(self, shape: Shape, cortex: float = 1200, spongy: float = 300, wall: float = 1.5):
        """A bone: dense wall of thickness `wall` [mm], spongy inside."""
        self.onion(shape, (0, cortex, 40), (wall, spongy, 25, 60))

    def render(self, shape: tuple[int, int, int], spacing: np.ndarray) -> np.ndarray:
        """HU of the scene, float32 [x, y, z], on a grid whose centre is the world origin."""
        fine = np.maximum(np.ceil(spacing / FINEST_PAINTED - 1e-9).astype(int), 1)
        step = spacing / fine
        axes = [
            ((np.arange(n * f) - (n * f - 1) / 2) * h).astype(np.float32)
            for n, f, h in zip(shape, fine, step, strict=True)
        ]
        textures = Texture(self.seed, 25, 80), Texture(self.seed, 9, 14)
        out = np.empty(shape, np.float32)
        thick = max(1, SLAB_VOXELS // max(fine[0] * len(axes[1]) * len(axes[2]), 1))
        for start in range(0, shape[0], thick):
            stop = min(start + thick, shape[0])
            x = axes[0][start * fine[0] : stop * fine[0]]
            slab = self._slab(x, axes[1], axes[2], step, textures)
            if slab is None:
                out[start:stop] = AIR
            elif np.all(fine == 1):
                out[start:stop] = slab
            else:
                split = slab.reshape(stop - start, fine[0], shape[1], fine[1], shape[2], fine[2])
                out[start:stop] = split.mean(axis=(1, 3, 5), dtype=np.float64)
        return out

    def _slab(self, x, y, z, step, textures) -> np.ndarray | None:
        edge = float(np.cbrt(np.prod(step)))
        hu = np.full((len(x), len(y), len(z)), AIR, np.float32)
        noise = None
        for shape, layers in self.items:
            i, j, k = shape.window(x, y, z, edge)
            part = hu[i, j, k]
            if not part.size:
                continue
            if noise is None:
                noise = [texture.on(x, y, z, step) for texture in textures]
            inside = shape.distance(x[i], y[j], z[k])
            inside *= np.float32(-1 / edge)
            inside += np.float32(0.5)
            shares = [np.clip(inside - np.float32(a.depth / edge), 0, 1) for a in layers]
            part *= 1 - shares[0]
            for layer, share, deeper in zip(layers, shares, [*shares[1:], None], strict=True):
                if deeper is not None:
                    share = share - deeper
                value = np.float32(layer.hu)
                for sd, field_ in zip((layer.coarse, layer.fine), noise, strict=True):
                    if sd:
                        value = value + np.float32(sd) * field_[i, j, k]
                share *= value
                part += share
        return np.maximum(hu, AIR, out=hu) if noise is not None else None


def phantom(
    name: str,
    paint: Callable[[Painting, np.random.Generator], Marks],
    grid: tuple[PerAxis | None, PerAxis | None, int],
    *,
    kind: int,
    extent: float,
    spacing: float,
) -> Phantom:
    """Paint an individual and render it.

    Args:
        name: What it shows.
        paint: Fills the scene with what it draws from a generator; returns the landmarks.
        grid: Spacing, shape and seed as the caller was given them.
        kind: A number of its own for each `paint`, so that none shares its random numbers.
        extent, spacing: Of the cube and its voxels [mm], where the caller left them open.

    Raises:
        ConfigError: a spacing that is not positive and finite, a shape below one voxel, either
            with other than one or three numbers, or a seed that is not a whole number >= 0.
    """
    shape, step = _grid(*grid[:2], extent, spacing)
    seed = grid[2]
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ConfigError(f"seed must be a whole number >= 0, got {seed!r}")
    scene = Painting(int(seed))
    marks = paint(scene, np.random.default_rng([scene.seed, kind]))
    affine = np.diag([*step, 1.0])
    affine[:3, 3] = -0.5 * (np.array(shape) - 1) * step
    points = {key: tuple(float(v) for v in point) for key, point in marks.items()}
    return Phantom(scene.render(shape, step), affine, f"{name} (seed {scene.seed})", points)


def _grid(spacing, shape, extent: float, default: float) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and spacing of a centred grid; what is not given follows from the cube `extent`."""
    if spacing is None and shape is None:
        spacing = default
    if shape is not None:
        shape = _triple(shape, "shape")
        if not np.all(np.isfinite(shape) & (shape == np.round(shape)) & (shape >= 1)):
            raise ConfigError(f"shape must hold whole numbers >= 1, got {shape.tolist()}")
    spacing = _triple(extent / shape.max() if spacing is None else spacing, "spacing")
    if not np.all(np.isfinite(spacing) & (spacing > 0)):
        raise ConfigError(f"spacing must be positive and finite [mm], got {spacing.tolist()}")
    if shape is None:
        shape = np.maximum(np.round(extent / spacing), 1)
    return tuple(int(n) for n in shape), spacing


def _triple(value, name: str) -> np.ndarray:
    try:
        numbers = np.asarray(value, float)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape not in ((), (1,), (3,)):
        raise ConfigError(f"{name} must be one number or three (x, y, z), got {value!r}")
    return np.broadcast_to(numbers, 3).copy()
