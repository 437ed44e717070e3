"""What is shown: sizes, modes, windows, regions, landmarks, slices, the sketch, the picture."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from drrlib import CArm, Volume, regions
from drrlib.errors import ConfigError, GeometryError
from drrlib.geometry import transform_points
from drrlib.lab.explorer import MODES, Canvas, Explorer, compose
from drrlib.lab.explorer.compose import good_window
from drrlib.lab.explorer.marks import crossing, densest
from drrlib.lab.explorer.sights import Look, Sights
from drrlib.lab.explorer.sketch import orientation
from drrlib.lab.explorer.slices import PLANES, Slices


def look(fixed, moving, weights=None):
    fixed, moving = (np.array(x, dtype=np.float32) for x in (fixed, moving))
    return Look(moving, fixed, weights, 0.0, True)


def test_what_moves_has_the_pixels_that_time_allows(head):
    wide = CArm(1020.0, 510.0, 600, 1200, 0.3, 0.3)
    sights = Sights(head.volume, wide, budget=30.0)
    assert sights.size(wide, fine=True) == (256, 512)
    assert sights.size(wide, fine=False) == (64, 128)  # nothing is known yet
    sights._per_pixel = 30.0 / (0.5 * 200 * 200)
    assert sights.size(wide, fine=False) == (100, 200)
    sights._per_pixel = 1.0
    assert sights.size(wide, fine=False) == (32, 64)
    assert sights.size(head.carm, fine=True) == (40, 48)


def test_a_look_is_the_drr_and_the_image_at_one_size(state, head):
    seen = state.look()
    np.testing.assert_allclose(seen.moving, head.view.image, rtol=1e-5)
    assert seen.loss < 1e-6 and seen.fine and state.look() is seen
    state.move(bx=20)
    worse = state.look()
    assert worse.loss > 0.01 and state.trace[-1] == (worse.loss, True)


def test_modes_on_a_few_pixels():
    pair = look([[0.0, 1.0], [0.5, 0.0]], [[0.0, 1.0], [0.0, 1.0]])
    windows = ((0.0, 1.0), (0.0, 1.0))
    shown = {mode: compose(mode, pair, windows) for mode in MODES}
    assert all(x.shape == (2, 2, 3) and x.dtype == np.uint8 for x in shown.values())
    assert shown["overlay"][1].tolist() == [[127, 0, 0], [0, 255, 255]]
    assert shown["X-ray"][1, 0].tolist() == [127, 127, 127]
    assert shown["difference"][0, 0].tolist() == [255, 255, 255]
    red, green, blue = shown["difference"][1, 0].tolist()
    assert red == 255 and green < 100 and blue == 0  # the X-ray image is denser
    assert compose("DRR", pair, windows, negative=True)[0, 1].tolist() == [0, 0, 0]
    assert compose("DRR", pair, ((0, 1), (0, 2)))[0, 1, 0] == 127
    half = compose("X-ray", look(pair.fixed, pair.moving, np.zeros((2, 2), np.float32)), windows)
    assert half[0, 1, 0] == 102  # 0.4 of white: it does not count


def test_the_checkerboard_takes_turns():
    pair = look(np.ones((16, 16)), np.zeros((16, 16)))
    tiles = compose("checkerboard", pair, ((0.0, 1.0), (0.0, 1.0)))[..., 0]
    assert tiles[0, 0] == 255 and tiles[0, 2] == 0 and tiles[2, 2] == 255 and tiles[15, 0] == 0


def test_edges_stand_where_the_drr_steps():
    moving = np.zeros((32, 32), np.float32)
    moving[:, 16:] = 1
    picture = compose("edges", look(np.zeros((32, 32)), moving), ((0.0, 1.0), (0.0, 1.0)))
    green = picture[..., 1] > 200
    assert green[:, 15:17].all() and not green[:, :14].any() and not green[:, 18:].any()


def test_windows(state):
    fixed, moving = state.windows
    assert fixed == pytest.approx(moving, rel=1e-4)
    state.set_window(drr=(0.5, 2))
    assert state.windows == (fixed, (0.5, 2.0))
    with pytest.raises(ConfigError, match="two finite numbers"):
        state.set_window(xray=(0.0, float("nan")))
    state.auto_window()
    assert state.windows == (fixed, moving)
    assert good_window(np.zeros((4, 4))) == (0.0, 1.0)


def test_regions_become_weights(state, head):
    state.draw("circle", [(24, 20)], radius_mm=80)
    circle = regions.circle(head.carm, (24, 20), 80)
    assert torch.equal(state.view.weights, circle)
    state.draw("rectangle", [(30.4, 25.0), (20.0, 15.2)], counts=False)
    hole = regions.rectangle(head.carm, (15, 25), (20, 31))
    assert torch.equal(state.view.weights, circle * (1 - hole))
    state.draw("polygon", [(0, 0), (8, 0), (0, 8)])
    union = torch.maximum(circle, regions.polygon(head.carm, [(0, 0), (8, 0), (0, 8)]))
    assert torch.equal(state.view.weights, union * (1 - hole))
    assert state.counting() == pytest.approx(100 * float((union * (1 - hole)).mean()))
    state.erase()
    state.erase(everything=True)
    assert state.view.weights is None and state.counting() == 100
    with pytest.raises(ConfigError, match="nothing is drawn"):
        state.erase()


def test_corners_are_collected_at_the_crosshair(state, head):
    for at in ((5.0, 5.0), (40.0, 5.0), (20.0, 35.0)):
        state.point(*at)
        state.add_corner()
    with pytest.raises(ConfigError, match="a rectangle of 3 points"):
        state.draw("rectangle")
    state.draw("polygon")
    expected = regions.polygon(head.carm, [(5, 5), (40, 5), (20, 35)])
    assert torch.equal(state.view.weights, expected) and not state.areas[0].corners
    state.point(24.0, 20.0)
    state.draw("circle", radius_mm=30, counts=False)
    assert state.view.weights[20, 24] == 0
    with pytest.raises(ConfigError, match="leave no pixel"):
        state.draw("circle", radius_mm=1000, counts=False)


def test_landmarks_give_the_pose_by_pnp(head):
    state = Explorer(head.volume, head.view)
    with pytest.raises(ConfigError, match="in this view: 0; expected three"):
        state.pose_from_marks()
    pose = head.carm.pose(head.true, head.volume.center)
    for name, place in list(head.phantom.landmarks.items())[:7]:
        pixel = head.carm.project([place], pose)[0]
        state.point(*pixel.tolist())
        state.point_in_ct(*map(float, place))
        state.mark(name)
    state.pose_from_marks()
    assert torch.allclose(state.pose, pose, atol=1e-4)
    assert "pose from 7 landmarks in this view" in state.status.text
    state.drop_mark(name)
    assert len(state.marks.named) == 6
    with pytest.raises(ConfigError, match="no landmark is called"):
        state.drop_mark("ear")


def test_landmarks_in_two_views_are_crossed_and_go_to_arun(both, head):
    pose = both.pose
    both.move(bx=30, theta=0.2)
    places = list(head.phantom.landmarks.items())[:4]
    for k in (0, 1):
        true = pose @ torch.linalg.inv(both.views[0].pose) @ both.views[k].pose
        both.look_at(k)
        for name, place in places:
            both.point(*head.carm.project([place], true)[0].tolist())
            both.point_in_ct(*map(float, place))
            both.mark(name, ct=k == 0)
    both.pose_from_marks()
    both.look_at(0)
    assert torch.allclose(both.pose, pose, atol=1e-6)


def test_rays_cross_where_they_were_sent(head):
    point = torch.tensor([10.0, -20.0, 30.0], dtype=torch.float64)
    sources = torch.tensor([[500.0, 0, 0], [0, 400.0, 0]], dtype=torch.float64)
    ways = torch.nn.functional.normalize(point - sources, dim=1)
    assert torch.allclose(crossing(sources, ways), point, atol=1e-9)
    with pytest.raises(GeometryError, match="parallel"):
        crossing(sources, ways[[0, 0]])


def test_the_densest_voxel_behind_the_crosshair(head):
    mu = torch.zeros(20, 30, 40)
    mu[:, 15, :] = 0.01
    mu[12, 20, 33] = 0.05
    affine = torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0], dtype=torch.float64))
    volume = Volume(mu, affine)
    carm = CArm.square(1020.0, 510.0, 100, 400.0)
    pose = carm.pose(torch.zeros(6), volume.center)
    place = transform_points(volume.affine, torch.tensor([[12.0, 20.0, 33.0]]).double())
    pixel = carm.project(place, pose)[0].tolist()
    assert densest(volume, carm, pose, pixel) == pytest.approx(place[0].tolist())
    with pytest.raises(GeometryError, match="misses the CT"):
        densest(volume, carm, pose, (-300.0, 50.0))


@pytest.mark.parametrize("flip", [False, True])
def test_slices_show_the_point_where_it_is(flip):
    """A bright voxel at (20, -12, 36) mm; the axes of the array are (z, x, y), one of them
    mirrored."""
    mu = torch.zeros(16, 20, 24)
    affine = torch.zeros(4, 4, dtype=torch.float64)
    affine[3, 3] = 1
    affine[2, 0] = affine[0, 1] = affine[1, 2] = 4.0
    affine[:3, 3] = torch.tensor([-20.0, -40.0, -8.0])
    if flip:
        affine[0, 1], affine[0, 3] = -4.0, -20.0 + 19 * 4.0
    index = torch.linalg.inv(affine) @ torch.tensor([20.0, -12.0, 36.0, 1.0]).double()
    mu[tuple(index[:3].round().long().tolist())] = 0.05
    slices = Slices(Volume(mu, affine))
    for plane in PLANES:
        grey, (column, row), tall = slices.plane(plane, (20.0, -12.0, 36.0))
        assert grey[int(row), int(column)] == 255 and (grey == 255).sum() == 1 and tall == 1
    (low, high), *_ = slices.bounds()
    assert (low, high) == (-20.0, 56.0)
    axial, (column, row), _ = slices.plane("axial", (20.0, -12.0, 36.0))
    assert axial.shape == (24, 20) and (column, row) == (10.5, 7.5)  # left and back grow
    _, (column, row), _ = slices.plane("coronal", (20.0, -12.0, 36.0))
    assert row == 16 - 11.5  # the head is at the top


def test_letters_say_where_the_patient_looks(head):
    def letters(**angles):
        from drrlib import eta

        pose = head.carm.pose(eta(**angles, degrees=True), head.volume.center)
        return orientation(head.carm, pose)

    assert letters() == dict(left="R", right="L", top="H", bottom="F")
    assert letters(phi=90) == dict(left="A", right="P", top="H", bottom="F")
    assert letters(phi=45)["right"] in ("LP", "PL")
    assert letters(theta=45)["top"] in ("HP", "PH")


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_drawn(state, mode):
    state.show(mode)
    state.set_pointing(True)
    state.draw("circle", [(24, 20)], radius_mm=80)
    state.add_corner()
    state.mark("sella")
    canvas = Canvas(state)
    data, kind = canvas.encoded()
    picture = Image.open(io.BytesIO(data))
    assert picture.size == (900, 600) and picture.format.lower() == kind
    assert getattr(picture, "n_frames", 1) == (2 if mode == "blink" else 1)
    assert canvas.encoded(moving=True)[1] == "jpeg"
    assert np.asarray(picture.convert("RGB")).std() > 20


def test_an_empty_beam_is_drawn_and_told(state):
    state.move(bz=900)
    before = np.asarray(Canvas(state).picture())
    assert state.look().moving.max() == 0 and (before[280:320, 150:450] == (230, 159, 0)).any()
