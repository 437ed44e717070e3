"""CT localizers: a fan across the table, parallel along it; by hand and in closed form."""

import dataclasses
import math

import pytest
import torch

import helpers
from drrlib.drr import DRR
from drrlib.errors import ConfigError, GeometryError, ShapeError
from drrlib.geometry import CArm, ScanProjection
from drrlib.lab import phantoms
from drrlib.projectors import line_integrals
from drrlib.registration import Schedule, descend, register
from drrlib.view import View
from drrlib.volume import Volume

H = math.pi / 2
CENTER = torch.tensor([10.0, -20.0, 30.0], dtype=torch.float64)
# Magnification 2, so that the numbers below can be had by hand.
SCAN = ScanProjection(sdd=1000.0, sod=500.0, height=4, width=6, delx=2.0, dely=3.0)


def _eta(theta=0.0, phi=0.0, gamma=0.0, b=(0.0, 0.0, 0.0)):
    return torch.tensor([[theta, phi, gamma, *b]], dtype=torch.float64)


def _close(actual, expected, atol=1e-9):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    assert torch.allclose(actual, expected, rtol=0, atol=atol), actual


def _volume(dtype=torch.float32):
    spacing = (2.0, 3.0, 2.5)
    affine = helpers.affine(spacing, (16, 12, 14), shift=(10.0, -20.0, 30.0))
    return Volume(helpers.random_volume((16, 12, 14), dtype=dtype), affine)


def test_rays_by_hand():
    """Tube at the patient's left: x = 510, one source per row; columns run along -y unflipped."""
    scan = dataclasses.replace(SCAN, x0=4.0, y0=-6.0)
    source, target = helpers.rays(scan, scan.pose(_eta(phi=-H), CENTER))
    assert source.shape == target.shape == (1, 4, 6, 3)
    # Rows 3 mm apart around 30 + 6, downwards; the same source for a whole row.
    for i, z in enumerate((40.5, 37.5, 34.5, 31.5)):
        _close(source[0, i], torch.tensor([510.0, -20.0, z]).expand(6, 3))
        _close(target[0, i, :, 2], [z] * 6)
    # Columns 2 mm apart at the isocentre, 4 at the detector, whose middle is 8 mm along.
    _close(target[0, 0, :, 1], [-20.0 - 8.0 - 4 * (j - 2.5) for j in range(6)])
    _close(target[0, ..., 0], torch.full((4, 6), -490.0))
    flipped = dataclasses.replace(scan, flipped=True)
    _close(
        helpers.rays(flipped, scan.pose(_eta(phi=-H), CENTER))[1][0, 0, 0, 1], -20.0 + 8.0 - 10.0
    )


def test_angles_mean_the_same_as_for_a_carm():
    carm = CArm(1000.0, 500.0, 4, 6, 4.0, 6.0)
    eta = _eta(0.2, -1.4, 0.1, (4.0, 5.0, -6.0))
    _close(SCAN.pose(eta, CENTER), carm.pose(eta, CENTER))
    _close(SCAN.eta(SCAN.pose(eta, CENTER), CENTER), eta)


@pytest.mark.parametrize("flipped", [False, True])
def test_one_row_is_a_carm(flipped):
    """The rows differ in nothing but where the table stands."""
    scan = ScanProjection(1000.0, 600.0, 1, 9, 3.0, 2.0, x0=7.0, flipped=flipped)
    carm = CArm(1000.0, 600.0, 1, 9, 5.0, 2.0, x0=7.0 / 0.6, flipped=flipped)
    eta = _eta(0.1, 0.3, -0.2, (2.0, 1.0, 3.0))
    images = [DRR(_volume(), g)(g.pose(eta, CENTER)) for g in (scan, carm)]
    assert float(images[1].amax()) > 0.1
    assert helpers.worst(*images) < 1e-6


def test_projection_of_points():
    """Pixel centres are projected to themselves; depth changes the column, never the row."""
    scan = dataclasses.replace(SCAN, x0=4.0, y0=-6.0, flipped=True)
    pose = scan.pose(_eta(0.3, -1.2, 0.2, (4.0, 5.0, -6.0)), CENTER)
    source, target = helpers.rays(scan, pose)
    i, j = torch.meshgrid(torch.arange(4) + 0.5, torch.arange(6) + 0.5, indexing="ij")
    for depth in (0.3, 0.5, 1.0):
        points = (source + depth * (target - source)).reshape(-1, 3)
        _close(scan.project(points, pose).reshape(4, 6, 2), torch.stack([j, i], dim=-1))
    # Half-way to the detector 10 mm aside are 10 / 2 columns; nearer to the tube, more.
    pose = SCAN.pose(_eta(), CENTER)
    points = CENTER + torch.tensor([[10.0, 0.0, 9.0], [10.0, 100.0, 9.0]])
    _close(SCAN.project(points, pose)[0], [[8.0, -1.0], [3.0 + 5.0 * 500 / 400, -1.0]])


def test_a_sphere_is_seen_where_its_centre_is_projected():
    middle = torch.tensor([-30.0, 25.0, 40.0], dtype=torch.float64)
    affine = helpers.affine((1.0,) * 3, (12,) * 3, shift=middle.tolist())
    where = torch.arange(12) - 5.5
    x, y, z = torch.meshgrid(where, where, where, indexing="ij")
    ball = Volume(0.02 * (x**2 + y**2 + z**2 < 25).float(), affine)
    scan = ScanProjection(1040.0, 570.0, 96, 96, 1.0, 1.0, flipped=True)
    pose = scan.pose(_eta(0.1, -1.3, 0.05), torch.zeros(3))
    image = DRR(ball, scan)(pose)[0, 0].double()
    i, j = torch.meshgrid(torch.arange(96) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    seen = torch.stack([(j * image).sum(), (i * image).sum()]) / image.sum()
    # The centroid of a sphere of radius 5 is off its centre by less than 5^2 / 570 mm.
    _close(seen, scan.project(middle[None], pose)[0, 0], atol=0.05)


def test_a_box_in_closed_form():
    box = phantoms.Box((-10.0, -7.5, -5.0), (10.0, 7.5, 5.0), 0.02)
    affine = helpers.affine((2.0, 3.0, 2.0), (10, 5, 5))
    volume = Volume(torch.full((10, 5, 5), 0.02), affine)
    scan = ScanProjection(1000.0, 400.0, 12, 14, 2.0, 1.3, x0=1.0, y0=2.0)
    pose = scan.pose(_eta(0.3, 0.5, 0.2, (1.0, -2.0, 0.5)), torch.zeros(3))
    source, target = helpers.rays(scan, pose)
    expected = box.line_integrals(source, target)
    assert float(expected.max()) > 0.2 and float((expected == 0).double().mean()) > 0.1
    image = DRR(volume, scan, backend="reference")(pose)[:, 0]
    assert helpers.worst(image, expected) < 1e-5


@pytest.mark.parametrize("method", ["siddon", "joseph"])
def test_the_kernel_agrees_with_the_reference(method):
    scan = ScanProjection(1000.0, 500.0, 8, 10, 3.0, 4.0, x0=2.0, y0=1.0)
    eta = _eta(0.21, 0.37, 0.1).repeat(3, 1) + 0.1 * torch.arange(3)[:, None]
    found = {}
    for backend, dtype in (("cpu", torch.float32), ("reference", torch.float64)):
        drr = DRR(_volume(dtype), scan, method=method, backend=backend)
        moved = eta.clone().requires_grad_()
        image = drr(drr.pose(moved))
        weights = torch.linspace(-1, 1, image.numel()).reshape(image.shape).to(image)
        (slope,) = torch.autograd.grad((image * weights).sum(), moved)
        found[backend] = image.detach(), slope
    for ours, expected in zip(found["cpu"], found["reference"], strict=True):
        assert ours.shape[0] == 3 and helpers.worst(ours, expected) < 1e-4


def test_gradients_against_differences():
    """Pose and lengths, float64, on the smooth image."""
    scan = ScanProjection(1000.0, 500.0, 6, 7, 4.0, 5.0)
    drr = DRR(_volume(torch.float64), scan, method="joseph", backend="reference")
    weights = torch.linspace(-1, 2, 42, dtype=torch.float64).reshape(1, 1, 6, 7)
    names = ("sod", "delx", "dely", "x0", "y0")
    at = torch.cat([_eta(0.21, 0.37, 0.1, (1.0, 2.0, -1.0))[0], torch.tensor([500.0, 4, 5, 1, 2])])

    def value(p):
        return (drr.at(p[None, :6], **dict(zip(names, p[6:], strict=True))) * weights).sum()

    p = at.clone().requires_grad_()
    (slope,) = torch.autograd.grad(value(p), p)
    step = 1e-5 * torch.tensor([0.1] * 3 + [1.0] * 8, dtype=torch.float64)
    jumps = torch.diag(step)
    with torch.no_grad():
        apart = [float(value(at + j) - value(at - j)) for j in jumps]
    expected = torch.tensor(apart, dtype=torch.float64) / (2 * step)
    assert bool((expected.abs() > 1e-6).all())
    assert torch.allclose(slope, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))


def test_the_image_is_that_of_its_rays():
    """Written out as explicit rays; a C-arm's strips are its detector."""
    carm = CArm(120.0, 60.0, 7, 9, 4.0, 5.0, 1.0, -2.0)
    for geometry in (SCAN, carm):
        drr = DRR(_volume(), geometry)
        pose = drr.pose(_eta(0.2, 0.4, 0.1))
        source, target = helpers.rays(geometry, pose)
        assert target.shape == (1, geometry.height, geometry.width, 3)
        assert helpers.worst(line_integrals(drr.grid, source, target), drr(pose)[:, 0]) < 1e-6
        assert float(drr(pose).amax()) > 0.1
    assert torch.equal(helpers.rays(carm, pose)[1], carm.pixel_centers(pose))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_jacobian_is_the_gradient_of_every_pixel(backend):
    drr = DRR(_volume(), SCAN, method="joseph", backend=backend)
    eta = _eta(0.2, 0.4, 0.1).repeat(2, 1) + torch.tensor([[0.0], [0.05]])
    image, jacobian = drr.jacobian(eta)
    assert jacobian.shape == (2, 1, 4, 6, 6) and torch.equal(image, drr.at(eta))
    leaf = eta.clone().requires_grad_()
    for k, pixel in enumerate(drr.at(leaf).flatten(1).sum(dim=0)):
        (row,) = torch.autograd.grad(pixel, leaf, retain_graph=True)
        assert torch.allclose(jacobian.flatten(1, 3)[:, k].double(), row, rtol=2e-4, atol=2e-5)


def test_looking_aside_sees_the_same_rays():
    """Rows by a move along the table, which is exact; columns by a turn of the fan."""
    pose = SCAN.pose(_eta(0.1, -1.2, 0.2), CENTER)
    seen = SCAN.looking_at(pose, torch.tensor([2.0]), torch.tensor([0.0]))
    for one, other in zip(helpers.rays(SCAN, pose), helpers.rays(SCAN, seen), strict=True):
        _close(other[:, :2], one[:, 2:], atol=1e-9)
    seen = SCAN.looking_at(pose, torch.tensor([0.0]), torch.tensor([1.0]))
    source, target = helpers.rays(SCAN, pose)
    aside = 0.5 * (target[:, :, 3] + target[:, :, 4])  # one column right of the middle, at 4.0
    _close(SCAN.project(aside[0, :1], seen)[0, 0, 0], 3.0)
    _close(seen[0, :3, 3], source[0, 0, 0] * 0 + pose[0, :3, 3])


def test_crop_and_downsample():
    scan = ScanProjection(1000.0, 500.0, 8, 12, 2.0, 3.0, x0=1.0, y0=2.0, flipped=True)
    pose = scan.pose(_eta(0.1, 0.2, 0.3), CENTER)
    whole = helpers.rays(scan, pose)
    part = helpers.rays(scan.crop(2, 4, 4, 6), pose)
    for one, other in zip(whole, part, strict=True):
        _close(other, one[:, 2:6, 4:10])
    joined = helpers.rays(scan.downsample(2), pose)
    for one, other in zip(whole, joined, strict=True):
        _close(other, one.unfold(1, 2, 2).unfold(2, 2, 2).mean(dim=(-2, -1)))
    for window in ((0, 0, 9, 1), (-1, 0, 2, 2), (0, 0, 0, 1), (0, 10, 1, 3)):
        with pytest.raises(ConfigError, match=r"leaves the detector|a whole number"):
            scan.crop(*window)
    with pytest.raises(ConfigError, match="divisor"):
        scan.downsample(3)


def test_level_with_a_point_changes_no_ray():
    pose = SCAN.pose(_eta(0.1, -1.2, 0.2), CENTER)
    point = torch.tensor([3.0, 50.0, 70.0], dtype=torch.float64)
    moved, there = SCAN.level_with(pose, point)
    for one, other in zip(helpers.rays(SCAN, pose), helpers.rays(moved, there), strict=True):
        _close(other, one, atol=1e-5)
    assert abs(float((point - there[0, :3, 3]) @ there[0, :3, 1])) < 1e-9
    with pytest.raises(ConfigError, match=r"\[1, 4, 4\]"):
        SCAN.level_with(pose.repeat(2, 1, 1), point)


def test_impossible_lengths():
    with pytest.raises(GeometryError, match="0 < sod < sdd"):
        dataclasses.replace(SCAN, sod=1000.0)
    with pytest.raises(GeometryError, match="height"):
        dataclasses.replace(SCAN, height=0)
    with pytest.raises(ShapeError, match="0-d"):
        dataclasses.replace(SCAN, y0=torch.zeros(1))


def test_a_registration_finds_the_way_back():
    """All levels, a batch of starts, the gradient of explicit rays."""
    volume = Volume.from_hu(*(lambda p: (p.hu, p.affine))(phantoms.skull(8.0)))
    scan = ScanProjection(1040.0, 570.0, 32, 32, 8.0, 8.0)
    eta = torch.tensor([0.05, -1.5, 0.02, 3.0, -4.0, 5.0], dtype=torch.float64)
    fixed = DRR(volume, scan, method="joseph")(scan.pose(eta[None], volume.center))
    away = torch.tensor([0.08, -0.06, 0.05, 8.0, 6.0, -9.0], dtype=torch.float64)
    drr = DRR(volume, scan, method="joseph")
    starts = torch.stack([eta + away, eta - away])
    schedule = Schedule(((2, 60), (1, 60)))
    found = descend(fixed, drr, starts, loss="gradient_ncc", schedule=schedule).best
    assert found.trace.level.unique().tolist() == [1, 2]
    off = (found.eta - eta).abs()
    assert float(off[:3].max()) < math.radians(0.5) and float(off[4:].max()) < 0.5


def test_register_takes_a_localizer():
    """Sweep, descents, second-order steps and the verdict, as for a C-arm."""
    phantom = phantoms.skull(8.0)
    volume = Volume.from_hu(phantom.hu, phantom.affine)
    scan = ScanProjection(1040.0, 570.0, 60, 52, 4.0, 4.0, flipped=True)
    eta = torch.tensor([0.05, -1.5, 0.02, 3.0, -4.0, 5.0], dtype=torch.float64)
    fixed = DRR(volume, scan, method="joseph").at(eta)
    away = torch.tensor([0.3, -0.25, 0.2, 20.0, -15.0, 25.0], dtype=torch.float64)
    found = register(View(fixed, scan), volume, eta + away, search=(0.4, 30.0))
    assert found.converged, found
    assert float(found.compare(eta).mtre) < 0.05, found.compare(eta)


def test_explicit_rays_take_a_batch():
    """Three images at once are three images one by one."""
    drr = DRR(_volume(), SCAN)
    eta = _eta(0.1, 0.2, 0.3).repeat(3, 1) + 0.05 * torch.arange(3)[:, None]
    poses = drr.pose(eta)
    one_by_one = torch.cat([drr(pose[None]) for pose in poses])
    assert torch.equal(drr(poses), one_by_one)
    rays = helpers.rays(SCAN, poses)
    assert torch.equal(drr(poses)[:, 0], line_integrals(drr.grid, *rays))
