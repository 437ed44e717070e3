"""Films of moving bodies, errors over time, and pictures of a track."""

import dataclasses
import math

import pytest
import torch
from PIL import Image

from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry import CArm, inverse
from drrlib.lab.phantoms import skull
from drrlib.lab.plots.motion import save_animation, show_motion
from drrlib.lab.studies import motion
from drrlib.registration import Registration, RegistrationResult, Track
from drrlib.view import View
from drrlib.volume import Volume

CARM = CArm(1020.0, 510.0, 48, 48, 400 / 48, 400 / 48)
BASE = torch.tensor([0.1, 0.2, 0.0, 3.0, -2.0, 1.0], dtype=torch.float64)
PATH = motion.smooth_path(BASE, 5, 0.1, 10.0)


@pytest.fixture(scope="module")
def volume():
    phantom = skull(6.0)
    return Volume.from_hu(phantom.hu, phantom.affine)


@pytest.fixture(scope="module")
def filmed(volume):
    pose = CARM.pose(BASE, volume.center)
    side = CARM.pose(BASE + torch.tensor([0, 1.5, 0, 0, 0, 0]), volume.center)
    blank = torch.arange(48 * 48.0).reshape(48, 48)
    views = [View(blank, CARM, pose=x) for x in (pose, side)]
    return motion.film([volume], [PATH], views, torch.Generator().manual_seed(0))


@pytest.fixture
def found(volume):
    """A track that is right but for its third step, which is doubtful."""
    result = RegistrationResult(
        eta=BASE, pose=CARM.pose(BASE, volume.center), loss=0.1, converged=True, reason="one",
        carm=CARM, center=volume.center, renders=1.0, seconds=0.1, kept=1.0, inverted=False,
        covariance=1e-4 * torch.eye(6, dtype=torch.float64), target_sd=0.1, across_sd=0.1,
        depth_sd=0.1,
    )  # fmt: skip
    results = [
        dataclasses.replace(
            result, eta=x, pose=CARM.pose(x, volume.center), converged=k != 2, attempts=0
        )
        for k, x in enumerate(PATH)
    ]
    results[2] = dataclasses.replace(results[2], covariance=None)
    return Track(tuple(results))


def test_a_path_begins_at_its_base_and_stays_near():
    assert torch.equal(PATH[0], BASE)
    assert float((PATH - BASE).abs()[:, :3].max()) <= 0.1
    assert not torch.equal(PATH, motion.smooth_path(BASE, 5, 0.1, 10.0, phase=1.0))


def test_a_film_shows_the_body_where_its_path_has_it(filmed, volume):
    """Each view explains its picture: mean and noise are those of the DRR at the true pose."""
    assert len(filmed) == 5 and all(len(step) == 2 for step in filmed)
    registration = Registration(
        volume, [CARM] * 2, relatives=[torch.eye(4), inverse(filmed[0][0].pose) @ filmed[0][1].pose]
    )
    drr = registration.levels.renderer(0, registration.levels.last)
    for k, view in enumerate(filmed[3]):
        pose = CARM.pose(PATH[3], volume.center)
        if k:
            pose = pose @ registration.levels.relatives[1]
        shown = drr(pose[None]).flatten().double()
        pair = torch.stack([view.image.flatten(), shown])
        assert float(torch.corrcoef(pair)[0, 1]) > 0.98


def test_errors_over_time(found):
    table = motion.tracked_errors(found, PATH)
    assert list(table["frame"]) == list(range(5)) and float(table["mtre_mm"].max()) < 1e-6
    assert not table["converged"][2]


def test_the_figure_shows_six_parameters_and_crosses(found):
    figure = show_motion(found, PATH)
    assert len(figure.axes) == 6
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert marks[0].get_xdata().tolist() == [2]
    assert figure.axes[1].get_ylabel() == "phi [deg]"
    line = figure.axes[1].lines[0].get_ydata()
    assert line[3] == pytest.approx(math.degrees(PATH[3, 1]))
    with pytest.raises(ShapeError, match="truth has shape"):
        show_motion(found, PATH[:2])


def test_the_animation_has_a_picture_for_each_step(found, filmed, volume, tmp_path):
    film = [step[0] for step in filmed]
    film[1] = None
    path = save_animation(tmp_path / "film.gif", found, film, volume, width=64)
    with Image.open(path) as image:
        assert image.n_frames == 5 and image.width == 64
        assert path.stat().st_size < 1_000_000
        image.seek(0)
        colors = {color for _, color in image.convert("RGB").getcolors(5000)}
    assert any(r > 200 and 80 < g < 180 and b < 80 for r, g, b in colors)  # orange edges
    with pytest.raises(ConfigError, match=r"expected \.gif"):
        save_animation(tmp_path / "film.mp4", found, film, volume)
    with pytest.raises(ShapeError, match="4 frames and 5 time steps"):
        save_animation(path, found, film[:4], volume)
