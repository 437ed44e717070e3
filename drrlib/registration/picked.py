"""A start from points of the CT that were picked in an X-ray image (perspective-n-point).

Points are [mm], usually of the CT (world, LPS); pixels are (column, row) with centres at
half-integers, as `CArm.project` gives them.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.arrays import Numbers, as_tensor
from drrlib.errors import ConfigError, GeometryError, ShapeError
from drrlib.geometry import CArm, check_rigid, inverse, rigid, so3_exp, transform_points
from drrlib.registration.landmarks import LINE, check_finite, nearest_rotation

# Spread of points off their plane, as a part of the longest, below which they count as coplanar.
# Picked points lie off their plane by about 1 mm in 100 at best.
_PLANE = 1e-2


class Picked(NamedTuple):
    """A pose from picked points.

    Attributes:
        pose: world_from_camera [4, 4], float64.
        rms_px, rms_mm: Root mean square distance between projected and picked points, in pixels
            and at the detector [mm].
        errors_mm: That distance for each point [n]; a mis-picked one stands out.
    """

    pose: Float[Tensor, "4 4"]
    rms_px: float
    rms_mm: float
    errors_mm: Float[Tensor, " n"]


def pnp(
    carm: CArm,
    points: Numbers,
    pixels: Numbers,
    start: Numbers | None = None,
    *,
    center: Numbers | None = None,
    huber: float | None = None,
) -> Picked:
    """Pose from points of the CT that were picked in the image.

    Without a start, the direct linear transform of six points or more gives one. From there the
    distance between projected and picked points at the detector [mm] is minimised.

    Args:
        carm: Intrinsics of the image.
        points: Landmarks [n, 3] (mm, world).
        pixels: The same points in the image as (column, row), pixel centres at half-integers
            [n, 2].
        start: world_from_camera [4, 4], or eta [6], to begin with; needed for three to five points,
            and for points in a plane.
        center: The volume's centre; needed if `start` is an eta.
        huber: Distance [mm at the detector] beyond which a point counts linearly instead of
            quadratically (Huber 1964, doi:10.1214/aoms/1177703732): for points that may be
            mis-picked. A direct start is not robust itself; give one if many are wrong.

    Returns:
        The pose and how well it fits. No gradients. With three points up to four poses fit
        exactly, so the start decides.

    Raises:
        ShapeError: fewer than three points, or shapes that do not fit.
        ConfigError: too few points for no start, an eta without center, or bad numbers.
        GeometryError: points on a line; in a plane, without a start; or a pose for which some
            point lies behind the source, as happens when points and pixels are not in one order.

    Source:
        Hartley and Zisserman, Multiple View Geometry, 2nd ed., 7.1 (with the normalisation of
        4.4.4; the rotation is the one nearest to what the linear solution gives for known
        intrinsics); Levenberg-Marquardt from scipy.optimize.least_squares.
    """
    points, pixels = _picks(points, pixels)
    if huber is not None and not 0 < huber < math.inf:
        raise ConfigError(f"huber is {huber}; expected a distance at the detector above 0 [mm]")
    spread = torch.linalg.svdvals(points - points.mean(dim=0))
    if not bool(spread[1] > LINE * spread[0]):
        raise GeometryError(
            "points lie on a line, about which any rotation fits; pick another landmark"
        )
    if start is not None:
        begins = [inverse(_start_pose(carm, start, center))]
    else:
        few, flat = len(points) < 6, bool(spread[2] < _PLANE * spread[0])
        if few or flat:
            given = f"{len(points)} points" if few else "points that lie in a plane"
            error = ConfigError if few else GeometryError
            raise error(
                f"got {given} and no start; a direct solution needs six points or more that are "
                "not in a plane: pick more, or pass start=..., a pose or eta near the right one"
            )
        begins = _direct(carm, points, pixels)
    refined = [_refined(carm, points, pixels, begin, huber) for begin in begins]
    seen = [x for x in refined if bool((transform_points(x[0], points)[:, 2] > 0).all())]
    if not seen:
        raise GeometryError(
            "no pose has all points in front of the source; are points and pixels in one order, "
            "pixels (column, row), and `flipped` right for this image?"
        )
    pose = inverse(min(seen, key=lambda found: found[1])[0])
    off = carm.project(points, pose[None])[0].detach() - pixels
    errors = (off * _spacing(carm)).norm(dim=1)
    rms_px = float(off.square().sum(dim=1).mean().sqrt())
    return Picked(pose, rms_px, float(errors.square().mean().sqrt()), errors)


def _picks(points: Numbers, pixels: Numbers) -> list[Tensor]:
    """What `pnp` is given, checked, on the CPU in float64."""
    points, pixels = (
        as_tensor(x, name).detach().to("cpu", torch.float64)
        for x, name in ((points, "points"), (pixels, "pixels"))
    )
    if points.ndim != 2 or points.shape[1] != 3 or len(points) < 3:
        raise ShapeError(f"points has shape {tuple(points.shape)}; expected [n, 3], n >= 3")
    if tuple(pixels.shape) != (len(points), 2):
        raise ShapeError(
            f"pixels has shape {tuple(pixels.shape)}; expected [{len(points)}, 2]: a (column, row) "
            "for each point"
        )
    check_finite(points=points, pixels=pixels)
    return [points, pixels]


def _direct(
    carm: CArm, points: Float[Tensor, "n 3"], pixels: Float[Tensor, "n 2"]
) -> list[Float[Tensor, "4 4"]]:
    """camera_from_world by the direct linear transform, for two models of the camera.

    The projective one is exact without picking errors. With them its eleven unknowns are badly
    determined in a C-arm, where all depths are alike; then the affine one is nearer.
    """
    camera = carm.projection_matrix(torch.eye(4, dtype=torch.float64)[None])[0, :, :3].detach()
    # Positions on the plane at depth 1, where the intrinsics are gone.
    seen = torch.linalg.solve(camera, _with_one(pixels).mT).mT[:, :2]
    t, u = _normalisation(seen), _normalisation(points)
    x, y = _with_one(seen) @ t.mT, _with_one(points) @ u.mT
    zero = torch.zeros_like(y)
    rows = torch.cat(
        [torch.cat([y, zero, -x[:, :1] * y], dim=1), torch.cat([zero, y, -x[:, 1:2] * y], dim=1)]
    )
    projective = torch.linalg.solve(t, torch.linalg.svd(rows)[2][-1].reshape(3, 4) @ u)
    if (_with_one(points) @ projective[2]).mean() < 0:  # the factor may be negative
        projective = -projective
    last = torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    affine = torch.cat([torch.linalg.lstsq(y, x[:, :2]).solution.mT, last])
    affine = torch.linalg.solve(t, affine @ u)
    third = torch.linalg.cross(affine[0, :3], affine[1, :3])
    scale = third.norm().sqrt()  # 1 / depth
    near = nearest_rotation(torch.cat([affine[:2, :3], third[None] / scale]))
    middle = points.mean(dim=0, keepdim=True)
    place = _with_one((_with_one(middle) @ affine.mT)[:, :2])[0] / scale
    far = nearest_rotation(projective[:, :3])
    return [rigid(far, _shift(points @ far.mT, seen)), rigid(near, place - near @ middle[0])]


def _shift(turned: Float[Tensor, "n 3"], seen: Float[Tensor, "n 2"]) -> Float[Tensor, "3"]:
    """The shift after which points are seen where they were picked, at depth 1: linear."""
    one, zero = torch.ones_like(seen[:, 0]), torch.zeros_like(seen[:, 0])
    rows = [torch.stack(r, dim=1) for r in ((one, zero, -seen[:, 0]), (zero, one, -seen[:, 1]))]
    right = torch.cat([seen[:, k] * turned[:, 2] - turned[:, k] for k in (0, 1)])
    return torch.linalg.lstsq(torch.cat(rows), right[:, None]).solution[:, 0]


def _with_one(points: Float[Tensor, "n k"]) -> Float[Tensor, "n m"]:
    return torch.cat([points, torch.ones_like(points[:, :1])], dim=1)


def _normalisation(points: Float[Tensor, "n k"]) -> Float[Tensor, "m m"]:
    """Brings the centroid to 0 and the mean distance from it to sqrt(k)."""
    k = points.shape[1]
    middle = points.mean(dim=0)
    scale = math.sqrt(k) / (points - middle).norm(dim=1).mean()
    matrix = torch.eye(k + 1, dtype=torch.float64)
    matrix[:k] *= scale
    matrix[:k, k] = -scale * middle
    return matrix


def _refined(
    carm: CArm, points: Tensor, pixels: Tensor, camera_from_world: Tensor, huber: float | None
) -> tuple[Float[Tensor, "4 4"], float]:
    """camera_from_world with the least distance at the detector, and what was minimised.

    The six parameters turn the points about their centroid and shift it: so the two do not mix.
    """
    from scipy.optimize import least_squares

    middle = points.mean(dim=0)
    rotation = camera_from_world[:3, :3]
    seat = transform_points(camera_from_world, middle[None])[0]
    size = (points - middle).norm(dim=1).mean()  # makes a turn as long as a shift [mm]

    def moved(x: Tensor) -> Tensor:
        turned = so3_exp(x[:, :3] / size) @ rotation
        return rigid(turned, seat + x[:, 3:] - turned @ middle)

    def residual(x: Tensor) -> Tensor:
        off = carm.project(points, inverse(moved(x))) - pixels
        return (off * _spacing(carm)).flatten(1)

    def value(x: np.ndarray) -> np.ndarray:
        return residual(torch.from_numpy(x)[None])[0].detach().numpy()

    def slope(x: np.ndarray) -> np.ndarray:
        # A copy of the parameters for each residual, so that one backward pass has all rows.
        rows = torch.from_numpy(x).repeat(2 * len(points), 1).requires_grad_()
        return torch.autograd.grad(residual(rows).diagonal().sum(), rows)[0].numpy()

    found = least_squares(
        value,
        np.zeros(6),
        slope,
        # SciPy's "lm" takes no robust loss; its trust region without bounds is the same idea.
        method="lm" if huber is None else "trf",
        loss="linear" if huber is None else "huber",
        f_scale=huber or 1.0,
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
        max_nfev=500,
    )
    return moved(torch.from_numpy(found.x)[None])[0], float(found.cost)


def _start_pose(carm: CArm, start: Numbers, center: Numbers | None) -> Float[Tensor, "4 4"]:
    start = as_tensor(start, "start").detach().to("cpu", torch.float64)
    if tuple(start.shape) == (4, 4):
        check_rigid(start, "start")
        return start
    if tuple(start.shape) != (6,):
        raise ShapeError(f"start has shape {tuple(start.shape)}; expected [4, 4] or eta [6]")
    if center is None:
        raise ConfigError(
            "start is an eta, which stands for a pose about a volume's centre; pass "
            "center=volume.center"
        )
    center = as_tensor(center, "center").detach().cpu()
    if tuple(center.shape) != (3,):
        raise ShapeError(f"center has shape {tuple(center.shape)}; expected [3], as volume.center")
    check_finite(start=start, center=center)
    return carm.pose(start, center).detach()


def _spacing(carm: CArm) -> Float[Tensor, "2"]:
    return torch.tensor([float(carm.delx), float(carm.dely)], dtype=torch.float64)
