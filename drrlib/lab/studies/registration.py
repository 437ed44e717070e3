"""Monte Carlo studies of registration: random poses and starts, a record of each trial.

Records are judged in `evaluation`.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.drr import DRR
from drrlib.errors import ConfigError
from drrlib.geometry.carm import CArm
from drrlib.geometry.metrics import mrpd, mtre, pose_errors, targets
from drrlib.io.ct import read_volume
from drrlib.lab import datasets, phantoms
from drrlib.lab.evaluation import CRITERIA
from drrlib.lab.studies.runner import trial_generator
from drrlib.optimize.loop import DescentResult, descend
from drrlib.optimize.rules import OPTIMIZERS
from drrlib.similarity.correlation import zncc
from drrlib.volume import Volume

ETA_COLUMNS = ("theta_deg", "phi_deg", "gamma_deg", "bx_mm", "by_mm", "bz_mm")


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
        method, loss: As in `descend`.
        optimizer: "gd", "gdm", "gddm", "adam", "nelder-mead", "powell" or "cma-es".
        rates: Learning rates of rotation and translation; None for the optimizer's own.
        levels: (binning, most steps) pairs, coarse first.
        schedule, derivative: As in `descend`.
        threshold: A run ends when its loss falls below this.
        trace: Keep the loss of every so many steps, in columns `loss_<step>`; 0 for none. For
            protocols of one level.
        seed: Trial i draws from a generator seeded by (seed, i).
        backend: As in `DRR`.
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
        unknown = sorted(set(config) - set(known))
        if unknown:
            raise ConfigError(f"a protocol has no {', '.join(unknown)}; it has {', '.join(known)}")
        for name, value in config.items():
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

    def renderer(self) -> DRR:
        """The volume and the C-arm."""
        size = self.detector / self.pixels
        carm = CArm(self.sdd, self.sod, self.pixels, self.pixels, size, size)
        volume = load_volume(self.volume, self.voxel, self._device())
        return DRR(volume, carm, method=self.method, backend=self.backend)

    def _device(self) -> str:
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() and self.backend != "cpu" else "cpu"

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


@functools.lru_cache(maxsize=2)
def load_volume(name: str, voxel: float, device: str = "cpu") -> Volume:
    """A phantom or data set by its name, or what `read_volume` reads; kept, since shards share it.

    A CT is averaged to about `voxel` mm.
    """
    maker = {"skull": phantoms.skull, "thorax": phantoms.thorax, "pelvis": phantoms.pelvis}
    if name in maker:
        phantom = maker[name](voxel)
        return Volume.from_hu(phantom.hu, phantom.affine).to(device)
    if Path(name).exists():
        volume = read_volume(name)
    else:
        volume = datasets.volume(name.removeprefix("ct:"))  # raises, with the names, if none
    return volume.coarsen_to(voxel).crop_to_support().to(device)


def registration_trials(config: Mapping, indices: Sequence[int]) -> pd.DataFrame:
    """The trials of a study by their index, rows of `run_trials`; the work of `run_study`.

    Args:
        config: Entries of `Protocol`.
        indices: Which trials; they run side by side.
    """
    protocol = Protocol.of(config)
    *poses, dice = zip(*map(protocol.draw, indices), strict=True)
    return run_trials(protocol, protocol.renderer(), indices, *map(torch.stack, poses), dice)


def run_trials(
    protocol: Protocol,
    drr: DRR,
    indices: Sequence[int],
    true_eta: Float[Tensor, "n 6"],
    start: Float[Tensor, "n 6"],
    dice: Sequence[torch.Generator],
) -> pd.DataFrame:
    """Registrations of true poses from starts, side by side; `dice` is for the noise of each.

    Returns:
        A row per trial: loss, zncc, mtre_mm, mrpd_mm, parts of the pose error at the lowest loss;
        start_mtre_mm; steps to the end, to a loss below 1e-6 (`steps_loss`) and to a ZNCC above
        0.999 (`steps_zncc`, where the loss is 1 - ZNCC), NaN where it never was so; renders;
        reason of the end; true_*, start_*, final_* for the six parameters.
    """
    if protocol.trace and len(protocol.levels) > 1:
        raise ConfigError(
            f"trace is {protocol.trace} with {len(protocol.levels)} levels, whose losses are not "
            "comparable; set trace=0, or give one level"
        )
    true_pose = drr.pose(true_eta)
    fixed = drr(true_pose).detach()
    if protocol.noise:
        grain = [torch.randn(fixed.shape[1:], generator=d).to(fixed) for d in dice]
        peak = fixed.amax(dim=(1, 2, 3), keepdim=True)
        fixed = fixed + protocol.noise * peak * torch.stack(grain)
    levels = [tuple(level) for level in protocol.levels]  # JSON and TOML have lists
    optimizer = protocol.optimizer
    if protocol.rates is not None:
        if optimizer.lower() not in OPTIMIZERS:
            raise ConfigError(
                f"rates are given for optimizer {optimizer!r}; they belong to one of "
                f"{', '.join(OPTIMIZERS)}"
            )
        optimizer = OPTIMIZERS[optimizer.lower()](*protocol.rates)
    result = descend(
        fixed, drr.volume, drr.carm, start, loss=protocol.loss, optimizer=optimizer,
        derivative=protocol.derivative, levels=levels, schedule=protocol.schedule,
        threshold=protocol.threshold, patience=1 + sum(n for _, n in protocol.levels),
        method=protocol.method, backend=protocol.backend, progress=False,
    )  # fmt: skip
    found = drr.pose(result.final_eta)
    table = dict(
        trial=list(indices),
        loss=result.final_loss,
        zncc=zncc(fixed, drr(found).detach()).double().cpu(),
        **pose_columns(drr, true_eta, start, result.final_eta),
        **_steps(result, protocol),
        reason=list(result.reason),
    )
    if protocol.trace:
        kept = range(0, len(result.trace_loss), protocol.trace)
        table |= {f"loss_{k}": result.trace_loss[k].float() for k in kept}
        last = sum(n for _, n in protocol.levels)
        gone = range(len(kept) * protocol.trace, last, protocol.trace)  # all had ended by then
        table |= {f"loss_{k}": torch.full((len(start),), torch.nan) for k in gone}
    return pd.DataFrame({k: v.numpy() if torch.is_tensor(v) else v for k, v in table.items()})


def pose_columns(
    drr: DRR,
    true: Float[Tensor, "n 6"],
    start: Float[Tensor, "n 6"],
    final: Float[Tensor, "n 6"],
) -> dict[str, np.ndarray]:
    """Columns of a record for poses [rad, mm]: mtre_mm, mrpd_mm and the parts of the error at the
    end, start_mtre_mm, and true_*, start_*, final_* for the six parameters."""
    true_pose, found, points = drr.pose(true), drr.pose(final), targets(drr.volume)
    errors = pose_errors(found, true_pose, drr.volume.center)
    table = dict(
        mtre_mm=mtre(found, true_pose, points),
        mrpd_mm=mrpd(found, true_pose, points),
        rotation_deg=torch.rad2deg(errors.rotation),
        rotation_in_plane_deg=torch.rad2deg(errors.rotation_in_plane),
        rotation_out_of_plane_deg=torch.rad2deg(errors.rotation_out_of_plane),
        in_plane_mm=errors.in_plane,
        depth_mm=errors.depth,
        start_mtre_mm=mtre(drr.pose(start), true_pose, points),
    )
    for which, eta in (("true", true), ("start", start), ("final", final)):
        table |= {f"{which}_{k}": v for k, v in zip(ETA_COLUMNS, to_degrees(eta).T, strict=True)}
    return {name: values.numpy() for name, values in table.items()}


def eta_of(trials: pd.DataFrame, which: str) -> Float[Tensor, "n 6"]:
    """Pose parameters [rad, mm] from records; `which` is "true", "start" or "final"."""
    columns = [f"{which}_{name}" for name in ETA_COLUMNS]
    return to_radians(torch.from_numpy(trials[columns].to_numpy("float64", copy=True)))


def rate_trials(config: Mapping, indices: Sequence[int]) -> pd.DataFrame:
    """Learning rates tried on a few starts, a pair per index; the work of `run_study`.

    Args:
        config: `protocol`, entries of a Protocol; `rotation` and `translation`, the rates to try,
            all pairs; `starts`, how many trials each pair gets.
        indices: Pairs in the order of their product, translation running fastest.

    Returns:
        Columns trial, lr_rotation, lr_translation, score (the mean of log10 of the final loss, no
        loss counting less than the protocol's threshold) and the number of successes by each
        criterion.
    """
    protocol = Protocol.of(config["protocol"])
    pairs = list(itertools.product(config["rotation"], config["translation"]))
    rows = []
    for index in indices:
        tried = protocol.with_(rates=pairs[index])
        table = registration_trials(tried.config(), range(config["starts"]))
        # A start that was lost counts as bad as an image that has nothing in common.
        loss = table["loss"].where(np.isfinite(table["loss"]), 1.0).clip(protocol.threshold)
        row = dict(trial=index, lr_rotation=pairs[index][0], lr_translation=pairs[index][1])
        hits = {name: int(met(table).sum()) for name, met in CRITERIA.items()}
        rows.append({**row, "score": float(np.log10(loss).mean()), **hits})
    return pd.DataFrame(rows)


def _steps(result: DescentResult, protocol: Protocol) -> dict[str, Tensor]:
    """Steps until the end and until each threshold was passed, renders, per trial."""
    count = torch.isfinite(result.trace_loss).cumsum(dim=0)  # of the start's own steps
    ran = count[-1]
    # A loss of a coarser level is not one of the image.
    final = result.level == protocol.levels[-1][0]
    losses = torch.where(final[:, None], result.trace_loss, torch.inf)

    def first(below: float) -> Tensor:
        hit = losses < below
        row = hit.double().argmax(dim=0)
        step = count.gather(0, row[None])[0] - 1
        return torch.where(hit.any(dim=0), step.double(), torch.nan)

    share = 13 if protocol.derivative == "finite" else 1
    steps = dict(steps=ran, renders=share * ran, steps_loss=first(1e-6))
    if protocol.loss == "zncc":
        steps["steps_zncc"] = first(1 - 0.999)
    return steps


def to_radians(eta: Float[Tensor, "*b 6"]) -> Float[Tensor, "*b 6"]:
    """Parameters with angles in degrees, as people state them, to radians."""
    return torch.cat([torch.deg2rad(eta[..., :3]), eta[..., 3:]], dim=-1)


def to_degrees(eta: Float[Tensor, "*b 6"]) -> Float[Tensor, "*b 6"]:
    """The inverse of `to_radians`."""
    return torch.cat([torch.rad2deg(eta[..., :3]), eta[..., 3:]], dim=-1)
