"""Solid shapes as signed distances, the bricks of the anatomical phantoms.

A `Shape` knows its distance to any world point (negative inside) and a box that contains it.
Distances of ellipsoids, stretched and blended shapes are first-order estimates: right near the
surface, which is the only place where painting looks at them. All lengths are mm.

Source: the distance formulas for segments, triangles and tori, and the polynomial blend, are
the well-known ones collected by Quilez, "3D SDFs", https://iquilezles.org/articles/distfunctions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Point = Sequence[float] | np.ndarray
Path = Sequence[Point] | np.ndarray
FAR = np.float32(1e3)


@dataclass(frozen=True)
class Shape:
    """A solid: `distance(x, y, z)` takes three coordinate vectors and fills their grid.

    Attributes:
        lower, upper: Corners of a world box that contains the solid [mm].
        distance: Maps 1-d float32 coordinates x, y, z [mm] to float32 [len x, len y, len z].
    """

    lower: np.ndarray
    upper: np.ndarray
    distance: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

    def at(self, point: Point) -> float:
        """Distance to one point."""
        x, y, z = np.float32(point).reshape(3, 1)
        return float(self.distance(x, y, z)[0, 0, 0])

    def window(self, x, y, z, margin: float) -> tuple[slice, slice, slice]:
        """Index ranges of the sorted coordinates that lie within `margin` of the box."""
        return tuple(
            slice(*np.searchsorted(axis, (low - margin, high + margin)))
            for axis, low, high in zip((x, y, z), self.lower, self.upper, strict=True)
        )


def vec(x: float, y: float, z: float) -> np.ndarray:
    """A world vector [mm]."""
    return np.array([x, y, z], float)


def mirrored(shape: Shape) -> Shape:
    """The shape on the other side of the plane x = 0."""
    lower, upper = shape.lower * (-1, 1, 1), shape.upper * (-1, 1, 1)
    lower[0], upper[0] = upper[0], lower[0]
    return Shape(lower, upper, lambda x, y, z: shape.distance(-x[::-1], y, z)[::-1])


def pair(make: Callable[[int], Shape]) -> tuple[Shape, Shape]:
    """Right and left part: `make(s)` draws the left one, s = 1, and what s = -1 is mirrored."""
    return mirrored(make(-1)), make(1)


def grown(shape: Shape, by: float) -> Shape:
    """The shape with its surface moved outwards by `by` (inwards if negative)."""
    return Shape(shape.lower - by, shape.upper + by, lambda x, y, z: shape.distance(x, y, z) - by)


def union(*shapes: Shape, blend: float = 0.0) -> Shape:
    """All shapes together; `blend` > 0 rounds the creases over about that many mm.

    Each part is evaluated only near its own box; elsewhere the distance is merely large.
    """

    def distance(x, y, z):
        out = np.full((len(x), len(y), len(z)), FAR, np.float32)
        for shape in shapes:
            i, j, k = shape.window(x, y, z, blend + 16.0)
            part = out[i, j, k]
            if part.size:
                d = shape.distance(x[i], y[j], z[k])
                part[...] = np.minimum(part, d) - _crease(part, d, blend)
        return out

    lower = np.min([s.lower for s in shapes], axis=0) - 0.25 * blend
    return Shape(lower, np.max([s.upper for s in shapes], axis=0) + 0.25 * blend, distance)


def cut(shape: Shape, normal: Point, offset: float, blend: float = 0.0) -> Shape:
    """The part of the shape with `normal` . p <= offset; the new edge rounded over `blend`."""
    n = np.asarray(normal, float) / np.linalg.norm(normal)
    offset = offset / np.linalg.norm(normal)

    def distance(x, y, z):
        a, b = shape.distance(x, y, z), _linear(n, x, y, z) - np.float32(offset)
        return np.maximum(a, b) + _crease(a, b, blend)

    return Shape(shape.lower, shape.upper, distance)


def without(shape: Shape, hole: Shape) -> Shape:
    """The shape minus the hole."""

    def distance(x, y, z):
        out = shape.distance(x, y, z)
        i, j, k = hole.window(x, y, z, 16.0)
        part = out[i, j, k]
        if part.size:
            np.maximum(part, -hole.distance(x[i], y[j], z[k]), out=part)
        return out

    return Shape(shape.lower, shape.upper, distance)


def ellipsoid(center: Point, semi_axes: Point, angles: Point = (0.0, 0.0, 0.0)) -> Shape:
    """Ellipsoid turned by `angles` [rad] about the world x, then y, then z axis."""
    c, r, turn = np.asarray(center, float), np.asarray(semi_axes, float), _turn(angles)
    extent = np.sqrt((turn**2) @ r**2)
    aligned = not np.any(np.asarray(angles))

    def distance(x, y, z):
        axes = _minus((x, y, z), c)
        if aligned:
            q = [(v / np.float32(s)) ** 2 for v, s in zip(axes, r, strict=True)]
            k0, k1 = _outer(*q), _outer(*[v / np.float32(s * s) for v, s in zip(q, r, strict=True)])
        else:
            q = [_linear(axis / s, *axes) ** 2 for axis, s in zip(turn.T, r, strict=True)]
            k0, k1 = sum(q), sum(v * np.float32(1 / (s * s)) for v, s in zip(q, r, strict=True))
        k0, k1 = np.sqrt(k0), np.sqrt(k1)
        # k1 / k0 is about 1/radius; the floor keeps the centre finite
        return (k0 - 1) * (k0 / np.maximum(k1, np.float32(1e-6)))

    return Shape(c - extent, c + extent, distance)


def ball(center: Point, radius: float) -> Shape:
    """Sphere."""
    return ellipsoid(center, (radius, radius, radius))


def capsule(a: Point, b: Point, radius: float, end_radius: float | None = None) -> Shape:
    """Segment from a to b made thick; the radius changes linearly to `end_radius` at b."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    r0, r1 = radius, radius if end_radius is None else end_radius
    widest = max(r0, r1)

    def distance(x, y, z):
        t, square = _to_segment(a, b - a, x, y, z)
        return np.sqrt(square) - t * np.float32(r1 - r0) - np.float32(r0)

    return Shape(np.minimum(a, b) - widest, np.maximum(a, b) + widest, distance)


def tube(points: Path, radii: float | Point, blend: float = 0.0) -> Shape:
    """Chain of capsules through the points; one radius, or one per point."""
    radii = [radii] * len(points) if np.isscalar(radii) else radii
    ends = zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True)
    return union(*[capsule(a, b, r, s) for a, b, r, s in ends], blend=blend)


def curve(points: Path, count: int, radii: float | Point, blend: float = 0.0) -> Shape:
    """`tube` through `count` points of a smooth path."""
    return tube(smooth_path(points, count), radii, blend)


def triangle(a: Point, b: Point, c: Point, radius: float) -> Shape:
    """Flat triangle made thick: all points within `radius` of it."""
    corners = np.asarray([a, b, c], float)
    edges = np.roll(corners, -1, axis=0) - corners
    normal = np.cross(edges[0], -edges[2])
    normal = normal / max(float(np.linalg.norm(normal)), 1e-9)

    def distance(x, y, z):
        height = _linear(normal, x, y, z) - np.float32(normal @ corners[0])
        inside = np.full(height.shape, -FAR, np.float32)
        to_edges = np.full(height.shape, FAR * FAR, np.float32)
        for corner, edge in zip(corners, edges, strict=True):
            out = _linear(np.cross(edge, normal), *_minus((x, y, z), corner))
            np.maximum(inside, out, out=inside)
            np.minimum(to_edges, _to_segment(corner, edge, x, y, z)[1], out=to_edges)
        return np.where(inside <= 0, np.abs(height), np.sqrt(to_edges)) - np.float32(radius)

    return Shape(corners.min(axis=0) - radius, corners.max(axis=0) + radius, distance)


def ribbon(left: Path, right: Path, radius: float, blend: float = 0.0) -> Shape:
    """Thick plate spanned between two polylines with the same number of points."""
    sheets = []
    for a, b, c, d in zip(left[:-1], left[1:], right[:-1], right[1:], strict=True):
        sheets += [triangle(a, b, c, radius), triangle(b, d, c, radius)]
    return union(*sheets, blend=blend)


def ring(center: Point, radius: float, tube_radius: float, angles: Point = (0, 0, 0)) -> Shape:
    """Torus whose axis is world z turned by `angles`."""
    c, turn = np.asarray(center, float), _turn(angles)

    def distance(x, y, z):
        px, py, pz = _minus((x, y, z), c)
        u, v, w = (_linear(axis, px, py, pz) for axis in turn.T)
        return np.hypot(np.hypot(u, v) - np.float32(radius), w) - np.float32(tube_radius)

    extent = radius * np.sqrt(np.maximum(1 - turn[:, 2] ** 2, 0)) + tube_radius
    return Shape(c - extent, c + extent, distance)


def column(
    center: Point, semi_axes: Point, half_height: float, power: float = 2.0, waist: float = 0.0
) -> Shape:
    """Upright cylinder; `power` 2 gives an ellipse as cross-section, 4 a rounded box.

    At half height it is narrower by `waist` [mm] on each side. The distance is the
    first-order one, value / slope.
    """
    c, r = np.asarray(center, float), np.asarray([*semi_axes, half_height], float)

    def distance(x, y, z):
        u = np.abs((x - np.float32(c[0])) / np.float32(r[0]))[:, None]
        v = np.abs((y - np.float32(c[1])) / np.float32(r[1]))[None, :]
        q = np.maximum(u**power + v**power, 1e-6)
        slope = np.hypot(u ** (power - 1) / r[0], v ** (power - 1) / r[1]) * q ** (1 / power - 1)
        flat = ((q ** (1 / power) - 1) / np.maximum(slope, 1e-6)).astype(np.float32)
        z = np.abs(z - np.float32(c[2]))
        narrower = np.float32(waist) * np.maximum(1 - (z / np.float32(r[2])) ** 2, 0)
        return np.maximum(flat[:, :, None] + narrower, z - np.float32(r[2]))

    return Shape(c - r, c + r, distance)


def smooth_path(points: Path, count: int) -> np.ndarray:
    """`count` points on the Catmull-Rom curve through `points`, ends included [count, 3]."""
    p = np.asarray(points, float)
    p = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    s = np.linspace(0, len(p) - 3, count)
    i = np.minimum(s.astype(int), len(p) - 4)
    t = (s - i)[:, None]
    a, b, c, d = p[i], p[i + 1], p[i + 2], p[i + 3]
    return 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )


def _turn(angles: Point) -> np.ndarray:
    cx, cy, cz = np.cos(angles)
    sx, sy, sz = np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def _crease(a: np.ndarray, b: np.ndarray, blend: float) -> np.ndarray | np.float32:
    """What a blend takes off the edge between two surfaces, or fills into it."""
    if not blend:
        return np.float32(0)
    near = np.maximum(blend - np.abs(a - b), 0)
    return near * near * np.float32(0.25 / blend)


def _to_segment(start: np.ndarray, way: np.ndarray, x, y, z) -> tuple[np.ndarray, np.ndarray]:
    """Of the nearest point of a segment: the share of its way there, and the squared distance."""
    axes = _minus((x, y, z), start)
    t = np.clip(_linear(way / max(float(way @ way), 1e-9), *axes), 0, 1)
    square = np.zeros_like(t)
    for axis, (along, step) in enumerate(zip(axes, way, strict=True)):
        d = along.reshape([-1 if a == axis else 1 for a in range(3)]) - t * np.float32(step)
        d *= d
        square += d
    return t, square


def _minus(axes, origin) -> list[np.ndarray]:
    return [v - np.float32(o) for v, o in zip(axes, origin, strict=True)]


def _outer(x, y, z) -> np.ndarray:
    return (x[:, None] + y[None, :])[:, :, None] + z


def _linear(normal, x, y, z) -> np.ndarray:
    a, b, c = np.asarray(normal, np.float32)
    return _outer(a * x, b * y, c * z)
