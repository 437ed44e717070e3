"""A small head, seen by a small C-arm, for all tests of the explorer."""

from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def head():
    """A phantom of 8 mm voxels, one X-ray image of 48 x 40 pixels, and its pose."""
    from drrlib import DRR, CArm, View, Volume, eta
    from drrlib.lab import phantoms

    phantom = phantoms.skull(8.0)
    volume = Volume.from_hu(phantom.hu, phantom.affine)
    carm = CArm(1020.0, 510.0, 40, 48, 8.0, 8.0)
    true = eta(theta=8, phi=20, gamma=-5, b=(6, -9, 12), degrees=True)
    drr = DRR(volume, carm)
    view = View(drr.at(true), carm, start=eta(phi=25, degrees=True))
    return SimpleNamespace(phantom=phantom, volume=volume, carm=carm, true=true, view=view, drr=drr)


@pytest.fixture
def state(head):
    """An explorer of the head at the true pose."""
    from drrlib.lab.explorer import Explorer

    return Explorer(head.volume, head.view, start=head.true)


@pytest.fixture
def both(head):
    """An explorer of two views at right angles, whose poses are in a frame of their own."""
    import torch

    from drrlib import View, eta
    from drrlib.geometry import rigid, so3_exp
    from drrlib.lab.explorer import Explorer

    lateral = head.true + eta(phi=90, degrees=True)
    poses = [head.carm.pose(x, head.volume.center) for x in (head.true, lateral)]
    turn = so3_exp(torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64))
    room = rigid(turn, torch.tensor([100.0, -50.0, 30.0], dtype=torch.float64))
    views = [View(head.drr(pose), head.carm, pose=room @ pose) for pose in poses]
    return Explorer(head.volume, views, start=head.true)
