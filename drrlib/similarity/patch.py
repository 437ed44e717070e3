"""Local normalised cross-correlation: every patch of an image has a scale and offset of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor

from drrlib.errors import ConfigError
from drrlib.similarity.common import centred, check, constant, mean, unlike

# Variance of a patch that counts half, as a part of the variance of the whole image. Grain of 2 %
# of the peak, in an image whose standard deviation is a third of it, has 0.4 %.
_FLOOR = 0.01


def patch_ncc_loss(
    fixed: Tensor, moving: Tensor, weights: Tensor | None = None, *, size: float = 0.25
) -> Tensor:
    """1 - mean ZNCC of square patches that overlap by about half.

    Each patch becomes u = (x - its mean) / sqrt(its variance + 0.01 x variance of the image), and
    the loss is half the mean square of u - v. Without the second term under the root this is
    1 - ZNCC of the patch; with it a patch without contrast adds nothing, neither a division by
    zero nor a gradient from its noise, and images that match still have loss 0.

    Args:
        fixed, moving, weights: As in `zncc`. A patch counts by the sum of its weights.
        size: Edge of a patch as a part of the image's height and width, at least 3 pixels; a part
            and not pixels, so that it means the same at every level of resolution.

    Returns:
        [b], in [0, 2]; blind to scale and offset of the grey values; 1, with zero gradient, where
        an image is constant.

    Gradients: fixed, moving.

    Raises:
        ShapeError, ConfigError: as in `zncc`; size not in (0, 1].

    Source:
        Patches in 2D/3D registration: Gopalakrishnan et al. 2024 (DiffPose, arXiv:2312.06358);
        the root's second term is ours, theirs is a constant.
    """
    fixed, moving, weights = check(fixed, moving, weights)
    return _patch_loss(fixed, moving, weights, size)


def multiscale_ncc_loss(
    fixed: Tensor,
    moving: Tensor,
    weights: Tensor | None = None,
    *,
    sizes: Sequence[float] = (0.25,),
) -> Tensor:
    """Mean of 1 - ZNCC of the whole image and of the patch losses of the given sizes.

    Arguments, result and errors as in `patch_ncc_loss`. With one size, in equal parts, it is the
    similarity of DiffPose (arXiv:2312.06358); xvr (Gopalakrishnan et al. 2025, arXiv:2503.16309)
    adds the correlation of gradients.
    """
    fixed, moving, weights = check(fixed, moving, weights)
    flat = constant(fixed, weights) | constant(moving, weights)
    whole = unlike(centred(fixed, weights), centred(moving, weights), weights, flat)
    parts = [_patch_loss(fixed, moving, weights, size) for size in sizes]
    return torch.stack([whole, *parts]).mean(dim=0)


def _patch_loss(fixed: Tensor, moving: Tensor, weights: Tensor | None, size: float) -> Tensor:
    if not 0 < size <= 1:
        raise ConfigError(f"the size of patches is {size}; expected a part of the image, in (0, 1]")
    flat = constant(fixed, weights) | constant(moving, weights)
    share = None if weights is None else _patches(weights, size)  # [b, patch, pixel]
    u, v = (_unit(x, weights, share, size) for x in (fixed, moving))
    apart = (u - v).square()
    if share is None:
        loss = 0.5 * apart.mean(dim=(1, 2))
    else:
        total = share.sum(dim=(1, 2)).clamp_min(1e-30)
        loss = 0.5 * (share * apart).sum(dim=(1, 2)) / total
    return torch.where(flat, 1.0, loss)


def _unit(image: Tensor, weights: Tensor | None, share: Tensor | None, size: float) -> Tensor:
    """Patches [b, patch, pixel] without their mean, over their regularised deviation."""
    whole = mean(centred(image, weights).square(), weights)[:, 0]  # [b, 1, 1]
    # A constant image has none; its loss is set by the caller.
    floor = torch.where(constant(image, weights)[:, None, None], 1.0, _FLOOR * whole)
    x = _patches(image, size)
    x = x - _mean(x, share)
    return x / (_mean(x.square(), share) + floor).sqrt()


def _mean(patches: Tensor, share: Tensor | None) -> Tensor:
    if share is None:
        return patches.mean(dim=-1, keepdim=True)
    total = share.sum(dim=-1, keepdim=True)
    return (share * patches).sum(dim=-1, keepdim=True) / torch.where(total > 0, total, 1.0)


def _patches(image: Tensor, size: float) -> Tensor:
    """[b, 1, height, width] as [b, patch, pixel]."""
    (height, down), (width, across) = (_tiling(n, size) for n in image.shape[-2:])
    x = image[:, 0].unfold(1, height, down).unfold(2, width, across)
    return x.flatten(3).flatten(1, 2)


def _tiling(pixels: int, size: float) -> tuple[int, int]:
    """Edge and distance of patches along one axis, such that they cover it to its last pixel.

    The edge is as near as possible to size x pixels, the distance to half of it.
    """
    wanted = min(max(3, round(size * pixels)), pixels)
    choices = []
    for step in range(1, wanted + 1):
        edge = pixels - round((pixels - wanted) / step) * step
        if edge >= max(step, min(3, pixels)):
            choices.append((abs(edge - wanted) + abs(step - wanted / 2), edge, step))
    return min(choices)[1:]
