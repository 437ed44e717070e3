"""Monte Carlo studies of registration: random poses and starts, a record of each trial.

Records are judged in `evaluation`.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.drr import DRR
from drrlib.errors import ConfigError
from drrlib.geometry import mrpd, mtre, pose_errors, to_degrees, to_radians
from drrlib.lab.evaluation import CRITERIA
from drrlib.lab.studies.protocol import Protocol, read_config
from drrlib.registration import RegistrationResult
from drrlib.similarity import zncc

ETA_COLUMNS = ("theta_deg", "phi_deg", "gamma_deg", "bx_mm", "by_mm", "bz_mm")


def registration_trials(config: Mapping, indices: Sequence[int]) -> pd.DataFrame:
    """The trials of a study by their index, rows of `run_trials`; the work of `run_study`.

    Args:
        config: Entries of `Protocol`.
        indices: Which trials; they run side by side.
    """
    protocol = Protocol.of(config)
    return run_trials(protocol, protocol.renderer(), indices, *protocol.draws(indices))


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
        A row per trial: loss and zncc of the pose at the lowest loss, and `pose_columns`; steps to
        the end, to a loss below 1e-6 (`steps_loss`) and to a ZNCC above 0.999 (`steps_zncc`, where
        the loss is 1 - ZNCC), NaN where it never was so; renders; reason of the end.
    """
    if protocol.trace and len(protocol.levels) > 1:
        raise ConfigError(
            f"trace is {protocol.trace} with {len(protocol.levels)} levels, whose losses are not "
            "comparable; set trace=0, or give one level"
        )
    fixed = with_noise(drr.at(true_eta).detach(), protocol.noise, dice)
    result = protocol.descend(fixed, drr, start, indices)
    table = dict(
        trial=list(indices),
        loss=result.loss,
        zncc=zncc(fixed, drr(result.pose).detach()).double().cpu(),
        **pose_columns(drr, true_eta, start, result.eta),
        **_steps(result, protocol),
        reason=list(result.reason),
    )
    if protocol.trace:
        losses, never = result.trace.loss, torch.full((len(start),), torch.nan)
        for k in range(0, sum(n for _, n in protocol.levels), protocol.trace):
            table[f"loss_{k}"] = losses[k].float() if k < len(losses) else never
    return pd.DataFrame({k: v.numpy() if torch.is_tensor(v) else v for k, v in table.items()})


def with_noise(
    images: Float[Tensor, "n 1 height width"], noise: float, dice: Sequence[torch.Generator]
) -> Float[Tensor, "n 1 height width"]:
    """Images with Gaussian noise, whose deviation is a part of each one's brightest pixel."""
    if not noise:
        return images
    grain = [torch.randn(images.shape[1:], generator=d).to(images) for d in dice]
    return images + noise * images.amax(dim=(1, 2, 3), keepdim=True) * torch.stack(grain)


def pose_columns(
    drr: DRR,
    true: Float[Tensor, "n 6"],
    start: Float[Tensor, "n 6"],
    final: Float[Tensor, "n 6"],
) -> dict[str, np.ndarray]:
    """Columns of a record for poses [rad, mm]: mtre_mm, mrpd_mm and the parts of the error at the
    end, start_mtre_mm, and true_*, start_*, final_* for the six parameters."""
    true_pose, found, points = drr.pose(true), drr.pose(final), drr.volume.targets
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
        config: `protocol`, entries of a Protocol but rates and trace; `rotation` and
            `translation`, the rates to try, all pairs; `starts`, how many trials each pair gets.
        indices: Pairs in the order of their product, translation running fastest.

    Returns:
        Columns trial, lr_rotation, lr_translation, score (the mean of log10 of the final loss, no
        loss counting less than the protocol's threshold) and the number of successes by each
        criterion.

    Raises:
        ConfigError: an entry that is unknown or not used, or an index beyond the pairs.
    """
    protocol, *rates, starts = read_config(config, "rotation", "translation", "starts")
    protocol.refuse("a search of rates", "rates", "trace")
    pairs = list(itertools.product(*rates))
    beyond = [i for i in indices if i >= len(pairs)]
    if beyond:
        raise ConfigError(
            f"trial {beyond[0]} is asked of {len(pairs)} pairs of rates; expected at most "
            f"{len(pairs)} trials"
        )
    rows = []
    for index in indices:
        table = registration_trials(protocol.with_(rates=pairs[index]).config(), range(starts))
        # A start that was lost counts as bad as an image that has nothing in common.
        loss = table["loss"].where(np.isfinite(table["loss"]), 1.0).clip(protocol.threshold)
        row = dict(trial=index, lr_rotation=pairs[index][0], lr_translation=pairs[index][1])
        hits = {name: int(met(table).sum()) for name, met in CRITERIA.items()}
        rows.append({**row, "score": float(np.log10(loss).mean()), **hits})
    return pd.DataFrame(rows)


def _steps(result: RegistrationResult, protocol: Protocol) -> dict[str, Tensor]:
    """Steps until the end and until each threshold was passed, renders, per trial."""
    count = torch.isfinite(result.trace.loss).cumsum(dim=0)  # of the start's own steps
    ran = count[-1]
    # A loss of a coarser level is not one of the image.
    final = result.trace.level == protocol.levels[-1][0]
    losses = torch.where(final[:, None], result.trace.loss, torch.inf)

    def first(below: float) -> Tensor:
        hit = losses < below
        row = hit.double().argmax(dim=0)
        step = count.gather(0, row[None])[0] - 1
        return torch.where(hit.any(dim=0), step.double(), torch.nan)

    share = 13 if protocol.derivative == "finite" else 1
    steps = dict(steps=ran, renders=share * ran, steps_loss=first(1e-6))
    return steps | (dict(steps_zncc=first(1 - 0.999)) if protocol.loss == "zncc" else {})
