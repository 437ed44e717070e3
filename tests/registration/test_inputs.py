"""Landmarks, regions and errors of a pose take tensors, arrays and lists, and refuse the rest."""

import numpy as np
import pytest
import torch

from drrlib import regions
from drrlib.drr import DRR
from drrlib.errors import ConfigError, DtypeError, ShapeError
from drrlib.geometry import CArm, mpd, mrpd, mtre, pose_errors
from drrlib.projectors import Grid
from drrlib.registration import arun, pnp
from drrlib.volume import Volume

CARM = CArm(1020.0, 510.0, 40, 32, 10.0, 12.0)
CENTER = torch.tensor([10.0, -20.0, 30.0], dtype=torch.float64)
ETA = torch.tensor([0.2, -0.3, 0.1, 8.0, -5.0, 12.0], dtype=torch.float64)
POSE, OTHER = CARM.pose(ETA, CENTER), CARM.pose(ETA + 0.01, CENTER)
POINTS = CENTER + 60 * torch.randn(8, 3, generator=torch.manual_seed(1), dtype=torch.float64)
PIXELS = CARM.project(POINTS, POSE)
WEIGHTS = torch.linspace(0.5, 1.0, 8, dtype=torch.float64)
CORNERS = torch.tensor([[3.0, 4.0], [25.0, 6.0], [12.0, 30.0]], dtype=torch.float64)
BLADES = torch.full((40, 32), 2.0, dtype=torch.float64)
BLADES[:8] = 6.0

# Each with the tensors that it takes, by name.
DOORS = {
    "arun": (arun, dict(points=POINTS, targets=POINTS + 1, weights=WEIGHTS)),
    "pnp": (
        lambda points, pixels, start, center: pnp(CARM, points, pixels, start, center=center),
        dict(points=POINTS, pixels=PIXELS, start=ETA, center=CENTER),
    ),
    "polygon": (lambda corners: regions.polygon(CARM, corners), dict(corners=CORNERS)),
    "outside": (regions.outside, dict(weights=WEIGHTS)),
    "collimated": (regions.collimated, dict(fixed=BLADES)),
    "mtre": (mtre, dict(pose=POSE, true_pose=OTHER, points=POINTS)),
    "mrpd": (mrpd, dict(pose=POSE, true_pose=OTHER, points=POINTS)),
    "mpd": (
        lambda pose, true_pose, points: mpd(pose, true_pose, points, 1020.0),
        dict(pose=POSE, true_pose=OTHER, points=POINTS),
    ),
    "pose_errors": (pose_errors, dict(pose=POSE, true_pose=OTHER, center=CENTER)),
}
WAYS = {
    "array": lambda x: x.numpy(),
    "array of a file": lambda x: x.numpy().astype(">f8"),  # torch takes no other byte order
    "array turned over": lambda x: np.ascontiguousarray(x.numpy()[..., ::-1])[..., ::-1],
    "list": lambda x: x.tolist(),
    "list of tensors": list,
    "with a gradient": lambda x: x.clone().requires_grad_(),
}


def leaves(found):
    parts = found if isinstance(found, tuple) else (found,)
    return [torch.as_tensor(x).detach() for x in parts]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("door", DOORS)
def test_the_same_whatever_it_comes_as(door, way):
    function, given = DOORS[door]
    expected = leaves(function(**given))
    for name in given:
        found = leaves(function(**{**given, name: WAYS[way](given[name])}))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), name
    every = leaves(function(**{k: WAYS[way](x) for k, x in given.items()}))
    assert all(torch.equal(a, b) for a, b in zip(every, expected, strict=True))


ARGUMENTS = [(door, name) for door, (_, given) in DOORS.items() for name in given]


@pytest.mark.parametrize(("door", "name"), ARGUMENTS, ids="-".join)
def test_what_holds_no_numbers_is_named(door, name):
    function, given = DOORS[door]
    for wrong in ([["a", "b"]], [[1.0, 2.0], [3.0]], given[name] + 1j):
        with pytest.raises(DtypeError, match=name):
            function(**{**given, name: wrong})


@pytest.mark.parametrize(
    ("door", "name"), [x for x in ARGUMENTS if x[0] != "outside"], ids="-".join
)
def test_a_wrong_shape_is_named(door, name):
    function, given = DOORS[door]
    for wrong in (given[name][..., :1], given[name].flatten()[:2], 5.0):
        with pytest.raises(ShapeError, match=rf"(?s){name} has shape .*expected"):
            function(**{**given, name: wrong})


def test_a_mask_is_a_region():
    mask = BLADES < 3
    assert torch.equal(regions.outside(mask), regions.outside(mask.double()))
    with pytest.raises(ConfigError, match="from 0 to 1"):
        regions.outside([0.0, 1.5])


@pytest.mark.parametrize("door", DOORS)
def test_tensors_without_values_are_named(door):
    """On the device meta there are shapes alone."""
    function, given = DOORS[door]
    for name in given:
        with pytest.raises(DtypeError, match=r"device meta.*expected one with values"):
            function(**{**given, name: given[name].to("meta")})


def test_volumes_without_values_are_named():
    mu, affine = torch.rand(4, 4, 4), torch.eye(4)
    for door in (Volume, Volume.from_hu, Grid):
        for given in ((mu.to("meta"), affine), (mu, affine.to("meta"))):
            with pytest.raises(DtypeError, match="device meta"):
                door(*given)
    drr = DRR(Volume(mu, affine), CARM)
    for call in (lambda: drr(POSE.to("meta")), lambda: drr.with_mu(mu.to("meta"))):
        with pytest.raises(DtypeError, match="device meta"):
            call()
