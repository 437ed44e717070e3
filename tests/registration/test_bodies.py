"""Several bodies in one image: each has its pose, and their images add up."""

import dataclasses
import inspect

import pytest
import torch

from drrlib.drr import DRR
from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry import CArm, eta
from drrlib.optimize import normal_equations
from drrlib.registration import PRESETS, register_bodies
from drrlib.registration.bodies import Together, _without
from drrlib.view import View
from drrlib.volume import Volume

CARM = CArm.square(1020.0, 700.0, 96, 300.0)
QUICK = dataclasses.replace(PRESETS["xray"], attempts=1, rotations=48, kept=4, steps=25)
CENTER = torch.zeros(3, dtype=torch.float64)


def _bone(seed, side, place):
    """A lumpy ellipsoid at a place of the room."""
    dice = torch.Generator().manual_seed(seed)
    axes = torch.meshgrid(*[torch.linspace(-1, 1, 25)] * 3, indexing="ij")
    x, y, z = axes
    lump = sum(
        torch.sin(3 * (a * x + b * y + c * z))
        for a, b, c in 2 * torch.rand(6, 3, generator=dice) - 1
    )
    inside = x**2 + (1.3 * y) ** 2 + (0.8 * z) ** 2 < 0.9
    affine = torch.diag(torch.tensor([side / 25] * 3 + [1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor(place, dtype=torch.float64) - side / 25 * 12
    return Volume(torch.where(inside, 0.02 + 0.03 * lump.clamp(0, 2), 0.0), affine)


@pytest.fixture(scope="module")
def scene():
    """Two bones that cover each other in both views, under soft tissue and grain; and where they
    are."""
    bodies = [_bone(1, 80.0, (12.0, 8.0, -20.0)), _bone(2, 60.0, (-14.0, -9.0, 12.0))]
    poses = [CARM.pose(eta(phi=p, degrees=True), CENTER) for p in (0, 70)]
    dice, ramp = torch.Generator().manual_seed(0), torch.linspace(0, 1.0, 96)
    views = []
    for pose in poses:
        lines = sum(DRR(body, CARM)(pose[None])[0, 0] for body in bodies)
        lines = lines + ramp[:, None] * ramp + 0.01 * torch.randn(96, 96, generator=dice)
        views.append(View(lines, CARM, pose=pose, lines=False))
    true = torch.stack([CARM.eta(poses[0], body.center) for body in bodies])
    return views, bodies, true


def test_two_bones_over_each_other(scene):
    views, bodies, true = scene
    off = torch.tensor([[0.08, -0.06, 0.05, 5, -6, 7], [-0.06, 0.07, -0.08, -6, 5, 4]]).double()
    found = register_bodies(views, bodies, true + off, preset=QUICK, search=(0.12, 12.0))
    for one in found:
        error = one.compare(views[0].pose)
        assert one.converged and error.mtre < 0.5, (one, error)
        assert error.mtre < 3 * one.target_sd and one.covariance.shape == (6, 6)
        assert [name for name, *_ in one.path][-1] == "together"
        assert one.path[-1][2] < one.path[-2][2]  # the sum explains more than the body alone


def test_a_negative_and_bodies_of_very_different_size(scene):
    views, bodies, _ = scene
    bodies = [bodies[0], _bone(3, 14.0, (40.0, 10.0, 40.0))]
    pose = views[0].pose
    lines = sum(DRR(body, CARM)(pose[None])[0, 0] for body in bodies)
    start = torch.stack([CARM.eta(pose, body.center) for body in bodies])
    found = register_bodies(
        View(-lines, CARM, lines=False), bodies, start + 0.02, preset=QUICK, search=(0.05, 4.0)
    )
    assert found[0].inverted and found[0].compare(pose).parts.in_plane < 0.3
    # Ten pixels across, in one view: it says that it hardly knows.
    assert found[1].compare(pose).mtre < 2 * found[1].target_sd and not found[1].converged


def test_the_model_is_the_sum_and_its_derivative(scene):
    """Gauss-Newton's gradient of the twelve parameters against differences of the loss."""
    views, bodies, true = scene
    together = Together(views, bodies, QUICK, "auto")
    here = (true + 0.01).reshape(1, 12)

    def model(row):
        return normal_equations(together.sights, together.linearize(row))

    shown = together.linearize(here)
    each = [one.images(row) for one, row in zip(together.each, here.split(6, dim=1), strict=True)]
    assert shown[0].jacobian.shape[-1] == 12
    assert torch.allclose(shown[0].image, each[0][0] + each[1][0], atol=1e-5)
    for k in range(12):
        step = torch.zeros(1, 12).double()
        step[0, k] = 1e-3 if k % 6 < 3 else 0.2
        ends = [float(model(here + sign * step).loss) for sign in (-1, 1)]
        slope = (ends[1] - ends[0]) / (2 * float(step[0, k]))
        assert slope == pytest.approx(float(model(here).gradient[0, k]), rel=0.15, abs=2e-3)


def test_what_is_found_is_taken_off_the_image(scene):
    views, bodies, true = scene
    known = dataclasses.replace(views[0])
    result = register_bodies(known, bodies[:1], true[:1], preset=QUICK, search=(0.02, 2.0))[0]
    result = dataclasses.replace(result, eta=true[0], pose=views[0].pose)
    rest = _without([known], [(bodies[0], result)], "auto")[0]
    alone = DRR(bodies[1], CARM)(views[0].pose[None])[0, 0]
    smooth = torch.linspace(0, 1.0, 96)[:, None] * torch.linspace(0, 1.0, 96)
    before, after = ((x.image - smooth - alone).abs().mean() for x in (known, rest))
    assert after < 0.25 * before


def test_bad_input_is_named(scene):
    views, bodies, true = scene
    with pytest.raises(ShapeError, match="2 bodies and starts of shape"):
        register_bodies(views, bodies, true[:1])
    with pytest.raises(ConfigError, match="body 1 is a str"):
        inspect.unwrap(register_bodies)(views, [bodies[0], "ulna"], true)
