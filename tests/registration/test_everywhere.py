"""No start: views from everywhere, turns of the image, and a pose out of nothing."""

import math

import pytest
import torch

from drrlib import DRR, CArm, View, Volume, register
from drrlib.errors import ConfigError
from drrlib.geometry import mtre, rigid, so3_exp
from drrlib.lab.phantoms import skull
from drrlib.optimize import Sight
from drrlib.registration.everywhere import TURNS, directions, sweep_everywhere, turned

CARMS = [
    CArm(1020.0, 700.0, 40, 48, 9.0, 8.0, x0=23.0, y0=-31.0),
    CArm(1020.0, 700.0, 40, 48, 9.0, 8.0, x0=23.0, y0=-31.0, flipped=True),
]
BOTH = pytest.mark.parametrize("carm", CARMS, ids=["plain", "flipped"])


@pytest.fixture(scope="module")
def volume():
    phantom = skull(4.0)
    return Volume.from_hu(phantom.hu, phantom.affine)


def _pose(volume, carm, seed):
    """A camera that stands anywhere, tilted any way, its isocentre up to 60 mm off in each axis."""
    dice = torch.Generator().manual_seed(seed)
    w, x, y, z = torch.nn.functional.normalize(
        torch.randn(4, generator=dice, dtype=torch.float64), dim=0
    ).tolist()
    axis = torch.tensor([x, y, z], dtype=torch.float64)
    turn = 2 * math.atan2(float(axis.norm()), w)
    rotation = so3_exp(turn * axis / axis.norm())
    off = 60 * (2 * torch.rand(3, generator=dice, dtype=torch.float64) - 1)
    return rigid(rotation, volume.center + off - float(carm.sod) * rotation[:, 2])


def test_directions_fill_the_sphere_evenly():
    axes, depth = directions(4096, 80.0, 3)
    assert torch.allclose(axes @ axes.mT, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(torch.linalg.det(axes), torch.ones(4096, dtype=torch.float64))
    ahead = axes[:, :, 2]
    assert ahead.mean(dim=0).abs().max() < 2e-3
    # The mean of n n^T over the sphere is I / 3.
    assert (ahead.mT @ ahead / 4096 - torch.eye(3) / 3).abs().max() < 2e-3
    assert -80 <= depth.min() < -79 and 79 < depth.max() <= 80


@BOTH
def test_a_turned_image_is_what_a_turned_camera_sees(volume, carm):
    """For a camera of square pixels and central ray in the middle, that of the wide detector."""
    drr, pose = DRR(volume, carm, method="joseph"), _pose(volume, carm, 5)
    pose[:3, 3] = volume.center - 700 * pose[:3, 2]
    sight = Sight(drr, drr(pose[None]).detach())
    size, pitch = 40, 6.0
    pictures, weights = turned(sight, 0, size, pitch)
    assert pictures.shape == weights.shape == (TURNS, size, size)
    square = CArm(1020.0, 700.0, size, size, pitch, pitch, flipped=carm.flipped)
    back = torch.zeros(TURNS, 3, dtype=torch.float64)
    back[:, 2] = -2 * math.pi / TURNS * torch.arange(TURNS)
    poses = pose.repeat(TURNS, 1, 1)
    poses[:, :3, :3] = pose[:3, :3] @ so3_exp(back)
    seen = drr.with_carm(square)(poses)[:, 0].detach()
    for k in range(TURNS):
        here = weights[k] > 0.99
        assert here.float().mean() > 0.5
        pair = torch.stack([pictures[k][here], seen[k][here]])
        assert float(torch.corrcoef(pair)[0, 1]) > 0.995


@BOTH
def test_the_sweep_comes_near_a_pose_of_which_nothing_is_known(volume, carm):
    pose, carm = _pose(volume, carm, 1), carm.downsample(2)
    drr = DRR(volume, carm, method="joseph")
    image = drr(pose[None]).detach()
    found = sweep_everywhere(Sight(drr, image), torch.zeros(1, 6).double(), 512, 100.0, 0, True)
    assert found.eta.shape == (1, 1024, 6) and found.likeness.shape == (1, 1024)
    assert found.inverted[0].tolist() == [False] * 512 + [True] * 512
    best = found.likeness[0].topk(24).indices
    assert not found.inverted[0, best].any()
    far = mtre(carm.pose(found.eta[0, best], volume.center), pose[None], volume.targets)
    assert far.min() < 20
    # The negative is found as such, in the same places.
    other = sweep_everywhere(Sight(drr, -image), torch.zeros(1, 6).double(), 512, 100.0, 0, True)
    assert torch.allclose(other.likeness.roll(512, dims=1), found.likeness, atol=1e-4)


def test_a_pose_is_found_without_a_start(volume):
    carm = CArm.square(1020.0, 700.0, 64, 380.0)
    pose = _pose(volume, carm, 2)
    view = View(DRR(volume, carm)(pose[None]).detach(), carm)
    found = register(view, volume)
    assert found.converged and float(found.compare(pose).mtre) < 0.5
    # A start's angles do not matter then, and its isocentre does.
    around = found.eta.clone()
    around[:3] = torch.tensor([0.3, -2.0, 1.0])
    near = register(view, volume, around, search=(math.pi, 20.0))
    assert near.converged and float(near.compare(pose).mtre) < 0.5
    with pytest.raises(ConfigError, match="no start is given"):
        register(view, volume, preset="paper")
    with pytest.raises(ConfigError, match="leave out search"):
        register(view, volume, search=(0.3, 20.0))
