"""Materials and spectra: what energies make of the way through soft tissue, bone and metal."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.drr import DRR
from drrlib.errors import ConfigError
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
REFERENCE = 60.0  # keV at which volumes hold their attenuation


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
        (attenuation(m, energies) / attenuation(m, [REFERENCE])).to(soft) for m in ("water", "bone")
    )
    shape = (-1, 1, 1, 1, 1)
    exponents = -(water.view(shape) * soft + bone.view(shape) * bony)
    return -torch.logsumexp(exponents + (weights / weights.sum()).log().to(soft).view(shape), dim=0)
