"""Levenberg-Marquardt on the zero-normalised image, a batch of poses side by side.

The loss 1 - ZNCC is half the squared difference of the two images once each has mean 0 and
length 1, so it is a sum of squares, and the image Jacobian of one march is all that Gauss-Newton
needs. It takes Joseph's images: Siddon's are rough in the pose, and their curvature at the
optimum is far too large.

Source: Marquardt 1963, doi:10.1137/0111030; the covariance: Liang and Zeger 1986,
doi:10.1093/biomet/73.1.13.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from drrlib.optimize.objective import Linear, Objective, Sight
from drrlib.similarity import LINE, normalise, regress, smooth_fields

_BLOCK = 8  # pixels: residuals are taken as independent from one block to the next
_FIRST, _LEAST, _MOST = 1e-3, 1e-9, 1e9  # damping
# A step below this changes no pixel by more than rounding [rad, mm].
_STILL = (1e-6,) * 3 + (1e-3,) * 3


class Normal(NamedTuple):
    """Loss and its quadratic model: loss [m], gradient [m, n], Gauss-Newton matrix [m, n, n]."""

    loss: Float[Tensor, " m"]
    gradient: Float[Tensor, "m n"]
    curvature: Float[Tensor, "m n n"]


class Settled(NamedTuple):
    """Where each row ended.

    Attributes:
        parameters: [m, n].
        linear: Each view's image there, and its derivative.
        normal: The model made of them.
        settled: Whether the steps became negligible before they ran out.
    """

    parameters: Float[Tensor, "m n"]
    linear: list[Linear]
    normal: Normal
    settled: Bool[Tensor, " m"]


def levenberg(
    objective: Objective,
    parameters: Float[Tensor, "m n"],
    linear: Sequence[Linear],
    steps: int,
    still: Sequence[float] = _STILL,
) -> Settled:
    """Minimise the mean over the views of 1 - ZNCC from each row of parameters.

    Args:
        objective: The views; its own loss does not matter.
        parameters: Where to begin: six of the pose, and freed lengths after them.
        linear: From `objective.linearize` there.
        steps: Most steps; each renders one image, and a rejected one counts.
        still: A step below these in every parameter ends the row.

    A row whose model is not finite stays where it is and has not settled.
    """
    p = parameters.clone()
    tiny = p.new_tensor([*still, *[1e-3] * (p.shape[1] - len(still))])
    at = [Linear(*(x.clone() for x in one)) for one in linear]
    here = normal_equations(objective.sights, at)
    damping = p.new_full((len(p),), _FIRST)
    settled = torch.zeros(len(p), dtype=torch.bool)
    running = _finite(here)
    for _ in range(steps):
        rows = torch.nonzero(running).flatten()
        if len(rows) == 0:
            break
        some = objective.rows(rows)
        move = _step(Normal(*(x[rows] for x in here)), damping[rows])
        tried = p[rows] + move
        next_ = some.linearize(tried)
        there = normal_equations(some.sights, next_)
        better = (there.loss < here.loss[rows]) & _finite(there)
        small = (move.abs() < tiny).all(dim=1)
        took, lost = rows[better], rows[~better]
        p[took] = tried[better]
        for old, new in ((here, there), *zip(at, next_, strict=True)):
            for x, y in zip(old, new, strict=True):
                x[took.to(x.device)] = y[better.to(y.device)]
        damping[took] = (damping[took] / 10).clamp_min(_LEAST)
        damping[lost] = damping[lost] * 10
        stuck = damping[rows] > _MOST  # no direction goes down any more
        settled[rows[small | stuck]] = True
        running[rows[small | stuck]] = False
    return Settled(p, at, here, settled)


def normal_equations(sights: Sequence[Sight], linear: Sequence[Linear]) -> Normal:
    """Mean over the views of the loss, its gradient and its Gauss-Newton matrix."""
    parts = []
    for sight, one in zip(sights, linear, strict=True):
        residual, jacobian = residuals(sight, one)
        parts.append(
            (
                0.5 * residual.square().sum(dim=1, dtype=torch.float64),
                _times(jacobian, residual[..., None])[..., 0],
                _times(jacobian, jacobian),
            )
        )
    return Normal(*(sum(x).div(len(sights)).cpu() for x in zip(*parts, strict=True)))


def residuals(
    sight: Sight, linear: Linear
) -> tuple[Float[Tensor, "m pixels"], Float[Tensor, "m pixels n"]]:
    """What the loss is half the square of, and its derivative.

    An image without contrast, such as one of air, has no unit image: half its square is 1, as at
    right angles, so that leaving the patient is never a way down.
    """
    moving, jacobian, left = linear
    fixed = sight.fixed.flatten(1).to(moving.device).expand_as(moving)
    weights = sight.counted(left)
    if weights is not None:
        weights = weights.flatten(1).to(moving.device).expand_as(moving)
    if sight.grey.window:
        fixed, moving, jacobian = _normalised(moving, jacobian, fixed, weights, sight)
    # In float64: float32 sums depend on how many rows are summed at once.
    fixed, moving, jacobian = fixed.double(), moving.double(), jacobian.double()
    weights = None if weights is None else weights.double()
    if sight.grey != LINE and not sight.grey.window:
        return _regressed(moving, jacobian, fixed, weights, sight)
    fixed, _ = _centred(fixed, weights)
    moving, share = _centred(moving, weights)
    jacobian = jacobian - share[:, None] @ jacobian
    if weights is not None:
        jacobian = weights.sqrt()[..., None] * jacobian
    length = torch.linalg.vector_norm(moving, dim=1, keepdim=True).clamp_min(1e-30)
    unit = moving / length
    jacobian = (jacobian - unit[..., None] * (unit[:, None] @ jacobian)) / length[..., None]
    fixed = fixed / torch.linalg.vector_norm(fixed, dim=1, keepdim=True).clamp_min(1e-30)
    return torch.where(length > 1e-30, unit - fixed, math.sqrt(2) * fixed), jacobian


def _normalised(moving, jacobian, fixed, weights, sight):
    """Both images normalised in windows, and the derivative of the moving one."""
    size, window = sight.fixed.shape[-2:], sight.grey.window
    weights = torch.ones_like(moving) if weights is None else weights
    weights, moving, fixed = (x.unflatten(1, size) for x in (weights, moving, fixed))
    fixed = normalise(fixed, weights, window).value
    moving = normalise(moving, weights, window)
    slope = moving.slope(jacobian.mT.unflatten(2, size).contiguous())
    return fixed.flatten(1), moving.value.flatten(1), slope.flatten(2).mT


def _regressed(moving, jacobian, fixed, weights, sight):
    """Residual of the unit fixed image after its regression, and Kaufman's derivative of it.

    Only what the regression cannot follow counts, so the derivative is projected likewise; the
    gradient of half the square is exact.
    """
    weights = torch.ones_like(moving) if weights is None else weights
    root = weights.sqrt()
    fields = smooth_fields(*sight.fixed.shape[-2:], sight.grey.smooth).to(moving)
    grey = regress(moving, fixed, weights, sight.grey.degree, fields)
    basis = root[..., None] * grey.columns @ grey.turn
    jacobian = (root * grey.slope)[..., None] * jacobian
    jacobian = basis @ (basis.mT @ jacobian) - jacobian
    size = torch.linalg.vector_norm(root * (grey.left + grey.fitted), dim=1).clamp_min(1e-30)
    return root * grey.left / size[:, None], jacobian / size[:, None, None]


def covariance(
    sights: Sequence[Sight], linear: Sequence[Linear], side: int = _BLOCK
) -> Float[Tensor, "m n n"]:
    """Covariance of the parameters from what is left of the image: the sandwich H^-1 M H^-1.

    M sums the outer products of each block's part of the gradient, so noise may differ from place
    to place and be correlated within blocks of `side` x `side` pixels, as blur, scatter or an
    instrument make it. What moves the optimum as a whole, such as wrong intrinsics, is not in it.
    """
    meat = curvature = 0.0
    for sight, one in zip(sights, linear, strict=True):
        residual, jacobian = residuals(sight, one)
        part = jacobian * residual[..., None]
        part = part.unflatten(1, sight.fixed.shape[-2:]).permute(0, 3, 1, 2)
        size = min(side, *sight.fixed.shape[-2:])
        block = avg_pool2d(part, size, ceil_mode=True, divisor_override=1).flatten(2).double()
        meat = meat + (block @ block.mT).cpu()
        curvature = curvature + _times(jacobian, jacobian).cpu()
    inverse = torch.linalg.pinv(curvature)
    return inverse @ meat @ inverse


def _step(model: Normal, damping: Float[Tensor, " m"]) -> Float[Tensor, "m n"]:
    """Marquardt's step: the damping grows with each parameter's own curvature."""
    diagonal = model.curvature.diagonal(dim1=1, dim2=2)
    scale = diagonal.clamp_min(1e-30).rsqrt()
    matrix = model.curvature * scale[:, None] * scale[:, :, None]  # unit diagonal
    matrix = matrix + torch.diag_embed(damping[:, None].expand_as(diagonal) + 1e-12)
    right = (model.gradient * scale)[..., None]
    return -torch.linalg.solve_ex(matrix, right).result[..., 0] * scale


def _finite(model: Normal) -> Bool[Tensor, " m"]:
    return torch.stack([torch.isfinite(x).reshape(len(x), -1).all(dim=1) for x in model]).all(dim=0)


def _times(a: Tensor, b: Tensor) -> Tensor:
    return (a.mT @ b).double()


def _centred(image: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Image minus its mean, times root weights; and the share of each pixel in that mean."""
    if weights is None:
        share = torch.full_like(image, 1 / image.shape[1])
        return image - image.mean(dim=1, keepdim=True), share
    share = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-30)
    return weights.sqrt() * (image - (share * image).sum(dim=1, keepdim=True)), share
