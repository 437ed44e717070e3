"""Images that are not what they were taken for: mirrored, from the other side, negative, counts."""

import math
from dataclasses import replace

import pytest
import torch

from drrlib.drr import DRR
from drrlib.geometry import CArm
from drrlib.lab.phantoms import pelvis, skull, thorax
from drrlib.registration import Preset, Registration, pipeline, register
from drrlib.registration.mistaken import mirrored_pose
from drrlib.view import View
from drrlib.volume import Volume

CARM = CArm.square(1020.0, 680.0, 64, 384.0)
FRONT = torch.tensor([0.1, -0.15, 0.08, 6.0, -5.0, 8.0], dtype=torch.float64)
AWAY = torch.tensor([0.2, 0.25, -0.2, 20.0, 15.0, -20.0], dtype=torch.float64)
SIDE = torch.tensor([0.0, math.pi / 2, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)


@pytest.fixture(scope="module", params=[skull, thorax, pelvis], ids=lambda f: f.__name__)
def drr(request):
    phantom = request.param(6.0)
    return DRR(Volume.from_hu(phantom.hu, phantom.affine), CARM)


def _image(drr, eta):
    """With the noise of an X-ray."""
    generator = torch.Generator().manual_seed(0)
    noise = 0.02 * torch.randn(64, 64, generator=generator, dtype=torch.float64)
    return drr.at(eta)[0].double() + noise


def _registered(drr, image, start, carm=CARM, **options):
    return register(View(image, carm), drr.volume, start, preset="fast", **options)


def test_a_mirrored_image_is_named_and_not_accepted(drr):
    """It is fitted well, by a pose centimetres off; as it should be, nothing is said."""
    image, truth = _image(drr, FRONT), CARM.pose(FRONT, drr.volume.center)
    right = _registered(drr, image, FRONT + AWAY)
    assert right.converged and float(right.compare(truth).mtre) < 2
    wrong = _registered(drr, image.flip(-1), FRONT + AWAY)
    assert not wrong.converged and "looks mirrored" in wrong.reason, wrong.reason
    assert "flip(-1)" in wrong.reason and float(wrong.compare(truth).mtre) > 5
    cured = _registered(drr, image.flip(-1), FRONT + AWAY, replace(CARM, flipped=True))
    assert cured.converged and float(cured.compare(truth).mtre) < 2


@pytest.mark.parametrize("drr", [thorax], indirect=True, ids=["thorax"])
def test_what_else_an_image_may_be(drr):
    lateral, start = _image(drr, FRONT + SIDE), FRONT + SIDE - AWAY
    said = {
        "mirrored: with left and right": lateral.flip(-1),
        "mirrored: with top and bottom": lateral.flip(-2),
        "raw counts": 4000 * torch.exp(-lateral),
        "looks inverted": 12 - lateral,
    }
    for what, image in said.items():
        found = _registered(drr, image, start)
        assert not found.converged and what in found.reason, found.reason


@pytest.mark.parametrize("drr", [thorax], indirect=True, ids=["thorax"])
def test_a_view_from_the_other_side_is_no_mirrored_one(drr):
    """Their pictures are alike; the reason says where to begin instead."""
    found = _registered(drr, _image(drr, FRONT + 2 * SIDE), FRONT + AWAY)
    assert not found.converged and "another side" in found.reason
    theta, phi, gamma = (float(x) for x in found.reason.split("= ")[1].split(" deg")[0].split(", "))
    wanted = (FRONT + 2 * SIDE)[:3].rad2deg().tolist()
    assert (theta, phi, gamma) == pytest.approx(wanted, abs=2)


def test_the_mirrored_pose():
    """A ball beside the plane of symmetry is seen where its twin was, in the mirrored picture."""
    center = torch.tensor([10.0, -20.0, 30.0], dtype=torch.float64)
    pose = CARM.pose(FRONT, center)
    ball, twin = (center + torch.tensor([x, 7.0, -9.0], dtype=torch.float64) for x in (25, -25))
    at = CARM.project(ball[None], pose)[0]
    other = CARM.project(twin[None], mirrored_pose(pose, center))[0]
    assert other.tolist() == pytest.approx([64 - float(at[0]), float(at[1])])
    assert float(torch.linalg.det(mirrored_pose(pose, center)[:3, :3])) == pytest.approx(1.0)


@pytest.mark.parametrize("drr", [thorax], indirect=True, ids=["thorax"])
def test_a_negative_keeps_its_sign_in_the_second_attempt(drr, monkeypatch):
    """What the first attempt found joins the second one as a candidate of the negative."""
    owners, descend = [], pipeline.descend_together

    def recorded(objective, eta, owner, *how):
        owners.append((owner.clone(), eta[0].clone()))
        return descend(objective, eta, owner, *how)

    monkeypatch.setattr(pipeline, "descend_together", recorded)
    monkeypatch.setattr(pipeline, "judge", lambda *_: (False, "never sure"))
    plan = Preset(16, 4, 20, (1,), ((6,),), finest=None, attempts=2, window=2.5)
    image, start = _image(drr, FRONT), FRONT + 0.3 * AWAY
    found = Registration(drr.volume, [CARM], preset=plan)(
        [(9 - image)[None, None]], start.reshape(1, 1, 6)
    )[0]
    first, second = owners
    assert len(second[0]) == 2 * len(first[0]) + 1
    assert int(second[0][0]) == 1 and found.inverted and found.attempts == 2
    truth = CARM.pose(FRONT, drr.volume.center)
    assert float(found.compare(truth).mtre) < 5 and "inverted" in found.reason
