"""What the clinic does to an image before a person looks at it, and what lies in its way.

Images go in as line integrals and come out of `present` and `equalise` as values 0 to 4095, dense
is bright.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.errors import ConfigError
from drrlib.geometry import CArm
from drrlib.lab.detector.materials import Images
from drrlib.lab.detector.physics import instrument, smooth

WHITE = 4095.0  # largest of 12 bits
_BANDS = ((3.0, 1.0), (12.0, 0.7))  # width [mm] of a band of detail, and how much of it is added
_RANGE = (0.01, 0.995)  # quantiles that the curve spans
_STEEP = 5.0


def present(image: Images, pixel: float, strength: float = 1.0) -> Images:
    """An image processed for presentation: details raised in two bands, then a sigmoid curve.

    Bands of detail as in multi-scale contrast amplification (Vuylsteke and Schoeters 1994, Proc.
    SPIE 2167, 551), here two of them, of 3 and 12 mm; the curve is the SIGMOID of DICOM's VOI LUT
    functions (PS3.3 C.11.2.1.3.1).

    Args:
        image: Line integrals.
        pixel: Their pitch [mm].
        strength: Of the details that are added; 0 for the curve alone.

    Returns:
        Values 0 to 4095, whole numbers.
    """
    if not pixel > 0 or not strength >= 0:
        raise ConfigError(
            f"got pixels of {pixel} mm and strength {strength}; expected above 0, and at least 0"
        )
    raised = image
    for width, share in _BANDS:
        raised = raised + strength * share * (image - smooth(image, width / pixel))
    low, high = (_quantile(raised, q) for q in _RANGE)
    span = (high - low).clamp_min(1e-12)
    return _to_bits(torch.sigmoid(_STEEP * ((raised - low) / span - 0.5)))


def equalise(image: Images, limit: float = 3.0) -> Images:
    """Contrast-limited histogram equalisation of the whole image.

    The curve is the cumulative histogram, whose 256 bins are cut at `limit` times an even share and
    the rest spread evenly, so that noise in the open field is not blown up (Pizer et al. 1987,
    doi:10.1016/S0734-189X(87)80186-X).

    Returns:
        Values 0 to 4095, whole numbers.

    Raises:
        ConfigError: a limit below 1.
    """
    if not limit >= 1:
        raise ConfigError(f"limit is {limit}; expected at least 1, an even share of a bin")
    shown = []
    for one in image.detach().double().cpu():
        low, high = one.min(), one.max()
        place = 256 * (one - low) / (high - low).clamp_min(1e-12)
        counts = torch.histc(place, 256, 0, 256)
        most = limit * one.numel() / 256
        cut = counts.clamp_max(most)
        curve = torch.cumsum(cut + (counts.sum() - cut.sum()) / 256, 0)
        curve = torch.cat([curve.new_zeros(1), curve])
        lower = place.long().clamp_max(255)
        shown.append(torch.lerp(curve[lower], curve[lower + 1], place - lower))
    return _to_bits(torch.stack(shown)).to(image)


def collimate(image: Images, dice: torch.Generator) -> Images:
    """A presented image behind a round field, or behind four blades; black or white beyond."""
    height, width = image.shape[-2:]
    draw = torch.rand(6, generator=dice, dtype=torch.float64).tolist()
    rows = torch.arange(height, dtype=torch.float64)[:, None] + 0.5
    columns = torch.arange(width, dtype=torch.float64) + 0.5
    if draw[0] < 0.5:
        radius = 0.46 * min(height, width)
        seen = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < radius**2
    else:
        top, bottom, left, right = (0.03 + 0.11 * x for x in draw[1:5])
        seen = (rows > top * height) & (rows < (1 - bottom) * height)
        seen = seen & (columns > left * width) & (columns < (1 - right) * width)
    return torch.where(seen.to(image.device), image, 0.0 if draw[5] < 0.7 else WHITE)


def write_letters(image: Images, dice: torch.Generator, text: str = "R 12:04") -> Images:
    """A presented image with white letters burned in, a twelfth of its height, near a corner."""
    from PIL import Image, ImageDraw, ImageFont

    height, width = image.shape[-2:]
    size = max(7, height // 12)
    font = ImageFont.load_default(size=size)
    draw = torch.rand(2, generator=dice, dtype=torch.float64).tolist()
    right = font.getlength(text) + 0.04 * width
    place = (0.03 * width if draw[0] < 0.5 else width - right, 0.03 * height)
    if draw[1] < 0.5:
        place = (place[0], 0.97 * height - 1.3 * size)
    page = Image.new("L", (width, height))
    ImageDraw.Draw(page).text(place, text, fill=255, font=font)
    ink = torch.tensor(list(page.tobytes()), dtype=torch.float64).reshape(height, width) > 127
    return torch.where(ink.to(image.device), WHITE, image)


def wire(carm: CArm, dice: torch.Generator, diameter: float) -> Float[Tensor, "1 1 height width"]:
    """Line integrals of a bent steel wire (`instrument`) across the detector, to be added.

    Its axis is a quadratic Bezier curve between three random points, in 16 straight pieces.
    """
    size = torch.tensor(
        [carm.width * float(carm.delx), carm.height * float(carm.dely)], dtype=torch.float64
    )
    a, b, c = size * (0.05 + 0.9 * torch.rand(3, 2, generator=dice, dtype=torch.float64))
    t = torch.linspace(0, 1, 17, dtype=torch.float64)[:, None]
    path = (1 - t).square() * a + 2 * t * (1 - t) * b + t.square() * c
    pieces = instrument(carm, path[:-1], path[1:], diameter, samples=4)
    return pieces.amax(dim=0, keepdim=True)


def screw(carm: CArm, dice: torch.Generator, diameter: float) -> Float[Tensor, "1 1 height width"]:
    """Line integrals of a steel pin, five times as long as wide, near the middle, to be added."""
    size = torch.tensor(
        [carm.width * float(carm.delx), carm.height * float(carm.dely)], dtype=torch.float64
    )
    draw = torch.rand(3, generator=dice, dtype=torch.float64)
    middle, turn = size * (0.25 + 0.5 * draw[:2]), 2 * torch.pi * draw[2]
    half = 2.5 * diameter * torch.stack([turn.cos(), turn.sin()])
    return instrument(carm, (middle - half)[None], (middle + half)[None], diameter)


def _quantile(image: Tensor, q: float) -> Tensor:
    return image.flatten(1).double().quantile(q, dim=1).to(image)[:, None, None, None]


def _to_bits(image: Tensor) -> Tensor:
    low, high = (_quantile(image, q) for q in (0.0, 1.0))
    return torch.round(WHITE * (image - low) / (high - low).clamp_min(1e-12))
