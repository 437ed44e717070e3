"""What a detector makes of line integrals: scatter, blur, noise, metal, saturation."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.errors import ConfigError
from drrlib.geometry import CArm
from drrlib.lab.detector.materials import REFERENCE, Images, attenuation


def add_scatter(image: Images, ratio: float, sigma: float) -> Images:
    """A smooth background of scattered photons.

    S = c (P log(1 / P)) * Gaussian, with P the primary exp(-image): a photon that is scattered
    once on its way and not absorbed, spread over the detector (the model of Ohnesorge et al. 1999,
    doi:10.1007/s003300050710). c is such that S / P has the median `ratio` over the pixels that
    the object shades.

    Args:
        ratio: Scatter-to-primary ratio, at least 0.
        sigma: Width of the Gaussian in pixels, a large part of the detector.
    """
    if not ratio >= 0:
        raise ConfigError(f"the scatter-to-primary ratio is {ratio}; expected at least 0")
    primary = torch.exp(-image)
    spread = smooth(primary * image.clamp_min(0), sigma)
    local = torch.where(image > 0, spread / primary, torch.nan).flatten(1)
    median = torch.nan_to_num(local.nanmedian(dim=1).values)[:, None, None, None]
    return -(primary + ratio * spread / torch.where(median > 0, median, torch.inf)).log()


def blur(image: Images, sigma: float) -> Images:
    """Photons spread by a Gaussian [pixels], as in a scintillator; none is lost at the border.

    It acts on exp(-image), whose mean it keeps. For a width in mm, divide by `carm.delx`.
    """
    return -smooth(torch.exp(-image), sigma).log()


def quantum_noise(image: Images, photons: float, generator: torch.Generator) -> Images:
    """Poisson noise of a beam with so many photons per pixel where nothing attenuates.

    A pixel that no photon reaches counts as half a photon.

    Raises:
        ConfigError: photons not above 0.
    """
    if not photons > 0:
        raise ConfigError(f"photons is {photons}; expected a number above 0 per pixel")
    rate = photons * torch.exp(-image.detach())
    # Drawn on the CPU, so that a seed gives the same noise everywhere.
    count = torch.poisson(rate.double().cpu(), generator=generator).to(image)
    return -(count.clamp_min(0.5) / photons).log()


def instrument(
    carm: CArm,
    start: Float[Tensor, "b 2"],
    end: Float[Tensor, "b 2"],
    diameter: float,
    *,
    samples: int = 8,
) -> Images:
    """Line integrals of a round rod of steel, to be added to images.

    Args:
        carm: Gives the detector.
        start, end: Ends of the rod's axis as (x, y) on the detector [mm] from the outer corner of
            pixel (0, 0), x along the columns, y along the rows; both ends are rounded.
        diameter: Of the shadow [mm], which is also the thickness of the rod: rays count as
            parallel, and magnification is the caller's.
        samples: A pixel is the mean of samples x samples rays.

    Returns:
        mu of iron at 60 keV (0.949 / mm) times the way through the rod. float64.
    """
    if not diameter > 0 or samples < 1:
        raise ConfigError(
            f"got diameter {diameter} mm and {samples} samples; expected above 0, and at least 1"
        )
    x, y = (
        (torch.arange(n * samples, dtype=torch.float64) + 0.5) * float(size) / samples
        for n, size in ((carm.width, carm.delx), (carm.height, carm.dely))
    )
    point = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # [h, w, 2]
    start, end = (p.to("cpu", torch.float64)[:, None, None] for p in (start, end))
    axis = end - start
    square = axis.square().sum(dim=-1).clamp_min(1e-30)
    along = (((point - start) * axis).sum(dim=-1) / square).clamp(0, 1)
    away = (point - start - along[..., None] * axis).square().sum(dim=-1)
    way = 2 * (diameter**2 / 4 - away).clamp_min(0).sqrt()
    way = torch.nn.functional.avg_pool2d(way[:, None], samples)
    return way * float(attenuation("iron", [REFERENCE]))


def saturate(image: Images, bits: int = 12) -> Images:
    """What a detector of 2^bits steps can tell: at most -log(1 / 2^bits), behind metal."""
    if bits < 1:
        raise ConfigError(f"bits is {bits}; expected at least 1")
    return image.clamp_max(bits * math.log(2))


def join(image: Images, times: int) -> Float[Tensor, "b 1 rows columns"]:
    """times x times pixels joined into one, as intensities exp(-image) add up in a pixel.

    Raises:
        ConfigError: times does not divide height and width.
    """
    height, width = image.shape[-2:]
    if times < 1 or height % times or width % times:
        raise ConfigError(
            f"times is {times} for an image of {height} x {width}; expected a divisor of both"
        )
    if times == 1:
        return image
    return -torch.nn.functional.avg_pool2d(torch.exp(-image), times).log()


def smooth(image: Tensor, sigma: float) -> Tensor:
    """Gaussian of sigma pixels; the image goes on beyond its border as in a mirror."""
    if not sigma >= 0:
        raise ConfigError(f"sigma is {sigma}; expected a width >= 0 in pixels")
    if sigma == 0:
        return image
    down, across = (_mirror_gaussian(n, sigma).to(image) for n in image.shape[-2:])
    return down @ image @ across


def _mirror_gaussian(size: int, sigma: float) -> Tensor:
    """[size, size], symmetric, rows and columns with sum 1, so that it keeps the mean."""
    reach = math.ceil(5 * sigma / (2 * size)) + 1
    i = torch.arange(size, dtype=torch.float64)
    total = torch.zeros(size, size, dtype=torch.float64)
    for turn in range(-reach, reach + 1):
        for image_of in (2 * turn * size + i, 2 * turn * size - 1 - i):
            total += torch.exp(-0.5 * ((i[:, None] - image_of) / sigma).square())
    return total / total.sum(dim=1, keepdim=True)
