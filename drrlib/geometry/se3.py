"""Rigid motions: exponential and logarithm of SO(3) and SE(3), and distances between poses.

A twist is xi = (omega, v): rotation vector [rad], then the translation part [mm]. All functions
take any leading axes and are differentiable; near 0 they use series, so that value and gradient
are finite and right at exactly 0. Formulas: Barfoot, State Estimation for Robotics (2017), 7.1.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from drrlib.arrays import Numbers, as_tensor
from drrlib.errors import GeometryError, ShapeError

_SMALL = 1e-2  # [rad]: below it, series; their first left-out term is of order 1e-16 there


def so3_exp(omega: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation matrix of a rotation vector [rad] (Rodrigues). Gradients: omega."""
    a, b, _ = _coefficients(omega)
    hat = _hat(omega)
    return torch.eye(3).to(omega) + a * hat + b * (hat @ hat)


def so3_log(rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3"]:
    """Rotation vector [rad] of length at most pi, through the unit quaternion.

    At exactly pi both signs are right; one is chosen. Gradients: rotation; the derivative
    exists below pi.
    """
    w, x = _quaternion(rotation)
    square = x.square().sum(dim=-1)
    zero = square < 1e-24
    sine = torch.where(zero, 1.0, square).sqrt()
    factor = torch.where(zero, 2.0 / torch.where(zero, w, 1.0), 2 * torch.atan2(sine, w) / sine)
    return factor[..., None] * x


def exp(xi: Float[Tensor, "*b 6"]) -> Float[Tensor, "*b 4 4"]:
    """Transform of a twist (omega [rad], v [mm]). Gradients: xi."""
    omega, v = xi[..., :3], xi[..., 3:]
    _, b, c = _coefficients(omega)
    hat = _hat(omega)
    left = torch.eye(3).to(xi) + b * hat + c * (hat @ hat)
    return rigid(so3_exp(omega), (left @ v[..., None])[..., 0])


def log(transform: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 6"]:
    """Twist of a rigid transform; the inverse of `exp` for rotations below pi."""
    omega = so3_log(transform[..., :3, :3])
    _, b, c = _coefficients(omega)
    hat = _hat(omega)
    left = torch.eye(3).to(transform) + b * hat + c * (hat @ hat)
    v = torch.linalg.solve(left, transform[..., :3, 3:])[..., 0]
    return torch.cat([omega, v], dim=-1)


def rigid(
    rotation: Float[Tensor, "*b 3 3"], shift: Float[Tensor, "*b 3"]
) -> Float[Tensor, "*b 4 4"]:
    """Transform that turns and then shifts [mm]. Gradients: both."""
    top = torch.cat([rotation, shift[..., None]], dim=-1)
    zero = torch.zeros_like(top[..., :1, :1])  # no numbers from the host: a CUDA graph has none
    return torch.cat([top, torch.cat([zero, zero, zero, zero + 1], dim=-1)], dim=-2)


def inverse(transform: Numbers) -> Float[Tensor, "*b 4 4"]:
    """Inverse of a rigid transform."""
    transform = _matrix(transform)
    back = transform[..., :3, :3].mT
    return rigid(back, -(back @ transform[..., :3, 3:])[..., 0])


def transform_points(transform: Numbers, points: Numbers) -> Float[Tensor, "*b n 3"]:
    """Points moved by a rigid or affine transform; leading axes broadcast.

    Raises:
        ShapeError: not matrices [..., 4, 4] and points [..., n, 3] that fit.
    """
    transform, points = _matrix(transform), as_tensor(points, "points")
    kind = torch.promote_types(transform.dtype, points.dtype)
    transform, points = transform.to(kind), points.to(kind)
    try:
        return points @ transform[..., :3, :3].mT + transform[..., None, :3, 3]
    except RuntimeError:
        raise ShapeError(
            f"points have shape {tuple(points.shape)} for transforms {tuple(transform.shape)}; "
            "expected [..., n, 3] on one device, with leading axes that broadcast"
        ) from None


def _matrix(transform: Numbers) -> Tensor:
    transform = as_tensor(transform, "transform")
    if tuple(transform.shape[-2:]) != (4, 4):
        raise ShapeError(f"transform has shape {tuple(transform.shape)}; expected [..., 4, 4]")
    return transform


def rotation_angle(rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b"]:
    """Angle [rad] in [0, pi], accurate near both ends."""
    w, x = _quaternion(rotation)
    return 2 * torch.atan2(x.norm(dim=-1), w)


def geodesic_distance(
    first: Float[Tensor, "*#b 4 4"], second: Float[Tensor, "*#b 4 4"]
) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
    """Rotation angle [rad] between two transforms and distance of their origins [mm]."""
    turn = first[..., :3, :3].mT @ second[..., :3, :3]
    return rotation_angle(turn), (first[..., :3, 3] - second[..., :3, 3]).norm(dim=-1)


def check_rigid(transform: Tensor, name: str = "transform") -> None:
    """Raise unless every matrix is rigid.

    Raises:
        ShapeError: not [..., 4, 4].
        GeometryError: not finite, not a rotation, a reflection, or a wrong last row.
    """
    if transform.ndim < 2 or tuple(transform.shape[-2:]) != (4, 4):
        raise ShapeError(f"{name} has shape {tuple(transform.shape)}; expected [..., 4, 4]")
    t = transform.detach().double()
    if not bool(torch.isfinite(t).all()):
        raise GeometryError(f"{name} has NaN or infinite entries; expected a rigid transform")
    rotation = t[..., :3, :3]
    error = (rotation @ rotation.mT - torch.eye(3).to(t)).abs().max()
    if error > 1e-4 or bool((rotation.det() < 0).any()):
        raise GeometryError(
            f"{name} is not a rotation with a shift (R R^T is off by {float(error):.2g}, smallest "
            f"determinant {float(rotation.det().min()):.3g}); expected a rigid transform, no scale"
        )
    if bool((t[..., 3, :] != t.new_tensor([0.0, 0.0, 0.0, 1.0])).any()):
        raise GeometryError(f"{name} has a last row other than (0, 0, 0, 1); is it transposed?")


def _coefficients(omega: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sin(t)/t, (1 - cos t)/t^2 and (t - sin t)/t^3 for t = |omega|, each [..., 1, 1]."""
    square = omega.square().sum(dim=-1)[..., None, None]
    small = square < _SMALL**2
    safe = torch.where(small, 1.0, square)
    t = safe.sqrt()
    s = torch.where(small, square, 0.0)
    a = torch.where(small, 1 - s / 6 * (1 - s / 20 * (1 - s / 42)), t.sin() / t)
    half = (0.5 * t).sin()
    b = torch.where(small, 0.5 - s / 24 * (1 - s / 30 * (1 - s / 56)), 2 * half * half / safe)
    c = torch.where(
        small, 1 / 6 - s / 120 * (1 - s / 42 * (1 - s / 72)), (t - t.sin()) / (safe * t)
    )
    return a, b, c


def _hat(omega: Tensor) -> Tensor:
    x, y, z = omega.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))


def _quaternion(rotation: Tensor) -> tuple[Tensor, Tensor]:
    """Unit quaternion (w >= 0, vector) of a rotation matrix.

    Of the four ways to divide, each row takes the one whose divisor is largest (Shepperd 1978).
    """
    r = rotation
    xx, yy, zz = r[..., 0, 0], r[..., 1, 1], r[..., 2, 2]
    a, b, c = r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]
    d, e, f = r[..., 1, 0] + r[..., 0, 1], r[..., 2, 0] + r[..., 0, 2], r[..., 2, 1] + r[..., 1, 2]
    rows = torch.stack(
        [
            torch.stack([1 + xx + yy + zz, a, b, c], dim=-1),
            torch.stack([a, 1 + xx - yy - zz, d, e], dim=-1),
            torch.stack([b, d, 1 - xx + yy - zz, f], dim=-1),
            torch.stack([c, e, f, 1 - xx - yy + zz], dim=-1),
        ],
        dim=-2,
    )  # each row is 4 q_i q
    pick = rows.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)[..., None, None]
    q = rows.gather(-2, pick.expand(*pick.shape[:-1], 4))[..., 0, :]
    q = q / q.norm(dim=-1, keepdim=True)
    negative: Bool[Tensor, "*b 1"] = q[..., :1] < 0
    q = torch.where(negative, -q, q)
    return q[..., 0], q[..., 1:]
