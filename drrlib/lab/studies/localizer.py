"""A real X-ray image: the registration of a CT localizer to its CT, from many starts.

The localizer of the plastic skull was taken minutes before its CT on the same table, so its header
tells the pose, to within what the header and the table are worth. The registration does not see
that pose but through the starts, which are off by a stated range.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pydicom
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from drrlib.drr import DRR
from drrlib.errors import ConfigError
from drrlib.geometry import ScanProjection, pose_errors, to_degrees, to_radians
from drrlib.io import localizer_from_dicom
from drrlib.lab import datasets, phantoms
from drrlib.lab.evaluation import rate_columns
from drrlib.lab.landscapes import losses_at
from drrlib.lab.studies.protocol import known_entries
from drrlib.lab.studies.registration import ETA_COLUMNS
from drrlib.lab.studies.runner import trial_generator
from drrlib.optimize import Adam, lowest
from drrlib.registration import RegistrationResult, Schedule, descend
from drrlib.volume import Volume

REAL = ("plastic_skull_1mm", "plastic_skull_5mm")
SIMULATED = "skull"
# Rows and columns of the picture that hold the skull and lie inside the CT, whose slices end at
# the upper jaw: below them a DRR has nothing. Right of it is the head rest.
WINDOW = (88, 132, 136, 208)  # top, left, height, width
# The lengths of the real scan, for the simulated one.
_LIKE_REAL = ScanProjection(1040.0, 570.0, 256, 512, 0.9765625, 0.9765625, flipped=True)


@dataclass(frozen=True)
class Localizer:
    """An X-ray image with the pose that its header states.

    Attributes:
        image: Pixel values as stored, [1, 1, height, width]; no line integrals.
        geometry: Of these rows and columns.
        pose: world_from_camera [1, 4, 4], the isocentre level with the volume's centre.
        center: What eta refers to: the centre of every volume of `averaged` [mm, world].
    """

    image: Float[Tensor, "1 1 height width"]
    geometry: ScanProjection
    pose: Float[Tensor, "1 4 4"]
    center: Float[Tensor, "3"]

    @property
    def eta(self) -> Float[Tensor, "6"]:
        """The six parameters of the header's pose [rad, mm]."""
        return self.geometry.eta(self.pose, self.center)[0]

    def binned(self, binning: int) -> tuple[Float[Tensor, "1 1 h w"], ScanProjection]:
        """Image and geometry with binning x binning pixels averaged."""
        return avg_pool2d(self.image, binning), self.geometry.downsample(binning)


@dataclass(frozen=True)
class LocalizerProtocol:
    """What all trials of a study have in common. Angles in degrees, as people state them.

    Args:
        subject: One of `REAL`, or "skull": a simulated localizer of the procedural skull.
        start_rotation, start_translation: The given start is off the header's pose by up to +- so
            much in each angle [deg] and each translation [mm], uniformly.
        starts: The search begins at the given start and at starts - 1 others around it,
        spread: uniformly within this part of the ranges above.
        stages: (binning, voxel [mm], steps, loss, kept) each: the image binned and the volume
            averaged, so many steps of Adam, and how many poses of lowest loss go on.
        rates: Rotation [rad] and translation [mm] per step at the first stage; they shrink with
            the binning, and within a stage (cosine).
        method, backend: As in `DRR`. Joseph's image is the smooth one.
        seed: Trial i draws from a generator seeded by (seed, i).
    """

    subject: str = REAL[0]
    start_rotation: float = 20.0
    start_translation: float = 40.0
    starts: int = 16
    spread: float = 0.7
    stages: Sequence[Sequence] = (
        (8, 4.0, 80, "zncc", 2),
        (4, 2.0, 50, "gradient_ncc", 1),
        (2, 1.0, 30, "gradient_ncc", 1),
    )
    rates: Sequence[float] = (0.05, 8.0)
    method: str = "joseph"
    backend: str = "auto"
    seed: int = 0

    def __post_init__(self):
        kept = [stage[-1] for stage in self.stages]
        if not kept or kept != sorted(kept, reverse=True) or kept[-1] != 1 or self.starts < kept[0]:
            raise ConfigError(
                f"{self.starts} starts and stages that keep {kept}; expected falling numbers, at "
                "most that of the starts, and 1 at the end"
            )

    @classmethod
    def of(cls, config: Mapping) -> "LocalizerProtocol":
        """From the plain dictionary of `config`.

        Raises:
            ConfigError: a name that a protocol does not have.
        """
        return cls(**known_entries(cls, config))

    def config(self) -> dict:
        """A plain dictionary for `run_study`."""
        return dataclasses.asdict(self)

    def draw(self, index: int) -> Float[Tensor, "starts 6"]:
        """Starts of one trial as offsets from the header's pose [rad, mm]; the given one first."""
        dice = trial_generator(self.seed, index)
        unit = 2 * torch.rand(self.starts + 1, 6, generator=dice, dtype=torch.float64) - 1
        reach = [self.start_rotation] * 3 + [self.start_translation] * 3
        moved = unit * to_radians(torch.tensor(reach, dtype=torch.float64))
        around = self.spread * moved[1:]
        around[0] = 0
        return moved[0] + around


def choose_subject() -> tuple[str, str]:
    """The first subject whose data can be had, and in words which image it is."""
    if datasets.at_hand("plastic_skull_localizer"):
        for name in REAL:
            if datasets.at_hand(name):
                return name, f"real localizer, CT {name}"
    return SIMULATED, (
        "simulated localizer of the procedural skull, since the real one or its CT cannot be had "
        'here; drrlib.lab.datasets.path("plastic_skull_localizer") and ..._5mm say why'
    )


@functools.lru_cache(maxsize=2)
def load_localizer(subject: str) -> Localizer:
    """The localizer that belongs to a subject, in the window that its CT covers.

    The simulated one is rendered from voxels of 2 mm, sharpened as the scanner does, with noise
    of 1 % of the brightest pixel, and stored in whole numbers.

    Raises:
        ConfigError: an unknown subject.
        DatasetError: data that cannot be had.
    """
    if subject == SIMULATED:
        volume = averaged(subject, 2.0)
        geometry = _LIKE_REAL
        eta = torch.tensor([[0.0, -torch.pi / 2, 0.0, 0.0, 10.0, 0.0]], dtype=torch.float64)
        pose = geometry.pose(eta, volume.center)
        image = DRR(volume, geometry)(pose)
        blurred = avg_pool2d(image, 5, stride=1, padding=2, count_include_pad=False)
        grain = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
        image = 400 * (2 * image - blurred + 0.01 * image.max() * grain)
        image = image.round().clamp(0, 4095)
        window = tuple((n - m) // 2 for n, m in zip(image.shape[2:], WINDOW[2:], strict=True))
        window += WINDOW[2:]
    elif subject in REAL:
        header = pydicom.dcmread(datasets.path("plastic_skull_localizer"))
        geometry, pose = localizer_from_dicom(header)
        geometry, pose = geometry.level_with(pose[None], averaged(subject, 1.0).center)
        image = torch.from_numpy(header.pixel_array.astype(np.float32))[None, None]
        window = WINDOW
    else:
        raise ConfigError(f"subject is {subject!r}; choose one of {', '.join(REAL)}, {SIMULATED}")
    top, left, height, width = window
    image = image[..., top : top + height, left : left + width].contiguous()
    center = averaged(subject, 4.0).center
    return Localizer(image, geometry.crop(*window), pose, center)


@functools.lru_cache(maxsize=4)
def averaged(subject: str, voxel: float) -> Volume:
    """A subject's volume averaged to about `voxel` mm; all of them have one centre."""
    return _finest(subject).coarsen_to(voxel).crop_to_support()


@functools.lru_cache(maxsize=1)
def _finest(subject: str) -> Volume:
    if subject != SIMULATED:
        return datasets.volume(subject)
    phantom = phantoms.skull(2.0)
    return Volume.from_hu(phantom.hu, phantom.affine)


def search(
    protocol: LocalizerProtocol, start: Float[Tensor, "n starts 6"]
) -> tuple[Float[Tensor, "n 6"], Float[Tensor, " n"]]:
    """The pose of lowest loss of each set of starts, and its loss at the last stage.

    Sets run side by side and do not know of each other.
    """
    scan = load_localizer(protocol.subject)
    for stage in protocol.stages:
        result = _descend(protocol, *scan.binned(stage[0]), stage, start.flatten(0, 1))
        best, value = lowest(result.eta.reshape(start.shape), result.loss.reshape(start.shape[:2]))
        start = best[:, : stage[-1]]
    return start[:, 0], value[:, 0]


def _descend(
    protocol: LocalizerProtocol,
    image: Tensor,
    geometry: ScanProjection,
    stage: Sequence,
    start: Tensor,
    share: float = 1.0,
) -> RegistrationResult:
    """One stage, from each start, at a share of its rates."""
    binning, voxel, steps, loss, _ = stage
    volume, share = averaged(protocol.subject, voxel), share * binning / protocol.stages[0][0]
    return descend(
        image,
        DRR(volume, geometry, method=protocol.method, backend=protocol.backend),
        start,
        loss=loss,
        optimizer=Adam(*(rate * share for rate in protocol.rates)),
        schedule=Schedule(((1, steps),), patience=steps),
    )


def localizer_trials(config: Mapping, indices: Sequence[int]) -> pd.DataFrame:
    """The trials of a study by their index; the work of `run_study`.

    Args:
        config: Entries of `LocalizerProtocol`.
        indices: Which trials; they run side by side.

    Returns:
        A row per trial: the loss at the last stage; rotation_deg, in_plane_mm and depth_mm
        against the header's pose, at the volume's centre; the same of the given start with start_
        before it; and off_* for the six parameters, found minus header.
    """
    protocol = LocalizerProtocol.of(config)
    scan = load_localizer(protocol.subject)
    start = scan.eta + torch.stack([protocol.draw(i) for i in indices])
    found, loss = search(protocol, start)
    table = {"trial": list(indices), "loss": loss.numpy()}
    for before, eta in (("", found), ("start_", start[:, 0])):
        errors = pose_errors(scan.geometry.pose(eta, scan.center), scan.pose, scan.center)
        table[f"{before}rotation_deg"] = torch.rad2deg(errors.rotation).numpy()
        table[f"{before}in_plane_mm"] = errors.in_plane.numpy()
        table[f"{before}depth_mm"] = errors.depth.numpy()
    off = to_degrees(found - scan.eta)
    table |= {f"off_{name}": off[:, k].numpy() for k, name in enumerate(ETA_COLUMNS)}
    return pd.DataFrame(table)


def summarise(trials: pd.DataFrame, rotation: float = 1.0, in_plane: float = 1.0) -> dict:
    """How often the header's pose was found, with Wilson's 95 % interval, and how nearly.

    Args:
        trials: Rows of `localizer_trials`.
        rotation, in_plane: Limits of a success [deg, mm]; depth is reported, not judged.
    """
    good = (trials["rotation_deg"] < rotation) & (trials["in_plane_mm"] < in_plane)
    hits = int(good.sum())
    row = dict(trials=len(trials), successes=hits) | rate_columns(hits, len(trials))
    for name in ("rotation_deg", "in_plane_mm", "depth_mm"):
        row[f"median_{name}"] = trials.loc[good, name].median()
        row[f"largest_{name}"] = trials.loc[good, name].max()
    return row


def loss_profiles(
    subject: str,
    eta: Float[Tensor, "6"],
    *,
    losses: Sequence[str] = ("gradient_ncc", "zncc"),
    rotation: float = 6.0,
    translation: float = 20.0,
    count: int = 41,
    binning: int = 2,
    voxel: float = 1.0,
    method: str = "joseph",
) -> pd.DataFrame:
    """The loss as each parameter alone moves away from a pose, up to +- the given reach.

    Returns:
        Columns parameter, offset [deg or mm], and one for each loss.
    """
    scan = load_localizer(subject)
    image, geometry = scan.binned(binning)
    drr = DRR(averaged(subject, voxel), geometry, method=method)
    rows = []
    for k, name in enumerate(ETA_COLUMNS):
        reach = rotation if k < 3 else translation
        offset = torch.linspace(-reach, reach, count, dtype=torch.float64)
        moved = eta.double().repeat(count, 1)
        moved[:, k] += torch.deg2rad(offset) if k < 3 else offset
        values = losses_at(drr, image, moved, losses, batch=16)
        part = pd.DataFrame(values.numpy(), columns=list(losses))
        rows.append(part.assign(parameter=name, offset=offset.numpy()))
    table = pd.concat(rows, ignore_index=True)
    return table[["parameter", "offset", *losses]]


def spacing_fits(
    protocol: LocalizerProtocol, eta: Float[Tensor, "6"], scales: Sequence[float]
) -> pd.DataFrame:
    """The pose again, on the grid of the last stage, were the pixels of another size.

    A wrong PixelSpacing looks like a wrong depth along the fan, but not along the table, where
    rays are parallel: the loss tells which it is.

    Args:
        eta: Where to start; the middle of the window keeps its place.
        scales: Of rows and columns alike; 1 is what the header says.

    Returns:
        Columns scale, the loss, and off_* as in `localizer_trials`.
    """
    scan = load_localizer(protocol.subject)
    stage = protocol.stages[-1]
    image, geometry = scan.binned(stage[0])
    rows = []
    for scale in scales:
        delx, dely = geometry.delx * scale, geometry.dely * scale
        larger = dataclasses.replace(geometry, delx=delx, dely=dely)
        start = eta.clone()
        # Larger pixels, nearer tube: nearly the same fan.
        start[3:] += (scale - 1) * geometry.sod * scan.pose[0, :3, 2]
        # From a pose nearby: a fifth of the search's rates, and no early end.
        result = _descend(protocol, image, larger, stage, start, 0.2)
        off = to_degrees(result.eta - scan.eta).tolist()
        named = {f"off_{name}": value for name, value in zip(ETA_COLUMNS, off, strict=True)}
        rows.append({"scale": scale, "loss": result.loss, **named})
    return pd.DataFrame(rows)
