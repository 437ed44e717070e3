"""Starts from picked landmarks: whose errors, how large, and what is recorded."""

import numpy as np
import pytest
import torch

from drrlib.errors import ConfigError
from drrlib.geometry import mtre
from drrlib.lab.studies import Protocol, eta_of, landmark_trials, landmarks_of, on_detector
from drrlib.lab.studies.landmarks import picked_pose

SMALL = Protocol(voxel=8.0, pixels=24, levels=((1, 40),), view_range=20.0, shift_range=10.0, seed=4)


def trials(start, error, protocol=SMALL, count=4):
    return landmark_trials(
        dict(protocol=protocol.config(), start=start, error_mm=error), range(count)
    )


def test_landmarks_are_named_points_inside_the_volume():
    for name, known in (("skull", "nasion"), ("thorax", "T7"), ("pelvis", "L5")):
        marks = landmarks_of(name)
        assert known in marks and len(marks) >= 6
        corner = Protocol(volume=name, voxel=8.0).renderer().volume
        half = 0.5 * corner.spacing * torch.tensor(corner.mu.shape)
        points = torch.tensor(list(marks.values()), dtype=torch.float64)
        assert ((points - corner.center).abs() <= half).all()
    with pytest.raises(ConfigError, match="'plastic_skull' has no named landmarks"):
        landmarks_of("plastic_skull")


@pytest.mark.parametrize("start", ["arun", "pnp"])
def test_picks_without_error_start_at_the_truth(start):
    table = trials(start, 0.0)
    assert (table["start_mtre_mm"] < 1e-3).all() and (table["steps"] == 1).all()
    assert (table["start"] == start).all() and (table["error_mm"] == 0).all()


def test_the_start_s_errors_are_recorded():
    table = trials("pnp", 5.0)
    drr = SMALL.renderer()
    start, true = (drr.pose(eta_of(table, k)) for k in ("start", "true"))
    assert np.allclose(table["start_mtre_mm"], mtre(start, true, drr.volume.targets), rtol=1e-9)
    # The centre's shift is what both parts make; the mTRE has the turn in it, too.
    shift = np.hypot(table["start_in_plane_mm"], table["start_depth_mm"])
    turned = 100 * np.sin(np.radians(table["start_turn_deg"]) / 2)  # 50 mm away, at most
    assert (table["start_mtre_mm"] <= shift + turned + 1e-6).all()
    assert ((table["landmarks"] >= 6) & (table["landmarks"] <= 12)).all()
    assert (table["mtre_mm"] < table["start_mtre_mm"]).all()


def test_trials_share_poses_and_errors_across_kinds_and_sizes():
    small, large, other = trials("arun", 1.0), trials("arun", 2.0), trials("pnp", 1.0)
    for table in (large, other):
        assert torch.equal(eta_of(table, "true"), eta_of(small, "true"))
    # For small errors the start's error is proportional to theirs.
    assert np.allclose(large["start_mtre_mm"], 2 * small["start_mtre_mm"], rtol=0.05)
    alone = landmark_trials(dict(protocol=SMALL.config(), start="pnp", error_mm=1.0), [2])
    assert alone["start_mtre_mm"][0] == pytest.approx(other["start_mtre_mm"][2], rel=1e-6)
    blind = trials("blind", 0.0)
    assert torch.allclose(eta_of(blind, "start")[1], SMALL.draw(1)[1])


def test_errors_have_the_size_that_was_asked_for():
    """The centroid of n paired picks is off by a Gaussian of size sqrt(2 / n) x error per axis."""
    drr = SMALL.renderer()
    points = torch.tensor(list(landmarks_of("skull").values()), dtype=torch.float64)
    eta = torch.zeros(6, dtype=torch.float64)
    true = drr.pose(eta)
    moved = []
    for seed in range(400):
        dice = torch.Generator().manual_seed(seed)
        pose, count = picked_pose(drr, eta, points, "arun", 3.0, dice)
        motion = true @ torch.linalg.inv(pose)
        middle = points.mean(dim=0)
        moved.append(motion[:3, :3] @ middle + motion[:3, 3] - middle)
    assert count == len(points)
    size = torch.stack(moved).square().mean().sqrt()
    # 1200 draws: 5 standard errors are 5 / sqrt(2400) = 10 %.
    assert abs(float(size) / (3.0 * (2 / len(points)) ** 0.5) - 1) < 0.1


def test_only_what_is_on_the_detector_is_picked():
    carm = SMALL.renderer().carm
    pose = carm.pose(torch.zeros(1, 6), torch.zeros(3))[0]
    points = torch.tensor([[0.0, 0, 0], [99, 0, 0], [101, 0, 0], [0, 0, -101]]).double()
    # Magnification 2, 400 mm: what lies beside the isocentre is seen up to 100 mm.
    pixels, seen = on_detector(carm, pose, points)
    assert seen.tolist() == [True, True, False, False] and pixels[0].tolist() == [12.0, 12.0]
    far = SMALL.with_(detector=120.0)
    with pytest.raises(ConfigError, match="landmarks are on the detector"):
        trials("pnp", 1.0, far)
    assert (trials("arun", 1.0, far.with_(levels=((1, 1),)))["landmarks"] == 12).all()


def test_wrong_configurations_are_named():
    with pytest.raises(ConfigError, match="blind, arun, pnp"):
        trials("epnp", 1.0)
    with pytest.raises(ConfigError, match=r"'blind' makes nothing of error_mm, which is 1\.0"):
        trials("blind", 1.0)
    whole = dict(protocol=SMALL.config(), start="arun", error_mm=1.0)
    with pytest.raises(ConfigError, match=r"has error, which .* takes protocol, start, error_mm"):
        landmark_trials({**whole, "error": 2.0}, [0])
    with pytest.raises(ConfigError, match="lacks start, error_mm; this work takes"):
        landmark_trials(dict(protocol=SMALL.config()), [0])
