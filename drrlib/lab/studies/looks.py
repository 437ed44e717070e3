"""Registrations of pictures in files that look as the clinic would give them, of a longer body."""

import dataclasses
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch

from drrlib.drr import DRR
from drrlib.errors import ConfigError
from drrlib.geometry import CArm
from drrlib.io import read_xray
from drrlib.lab.detector import Effects, acquire, save_picture, two_materials
from drrlib.lab.studies.protocol import read_config
from drrlib.lab.studies.registration import pose_columns
from drrlib.registration import PRESETS, register
from drrlib.view import View
from drrlib.volume import Volume

# Of a result, by the column of the table.
_FOUND = {name: name for name in ("loss", "converged", "reason", "inverted", "gap", "kept")}
_FOUND |= {f"{name}_mm": name for name in ("target_sd", "across_sd", "depth_sd")}
_FOUND |= {name: name for name in ("attempts", "renders", "seconds")}


def look_trials(config: Mapping, indices: Sequence[int]) -> pd.DataFrame:
    """Registrations of one body under all looks; the work of `run_study`.

    What was imaged is the whole volume; what is registered is its middle, `cut` mm shorter at each
    end along z. The picture is saved as a file, and read again by `read_xray` with its C-arm.

    Args:
        config: `protocol`, entries of a Protocol but those of a descent; `looks`, effects of
            `detector.acquire` by name; `views`, the views [deg] that poses take in turn; `cut`
            [mm]; `preset`, "auto" for what `register` takes unasked, another name, or a mapping of
            changed entries of preset "xray".
        indices: Pose k under look l of n has index k n + l. True pose and start depend on k alone.

    Returns:
        A row per trial: look, pose (number), view (number), the columns of `pose_columns`, and of
        the result loss, converged, reason, inverted, gap, kept, target_sd_mm, across_sd_mm,
        depth_sd_mm, attempts, renders, seconds.

    Raises:
        ConfigError: an unknown effect or entry, or one that is not used; nothing is left of the CT.
    """
    protocol, looks, views, cut, preset = read_config(config, "looks", "views", "cut", "preset")
    descent = ("optimizer", "rates", "levels", "schedule", "derivative", "threshold", "trace")
    protocol.refuse("a study of looks, which registers,", *descent, "view", "loss", "noise")
    if not looks or not views:
        raise ConfigError("looks or views is empty; expected at least one of each")
    for effects in looks.values():
        Effects.of(effects)
    chosen = None if preset == "auto" else preset
    if isinstance(preset, Mapping):
        chosen = dataclasses.replace(PRESETS["xray"], **preset)
    names, drr = list(looks), protocol.renderer()
    ct = middle_of(drr.volume, cut)
    search = (math.radians(protocol.start_rotation), protocol.start_translation)
    rows = []
    for index in indices:
        number, name = index // len(names), names[index % len(names)]
        view = views[number % len(views)]
        true_eta, start, dice = protocol.with_(view=view).draw(number)
        pose, around = drr.pose(torch.stack([true_eta, start])), ct.center
        image = photograph(drr, pose[:1], dice, **looks[name])
        began = time.perf_counter()
        first = drr.carm.eta(pose[1], around)
        found = register(image, ct, first, preset=chosen, search=search, backend=protocol.backend)
        ends = drr.carm.eta(torch.stack([pose[0], pose[1], found.pose]), drr.volume.center)
        row = dict(trial=index, look=name, pose=number, view=number % len(views))
        row |= {column: values[0] for column, values in pose_columns(drr, *ends[:, None]).items()}
        row |= {column: getattr(found, key) for column, key in _FOUND.items()}
        rows.append(row | dict(seconds=time.perf_counter() - began))
    return pd.DataFrame(rows)


def photograph(drr: DRR, pose, dice: torch.Generator, **effects) -> View:
    """An image with effects of `detector.acquire`, through a file and back by `read_xray`."""
    times = int(effects.get("finer", 1))
    carm: CArm = drr.carm
    fine = carm.resize(times * carm.height, times * carm.width)
    whole = DRR(drr.volume, fine, method=drr.method, backend=drr.backend)
    with torch.no_grad():
        image = acquire(two_materials(whole), pose, dice, **effects)
    suffix = ".png" if Effects.of(effects).shown else ".tif"
    with tempfile.TemporaryDirectory() as folder:
        path = save_picture(Path(folder) / f"xray{suffix}", image)
        return read_xray(path, carm=carm)


def middle_of(volume: Volume, cut: float) -> Volume:
    """A volume without `cut` mm at each end of its third axis; its centre is its own.

    Raises:
        ConfigError: less than two slices are left, or cut is negative.
    """
    off = round(cut / float(volume.spacing[2]))
    if not cut >= 0 or volume.shape[2] - 2 * off < 2:
        raise ConfigError(
            f"cut is {cut} mm at each end of {volume.shape[2]} slices of "
            f"{float(volume.spacing[2]):.3g} mm; expected at least 0, and two slices that are left"
        )
    affine = volume.affine.clone()
    affine[:3, 3] += off * affine[:3, 2]
    return Volume(volume.mu[:, :, off : volume.shape[2] - off].contiguous(), affine)


def stated_against_true(trials: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """How often the pose is right, and the true error within one and two stated deviations.

    One view may hold its depth loosely. Then the error across the view decides, and depth must lie
    within what is stated.

    Args:
        trials: With columns mtre_mm, in_plane_mm, depth_mm, target_sd_mm, depth_sd_mm, converged,
            and those of `by`.

    Returns:
        A row per group, columns `by`, trials, found (mTRE < 1 mm), right (found, or within 1 mm
        across the view and two stated deviations along it), wrong_and_converged (mTRE > 2 mm),
        converged, median_mm, within_1_sd_percent and within_2_sd_percent.
    """
    columns = [*by, "trials", "found", "right", "wrong_and_converged", "converged", "median_mm"]
    columns += [f"within_{times}_sd_percent" for times in (1, 2)]
    rows = []
    groups = trials.groupby(list(by), sort=False) if by else [((), trials)]
    for key, part in groups:
        sure, error = part["converged"].astype(bool), part["mtre_mm"]
        found, ratio = error < 1, error / part["target_sd_mm"]
        held = (part["in_plane_mm"] < 1) & (part["depth_mm"] < 2 * part["depth_sd_mm"])
        counts = (len(part), found.sum(), (found | held).sum(), (sure & (error > 2)).sum())
        within = [100 * (ratio < times).mean() for times in (1, 2)]
        rows.append((*key, *map(int, counts), int(sure.sum()), error.median(), *within))
    return pd.DataFrame(rows, columns=columns)
