"""What all trials of a study have in common: volume, detector, poses, starts."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.drr import DRR
from drrlib.errors import ConfigError
from drrlib.geometry import CArm, to_radians
from drrlib.io import read_volume
from drrlib.lab import datasets, phantoms
from drrlib.lab.studies.runner import trial_generator
from drrlib.optimize import GRADIENT_FREE, OPTIMIZERS, CmaEs, GradientFree, Optimizer
from drrlib.registration import RegistrationResult, Schedule, descend
from drrlib.volume import Volume


@dataclass(frozen=True)
class Protocol:
    """What all trials of a study have in common. Angles in degrees, as people state them.

    Args:
        volume: Phantom ("skull", "thorax", "pelvis"), a real CT of `datasets` as "ct:thorax", or
            a file or folder that `read_volume` takes.
        voxel: Voxel size of the phantom [mm]; a CT is averaged to about this size, 0 for its own.
        pixels, detector: Detector of pixels x pixels over a square of `detector` mm.
        sdd, sod: Source-detector and source-isocentre distance [mm].
        view: Middle of the true angles theta, phi, gamma [deg].
        view_range: The true angles lie uniformly within +- so much of it [deg]; 0: all the same.
        shift_range: The true translations lie uniformly within +- so much of 0 [mm].
        start_rotation, start_translation: The start is off the true pose by up to +- so much in
            each angle [deg] and each translation [mm], uniformly.
        noise: Standard deviation of Gaussian noise, as a part of the brightest pixel.
        optimizer: "gd", "gdm", "gddm", "adam", "nelder-mead", "powell" or "cma-es".
        rates: Learning rates of rotation and translation; None for the optimizer's own.
        levels: (binning, most steps) pairs, coarse first.
        schedule, derivative: How the rates go on, and where the gradient is from, as in `Schedule`
            and `descend`; for optimizers that take one.
        threshold: A run ends when its loss falls below this.
        trace: Keep the loss of every so many steps, in columns `loss_<step>`; 0 for none. For
            protocols of one level.
        seed: Trial i draws from a generator seeded by (seed, i).
        loss, method, backend: As in `descend` and `DRR`.
        device: "cpu", "cuda", or "auto" for a GPU where there is one.
    """

    volume: str = "skull"
    voxel: float = 2.0
    pixels: int = 64
    detector: float = 400.0
    sdd: float = 1020.0
    sod: float = 510.0
    view: Sequence[float] = (0.0, 0.0, 0.0)
    view_range: float = 0.0
    shift_range: float = 0.0
    start_rotation: float = 45.0
    start_translation: float = 60.0
    noise: float = 0.0
    method: str = "siddon"
    loss: str = "zncc"
    optimizer: str = "adam"
    rates: Sequence[float] | None = None
    levels: Sequence[Sequence[int]] = ((1, 250),)
    schedule: str = "constant"
    derivative: str = "exact"
    threshold: float = 1e-6
    trace: int = 0
    seed: int = 0
    backend: str = "auto"
    device: str = "auto"

    @classmethod
    def of(cls, config: Mapping) -> "Protocol":
        """From the plain dictionary of `config`.

        Raises:
            ConfigError: a name that a protocol does not have, or a value of another kind.
        """
        known = {f.name: f.type for f in dataclasses.fields(cls)}
        for name, value in known_entries(cls, config).items():
            kind = {str: str, int: int, float: (int, float)}.get(known[name], (list, tuple))
            if not isinstance(value, kind) and not (name == "rates" and value is None):
                wanted = getattr(known[name], "__name__", known[name])
                raise ConfigError(f"{name} of a protocol is {value!r}; expected {wanted}")
        return cls(**config)

    def config(self) -> dict:
        """A plain dictionary for `run_study`, with the device that "auto" stands for here.

        Settled by the caller, not by each worker: all trials of a study are of one device, which
        its record names. A caller without a GPU must name "cuda" for workers that have one.
        """
        return {**dataclasses.asdict(self), "device": self._device()}

    def with_(self, **changes) -> "Protocol":
        """The same protocol but for some entries."""
        return self.of({**self.config(), **changes})

    def refuse(self, work: str, *names: str) -> None:
        """Raise ConfigError if one of these entries, of which a work makes nothing, is set."""
        blank = Protocol()  # JSON and TOML have lists where Python has tuples
        given = [x for x in names if not np.array_equal(getattr(self, x), getattr(blank, x))]
        if given:
            raise ConfigError(
                f"{work} makes nothing of {', '.join(given)} of the protocol; leave them out"
            )

    def renderer(self) -> DRR:
        """The volume and the C-arm."""
        carm = CArm.square(self.sdd, self.sod, self.pixels, self.detector)
        volume = load_volume(self.volume, self.voxel, self._device())
        return DRR(volume, carm, method=self.method, backend=self.backend)

    def draw(self, index: int) -> tuple[Float[Tensor, "6"], Float[Tensor, "6"], torch.Generator]:
        """True pose and start of one trial [rad, mm], and the generator for what comes after."""
        dice = trial_generator(self.seed, index)
        unit = 2 * torch.rand(2, 6, generator=dice, dtype=torch.float64) - 1
        size = [[self.view_range] * 3 + [self.shift_range] * 3]
        size += [[self.start_rotation] * 3 + [self.start_translation] * 3]
        moved = unit * torch.tensor(size, dtype=torch.float64)
        middle = torch.tensor([*self.view, 0.0, 0.0, 0.0], dtype=torch.float64)
        true_eta = to_radians(middle + moved[0])
        return true_eta, true_eta + to_radians(moved[1]), dice

    def draws(self, indices: Iterable[int]) -> tuple[Tensor, Tensor, tuple[torch.Generator, ...]]:
        """`draw` of many trials: true poses and starts [n, 6], and the generators."""
        true_eta, start, dice = zip(*map(self.draw, indices), strict=True)
        return torch.stack(true_eta), torch.stack(start), dice

    def descend(
        self, fixed: Tensor, drr: DRR, start: Float[Tensor, "n 6"], seeds: Sequence[int]
    ) -> RegistrationResult:
        """Registrations of one image each [n, 1, h, w], side by side.

        Args:
            seeds: One for each start, for an optimizer that draws: a start does not depend on
                those beside it.

        Raises:
            ConfigError: entries that the optimizer makes nothing of, or rates that are not two.
        """
        patience = 1 + sum(n for _, n in self.levels)  # no start leaves a level early
        schedule = Schedule(self.levels, self.schedule, self.threshold, patience=patience)
        options = dict(loss=self.loss, derivative=self.derivative, schedule=schedule)
        return descend(fixed, drr, start, optimizer=self._rule(seeds), **options)

    def _rule(self, seeds: Sequence[int]) -> str | Optimizer | GradientFree:
        """The optimizer, at the rates of the protocol if it has any."""
        name = self.optimizer.lower()
        if self.rates is not None:
            if name not in OPTIMIZERS:
                raise ConfigError(
                    f"rates are given for optimizer {self.optimizer!r}; they belong to one of "
                    f"{', '.join(OPTIMIZERS)}"
                )
            if len(self.rates) != 2:
                raise ConfigError(
                    f"rates is {self.rates}; expected one of rotation, then one of translation"
                )
            return OPTIMIZERS[name](*self.rates)
        if name in GRADIENT_FREE:
            work = f"optimizer {self.optimizer!r}, which takes no gradients,"
            self.refuse(work, "schedule", "derivative")
        return CmaEs(seed=tuple(seeds)) if name == "cma-es" else self.optimizer

    def _device(self) -> str:
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() and self.backend != "cpu" else "cpu"


@functools.lru_cache(maxsize=2)
def load_volume(name: str, voxel: float, device: str = "cpu") -> Volume:
    """A phantom or data set by its name, or what `read_volume` reads; kept, since shards share it.

    A CT is averaged to about `voxel` mm; 0 leaves its own voxels.
    """
    if name in phantoms.MAKERS:
        phantom = phantoms.MAKERS[name](voxel)
        return Volume.from_hu(phantom.hu, phantom.affine).to(device)
    if Path(name).exists():
        volume = read_volume(name)
    else:
        volume = datasets.volume(name.removeprefix("ct:"))  # raises, with the names, if none
    if voxel:
        volume = volume.coarsen_to(voxel)
    return volume.crop_to_support().to(device)


def known_entries(protocol: type, config: Mapping) -> Mapping:
    """A configuration of which a protocol has every name; else ConfigError."""
    known = [f.name for f in dataclasses.fields(protocol)]
    unknown = sorted(set(config) - set(known))
    if unknown:
        raise ConfigError(f"a protocol has no {', '.join(unknown)}; it has {', '.join(known)}")
    return config


def read_config(config: Mapping, *names: str) -> tuple:
    """The protocol of a work's configuration and its other entries, in the order of `names`.

    Raises:
        ConfigError: the configuration lacks one of them or has others.
    """
    names = ("protocol", *names)
    unknown, lacking = sorted(set(config) - set(names)), [x for x in names if x not in config]
    if unknown:
        raise ConfigError(
            f"the configuration has {', '.join(unknown)}, which this work makes "
            f"nothing of; it takes {', '.join(names)}"
        )
    if lacking:
        raise ConfigError(
            f"the configuration lacks {', '.join(lacking)}; this work takes {', '.join(names)}"
        )
    return Protocol.of(config["protocol"]), *(config[name] for name in names[1:])
