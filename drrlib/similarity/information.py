"""Mutual information: how well one image's grey values tell the other's, whatever the map."""

import torch
from torch import Tensor

from drrlib.errors import ConfigError
from drrlib.first_order import first_order
from drrlib.similarity.common import check, constant

_CHUNK = 1 << 19  # entries of the largest table of windows [image, pixel, bin]; fits a cache


def mutual_information_loss(
    fixed: Tensor, moving: Tensor, weights: Tensor | None = None, *, bins: int | None = None
) -> Tensor:
    """1 - normalised mutual information 2 I(f, m) / (I(f, f) + I(m, m)).

    I is the mutual information of a joint histogram of `bins` x `bins` over the range of each
    image. A pixel is spread over four bins by a cubic B-spline in both images (Mattes et al. use
    the spline for the moving one only), which makes it differentiable. I(f, f) is that of an image
    with itself, spread likewise: it stands where entropies stand in other normalisations, so that
    equal images have loss 0 although the spread blurs their histogram.

    Args:
        fixed, moving, weights: As in `zncc`.
        bins: At least 5; default half the root of the number of pixels, that is four pixels for
            each cell of the joint histogram, between 8 and 32.

    Returns:
        [b], in [0, 1]. Blind to scale, sign and offset of the grey values, and nearly so to any
        invertible map of them, as far as it leaves them in bins of their own. 1, with zero
        gradient, where an image is constant. That no value is below 0 is not a theorem: a search
        over images found -1e-6 at the lowest, which is cut off.

    Gradients: fixed, moving; first derivatives, the range included.

    Memory: images, histograms and some 2^21 numbers, whatever the number of pixels.

    Raises:
        ShapeError, ConfigError: as in `zncc`; fewer than 5 bins.

    Source:
        Viola and Wells 1997, doi:10.1023/A:1007958904918; Mattes et al. 2003,
        doi:10.1109/TMI.2003.809072.
    """
    fixed, moving, weights = check(fixed, moving, weights)
    if bins is None:
        bins = min(max(round(0.5 * moving[0].numel() ** 0.5), 8), 32)
    if bins < 5:
        raise ConfigError(f"bins is {bins}; mutual information needs at least 5")
    flat = constant(fixed, weights) | constant(moving, weights)
    places = [_place(x, weights, bins) for x in (fixed, moving)]
    share = torch.ones_like(moving[:1]) if weights is None else weights
    share = (share / share.sum(dim=(1, 2, 3), keepdim=True).clamp_min(1e-30)).flatten(1)
    both, own_fixed, own_moving = map(_information, _Joint.apply(*places, share, bins))
    own = own_fixed + own_moving
    loss = 1 - 2 * both / torch.where(flat, 1.0, own)
    return torch.where(flat, 1.0, loss.clamp(0, 1)).to(moving.dtype)


def _place(image: Tensor, weights: Tensor | None, bins: int) -> Tensor:
    """Grey values [b, pixel] on the axis of bins, from 1 to bins - 2."""
    low, high = image, image
    if weights is not None:
        low, high = (torch.where(weights > 0, image, x) for x in (torch.inf, -torch.inf))
    low, high = low.amin(dim=(1, 2, 3)), high.amax(dim=(1, 2, 3))
    flat = constant(image, weights)
    low = torch.where(flat, 0.0, low)[:, None, None, None]
    span = torch.where(flat, 1.0, high - low.flatten())[:, None, None, None]
    place = (1 + (image - low) / span * (bins - 3)).flatten(1)
    # Constant images and pixels left out lie anywhere; their bin must exist.
    return place.clamp(1, bins - 2)


def _information(joint: Tensor) -> Tensor:
    """Mutual information [b] of joint distributions [b, k, l], in nats."""
    apart = joint.sum(dim=2, keepdim=True) * joint.sum(dim=1, keepdim=True)
    # The slope of p log p at p = 0 is infinite; no pixel reaches a cell that is empty.
    ratio = torch.where(joint > 0, joint, 1.0) / torch.where(joint > 0, apart, 1.0)
    return (joint * ratio.log()).sum(dim=(1, 2))


class _Joint(torch.autograd.Function):
    """Joint distributions (fixed, moving), (fixed, fixed), (moving, moving), each [b, k, k].

    Written out so that windows [b, pixel, k] exist for a chunk of pixels only, forward and
    backward, and summed in float64 over the chunks.
    """

    @staticmethod
    def forward(ctx, fixed, moving, share, bins):
        ctx.save_for_backward(fixed, moving, share)
        ctx.bins = bins
        sums = [0.0, 0.0, 0.0]
        for part in _chunks(fixed, moving, bins):
            f, m = (_table(x[:, part], bins)[0] for x in (fixed, moving))
            w = share[:, part, None]
            for i, (a, b) in enumerate(((f, m), (f, f), (m, m))):
                sums[i] = sums[i] + ((w * a).mT @ b).double()
        return tuple(sums)

    @staticmethod
    @first_order
    def backward(ctx, of_both, of_fixed, of_moving):
        fixed, moving, share = ctx.saved_tensors
        of_both, of_fixed, of_moving = (x.to(moving) for x in (of_both, of_fixed, of_moving))
        of_fixed, of_moving = of_fixed + of_fixed.mT, of_moving + of_moving.mT
        slopes = [torch.zeros_like(x) for x in (fixed, moving)]
        for part in _chunks(fixed, moving, ctx.bins):
            (f, *at_f), (m, *at_m) = (_table(x[:, part], ctx.bins) for x in (fixed, moving))
            pulls = (m @ of_both.mT, f @ of_fixed, at_f), (f @ of_both, m @ of_moving, at_m)
            for i, (other, own, (near, t)) in enumerate(pulls):
                if not ctx.needs_input_grad[i]:
                    continue
                # An image that stands for all collects the slopes of all.
                for pull in (other, own):
                    shape = (len(pull), *near.shape[1:])
                    taken = pull.gather(2, near.expand(shape)) * _rise(t)
                    slope = share[:, part] * taken.sum(dim=2)
                    slopes[i][:, part] += slope.sum_to_size(slopes[i][:, part].shape)
        return slopes[0], slopes[1], None, None


def _chunks(fixed: Tensor, moving: Tensor, bins: int):
    """Slices of pixels whose windows have at most `_CHUNK` entries."""
    size = max(1, _CHUNK // (max(len(fixed), len(moving)) * bins))
    return [slice(i, i + size) for i in range(0, moving.shape[1], size)]


def _table(place: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Windows [b, pixel, bins]; the four bins of each pixel, and how far it is past the second."""
    first = place.floor().clamp(max=bins - 3)
    t = (place - first)[..., None]
    s = 1 - t
    # Cubic B-splines at the distances 1 + t, t, 1 - t and 2 - t. Products: powers are slow.
    t2, s2 = t * t, s * s
    near, far = 2 / 3 + t2 * (0.5 * t - 1), 2 / 3 + s2 * (0.5 * s - 1)
    window = torch.cat([s2 * s / 6, near, far, t2 * t / 6], dim=-1)
    index = first.long()[..., None] + torch.arange(-1, 3, device=place.device)
    table = place.new_zeros(*place.shape, bins).scatter_(2, index, window)
    return table, index, t


def _rise(t: Tensor) -> Tensor:
    """Derivatives [b, pixel, 4] of the four windows by the place of the pixel."""
    s = 1 - t
    return torch.cat([-0.5 * s * s, t * (1.5 * t - 2), s * (2 - 1.5 * s), 0.5 * t * t], dim=-1)
