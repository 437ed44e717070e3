"""The explorer's state: moving, undoing, registering, handing over. No browser."""

import math

import pytest
import torch

from drrlib import RegistrationResult, ScanProjection, View, eta
from drrlib.errors import ConfigError, GeometryError
from drrlib.lab.explorer import Explorer


def test_it_begins_where_the_view_says(head):
    state = Explorer(head.volume, head.view)
    assert state.numbers["phi"] == pytest.approx(25)
    assert torch.equal(state.pose, head.carm.pose(head.view.start, head.volume.center))
    assert set(state.presets) == {"AP", "lateral", "header"} and state.mode == "overlay"


def test_without_an_image_it_shows_drrs_of_any_carm(head):
    state = Explorer(head.volume, carm=head.carm)
    assert state.mode == "DRR" and state.view is None and state.look().loss is None
    assert "header" not in state.presets
    with pytest.raises(ConfigError, match="needs an X-ray image"):
        state.show("overlay")
    with pytest.raises(ConfigError, match="no X-ray image"):
        state.register()
    assert Explorer(head.volume).carm.width == 200


def test_a_move_sets_what_it_names_and_nothing_else(state, head):
    state.move(theta=-12.5, bx=3, degrees=True)
    expected = head.true.clone()
    expected[0], expected[3] = math.radians(-12.5), 3.0
    assert torch.allclose(state.eta, expected, atol=0, rtol=1e-15)
    state.move(phi=0.1)
    assert float(state.eta[1]) == 0.1
    with pytest.raises(ConfigError, match="nothing to move is called psi"):
        state.move(psi=1.0)
    with pytest.raises(ConfigError, match="NaN"):
        state.move(theta=math.nan)


def test_lengths_move_the_source_and_the_magnification(state):
    before = state.pose
    state.move(sdd=1100.0)
    assert state.carm.sdd == 1100 and torch.equal(state.pose, before)
    state.move(sod=560.0)
    shift = (state.pose - before)[:3, 3]
    assert torch.allclose(shift, -50 * before[:3, 2], atol=1e-9)
    with pytest.raises(GeometryError, match="sod is 2000"):
        state.move(sod=2000.0)
    assert state.carm.sod == 560


def test_a_drag_is_one_undo_and_a_step_is_another(state):
    start = state.placement
    for value in (1.0, 2.0, 3.0):
        state.drag("theta", value)
    state.rest()
    state.drag("theta", 4.0)
    state.drag("bx", 5.0)
    state.nudge("bx", -1)
    assert state.numbers["bx"] == 4
    for theta, bx in ((4, 5), (4, 6), (3, 6), (8, 6)):
        state.undo()
        assert (state.numbers["theta"], state.numbers["bx"]) == pytest.approx((theta, bx))
    assert state.placement is start
    with pytest.raises(ConfigError, match="nothing to undo"):
        state.undo()


def test_steps_are_degrees_and_mm_and_angles_wrap(state):
    state.set_step(5)
    state.nudge("phi", +1)
    state.nudge("bz", -1)
    assert state.numbers["phi"] == pytest.approx(25) and state.numbers["bz"] == pytest.approx(7)
    state.move(gamma=178, degrees=True)
    state.nudge("gamma", +1)
    assert state.numbers["gamma"] == pytest.approx(-177)
    with pytest.raises(ConfigError, match="step is -1"):
        state.set_step(-1)


def test_presets(state, head):
    state.go_to("lateral")
    assert torch.equal(state.eta, eta(phi=90, degrees=True))
    state.go_to("header")
    assert torch.equal(state.eta, head.view.start)
    with pytest.raises(ConfigError, match="no pose is called"):
        state.go_to("oblique")


def test_two_views_move_as_one(both, head):
    """The second camera stands where calibration puts it, whichever view is moved."""
    assert both.look().loss < 1e-6
    first = both.pose
    relative = torch.linalg.inv(both.views[0].pose) @ both.views[1].pose
    both.look_at(1)
    assert torch.allclose(both.pose, first @ relative, atol=1e-9)
    assert both.look().loss < 1e-6 and both.numbers["phi"] == pytest.approx(110)
    both.move(by=40)
    moved = both.pose
    both.look_at(0)
    assert torch.allclose(both.pose @ relative, moved, atol=1e-9)
    both.undo()
    assert torch.allclose(both.pose, first, atol=1e-9)
    with pytest.raises(ConfigError, match="expected 0 to 1"):
        both.look_at(2)


def test_views_that_do_not_know_each_other_are_refused(head):
    with pytest.raises(ConfigError, match="have no pose"):
        Explorer(head.volume, [head.view, head.view])
    scan = ScanProjection(1000.0, 500.0, 40, 48, 5.0, 5.0)
    with pytest.raises(ConfigError, match="flat detector"):
        Explorer(head.volume, View(head.view.image, scan))
    with pytest.raises(ConfigError, match="give one of the two"):
        Explorer(head.volume, head.view, carm=head.carm)
    with pytest.raises(ConfigError, match="six numbers"):
        Explorer(head.volume, head.view, start=[0.0, 1.0])


def test_a_pose_inside_the_ct_is_told(state):
    source = state.pose[:3, 3] - state.volume.center
    b = state.eta[3:] - source  # the source at the CT's centre
    state.move(**dict(zip(("bx", "by", "bz"), b.tolist(), strict=True)))
    assert state.status.kind == "warning" and "source stands inside" in state.status.text
    assert state.look().moving.max() > 0
    state.undo()
    state.move(bx=0.0)
    assert state.status.kind == "ready"


def test_what_fails_behind_a_button_is_told_and_kept(state):
    seen = []
    state.watch(seen.append)
    assert state.attempt("sod", state.move, sod=5000.0) is None
    assert state.status.kind == "error" and state.status.text.startswith("sod: sod is 5000")
    assert "GeometryError" in state.status.details and seen == [False]
    state.attempt("odd", lambda: [][1])
    assert "IndexError" in state.status.text and "unforeseen" in state.status.text
    assert state.attempt("fine", lambda: 3) == 3


def test_register_from_here_moves_there_and_is_handed_over(head, tmp_path):
    state = Explorer(head.volume, head.view, start=head.true + 0.05)
    state.move(bx=12)
    before = state.placement
    found = state.register(search=(10, 20))
    assert found.compare(head.true).mtre < 0.5 and found.converged
    assert state.status.text.startswith("converged") and state.handed_over() is found
    assert torch.allclose(state.pose, found.pose)
    path = state.save(tmp_path / "pose.json")
    assert RegistrationResult.load(path) == found
    state.undo()
    assert state.placement is before
    by_hand = state.handed_over()
    assert by_hand.reason == "placed by hand" and not by_hand.converged
    state.save(tmp_path / "hand.json")
    again = RegistrationResult.load(tmp_path / "hand.json")
    assert torch.equal(again.eta, state.eta) and again.loss == state.look().loss


def test_a_registration_that_cannot_be_is_told(state, tmp_path):
    state.attempt("register", state.register, "paper")
    assert state.status.kind == "error" and "no search" in state.status.text
    state.attempt("save", state.save, tmp_path / "nowhere" / "pose.json")
    assert state.status.kind == "error" and "cannot be written" in state.status.text
    state.attempt("save", state.save, " ")
    assert "no name" in state.status.text


def test_a_registration_of_two_views_ends_in_the_view_looked_at(both, head):
    both.look_at(1)
    true = both.pose
    both.move(bx=20, theta=0.1)
    found = both.register("fast", search=(10, 25))
    assert both.active == 1
    assert both.carm.pose(both.eta, head.volume.center).sub(true).abs().max() < 0.5
    assert found.compare(head.true).mtre < 0.5


def test_the_text_of_a_pose_is_python(state):
    text = state.pose_text()
    first, _, angles, _, *rows = text.split("\n")
    assert torch.allclose(eval(first, {"eta": eta}), state.eta, atol=1e-5)
    assert torch.allclose(torch.tensor(eval(angles)).double(), state.eta, atol=1e-7)
    pose = torch.tensor(eval("".join(rows)), dtype=torch.float64)
    assert torch.allclose(pose, state.pose, atol=1e-6)


def test_the_weights_it_came_with_stay(head):
    weights = torch.ones(40, 48)
    weights[:10] = 0
    view = View(head.view.image, head.carm, weights=weights, start=head.true)
    state = Explorer(head.volume, view)
    state.draw("rectangle", [(0, 0), (48, 20)])
    kept = state.view.weights
    assert bool((kept[10:20] == 1).all()) and kept.sum() == 10 * 48
