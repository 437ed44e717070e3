"""A body is followed through a run, doubted where it cannot be seen, and found again."""

import dataclasses
import inspect
import json
import math

import pytest
import torch

from drrlib.drr import DRR
from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry import CArm, inverse, mtre, se3
from drrlib.lab.detector import LOOKS, acquire, two_materials
from drrlib.lab.phantoms import skull
from drrlib.registration import Preset, Track, register
from drrlib.registration import track as follow
from drrlib.registration.motion import predicted, smoothed
from drrlib.registration.short_fit import Before, Ended, verdict
from drrlib.view import View
from drrlib.volume import Volume

CARM = CArm(1020.0, 510.0, 64, 64, 400 / 64, 400 / 64)
STEPS = 8
FEW = Preset(48, 6, 20, (2, 1), ((6, 4), (4, 3)), finest=None, attempts=1)  # a search in less time
FEW_IN_WINDOWS = dataclasses.replace(FEW, rotations=64, window=2.5)
OFF = torch.tensor([0.1, -0.1, 0.1, 8.0, -8.0, 8.0], dtype=torch.float64)
SIDE = torch.tensor([0.0, 1.4, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)


@pytest.fixture(scope="module")
def volume():
    phantom = skull(4.0)
    return Volume.from_hu(phantom.hu, phantom.affine)


def motion(count):
    """Parameters of a smooth motion of about 2 mm and 1.5 degrees a step [count, 6]."""
    t = torch.arange(count, dtype=torch.float64)
    turn = [0.1 * torch.sin(t / 5), 0.2 + 0.15 * torch.sin(t / 6), 0.05 * torch.cos(t / 4)]
    shift = [6 * torch.sin(t / 6), 5 * torch.cos(t / 5), 8 * torch.sin(t / 7)]
    return torch.stack([*turn, *shift], dim=1)


def pictures(volume, eta, noise=0.02, seed=0, carm=CARM):
    drr = DRR(volume, carm, method="joseph")
    images = drr(drr.pose(eta))[:, 0].double()
    dice = torch.Generator().manual_seed(seed)
    return images + noise * torch.randn(images.shape, generator=dice, dtype=torch.float64)


def errors(found, volume, eta):
    """mTRE of each time step [mm]."""
    return mtre(found.poses, CARM.pose(eta, volume.center), volume.targets)


def track(frames, volume, start=None, **options):
    """With a small range for the first time step, which is `register`'s matter."""
    return follow(frames, volume, start, search=(0.2, 20.0), **options)


@pytest.fixture(scope="module")
def run(volume):
    """Truth, images, and what was found."""
    eta = motion(STEPS)
    images = pictures(volume, eta)
    frames = [View(images[0], CARM), *images[1:]]
    return eta, frames, track(frames, volume, eta[0] + OFF)


# --- what it follows


def test_a_known_motion_is_followed_for_few_renders(run, volume):
    eta, _, found = run
    assert bool(found.converged.all())
    assert float(errors(found, volume, eta).max()) < 0.3
    assert found[0].attempts == 1 and all(one.attempts == 0 for one in found.results[1:])
    assert all(one.renders < 6 for one in found.results[1:])
    assert max(one.renders for one in found.results[1:]) < 0.3 * found[0].renders
    assert found[3].reason == "follows the frames before"
    assert bool((found.target_sd < 1).all())


def test_the_first_time_step_is_registered(run, volume):
    eta, frames, found = run
    alone = register(frames[0], volume, eta[0] + OFF, search=(0.2, 20.0))
    assert torch.equal(alone.eta, found[0].eta) and alone.reason == found[0].reason


def test_two_views_of_each_instant(volume):
    eta = motion(3)
    both = CARM.pose(torch.stack([torch.zeros(6, dtype=torch.float64), SIDE]), volume.center)
    relative = inverse(both[0]) @ both[1]
    other = CARM.eta(CARM.pose(eta, volume.center) @ relative, volume.center)
    images = [pictures(volume, eta), pictures(volume, other, seed=1)]
    frames = [
        [View(x, CARM, pose=pose) for x, pose in zip(pair, both, strict=True)]
        for pair in zip(*images, strict=True)
    ]
    found = track(frames, volume, eta[0] + OFF)
    assert bool(found.converged.all())
    assert float(errors(found, volume, eta).max()) < 0.3
    assert float(found.target_sd.max()) < 0.3


def test_pictures_with_spectrum_scatter_blur_and_noise(volume):
    eta, dice = motion(4), torch.Generator().manual_seed(2)
    parts, look = two_materials(DRR(volume, CARM)), LOOKS["detector"]
    images = [acquire(parts, CARM.pose(x[None], volume.center), dice, **look)[0, 0] for x in eta]
    frames = [View(x, CARM, lines=False) for x in images]
    found = track(frames, volume, eta[0] + OFF, preset=FEW_IN_WINDOWS)
    assert found[1].window > 0
    # One view of so few pixels holds depth loosely and says so: nothing to look for anew.
    assert all(one.attempts == 0 for one in found.results[1:])
    assert all("does not hold the pose" in one.reason for one in found.results)
    across = [
        float(one.compare(x).parts.in_plane) for one, x in zip(found.results, eta, strict=True)
    ]
    assert max(across) < 0.5
    assert float(errors(found, volume, eta).max()) < 3 * float(found.target_sd.max())


# --- what it cannot see


@pytest.fixture(scope="module")
def occluded(volume):
    """Two steps, ten without a body, three steps: noise, a flat field and a large plate in turn."""
    eta = motion(15)
    images = pictures(volume, eta)
    frames = [View(images[0], CARM), *images[1:]]
    dice = torch.Generator().manual_seed(5)
    for k in range(2, 12):
        if k % 3 == 0:
            frames[k] = torch.rand(64, 64, generator=dice, dtype=torch.float64)
        elif k % 3 == 1:
            frames[k] = torch.full((64, 64), 2.0)
        else:
            frames[k] = images[k].clone()
            frames[k][6:58, 6:58] = 6.0
    return eta, track(frames, volume, eta[0] + OFF, preset=FEW)


def test_an_occluded_body_is_doubted_and_found_again(occluded, volume):
    eta, found = occluded
    assert not bool(found.converged[2:12].any())
    assert all(one.reason for one in found.results)
    again = errors(found, volume, eta)[12:]
    assert bool(found.converged[12:].any())
    assert bool((again[found.converged[12:]] < 0.3).all())
    assert "shows nothing" in found[4].reason


@pytest.mark.parametrize("lost", [None, torch.full((64, 64), math.nan)], ids=["none", "nan"])
def test_a_frame_without_an_image_is_doubtful_and_no_crash(volume, run, lost):
    eta, frames, _ = run
    found = track([*frames[:2], lost, *frames[3:5]], volume, eta[0] + OFF)
    assert found.converged.tolist() == [True, True, False, True, True]
    assert found[2].renders == 0 and found[2].target_sd == math.inf
    assert float(errors(found, volume, eta[:5])[2]) < 3  # as the motion leads


def test_some_pixels_of_nan_have_no_weight(volume, run):
    eta, frames, _ = run
    holed = frames[1].clone()
    holed[:8] = math.nan
    found = track([frames[0], holed], volume, eta[0] + OFF)
    assert bool(found.converged.all()) and float(errors(found, volume, eta[:2])[1]) < 0.3


# --- prediction, verdict, smoothing


def test_prediction_goes_on_along_the_screw_and_dies_down():
    twist = torch.tensor([0.02, -0.01, 0.03, 1.0, 2.0, -1.0], dtype=torch.float64)
    first = se3.exp(torch.tensor([0.3, 0.1, -0.2, 5.0, 6.0, 7.0], dtype=torch.float64))
    second, third = se3.exp(twist) @ first, se3.exp(2 * twist) @ first
    assert torch.allclose(predicted(second, first), third, atol=1e-12)
    assert torch.allclose(predicted(third, first, between=2), se3.exp(3 * twist) @ first)
    assert torch.equal(predicted(second, None), second)
    ahead = predicted(second, first, ahead=3, damping=0.5)
    assert torch.allclose(ahead, se3.exp((1 + 1.75) * twist) @ first, atol=1e-12)


def test_a_verdict_asks_the_frames_before(run):
    *_, found = run
    before = Before.none()
    before.add(found[1])
    ended = Ended(found[2], 0.01)
    assert verdict(ended, before, 1.0, 10.0) == (True, True, "follows the frames before")
    worse = ended._replace(result=dataclasses.replace(found[2], loss=0.05))
    assert verdict(worse, before, 1.0, 10.0)[2].startswith("the image is explained worse")
    less = ended._replace(result=dataclasses.replace(found[2], kept=0.6))
    assert verdict(less, before, 1.0, 10.0)[2].startswith("less of the image counts")
    assert "not come to rest" in verdict(ended._replace(rest=2.0), before, 1.0, 10.0)[2]
    assert "jumped by 30 mm" in verdict(ended, before, 30.0, 10.0)[2]
    loose = ended._replace(result=dataclasses.replace(found[2], target_sd=4.0))
    good, held, reason = verdict(loose, before, 1.0, 10.0)
    assert (good, held) == (False, True) and "does not hold the pose" in reason


def test_smoothing_is_off_by_default_and_takes_noise_away(run, volume):
    *_, found = run
    assert found.smooth is None
    eta = motion(30)
    dice = torch.Generator().manual_seed(3)
    axes = torch.eye(6).double().repeat(len(eta), 1, 1)
    axes[:, 3:, 3:] = CARM.pose(eta, volume.center)[:, :3, :3]  # one view tells depth loosely
    spread = axes * torch.tensor([1e-3] * 3 + [0.05, 0.05, 0.8], dtype=torch.float64)
    noise = torch.randn(len(eta), 6, 1, generator=dice, dtype=torch.float64)
    results = [
        dataclasses.replace(found[1], eta=x, pose=CARM.pose(x, volume.center), covariance=c)
        for x, c in zip(eta + (spread @ noise)[..., 0], spread @ spread.mT, strict=True)
    ]
    results[10] = dataclasses.replace(
        results[10], pose=found[1].pose, eta=found[1].eta, converged=False
    )
    even = smoothed(results, 3.0)
    assert even[10] == results[10]  # doubtful ones stay, and have no say
    left = [k for k in range(30) if k != 10]
    before, after = (errors(Track(tuple(x)), volume, eta)[left] for x in (results, even))
    assert float(after.mean()) < 0.6 * float(before.mean())
    assert even[3].target_sd == results[3].target_sd


def test_smoothed_frames_are_marked(run, volume):
    eta, frames, found = run
    even = track(frames, volume, eta[0] + OFF, smooth=1.5)
    assert even.smooth == 1.5 and not torch.equal(even.poses, found.poses)
    assert float(errors(even, volume, eta).max()) < 0.5


# --- the result


def test_saved_and_loaded_without_a_lost_digit(occluded, tmp_path):
    _, found = occluded
    path = found.save(tmp_path / "track.json")
    assert Track.load(path) == found
    entries = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(entries | {"format": "else"}), "utf-8")
    with pytest.raises(ConfigError, match=r"track.json is no saved track"):
        Track.load(path)


def test_a_track_in_words_and_rows(run):
    *_, found = run
    assert len(found) == STEPS and "\n" not in repr(found)
    assert repr(found).startswith(f"Track({STEPS} time steps, {STEPS} trusted; +- ")
    rows = found.table()
    assert [row["frame"] for row in rows] == list(range(STEPS))
    assert rows[2]["phi_deg"] == pytest.approx(math.degrees(found[2].eta[1]))
    assert found.poses.shape == (STEPS, 4, 4) and found.eta.shape == (STEPS, 6)
    assert found[-1] is found.results[-1]


def test_one_body_seen_from_another(run):
    """The joint: points of one CT where the other CT's frame has them."""
    *_, found = run
    turn = se3.exp(torch.tensor([0.1, 0.2, 0.3, 4.0, 5.0, 6.0], dtype=torch.float64))
    doubted = dataclasses.replace(found[1], converged=False)
    moved = tuple(dataclasses.replace(x, pose=turn @ x.pose) for x in found.results)
    other = Track((moved[0], doubted, *moved[2:]))
    joint = found.relative_to(other)
    assert torch.allclose(joint[0], turn, atol=1e-9) and bool(joint[1].isnan().all())
    assert torch.allclose(joint[5], turn, atol=1e-9)
    with pytest.raises(ShapeError, match="8 time steps, the other 7"):
        found.relative_to(Track(found.results[:-1]))


# --- what it refuses


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda v: dict(frames=[]), ConfigError, "frames is empty"),
        (lambda v: dict(frames=v), ConfigError, "frames is a View"),
        (
            lambda v: dict(frames=[None, v]),
            ConfigError,
            r"frames\[0\] is NoneType; .*tells the cameras",
        ),
        (lambda v: dict(frames=[v, [v, v]]), ShapeError, r"frames\[1\] has 2 views, frames\[0\]"),
        (lambda v: dict(frames=[v, torch.ones(4, 4)]), ShapeError, r"frames\[1\] has shape"),
        (lambda v: dict(frames=[v, "x.dcm"]), ConfigError, r"frames\[1\] is a str"),
        (lambda v: dict(frames=[v, v.crop(0, 0, 60, 64)]), ShapeError, r"\(60, 64\) pixels"),
        (
            lambda v: dict(
                frames=[v, dataclasses.replace(v, carm=dataclasses.replace(CARM, sdd=990.0))]
            ),
            ConfigError,
            r"another camera than frames\[0\] \(sdd\)",
        ),
        (lambda v: dict(preset="paper"), ConfigError, 'preset is "paper"'),
        (lambda v: dict(reach=(0.0, 5.0)), ConfigError, "reach is"),
        (lambda v: dict(reach=(0.3,)), ConfigError, "reach is"),
        (lambda v: dict(smooth=-1.0), ConfigError, "smooth is"),
        (lambda v: dict(volume=5), ConfigError, "expected a Volume"),
        (lambda v: dict(start=torch.zeros(5)), ShapeError, "start has shape"),
    ],
)
def test_wrong_arguments_are_named(volume, run, change, error, words):
    eta, frames, _ = run
    given = dict(frames=frames[:2], volume=volume, start=eta[0]) | change(frames[0])
    with pytest.raises(error, match=words):
        inspect.unwrap(follow)(**given)
