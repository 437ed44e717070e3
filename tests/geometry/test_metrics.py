"""Errors by hand, intervals by published values."""

import math

import pytest
import torch

from drrlib.errors import ShapeError
from drrlib.geometry import mpd, mrpd, mtre, pose_errors, se3

POINTS = torch.tensor([[3.0, 0, 0], [0, 4.0, 0]]).double()


def test_shift_by_hand():
    true_pose = se3.exp(torch.tensor([[0.1, 0.2, 0.3, 1.0, 2.0, 3.0]]).double())
    shift = torch.eye(4).double()[None].clone()
    shift[0, :3, 3] = torch.tensor([3.0, 0.0, 4.0])  # in the camera frame: 3 across, 4 in depth
    pose = true_pose @ se3.inverse(shift)
    assert torch.allclose(mtre(pose, true_pose, POINTS), torch.tensor([5.0]).double())
    errors = pose_errors(pose, true_pose, torch.zeros(3))
    for name, value in (("rotation", 0), ("translation", 5), ("in_plane", 3), ("depth", 4)):
        assert abs(float(getattr(errors, name)) - value) < 1e-9


def test_rotation_by_hand():
    """A quarter turn about z moves (3, 0, 0) by 3 sqrt 2 and (0, 4, 0) by 4 sqrt 2."""
    turn = se3.exp(torch.tensor([[0, 0, math.pi / 2, 0, 0, 0]], dtype=torch.float64))
    still = torch.eye(4).double()[None]
    assert torch.allclose(
        mtre(turn, still, POINTS), torch.tensor([3.5 * math.sqrt(2)], dtype=torch.float64)
    )
    errors = pose_errors(turn, still, torch.zeros(3))
    assert abs(float(errors.rotation) - math.pi / 2) < 1e-12 and float(errors.translation) < 1e-12


@pytest.mark.parametrize(
    ("axis", "in_plane", "out_of_plane"),
    [((0, 0, 1), 0.6, 0), ((1, 0, 0), 0, 0.6), ((0, -1, 0), 0, 0.6), ((0, 3, -4), 0.48, 0.36)],
)
def test_parts_of_the_rotation_by_hand(axis, in_plane, out_of_plane):
    """The true camera, seen in its own frame, is turned by 0.6 rad about the axis."""
    true_pose = se3.exp(torch.tensor([[0.5, -0.7, 0.3, 100.0, 2.0, -3.0]]).double())
    axis = torch.tensor(axis).double()
    turn = se3.exp(torch.cat([0.6 * axis / axis.norm(), torch.zeros(3)])[None])
    errors = pose_errors(true_pose @ turn, true_pose, torch.zeros(3))
    found = (errors.rotation, errors.rotation_in_plane, errors.rotation_out_of_plane)
    assert torch.cat(found).tolist() == pytest.approx([0.6, in_plane, out_of_plane], abs=1e-12)


def test_projection_and_reprojection_by_hand():
    """The target is 500 mm ahead on the axis; the detector is at 1000 mm, so all is doubled."""
    true_pose = se3.exp(torch.tensor([[0.5, -0.7, 0.3, 100.0, 2.0, -3.0]]).double())
    target = se3.transform_points(true_pose, torch.tensor([[0.0, 0, 500]]).double())[0]

    def errors(*xi):
        pose = true_pose @ se3.exp(torch.tensor([xi]).double())
        return float(mpd(pose, true_pose, target, 1000.0)), float(mrpd(pose, true_pose, target))

    assert errors(0, 0, 0, 0, 0, 0) == pytest.approx((0, 0), abs=1e-9)
    # 3, 4 mm aside: 10 mm on the detector; the ray leaves the target by 500 sin(atan(5 / 500)).
    aside = 500 * math.sin(math.atan(5 / 500))
    assert errors(0, 0, 0, 3, 4, 0) == pytest.approx((10, aside))
    # Along the ray, and about the viewing axis, nothing changes.
    assert errors(0, 0, 0, 0, 0, 60) == pytest.approx((0, 0), abs=1e-9)
    assert errors(0, 0, 0.4, 0, 0, 0) == pytest.approx((0, 0), abs=1e-9)
    # A turn of the camera by 0.1 rad about its own x.
    turned = (1000 * math.tan(0.1), 500 * math.sin(0.1))
    assert errors(0.1, 0, 0, 0, 0, 0) == pytest.approx(turned)
    # Behind the source there is no image.
    assert errors(0, 0, 0, 0, 0, 600) == (math.inf, math.inf)
    # The mean of 0 and of the point 3 mm across, moved by 4 mm in depth, whose ray goes through
    # (3, 0, 496): its distance is that of (3, 500) to the line along (3, 496).
    both = torch.cat([torch.tensor([[0.0, 0, 500]]), torch.tensor([[3.0, 0, 500]])]).double()
    both = se3.transform_points(true_pose, both)[0]
    pose = true_pose @ se3.exp(torch.tensor([[0, 0, 0, 0, 0, 4.0]]).double())
    assert float(mrpd(pose, true_pose, both)) == pytest.approx(3 * 4 / math.hypot(3, 496) / 2)
    shift = 1000 * (3 / 496 - 3 / 500) / 2
    assert float(mpd(pose, true_pose, both, torch.tensor(1000.0))) == pytest.approx(shift)


def test_a_batch_and_its_gradient():
    """One true pose for all; the error of a pure shift does not depend on the points."""
    xi = torch.tensor([[0.1, 0.2, 0.3, 1, 2, 3], [0.3, 0.1, 0, 9, 8, 7]], dtype=torch.float64)
    true_pose = se3.exp(xi[:1])
    alone = [float(mtre(se3.exp(row[None]), true_pose, POINTS)) for row in xi]
    assert mtre(se3.exp(xi), true_pose, POINTS).tolist() == pytest.approx(alone)
    assert pose_errors(se3.exp(xi), true_pose, POINTS[0]).rotation.shape == (2,)
    far = se3.transform_points(true_pose, POINTS + torch.tensor([0, 0, 500.0]))[0]
    still = xi.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: (
            mtre(se3.exp(x), true_pose, POINTS),
            mpd(se3.exp(x), true_pose, far, 1000.0),
            mrpd(se3.exp(x), true_pose, far),
            *pose_errors(se3.exp(x), true_pose, POINTS[0]),
        ),
        (xi + 0.1).requires_grad_(),
    )
    errors = pose_errors(se3.exp(still), true_pose, POINTS[0])
    for value in (mtre(se3.exp(still), true_pose, POINTS), *errors):
        value.sum().backward(retain_graph=True)
    (
        mpd(se3.exp(still), true_pose, far, 1000.0) + mrpd(se3.exp(still), true_pose, far)
    ).sum().backward()
    assert still.grad.isfinite().all()  # the first row is at the truth, where the norm has a kink


@pytest.mark.parametrize("measure", [mtre, mrpd, lambda *x: mpd(*x, 1000.0)])
def test_leading_axes_broadcast(measure):
    """One pose against several, either way round."""
    xi = torch.tensor([[0.1, 0.2, 0.3, 1, 2, 3], [0.3, 0.1, 0, 9, 8, 7]], dtype=torch.float64)
    poses, points = se3.exp(xi), POINTS + torch.tensor([0, 0, 500.0])
    one = measure(poses[0], poses[1], points)
    assert one.shape == () and one > 0
    assert measure(poses[0], poses, points).tolist() == pytest.approx([0, float(one)])
    assert measure(poses[:1], poses[1], points).tolist() == pytest.approx([float(one)])


def test_no_points_are_refused():
    with pytest.raises(ShapeError, match="n >= 1"):
        mtre(torch.eye(4)[None], torch.eye(4)[None], torch.zeros(0, 3))
    with pytest.raises(ShapeError, match="n >= 1"):
        mrpd(torch.eye(4)[None], torch.eye(4)[None], torch.zeros(0, 3))
