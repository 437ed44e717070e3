"""Where the CT ends: the faces go on, and rays through what goes on lose their weight."""

import dataclasses

import pytest
import torch
from torch.nn.functional import interpolate

from drrlib.drr import DRR, limited
from drrlib.errors import ConfigError
from drrlib.geometry import CArm, mtre
from drrlib.lab.phantoms import skull
from drrlib.optimize import Objective, Sight
from drrlib.registration import PRESETS, Levels, register
from drrlib.registration.cut import Beyond, continued
from drrlib.registration.doubt import doubt
from drrlib.similarity import Model
from drrlib.view import View
from drrlib.volume import Volume

CARM = CArm.square(1020.0, 700.0, 64, 380.0)
ETA = torch.tensor([0.05, 0.1, -0.1, 3.0, -4.0, 5.0], dtype=torch.float64)


def _rod(length, tissue=0.02):
    """A column along z with air around it, and its ends on the faces."""
    mu = torch.zeros(30, 30, length)
    mu[8:22, 8:22] = tissue
    affine = torch.eye(4).double()
    affine[:3, 3] = -0.5 * torch.tensor([58.0, 58.0, 2.0 * (length - 1)])
    affine[:3, :3] *= 2.0
    return Volume(mu, affine)


def test_what_ends_in_air_goes_nowhere():
    mu = torch.zeros(20, 20, 20)
    mu[5:15, 5:15, 5:15] = 0.02
    assert continued(Volume(mu, torch.eye(4))) is None
    assert continued(_rod(20, tissue=0.001)) is None  # a blanket


def test_the_faces_go_on_and_the_volume_is_empty():
    volume = _rod(40)
    around = continued(volume)
    assert torch.equal(around.center, volume.center)
    world = torch.tensor([[0.0, 0, 39], [0, 0, 44], [0, 0, 150], [0, 0, -60], [28.0, 0, 60]])
    voxel = torch.linalg.inv(around.affine)[:3, :3] @ world.T.double()
    voxel = voxel + torch.linalg.inv(around.affine)[:3, 3:]
    values = [float(around.mu[tuple(v.round().long().tolist())]) for v in voxel.T]
    assert values[0] == 0 and values[4] == 0
    assert values[1:4] == pytest.approx([0.02] * 3, rel=0.3)


def test_rays_beyond_the_ends_lose_their_weight():
    """Seen from the side, the middle rows look through the column, the others past its ends."""
    volume = _rod(40)  # 80 mm long
    drr = DRR(continued(volume), CARM, method="joseph")
    left = Beyond(drr, CARM)(drr.pose(torch.zeros(1, 6)))
    assert left.shape == (1, 1, 64, 64)
    column = left[0, 0, :, 32]
    half = 40.0 * 1020 / 700 / (380 / 64)  # rows from the middle to the end of the column
    inside = (torch.arange(64) - 31.5).abs()
    assert column[inside < half - 3].min() > 0.95
    assert column[inside > half + 3].max() < 0.05
    assert left[0, 0, :, 2].min() > 0.95  # beside the column is air
    large = CArm.square(1020.0, 700.0, 200, 380.0)
    assert Beyond(drr, large)(drr.pose(torch.zeros(1, 6))).shape == (1, 1, 200, 200)


def test_a_part_of_a_ct_finds_its_place_in_an_image_of_the_whole():
    """The middle of a head against the X-ray image of the head, processed and inverted."""
    whole = skull(3.0)
    volume = Volume.from_hu(whole.hu, whole.affine)
    hu = whole.hu[:, :, 20:-20]
    affine = torch.as_tensor(whole.affine).clone()
    affine[:3, 3] += 20 * affine[:3, 2]
    part = Volume.from_hu(hu, affine)
    pose = CARM.pose(ETA, volume.center)
    lines = DRR(volume, CARM)(pose[None])[0, 0]
    picture = torch.sigmoid(2 * (lines - lines.mean()) / lines.std())
    part_eta = CARM.eta(pose, part.center)
    start = part_eta + torch.tensor([0.3, -0.4, 0.2, 20, -30, 40]).double()
    quick = dataclasses.replace(PRESETS["xray"], attempts=1)
    for image in (picture, -picture):
        found = register(View(image, CARM), part, start, preset=quick)
        assert float(mtre(found.pose, pose, part.targets)) < CARM.pixel, found
    assert float(mtre(register(View(lines, CARM), part, start).pose, pose, part.targets)) > 5


def test_levels_see_the_end_only_with_a_window():
    levels = Levels(_rod(40), [CARM], [torch.eye(4)])
    image = torch.rand(1, 1, 64, 64, dtype=torch.float64)
    assert levels.sights(0, [image], [None])[0].seen is None
    assert levels.sights(0, [image], [None], window=2.5)[0].seen is not None


def _bone(seed, side=0.0):
    """A lump of uneven bone 70 mm long, `side` mm to the left."""
    noise = torch.randn(1, 1, 8, 8, 14, generator=torch.Generator().manual_seed(seed))
    lump = interpolate(noise, (24, 24, 40), mode="trilinear")[0, 0]
    x, y, z = (torch.linspace(-1, 1, n) for n in lump.shape)
    inside = x[:, None, None] ** 2 + y[:, None] ** 2 + z**2 < 0.8
    affine = torch.diag(torch.tensor([1.8, 1.8, 1.8, 1.0]))
    affine[:3, 3] = torch.tensor([side - 21.0, -21.0, -36.0])
    return Volume(torch.where(inside, 0.02 + 0.03 * lump.clamp(0, 2), 0.0), affine.double())


def test_one_bone_among_others():
    """Two bones in the image, and the CT of one: only what it covers counts."""
    carm = CArm.square(1020.0, 700.0, 96, 300.0)
    bone, other = _bone(1), _bone(2, side=45.0)
    eta = torch.tensor([0.1, 0.2, -0.1, 3.0, -4.0, 5.0], dtype=torch.float64)
    pose = carm.pose(eta, bone.center)
    lines = sum(DRR(v, carm)(pose[None])[0, 0] for v in (bone, other))
    start = eta + torch.tensor([0.1, -0.15, 0.1, 6, -8, 10]).double()
    quick = dataclasses.replace(PRESETS["xray"], attempts=1, rotations=64, kept=6, steps=25)
    known = dict(search=(0.3, 20.0), preset=quick)
    found = register(View(lines, carm), bone, start, only=True, **known)
    error = found.compare(pose)
    assert error.parts.in_plane < 0.5 and error.mtre < 2 * found.target_sd, found
    assert found.kept < 0.15 and "explains" not in found.reason
    with pytest.raises(ConfigError, match="only=True compares in windows"):
        register(View(lines, carm), bone, start, only=True, preset="robust")
    with pytest.raises(ConfigError, match="in windows, which needs loss"):
        register(View(lines, carm), bone, start, only=True, loss="gradient_ncc")
    levels = Levels(bone, [carm], [torch.eye(4)], only=True)
    assert carm.height / levels.binning(0, 0) > 24  # as fine as the bone is small


def test_metal_is_a_plateau_of_the_image():
    """An image that cannot show more than `most` is compared with a DRR that cannot either."""
    carm = CArm.square(1020.0, 700.0, 64, 200.0)
    bone, other = _bone(1), _bone(2, side=45.0)
    metal = bone.with_mu(60 * bone.mu)
    eta = torch.tensor([[0.1, 0.2, -0.1, 3.0, -4.0, 5.0]], dtype=torch.float64)
    lines = sum(DRR(v, carm).at(eta) for v in (metal, other))
    image = limited(lines, 1.8)[0, 0]
    assert 5 < float(lines.max()) and 1.7 < float(image.max()) < 1.8
    worse, loss = (
        Objective(
            Levels(metal, [carm], [torch.eye(4)], only=True, most=[most]).sights(
                0, [image[None, None].double()], [None], window=2.5
            )
        ).value(eta)
        for most in (None, 1.8)
    )
    assert loss < 0.1 < 0.3 < worse
    start = eta[0] + torch.tensor([0.05, -0.05, 0.05, 3, -4, 5]).double()
    few = dataclasses.replace(PRESETS["xray"], attempts=1, rotations=32, kept=4, steps=20)
    view = View(image, carm, most=1.8)
    found = register(view, metal, start, only=True, search=(0.1, 10.0), preset=few)
    assert found.compare(carm.pose(eta[0], metal.center)).parts.in_plane < 0.3, found
    assert found.loss < 0.1
    with pytest.raises(ConfigError, match="most is 0; expected a line integral above 0"):
        View(image, carm, most=0)


def test_the_limit_of_an_image_keeps_its_derivatives():
    carm, bone = CArm.square(1020.0, 700.0, 8, 60.0), _bone(1)
    drr = DRR(bone.with_mu(20 * bone.mu), carm, method="joseph")
    eta = torch.tensor([[0.1, 0.2, -0.1, 3.0, -4.0, 5.0]], dtype=torch.float64)
    sight = Sight(drr, drr.at(eta), most=1.5)
    (one,) = Objective([sight]).linearize(eta)
    step = torch.zeros(1, 6).double()
    step[0, 4] = 0.05
    difference = (limited(drr.at(eta + step), 1.5) - limited(drr.at(eta - step), 1.5)) / 0.1
    assert torch.allclose(one.image, limited(drr.at(eta), 1.5).flatten(1), atol=1e-5)
    assert (
        one.jacobian[..., 4] - difference.flatten(1)
    ).abs().max() < 0.05 * difference.abs().max()


def test_depth_of_one_bone_in_one_view_is_its_size():
    """Half of a pixel all around is centimetres of depth far from the source, and is stated."""
    carm = CArm.square(1020.0, 700.0, 64, 200.0)
    drr, eta = DRR(_bone(1), carm, method="joseph"), ETA[None]
    stated = []
    for only in (False, True):
        objective = Objective([Sight(drr, drr.at(eta), grey=Model(window=2.5), only=only)])
        covariance = doubt(objective.sights, objective.linearize(eta), eta)[0]
        way = carm.pose(ETA, drr.volume.center)[:3, 2].double()
        stated.append(float((way @ covariance[3:, 3:] @ way).sqrt()))
    size = 1.8 * (24 + 24 + 40) / 6  # half of the mean edge [mm]
    assert stated[1] == pytest.approx(0.25 * carm.pixel / size * 700, rel=0.2) and stated[1] > 7
    assert stated[0] < 0.2 * stated[1]
