"""Trials of registration: what they draw, what they record, how success is counted."""

import math

import numpy as np
import pytest
import torch

from drrlib.drr import DRR
from drrlib.errors import ConfigError
from drrlib.geometry import CArm, mrpd, mtre
from drrlib.lab.studies import Protocol, eta_of, load_volume, rate_trials, registration_trials
from drrlib.registration import Schedule, descend

SMALL = Protocol(
    voxel=8.0,
    pixels=24,
    levels=((1, 30),),
    start_rotation=8.0,
    start_translation=10.0,
    view_range=20.0,
    trace=10,
    seed=4,
)


@pytest.fixture(scope="module")
def table():
    return registration_trials(SMALL.config(), range(4))


def test_draws_stay_in_their_ranges():
    protocol = SMALL.with_(view=(10.0, 90.0, 0.0), shift_range=5.0)
    drawn = [protocol.draw(i) for i in range(200)]
    true, start = (torch.stack([d[k] for d in drawn]) for k in (0, 1))
    middle = torch.deg2rad(torch.tensor([10.0, 90.0, 0.0]))
    for off, size in (
        (true[:, :3] - middle, math.radians(20)),
        (true[:, 3:], 5.0),
        ((start - true)[:, :3], math.radians(8)),
        ((start - true)[:, 3:], 10.0),
    ):
        assert 0.9 * size < float(off.abs().max()) <= size * (1 + 1e-6)
        assert bool((off.mean(dim=0).abs() < 0.2 * size).all())  # 5 standard errors


def test_records_agree_with_their_own_poses(table):
    """Errors are computed anew from the recorded parameters."""
    drr = SMALL.renderer()
    poses = {k: drr.pose(eta_of(table, k)) for k in ("true", "start", "final")}
    points = drr.volume.targets
    for column, kind in (("mtre_mm", "final"), ("start_mtre_mm", "start")):
        again = mtre(poses[kind], poses["true"], points)
        assert np.allclose(table[column], again, rtol=1e-9)
    again = mrpd(poses["final"], poses["true"], points)
    assert np.allclose(table["mrpd_mm"], again, rtol=1e-6)
    parts = table[["rotation_in_plane_deg", "rotation_out_of_plane_deg"]]
    assert np.allclose(np.hypot(*parts.to_numpy().T), table["rotation_deg"], rtol=1e-6)
    assert (table["start_mtre_mm"] > table["mtre_mm"]).all()
    assert np.allclose(1 - table["zncc"], table["loss"], atol=1e-6)
    for i in range(4):
        true, start, _ = SMALL.draw(i)
        assert torch.allclose(eta_of(table, "true")[i], true)
        assert torch.allclose(eta_of(table, "start")[i], start)


def test_steps_are_those_of_the_traces(table):
    assert (table["renders"] == table["steps"]).all() and (table["steps"] <= 30).all()
    assert [c for c in table if c.startswith("loss_")] == ["loss_0", "loss_10", "loss_20"]
    fine = registration_trials(SMALL.with_(trace=1, levels=((1, 80),)).config(), range(4))
    passed = 0
    for _, row in fine.iterrows():
        below = [k for k in range(80) if row[f"loss_{k}"] < 1e-3]
        assert row["steps_zncc"] == below[0] if below else math.isnan(row["steps_zncc"])
        passed += bool(below)
    assert passed


def test_steps_count_over_levels_but_judge_the_last():
    two = SMALL.with_(pixels=48, levels=((2, 10), (1, 60)), trace=0)
    table = registration_trials(two.config(), range(3))
    assert (table["steps"] <= 70).all() and table["steps_zncc"].notna().any()
    assert (table["steps_zncc"].dropna() >= 10).all()
    with pytest.raises(ConfigError, match="trace is 5 with 2 levels"):
        registration_trials(two.with_(trace=5).config(), [0])


def test_a_trial_is_the_same_alone(table):
    alone = registration_trials(SMALL.config(), [2])
    for name in ("true_phi_deg", "start_bx_mm", "start_mtre_mm"):
        assert alone[name][0] == table[name][2]
    # Sums over a batch may round differently, and steps carry it on.
    assert abs(alone["loss"][0] - table["loss"][2]) < 1e-3 * table["loss"][2]


def test_finite_differences_and_gradient_free_count_their_renders():
    finite = registration_trials(SMALL.with_(derivative="finite").config(), [0, 1])
    assert (finite["renders"] == 13 * finite["steps"]).all()
    for name in ("nelder-mead", "cma-es"):
        search = SMALL.with_(optimizer=name, levels=((1, 60),), trace=0)
        free = registration_trials(search.config(), [0, 1])
        assert (free["renders"] <= 60).all() and (free["renders"] > 20).all()
        assert (
            free["loss"]
            < registration_trials(search.with_(levels=((1, 1),)).config(), [0, 1])["loss"]
        ).all()


def test_the_start_at_the_truth_succeeds_at_once():
    none = SMALL.with_(start_rotation=0.0, start_translation=0.0)
    table = registration_trials(none.config(), [0])
    assert table["steps"][0] == 1 and table["reason"][0] == "loss below threshold"
    assert table["steps_loss"][0] == 0 and table["steps_zncc"][0] == 0
    assert math.isnan(
        registration_trials(SMALL.with_(levels=((1, 2),)).config(), [0])["steps_loss"][0]
    )


def test_noise_is_the_trial_s_own():
    noisy = SMALL.with_(noise=0.05)
    both = registration_trials(noisy.config(), [0, 1])
    alone = registration_trials(noisy.config(), [1])
    assert abs(both["loss"][1] - alone["loss"][0]) < 1e-3 * alone["loss"][0]
    assert (both["loss"] > registration_trials(SMALL.config(), [0, 1])["loss"]).all()


def test_rates_are_scored_by_what_they_reach():
    protocol = SMALL.with_(trace=0, levels=((1, 15),)).config()
    config = dict(protocol=protocol, rotation=[1e-6, 0.02], translation=[1e-4, 2.0], starts=2)
    table = rate_trials(config, range(4))
    assert table["trial"].tolist() == [0, 1, 2, 3]
    assert table[["lr_rotation", "lr_translation"]].values.tolist() == [
        [1e-6, 1e-4],
        [1e-6, 2.0],
        [0.02, 1e-4],
        [0.02, 2.0],
    ]
    assert table["score"].idxmin() == 3 and table["score"].idxmax() == 0


def test_a_search_of_rates_refuses_what_it_makes_nothing_of():
    protocol = SMALL.with_(trace=0)
    config = dict(protocol=protocol.config(), rotation=[0.02], translation=[2.0], starts=1)
    for change in (dict(rates=[0.1, 1.0]), dict(trace=5)):
        changed = {**config, "protocol": protocol.with_(**change).config()}
        with pytest.raises(ConfigError, match=f"makes nothing of {next(iter(change))}"):
            rate_trials(changed, [0])
    with pytest.raises(ConfigError, match=r"has seed, which .* takes protocol, rotation"):
        rate_trials({**config, "seed": 3}, [0])
    with pytest.raises(ConfigError, match="lacks starts"):
        rate_trials({k: v for k, v in config.items() if k != "starts"}, [0])
    with pytest.raises(ConfigError, match=r"trial 1 is asked of 1 pairs .* at most 1 trials"):
        rate_trials(config, [0, 1])


def test_a_search_without_gradients_refuses_what_it_makes_nothing_of():
    search = SMALL.with_(optimizer="nelder-mead")
    for change in (dict(schedule="cosine"), dict(derivative="finite")):
        (name,) = change
        with pytest.raises(ConfigError, match=f"'nelder-mead'.* makes nothing of {name}"):
            registration_trials(search.with_(**change).config(), [0])


def test_what_cma_es_draws_is_the_trial_s_own():
    pytest.importorskip("cma", reason="CMA-ES needs the extra cma")
    config = SMALL.with_(optimizer="cma-es", levels=((1, 40),), trace=0).config()
    whole, alone = registration_trials(config, range(3)), registration_trials(config, [2])
    assert alone["loss"][0] == pytest.approx(whole["loss"][2], rel=1e-4)
    assert alone["mtre_mm"][0] == pytest.approx(whole["mtre_mm"][2], rel=1e-4)


def test_bad_input_is_named():
    with pytest.raises(ConfigError, match="no pixel; it has volume"):
        Protocol.of({"pixel": 3})
    with pytest.raises(ConfigError, match="adam"):
        registration_trials(SMALL.with_(optimizer="sgd").config(), [0])
    with pytest.raises(ConfigError, match="rates are given for optimizer 'powell'"):
        registration_trials(SMALL.with_(optimizer="powell", rates=(1.0, 1.0)).config(), [0])
    with pytest.raises(ConfigError, match="one of rotation, then one of translation"):
        registration_trials(SMALL.with_(rates=(1.0,)).config(), [0])
    with pytest.raises(ConfigError, match="plastic_skull"):
        load_volume("no_such_thing", 2.0)


def test_a_data_set_is_averaged_to_the_voxel_size(real_data):
    volume = load_volume("plastic_skull", 2.0)
    assert all(1.4 < size < 2.8 for size in volume.spacing.tolist())


def test_one_image_for_each_start():
    volume = load_volume("skull", 8.0)
    carm = CArm(1020.0, 510.0, 24, 24, 400 / 24, 400 / 24)
    drr = DRR(volume, carm)
    true = torch.zeros(2, 6, dtype=torch.float64)
    true[1, 1] = 0.4
    fixed = drr(drr.pose(true))
    start = true + torch.tensor([0.1, -0.1, 0.1, 8.0, -8.0, 8.0])
    schedule = Schedule(((1, 40),))
    both = descend(fixed, drr, start, schedule=schedule)
    for i in range(2):
        alone = descend(fixed[i : i + 1], drr, start[i], schedule=schedule)
        assert torch.allclose(both.trace.loss[-1, i], alone.trace.loss[-1], rtol=1e-3)
        assert both[i].loss == pytest.approx(alone.loss, rel=1e-3)
        points = volume.targets
        found, begun, truth = (drr.pose(x[i]) for x in (both.trace.eta[-1], start, true))
        assert mtre(found, truth, points) < 0.5 * mtre(begun, truth, points)
