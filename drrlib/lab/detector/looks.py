"""One X-ray image with chosen effects, named looks of the clinic, and pictures in files."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.atomic import write_whole
from drrlib.drr import DRR
from drrlib.errors import ConfigError
from drrlib.lab.detector import clinic
from drrlib.lab.detector.materials import Spectrum, polychromatic
from drrlib.lab.detector.physics import (
    add_scatter,
    blur,
    instrument,
    join,
    quantum_noise,
    saturate,
)

OPEN = 40000  # count where nothing attenuates; scatter may exceed it


@dataclass(frozen=True)
class Effects:
    """What an image has that a DRR has not; nothing at 0, and in this order.

    Args:
        kvp: Tube voltage [kV] behind 3 mm of aluminium; 0 for 60 keV alone, which is the DRR.
        rod: Diameter [mm, on the detector] of a steel rod that comes from outside at any angle
            and ends near the middle (within 15 % of the detector); saturated at 12 bits.
        wire, screw: Diameters [mm, on the detector] of a bent steel wire, and of a short pin.
        finer: How many times finer the renderers' pixels are, a side; they are joined into one.
        scatter: Median scatter-to-primary ratio, spread over a fourth of the detector's width.
        unsharp: Standard deviation of the detector's blur [pixels].
        photons: Per pixel of the open beam.
        exposed: Photons that reach a pixel behind the densest fifth of the body, which an automatic
            exposure control sees to; instead of `photons`.
        curve: c of the grey map (1 - exp(-c x)) / c, as of a display or an unknown preprocessing.
        scale, offset: Of the grey values.
        presented: Strength of `present`, whose values 0 to 4095 it returns.
        equalised: True for `equalise`.
        blades, letters, negative: True for `collimate`, `write_letters` and white for black, of an
            image that is presented or equalised.

    Raises:
        ConfigError: one of the last three without a presented or equalised image, or both of these;
            photons and exposed.
    """

    kvp: float = 0.0
    rod: float = 0.0
    wire: float = 0.0
    screw: float = 0.0
    finer: int = 1
    scatter: float = 0.0
    unsharp: float = 0.0
    photons: float = 0.0
    exposed: float = 0.0
    curve: float = 0.0
    scale: float = 1.0
    offset: float = 0.0
    presented: float = 0.0
    equalised: bool = False
    blades: bool = False
    letters: bool = False
    negative: bool = False

    def __post_init__(self):
        if self.presented and self.equalised:
            raise ConfigError("an image is presented and equalised; expected one of the two")
        if self.photons and self.exposed:
            raise ConfigError("got photons and exposed; expected one of the two")
        if (self.blades or self.letters or self.negative) and not self.shown:
            raise ConfigError(
                "blades, letters and negative are of an image for the eye; add presented=1.0"
            )

    @classmethod
    def of(cls, effects: Mapping[str, float]) -> "Effects":
        """From their names.

        Raises:
            ConfigError: an effect that there is not.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(effects) - set(known))
        if unknown:
            raise ConfigError(
                f"there is no effect {', '.join(unknown)}; choose of {', '.join(known)}"
            )
        return cls(**effects)

    @property
    def shown(self) -> bool:
        """Whether the image is one for the eye, 0 to 4095, and no line integrals."""
        return bool(self.presented or self.equalised)


_DETECTOR = dict(kvp=90.0, scatter=0.8, unsharp=0.5, exposed=800.0)
# Effects by the name of a look, from kind to cruel.
LOOKS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "one energy": {},
        "detector": _DETECTOR,
        "presented": dict(_DETECTOR, presented=1.0),
        "negative": dict(_DETECTOR, presented=1.0, negative=True),
        "equalised": dict(_DETECTOR, equalised=True),
        "clinic": dict(
            _DETECTOR, presented=1.0, wire=1.4, screw=5.0, blades=True, letters=True
        ),
    }
)  # fmt: skip


def acquire(
    parts: tuple[DRR, DRR],
    pose: Float[Tensor, "1 4 4"],
    dice: torch.Generator,
    **effects: float,
) -> Float[Tensor, "1 1 height width"]:
    """One X-ray image, with its effects in the order of physics.

    Args:
        parts: Renderers made by `two_materials`, of pixels `finer` times finer.
        pose: world_from_camera.
        dice: Draws what lies in the beam, the noise, blades and letters.
        effects: Fields of `Effects`.

    Returns:
        Line integrals; values 0 to 4095 of an image that is presented or equalised.

    Raises:
        ConfigError: an effect that there is not.
    """
    has, carm = Effects.of(effects), parts[0].carm
    if has.kvp:
        image = polychromatic(parts, pose, Spectrum.kramers(has.kvp))
    else:
        image = parts[0](pose) + parts[1](pose)
    image = join(image + _metal(carm, dice, has).to(image), has.finer)
    image = _detected(image, dice, has)
    if has.curve:
        image = (1 - torch.exp(-has.curve * image)) / has.curve
    image = has.scale * image + has.offset
    return _shown(image, float(carm.delx) * has.finer, dice, has) if has.shown else image


def _metal(carm, dice: torch.Generator, has: Effects) -> Float[Tensor, "1 1 height width"]:
    """Line integrals of rod, wire and screw on the fine detector."""
    image = torch.zeros(1, 1, carm.height, carm.width, dtype=torch.float64)
    if has.rod:
        size = torch.tensor([carm.width * float(carm.delx), carm.height * float(carm.dely)])
        draw = torch.rand(3, generator=dice, dtype=torch.float64)
        tip = size * (0.5 + 0.3 * (draw[:2] - 0.5))
        angle = 2 * torch.pi * draw[2]
        away = 2 * size.max() * torch.stack([angle.cos(), angle.sin()])
        image = image + instrument(carm, tip[None], (tip + away)[None], has.rod)
    if has.wire:
        image = image + clinic.wire(carm, dice, has.wire)
    if has.screw:
        image = image + clinic.screw(carm, dice, has.screw)
    return image


def _detected(image: Tensor, dice: torch.Generator, has: Effects) -> Tensor:
    if has.scatter:
        image = add_scatter(image, has.scatter, image.shape[-1] / 4)
    if has.unsharp:
        image = blur(image, has.unsharp)
    photons = has.photons or (has.exposed and exposed_photons(image, has.exposed))
    if photons:
        image = quantum_noise(image, photons, dice)
    return saturate(image) if has.rod or has.wire or has.screw else image


def exposed_photons(image: Float[Tensor, "1 1 height width"], behind: float) -> float:
    """Photons of the open beam, of which so many reach a pixel behind the densest fifth.

    The body is where less than 0.6 of the beam comes through; all of the image if it does nowhere.
    """
    passed = torch.exp(-image.detach()).flatten()
    body = passed[passed < 0.6]
    return behind / float((body if len(body) else passed).quantile(0.2))


def _shown(image: Tensor, pixel: float, dice: torch.Generator, has: Effects) -> Tensor:
    if has.equalised:
        image = clinic.equalise(image)
    else:
        image = clinic.present(image, pixel, has.presented)
    if has.blades:
        image = clinic.collimate(image, dice)
    if has.letters:
        image = clinic.write_letters(image, dice)
    return clinic.WHITE - image if has.negative else image


def save_picture(path: str | os.PathLike, image: Float[Tensor, "*one height width"]) -> Path:
    """Write an image as a file that `read_xray` reads, as a detector or an archive would give it.

    Args:
        path: .npy for line integrals; .tif for line integrals as counts of 16 bits, 40000 in the
            open field; .png for values 0 to 4095, as `present` returns them.

    Raises:
        ConfigError: another suffix, or more than one image.
    """
    from PIL import Image

    path, values = Path(path), image.detach().cpu().double().squeeze().numpy()
    if values.ndim != 2 or path.suffix not in (".npy", ".tif", ".png"):
        raise ConfigError(
            f"got {path.name} and an image of shape {tuple(image.shape)}; expected one image, "
            "and .npy, .tif or .png"
        )
    if path.suffix == ".npy":
        write_whole(path, lambda name: _save_array(name, values.astype(np.float32)))
        return path
    if path.suffix == ".tif":
        values = OPEN * np.exp(-values)
    grey = Image.fromarray(values.round().clip(0, 65535).astype(np.uint16))
    form = {".tif": "TIFF", ".png": "PNG"}[path.suffix]
    write_whole(path, lambda name: grey.save(name, format=form))
    return path


def _save_array(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:  # given a name, np.save adds a suffix
        np.save(file, values)
