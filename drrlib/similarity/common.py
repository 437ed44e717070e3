"""What the losses share: checks, weighted means, and 1 - cosine with all its digits."""

import torch
from torch import Tensor

from drrlib.arrays import Numbers, as_tensor
from drrlib.errors import ConfigError, ShapeError
from drrlib.first_order import first_order


def check(
    fixed: Numbers, moving: Numbers, weights: Numbers | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The arguments of a loss as [batch, 1, height, width], with 0 where a weight is 0.

    Images of fewer axes stand for a batch of one.

    Raises:
        ShapeError: not [batch, 1, height, width] of one size; batches that do not fit.
        ConfigError: a weight that is negative or NaN.
    """
    fixed, moving = _batched(fixed, "fixed"), _batched(moving, "moving")
    weights = None if weights is None else _batched(weights, "weights")
    if fixed.dtype != moving.dtype:
        kind = torch.promote_types(fixed.dtype, moving.dtype)
        fixed, moving = fixed.to(kind), moving.to(kind)
    named = [("fixed", fixed), ("moving", moving), ("weights", weights)]
    named = [(name, image) for name, image in named if image is not None]
    for name, image in named:
        if image.ndim != 4 or image.shape[1] != 1 or image.shape[1:] != moving.shape[1:]:
            raise ShapeError(
                f"{name} has shape {tuple(image.shape)}, moving {tuple(moving.shape)}; expected "
                "[batch, 1, height, width] of one size"
            )
    if len({len(image) for _, image in named} - {1}) > 1:
        raise ShapeError(
            f"batches of {', '.join(f'{len(image)} ({name})' for name, image in named)} do not "
            "fit; expected one size, or 1 for all"
        )
    if weights is None:
        return fixed, moving, None
    if not bool((weights >= 0).all()):
        raise ConfigError(
            f"weights are NaN or go down to {float(weights.min()):.3g}; expected none below 0"
        )
    # A pixel that is left out may be NaN, which times 0 would still be NaN.
    fixed, moving = (torch.where(weights > 0, x, 0.0) for x in (fixed, moving))
    return fixed, moving, weights


def _batched(image: Numbers, name: str) -> Tensor:
    image = as_tensor(image, name)
    return image[(None,) * (4 - image.ndim)] if image.ndim in (2, 3) else image


def mean(image: Tensor, weights: Tensor | None) -> Tensor:
    """Weighted mean of each image, [batch, 1, 1, 1]."""
    if weights is None:
        return image.mean(dim=(1, 2, 3), keepdim=True)
    total = weights.sum(dim=(1, 2, 3), keepdim=True)
    return (image * weights).sum(dim=(1, 2, 3), keepdim=True) / total.clamp_min(1e-30)


def centred(image: Tensor, weights: Tensor | None) -> Tensor:
    return image - mean(image, weights)


def constant(image: Tensor, weights: Tensor | None, largest: Tensor | None = None) -> Tensor:
    """Whether only rounding is left once the mean is taken away, [batch].

    `largest` [batch] is the size of the numbers that the image was computed from; default its own.
    """
    image = image.detach()
    if weights is not None:
        image = torch.where(weights > 0, image, mean(image, weights))
    low, high = image.amin(dim=(1, 2, 3)), image.amax(dim=(1, 2, 3))
    if largest is None:
        largest = torch.maximum(low.abs(), high.abs())
    return high - low <= 16 * torch.finfo(image.dtype).eps * largest


def unlike(a: Tensor, b: Tensor, weights: Tensor | None, flat: Tensor) -> Tensor:
    """1 - cosine of the angle between two images, [batch]; 1 where `flat` or where one is zero."""
    if weights is not None:
        a, b = weights.sqrt() * a, weights.sqrt() * b
    return _HalfSquare.apply(*torch.broadcast_tensors(a, b), flat)


class _HalfSquare(torch.autograd.Function):
    """1 - cos(a, b) as |u - v|^2 / 2 for the unit images u = a / |a|, v = b / |b|.

    Near the optimum, 1 minus a sum of products loses every digit below the rounding of that sum:
    in float32 it is off by 1e-5 at 1024 x 1024, more than the threshold of a registration, and
    falls below 0. The difference of unit images has no such error, since wrong lengths |a|, |b|
    enter squared. Written out so that autograd keeps the two images and nothing else.
    """

    @staticmethod
    def forward(ctx, a, b, flat):
        length = [torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True) for x in (a, b)]
        flat = flat | ((length[0] <= 0) | (length[1] <= 0)).flatten()
        length = [torch.where(n > 0, n, 1.0) for n in length]
        ctx.save_for_backward(a, b, *length, flat)
        apart = torch.linalg.vector_norm(_difference(a, b, *length), dim=(1, 2, 3))
        return torch.where(flat, 1.0, (0.5 * apart.square()).clamp_max(2.0))

    @staticmethod
    @first_order
    def backward(ctx, slope):
        a, b, length_a, length_b, flat = ctx.saved_tensors
        slope = torch.where(flat, 0.0, slope)[:, None, None, None]
        pairs = ((a, b, length_a, length_b), (b, a, length_b, length_a))
        needed = zip(ctx.needs_input_grad, pairs, strict=False)
        return *(_slope(*pair, slope) if need else None for need, pair in needed), None


def _difference(a: Tensor, b: Tensor, length_a: Tensor, length_b: Tensor) -> Tensor:
    """a / |a| - b / |b|, in one new image."""
    return (a / length_a).addcdiv_(b, length_b, value=-1)


def _slope(a: Tensor, b: Tensor, length_a: Tensor, length_b: Tensor, scale: Tensor) -> Tensor:
    """Scaled derivative of the half square by a: u - v without its part along u, over |a|."""
    apart = _difference(a, b, length_a, length_b)
    along = torch.einsum("bchw,bchw->b", apart, a)[:, None, None, None] / length_a.square()
    return apart.addcmul_(along, a, value=-1).mul_(scale / length_a)
