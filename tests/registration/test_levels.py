"""Coarser detectors and volumes, weights on their way through them, what an image must be."""

import dataclasses
import math

import pytest
import torch
from torch.nn.functional import avg_pool2d

from drrlib.drr import DRR
from drrlib.errors import ConfigError, GeometryError, ShapeError
from drrlib.geometry import CArm, inverse
from drrlib.lab.phantoms import skull
from drrlib.registration import Levels, join_pixels
from drrlib.view import View, check_images
from drrlib.volume import Volume
from helpers import outside_band, worst

EYE = torch.eye(4, dtype=torch.float64)
ETA = torch.tensor([[0.1, 0.5, -0.1, 6.0, -4.0, 8.0]], dtype=torch.float64)
ODD = CArm(1020.0, 510.0, 211, 169, 1.5, 2.0, 11.0, -17.0)


@pytest.fixture(scope="module")
def volume():
    phantom = skull(8.0)
    return Volume.from_hu(phantom.hu, phantom.affine)


def _levels(volume, carm, finest=None, others=(), backend="auto"):
    carms, poses = [carm, *(c for c, _ in others)], [EYE, *(p for _, p in others)]
    return Levels(volume, carms, poses, backend, finest)


@pytest.mark.parametrize(
    ("size", "finest", "binnings"),
    [
        ((48, 48), None, [2, 1]),
        ((47, 200), None, [1]),
        ((10, 10), None, [1]),
        ((200, 240), None, [8, 4, 2, 1]),
        ((200, 240), 100, [8, 4, 2]),
        ((200, 240), 150, [8, 4, 2, 1]),  # halved, it would fall below what is enough
        ((200, 240), 10, [8, 4]),  # two levels at least: outliers are found at the second
        ((48, 48), 10, [2, 1]),
    ],
    ids=str,
)
def test_levels_go_down_to_24_pixels(volume, size, finest, binnings):
    levels = _levels(volume, CArm(1020.0, 510.0, *size, 2.0, 2.0), finest)
    assert [levels.binning(0, k) for k in range(levels.last + 1)] == binnings
    assert [levels.share(k) for k in range(levels.last + 1)] == [1 / b**2 for b in binnings]


def test_volumes_follow_the_pixels(volume):
    """Half a pixel as seen at the isocentre, at least a pixel of the finest level."""
    fine = Volume(volume.mu, torch.diag(torch.tensor([0.5, 1.0, 2.0, 1.0]).double()))
    levels = _levels(fine, CArm(1020.0, 510.0, 200, 200, 4.0, 4.0))  # 2 mm at the isocentre
    shapes = [levels.renderer(0, k).volume.shape for k in range(4)]
    at = [torch.tensor(levels.renderer(0, k).volume.spacing.tolist()) for k in range(4)]
    assert [x.tolist() for x in at] == [[8, 8, 8], [4, 4, 4], [2, 2, 2], [2, 2, 2]]
    assert shapes[3] == (-(-fine.shape[0] // 4), -(-fine.shape[1] // 2), fine.shape[2])
    coarse = _levels(fine, CArm(1020.0, 510.0, 200, 200, 4.0, 4.0), finest=100)
    assert coarse.renderer(0, coarse.last).volume.spacing.tolist() == [4, 4, 4]
    assert all(torch.equal(levels.renderer(0, k).volume.center, fine.center) for k in range(4))


@pytest.mark.parametrize("flipped", [False, True])
def test_padded_pixels_lie_where_they_were(volume, flipped):
    """211 x 169 is no multiple of 2 or 4: pixels of no weight are added at the ends."""
    carm = dataclasses.replace(ODD, flipped=flipped)
    levels = _levels(volume, carm)
    pose = carm.pose(ETA, volume.center)
    before, last = carm.pixel_centers(pose), levels.last
    assert levels.camera(0, last) == carm and levels.binning(0, 0) == 4
    coarse = levels.camera(0, 0)
    assert (coarse.height, coarse.width) == (53, 43)
    # A coarse pixel has its centre amid those that it joins.
    for binning in (2, 4, 5):
        joined = carm.join(binning).pixel_centers(pose)[0, 7, 5]
        rows, columns = (slice(k * binning, (k + 1) * binning) for k in (7, 5))
        assert torch.allclose(joined, before[0, rows, columns].mean(dim=(0, 1)))


@pytest.mark.parametrize("binning", [1, 2, 4, 5])
def test_padding_has_no_weight(binning):
    images = torch.rand(2, 1, 211, 169, dtype=torch.float64)
    joined, weights = join_pixels(images, None, binning)
    size = (-(-211 // binning), -(-169 // binning))
    assert joined.shape == (2, 1, *size)
    whole = (211 // binning, 169 // binning)
    inner = (..., slice(whole[0]), slice(whole[1]))
    assert worst(joined[inner], avg_pool2d(images, binning)) < 1e-6
    if binning == 1:
        assert weights is None
        return
    assert weights.shape == joined.shape and bool((weights[inner] == 1).all())
    assert weights.sum() * binning**2 == pytest.approx(2 * 211 * 169)
    # What lies at the border is the mean of the pixels that are there.
    corner = images[0, 0, whole[0] * binning :, whole[1] * binning :].mean()
    assert float(joined[0, 0, -1, -1]) == pytest.approx(float(corner))


def test_a_coarse_image_is_the_average_of_a_fine_one(volume):
    """Rendered by a detector of joined pixels: their mean, but for the image's curvature."""
    carm = dataclasses.replace(ODD, delx=2.0)
    levels = _levels(volume, carm)
    level = levels.last - 1
    coarse = levels.renderer(0, level)
    pose = carm.pose(ETA, volume.center)
    ours = coarse(pose)
    full = DRR(coarse.volume, carm, method="joseph")(pose)
    covered = ours[..., :105, :84]
    mean = avg_pool2d(full, 2)
    assert float((covered - mean).abs().mean()) < 0.01 * float(mean.abs().mean())
    shifted = (ours[..., :105, 1:85] - mean).abs().mean()  # one pixel off is far worse
    assert float(shifted) > 4 * float((covered - mean).abs().mean())
    (sight,) = levels.sights(level, [full.double()], [None])
    assert worst(sight.render(ETA), ours) < 1e-6 and sight.fixed.shape == ours.shape


def test_weights_are_binned_with_the_image(volume):
    carm = CArm(1020.0, 510.0, 48, 48, 8.0, 8.0)
    levels = _levels(volume, carm)
    generator = torch.Generator().manual_seed(0)
    fixed = torch.rand(1, 1, 48, 48, generator=generator, dtype=torch.float64)
    weights = torch.rand(1, 1, 48, 48, generator=generator, dtype=torch.float64)
    weights[..., :2, :4] = 0
    fixed[..., 0, 0] = math.nan
    (sight,) = levels.sights(0, [fixed], [weights])
    block, share = fixed[0, 0, 4:6, 8:10], weights[0, 0, 4:6, 8:10]
    assert float(sight.fixed[0, 0, 2, 4]) == pytest.approx(
        float((block * share).sum() / share.sum())
    )
    assert float(sight.weights[0, 0, 2, 4]) == pytest.approx(float(share.mean()))
    assert not sight.weights[0, 0, 0, :2].any() and not sight.fixed[0, 0, 0, :2].any()
    (sight,) = levels.sights(0, [torch.where(weights > 0, fixed, 0.0)], [None])
    assert sight.weights is None


def test_a_further_camera_follows_the_first_one(volume):
    """Also where its own isocentre lies at another distance."""
    carm = CArm(1020.0, 510.0, 48, 48, 8.0, 8.0)
    other = CArm(1100.0, 640.0, 96, 80, 4.0, 4.0, flipped=True)
    first = carm.pose(ETA, volume.center)
    second = other.pose(ETA + torch.tensor([0.1, 1.2, 0, 0, 20.0, 0]), volume.center)
    levels = _levels(volume, carm, others=[(other, (inverse(first) @ second)[0])])
    assert [levels.binning(1, k) for k in range(levels.last + 1)] == [2, 1]
    images = [torch.rand(1, 1, c.height, c.width).double() for c in (carm, other)]
    for sight, seen, pose in zip(
        levels.sights(levels.last, images, [None, None]),
        (carm, other),
        (first, second),
        strict=True,
    ):
        assert worst(sight.render(ETA), sight.drr.with_carm(seen)(pose)) < 1e-6


def _slopes_by_differences(sight, row, steps):
    ends = [
        [sight.march(row + sign * torch.diag(steps)[k]).image for sign in (1, -1)]
        for k in range(len(steps))
    ]
    return torch.stack([(a - b) / (2 * h) for (a, b), h in zip(ends, steps, strict=True)], dim=-1)


def test_slopes_of_a_further_camera(volume):
    """The Jacobian by the first camera's parameters, against differences in float64."""
    carm = CArm(1020.0, 510.0, 14, 12, 30.0, 30.0)
    other = CArm(1100.0, 640.0, 13, 15, 26.0, 25.0, flipped=True)
    first = carm.pose(ETA, volume.center)
    second = other.pose(ETA + torch.tensor([0.1, 1.2, 0, 0, 20.0, 0]), volume.center)
    small = Volume(volume.mu.double(), volume.affine)
    levels = Levels(small, [carm, other], [EYE, (inverse(first) @ second)[0]], "reference")
    sight = levels.sights(
        0, [torch.rand(1, 1, c.height, c.width) for c in (carm, other)], [None, None]
    )[1]
    ours = sight.march(ETA).jacobian(sight.slopes(ETA))
    steps = torch.tensor([1e-6] * 3 + [1e-4] * 3, dtype=torch.float64)
    assert outside_band(ours, _slopes_by_differences(sight, ETA, steps), 1e-6) < 0.01


def test_freed_lengths_reach_the_detector(volume):
    """In the lengths of the real detector, also where pixels are joined."""
    small = Volume(volume.mu.double(), volume.affine)
    levels = _levels(small, ODD, backend="reference")
    free = ("x0", "sdd", "delx")
    row = torch.cat([ETA, torch.tensor([[3.0, 990.0, 1.4]], dtype=torch.float64)], dim=1)
    changed = dataclasses.replace(ODD, x0=3.0, sdd=990.0, delx=1.4)
    (sight,) = levels.sights(0, [torch.rand(1, 1, 211, 169)], [None], free)
    coarse = sight.drr.with_carm(changed.join(4))
    assert worst(sight.render(row), coarse.at(ETA)) < 1e-12
    both = sight.render(torch.cat([row, row + 1]))
    assert both.shape[0] == 2 and not torch.equal(both[0], both[1])
    ours = sight.march(row).jacobian(sight.slopes(row))
    steps = torch.tensor([1e-6] * 3 + [1e-4] * 3 + [1e-3, 1e-3, 1e-6], dtype=torch.float64)
    assert outside_band(ours, _slopes_by_differences(sight, row, steps), 1e-5) < 0.01


def test_freed_lengths_stay_possible(volume):
    levels = _levels(volume, ODD)
    kept = levels.lengths(("sdd", "delx", "x0"), torch.tensor([100.0, -2.0, -300.0]).double())
    assert {name: float(x) for name, x in kept.items()} == pytest.approx(
        {"sdd": 515.1, "delx": 0.15, "x0": -300.0}
    )
    dataclasses.replace(ODD, **kept)


GOOD = torch.linspace(0, 1, 48 * 48).reshape(48, 48)
FLAT = torch.ones(48, 48)
HOLE = torch.where(GOOD < 0.1, math.nan, GOOD)
SQUARE = CArm(1020.0, 510.0, 48, 48, 8.0, 8.0)


def test_images_and_weights_of_every_allowed_form():
    image, weights = check_images(GOOD, SQUARE, None)
    assert image.shape == (1, 1, 48, 48) and image.dtype == torch.float64 and weights is None
    image, weights = check_images(GOOD.expand(3, 1, -1, -1), SQUARE, FLAT > 0)
    assert image.shape == weights.shape == (3, 1, 48, 48)
    image, weights = check_images(HOLE, SQUARE, torch.isfinite(HOLE).double())
    assert bool((weights[image.isnan()] == 0).all()) and weights.any()


@pytest.mark.parametrize(
    ("fixed", "weights", "error", "message"),
    [
        (GOOD[:40], None, ShapeError, r"images\[1\] has shape \(40, 48\).*\(48, 48\) pixels"),
        (GOOD[None, None, None], None, ShapeError, r"expected \[height, width\] or \[n, 1"),
        (GOOD[None, None][:0], None, ShapeError, "shape"),
        (GOOD.expand(1, 3, -1, -1), None, ShapeError, "3 channels"),
        (GOOD, FLAT[:40], ShapeError, r"weights of images\[1\] have shape \(40, 48\)"),
        (GOOD, FLAT.expand(2, 1, -1, -1), ShapeError, r"or as images\[1\]"),
        (GOOD, -FLAT, ConfigError, "negative"),
        (GOOD, FLAT * math.inf, ConfigError, "not finite"),
        (HOLE, None, ConfigError, "give them weight 0"),
        (HOLE, FLAT, ConfigError, "where its weight is not 0"),
        (FLAT, None, ConfigError, "constant"),
        (GOOD, 0 * FLAT, ConfigError, "constant where its weight is not 0"),
        (torch.where(GOOD < 0.5, 1.0, GOOD), (GOOD < 0.5).double(), ConfigError, "constant"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_bad_images_are_named(fixed, weights, error, message):
    with pytest.raises(error, match=message):
        check_images(fixed, SQUARE, weights, "images[1]")


def test_a_view_needs_a_rigid_pose():
    with pytest.raises(GeometryError, match="pose"):
        View(GOOD, SQUARE, pose=2 * EYE)
