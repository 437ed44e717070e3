"""Gradient correlation: the edges of two images compared."""

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from drrlib.errors import ShapeError
from drrlib.similarity.common import centred, check, constant, unlike


def gradient_ncc_loss(fixed: Tensor, moving: Tensor, weights: Tensor | None = None) -> Tensor:
    """1 - gradient correlation: the mean of the ZNCC of horizontal and vertical derivatives.

    Blind to scale and offset of the grey values; edges count, slow changes such as scatter hardly
    do. Derivatives are Sobel's, at inner pixels only.

    Args:
        fixed, moving: Images [b, 1, height, width] of at least 3 x 3 pixels; a batch of one
            stands for all.
        weights: As in `zncc`. A derivative has the smallest weight of its 3 x 3 pixels, so none
            sees a pixel that is left out.

    Returns:
        [b], in [0, 2]. A direction in which neither image changes does not count; where one image
        is constant the loss is 1, with zero gradient.

    Gradients: fixed, moving; first derivatives.

    Raises:
        ShapeError, ConfigError: as in `zncc`, or images smaller than 3 x 3.

    Source:
        Penney et al. 1998, doi:10.1109/42.730403.
    """
    fixed, moving, weights = check(fixed, moving, weights)
    if min(moving.shape[-2:]) < 3:
        raise ShapeError(
            f"images have {tuple(moving.shape[-2:])} pixels; gradient_ncc needs at least 3 x 3"
        )
    if weights is not None:
        weights = -max_pool2d(-weights, 3, stride=1)
    # The weights are already in the images as zeros, and rounding is of the size of what is left.
    largest = [x.detach().abs().amax(dim=(1, 2, 3)) for x in (fixed, moving)]
    total, counted = 0.0, 0
    for turn in (False, True):
        a, b = (_slope(x, turn) for x in (fixed, moving))
        flat_a, flat_b = (constant(x, weights, m) for x, m in zip((a, b), largest, strict=True))
        loss = unlike(centred(a, weights), centred(b, weights), weights, flat_a | flat_b)
        either = ~(flat_a & flat_b)
        total, counted = total + torch.where(either, loss, 0.0), counted + either.to(loss)
    return torch.where(counted > 0, total / counted.clamp_min(1), 1.0)


def _slope(image: Tensor, turn: bool) -> Tensor:
    """Sobel's derivative per pixel along the rows, or with `turn` along the columns."""
    x = image.mT if turn else image
    x = x[..., 2:] - x[..., :-2]
    x = (x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]) / 8
    return x.mT if turn else x
