"""Closed-form line integrals against hand-computed numbers, quadrature and exact voxels."""

import math

import pytest
import torch

from drrlib.errors import ConfigError, DrrlibError, GeometryError, ShapeError
from drrlib.lab.phantoms import Box, Ellipsoid, Scene

BOX = Box((-10, -20, -30), (10, 20, 30), 0.02)
BALL = Ellipsoid((0, 0, 0), (5, 5, 5), 0.1)


def one(solid, source, target):
    source, target = torch.tensor([source, target], dtype=torch.float64)
    return float(solid.line_integrals(source, target))


def turn(a, b, c):
    def plane(i, j, angle):
        r = torch.eye(3, dtype=torch.float64)
        r[i, i] = r[j, j] = math.cos(angle)
        r[j, i] = math.sin(angle)
        r[i, j] = -math.sin(angle)
        return r

    return plane(0, 1, a) @ plane(1, 2, b) @ plane(0, 2, c)


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ((-100, 0, 0), (100, 0, 0), 0.4),  # 20 mm
        ((0, -100, 5), (0, 100, 5), 0.8),  # 40 mm
        ((3, 4, -50), (3, 4, 50), 1.2),  # 60 mm
        ((0, 0, 0), (100, 0, 0), 0.2),  # source inside
        ((-100, 0, 0), (5, 0, 0), 0.3),  # target inside
        ((-4, 0, 0), (4, 3, 0), 0.02 * math.sqrt(73)),  # both inside
        ((-30, -30, 0), (30, 30, 0), 0.02 * 20 * math.sqrt(2)),  # through two edges
        ((-100, 0, 0), (-50, 0, 0), 0.0),  # stops short
        ((50, 0, 0), (100, 0, 0), 0.0),  # starts behind
        ((-100, 25, 0), (100, 25, 0), 0.0),  # parallel, beside
        ((-20, 0, 0), (0, 40, 0), 0.0),  # touches the edge x=-10, y=20 only
        ((-100, -20, 0), (100, -20, 0), 0.4),  # in the lower y face
        ((-100, 20, 0), (100, 20, 0), 0.0),  # in the upper y face
        ((0, 0, 0), (0, 0, 0), 0.0),  # no length, inside
    ],
)
def test_box_by_hand(source, target, expected):
    assert one(BOX, source, target) == pytest.approx(expected, abs=1e-14)
    if not (source[1] == target[1] and abs(source[1]) == 20):
        assert one(BOX, target, source) == pytest.approx(expected, abs=1e-14)


def test_boxes_side_by_side_count_their_common_face_once():
    pair = Scene([Box((0, 0, 0), (1, 1, 1), 2.0), Box((0, 1, 0), (1, 2, 1), 3.0)])
    assert one(pair, (-5, 1, 0.5), (5, 1, 0.5)) == pytest.approx(3.0, rel=1e-14)


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ((-100, 0, 0), (100, 0, 0), 1.0),  # diameter 10 mm
        ((-100, 3, 0), (100, 3, 0), 0.8),  # chord 2 * 4 mm
        ((-100, 0, 4), (100, 0, 4), 0.6),
        ((0, 0, 0), (0, 0, 100), 0.5),  # from the centre
        ((-1, 0, 0), (1, 0, 0), 0.2),  # wholly inside
        ((-100, 5, 0), (100, 5, 0), 0.0),  # tangent
        ((-100, 5.1, 0), (100, 5.1, 0), 0.0),
        ((-100, 0, 0), (-6, 0, 0), 0.0),
        ((6, 0, 0), (100, 0, 0), 0.0),
        ((1, 1, 1), (1, 1, 1), 0.0),
    ],
)
def test_ball_by_hand(source, target, expected):
    assert one(BALL, source, target) == pytest.approx(expected, abs=1e-14)
    assert one(BALL, target, source) == pytest.approx(expected, abs=1e-14)


def test_ellipsoid_axes_by_hand():
    rotation = turn(math.pi / 2, 0.0, 0.0)  # first semi-axis along +y, second along -x
    solid = Ellipsoid((1, 2, 3), (4, 7, 9), 0.5, rotation)
    assert one(solid, (1, -50, 3), (1, 50, 3)) == pytest.approx(0.5 * 8)
    assert one(solid, (-50, 2, 3), (50, 2, 3)) == pytest.approx(0.5 * 14)
    assert one(solid, (1, 2, -50), (1, 2, 50)) == pytest.approx(0.5 * 18)


def inside(solid, points):
    if isinstance(solid, Scene):
        return sum(inside(part, points) for part in solid.solids)
    if isinstance(solid, Box):
        return solid.mu * ((points > solid.lower) & (points < solid.upper)).all(-1).double()
    local = (points - solid.center) @ solid.rotation / solid.semi_axes
    return solid.mu * ((local**2).sum(-1) < 1).double()


@pytest.mark.parametrize(
    "solid",
    [
        Box((-30, -12, -40), (25, 33, 14), 0.02),
        Ellipsoid((4, -6, 9), (22, 35, 14), 0.03, turn(0.4, -0.9, 1.7)),
        Scene([BOX, Ellipsoid((5, 5, 5), (30, 12, 9), -0.01, turn(1.0, 0.2, 0.3)), BALL]),
    ],
    ids=["box", "ellipsoid", "scene"],
)
def test_against_quadrature(solid):
    generator = torch.Generator().manual_seed(0)
    source = 60 * torch.randn(40, 3, generator=generator, dtype=torch.float64)
    target = 8 * torch.randn(40, 3, generator=generator, dtype=torch.float64) - 0.5 * source
    source[:5] *= 0.1  # inside
    count = 40_000
    t = ((torch.arange(count, dtype=torch.float64) + 0.5) / count)[:, None, None]
    points = source + t * (target - source)
    length = (target - source).norm(dim=-1)
    expected = inside(solid, points).mean(0) * length
    exact = solid.line_integrals(source, target)
    assert (exact != 0).sum() > 10
    # each of at most six ends of intervals is caught to half a step
    assert torch.all((exact - expected).abs() <= 0.1 * 6 * length / count)


def test_far_source_keeps_its_digits():
    far = one(BALL, (-1e6, 3, 0), (1e6, 3, 0))
    assert far == pytest.approx(0.8, rel=1e-10)


def test_box_equals_its_voxels():
    shape, spacing = (6, 5, 4), (2.0, 3.0, 5.0)
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-7.0, 1.0, 4.0])
    # world faces of voxels 1..3, 2..3, 0..1
    box = Box((-6, 5.5, 1.5), (0, 11.5, 11.5), 0.25)
    mu = box.voxelize(shape, affine)
    expected = torch.zeros(shape, dtype=torch.float64)
    expected[1:4, 2:4, 0:2] = 0.25
    torch.testing.assert_close(mu, expected, rtol=0, atol=1e-15)
    # mirrored x, swapped y and z
    other = torch.zeros(4, 4, dtype=torch.float64)
    other[0, 0], other[1, 2], other[2, 1], other[3, 3] = -2.0, 3.0, 5.0, 1.0
    other[:3, 3] = torch.tensor([3.0, 1.0, 4.0])
    swapped = box.voxelize((6, 4, 5), other)
    torch.testing.assert_close(swapped, expected.flip(0).transpose(1, 2), rtol=0, atol=1e-15)


def test_box_off_the_faces_keeps_its_mass():
    affine = torch.eye(4, dtype=torch.float64)
    box = Box((1.25, 2.0, 3.1), (4.0, 5.75, 6.0), 2.0)
    mu = box.voxelize((9, 9, 9), affine)
    assert float(mu.sum()) == pytest.approx(2.0 * 2.75 * 3.75 * 2.9, rel=1e-12)
    assert float(mu[1, 3, 4]) == pytest.approx(2.0 * 0.25)  # x from 0.5 to 1.5, box from 1.25


def test_voxels_of_oblique_and_round_solids_keep_their_mass():
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = turn(0.3, 0.5, -0.2)
    affine[:3, 3] = affine[:3, :3] @ torch.full((3,), -11.5, dtype=torch.float64)
    shape = (24, 24, 24)
    box = Box((-5, -6, -7), (5, 6, 7), 1.0)
    assert float(box.voxelize(shape, affine).sum()) == pytest.approx(1680, rel=5e-3)
    egg = Ellipsoid((0, 0, 0), (5, 6, 7), 1.0)
    volume = 4 / 3 * math.pi * 210
    assert float(egg.voxelize(shape, affine).sum()) == pytest.approx(volume, rel=5e-3)
    both = Scene([box, egg]).voxelize(shape, affine)
    torch.testing.assert_close(both, box.voxelize(shape, affine) + egg.voxelize(shape, affine))


def test_shapes_broadcast_and_dtype_is_float64():
    source = torch.zeros(1, 1, 3)
    target = torch.randn(2, 7, 3)
    for solid in (BOX, BALL, Scene([BOX, BALL])):
        result = solid.line_integrals(source, target)
        assert result.shape == (2, 7) and result.dtype == torch.float64


@pytest.mark.parametrize("solid", [BOX, Ellipsoid((1, 2, 3), (9, 8, 7), 0.1, turn(1.0, 2.0, 3.0))])
def test_gradients(solid):
    generator = torch.Generator().manual_seed(1)
    source = torch.randn(6, 3, generator=generator, dtype=torch.float64) * 3 + torch.tensor(
        [90.0, 5, 7]
    )
    target = torch.randn(6, 3, generator=generator, dtype=torch.float64) * 3 - torch.tensor(
        [80.0, 4, 9]
    )
    source.requires_grad_(), target.requires_grad_()
    assert torch.autograd.gradcheck(solid.line_integrals, (source, target), atol=1e-7)


def test_gradients_are_finite_at_misses_tangents_and_points():
    rows = [((-9, 5, 0), (9, 5, 0)), ((-9, 9, 0), (9, 9, 0)), ((1, 1, 1), (1, 1, 1))]
    ends = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    for solid in (BALL, BOX):
        (slope,) = torch.autograd.grad(solid.line_integrals(ends[:, 0], ends[:, 1]).sum(), ends)
        assert torch.isfinite(slope).all()


@pytest.mark.parametrize(
    ("error", "make"),
    [
        (ConfigError, lambda: Box((0, 0, 0), (1, 0, 1), 1.0)),
        (ConfigError, lambda: Box((0, 0), (1, 1), 1.0)),
        (ConfigError, lambda: Box((0, 0, float("nan")), (1, 1, 1), 1.0)),
        (ConfigError, lambda: Box((0, 0, 0), (1, 1, 1), float("inf"))),
        (ConfigError, lambda: Ellipsoid((0, 0, 0), (1, 0, 1), 1.0)),
        (GeometryError, lambda: Ellipsoid((0, 0, 0), (1, 2, 1), 1.0, 2 * torch.eye(3))),
        (ConfigError, lambda: Scene([])),
        (ShapeError, lambda: BOX.line_integrals(torch.zeros(4, 2), torch.zeros(4, 3))),
        (ShapeError, lambda: BALL.line_integrals(torch.zeros(4, 3), torch.zeros(5, 3))),
        (ConfigError, lambda: BOX.voxelize((4, 4), torch.eye(4))),
        (GeometryError, lambda: BOX.voxelize((4, 4, 4), torch.eye(3))),
        (GeometryError, lambda: BALL.voxelize((4, 4, 4), torch.diag(torch.tensor([1, 1, 0, 1.0])))),
    ],
)
def test_bad_input(error, make):
    # under jaxtyping's checker wrong shapes are refused even earlier, by its own exception
    with pytest.raises(Exception) as caught:
        make()
    assert issubclass(caught.type, error) or "jaxtyping" in caught.type.__module__
    if issubclass(caught.type, DrrlibError):
        assert len(str(caught.value)) > 20
