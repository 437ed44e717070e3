"""Calibrations of other tools see every point where those tools see it."""

import json
import math

import numpy as np
import pytest
import torch

from drrlib import DRR, CArm, Volume, read_mayacam, read_tiff_stack, read_xray
from drrlib.errors import ConfigError, GeometryError, ShapeError
from drrlib.io import (
    Distortion,
    calibration_from_krt,
    calibration_from_matrix,
    read_rtk_geometry,
    with_common_isocenter,
)

K = np.array([[2000.0, 0, 310.0], [0, 2100.0, 250.0], [0, 0, 1]])
R = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
T = np.array([5.0, -7.0, 900.0])
SIZE = (480, 640)
POINT = np.array([40.0, 30.0, 20.0])
# By hand: R X + t = (-30 + 5, -20 - 7, 40 + 900) = (-25, -27, 940).
SEEN = (2000 * -25 / 940 + 310, 2100 * -27 / 940 + 250)


def project(calibration, point=POINT):
    return calibration.carm.project(torch.tensor([point]), calibration.pose)[0].tolist()


def integers(pixel):
    """Where a pixel is for a tool with pixel centres at integers."""
    return tuple(x + 0.5 for x in pixel)


def test_opencv_k_and_rt_by_hand():
    made = calibration_from_krt(K, R, T, SIZE)
    assert project(made) == pytest.approx(integers(SEEN), abs=1e-9)
    assert made.carm.flipped  # OpenCV's picture is seen from the source
    assert made.pose[:3, 3].tolist() == pytest.approx((-R.T @ T).tolist())
    half = calibration_from_krt(K, R, T, SIZE, pixel_centers="half")
    assert project(half) == pytest.approx(SEEN, abs=1e-9)


def test_other_forms_of_the_same_camera():
    back = np.linalg.inv(np.vstack([np.column_stack([R, T]), [0, 0, 0, 1]]))
    gl = np.diag([1.0, -1.0, -1.0])
    angle = 2 * math.pi / 3  # R is a turn about (1, -1, 1) / sqrt(3)
    axis = np.array([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]])
    vector = axis / np.linalg.norm(axis) * angle
    for made in (
        calibration_from_krt(K, back[:3, :3], back[:3, 3], SIZE, world_from_camera=True),
        calibration_from_krt(K, gl @ R, gl @ T, SIZE, axes="opengl"),
        calibration_from_krt(K, vector, T, SIZE),
        calibration_from_krt(K, R, T[:, None], SIZE, sdd=1500.0, sod=800.0),
        calibration_from_krt(K, R, T, SIZE, delx=0.5),
    ):
        assert project(made) == pytest.approx(integers(SEEN), abs=1e-6)
    assert made.carm.delx == 0.5 and made.carm.sdd == pytest.approx(1000.0)


@pytest.mark.parametrize("factor", [1.0, -1.0, 3.7e-4, -250.0])
def test_a_matrix_of_any_scale_and_sign_without_pitch(factor):
    matrix = factor * K @ np.column_stack([R, T])
    made = calibration_from_matrix(matrix, SIZE)
    assert project(made) == pytest.approx(SEEN, abs=1e-9)
    assert made.carm.sod == pytest.approx(900.0) and made.carm.sdd == pytest.approx(1800.0)
    assert torch.allclose(
        made.matrix / made.matrix[2, 3], torch.tensor(K @ np.column_stack([R, T])) / 900
    )
    wide = calibration_from_matrix(matrix, SIZE, sdd=1200.0, sod=500.0, pixel_centers="integer")
    assert (wide.carm.sdd, wide.carm.sod) == (pytest.approx(1200.0), 500.0)
    assert project(wide) == pytest.approx(integers(SEEN), abs=1e-9)


def test_rays_do_not_depend_on_the_pitch():
    volume = Volume(
        torch.rand(9, 9, 9, generator=torch.Generator().manual_seed(0)), np.diag([9, 9, 9, 1.0])
    )
    images = []
    for delx in (0.6, 0.9):
        made = calibration_from_krt(K, R, T, SIZE, delx=delx, sod=700.0)
        carm = made.carm.crop(200, 200, 120, 160).resize(12, 16)
        images.append(DRR(volume, carm)(made.pose[None]))
    assert torch.allclose(*images, rtol=1e-3, atol=1e-3) and float(images[0].max()) > 1


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (dict(rotation=2 * R), GeometryError, "R is no rotation"),
        (dict(rotation=-R), GeometryError, "determinant -1"),
        (dict(rotation=R[:2]), ShapeError, "expected"),
        (dict(axes="maya"), ConfigError, "axes is 'maya'"),
        (dict(pixel_centers="corner"), ConfigError, "pixel_centers is 'corner'"),
        (dict(delx=1.0, sdd=1.0), ConfigError, "both given"),
        (dict(k=K + 30 * np.eye(3)[[1, 0, 2]] * [[1], [0], [0]]), GeometryError, "skewed"),
    ],
)
def test_what_is_no_camera(change, error, says):
    given = dict(k=K, rotation=R, translation=T) | change
    with pytest.raises(error, match=says):
        calibration_from_krt(size=SIZE, **given)


def test_a_matrix_whose_sign_is_open():
    with pytest.raises(GeometryError, match="pass ahead="):
        calibration_from_matrix(K @ np.column_stack([R, [5.0, 7.0, 0.0]]), SIZE)


MAYACAM = """image size
640,480

camera matrix
2000,0,310
0,2100,250
0,0,1

rotation
0,-1,0
0,0,-1
1,0,0

translation
5
-7
900
"""


def test_mayacam(tmp_path):
    path = tmp_path / "cam.txt"
    path.write_text(MAYACAM)
    made = read_mayacam(path)
    assert (made.carm.height, made.carm.width) == SIZE
    assert project(made) == pytest.approx(integers(SEEN), abs=1e-9)
    for wrong, says in (
        (MAYACAM.replace("640,480", "640"), "1 numbers under 'image size'"),
        (MAYACAM.replace("translation", "move"), "a line that is neither name nor numbers"),
        (MAYACAM.replace("2100", "nan"), "'camera matrix'"),
        ("", "0 numbers"),
    ):
        path.write_text(wrong)
        with pytest.raises(ConfigError, match=rf"cam.txt' is no MayaCam 2.0 calibration .*{says}"):
            read_mayacam(path)
    path.write_text(MAYACAM.replace("1,0,0", "1,1,0"))
    with pytest.raises(GeometryError, match=r"cam.txt': R is no rotation"):
        read_mayacam(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="no text"):
        read_mayacam(path)
    with pytest.raises(ConfigError, match="is no file"):
        read_mayacam(tmp_path / "none.txt")


def test_a_biplane_shares_its_isocenter():
    """Two axes that pass 2 mm apart: the isocentre is the middle of that way."""
    side = np.array([[0.0, 1, 0], [0, 0, -1], [-1, 0, 0]])  # looks along -x
    front = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # along +y
    first = calibration_from_krt(K, side, -side @ [800.0, 30, 1], SIZE)
    second = calibration_from_krt(K, front, -front @ [10.0, -700, -1], SIZE, delx=0.1)
    both = with_common_isocenter([first, second])
    for calibration, sod in zip(both, (790.0, 730.0), strict=True):
        assert calibration.carm.sod == pytest.approx(sod)
        assert calibration.carm.sdd > 1.2 * sod
        middle = calibration.pose[:3, 3] + sod * calibration.pose[:3, 2]
        assert middle.tolist() == pytest.approx([10.0, 30.0, 0.0], abs=1.01)
    for before, after in zip((first, second), both, strict=True):
        assert project(after) == pytest.approx(project(before), abs=1e-8)
    with pytest.raises(GeometryError, match="parallel"):
        with_common_isocenter([first, first])
    with pytest.raises(ConfigError, match="two or more"):
        with_common_isocenter([first])


# Written by RTK 2.7 (AddProjection(600, 1000, 30, 3, -4, 5, 7, 1, 2) and (700, 1200, 200)); its own
# matrices put the point (10, 20, -30) at these (x, y) on the detector [mm].
RTK = """<?xml version="1.0"?>
<!DOCTYPE RTKGEOMETRY>
<RTKThreeDCircularGeometry version="3">
  <Projection>
    <GantryAngle>30</GantryAngle>
    <SourceToIsocenterDistance>600</SourceToIsocenterDistance>
    <SourceToDetectorDistance>1000</SourceToDetectorDistance>
    <SourceOffsetX>1</SourceOffsetX>
    <SourceOffsetY>2</SourceOffsetY>
    <ProjectionOffsetX>3</ProjectionOffsetX>
    <ProjectionOffsetY>-4</ProjectionOffsetY>
    <InPlaneAngle>7</InPlaneAngle>
    <OutOfPlaneAngle>5</OutOfPlaneAngle>
    <Matrix>
        -865.877183019281   -121.231282274635    485.349029178634                2200
         65.2774828968479   -989.292148332937   -130.674769842746               -1600
        0.498097349045873 -0.0871557427476582   0.862729915662821                -600
    </Matrix>
  </Projection>
  <Projection>
    <GantryAngle>200</GantryAngle>
    <SourceToIsocenterDistance>700</SourceToIsocenterDistance>
    <SourceToDetectorDistance>1200</SourceToDetectorDistance>
  </Projection>
</RTKThreeDCircularGeometry>
"""
RTK_SEEN = ((37.65212046, 27.00230628), (-34.93484705, 35.54347484))


def test_rtk_geometry(tmp_path):
    path = tmp_path / "geometry.xml"
    path.write_text(RTK)
    spacing, origin = (0.5, 0.25), (-60.0, -50.0)
    made = read_rtk_geometry(path, (200, 480), spacing, origin)
    assert [c.carm.sdd for c in made] == pytest.approx([1000.0, 1200.0])
    assert [c.carm.sod for c in made] == [600.0, 700.0]
    for calibration, (x, y) in zip(made, RTK_SEEN, strict=True):
        expected = ((x - origin[0]) / spacing[1] + 0.5, (y - origin[1]) / spacing[0] + 0.5)
        assert project(calibration, (10.0, 20.0, -30.0)) == pytest.approx(expected, abs=1e-6)
    middle = read_rtk_geometry(path, (200, 480), spacing)[1]
    assert project(middle, (0.0, 0.0, 0.0)) == pytest.approx((240.0, 100.0), abs=1e-9)


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("no xml", ConfigError, "is no RTK geometry"),
        ("<a/>", ConfigError, "is no RTK geometry"),
        (RTK.replace(">1000<", ">0<"), GeometryError, r"g.xml': SourceToIso.*parallel"),
        (RTK.replace(">30<", ">x<"), ConfigError, "is no RTK geometry"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + RTK[43:], ConfigError, "entities"),
    ],
)
def test_geometries_that_are_none(tmp_path, text, error, says):
    (tmp_path / "g.xml").write_text(text)
    with pytest.raises(error, match=says):
        read_rtk_geometry(tmp_path / "g.xml", (10, 10), (1.0, 1.0))


def bent(points, size=(400, 400)):
    """Pincushion and S of an intensifier, up to 12 pixels."""
    x, y = ((points[:, q] - size[1 - q] / 2) / 200 for q in range(2))
    r = x**2 + y**2
    moved = np.stack([8 * x * r + 4 * y * r, 8 * y * r - 4 * x * r], axis=1)
    return points + moved


def test_distortion_is_fitted_and_removed():
    size = (400, 400)
    grid = np.stack(np.meshgrid(np.arange(20, 400, 20.0), np.arange(20, 400, 20.0)), -1)
    grid = grid.reshape(-1, 2)
    noise = 0.05 * np.random.default_rng(0).standard_normal(grid.shape)
    fitted = Distortion.fit(bent(grid) + noise, grid, size, degree=4)
    assert fitted.rms < 0.1
    assert np.abs(fitted.bend(grid) - bent(grid)).max() < 0.1
    row, column = np.mgrid[:400, :400] + 0.5
    straight = np.sin(column / 15) + np.cos(row / 11)
    # The bent picture shows at bend(p) what the straight one has at p: invert by a few steps.
    target = np.stack([column.ravel(), row.ravel()], axis=1)
    source = target.copy()
    for _ in range(30):
        source = source - (bent(source) - target)
    seen = (np.sin(source[:, 0] / 15) + np.cos(source[:, 1] / 11)).reshape(400, 400)
    back = fitted.undistort(seen)
    inside = (np.hypot(row - 200, column - 200) < 180,)
    assert np.abs(back - straight)[inside].max() < 0.03 < np.abs(seen - straight)[inside].max() / 10
    with pytest.raises(ShapeError, match="distortion is of"):
        fitted.undistort(seen[:10])
    with pytest.raises(ConfigError, match="take a lower degree"):
        Distortion.fit(grid[:20], grid[:20], size)
    with pytest.raises(ConfigError, match="too few lines"):
        Distortion.fit(grid[:19], grid[:19], size, degree=2)


def test_read_xray_removes_the_distortion_of_a_calibration(tmp_path):
    size = (400, 400)
    grid = np.stack(np.meshgrid(np.arange(20, 400, 20.0), np.arange(20, 400, 20.0)), -1)
    fitted = Distortion.fit(bent(grid.reshape(-1, 2)), grid.reshape(-1, 2), size)
    made = calibration_from_krt(K, R, T, size)._replace(distortion=fitted)
    image = 1.5 + np.sin(np.mgrid[:400, :400][1] / 15)
    np.save(tmp_path / "x.npy", image)
    view = read_xray(tmp_path / "x.npy", carm=made, values="line integrals", mask=False)
    assert np.allclose(view.image.numpy(), fitted.undistort(image))
    assert any("distortion removed" in note for note in view.notes)


def test_the_reference_pose_of_a_real_biplane_overlays(real_data):
    """DRRs of the radius meet its images: shifting either by 3 pixels halves the likeness."""
    from scipy.ndimage import gaussian_filter

    folder = real_data / "wrist_biplane"
    names = [f"calibration/xr_calib_wrist_cam0{k}.txt" for k in (1, 2)]
    pair = with_common_isocenter([read_mayacam(folder / n) for n in names])
    bone = read_tiff_stack(
        folder / "models/rad_dcm_cropped.tif", (0.39625, 0.39625, 0.625), mu_per_value=2e-5
    )
    pose = json.loads((folder / "reference.json").read_text())["radius"]["0099"]
    bone = Volume(bone.mu, torch.tensor(pose, dtype=torch.float64) @ bone.affine)
    for k, calibration in enumerate(pair, 1):
        path = folder / f"images/xr_rad_uln_cam0{k}_UND.0099.tif"
        view = read_xray(path, carm=calibration).resize(440, 440)
        assert 0.6 < float((view.weights > 0).double().mean()) < 0.8
        image, drawn = (
            x.double().numpy() for x in (view.image, DRR(bone, view.carm)(view.pose[None])[0, 0])
        )
        image = image - gaussian_filter(image, 8)

        def likeness(shift, image=image, drawn=drawn):
            moved = np.roll(drawn, shift, (0, 1))
            covered = moved > 0.02 * moved.max()
            return np.corrcoef(image[covered], (moved - gaussian_filter(moved, 8))[covered])[0, 1]

        there = likeness((0, 0))
        assert there > 0.55
        assert all(likeness(s) < 0.8 * there for s in ((0, 3), (0, -3), (3, 3), (-3, -3)))


def test_carm_of_a_view_follows(tmp_path):
    path = tmp_path / "cam.txt"
    path.write_text(MAYACAM)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random(SIZE) + 2)
    view = read_xray(tmp_path / "x.npy", carm=read_mayacam(path), values="line integrals")
    small = view.crop(100, 200, 200, 300).resize(100, 150)
    seen = small.carm.project(torch.tensor([POINT]), small.pose)[0].tolist()
    column, row = integers(SEEN)
    assert seen == pytest.approx(((column - 200) / 2, (row - 100) / 2))
    assert isinstance(small.carm, CArm)
