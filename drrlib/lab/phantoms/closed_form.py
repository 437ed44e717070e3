"""Solids whose line integrals are known in closed form: the truth that projectors must meet.

A ray is p(t) = source + t (target - source), 0 <= t <= 1. A convex solid of constant mu holds it
for one interval [t0, t1], so the line integral is mu * length * (t1 - t0). Everything is
float64; solids may overlap in a `Scene`, where their mu add up.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.errors import ConfigError, GeometryError, ShapeError

Numbers = Sequence[float] | Tensor
Points = Float[Tensor, "*#ray 3"]
Affine = Float[Tensor, "4 4"]


class _Convex:
    """What convex solids of constant attenuation `mu` [1/mm] have in common."""

    def line_integrals(self, source: Points, target: Points) -> Float[Tensor, "*ray"]:
        """Exact line integrals [-] along the segments, float64; zero where they miss.

        Of a segment inside a face of a box, the lower faces count as inside and the upper ones
        as outside, so boxes side by side never count it twice. Tangents of an ellipsoid miss.

        Gradients:
            source, target: exact wherever the entry and exit faces of a box do not change, and
            inside the outline of an ellipsoid; its infinite slope at the outline is returned
            as zero.

        Raises:
            ShapeError: the last axis is not 3, or the other axes do not broadcast.
        """
        source, way = _segments(source, target)
        hit, share = self._crossing(source, way)
        return torch.where(hit, self.mu * share * _length(way), 0.0)

    def voxelize(self, shape: Sequence[int], affine: Affine) -> Float[Tensor, "x y z"]:
        """Mean mu in each voxel [1/mm], float64, over 4 x 4 x 4 points.

        Exact for a box if `affine` only scales, mirrors, permutes and shifts the axes (a box
        with its faces on voxel faces then has the same line integrals as its grid).

        Raises:
            ConfigError, GeometryError: bad shape or affine.
        """
        shape, affine = _grid(shape, affine)
        linear = affine[:3, :3]
        index = [torch.arange(n, dtype=torch.float64) for n in shape]
        center = torch.stack(torch.meshgrid(*index, indexing="ij"), -1) @ linear.T + affine[:3, 3]
        offsets = (torch.arange(4, dtype=torch.float64) + 0.5) / 4 - 0.5
        count = torch.zeros(shape, dtype=torch.float64)
        for offset in product(offsets.tolist(), repeat=3):
            count += self._contains(center + linear @ torch.tensor(offset, dtype=torch.float64))
        return self.mu * (count / 64)

    def _set(self, **values) -> None:
        """Fill a frozen instance."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, eq=False)
class Box(_Convex):
    """Axis-aligned box of constant attenuation.

    Attributes:
        lower, upper: Opposite corners, world mm, lower < upper on every axis.
        mu: Attenuation [1/mm]; may be negative, to cut a hole into another solid.

    Raises:
        ConfigError: corners that are not three finite ordered numbers, or mu not finite.

    Source:
        Slab method: Kay and Kajiya 1986, doi:10.1145/15922.15916.
    """

    lower: Numbers
    upper: Numbers
    mu: float

    def __post_init__(self):
        lower, upper = _vector(self.lower, "lower"), _vector(self.upper, "upper")
        if not bool((lower < upper).all()):
            raise ConfigError(
                f"lower must be below upper on every axis, got {lower.tolist()}, {upper.tolist()}"
            )
        self._set(lower=lower, upper=upper, mu=_finite(self.mu, "mu"))

    def voxelize(self, shape: Sequence[int], affine: Affine) -> Float[Tensor, "x y z"]:
        """As of every solid; exact on grids along the world axes."""
        shape, affine = _grid(shape, affine)
        linear = affine[:3, :3]
        if int((linear != 0).sum()) != 3:
            return super().voxelize(shape, affine)
        share = torch.ones((), dtype=torch.float64)
        for axis, world in enumerate((linear != 0).long().argmax(dim=0).tolist()):
            step = linear[world, axis]
            middle = affine[world, 3] + step * torch.arange(shape[axis], dtype=torch.float64)
            half = 0.5 * step.abs()
            upper = torch.minimum(middle + half, self.upper[world])
            overlap = upper - torch.maximum(middle - half, self.lower[world])
            part = (overlap / step.abs()).clamp(0, 1)
            share = share * part.reshape([-1 if a == axis else 1 for a in range(3)])
        return self.mu * share

    def _crossing(self, source: Tensor, way: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = self.lower.to(source), self.upper.to(source)
        still = way == 0
        safe = torch.where(still, torch.ones_like(way), way)
        a, b = (lower - source) / safe, (upper - source) / safe
        within = (source >= lower) & (source < upper)
        near = torch.where(still, -torch.inf, torch.minimum(a, b)).amax(-1).clamp(min=0)
        far = torch.where(still, torch.inf, torch.maximum(a, b)).amin(-1).clamp(max=1)
        return (far > near) & (within | ~still).all(-1), far - near

    def _contains(self, points: Tensor) -> Tensor:
        return ((points >= self.lower) & (points < self.upper)).all(-1)


@dataclass(frozen=True, eq=False)
class Ellipsoid(_Convex):
    """Ellipsoid of constant attenuation.

    Attributes:
        center: World mm.
        semi_axes: Three lengths [mm], > 0.
        mu: Attenuation [1/mm]; may be negative.
        rotation: 3 x 3, its columns are the directions of the semi-axes; default: world axes.

    Raises:
        ConfigError: numbers that are not finite, or semi-axes not positive.
        GeometryError: `rotation` is not orthonormal.

    Source:
        Roots of |p + t d|^2 = 1 in the frame where the ellipsoid is the unit ball, taken about
        the closest point t_m = -p.d/|d|^2 (keeps digits for far sources).
    """

    center: Numbers
    semi_axes: Numbers
    mu: float
    rotation: Float[Tensor, "3 3"] | None = None
    _to_ball: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        axes = _vector(self.semi_axes, "semi_axes")
        if not bool((axes > 0).all()):
            raise ConfigError(f"semi_axes must be positive [mm], got {axes.tolist()}")
        eye = torch.eye(3, dtype=torch.float64)
        turn = eye if self.rotation is None else torch.as_tensor(self.rotation, dtype=eye.dtype)
        turn = turn.detach()
        if turn.shape != (3, 3) or not torch.allclose(turn.T @ turn, eye, atol=1e-9):
            raise GeometryError(
                f"rotation must be a 3 x 3 orthonormal matrix, got {turn.tolist()}; "
                "normalise it, and put lengths into semi_axes"
            )
        center = _vector(self.center, "center")
        self._set(center=center, semi_axes=axes, mu=_finite(self.mu, "mu"))
        self._set(rotation=turn, _to_ball=turn.T / axes[:, None])

    def _crossing(self, source: Tensor, way: Tensor) -> tuple[Tensor, Tensor]:
        to_ball = self._to_ball.T.to(source)
        p, d = (source - self.center.to(source)) @ to_ball, way @ to_ball
        square = (d * d).sum(-1)
        moving = square > 0
        square = torch.where(moving, square, 1.0)
        middle = -(p * d).sum(-1) / square
        closest = p + middle[..., None] * d
        rest = 1.0 - (closest * closest).sum(-1)
        hit = moving & (rest > 0)
        half = torch.sqrt(torch.where(hit, rest, 1.0) / square)
        return hit, (middle + half).clamp(0, 1) - (middle - half).clamp(0, 1)

    def _contains(self, points: Tensor) -> Tensor:
        p = (points - self.center) @ self._to_ball.T
        return (p * p).sum(-1) <= 1


@dataclass(frozen=True, eq=False)
class Scene:
    """Sum of solids; where they overlap, their mu add up.

    Raises:
        ConfigError: no solid given.
    """

    solids: Sequence["Box | Ellipsoid | Scene"]

    def __post_init__(self):
        if len(self.solids) == 0:
            raise ConfigError("a Scene needs at least one solid, got none")

    def line_integrals(self, source: Points, target: Points) -> Float[Tensor, "*ray"]:
        """Sum of the solids' exact line integrals [-], float64."""
        return sum(solid.line_integrals(source, target) for solid in self.solids)

    def voxelize(self, shape: Sequence[int], affine: Affine) -> Float[Tensor, "x y z"]:
        """Sum of the solids' voxel means [1/mm]; exact where each of them is."""
        return sum(solid.voxelize(shape, affine) for solid in self.solids)


def _segments(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    for name, points in (("source", source), ("target", target)):
        if points.ndim < 1 or points.shape[-1] != 3:
            raise ShapeError(f"{name} must have shape [..., 3], got {tuple(points.shape)}")
    try:
        source, target = torch.broadcast_tensors(source.double(), target.double())
    except RuntimeError as error:
        raise ShapeError(
            f"source {tuple(source.shape)} and target {tuple(target.shape)} do not broadcast"
        ) from error
    return source, target - source


def _length(way: Tensor) -> Tensor:
    square = (way * way).sum(-1)
    # sqrt has no slope at zero: keep the gradient of zero-length segments finite
    return torch.where(square > 0, torch.sqrt(torch.where(square > 0, square, 1.0)), 0.0)


def _grid(shape: Sequence[int], affine) -> tuple[tuple[int, int, int], Tensor]:
    shape = tuple(int(n) for n in shape)
    if len(shape) != 3 or min(shape) < 1:
        raise ConfigError(f"shape must be three whole numbers >= 1, got {shape}")
    affine = torch.as_tensor(affine, dtype=torch.float64, device="cpu").detach()
    if affine.shape != (4, 4) or not bool(torch.isfinite(affine).all()):
        raise GeometryError(f"affine must be a finite 4 x 4 matrix, got {affine.tolist()}")
    if float(torch.linalg.det(affine[:3, :3])) == 0:
        raise GeometryError("affine maps voxels onto a plane; give three independent voxel edges")
    return shape, affine


def _vector(values: Numbers, name: str) -> Tensor:
    vector = torch.as_tensor(values, dtype=torch.float64, device="cpu").detach()
    if vector.shape != (3,) or not bool(torch.isfinite(vector).all()):
        raise ConfigError(f"{name} must be three finite numbers, got {vector.tolist()}")
    return vector


def _finite(value: float, name: str) -> float:
    if not math.isfinite(value):
        raise ConfigError(f"{name} must be finite, got {value}")
    return float(value)
