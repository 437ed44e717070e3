"""The loop: recovery, traces, batching, stopping, errors."""

import inspect
import math

import pytest
import torch

from drrlib.drr import DRR
from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry.carm import CArm
from drrlib.geometry.metrics import mtre
from drrlib.io.ct import read_volume
from drrlib.lab.phantoms import skull
from drrlib.optimize.loop import descend
from drrlib.volume import Volume
from helpers import worst

CARM = CArm(1020.0, 510.0, 48, 48, 400 / 48, 400 / 48)
TRUE = torch.tensor([[0.05, -0.1, 0.04, 5.0, -3.0, 4.0]], dtype=torch.float64)
START = TRUE[0] + torch.tensor([0.26, -0.26, 0.26, 20.0, -20.0, 20.0])


@pytest.fixture(scope="module")
def volume():
    phantom = skull(4.0)
    return Volume.from_hu(phantom.hu, phantom.affine)


def _fixed(volume, eta=TRUE, carm=CARM):
    drr = DRR(volume, carm)
    return drr(drr.pose(eta))


@pytest.mark.parametrize("phi", [0.0, math.pi / 2], ids=["frontal", "lateral"])
def test_recovers_the_pose_from_15_degrees_and_20_mm(volume, phi):
    turn = torch.tensor([0.0, phi, 0.0, 0.0, 0.0, 0.0])
    result = descend(_fixed(volume, TRUE + turn), volume, CARM, START + turn)
    true_pose = CARM.pose(TRUE + turn, volume.center)
    points = volume.center + 50 * torch.eye(3, dtype=torch.float64)
    assert mtre(result.pose[None], true_pose, points) < 1.0
    assert result.loss < 1e-3


def test_trace_holds_every_step(volume):
    result = descend(_fixed(volume), volume, CARM, START, levels=((2, 5), (1, 4)))
    assert result.trace_eta.shape == (9, 1, 6) and result.trace_loss.shape == (9, 1)
    assert result.level.tolist() == [2] * 5 + [1] * 4
    assert result.renders == {2: 5, 1: 4}
    assert torch.equal(result.trace_eta[0, 0], START)
    fine = result.trace_loss[5:, 0]
    assert result.loss == float(fine.min())
    assert not bool(result.converged[0]) and result.reason[0] == "steps ran out"
    assert "9 renders" in str(result)


def test_starts_run_side_by_side_as_if_alone(volume):
    starts = torch.stack([START, TRUE[0], TRUE[0] + 0.01])
    options = dict(levels=((1, 6),), threshold=1e-6)
    together = descend(_fixed(volume), volume, CARM, starts, **options)
    alone = [descend(_fixed(volume), volume, CARM, s, **options) for s in starts]
    for i, single in enumerate(alone):
        n = len(single.trace_loss)
        assert worst(together.trace_eta[:n, i], single.trace_eta[:, 0]) < 1e-9
    # The start at the truth stops at once and costs nothing more.
    assert together.reason[1] == "loss below threshold" and together.best == 1
    assert torch.isnan(together.trace_loss[1:, 1]).all()
    assert together.renders[1] == 13


def test_a_settled_start_stops(volume):
    result = descend(
        _fixed(volume), volume, CARM, START, levels=((1, 200),), optimizer="gd", patience=3
    )
    assert result.reason[0] in ("loss settled", "steps ran out")
    frozen = descend(
        _fixed(volume), volume, CARM, START, levels=((1, 50),), patience=3, loss=_flat_loss
    )
    assert frozen.reason[0] == "loss settled" and len(frozen.trace_loss) == 50 - 46


def _flat_loss(fixed, moving):
    return 0.5 + 0.0 * moving.mean(dim=(1, 2, 3))


def test_a_lost_start_is_reported_and_the_others_go_on(volume):
    def loss(fixed, moving):
        value = (fixed - moving).square().mean(dim=(1, 2, 3))
        return torch.where(torch.arange(len(value)) == 0, torch.nan, value)

    result = descend(
        _fixed(volume), volume, CARM, torch.stack([START, START]), loss=loss, levels=((1, 1),)
    )
    assert result.reason[0] == "loss or gradient not finite" and result.best == 1


def test_bad_input_is_named(volume):
    fixed = _fixed(volume)
    with pytest.raises(ShapeError, match="detector of \\(48, 48\\)"):
        descend(fixed[..., :40], volume, CARM, START)
    with pytest.raises(ShapeError, match=r"expected \[6\] or \[n, 6\]"):
        inspect.unwrap(descend)(fixed, volume, CARM, START[:5])
    with pytest.raises(ConfigError, match="constant"):
        descend(torch.ones(48, 48), volume, CARM, START)
    with pytest.raises(ConfigError, match="NaN"):
        descend(fixed * math.nan, volume, CARM, START)
    with pytest.raises(ConfigError, match="divisor"):
        descend(fixed, volume, CARM, START, levels=((5, 10),))
    with pytest.raises(ConfigError, match="adam"):
        descend(fixed, volume, CARM, START, optimizer="sgd")
    with pytest.raises(ConfigError, match="zncc"):
        descend(fixed, volume, CARM, START, loss="ssd")
    with pytest.raises(ConfigError, match="cosine"):
        descend(fixed, volume, CARM, START, schedule="linear")


@pytest.mark.parametrize("phi", [0.0, math.pi / 2], ids=["frontal", "lateral"])
def test_real_plastic_skull_from_15_degrees_and_20_mm(real_data, phi):
    real = read_volume(real_data / "head_phantom_philips" / "ct_0deg_1mm.nii.gz")
    real = real.coarsen((4, 4, 2))  # 1.8 x 1.8 x 2 mm, for the time that tests may take
    carm = CArm(1020.0, 510.0, 96, 96, 400 / 96, 400 / 96)
    turn = torch.tensor([0.0, phi, 0.0, 0.0, 0.0, 0.0])
    result = descend(_fixed(real, TRUE + turn, carm), real, carm, START + turn)
    points = real.center + 50 * torch.eye(3, dtype=torch.float64)
    assert mtre(result.pose[None], carm.pose(TRUE + turn, real.center), points) < 0.2


def test_finite_differences_go_the_same_way(volume):
    """The first step of gradient descent is the gradient, up to the roughness of Siddon's image."""
    options = dict(levels=((1, 2),), optimizer="gd", method="joseph", schedule="constant")
    exact = descend(_fixed(volume), volume, CARM, START, **options)
    finite = descend(_fixed(volume), volume, CARM, START, derivative="finite", **options)
    step = [r.trace_eta[1, 0] - r.trace_eta[0, 0] for r in (exact, finite)]
    assert finite.renders == {1: 26} and exact.renders == {1: 2}
    assert worst(step[1][:3], step[0][:3]) < 0.05 and worst(step[1][3:], step[0][3:]) < 0.05


@pytest.mark.parametrize("name", ["nelder-mead", "powell", "cma-es"])
def test_a_search_without_gradients(volume, name):
    starts = torch.stack([START, TRUE[0]])
    result = descend(_fixed(volume), volume, CARM, starts, optimizer=name, levels=((1, 90),))
    assert result.reason[1] == "loss below threshold" and result.best == 1
    losses = result.trace_loss[:, 0]
    assert float(losses[torch.isfinite(losses)].min()) == result.final_loss[0] < losses[0]
    assert result.renders[1] == int(torch.isfinite(result.trace_loss).sum()) <= 91
    assert int(torch.isfinite(losses).sum()) == 90


def test_a_search_without_gradients_over_levels(volume):
    """Every start keeps its own image; a finer level begins with smaller steps."""
    true = torch.cat([TRUE, TRUE + 0.1])
    options = dict(optimizer="cma-es", levels=((2, 150), (1, 100)))
    both = descend(_fixed(volume, true), volume, CARM, true + 0.05, **options)
    assert both.renders == {2: 300, 1: 200} and both.level.tolist() == [2] * 150 + [1] * 100
    for i in range(2):
        alone = descend(_fixed(volume, true[i : i + 1]), volume, CARM, true[i] + 0.05, **options)
        assert worst(both.trace_eta[:10, i], alone.trace_eta[:10, 0]) < 1e-9
    moved = both.trace_eta[1:10, 0] - both.trace_eta[0, 0]
    finer = both.trace_eta[151:160, 0] - both.trace_eta[150, 0]
    assert finer[:, :3].abs().mean() < moved[:, :3].abs().mean()
    assert bool((both.final_loss < both.trace_loss[0]).all())


def test_images_must_fit_the_starts(volume):
    fixed = _fixed(volume).expand(3, -1, -1, -1)
    with pytest.raises(ShapeError, match=r"\[2, 1, height, width\]"):
        descend(fixed, volume, CARM, torch.stack([START, START]))
    with pytest.raises(ConfigError, match="finite"):
        descend(fixed[:1], volume, CARM, START, derivative="central")
