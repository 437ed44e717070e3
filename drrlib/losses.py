"""Similarity of a fixed and a moving image, and the losses made of it."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.errors import ConfigError, ShapeError

Images = Float[Tensor, "#b 1 height width"]


def zncc(fixed: Images, moving: Images, weights: Images | None = None) -> Float[Tensor, " b"]:
    """Zero-normalised cross-correlation, in [-1, 1]; blind to scale and offset of the grey values.

    Args:
        fixed, moving: Images; a batch of one stands for all.
        weights: Non-negative weight of every pixel; 0 leaves it out.

    Returns:
        One value per image; 0, with zero gradient, where an image is constant.

    Raises:
        ShapeError: sizes differ.
    """
    fixed, moving, weights = _check(fixed, moving, weights)
    value = _cosine(_centred(fixed, weights), _centred(moving, weights), weights)
    flat = _constant(fixed, weights) | _constant(moving, weights)
    return torch.where(flat, 0.0, value)


def ncc(fixed: Images, moving: Images, weights: Images | None = None) -> Float[Tensor, " b"]:
    """Normalised cross-correlation without removal of the mean; arguments as `zncc`."""
    return _cosine(*_check(fixed, moving, weights))


def l2(fixed: Images, moving: Images, weights: Images | None = None) -> Float[Tensor, " b"]:
    """Mean squared difference; arguments as `zncc`."""
    fixed, moving, weights = _check(fixed, moving, weights)
    return _mean((fixed - moving).square(), weights).flatten()


# Losses are at least 0, and 0 where the images match.
LOSSES: dict[str, Callable] = {
    "zncc": lambda fixed, moving, weights=None: 1 - zncc(fixed, moving, weights),
    "ncc": lambda fixed, moving, weights=None: 1 - ncc(fixed, moving, weights),
    "l2": l2,
}


def get_loss(loss: str | Callable) -> Callable:
    """The loss of that name, or the given function (fixed, moving) -> [batch] itself.

    Raises:
        ConfigError: an unknown name.
    """
    if callable(loss):
        return loss
    if loss not in LOSSES:
        raise ConfigError(f"loss is {loss!r}; choose one of {', '.join(LOSSES)} or pass a function")
    return LOSSES[loss]


def _check(fixed: Tensor, moving: Tensor, weights: Tensor | None):
    for name, image in (("fixed", fixed), ("moving", moving), ("weights", weights)):
        if image is not None and (image.ndim != 4 or image.shape[1:] != moving.shape[1:]):
            raise ShapeError(
                f"{name} has shape {tuple(image.shape)}, moving {tuple(moving.shape)}; expected "
                "[batch, 1, height, width] of one size"
            )
        if image is not None and len(image) not in (1, len(moving), len(fixed)):
            raise ShapeError(f"{name} has a batch of {len(image)}; expected 1 or {len(moving)}")
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


def _cosine(a: Tensor, b: Tensor, weights: Tensor | None) -> Tensor:
    """Sums of products without an image of products, which autograd would keep."""
    if weights is not None:
        a, b = weights.sqrt() * a, weights.sqrt() * b
    norms = [torch.linalg.vector_norm(x, dim=(1, 2, 3)) for x in (a, b)]
    product = torch.einsum("bchw,bchw->b", *torch.broadcast_tensors(a, b))
    flat = (norms[0] <= 0) | (norms[1] <= 0)
    return torch.where(flat, 0.0, product / torch.where(flat, 1.0, norms[0] * norms[1]))
