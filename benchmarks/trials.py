"""A line for each registration that a bench tried, in a file of JSON lines."""

import json
from pathlib import Path

from torch import Tensor

from drrlib import RegistrationResult


def row(found: RegistrationResult, pose: Tensor, seconds: float, **case) -> dict:
    """What was found for a case, against the true pose [4, 4]."""
    error = found.compare(pose)
    return dict(
        **case,
        mtre=float(error.mtre),
        in_plane=float(error.parts.in_plane),
        depth=float(error.parts.depth),
        converged=found.converged,
        reason=found.reason,
        inverted=found.inverted,
        loss=found.loss,
        kept=found.kept,
        gap=found.gap,
        sd=found.target_sd,
        across_sd=found.across_sd,
        depth_sd=found.depth_sd,
        attempts=found.attempts,
        renders=found.renders,
        seconds=seconds,
    )


def append(path: Path, found: dict) -> None:
    with path.open("a") as file:
        file.write(json.dumps(found) + "\n")
