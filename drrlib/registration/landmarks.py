"""A start from landmarks that are known in two frames: paired points in 3D [mm]."""

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.arrays import Numbers, as_tensor
from drrlib.errors import ConfigError, GeometryError, ShapeError
from drrlib.geometry import rigid, so3_exp

LINE = 1e-4  # spread of points across their line, as a part of the longest, of collinear ones


def arun(
    points: Numbers, targets: Numbers, weights: Numbers | None = None
) -> Float[Tensor, "*b 4 4"]:
    """Rigid transform that brings points nearest to their targets, in least squares.

    With landmarks in the CT and in the room of a C-arm whose pose is known there, it gives the
    start of a registration:

        world_from_room = arun(points_in_room, points_in_ct)
        start = carm.eta(world_from_room @ room_from_camera, volume.center)

    Args:
        points, targets: The same n >= 3 points in two frames [mm], row by row [..., n, 3]; leading
            axes broadcast.
        weights: Of each pair [..., n], such as 1 / variance [1/mm^2]; 0 leaves a pair out. Default:
            equal.

    Returns:
        target_from_point, float64; a rotation also where the targets are a mirror image.

    Gradients:
        points, targets, weights; first derivatives, wherever the rotation is unique (also for
        points of a cube or in a plane, where the derivative of the SVD itself is not finite).

    Raises:
        ShapeError: fewer than three points, or shapes that do not fit.
        ConfigError: negative weights, or a number that is not finite.
        GeometryError: points on a line, or no unique rotation.

    Source:
        Arun, Huang, Blostein 1987, doi:10.1109/TPAMI.1987.4767965; the reflection case: Umeyama
        1991, doi:10.1109/34.88573.
    """
    points, targets, weights = _pairs(points, targets, weights)
    share = (weights / weights.sum(dim=-1, keepdim=True))[..., None]
    means = [(share * x).sum(dim=-2, keepdim=True) for x in (points, targets)]
    centered = [x - m for x, m in zip((points, targets), means, strict=True)]
    for name, x in zip(("points", "targets"), centered, strict=True):
        spread = torch.linalg.svdvals((share.sqrt() * x).detach())
        if not bool((spread[..., 1] > LINE * spread[..., 0]).all()):
            raise GeometryError(
                f"{name} lie on a line (or fewer than three have a weight), about which any "
                "rotation fits; expected three that span a triangle: pick another landmark"
            )
    spread = (share * centered[0]).mT @ centered[1]
    rotation = nearest_rotation(spread.mT)
    shift = means[1] - means[0] @ rotation.mT
    return rigid(rotation, shift[..., 0, :])


def _pairs(points: Numbers, targets: Numbers, weights: Numbers | None) -> list[Tensor]:
    """What `arun` is given, checked, in float64."""
    points = as_tensor(points, "points", torch.float64)
    targets = as_tensor(targets, "targets", torch.float64)
    for name, x in (("points", points), ("targets", targets)):
        if x.ndim < 2 or x.shape[-1] != 3 or x.shape[-2] != points.shape[-2] or x.shape[-2] < 3:
            raise ShapeError(
                f"{name} has shape {tuple(x.shape)}; expected [..., n, 3], the same n >= 3 for both"
            )
    if weights is None:
        weights = torch.ones_like(points[..., 0])
    weights = as_tensor(weights, "weights", torch.float64)
    if weights.shape[-1:] != points.shape[-2:-1]:
        raise ShapeError(
            f"weights has shape {tuple(weights.shape)}; expected [..., {points.shape[-2]}]"
        )
    check_finite(points=points, targets=targets, weights=weights)
    if bool((weights < 0).any()):
        raise ConfigError("weights has a negative one; expected numbers >= 0")
    return [points, targets, weights]


def nearest_rotation(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
    """The rotation R that maximises tr(R^T M); first derivatives with respect to M.

    The SVD's own derivative divides by differences of singular values although R depends only on
    their sums. Hence R comes from the SVD as a constant, and is turned by omega, which is zero in
    value: for S = R^T M, symmetric at the maximum, a change of M turns R by
    omega = (tr(S) 1 - S)^-1 vee(S - S^T) in R's own frame.
    """
    fixed = matrix.detach()
    u, s, vh = torch.linalg.svd(fixed)
    sign = torch.sign(torch.linalg.det(u @ vh))
    if not bool((s[..., 1] + sign * s[..., 2] > 1e-9 * s[..., 0]).all()):
        raise GeometryError(
            "no unique rotation brings the points to the targets: the targets are their mirror "
            "image, or far from any rigid copy; are both in the same order?"
        )
    last = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=-1)
    rotation = (u * last[..., None, :]) @ vh
    if not matrix.requires_grad:
        return rotation
    s = rotation.mT @ matrix
    skew = s - s.mT
    axis = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], dim=-1)
    at = (rotation.mT @ fixed).detach()
    stiff = at.diagonal(dim1=-2, dim2=-1).sum(dim=-1)[..., None, None] * torch.eye(3).to(at) - at
    omega = torch.linalg.solve(stiff, axis[..., None])[..., 0]
    return rotation @ so3_exp(omega - omega.detach())


def check_finite(**tensors: Tensor) -> None:
    for name, x in tensors.items():
        if not bool(torch.isfinite(x).all()):
            raise ConfigError(f"{name} has NaN or infinite entries; leave out what was not picked")
