"""Weights of an image: crops, circles, polygons, and collimators found in the image."""

import inspect
import math
import sys

import pytest
import torch
from torch.nn.functional import avg_pool2d, pad

from drrlib import regions
from drrlib.drr import DRR
from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry import CArm
from drrlib.lab.phantoms import pelvis, skull
from drrlib.registration import register
from drrlib.view import View
from drrlib.volume import Volume

CARM = CArm(1020.0, 510.0, 30, 40, 2.0, 4.0)
WIDE = CArm(1020.0, 510.0, 100, 120, 4.0, 4.0)
ETA = torch.tensor([[0.05, 0.3, 0.03, 4.0, 5.0, 6.0]], dtype=torch.float64)


@pytest.fixture(scope="module", params=[skull, pelvis])
def image(request):
    phantom = request.param(8.0)
    drr = DRR(Volume.from_hu(phantom.hu, phantom.affine), WIDE)
    clean = drr(drr.pose(ETA))[0, 0].double()
    return (
        clean + 0.03 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).double()
    )


def _collimate(image, top=0, bottom=0, left=0, right=0, *, blade=6.0, tilt=0.0, blur=1):
    """Blades that add to the line integral, turned about the image's middle by `tilt` degrees."""
    h, w = image.shape
    slope = math.tan(math.radians(tilt))
    i, j = torch.arange(h)[:, None] + 0.5, torch.arange(w)[None] + 0.5
    row, column = i - (j - w / 2) * slope, j + (i - h / 2) * slope
    behind = (row < top) | (row > h - bottom) | (column < left) | (column > w - right)
    soft = pad(behind[None, None].double(), [blur // 2] * 4, mode="replicate")
    return image + blade * avg_pool2d(soft, blur, 1)[0, 0]


def test_rectangle_is_a_crop():
    weights = regions.rectangle(CARM, (3, 10), (0, 40))
    assert weights.shape == (30, 40) and weights.sum() == 7 * 40 and bool(weights[3:10].all())


def test_circle_in_millimetres():
    """Pixels are 2 mm wide and 4 mm high: a circle of 8 mm spans 8 columns and 4 rows."""
    weights = regions.circle(CARM, (20.0, 15.0), 8.0)
    row, column = torch.nonzero(weights.any(dim=1)).flatten(), torch.nonzero(weights.any(dim=0))
    assert row.tolist() == [13, 14, 15, 16] and column.flatten().tolist() == list(range(16, 24))
    assert torch.equal(weights, weights.flip(0)) and torch.equal(weights, weights.flip(1))
    # Area of the circle over that of a pixel.
    fine = regions.circle(CArm(1020.0, 510.0, 300, 300, 0.5, 0.5), (140.0, 150.0), 50.0)
    assert float(fine.sum()) * 0.25 == pytest.approx(math.pi * 50**2, rel=0.01)


def test_a_projected_landmark_lies_in_its_circle():
    """The same image coordinates as CArm.project, where rows and columns differ."""
    pose = CARM.pose(ETA, torch.zeros(3).double())
    column, row = CARM.project(torch.tensor([[12.0, 5.0, -9.0]]).double(), pose)[0, 0].tolist()
    weights = regions.circle(CARM, (column, row), 3.0)
    assert bool(weights[int(row), int(column)] == 1) and weights.sum() < 12


def test_polygon():
    square = regions.polygon(CARM, [(5, 4), (15, 4), (15, 9), (5, 9)])
    assert torch.equal(square, regions.rectangle(CARM, (4, 9), (5, 15)))
    assert torch.equal(square, regions.polygon(CARM, [(5, 9), (15, 9), (15, 4), (5, 4)]))
    triangle = regions.polygon(CARM, torch.tensor([[0.0, 0.0], [40.0, 0.0], [0.0, 30.0]]))
    i, j = torch.arange(30)[:, None] + 0.5, torch.arange(40) + 0.5
    assert torch.equal(triangle > 0, j / 40 + i / 30 < 1)
    # The last edge counts too: a notch between it and the first corner.
    notched = regions.polygon(CARM, [(0, 0), (20, 0), (20, 20), (0, 20), (10.2, 10.2)])
    assert notched[10, 2] == 0 and notched[10, 12] == 1


def test_everything_but():
    ring = regions.circle(CARM, (20, 15), 20.0) * regions.outside(
        regions.circle(CARM, (20, 15), 8.0)
    )
    assert ring[15, 20] == 0 and ring[15, 26] == 1 and ring[0, 0] == 0
    assert float(regions.outside(torch.full((2, 2), 0.25))[0, 0]) == 0.75


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: regions.rectangle(CARM, (5, 5), (0, 40)), ConfigError, "rows is"),
        (lambda: regions.rectangle(CARM, (0, 30), (0, 41)), ConfigError, r"columns .*<= 40"),
        (lambda: regions.circle(CARM, (5, 5), 0.0), ConfigError, "radius_mm"),
        (lambda: regions.circle(CARM, (-50, 5), 10.0), ConfigError, "holds no pixel"),
        (lambda: regions.polygon(CARM, [(0, 0), (5, 5)]), ShapeError, r"\(2, 2\)"),
        (lambda: regions.polygon(CARM, [(0, 0), (5, math.nan), (3, 3)]), ConfigError, "NaN"),
        (lambda: regions.polygon(CARM, [(0, 0), (-5, 0), (0, -5)]), ConfigError, "holds no pixel"),
        (lambda: regions.outside(torch.full((2, 2), 2.0)), ConfigError, "from 2 to 2"),
        (lambda: regions.collimated(torch.ones(10, 40)), ShapeError, "16 pixels"),
        (
            lambda: inspect.unwrap(regions.collimated)(torch.ones(1, 40, 40)),
            ShapeError,
            r"\[height, width\]",
        ),
        (lambda: regions.collimated(torch.full((40, 40), math.inf)), ConfigError, "infinite"),
    ],
)
def test_bad_regions_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "blades",
    [
        dict(top=20),
        dict(bottom=35),
        dict(left=18, right=36),
        dict(top=10, bottom=20, left=36, right=30),
        dict(top=10, bottom=20, left=36, right=30, blur=3, tilt=1.0),
    ],
    ids=str,
)
def test_collimated_finds_the_open_field(image, blades):
    """No pixel behind a blade, and hardly an open one lost: 3 % on a side."""
    weights = regions.collimated(_collimate(image, **blades))
    behind = _collimate(torch.zeros_like(image), **blades, blade=1.0)
    assert not bool((behind * weights).any())
    rows, columns = (torch.nonzero(weights.any(dim=d)).flatten() for d in (1, 0))
    found = (rows[0], 99 - rows[-1], columns[0], 119 - columns[-1])
    for side, depth in zip(("top", "bottom", "left", "right"), found, strict=True):
        true = blades.get(side, 0)
        assert true <= int(depth) <= (true + (7 if "tilt" in blades else 5) if true else 0)
    assert weights.sum() == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)


@pytest.mark.parametrize(
    "blades",
    [
        dict(),
        dict(top=20, tilt=12.0),
        dict(top=10, bottom=20, left=36, right=30, tilt=12.0),
        dict(top=20, blade=0.7),
        dict(left=55),
    ],
    ids=str,
)
def test_collimated_refuses_when_unsure(image, blades):
    """No blade, blades far askew or hardly dark, or beyond two fifths of the image."""
    with pytest.raises(ConfigError, match=r"no blade|not sure"):
        regions.collimated(_collimate(image, **blades))


def test_an_iris_is_not_taken_for_blades(image):
    open_field = regions.circle(WIDE, (60.0, 50.0), 180.0)
    with pytest.raises(ConfigError, match=r"no blade|not sure"):
        regions.collimated(image + 6 * regions.outside(open_field))


def test_a_collimated_image_is_registered():
    phantom = skull(6.0)
    volume = Volume.from_hu(phantom.hu, phantom.affine)
    carm = CArm(1020.0, 510.0, 64, 64, 400 / 64, 400 / 64)
    drr = DRR(volume, carm, method="joseph")
    fixed = _collimate(drr(drr.pose(ETA))[0, 0].double(), top=8, left=14, right=12)
    start = ETA[0] + torch.tensor([0.2, -0.2, 0.2, 20.0, -20.0, 20.0], dtype=torch.float64)
    weights = regions.collimated(fixed)
    found = register(View(fixed, carm, weights), volume, start, preset="fast")
    assert found.converged and float(found.compare(ETA[0]).mtre) < 0.01
    assert not register(View(fixed, carm), volume, start, preset="fast").converged


def test_a_polygon_needs_nothing_but_the_core(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # an import of it fails
    star = [(20 + r * math.sin(a), 15 + r * math.cos(a)) for a, r in _STAR]
    weights = regions.polygon(CARM, star)
    assert 0 < float(weights.sum()) < weights.numel()
    assert weights[15, 20] == 1 and weights[0, 0] == 0
    # Area by the shoelace formula, on pixels that are small beside it.
    fine = CArm(1020.0, 510.0, 600, 800, 0.1, 0.2)
    inside = float(regions.polygon(fine, [(20 * x, 20 * y) for x, y in star]).sum()) / 400
    x, y = torch.tensor(star).double().T
    area = 0.5 * float((x * y.roll(-1) - x.roll(-1) * y).sum().abs())
    assert inside == pytest.approx(area, rel=0.01)


_STAR = [(k * math.pi / 5 + 0.1, (12, 5)[k % 2]) for k in range(10)]
