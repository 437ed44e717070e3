"""Loss landscapes: what a loss does around a pose, along single parameters and in planes.

Everything is measured from the pose where fixed and moving image match, the optimum. A loss is
half the squared distance of two unit images (ZNCC, NCC) or a mean square (L2), so its Hessian at
the optimum needs no second derivative of the image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.drr import DRR
from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry import PARAMETERS
from drrlib.similarity import get_loss

ROTATION_PAIRS = (("theta", "phi"), ("theta", "gamma"), ("phi", "gamma"))
TRANSLATION_PAIRS = (("bx", "by"), ("bx", "bz"), ("by", "bz"))


class Basin(NamedTuple):
    """How far a property holds on either side of the optimum, in the unit of the profile.

    Attributes:
        below, above: Distance from the optimum to the last grid point that has it.
        open: Whether it still held where the profile ends, so that the true reach is larger.
    """

    below: float
    above: float
    open: bool

    @property
    def radius(self) -> float:
        """The shorter side."""
        return min(self.below, self.above)


def offsets(reach: float, n: int) -> Float[Tensor, " n"]:
    """n equidistant offsets from -reach to +reach, with 0 in the middle.

    Raises:
        ConfigError: n is even or below 3, or a reach that is not positive.
    """
    if n < 3 or n % 2 == 0 or not reach > 0:
        raise ConfigError(f"got reach {reach} and n {n}; expected reach > 0 and an odd n >= 3")
    return torch.linspace(-reach, reach, n, dtype=torch.float64)


def along(
    center: Float[Tensor, "6"], direction: str | Float[Tensor, "6"], offset: Float[Tensor, " n"]
) -> Float[Tensor, "n 6"]:
    """Poses eta [rad, mm]: `center` + offset times one parameter (by name), or any direction."""
    if isinstance(direction, str):
        direction = torch.eye(6, dtype=torch.float64)[_index(direction)]
    return center.double() + offset.double()[:, None] * direction


def plane(
    center: Float[Tensor, "6"],
    pair: Sequence[str],
    first: Float[Tensor, " n"],
    second: Float[Tensor, " m"],
) -> Float[Tensor, "n m 6"]:
    """Poses on a grid: the first parameter varies along axis 0, the second along axis 1."""
    eta = center.double().repeat(len(first), len(second), 1)
    eta[..., _index(pair[0])] += first[:, None]
    eta[..., _index(pair[1])] += second
    return eta


def losses_at(
    drr: DRR,
    fixed: Float[Tensor, "1 1 height width"],
    eta: Float[Tensor, "*b 6"],
    losses: Sequence[str] = ("zncc", "ncc", "l2"),
    *,
    batch: int = 64,
) -> Float[Tensor, "*b loss"]:
    """Losses between the fixed image and the DRRs of many poses, `batch` images at a time.

    Returns:
        One column per name in `losses`, float64, without autograd history.

    Raises:
        ConfigError: an unknown loss, or a batch below 1.
        ShapeError: fixed image and detector disagree.
    """
    if batch < 1:
        raise ConfigError(f"batch is {batch}; expected at least 1 image")
    functions = [get_loss(name) for name in losses]
    parts = []
    with torch.no_grad():
        for some in eta.reshape(-1, 6).split(batch):
            moving = drr(drr.pose(some))
            parts.append(torch.stack([f(fixed, moving).double() for f in functions], dim=-1))
    return torch.cat(parts).reshape(*eta.shape[:-1], len(functions))


def convex_basin(offset: Float[Tensor, " n"], loss: Float[Tensor, " n"]) -> Basin:
    """The largest interval around offset 0 where every second difference is positive.

    No smoothing: what is convex depends on the grid, so state its step beside the result.

    Args:
        offset: As from `offsets`.
        loss: The profile there.
    """
    middle = _check_profile(offset, loss)
    convex = loss[2:] - 2 * loss[1:-1] + loss[:-2] > 0  # at the inner points
    if not convex[middle - 1]:
        return Basin(0.0, 0.0, False)
    return _basin(offset, convex[: middle - 1], convex[middle:])


def monotone_basin(offset: Float[Tensor, " n"], loss: Float[Tensor, " n"]) -> Basin:
    """The largest interval around offset 0 that has no way down but towards 0; see `convex_basin`.

    A descent in this one parameter cannot be trapped inside it.
    """
    middle = _check_profile(offset, loss)
    return _basin(offset, (loss[:-1] > loss[1:])[:middle], (loss[1:] > loss[:-1])[middle:])


def width_at(offset: Float[Tensor, " n"], loss: Float[Tensor, " n"], level: float) -> float:
    """Length of the interval around offset 0 where the loss stays below `level`.

    Linear between grid points; infinite where the profile ends below the level.
    """
    middle = _check_profile(offset, loss)
    total = 0.0
    left, right = slice(None, middle + 1), slice(middle, None)
    for at, side in ((offset[left].flip(0), loss[left].flip(0)), (offset[right], loss[right])):
        k = _leading(side < level)
        if k == len(side):
            return float("inf")
        if k == 0:
            return 0.0
        share = float((level - side[k - 1]) / (side[k] - side[k - 1]))
        total += float(at[k - 1].abs()) + share * float(offset.diff()[0])
    return total


def lowest_curvature(
    loss: Float[Tensor, "n m"], step: tuple[float, float], stride: int = 1
) -> Float[Tensor, "inner_n inner_m"]:
    """Smaller eigenvalue of the Hessian of a plane, by central differences.

    Positive: locally convex in both parameters together.

    Args:
        loss: Values on a grid.
        step: The grid's step along each axis. The eigenvalue compares the two, so give both in
            units that count alike; its sign does not depend on them.
        stride: Grid steps between the points of a difference. Siddon's image is rough in the
            pose, and a wider difference sees its shape instead of its roughness.

    Raises:
        ConfigError: the grid is too small for this stride.
    """
    k = stride
    if k < 1 or min(loss.shape) < 2 * k + 1:
        raise ConfigError(
            f"stride is {k} on a grid {tuple(loss.shape)}; expected 1 <= stride < n/2"
        )
    a, b = (k * x for x in step)
    low, mid, up = slice(None, -2 * k), slice(k, -k), slice(2 * k, None)
    aa = (loss[up, mid] - 2 * loss[mid, mid] + loss[low, mid]) / a**2
    bb = (loss[mid, up] - 2 * loss[mid, mid] + loss[mid, low]) / b**2
    ab = (loss[up, up] - loss[up, low] - loss[low, up] + loss[low, low]) / (4 * a * b)
    return (aa + bb) / 2 - torch.hypot((aa - bb) / 2, ab)


def rotation_axes(drr: DRR, eta: Float[Tensor, "6"]) -> Float[Tensor, "3 3"]:
    """Columns: how the C-arm turns per unit of theta, phi and gamma, as world rotation vectors.

    With W these columns and H the block of a Hessian that belongs to the angles, W^-T H W^-1 is
    the Hessian over rotations about world axes: its eigenvectors are axes in the patient.
    """
    eta = eta.detach().double()
    slope = torch.autograd.functional.jacobian(lambda x: drr.pose(x)[:3, :3], eta)  # [3, 3, 6]
    turn = drr.pose(eta)[:3, :3]
    spin = torch.einsum("ijk,lj->ilk", slope[..., :3], turn)  # [w]_x of each rotation vector w
    return torch.stack([spin[2, 1], spin[0, 2], spin[1, 0]])


def gauss_newton_hessian(
    drr: DRR, eta: Float[Tensor, "6"], loss: str = "zncc"
) -> Float[Tensor, "6 6"]:
    """Hessian of a loss at its optimum, in 1/rad and 1/mm, from one image Jacobian.

    With u the unit image, the loss |u - v|^2 / 2 has the Hessian (du)^T (du) where u = v, since
    the other term has the residual as a factor; L2 has 2 J^T J / pixels. Exact for an image
    that is smooth in the pose (Joseph). Siddon's image is only piecewise smooth: each piece is
    steeper than the whole.

    Raises:
        ConfigError: a loss other than zncc, ncc and l2.
    """
    if loss not in ("zncc", "ncc", "l2"):
        raise ConfigError(f"loss is {loss!r}; choose zncc, ncc or l2")
    image, jacobian = drr.jacobian(eta[None])
    x, j = image.double().flatten(), jacobian.double().flatten(0, -2)  # [pixel], [pixel, 6]
    if loss == "l2":
        return 2 * j.mT @ j / len(j)
    if loss == "zncc":
        x, j = x - x.mean(), j - j.mean(dim=0)
    unit = x / x.norm()
    turn = (j - unit[:, None] * (unit @ j)) / x.norm()  # du: what is across u
    return turn.mT @ turn


def _index(name: str) -> int:
    if name not in PARAMETERS:
        raise ConfigError(f"parameter is {name!r}; choose one of {', '.join(PARAMETERS)}")
    return PARAMETERS.index(name)


def _leading(true: Tensor) -> int:
    """How many entries are true before the first that is not."""
    return int(true.long().cumprod(dim=0).sum())


def _basin(offset: Tensor, below: Tensor, above: Tensor) -> Basin:
    """From whether each grid point on either side has a property, in order of the offsets."""
    k, m, middle = _leading(below.flip(0)), _leading(above), len(offset) // 2
    ends = float(-offset[middle - k]), float(offset[middle + m])
    return Basin(*ends, k == len(below) or m == len(above))


def _check_profile(offset: Tensor, loss: Tensor) -> int:
    """Index of offset 0."""
    n = len(offset)
    if loss.shape != offset.shape or n < 3 or n % 2 == 0:
        raise ShapeError(
            f"offset has shape {tuple(offset.shape)}, loss {tuple(loss.shape)}; expected [n] "
            "each with an odd n >= 3, and offset 0 in the middle"
        )
    step = offset.diff()
    uneven = (step - step[0]).abs().max() > 1e-6 * step[0]
    if not bool(step[0] > 0) or bool(uneven) or bool(offset[n // 2].abs() > 1e-6 * step[0]):
        raise ConfigError("offsets must rise in equal steps with 0 in the middle: use `offsets`")
    return n // 2
