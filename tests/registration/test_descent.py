"""The loop: recovery, traces, batching, stopping, errors."""

import math

import pytest
import torch

from drrlib.drr import DRR
from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry import CArm
from drrlib.io import read_volume
from drrlib.lab.phantoms import skull
from drrlib.optimize import CmaEs
from drrlib.registration import COARSE_TO_FINE, Schedule, descend
from drrlib.similarity import zncc
from drrlib.view import View
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


def _drr(volume, carm=CARM, method="siddon"):
    return DRR(volume, carm, method=method)


def _descend(fixed, volume, start, carm=CARM, method="siddon", **options):
    names = ("levels", "rates", "threshold", "patience")
    schedule = Schedule(**{k: options.pop(k) for k in names if k in options})
    return descend(fixed, _drr(volume, carm, method), start, schedule=schedule, **options)


@pytest.mark.parametrize("phi", [0.0, math.pi / 2], ids=["frontal", "lateral"])
def test_recovers_the_pose_from_15_degrees_and_20_mm(volume, phi):
    turn = torch.tensor([0.0, phi, 0.0, 0.0, 0.0, 0.0])
    result = _descend(_fixed(volume, TRUE + turn), volume, START + turn)
    assert float(result.compare(TRUE[0] + turn).mtre) < 1.0
    assert result.loss < 1e-3


def test_trace_holds_every_step(volume):
    result = _descend(_fixed(volume), volume, START, levels=((2, 5), (1, 4)))
    assert result.trace.eta.shape == (9, 6) and result.trace.loss.shape == (9,)
    assert result.trace.level.tolist() == [2] * 5 + [1] * 4
    assert result.renders == 5 / 4 + 4
    assert torch.equal(result.trace.eta[0], START)
    fine = result.trace.loss[5:]
    assert result.loss == float(fine.min())
    assert result.converged is False and result.reason == "steps ran out"
    assert "5 full renders" in repr(result) and result.best is result


def test_starts_run_side_by_side_as_if_alone(volume):
    starts = torch.stack([START, TRUE[0], TRUE[0] + 0.01])
    options = dict(levels=((1, 6),), threshold=1e-6)
    together = _descend(_fixed(volume), volume, starts, **options)
    alone = [_descend(_fixed(volume), volume, s, **options) for s in starts]
    assert len(together) == 3 and together.eta.shape == (3, 6)
    for i, single in enumerate(alone):
        n = len(single.trace.loss)
        assert worst(together.trace.eta[:n, i], single.trace.eta) < 1e-9
        assert worst(together[i].eta, single.eta) < 1e-9 and together[i].reason == single.reason
    # The start at the truth stops at once and costs nothing more.
    assert together.reason[1] == "loss below threshold"
    assert torch.equal(together.best.eta, together.eta[1]) and together.best.converged
    assert torch.isnan(together.trace.loss[1:, 1]).all()
    assert together.renders == 13
    assert repr(together).startswith("1 of 3 starts converged; best: converged: loss below")


def test_a_settled_start_stops(volume):
    fixed = _fixed(volume)
    result = _descend(fixed, volume, START, levels=((1, 200),), optimizer="gd", patience=3)
    assert result.reason in ("loss settled", "steps ran out")
    frozen = _descend(fixed, volume, START, levels=((1, 50),), patience=3, loss=_flat_loss)
    assert frozen.reason == "loss settled" and len(frozen.trace.loss) == 50 - 46


def _flat_loss(fixed, moving):
    return 0.5 + 0.0 * moving.mean(dim=(1, 2, 3))


def test_a_lost_start_is_reported_and_the_others_go_on(volume):
    def loss(fixed, moving):
        value = (fixed - moving).square().mean(dim=(1, 2, 3))
        return torch.where(torch.arange(len(value)) == 0, torch.nan, value)

    starts = torch.stack([START, START])
    result = _descend(_fixed(volume), volume, starts, loss=loss, levels=((1, 1),))
    assert result.reason[0] == "loss or gradient not finite"
    assert result.best.loss == float(result.loss[1])


def test_bad_input_is_named(volume):
    fixed, drr = _fixed(volume), _drr(volume)
    with pytest.raises(ShapeError, match="detector of \\(48, 48\\)"):
        descend(fixed[..., :40], drr, START)
    with pytest.raises(ShapeError, match=r"expected \[6\] or \[n, 6\]"):
        descend(fixed, drr, START[:5])
    with pytest.raises(ConfigError, match="constant"):
        descend(torch.ones(48, 48), drr, START)
    with pytest.raises(ConfigError, match="NaN"):
        descend(fixed * math.nan, drr, START)
    with pytest.raises(ConfigError, match="adam"):
        descend(fixed, drr, START, optimizer="sgd")
    with pytest.raises(ConfigError, match="zncc"):
        descend(fixed, drr, START, loss="ssd")
    with pytest.raises(ConfigError, match="cosine or constant"):
        Schedule(rates="linear")
    for levels in ((), ((0, 5),), ((1, 0),)):
        with pytest.raises(ConfigError, match="pairs, each >= 1"):
            Schedule(levels=levels)


def test_a_likeness_is_refused_before_it_leads_away(volume):
    for likeness in (zncc, lambda fixed, moving: zncc(fixed, moving)):
        with pytest.raises(ConfigError, match="to be minimised"):
            descend(_fixed(volume), _drr(volume), START, loss=likeness)


@pytest.mark.parametrize("size", [(61, 53), (47, 50)], ids=str)
def test_any_size_of_detector_has_levels(volume, size):
    """Prime and odd ones, too: what does not divide is filled up by pixels of no weight."""
    carm = CArm(1020.0, 510.0, *size, 400 / 53, 400 / 53)
    assert [b for b, _ in COARSE_TO_FINE.levels_for(carm)] == ([2, 1] if min(size) >= 48 else [1])
    options = dict(carm=carm, levels=((4, 40), (2, 40), (1, 30)))
    result = _descend(_fixed(volume, carm=carm), volume, START, **options)
    assert result.trace.level.unique().tolist() == [1, 2, 4]
    assert float(result.compare(TRUE[0]).mtre) < 1.5


def test_a_view_brings_its_weights(volume):
    """Half the image is hidden; its pixels may hold anything."""
    fixed = _fixed(volume)[0, 0].double()
    fixed[:, 24:] = math.nan
    view = View(fixed, CARM, weights=torch.isfinite(fixed))
    found = descend(view, _drr(volume), TRUE[0] + 0.02, schedule=Schedule(((1, 60),)))
    assert float(found.compare(TRUE[0]).mtre) < 1.0


def test_arrays_and_lists_are_taken(volume):
    options = dict(schedule=Schedule(((1, 2),)))
    fixed = _fixed(volume)
    expected = descend(fixed, _drr(volume), START, **options)
    found = descend(fixed.numpy(), _drr(volume), START.tolist(), **options)
    assert torch.equal(found.eta, expected.eta) and found.loss == expected.loss


@pytest.mark.parametrize("phi", [0.0, math.pi / 2], ids=["frontal", "lateral"])
def test_real_plastic_skull_from_15_degrees_and_20_mm(real_data, phi):
    real = read_volume(real_data / "head_phantom_philips" / "ct_0deg_1mm.nii.gz")
    real = real.coarsen((4, 4, 2))  # 1.8 x 1.8 x 2 mm, for the time that tests may take
    carm = CArm.square(1020.0, 510.0, 96, 400.0)
    turn = torch.tensor([0.0, phi, 0.0, 0.0, 0.0, 0.0])
    result = _descend(_fixed(real, TRUE + turn, carm), real, START + turn, carm)
    assert float(result.compare(TRUE[0] + turn).mtre) < 0.2


def test_finite_differences_go_the_same_way(volume):
    """The first step of gradient descent is the gradient, up to the roughness of Siddon's image."""
    options = dict(levels=((1, 2),), optimizer="gd", method="joseph", rates="constant")
    exact = _descend(_fixed(volume), volume, START, **options)
    finite = _descend(_fixed(volume), volume, START, derivative="finite", **options)
    step = [r.trace.eta[1] - r.trace.eta[0] for r in (exact, finite)]
    assert finite.renders == 26 and exact.renders == 2
    assert worst(step[1][:3], step[0][:3]) < 0.05 and worst(step[1][3:], step[0][3:]) < 0.05


@pytest.mark.parametrize("name", ["nelder-mead", "powell", "cma-es"])
def test_a_search_without_gradients(volume, name):
    starts = torch.stack([START, TRUE[0]])
    result = _descend(_fixed(volume), volume, starts, optimizer=name, levels=((1, 90),))
    assert result.reason[1] == "loss below threshold" and result.best.loss == result.loss[1]
    losses = result.trace.loss[:, 0]
    assert float(losses[torch.isfinite(losses)].min()) == result.loss[0] < losses[0]
    assert result.renders == int(torch.isfinite(result.trace.loss).sum()) <= 91
    assert int(torch.isfinite(losses).sum()) == 90


def test_a_search_without_gradients_over_levels(volume):
    """Every start keeps its own image; a finer level begins with smaller steps."""
    true = torch.cat([TRUE, TRUE + 0.1])
    options = dict(levels=((2, 150), (1, 100)))
    rule = CmaEs(seed=(7, 8))
    both = _descend(_fixed(volume, true), volume, true + 0.05, optimizer=rule, **options)
    assert both.renders == 300 / 4 + 200
    assert both.trace.level.tolist() == [2] * 150 + [1] * 100
    for i in range(2):
        alone = _descend(
            _fixed(volume, true[i : i + 1]),
            volume,
            true[i] + 0.05,
            optimizer=CmaEs(seed=(7 + i,)),
            **options,
        )
        assert worst(both.trace.eta[:10, i], alone.trace.eta[:10]) < 1e-9
    moved = both.trace.eta[1:10, 0] - both.trace.eta[0, 0]
    finer = both.trace.eta[151:160, 0] - both.trace.eta[150, 0]
    assert finer[:, :3].abs().mean() < moved[:, :3].abs().mean()
    assert bool((both.loss < both.trace.loss[0]).all())


def test_images_must_fit_the_starts(volume):
    fixed = _fixed(volume).expand(3, -1, -1, -1)
    with pytest.raises(ShapeError, match=r"\[2, 1, height, width\]"):
        descend(fixed, _drr(volume), torch.stack([START, START]))
    with pytest.raises(ConfigError, match="finite"):
        descend(fixed[:1], _drr(volume), START, derivative="central")
