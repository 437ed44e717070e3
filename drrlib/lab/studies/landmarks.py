"""Studies of starts from landmarks: picking errors, the start that they give, what becomes of it.

Every pick is off by a Gaussian error of the same size along each axis: in the CT, and where the
same landmark is touched in the room ("arun") or clicked in the image ("pnp", in mm at the
detector). "blind" is the start of the protocol, for comparison.
"""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.drr import DRR
from drrlib.errors import ConfigError
from drrlib.geometry import CArm, pose_errors, se3, transform_points
from drrlib.lab import phantoms
from drrlib.lab.studies.protocol import read_config
from drrlib.lab.studies.registration import run_trials
from drrlib.registration import arun, pnp

STARTS = ("blind", "arun", "pnp")


def landmarks_of(volume: str) -> dict[str, tuple[float, float, float]]:
    """Named anatomical points [mm, world] of a phantom.

    Raises:
        ConfigError: not a phantom: the landmarks of a CT must be picked by hand.
    """
    makers = phantoms.MAKERS
    if volume not in makers:
        raise ConfigError(f"{volume!r} has no named landmarks; choose one of {', '.join(makers)}")
    return makers[volume](1.0, shape=1).landmarks  # they do not depend on the voxels


def on_detector(
    carm: CArm, pose: Float[Tensor, "4 4"], points: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, "n 2"], Tensor]:
    """Where points are seen, and whether that is on the detector."""
    pixels = carm.project(points, pose[None])[0]
    size = torch.tensor([carm.width, carm.height])
    return pixels, ((pixels > 0) & (pixels < size)).all(dim=1)


def landmark_trials(config: Mapping, indices: Sequence[int]) -> pd.DataFrame:
    """Registrations that start from landmarks; the work of `run_study`.

    Trial i has the same true pose, and the same errors up to their size, for every kind of start.

    Args:
        config: `protocol`, entries of a Protocol whose volume is a phantom, of which the range
            of the starts is for "blind" alone; `start`, one of STARTS; `error_mm`, standard
            deviation of each pick along each axis, 0 for "blind".
        indices: Which trials; they run side by side.

    Returns:
        As `run_trials`, with columns start, error_mm, landmarks (how many were used),
        start_turn_deg, start_in_plane_mm and start_depth_mm.

    Raises:
        ConfigError: another kind of start, a volume without landmarks, a view in which fewer than
            six landmarks are on the detector, or an entry that is unknown or not used.
    """
    protocol, kind, error = read_config(config, "start", "error_mm")
    if kind not in STARTS:
        raise ConfigError(f"start is {kind!r}; choose one of {', '.join(STARTS)}")
    if kind == "blind" and error:
        raise ConfigError(f"start 'blind' makes nothing of error_mm, which is {error}; set it to 0")
    drr = protocol.renderer()
    points = torch.tensor(list(landmarks_of(protocol.volume).values()), dtype=torch.float64)
    true_eta, starts, dice = protocol.draws(indices)
    used = [0] * len(dice)
    if kind != "blind":
        for k, (eta, own) in enumerate(zip(true_eta, dice, strict=True)):
            pose, used[k] = picked_pose(drr, eta, points, kind, error, own)
            starts[k] = drr.carm.eta(pose, drr.volume.center)
    table = run_trials(protocol, drr, indices, true_eta, starts, dice)
    errors = pose_errors(drr.pose(starts), drr.pose(true_eta), drr.volume.center)
    table = table.assign(start=kind, error_mm=float(error), landmarks=used)
    table["start_turn_deg"] = torch.rad2deg(errors.rotation).numpy()
    return table.assign(start_in_plane_mm=errors.in_plane, start_depth_mm=errors.depth)


def picked_pose(
    drr: DRR,
    eta: Float[Tensor, "6"],
    points: Float[Tensor, "n 3"],
    kind: str,
    error: float,
    dice: torch.Generator,
) -> tuple[Float[Tensor, "4 4"], int]:
    """The pose that picks of the landmarks give, and how many were picked.

    Args:
        drr: For its C-arm and the volume's centre.
        eta: True pose.
        points: Landmarks [mm, world].
        kind: "arun" or "pnp".
        error: Standard deviation of each pick along each axis [mm].
        dice: Draws the errors.
    """

    def off(size: int) -> Tensor:
        return error * torch.randn(len(points), size, generator=dice, dtype=torch.float64)

    # All are drawn, needed or not, so that both kinds meet the same errors.
    in_ct, in_room, in_image = points + off(3), off(3), off(2)
    room_from_world = se3.exp(torch.randn(6, generator=dice, dtype=torch.float64))
    pose = drr.carm.pose(eta, drr.volume.center)
    if kind == "arun":
        # The C-arm's pose is known in the room, where the landmarks are touched with a pointer.
        touched = transform_points(room_from_world, points) + in_room
        return arun(touched, in_ct) @ room_from_world @ pose, len(points)
    pixels, seen = on_detector(drr.carm, pose, points)
    if int(seen.sum()) < 6:
        raise ConfigError(
            f"{int(seen.sum())} landmarks are on the detector; a start from picks in the image "
            "needs 6: take a wider detector, a smaller shift_range or view_range, or start='arun'"
        )
    spacing = torch.tensor([drr.carm.delx, drr.carm.dely], dtype=torch.float64)
    clicked = pixels + in_image / spacing
    return pnp(drr.carm, in_ct[seen], clicked[seen]).pose, int(seen.sum())
