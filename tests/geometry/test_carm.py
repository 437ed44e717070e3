"""Conventions pinned by hand-computed numbers; round trips; gradients."""

import math

import pytest
import torch

from drrlib.errors import ConfigError, GeometryError, ShapeError
from drrlib.geometry import CArm

CENTER = torch.tensor([10.0, -20.0, 30.0], dtype=torch.float64)
# The paper's sphere: sdd = 2 rho, sod = rho.
CARM = CArm(sdd=1020.0, sod=510.0, height=4, width=6, delx=2.0, dely=3.0)
H = math.pi / 2


def _eta(theta=0.0, phi=0.0, gamma=0.0, b=(0.0, 0.0, 0.0)):
    return torch.tensor([[theta, phi, gamma, *b]], dtype=torch.float64)


def _close(actual, expected, atol=1e-9):
    """Absolute closeness only: the default relative 1e-5 would pass 5 um of the source."""
    expected = torch.tensor(expected, dtype=torch.float64)
    assert torch.allclose(actual, expected, rtol=0, atol=atol), actual


# DICOM PS3.3 C.8.7.5: LAO and cranial are positive; the detector goes where the angle says.
# For each: direction from isocentre to detector, image right, image up, in LPS.
VIEWS = {
    "frontal": (_eta(), (0, -1, 0), (1, 0, 0), (0, 0, 1)),
    "LAO 90": (_eta(phi=H), (1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "RAO 90": (_eta(phi=-H), (-1, 0, 0), (0, -1, 0), (0, 0, 1)),
    "cranial 90": (_eta(theta=H), (0, 0, 1), (1, 0, 0), (0, 1, 0)),
    "caudal 90": (_eta(theta=-H), (0, 0, -1), (1, 0, 0), (0, -1, 0)),
    "LAO 30": (_eta(phi=H / 3), (0.5, -math.sqrt(0.75), 0), (math.sqrt(0.75), 0.5, 0), (0, 0, 1)),
    "turned 90": (_eta(gamma=H), (0, -1, 0), (0, 0, 1), (-1, 0, 0)),
}


@pytest.mark.parametrize("name", VIEWS)
def test_positioner_angles(name):
    eta, ahead, right, up = VIEWS[name]
    pose = CARM.pose(eta, CENTER)
    _close(pose[0, :3, :3], torch.tensor([right, up, ahead], dtype=torch.float64).T.tolist())
    source = [c - 510.0 * a for c, a in zip(CENTER.tolist(), ahead, strict=True)]
    _close(pose[0, :3, 3], source)
    frame = CARM.frame(pose)
    middle = frame.corner + 3 * frame.col_step + 2 * frame.row_step
    _close(middle[0], [c + 510.0 * a for c, a in zip(CENTER.tolist(), ahead, strict=True)])


def test_frontal_frame_by_hand():
    """Isocentre offset b, detector shift x0, y0: source (11, 492, 33), detector at y = -528."""
    carm = CArm(1020.0, 510.0, 4, 6, 2.0, 3.0, x0=5.0, y0=7.0)
    frame = carm.frame(carm.pose(_eta(b=(1.0, 2.0, 3.0)), CENTER))
    _close(frame.source[0], [11.0, 492.0, 33.0])
    _close(frame.col_step[0], [2.0, 0.0, 0.0])
    _close(frame.row_step[0], [0.0, 0.0, -3.0])
    # Centre (11 + 5, -528, 33 - 7); corner: half of 6 x 2 mm to the left, half of 4 x 3 mm up.
    _close(frame.corner[0], [10.0, -528.0, 32.0])
    _close(carm.pixel_centers(carm.pose(_eta(), CENTER))[0, 1, 2], [14.0, -530.0, 24.5])


def test_left_is_on_the_right_and_flipped_is_not():
    left, head = CENTER + torch.tensor([10.0, 0, 0]), CENTER + torch.tensor([0, 0, 10.0])
    pose = CARM.pose(_eta(), CENTER)
    # Magnification 2: 10 mm are 20 mm on the detector, 10 columns or 20/3 rows.
    _close(CARM.project(torch.stack([left, head]), pose)[0], [[13.0, 2.0], [3.0, 2.0 - 20 / 3]])
    mirror = CArm(1020.0, 510.0, 4, 6, 2.0, 3.0, flipped=True)
    _close(mirror.project(left[None], pose)[0], [[-7.0, 2.0]])


@pytest.mark.parametrize("flipped", [False, True])
def test_matrix_projects_pixel_centres_to_themselves(flipped):
    carm = CArm(1020.0, 600.0, 5, 4, 0.7, 0.9, x0=3.0, y0=-2.0, flipped=flipped)
    pose = carm.pose(_eta(0.3, -0.4, 0.2, (4.0, 5.0, -6.0)), CENTER)
    seen = carm.project(carm.pixel_centers(pose).reshape(-1, 3), pose).reshape(5, 4, 2)
    i, j = torch.meshgrid(torch.arange(5) + 0.5, torch.arange(4) + 0.5, indexing="ij")
    _close(seen, torch.stack([j, i], dim=-1).tolist())
    # The last row of the matrix gives the depth [mm]: sod at the isocentre.
    isocentre = CENTER + torch.tensor([4.0, 5.0, -6.0])
    _close(carm.projection_matrix(pose)[0, 2] @ torch.cat([isocentre, torch.ones(1)]).double(), 600)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.37])
def test_matrix_round_trip(flipped, scale):
    carm = CArm(1020.0, 600.0, 50, 40, 0.7, 0.9, x0=3.0, y0=-2.0, flipped=flipped)
    pose = carm.pose(_eta(0.3, -0.4, 0.2, (4.0, 5.0, -6.0)), CENTER)
    matrix = scale * carm.projection_matrix(pose)[0]
    again, found = CArm.from_projection_matrix(matrix, 50, 40, 0.7, sod=600.0)
    _close(found, pose[0].tolist())
    assert again.flipped is flipped and (again.height, again.width, again.sod) == (50, 40, 600.0)
    for name in ("sdd", "dely", "x0", "y0"):
        assert abs(getattr(again, name) - getattr(carm, name)) < 1e-8


def test_computer_vision_matrix():
    """K [R | t] with x right, y down, z forward: seen from the source, hence flipped."""
    k = torch.tensor([[1000.0, 0, 20], [0, 1000.0, 25], [0, 0, 1]]).double()
    matrix = torch.cat([k, k @ torch.tensor([[0.0], [0.0], [500.0]]).double()], dim=1)
    carm, pose = CArm.from_projection_matrix(matrix, 50, 40, 0.5, sod=300.0)
    assert carm.flipped and abs(carm.sdd - 500.0) < 1e-9
    _close(pose[:3, 3], [0.0, 0.0, -500.0])
    _close(pose[:3, 2], [0.0, 0.0, 1.0])
    _close(carm.project(torch.tensor([[5.0, 0.0, 0.0]]).double(), pose[None])[0], [[30.0, 25.0]])


def test_eta_round_trip():
    generator = torch.Generator().manual_seed(0)
    eta = torch.rand(50, 6, generator=generator, dtype=torch.float64) * 2 - 1
    eta[:, :3] *= torch.tensor([1.5, 3.1, 3.1])
    eta[:, 3:] *= 100
    _close(CARM.eta(CARM.pose(eta, CENTER), CENTER), eta.tolist())
    pole = CARM.pose(_eta(theta=H, phi=0.3, gamma=0.1), CENTER)
    _close(CARM.pose(CARM.eta(pole, CENTER), CENTER), pole.tolist())
    pole.requires_grad_()
    CARM.eta(pole, CENTER).sum().backward()
    assert pole.grad.isfinite().all()


def test_frame_gradcheck():
    def frame(eta, sdd, sod, delx, dely, x0, y0):
        carm = CArm(sdd, sod, 4, 6, delx, dely, x0, y0)
        return torch.cat(carm.frame(carm.pose(eta, CENTER)))

    lengths = [
        torch.tensor(x, dtype=torch.float64, requires_grad=True)
        for x in (1020.0, 510.0, 2.0, 3.0, 4.0, -5.0)
    ]
    eta = _eta(0.2, 0.3, 0.4, (1.0, 2.0, 3.0)).requires_grad_()
    assert torch.autograd.gradcheck(frame, (eta, *lengths))

    def seen(points, eta, *lengths):
        carm = CArm(*lengths[:2], 4, 6, *lengths[2:])
        return carm.project(points, carm.pose(eta, CENTER))

    points = (CENTER + 30 * torch.eye(3)).requires_grad_()
    assert torch.autograd.gradcheck(seen, (points, eta, *lengths))


def test_downsample_keeps_the_detector():
    pose = CARM.pose(_eta(0.1, 0.2), CENTER)
    coarse = CARM.downsample(2)
    assert (coarse.height, coarse.width) == (2, 3)
    assert torch.allclose(coarse.frame(pose).corner, CARM.frame(pose).corner)
    blocks = CARM.pixel_centers(pose).reshape(1, 2, 2, 3, 2, 3).mean(dim=(2, 4))
    assert torch.allclose(coarse.pixel_centers(pose), blocks)
    with pytest.raises(ConfigError, match="divisor"):
        CARM.downsample(4)


def test_a_window_keeps_its_pixels_in_place():
    pose = CARM.pose(_eta(0.1, 0.2), CENTER)
    whole = CARM.pixel_centers(pose)
    part = CARM.crop(1, 2, 3, 4)
    assert (part.height, part.width) == (3, 4)
    assert torch.allclose(part.pixel_centers(pose), whole[:, 1:4, 2:6])
    larger = CARM.window(-2, -1, 8, 8)
    assert torch.allclose(larger.pixel_centers(pose)[:, 2:6, 1:7], whole)
    for window in ((0, 0, 5, 6), (-1, 0, 2, 2), (0, 3, 2, 4), (0, 0, 0, 1)):
        with pytest.raises(ConfigError, match=r"window inside it|a whole number"):
            CARM.crop(*window)


def test_resized_pixels_cover_the_same_detector():
    pose, other = CARM.pose(_eta(0.1, 0.2), CENTER), CARM.resize(3, 4)
    assert (other.height, other.width, other.delx, other.dely) == (3, 4, 3.0, 4.0)
    assert torch.allclose(other.frame(pose).corner, CARM.frame(pose).corner)
    assert CArm.square(1020.0, 510.0, 40, 100.0) == CArm(1020.0, 510.0, 40, 40, 2.5, 2.5)
    assert CARM.pixel == 1.0  # 2 mm at twice the distance


@pytest.mark.parametrize("flipped", [False, True])
def test_looking_aside_sees_the_same_rays(flipped):
    """Turned about the source; what lay 3 columns and 2 rows off is then in the middle."""
    carm = CArm(1020.0, 600.0, 40, 50, 2.0, 3.0, x0=3.0, y0=-2.0, flipped=flipped)
    pose = carm.pose(_eta(0.3, -0.4, 0.2, (4.0, 5.0, -6.0)), CENTER)
    row, column = torch.tensor([2.0]), torch.tensor([3.0])
    seen = carm.looking_at(pose, row, column)
    assert torch.equal(seen[:, :3, 3], pose[:, :3, 3])
    centre = torch.tensor([25.0, 20.0], dtype=torch.float64)
    frame = carm.frame(pose)
    aside = frame.corner + 28.0 * frame.col_step + 22.0 * frame.row_step
    _close(carm.project(aside, seen)[0, 0], centre.tolist(), atol=1e-6)


def test_slopes_of_the_pose_are_its_derivatives():
    generator = torch.Generator().manual_seed(1)
    eta = 2 * torch.rand(4, 6, generator=generator, dtype=torch.float64) - 1
    slopes = CARM.pose_slopes(eta)
    for row, slope in zip(eta, slopes, strict=True):
        by_autograd = torch.autograd.functional.jacobian(lambda x: CARM.pose(x, CENTER), row)
        assert torch.allclose(slope, by_autograd.permute(2, 0, 1), rtol=0, atol=1e-11)


def test_the_frame_of_a_slope_is_the_slope_of_the_frame():
    eta = _eta(0.2, 0.3, 0.4, (1.0, 2.0, 3.0))
    carm = CArm(1020.0, 510.0, 4, 6, 2.0, 3.0, 5.0, 7.0, flipped=True)
    ours = torch.cat(carm.frame(carm.pose_slopes(eta)), dim=-1)[0]  # [6, 12]

    def frame(x):
        return torch.cat(carm.frame(carm.pose(x, CENTER)), dim=-1)

    expected = torch.autograd.functional.jacobian(frame, eta[0])  # [12, 6]
    assert torch.allclose(ours, expected.T, rtol=0, atol=1e-11)


def test_lists_and_arrays_at_every_door():
    eta, center = [0.1, 0.2, 0.0, 1.0, 2.0, 3.0], CENTER.numpy()
    pose = CARM.pose(eta, center)
    assert torch.equal(pose, CARM.pose(torch.tensor(eta, dtype=torch.float64), CENTER))
    _close(CARM.eta(pose.numpy(), center), eta)
    points = [[10.0, -20.0, 30.0]]
    assert torch.equal(CARM.project(points, pose.numpy()), CARM.project(CENTER[None], pose))
    matrix = CARM.projection_matrix(pose.tolist())
    _, found = CArm.from_projection_matrix(matrix.numpy(), 4, 6, 2.0, sod=510.0)
    _close(found, pose.tolist())
    assert torch.equal(CARM.frame(pose.numpy()).corner, CARM.frame(pose).corner)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sdd": -1.0}, "sdd"),
        ({"sod": 1020.0}, "between source and detector"),
        ({"sod": 0.0}, "sod"),
        ({"delx": 0.0}, "delx"),
        ({"dely": math.nan}, "dely"),
        ({"height": 0}, "height"),
        ({"height": 4.0}, "height is 4.0"),
        ({"width": math.nan}, "width"),
        ({"width": True}, "width"),
        ({"sdd": "1020"}, "sdd is '1020'"),
        ({"x0": None}, "x0 is None"),
        ({"y0": math.inf}, "y0"),
        ({"sdd": torch.tensor(math.nan)}, "sdd"),
    ],
)
def test_impossible_devices_are_refused(change, message):
    fields = dict(sdd=1020.0, sod=510.0, height=4, width=6, delx=2.0, dely=3.0)
    carm = CArm(**fields)
    for name, value in change.items():
        object.__setattr__(carm, name, value)
    # Tests check types by annotation before the constructor runs; users meet this check.
    with pytest.raises(GeometryError, match=message):
        carm.__post_init__()


def test_lengths_have_no_axes():
    with pytest.raises(ShapeError, match=r"sdd has shape \(1,\); expected a 0-d"):
        CArm(torch.tensor([1020.0]), 510.0, 4, 6, 2.0, 3.0)


def test_bad_matrices_are_refused():
    with pytest.raises(GeometryError, match="inverse"):
        CArm.from_projection_matrix(torch.zeros(3, 4), 4, 4, 1.0, sod=1.0)
    with pytest.raises(ShapeError, match=r"expected \(3, 4\)"):
        CArm.from_projection_matrix(torch.zeros(4, 4), 4, 4, 1.0, sod=1.0)
    skewed = torch.tensor([[1000.0, 100, 0, 0], [0, 1000, 0, 0], [0, 0, 1, 500]])
    with pytest.raises(GeometryError, match="skew"):
        CArm.from_projection_matrix(skewed, 4, 4, 1.0, sod=1.0)


@pytest.mark.parametrize("sign", [1.0, -0.4])
def test_a_point_ahead_settles_the_sign_of_a_matrix(sign):
    carm = CArm(1020.0, 600.0, 50, 40, 0.7, 0.9, x0=3.0, y0=-2.0)
    pose = carm.pose(_eta(0.3, -0.4, 0.2, (4.0, 5.0, -6.0)), CENTER)[0]
    matrix = sign * carm.projection_matrix(pose)
    again, found = CArm.from_projection_matrix(matrix, 50, 40, 0.7, sod=600.0, ahead=CENTER)
    _close(found, pose.tolist())
    assert not again.flipped
    for bad, error in (([0.0, 0.0], ShapeError), (pose[:3, 3], GeometryError)):
        with pytest.raises(error, match="ahead"):
            CArm.from_projection_matrix(matrix, 50, 40, 0.7, sod=600.0, ahead=bad)
