"""The sweep: every shift at once, evenly spread rotations, poses that see what was matched."""

import dataclasses
import itertools

import pytest
import torch

from drrlib.drr import DRR
from drrlib.geometry import CArm
from drrlib.lab.phantoms import skull
from drrlib.optimize import Sight
from drrlib.registration import spread, sweep
from drrlib.registration.sweep import _across, _turned, correlate, settle_depths, spectra
from drrlib.similarity import Model, zncc
from drrlib.volume import Volume

CARM = CArm(1020.0, 510.0, 48, 40, 9.0, 8.0)
ETA = torch.tensor([0.1, 0.6, -0.2, 4.0, -3.0, 5.0], dtype=torch.float64)
SHIFTED = pytest.mark.parametrize(
    "changes",
    [{}, {"flipped": True}, {"x0": 23.0, "y0": -41.0}, {"x0": 23.0, "flipped": True}],
    ids=str,
)


@pytest.fixture(scope="module")
def drr():
    phantom = skull(6.0)
    return DRR(Volume.from_hu(phantom.hu, phantom.affine), CARM, method="joseph")


def _seen(drr, carm, pose):
    return drr.with_carm(carm)(pose)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ends", [False, True])
def test_correlate_is_the_zncc_of_every_window(weighted, ends):
    """Weights of both images: the fixed image's stay, the moving one's come with the window."""
    generator = torch.Generator().manual_seed(0)
    fixed, weights = torch.rand(2, 5, 7, generator=generator, dtype=torch.float64)
    moving = 3 + torch.rand(3, 9, 12, generator=generator, dtype=torch.float64)
    left = torch.rand(3, 9, 12, generator=generator, dtype=torch.float64).clamp_min(0.2)
    weights[0, :3] = 0
    weights = weights if weighted else torch.ones_like(fixed)
    left = left if ends else torch.ones_like(moving)
    likeness = correlate(fixed, weights, spectra(moving, left))
    assert likeness.shape == (3, 5, 6)
    for dy in range(5):
        for dx in range(6):
            rows, columns = slice(dy, dy + 5), slice(dx, dx + 7)
            both = weights * left[:, rows, columns]
            window = moving[:, None, rows, columns]
            direct = zncc(fixed.expand(3, 1, 5, 7), window, both[:, None])
            share = both.sum(dim=(1, 2)) / weights.sum()
            assert torch.allclose(likeness[:, dy, dx], direct * share.sqrt(), atol=1e-9)


def test_windows_of_air_are_not_alike():
    """Rounding of the Fourier transform over no contrast must not win."""
    moving = torch.zeros(1, 40, 40)
    moving[..., 2:9, 2:9] = 5 + torch.rand(7, 7, generator=torch.Generator().manual_seed(1))
    fixed, ones = moving[0, :12, :12].clone(), torch.ones(12, 12)
    likeness = correlate(fixed, ones, spectra(moving, torch.ones_like(moving)))[0]
    assert int(likeness.argmax()) == 0 and likeness[0, 0] > 0.999
    assert likeness[12:, 12:].abs().max() < 0.05


def test_a_few_pixels_in_common_are_no_likeness():
    fixed = torch.rand(10, 10, generator=torch.Generator().manual_seed(2))
    left = torch.zeros(1, 10, 10)
    left[0, :2, :2] = 1
    assert float(correlate(fixed, torch.ones(10, 10), spectra(fixed[None], left))) == 0.0
    left[0, :5] = 1
    assert float(correlate(fixed, torch.ones(10, 10), spectra(fixed[None], left))) > 0.7


def test_spread_fills_its_range():
    moves = spread(256, 0.7, 60.0, seed=3)
    assert moves.shape == (256, 4) and torch.equal(moves[0], torch.zeros(4).double())
    limit = moves.new_tensor([0.7, 0.7, 0.7, 60.0])
    assert bool((moves.abs() <= limit).all())
    # Each octant of the rotations, and each end of the depths, has its share of the 256.
    octants = (moves[:, :3] > 0).long() @ torch.tensor([1, 2, 4])
    assert torch.bincount(octants, minlength=8).min() >= 24
    quarters = (moves[:, 3] / 120 + 0.5).mul(4).long().clamp_max(3)
    assert torch.bincount(quarters, minlength=4).min() >= 60
    assert torch.equal(moves, spread(256, 0.7, 60.0, seed=3))
    assert not torch.equal(moves, spread(256, 0.7, 60.0, seed=4))


def test_turning_keeps_the_isocentre():
    pose = CARM.pose(ETA[None], torch.zeros(3).double())
    moves = torch.tensor([[0.0, 0, 0, 0], [0.3, -0.2, 0.5, 0.0], [0.0, 0, 0, 25.0]]).double()
    turned = _turned(pose[:, None], moves, 510.0)[0]
    assert torch.allclose(turned[0], pose[0])
    isocentre = turned[:, :3, 3] + 510.0 * turned[:, :3, 2]
    assert torch.allclose(isocentre[1], ETA[3:])
    assert torch.allclose(isocentre[2], ETA[3:] + 25.0 * pose[0, :3, 2])
    assert torch.allclose(turned[2, :3, :3], pose[0, :3, :3])


@SHIFTED
def test_pose_sees_the_shifted_window(drr, changes):
    carm = dataclasses.replace(CARM, **changes)
    pad = 6
    wide = dataclasses.replace(carm, height=carm.height + 2 * pad, width=carm.width + 2 * pad)
    pose = drr.pose(ETA[None])
    image = _seen(drr, wide, pose)
    for row, column in ((0, 0), (5, 0), (0, -6), (-4, 3)):
        seen = carm.looking_at(pose, torch.tensor([row]), torch.tensor([column]))
        window = image[
            ..., pad + row : pad + row + carm.height, pad + column : pad + column + carm.width
        ]
        assert float(zncc(window, _seen(drr, carm, seen))) > 0.995
        if row or column:
            assert float(zncc(window, _seen(drr, carm, pose))) < 0.98


@SHIFTED
def test_sweep_finds_a_shift_in_the_image_plane(drr, changes):
    """The image that the given pose sees so many pixels off its middle, and nothing is turned."""
    carm = dataclasses.replace(CARM, **changes)
    here, moves = drr.with_carm(carm), torch.zeros(1, 4, dtype=torch.float64)
    start, steps = drr.pose(ETA[None]), [(3, -5), (-6, 0)]
    true = [
        carm.looking_at(start, torch.tensor([row]), torch.tensor([column])) for row, column in steps
    ]
    fixed = here(torch.cat(true))
    found = sweep(Sight(here, fixed), ETA.expand(2, 6), moves, 40.0)
    assert found.eta.shape == (2, 1, 6) and found.likeness.shape == (2, 1)
    for k in range(2):
        pose = here.pose(found.eta[k])
        assert torch.allclose(pose, true[k], atol=1e-9)
    # 80 mm on the detector are 10 rows of 8 mm and 9 columns of 9 mm, on both sides.
    assert found.renders == pytest.approx(2 * (48 + 20) * (40 + 18) / (48 * 40))


def test_sweep_prefers_the_right_rotation_and_depth(drr):
    moves = torch.tensor([[0.0, 0, 0, 0], [0.4, 0, 0, 0], [0, -0.4, 0.3, 0], [0, 0, 0, 60.0]])
    pose = _turned(drr.pose(ETA[None])[:, None], moves.double(), 510.0)[0]
    fixed = drr(pose)
    found = sweep(Sight(drr, fixed), ETA.expand(4, 6), moves.double(), 16.0)
    assert found.likeness.argmax(dim=1).tolist() == [0, 1, 2, 3]
    assert found.likeness.diagonal().min() > 0.9999
    best = drr.pose(found.eta.diagonal(dim1=0, dim2=1).mT)
    assert torch.allclose(best, pose, atol=1e-9)


def test_sweep_heeds_weights(drr):
    """An instrument in the fixed image decides the shift, unless its pixels weigh nothing."""
    true = drr.pose(ETA[None])
    fixed = drr(true)
    fixed[..., 10:22, 5:35] += 200
    weights = torch.ones_like(fixed)
    weights[..., 10:22, 5:35] = 0
    moves = torch.zeros(1, 4, dtype=torch.float64)
    pulled = sweep(Sight(drr, fixed), ETA[None], moves, 40.0)
    found = sweep(Sight(drr, fixed, weights), ETA[None], moves, 40.0)
    assert torch.allclose(drr.pose(found.eta[0]), true, atol=1e-9)
    assert found.likeness > 0.9999 and not torch.allclose(drr.pose(pulled.eta[0]), true, atol=1e-3)


def test_sweep_finds_the_negative_of_an_image(drr):
    moves = torch.tensor([[0.0, 0, 0, 0], [0.4, 0, 0, 0], [0, -0.4, 0.3, 0]]).double()
    pose = _turned(drr.pose(ETA[None])[:, None], moves[1:2], 510.0)[0]
    picture = torch.exp(-drr(pose))  # bright air
    sight = Sight(drr, picture, grey=Model(window=2.5))
    found = sweep(sight, ETA[None], moves, 16.0, inverted=True)
    assert found.inverted.tolist() == [[False] * 3 + [True] * 3]
    assert int(found.likeness.argmax()) == 4
    assert torch.allclose(drr.pose(found.eta[0, 4]), pose[0], atol=1e-9)


def _two_views():
    """A bone that two cameras see at right angles, and its true parameters."""
    x = torch.linspace(-1, 1, 20)
    lump = 0.8 * x[:, None, None] ** 2 + 2 * x[:, None] ** 2 + (x + 0.3 * x[:, None, None]) ** 2
    mu = torch.where(lump < 0.7, 0.03 + 0.01 * x[:, None], 0.0)
    affine = torch.diag(torch.tensor([3.0, 3.0, 3.0, 1.0])).double()
    affine[:3, 3] = torch.tensor([20.0, -10.0, 15.0])
    drr = DRR(Volume(mu, affine), CArm.square(1020.0, 510.0, 40, 400.0), method="joseph")
    poses = drr.pose(torch.tensor([[0.1, 0.2, 0.0, 0, 0, 0], [0.0, 1.7, 0.1, 0, 0, 0]]).double())
    known = dict(grey=Model(window=2.5))
    relative = torch.linalg.inv(poses[0]) @ poses[1]
    one = Sight(drr, drr(poses[:1]), **known)
    return [one, Sight(drr, drr(poses[1:]), first=drr.carm, relative=relative, **known)], poses[0]


def test_another_view_tells_the_depth():
    """Moved along the first view's rays, poses come back; where none is alike they stay."""
    sights, pose = _two_views()
    drr = sights[0].drr
    way = drr.volume.center - pose[:3, 3]
    depths = torch.tensor([-70.0, -20.0, 0.0, 35.0]).double()
    moved = pose.repeat(4, 1, 1)
    moved[:, :3, 3] += depths[:, None] * way / way.norm()
    etas = drr.carm.eta(moved, drr.volume.center)
    owner, alike = torch.zeros(4).long(), torch.ones(4).double()
    eta, likeness, cost = settle_depths(sights, etas, owner, alike, 40.0)
    left = (drr.pose(eta)[:, :3, 3] - pose[:3, 3]).norm(dim=1)
    assert (left < drr.carm.pixel).all(), left
    assert (likeness > 0.8).all() and cost > 4
    blank = dataclasses.replace(sights[1], fixed=torch.zeros_like(sights[1].fixed))
    eta, likeness, _ = settle_depths([sights[0], blank], etas, owner, alike, 40.0)
    assert torch.allclose(eta, etas, atol=1e-6) and torch.allclose(likeness, 0.5 * alike)


def test_one_bone_is_shifted_along_every_axis_of_the_world():
    """Seen obliquely, a corner of the box of shifts lies further off than its half edge."""
    level = CARM.pose(torch.zeros(1, 6).double(), torch.zeros(3).double())[:, None]
    assert _across(level, 40.0) == (40.0, 40.0)
    oblique = CARM.pose(torch.tensor([[0.6, 0.8, 0.5, 0, 0, 0]]).double(), torch.zeros(3).double())
    corners = torch.tensor(list(itertools.product((-40.0, 40.0), repeat=3))).double()
    seen = (corners @ oblique[0, :3, :2]).abs().amax(dim=0)
    assert _across(oblique[:, None], 40.0) == pytest.approx((float(seen[1]), float(seen[0])))
