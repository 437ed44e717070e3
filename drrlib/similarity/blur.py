"""A Gaussian blur that is its own adjoint, so that its derivative is itself."""

import functools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.first_order import first_order
from drrlib.turns import turn

_REACH = 5.5  # standard deviations, beyond which a float32 sum feels nothing


def blur(image: Float[Tensor, "*n h w"], window: float) -> Float[Tensor, "*n h w"]:
    """By a Gaussian of so many pixels; nothing comes in from outside, so the edge loses.

    Gradients: image.
    """
    if image.device.type == "cpu" and image.dtype in (torch.float32, torch.float64):
        return _Blur.apply(image, window)
    height, width = image.shape[-2:]
    rows, columns = (_matrix(n, window).to(image) for n in (height, width))
    return rows @ image @ columns


class _Blur(torch.autograd.Function):
    """On the CPU, where products with dense matrices take five times as long at 440 pixels."""

    @staticmethod
    def forward(ctx, image, window):
        ctx.window = window
        ctx.save_for_backward(image)
        return _blurred(image, window)

    @staticmethod
    @first_order
    def backward(ctx, grad):
        return _blurred(grad, ctx.window), None


def _blurred(image: Tensor, window: float) -> Tensor:
    from drrlib.similarity import blur_kernel

    images = image.detach().reshape(-1, *image.shape[-2:]).contiguous()
    out = torch.empty_like(images)
    with turn(blur_kernel.blurred):
        blur_kernel.blurred(images.numpy(), _taps(window, image.dtype).numpy(), out.numpy())
    return out.reshape(image.shape)


@functools.lru_cache(maxsize=32)
def _taps(window: float, dtype: torch.dtype) -> Tensor:
    """The middle of the Gaussian and one of its halves."""
    return _gaussian(torch.arange(1 + math.ceil(_REACH * window)), window).to(dtype)


@functools.lru_cache(maxsize=32)
def _matrix(count: int, window: float) -> Float[Tensor, "count count"]:
    x = torch.arange(count)
    return _gaussian(x[:, None] - x, window)


def _gaussian(x: Tensor, window: float) -> Tensor:
    return torch.exp(-x.double().square() / (2 * window**2)) / (window * math.sqrt(2 * math.pi))
