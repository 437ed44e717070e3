"""Local normalisation: each pixel against the mean and the deviation of what lies around it.

What a picture made for humans does to grey values (a curve, an inverted scale, equalisation), and
what scatter, an uneven beam or a body that goes on adds to them, hardly changes from one pixel to
its neighbours. Edges of bone do. So an image whose windows all have mean 0 and deviation 1 shows
the same whether it was a DRR or a radiograph. The windows are Gaussian and count pixels by their
weights, so that nothing behind a mask reaches into what is compared.

Source: normalised convolution, Knutsson and Westin 1993, doi:10.1109/CVPR.1993.341081.
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from drrlib.similarity.blur import blur

# A window's variance is taken as this part of the image's mean one at least: what is flatter shows
# noise alone.
_FLAT = 0.1


class Normalised(NamedTuple):
    """A locally normalised image, and what its derivative needs.

    Attributes:
        value: [m, h, w].
        deviation: Of each window [m, h, w].
        weights: Of each pixel [m, h, w].
        share: One over the weight in each window [m, h, w].
        window: Standard deviation of the Gaussian [pixels].
    """

    value: Float[Tensor, "m h w"]
    deviation: Float[Tensor, "m h w"]
    weights: Float[Tensor, "m h w"]
    share: Float[Tensor, "m h w"]
    window: float

    def slope(self, jacobian: Float[Tensor, "m n h w"]) -> Float[Tensor, "m n h w"]:
        """Derivatives of `value`, from those of the image; the least variance taken as fixed."""
        value, deviation, w, share = (x[:, None] for x in self[:4])
        apart = jacobian - share * blur(w * jacobian, self.window)
        spread = share * blur(w * (value * deviation) * apart, self.window)  # half that of variance
        return (apart - value * spread / deviation) / deviation


def normalise(
    image: Float[Tensor, "m h w"], weights: Float[Tensor, "m h w"], window: float
) -> Normalised:
    """The image less the mean of each window, over the window's deviation.

    Args:
        image: Any values; where the weight is 0 they do not count.
        weights: Non-negative; where a window has none, the result is about 0.
        window: Standard deviation of the Gaussian [pixels].

    Gradients: image.
    """
    share = 1 / blur(weights, window).clamp_min(1e-3)
    apart = image - share * blur(weights * image, window)
    variance = (share * blur(weights * apart.square(), window)).clamp_min(0)
    total = weights.sum(dim=(1, 2), keepdim=True).clamp_min(1e-3)
    least = (weights * variance).sum(dim=(1, 2), keepdim=True).detach() / total
    deviation = (variance + _FLAT * least + 1e-8).sqrt()
    return Normalised(apart / deviation, deviation, weights, share, window)
