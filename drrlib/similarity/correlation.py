"""Similarity of a fixed and a moving image, and the losses made of it."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.errors import ConfigError
from drrlib.similarity.common import centred, check, constant, mean, unlike
from drrlib.similarity.gradient import gradient_ncc_loss
from drrlib.similarity.information import mutual_information_loss
from drrlib.similarity.patch import multiscale_ncc_loss, patch_ncc_loss

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
    fixed, moving, weights = check(fixed, moving, weights)
    return mean((fixed - moving).square(), weights).flatten()


def _zncc_loss(fixed: Tensor, moving: Tensor, weights: Tensor | None = None) -> Tensor:
    fixed, moving, weights = check(fixed, moving, weights)
    flat = constant(fixed, weights) | constant(moving, weights)
    return unlike(centred(fixed, weights), centred(moving, weights), weights, flat)


def _ncc_loss(fixed: Tensor, moving: Tensor, weights: Tensor | None = None) -> Tensor:
    fixed, moving, weights = check(fixed, moving, weights)
    return unlike(fixed, moving, weights, torch.zeros((), dtype=torch.bool, device=moving.device))


# Losses are at least 0, and 0 where the images match.
LOSSES: Mapping[str, Callable] = MappingProxyType(
    {
        "zncc": _zncc_loss,
        "ncc": _ncc_loss,
        "l2": l2,
        "gradient_ncc": gradient_ncc_loss,
        "patch_ncc": patch_ncc_loss,
        "multiscale_ncc": multiscale_ncc_loss,
        "mutual_information": mutual_information_loss,
    }
)


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
