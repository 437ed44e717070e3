"""From shapes to voxels: layers of HU painted one over another on a world-mm grid.

The scene is fixed in world mm, so any grid samples the same object. A voxel that a surface
crosses gets the mixture of both sides (partial volume): the share of the inside is taken as
1/2 - distance / edge, clipped to [0, 1], which is exact for a flat surface facing an axis.
Texture is a sum of plane waves, already averaged over the voxel in closed form.
"""

from dataclasses import dataclass, field

import numpy as np

from drrlib.errors import ConfigError
from drrlib.lab.phantoms.shapes import Point, Shape

PerAxis = float | Point  # one number, or three for x, y, z
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


@dataclass(frozen=True)
class Layer:
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
    """An ordered list of (shape, layers): later shapes are painted over earlier ones."""

    seed: int
    items: list[tuple[Shape, tuple[Layer, ...]]] = field(default_factory=list)

    def paint(self, shape: Shape, hu: float, coarse: float = 0.0, fine: float = 0.0) -> None:
        """Fill a shape with one material."""
        self.items.append((shape, (Layer(0.0, hu, coarse, fine),)))

    def paint_layers(self, shape: Shape, *layers: Layer) -> None:
        """Fill a shape with an onion of layers, outermost first."""
        self.items.append((shape, layers))

    def paint_bone(
        self, shape: Shape, cortex: float = 1200, spongy: float = 300, wall: float = 1.5
    ) -> None:
        """A bone: dense wall of thickness `wall` [mm], spongy inside."""
        self.paint_layers(shape, Layer(0, cortex, 40), Layer(wall, spongy, 25, 60))

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


def grid(
    spacing: PerAxis | None,
    shape: PerAxis | None,
    extent: float,
    default_spacing: float,
) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and spacing of a centred grid; what is not given follows from the cube `extent`.

    Raises:
        ConfigError: a spacing that is not positive and finite, a shape below one voxel, or
            either with other than one or three numbers.
    """
    if spacing is None and shape is None:
        spacing = default_spacing
    if shape is not None:
        shape = _triple(shape, "shape")
        if not np.all(np.isfinite(shape) & (shape == np.round(shape)) & (shape >= 1)):
            raise ConfigError(f"shape must hold whole numbers >= 1, got {shape.tolist()}")
    if spacing is None:
        spacing = np.full(3, extent / shape.max())
    spacing = _triple(spacing, "spacing")
    if not np.all(np.isfinite(spacing) & (spacing > 0)):
        raise ConfigError(f"spacing must be positive and finite [mm], got {spacing.tolist()}")
    if shape is None:
        shape = np.maximum(np.round(extent / spacing), 1)
    return tuple(int(n) for n in shape), spacing


def phantom(scene: Painting, name: str, shape, spacing, landmarks) -> Phantom:
    """Render a scene and wrap it up with its affine."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -0.5 * (np.array(shape) - 1) * spacing
    points = {key: tuple(float(v) for v in point) for key, point in landmarks.items()}
    return Phantom(scene.render(shape, spacing), affine, f"{name} (seed {scene.seed})", points)


def check_seed(seed: int | np.integer) -> int:
    """The seed as an int.

    Raises:
        ConfigError: not a whole number >= 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ConfigError(f"seed must be a whole number >= 0, got {seed!r}")
    return int(seed)


def _triple(value, name: str) -> np.ndarray:
    try:
        numbers = np.asarray(value, float)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape not in ((), (1,), (3,)):
        raise ConfigError(f"{name} must be one number or three (x, y, z), got {value!r}")
    return np.broadcast_to(numbers, 3).copy()
