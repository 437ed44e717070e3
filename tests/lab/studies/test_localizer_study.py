"""Trials of the localizer: what they draw, what the search hands on, how errors are counted."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch

from drrlib.drr import DRR
from drrlib.errors import ConfigError, DatasetError
from drrlib.geometry import pose_errors
from drrlib.lab import datasets
from drrlib.lab.evaluation import rate_columns
from drrlib.lab.studies import ETA_COLUMNS
from drrlib.lab.studies.localizer import (
    SIMULATED,
    LocalizerProtocol,
    averaged,
    choose_subject,
    load_localizer,
    localizer_trials,
    loss_profiles,
    search,
    spacing_fits,
    summarise,
)
from drrlib.similarity import zncc

SMALL = LocalizerProtocol(
    subject=SIMULATED,
    start_rotation=8.0,
    start_translation=12.0,
    starts=3,
    spread=0.5,
    seed=2,
    stages=((8, 8.0, 25, "zncc", 2), (4, 4.0, 12, "gradient_ncc", 1)),
)


@pytest.fixture(scope="module")
def table():
    return localizer_trials(SMALL.config(), range(3))


def test_draws_stay_in_their_ranges():
    drawn = torch.stack([dataclasses.replace(SMALL, starts=4).draw(i) for i in range(200)])
    reach = torch.tensor([math.radians(8.0)] * 3 + [12.0] * 3)
    given, around = drawn[:, 0] / reach, (drawn[:, 1:] - drawn[:, :1]) / reach
    for part, size in ((given, 1.0), (around, 0.5)):
        assert 0.95 * size < float(part.abs().max()) <= size * (1 + 1e-6)
        assert bool((part.reshape(-1, 6).mean(dim=0).abs() < 0.25 * size).all())
    assert torch.equal(SMALL.draw(5), SMALL.draw(5)) and not torch.equal(
        SMALL.draw(5), SMALL.draw(6)
    )


def test_the_simulated_image_is_the_phantom_at_its_pose():
    scan = load_localizer(SIMULATED)
    assert tuple(scan.image.shape) == (1, 1, scan.geometry.height, scan.geometry.width)
    assert bool((scan.image == scan.image.round()).all()) and float(scan.image.max()) <= 4095
    drr = DRR(averaged(SIMULATED, 4.0), scan.geometry)
    moved = scan.pose.clone()
    moved[:, 2, 3] += 6.0
    likeness = [float(zncc(scan.image, drr(pose))[0]) for pose in (scan.pose, moved)]
    assert likeness[0] > 0.9 and likeness[0] > likeness[1] + 0.01
    for voxel in (2.0, 4.0, 8.0):
        assert torch.allclose(averaged(SIMULATED, voxel).center, scan.center)


def test_the_search_comes_back(table):
    assert (table["start_rotation_deg"] > 3).all() and (table["start_in_plane_mm"] > 2).all()
    assert (table["rotation_deg"] < 2).all() and (table["in_plane_mm"] < 1).all(), table


def test_records_agree_with_their_own_poses(table):
    """Errors are computed anew from the recorded parameters."""
    scan = load_localizer(SIMULATED)
    off = torch.from_numpy(table[[f"off_{name}" for name in ETA_COLUMNS]].to_numpy(copy=True))
    off[:, :3] = torch.deg2rad(off[:, :3])
    errors = pose_errors(scan.geometry.pose(scan.eta + off, scan.center), scan.pose, scan.center)
    assert np.allclose(table["rotation_deg"], torch.rad2deg(errors.rotation), atol=1e-9)
    assert np.allclose(table["in_plane_mm"], errors.in_plane, atol=1e-9)
    # Lateral: depth is the patient's x, but for a turn about an isocentre 10 mm away.
    assert np.allclose(table["depth_mm"], off[:, 3].abs(), atol=0.3)
    assert list(table["trial"]) == [0, 1, 2]


def test_trials_do_not_know_of_each_other(table):
    alone = localizer_trials(SMALL.config(), [2])
    assert np.allclose(alone.to_numpy(), table.iloc[2:].to_numpy(), rtol=1e-4, atol=1e-4)


def test_the_best_starts_go_on():
    """Of a start at the truth and far ones, whatever their order, the truth is refined."""
    scan = load_localizer(SIMULATED)
    far = torch.tensor([0.6, 0.5, -0.6, 60.0, 50.0, 70.0], dtype=torch.float64)
    start = torch.stack([scan.eta + far, scan.eta, scan.eta - far])[None]
    short = dataclasses.replace(
        SMALL, stages=((8, 8.0, 2, "zncc", 1), (4, 4.0, 2, "zncc", 1)), rates=(0.001, 0.1)
    )
    found, loss = search(short, start)
    assert found.shape == (1, 6) and loss.shape == (1,)
    assert float((found[0] - scan.eta).abs().max()) < 0.5


def test_success_by_hand():
    trials = pd.DataFrame(
        {"rotation_deg": [0.5, 0.2, 1.5], "in_plane_mm": [0.1, 2.0, 0.2], "depth_mm": [9.0, 1, 1]}
    )
    row = summarise(trials)
    rates = rate_columns(1, 3)
    assert (row["successes"], row["trials"]) == (1, 3)
    assert rates["low_percent"] < 100 / 3 < rates["high_percent"]
    assert {name: row[name] for name in rates} == rates
    assert row["median_depth_mm"] == row["largest_depth_mm"] == 9.0
    assert summarise(trials, rotation=2.0, in_plane=3.0)["successes"] == 3


def test_profiles_have_their_lowest_value_near_the_truth():
    scan = load_localizer(SIMULATED)
    table = loss_profiles(
        SIMULATED,
        scan.eta,
        losses=("zncc",),
        rotation=8.0,
        translation=16.0,
        count=5,
        binning=8,
        voxel=4.0,
    )
    assert list(table.columns) == ["parameter", "offset", "zncc"] and len(table) == 30
    for name in ("theta_deg", "gamma_deg", "by_mm", "bz_mm"):
        part = table[table["parameter"] == name]
        assert abs(float(part.loc[part["zncc"].idxmin(), "offset"])) <= part["offset"].max() / 2


def test_the_spacing_is_told_apart_from_depth():
    """The simulated header is right: its own spacing fits best, and depth follows a wrong one."""
    scan = load_localizer(SIMULATED)
    protocol = dataclasses.replace(
        SMALL, stages=((4, 4.0, 30, "gradient_ncc", 1),), rates=(0.005, 1)
    )
    table = spacing_fits(protocol, scan.eta, (0.95, 1.0, 1.05))
    assert table["loss"].idxmin() == 1
    depth = table["off_bx_mm"]
    assert depth[0] > depth[1] + 10 and depth[2] < depth[1] - 10


@pytest.mark.parametrize(
    "change", [dict(starts=1), dict(stages=()), dict(stages=((8, 4.0, 5, "zncc", 2),))]
)
def test_protocols_that_cannot_work(change):
    with pytest.raises(ConfigError, match="falling numbers"):
        dataclasses.replace(SMALL, **change)
    with pytest.raises(ConfigError, match="choose one of plastic_skull_1mm"):
        load_localizer("skul")


def test_unknown_entries_are_named():
    with pytest.raises(ConfigError, match="a protocol has no sed; it has subject"):
        localizer_trials({**SMALL.config(), "sed": 3}, [0])


def test_without_data_the_simulated_image_stands_in(monkeypatch):
    def missing(name):
        raise DatasetError(f"{name} is not here")

    monkeypatch.setattr(datasets, "path", missing)
    subject, why = choose_subject()
    assert subject == SIMULATED and why.startswith("simulated")
    monkeypatch.setattr(datasets, "path", lambda name: name if "1mm" not in name else missing(name))
    assert choose_subject() == ("plastic_skull_5mm", "real localizer, CT plastic_skull_5mm")
    monkeypatch.setattr(datasets, "path", lambda name: name if "mm" not in name else missing(name))
    assert choose_subject()[0] == SIMULATED


def test_the_real_localizer(real_data, monkeypatch):
    monkeypatch.setenv("DRRLIB_DATA", str(real_data))
    for name in ("plastic_skull_5mm", "plastic_skull_localizer"):
        if not (real_data / datasets._entry(name, None)["file"]).exists():
            pytest.skip(f"DRRLIB_DATA does not hold {name}")
    protocol = dataclasses.replace(SMALL, subject="plastic_skull_5mm")
    table = localizer_trials(protocol.config(), range(2))
    assert (table["in_plane_mm"] < 1.5).all() and (table["rotation_deg"] < 2).all(), table
