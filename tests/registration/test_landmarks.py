"""Paired points in 3D, and points picked in an image: exact cases, gradients, noise, refusals."""

import inspect
import math

import pytest
import torch

from drrlib.errors import ConfigError, GeometryError, ShapeError
from drrlib.geometry import CArm, inverse, mtre, transform_points
from drrlib.geometry.se3 import exp
from drrlib.registration import arun, pnp

# About the landmarks of a head [mm]; no three on a line, no four in a plane.
HEAD = torch.tensor(
    [
        [0, -86, 16],
        [0, -15, 8],
        [47, -16, -72],
        [-46, -14, -71],
        [33, -74, 4],
        [-33, -74, 2],
        [4, 101, 8],
        [1, -84, -95],
        [0, 12, -90],
        [60, 10, 30],
    ],
    dtype=torch.float64,
)
MOVE = exp(torch.tensor([[0.4, -0.9, 1.3, 20.0, -35.0, 60.0], [-2.0, 1.5, 0.3, -5.0, 2.0, 9.0]]))
MOVE = MOVE.double()
MOVE[:, :3, :3] = torch.linalg.qr(MOVE[:, :3, :3])[0]
MOVE[:, :3, :3] *= torch.linalg.det(MOVE[:, :3, :3])[:, None, None]
CENTER = torch.tensor([10.0, -20.0, 30.0], dtype=torch.float64)
CARM = CArm(1020.0, 510.0, 200, 180, 2.0, 2.5, x0=4.0, y0=-3.0)
ETA = torch.tensor([0.2, -0.3, 0.1, 8.0, -5.0, 12.0], dtype=torch.float64)


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- arun ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 4, 10])
def test_paired_points_find_their_motion(count):
    """Three points always lie in a plane, where a determinant of -1 is as likely as +1."""
    found = arun(HEAD[:count], transform_points(MOVE, HEAD[:count]))
    assert found.shape == (2, 4, 4) and torch.allclose(found, MOVE, rtol=0, atol=1e-9)


def test_a_quarter_turn_by_hand():
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
    targets = torch.tensor([[5.0, 0, 0], [5, 1, 0], [3, 0, 0], [5, 0, 3]])  # x -> y, y -> -x
    expected = torch.tensor([[0.0, -1, 0, 5], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).double()
    assert torch.allclose(arun(points, targets), expected, atol=1e-6)


def test_noise_is_fitted_in_least_squares():
    """No small motion from the answer lowers the weighted error; the answer is a rotation."""
    targets = transform_points(MOVE[0], HEAD) + 5 * noise(0, 10, 3)
    weights = torch.linspace(0.1, 2, 10).double()

    def error(transform):
        gap = (transform_points(transform, HEAD) - targets).square().sum(dim=-1)
        return (weights * gap).sum(dim=-1)

    found = arun(HEAD, targets, weights)
    nudged = exp(1e-3 * noise(1, 200, 6)) @ found
    assert (error(nudged) > error(found)).all()
    assert abs(torch.linalg.det(found[:3, :3]) - 1) < 1e-12


def test_a_mirror_image_gives_a_rotation():
    """Noise of the size of a flat head's thickness turns the determinant; it must not win."""
    flat = HEAD * torch.tensor([1.0, 1.0, 0.02]).double()
    for seed in range(20):
        found = arun(flat, transform_points(MOVE[0], flat) + 4 * noise(seed, 10, 3))
        assert abs(torch.linalg.det(found[:3, :3]) - 1) < 1e-12
        assert mtre(found[None], MOVE[:1], flat) < 20
    mirrored = arun(HEAD, HEAD * torch.tensor([-1.0, 1.0, 1.0]).double())
    assert abs(torch.linalg.det(mirrored[:3, :3]) - 1) < 1e-12


def test_a_pair_of_no_weight_is_left_out():
    targets = transform_points(MOVE[0], HEAD)
    targets[3] += 80
    weights = torch.ones(10)
    weights[3] = 0
    assert torch.allclose(arun(HEAD, targets, weights), MOVE[0], rtol=0, atol=1e-9)
    assert not torch.allclose(arun(HEAD, targets), MOVE[0], rtol=0, atol=1.0)


CUBE = torch.tensor([[x, y, z] for x in (-1.0, 1) for y in (-1.0, 1) for z in (-1.0, 1)]).double()


@pytest.mark.parametrize("points", [HEAD / 50, CUBE, CUBE[:4]], ids=["head", "cube", "square"])
def test_gradients_also_where_the_svd_has_none(points):
    """A cube has three equal singular values, a square two and a zero."""
    targets = transform_points(MOVE[0], points)
    for extra in (0.0, 0.1):
        inputs = [
            points.clone(),
            targets + extra * noise(2, *targets.shape),
            points[:, 0].abs() + 1,
        ]
        assert torch.autograd.gradcheck(arun, [x.requires_grad_() for x in inputs])


def test_landmarks_in_the_room_give_a_start():
    """The C-arm's pose is known in the room; the landmarks were touched there with a pointer."""
    true_pose = CARM.pose(ETA, CENTER)
    room_from_world = MOVE[1]
    room_from_camera = room_from_world @ true_pose
    touched = transform_points(room_from_world, HEAD)
    world_from_room = arun(touched, HEAD)
    start = CARM.eta(world_from_room @ room_from_camera, CENTER)
    assert torch.allclose(start, ETA, rtol=0, atol=1e-9)


def test_bad_pairs_are_named():
    # Tests check shapes by annotation first; users meet the errors of the function itself.
    plain = inspect.unwrap(arun)
    for points, targets in ((HEAD[:2], HEAD[:2]), (HEAD, HEAD[:9]), (HEAD[:, :2], HEAD[:, :2])):
        with pytest.raises(ShapeError, match="the same n >= 3"):
            plain(points, targets)
    with pytest.raises(ShapeError, match=r"expected \[..., 10\]"):
        plain(HEAD, HEAD, torch.ones(9))
    line = torch.outer(torch.arange(10.0), torch.tensor([1.0, 2.0, 3.0])).double()
    for pair, name in (((line, HEAD), "points"), ((HEAD, line), "targets")):
        with pytest.raises(GeometryError, match=f"{name} lie on a line"):
            arun(*pair)
    with pytest.raises(GeometryError, match="fewer than three have a weight"):
        arun(HEAD, HEAD, torch.tensor([1.0, 1.0] + [0.0] * 8))
    with pytest.raises(ConfigError, match="negative"):
        arun(HEAD, HEAD, -torch.ones(10))
    with pytest.raises(ConfigError, match="targets has NaN"):
        arun(HEAD, HEAD * math.nan)
    with pytest.raises(GeometryError, match="no unique rotation"):
        arun(CUBE, -CUBE)  # every half turn is as near to a point reflection as any other


# --- pnp -----------------------------------------------------------------------------------------


def off(found, eta=ETA, carm=CARM):
    points = CENTER + 50 * torch.eye(3, dtype=torch.float64)
    return float(mtre(found.pose[None], carm.pose(eta[None], CENTER), points))


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("phi", [0.0, 1.4, 3.0])
def test_exact_pixels_give_the_exact_pose(flipped, phi):
    carm = CArm(1020.0, 510.0, 200, 180, 2.0, 2.5, x0=4.0, y0=-3.0, flipped=flipped)
    eta = ETA + torch.tensor([0, phi, 0, 0, 0, 0])
    pixels = carm.project(HEAD, carm.pose(eta[None], CENTER))[0]
    found = pnp(carm, HEAD[:6], pixels[:6])
    assert off(found, eta, carm) < 1e-6 and found.rms_px < 1e-8 and found.rms_mm < 1e-8


def test_errors_are_in_pixels_and_at_the_detector():
    """All of the error along one axis of 2 mm or 2.5 mm pixels; both kinds are the same error."""
    pixels = CARM.project(HEAD, CARM.pose(ETA[None], CENTER))[0] + noise(3, 10, 2)
    found = pnp(CARM, HEAD, pixels)
    gap = CARM.project(HEAD, found.pose[None])[0] - pixels
    assert found.rms_px == pytest.approx(float(gap.square().sum(dim=1).mean().sqrt()))
    gap = gap * torch.tensor([2.0, 2.5])
    assert torch.allclose(found.errors_mm, gap.norm(dim=1))
    assert found.rms_mm == pytest.approx(float(gap.square().sum(dim=1).mean().sqrt()))


def test_the_refined_pose_is_a_minimum_and_forgets_its_start():
    pixels = CARM.project(HEAD, CARM.pose(ETA[None], CENTER))[0] + 3 * noise(4, 10, 2)
    found = pnp(CARM, HEAD, pixels)
    for start in (CARM.pose(ETA, CENTER), CARM.pose(ETA + 0.2, CENTER)):
        assert torch.allclose(pnp(CARM, HEAD, pixels, start).pose, found.pose, rtol=0, atol=1e-5)
    again = pnp(CARM, HEAD, pixels, ETA + 0.2, center=CENTER)
    assert torch.allclose(again.pose, found.pose, rtol=0, atol=1e-5)
    nudged = found.pose @ exp(1e-3 * noise(5, 200, 6) * torch.tensor([1.0] * 3 + [100.0] * 3))
    gap = (CARM.project(HEAD, nudged) - pixels) * torch.tensor([2.0, 2.5])
    assert (gap.square().sum(dim=2).mean(dim=1).sqrt() > found.rms_mm).all()


@pytest.mark.parametrize("size", [2.0, 10.0])
def test_picking_errors_do_not_lead_astray(size):
    """From any picks the direct start leads where the refinement from the true pose leads."""
    for seed in range(10):
        eta = ETA + 0.3 * noise(seed, 6) * torch.tensor([1.0] * 3 + [30.0] * 3)
        true_pose = CARM.pose(eta, CENTER)
        pixels = CARM.project(HEAD, true_pose[None])[0]
        pixels = pixels + size / 2 * noise(100 + seed, 10, 2)
        picked = HEAD + size * noise(200 + seed, 10, 3)
        assert (
            pnp(CARM, picked, pixels).rms_mm <= pnp(CARM, picked, pixels, true_pose).rms_mm + 1e-6
        )


def test_a_mis_picked_point_counts_less_with_huber():
    pixels = CARM.project(HEAD, CARM.pose(ETA[None], CENTER))[0] + 0.3 * noise(6, 10, 2)
    pixels[4] += torch.tensor([40.0, -25.0])
    plain, robust = pnp(CARM, HEAD, pixels), pnp(CARM, HEAD, pixels, huber=2.0)
    assert off(robust) < 0.25 * off(plain)
    assert int(robust.errors_mm.argmax()) == 4


def test_few_points_and_flat_ones_need_a_start():
    pixels = CARM.project(HEAD, CARM.pose(ETA[None], CENTER))[0]
    near = CARM.pose(ETA + torch.tensor([0.1, -0.1, 0.1, 5.0, 5.0, -5.0]), CENTER)
    for count in (3, 4, 5):
        with pytest.raises(ConfigError, match=f"got {count} points and no start"):
            pnp(CARM, HEAD[:count], pixels[:count])
        assert off(pnp(CARM, HEAD[:count], pixels[:count], near)) < 1e-5
    flat = HEAD * torch.tensor([1.0, 1.0, 0.0]).double()
    pixels = CARM.project(flat, CARM.pose(ETA[None], CENTER))[0]
    with pytest.raises(GeometryError, match=r"in a plane and no start.*pass start="):
        pnp(CARM, flat, pixels)
    assert off(pnp(CARM, flat, pixels, near)) < 1e-5


def test_bad_picks_are_named():
    pixels = CARM.project(HEAD, CARM.pose(ETA[None], CENTER))[0]
    plain = inspect.unwrap(pnp)
    with pytest.raises(ShapeError, match=r"expected \[n, 3\], n >= 3"):
        plain(CARM, HEAD[:2], pixels[:2])
    with pytest.raises(ShapeError, match=r"expected \[10, 2\]"):
        plain(CARM, HEAD, pixels[:9])
    with pytest.raises(ConfigError, match="pixels has NaN"):
        pnp(CARM, HEAD, pixels * math.nan)
    with pytest.raises(ConfigError, match="pass center="):
        pnp(CARM, HEAD, pixels, ETA)
    with pytest.raises(ShapeError, match=r"expected \[4, 4\] or eta"):
        plain(CARM, HEAD, pixels, torch.zeros(7))
    with pytest.raises(GeometryError, match="not a rotation"):
        pnp(CARM, HEAD, pixels, torch.diag(torch.tensor([1.0, 1.0, -1.0, 1.0])))
    with pytest.raises(ConfigError, match="huber is 0"):
        pnp(CARM, HEAD, pixels, huber=0.0)
    line = torch.outer(torch.arange(10.0), torch.tensor([1.0, 2.0, 3.0])).double()
    with pytest.raises(GeometryError, match="on a line"):
        pnp(CARM, line, pixels)
    behind = inverse(CARM.pose(ETA, CENTER))
    turned = inverse(torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]).double()) @ behind)
    with pytest.raises(GeometryError, match="in front of the source"):
        pnp(CARM, HEAD[:3], pixels[:3], turned)
