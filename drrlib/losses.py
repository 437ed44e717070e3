"""Similarity of a fixed and a moving image, and the losses made of it."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from drrlib.errors import ConfigError, ShapeError

Images = Float[Tensor, "#b 1 height width"]


def zncc(fixed: Images, moving: Images, weights: Images | None = None) -> Float[Tensor, " b"]:
    """Zero-normalised cross-correlation, in [-1, 1]; blind to scale and offset of the grey values.

    Args:
        fixed, moving: Images; a batch of one stands for all.
        weights: Non-negative weight of every pixel; 0 leaves it out, whatever is there.

    Returns:
        One value per image; 0, with zero gradient, where an image is constant.

    Gradients: fixed, moving; first derivatives.

    Raises:
        ShapeError: sizes differ.
        ConfigError: a negative weight.
    """
    return 1 - _zncc_loss(fixed, moving, weights)


def ncc(fixed: Images, moving: Images, weights: Images | None = None) -> Float[Tensor, " b"]:
    """Normalised cross-correlation without removal of the mean; arguments as `zncc`.

    0, with zero gradient, where an image is zero everywhere.
    """
    return 1 - _ncc_loss(fixed, moving, weights)


def l2(fixed: Images, moving: Images, weights: Images | None = None) -> Float[Tensor, " b"]:
    """Mean squared difference; arguments as `zncc`."""
    fixed, moving, weights = _check(fixed, moving, weights)
    return _mean((fixed - moving).square(), weights).flatten()


def _zncc_loss(fixed: Tensor, moving: Tensor, weights: Tensor | None = None) -> Tensor:
    fixed, moving, weights = _check(fixed, moving, weights)
    flat = _constant(fixed, weights) | _constant(moving, weights)
    return _unlike(_centred(fixed, weights), _centred(moving, weights), weights, flat)


def _ncc_loss(fixed: Tensor, moving: Tensor, weights: Tensor | None = None) -> Tensor:
    fixed, moving, weights = _check(fixed, moving, weights)
    return _unlike(fixed, moving, weights, torch.zeros((), dtype=torch.bool, device=moving.device))


# Losses are at least 0, and 0 where the images match.
LOSSES: Mapping[str, Callable] = MappingProxyType({"zncc": _zncc_loss, "ncc": _ncc_loss, "l2": l2})


def get_loss(loss: str | Callable) -> Callable:
    """The loss of that name, or the given function (fixed, moving) -> [batch] itself.

    Raises:
        ConfigError: an unknown name.
    """
    if callable(loss):
        return loss
    if not isinstance(loss, str) or loss not in LOSSES:
        raise ConfigError(f"loss is {loss!r}; choose one of {', '.join(LOSSES)} or pass a function")
    return LOSSES[loss]


def _check(fixed: Tensor, moving: Tensor, weights: Tensor | None):
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


def _mean(image: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return image.mean(dim=(1, 2, 3), keepdim=True)
    total = weights.sum(dim=(1, 2, 3), keepdim=True)
    return (image * weights).sum(dim=(1, 2, 3), keepdim=True) / total.clamp_min(1e-30)


def _centred(image: Tensor, weights: Tensor | None) -> Tensor:
    return image - _mean(image, weights)


def _constant(image: Tensor, weights: Tensor | None) -> Tensor:
    """Whether only rounding is left once the mean is taken away, [batch]."""
    image = image.detach()
    if weights is not None:
        image = torch.where(weights > 0, image, _mean(image, weights))
    low, high = image.amin(dim=(1, 2, 3)), image.amax(dim=(1, 2, 3))
    largest = torch.maximum(low.abs(), high.abs())
    return high - low <= 16 * torch.finfo(image.dtype).eps * largest


def _unlike(a: Tensor, b: Tensor, weights: Tensor | None, flat: Tensor) -> Tensor:
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
    @once_differentiable
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
