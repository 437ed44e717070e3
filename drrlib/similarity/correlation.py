"""Correlations of a fixed and a moving image, and the losses made of them."""

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.arrays import Numbers
from drrlib.similarity.common import centred, check, constant, mean, unlike


def zncc(fixed: Numbers, moving: Numbers, weights: Numbers | None = None) -> Float[Tensor, " b"]:
    """Zero-normalised cross-correlation, in [-1, 1]; blind to scale and offset of the grey values.

    A likeness: the more the better. To be minimised there is `zncc_loss`.

    Args:
        fixed, moving: Images [b, 1, height, width]; a batch of one stands for all.
        weights: Non-negative weight of every pixel; 0 leaves it out, whatever is there.

    Returns:
        One value per image; 0, with zero gradient, where an image is constant.

    Gradients: fixed, moving; first derivatives.

    Raises:
        ShapeError: sizes differ.
        ConfigError: a negative weight.
    """
    return 1 - zncc_loss(fixed, moving, weights)


def ncc(fixed: Numbers, moving: Numbers, weights: Numbers | None = None) -> Float[Tensor, " b"]:
    """Normalised cross-correlation without removal of the mean: a likeness, as `zncc`.

    0, with zero gradient, where an image is zero everywhere.
    """
    return 1 - ncc_loss(fixed, moving, weights)


def zncc_loss(
    fixed: Numbers, moving: Numbers, weights: Numbers | None = None
) -> Float[Tensor, " b"]:
    """1 - `zncc`, with all its digits near 0."""
    fixed, moving, weights = check(fixed, moving, weights)
    flat = constant(fixed, weights) | constant(moving, weights)
    return unlike(centred(fixed, weights), centred(moving, weights), weights, flat)


def ncc_loss(
    fixed: Numbers, moving: Numbers, weights: Numbers | None = None
) -> Float[Tensor, " b"]:
    """1 - `ncc`, with all its digits near 0."""
    fixed, moving, weights = check(fixed, moving, weights)
    return unlike(fixed, moving, weights, torch.zeros((), dtype=torch.bool, device=moving.device))


def l2_loss(fixed: Numbers, moving: Numbers, weights: Numbers | None = None) -> Float[Tensor, " b"]:
    """Mean squared difference; arguments as `zncc`."""
    fixed, moving, weights = check(fixed, moving, weights)
    return mean((fixed - moving).square(), weights).flatten()
