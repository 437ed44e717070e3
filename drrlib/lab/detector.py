"""What a detector makes of line integrals: spectrum, scatter, blur, noise, metal, saturation.

For tests and studies: simple models that keep what matters to a similarity measure. Images are
line integrals -log(I / I0), [batch, 1, height, width], and functions may be chained in the order
of physics: `polychromatic`, `instrument` (added), `add_scatter`, `blur`, `quantum_noise`,
`saturate`.
"""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.drr import DRR
from drrlib.errors import ConfigError
from drrlib.geometry import CArm
from drrlib.volume import MU_WATER

Images = Float[Tensor, "b 1 height width"]

# Mass attenuation with coherent scattering [cm2/g] at _NODES [keV], and density [g/cm3].
# Source: Hubbell and Seltzer, NISTIR 5632, doi:10.18434/T4D01F: water (liquid), bone (cortical,
# ICRU 44), aluminium, iron.
_NODES = (30.0, 40.0, 50.0, 60.0, 80.0, 100.0, 150.0)
_MATERIALS = {
    "water": (1.0, (0.3756, 0.2683, 0.2269, 0.2059, 0.1837, 0.1707, 0.1505)),
    "bone": (1.92, (1.331, 0.6655, 0.4242, 0.3148, 0.2229, 0.1855, 0.1480)),
    "aluminium": (2.699, (1.128, 0.5685, 0.3681, 0.2778, 0.2018, 0.1704, 0.1378)),
    "iron": (7.874, (8.176, 3.629, 1.958, 1.205, 0.5952, 0.3717, 0.1964)),
}
_REFERENCE = 60.0  # keV at which volumes hold their attenuation


def attenuation(material: str, energies: Sequence[float]) -> Float[Tensor, " k"]:
    """Linear attenuation [1/mm] of water, bone, aluminium or iron at energies [keV].

    Interpolated in the logarithms of both between the seven tabulated energies.

    Raises:
        ConfigError: another material, or an energy outside of 30 to 150 keV.
    """
    if material not in _MATERIALS:
        raise ConfigError(f"material is {material!r}; choose one of {', '.join(_MATERIALS)}")
    energies = torch.tensor(energies, dtype=torch.float64)
    if not bool(((energies >= _NODES[0]) & (energies <= _NODES[-1])).all()):
        raise ConfigError(f"energies are {energies.tolist()}; the tables reach from 30 to 150 keV")
    density, values = _MATERIALS[material]
    x = torch.tensor(_NODES, dtype=torch.float64).log()
    y = (0.1 * density * torch.tensor(values, dtype=torch.float64)).log()
    place = energies.log()
    upper = torch.searchsorted(x, place).clamp(1, len(_NODES) - 1)
    part = (place - x[upper - 1]) / (x[upper] - x[upper - 1])
    return torch.lerp(y[upper - 1], y[upper], part).exp()


@dataclass(frozen=True)
class Spectrum:
    """What an open beam leaves in the detector at each energy.

    Args:
        energies: keV, within 30 to 150.
        weights: Signal of each energy; only their ratio counts.

    Raises:
        ConfigError: lengths differ, a negative weight, or none above 0.
    """

    energies: tuple[float, ...]
    weights: tuple[float, ...]

    def __post_init__(self):
        fits = len(self.energies) == len(self.weights)
        if not fits or min(self.weights, default=0) < 0 or not sum(self.weights) > 0:
            raise ConfigError(
                f"a spectrum of {len(self.energies)} energies has weights {self.weights}; expected "
                "one weight >= 0 for each, not all 0"
            )

    @classmethod
    def kramers(cls, kvp: float = 120.0, aluminium: float = 3.0) -> "Spectrum":
        """Tube at `kvp` [kV] behind a filter [mm], seen by a detector that sums energies.

        N(E) ~ (kvp / E - 1) photons (Kramers 1923, doi:10.1080/14786442308565244, without
        characteristic lines), weakened by exp(-mu t) of the filter, each counting with its energy
        E; summed at 30 to 120 keV in steps of 10 by the trapezoidal rule. Below 30 keV a filter
        and the patient leave next to nothing.

        Raises:
            ConfigError: kvp not above 30 and up to 120; a filter below 0.
        """
        if not 30 < kvp <= 120 or not aluminium >= 0:
            raise ConfigError(
                f"got {kvp} kV and {aluminium} mm of aluminium; expected above 30 and up to 120 "
                "kV, and at least 0 mm"
            )
        energies = torch.arange(30.0, kvp + 1e-9, 10.0, dtype=torch.float64)
        mu = attenuation("aluminium", energies.tolist())
        signal = (kvp - energies) * torch.exp(-aluminium * mu)
        signal[0] *= 0.5  # at the other end there is nothing, but for the last fraction of a step
        return cls(tuple(energies.tolist()), tuple(signal.tolist()))


def two_materials(drr: DRR, low_hu: float = 150.0, high_hu: float = 600.0) -> tuple[DRR, DRR]:
    """Renderers of the soft and of the bony part of a volume; their images add up to the DRR.

    A voxel is bone by the part s = 3 t^2 - 2 t^3, t = (HU - low) / (high - low) cut to [0, 1], so
    that no edge appears where bone and soft tissue share a voxel. Soft parts attenuate like water
    of another density, bony ones like cortical bone. The volume must hold attenuation at 60 keV, as
    `Volume.from_hu` gives it by default.

    Raises:
        ConfigError: not low_hu < high_hu.
    """
    if not low_hu < high_hu:
        raise ConfigError(f"got {low_hu} to {high_hu} HU; expected low_hu < high_hu")
    mu = drr.grid.mu
    hu = 1000 * (mu / MU_WATER - 1)
    t = ((hu - low_hu) / (high_hu - low_hu)).clamp(0, 1)
    bone = (3 - 2 * t) * t.square() * mu
    return drr.with_mu(mu - bone), drr.with_mu(bone)


def polychromatic(
    drrs: tuple[DRR, DRR], pose: Float[Tensor, "b 4 4"], spectrum: Spectrum
) -> Images:
    """-log of the detected part of a spectrum, with beam hardening.

    -log sum_k w_k exp(-a_k W - b_k B), with W and B the line integrals of the two materials at
    60 keV, and a_k, b_k the attenuation of water and bone at energy k over that at 60 keV. At 60
    keV alone it is the DRR.

    Args:
        drrs: Made by `two_materials`.
        pose: world_from_camera.

    Gradients: as of a DRR.
    """
    soft, bony = (drr(pose) for drr in drrs)
    energies = spectrum.energies
    weights = torch.tensor(spectrum.weights, dtype=torch.float64)
    water, bone = (
        (attenuation(m, energies) / attenuation(m, [_REFERENCE])).to(soft)
        for m in ("water", "bone")
    )
    shape = (-1, 1, 1, 1, 1)
    exponents = -(water.view(shape) * soft + bone.view(shape) * bony)
    return -torch.logsumexp(exponents + (weights / weights.sum()).log().to(soft).view(shape), dim=0)


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
    spread = _smooth(primary * image.clamp_min(0), sigma)
    local = torch.where(image > 0, spread / primary, torch.nan).flatten(1)
    median = torch.nan_to_num(local.nanmedian(dim=1).values)[:, None, None, None]
    return -(primary + ratio * spread / torch.where(median > 0, median, torch.inf)).log()


def blur(image: Images, sigma: float) -> Images:
    """Photons spread by a Gaussian [pixels], as in a scintillator; none is lost at the border.

    It acts on exp(-image), whose mean it keeps. For a width in mm, divide by `carm.delx`.
    """
    return -_smooth(torch.exp(-image), sigma).log()


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
    return way * float(attenuation("iron", [_REFERENCE]))


def saturate(image: Images, bits: int = 12) -> Images:
    """What a detector of 2^bits steps can tell: at most -log(1 / 2^bits), behind metal."""
    if bits < 1:
        raise ConfigError(f"bits is {bits}; expected at least 1")
    return image.clamp_max(bits * math.log(2))


def _smooth(image: Tensor, sigma: float) -> Tensor:
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


def acquire(
    parts: tuple[DRR, DRR],
    pose: Float[Tensor, "1 4 4"],
    dice: torch.Generator,
    *,
    kvp: float = 0.0,
    rod: float = 0.0,
    scatter: float = 0.0,
    unsharp: float = 0.0,
    photons: float = 0.0,
    curve: float = 0.0,
    scale: float = 1.0,
    offset: float = 0.0,
) -> Float[Tensor, "1 1 height width"]:
    """One X-ray image, with the effects that are not 0 in the order of physics.

    Args:
        parts: Renderers made by `two_materials`.
        pose: world_from_camera.
        dice: Draws the rod's place and the noise.
        kvp: Tube voltage [kV] behind 3 mm of aluminium; 0 for 60 keV alone, which is the DRR.
        rod: Diameter [mm, on the detector] of a steel rod that comes from outside at any angle
            and ends near the middle (within 15 % of the detector); saturated at 12 bits.
        scatter: Median scatter-to-primary ratio, spread over a fourth of the detector's width.
        unsharp: Standard deviation of the detector's blur [pixels].
        photons: Per pixel of the open beam.
        curve: c of the grey map (1 - exp(-c x)) / c, as of a display or an unknown preprocessing.
        scale, offset: Of the grey values, at last.
    """
    carm = parts[0].carm
    if kvp:
        image = polychromatic(parts, pose, Spectrum.kramers(kvp))
    else:
        image = parts[0](pose) + parts[1](pose)
    if rod:
        size = torch.tensor([carm.width * float(carm.delx), carm.height * float(carm.dely)])
        draw = torch.rand(3, generator=dice, dtype=torch.float64)
        tip = size * (0.5 + 0.3 * (draw[:2] - 0.5))
        angle = 2 * torch.pi * draw[2]
        away = 2 * size.max() * torch.stack([angle.cos(), angle.sin()])
        image = image + instrument(carm, tip[None], (tip + away)[None], rod).to(image)
    if scatter:
        image = add_scatter(image, scatter, carm.width / 4)
    if unsharp:
        image = blur(image, unsharp)
    if photons:
        image = quantum_noise(image, photons, dice)
    if rod:
        image = saturate(image)
    if curve:
        image = (1 - torch.exp(-curve * image)) / curve
    return scale * image + offset


EFFECTS = tuple(
    p.name for p in inspect.signature(acquire).parameters.values() if p.kind == p.KEYWORD_ONLY
)
