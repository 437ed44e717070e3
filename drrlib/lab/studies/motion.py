"""Moving bodies: smooth paths, films of them in one view or several, and errors over time."""

import math
from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.drr import DRR
from drrlib.geometry import inverse, mtre
from drrlib.lab.detector import add_scatter, quantum_noise
from drrlib.lab.studies import fluoroscopy
from drrlib.registration import Track
from drrlib.view import View
from drrlib.volume import Volume

KNEE_STEPS = ("implant_0", "implant_50", "implant_100")
_PERIODS = (19.0, 27.0, 23.0, 31.0, 21.0, 29.0)  # of the six parameters [time steps]


def smooth_path(
    base: Float[Tensor, "6"], count: int, rotation: float, translation: float, phase: float = 0.0
) -> Float[Tensor, "n 6"]:
    """Parameters that swing about `base`, each with a period of its own, from `base` on.

    Args:
        base: Where it begins [rad, mm].
        count: Time steps.
        rotation, translation: How far each parameter swings [rad, mm].
        phase: Where in its swing each begins [rad]; other values are other paths.
    """
    time = torch.arange(count, dtype=torch.float64)[:, None]
    turn = 2 * math.pi * time / torch.tensor(_PERIODS, dtype=torch.float64) + phase
    swing = torch.tensor([rotation] * 3 + [translation] * 3, dtype=torch.float64)
    return base + swing * (turn.sin() - math.sin(phase))


def film(
    bodies: Sequence[Volume],
    paths: Sequence[Float[Tensor, "n 6"]],
    views: Sequence[View],
    dice: torch.Generator,
    *,
    photons: float = 1e5,
    scatter: float = 0.2,
) -> list[list[View]]:
    """Time steps of bodies that move on their own, all in one picture of each camera.

    Args:
        bodies: What absorbs.
        paths: Parameters of the first camera about each body, for each time step [rad, mm].
        views: Their cameras; of several, their poses in the room.
        dice: Draws the noise.
        photons: Per pixel of the open beam.
        scatter: Median scatter-to-primary ratio.
    """
    first, frames = views[0], []
    for step in zip(*paths, strict=True):
        taken = []
        for view in views:
            image = 0.0
            for body, eta in zip(bodies, step, strict=True):
                pose = first.carm.pose(eta, body.center)
                if view is not first:
                    pose = pose @ inverse(first.pose) @ view.pose
                image = image + DRR(body, view.carm)(pose[None])
            image = quantum_noise(add_scatter(image, scatter, image.shape[-1] / 4), photons, dice)
            taken.append(View(image, view.carm, pose=view.pose))
        frames.append(taken)
    return frames


def tracked_errors(track: Track, path: Float[Tensor, "n 6"]) -> pd.DataFrame:
    """A row for each time step: `Track.table` and the true error.

    Args:
        track: Of one body.
        path: True parameters of the first camera about it.

    Returns:
        With mtre_mm, and across_mm and depth_mm of the centre.
    """
    rows = []
    for one, row, eta in zip(track.results, track.table(), path, strict=True):
        error = one.compare(eta)
        rows.append(
            row
            | dict(
                mtre_mm=float(error.mtre),
                across_mm=float(error.parts.in_plane),
                depth_mm=float(error.parts.depth),
            )
        )
    return pd.DataFrame(rows)


def knee_steps(pixels: int = 512, views: int = 2) -> tuple[list[list[View]], Volume, Tensor]:
    """The given time steps of the knee prosthesis: frames, its volume, true parameters [n, 6].

    Raises:
        DatasetError: data that cannot be had here.
    """
    scenes = [fluoroscopy.load_scene(fluoroscopy.KNEE, n, views, pixels) for n in KNEE_STEPS]
    body, camera = scenes[0].body, scenes[0].views[0]
    path = []
    for scene in scenes:
        moved = scene.body.affine @ torch.linalg.inv(body.affine)  # of the body, in the room
        path.append(camera.carm.eta(inverse(moved) @ camera.pose, body.center))
    return [list(scene.views) for scene in scenes], body, torch.stack(path)


def steps_between(path: Float[Tensor, "n 6"], body: Volume, carm) -> Float[Tensor, " m"]:
    """How far the targets move from each time step to the next [mm]."""
    poses = carm.pose(path, body.center)
    return mtre(poses[1:], poses[:-1], body.targets)
