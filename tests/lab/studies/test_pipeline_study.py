"""Studies of pipelines: the same trials for every method, and what their records hold."""

import numpy as np
import pandas as pd
import pytest
import torch

from drrlib.errors import ConfigError
from drrlib.geometry import mtre
from drrlib.lab.evaluation import converged_table, error_table
from drrlib.lab.studies import METHODS, Protocol, eta_of, pipeline_trials
from drrlib.similarity import get_loss

VIEWS = [[0.0, 0.0, 0.0], [0.0, 90.0, 0.0]]
PROTOCOL = dict(voxel=6.0, pixels=48, view_range=10.0, start_rotation=15.0, start_translation=15.0)


def _config(method="fast", effects=None, **protocol):
    entries = Protocol.of({**PROTOCOL, **protocol}).config()
    return dict(protocol=entries, method=method, views=VIEWS, effects=effects or {})


@pytest.fixture(scope="module")
def trials():
    return pipeline_trials(_config(), range(4))


def test_trials_take_the_views_in_turn(trials):
    assert trials["view"].tolist() == [0, 1, 0, 1]
    off = trials["true_phi_deg"] - 90 * trials["view"]
    assert off.abs().max() <= 10 and off.abs().max() > 1
    start = (eta_of(trials, "start") - eta_of(trials, "true")).abs().amax(dim=0)
    assert bool((start <= start.new_tensor([np.radians(15)] * 3 + [15] * 3) + 1e-9).all())


def test_errors_are_those_of_the_poses_in_the_record(trials):
    drr = Protocol.of(PROTOCOL).renderer()
    true, start, final = (drr.pose(eta_of(trials, k)) for k in ("true", "start", "final"))
    points = drr.volume.targets
    assert np.allclose(trials["mtre_mm"], mtre(final, true, points), atol=1e-6)
    assert np.allclose(trials["start_mtre_mm"], mtre(start, true, points), atol=1e-6)
    # Voxels of 6 mm against pixels of half of it: coarse, but found.
    assert (trials["mtre_mm"] < 1.5).all() and trials["converged"].all()
    found = int((trials["mtre_mm"] < 1).sum())
    assert error_table(trials)["successes"].tolist() == [found]
    assert converged_table(trials)["true_positives"].tolist() == [found]


def test_a_trial_does_not_depend_on_its_batch(trials):
    """Nor on the method for what is drawn."""
    alone = pipeline_trials(_config(), [2])
    drawn = [c for c in trials if c.startswith(("true_", "start_"))]
    pd.testing.assert_frame_equal(alone[drawn], trials.iloc[[2]][drawn].reset_index(drop=True))
    assert alone["mtre_mm"][0] == pytest.approx(trials["mtre_mm"][2], abs=1e-3)
    other = pipeline_trials(_config("one start"), [2])
    pd.testing.assert_frame_equal(alone[drawn], other[drawn])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_comes_nearer_and_counts_its_renders(method):
    if method == "CMA-ES":
        pytest.importorskip("cma", reason="CMA-ES needs the extra cma")
    table = pipeline_trials(_config(method), range(2))
    assert (table["mtre_mm"] < 0.5 * table["start_mtre_mm"]).all()
    assert (table["renders"] > 10).all() and np.isfinite(table["loss"]).all()


def test_effects_change_the_image_and_noise_follows_the_trial():
    rod = [pipeline_trials(_config(effects=dict(rod=12.0, photons=1e5)), [1]) for _ in range(2)]
    pd.testing.assert_frame_equal(*rod)
    assert rod[0]["mtre_mm"][0] < 2 and rod[0]["kept"][0] < 1


def test_noise_is_in_the_image_and_follows_the_trial(trials):
    noisy = pipeline_trials(_config(noise=0.05), [0, 2])
    drawn = [c for c in trials if c.startswith(("true_", "start_"))]
    plain = trials.iloc[[0, 2]].reset_index(drop=True)
    pd.testing.assert_frame_equal(noisy[drawn], plain[drawn])
    assert (noisy["loss"] > 2 * plain["loss"]).all()
    # A few times the standard deviation that the pipeline itself states.
    assert (noisy["target_sd_mm"] > plain["target_sd_mm"]).all()
    assert (noisy["mtre_mm"] < 4 * noisy["target_sd_mm"] + 1).all()
    alone = pipeline_trials(_config(noise=0.05), [2])
    assert alone["loss"][0] == pytest.approx(noisy["loss"][1], rel=1e-3)


def test_the_loss_is_the_protocol_s():
    table = pipeline_trials(_config("one start", loss="gradient_ncc"), [0])
    drr = Protocol.of(PROTOCOL).renderer()
    true, final = (drr.at(eta_of(table, k)) for k in ("true", "final"))
    assert table["loss"][0] == pytest.approx(float(get_loss("gradient_ncc")(true, final)[0]))


@pytest.mark.parametrize("method", ["many starts", "levels", "fast", "CMA-ES"])
def test_every_method_takes_another_loss(method):
    if method == "CMA-ES":
        pytest.importorskip("cma", reason="CMA-ES needs the extra cma")
    size = dict(voxel=8.0, pixels=24)
    one, other = (
        pipeline_trials(_config(method, loss=loss, **size), [1])
        for loss in ("zncc", "gradient_ncc")
    )
    assert one["start_mtre_mm"].equals(other["start_mtre_mm"])
    assert one["loss"][0] != other["loss"][0]
    assert not eta_of(one, "final").equal(eta_of(other, "final"))
    assert other["mtre_mm"][0] < 0.5 * other["start_mtre_mm"][0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optimizer", "gd"),
        ("rates", [0.01, 1.0]),
        ("levels", [[1, 5]]),
        ("schedule", "cosine"),
        ("derivative", "finite"),
        ("threshold", 1e-3),
        ("trace", 5),
        ("view", [0.0, 90.0, 0.0]),
    ],
)
def test_entries_of_a_descent_are_refused(name, value):
    with pytest.raises(ConfigError, match=rf"makes nothing of {name} of the protocol"):
        pipeline_trials(_config(**{name: value}), [0])


def test_least_squares_refuse_another_loss():
    with pytest.raises(ConfigError, match=r"'levels, LM' makes nothing of loss"):
        pipeline_trials(_config("levels, LM", loss="ncc"), [0])


def test_wrong_configurations_are_named():
    with pytest.raises(ConfigError, match=r"'nothing'; choose of one start"):
        pipeline_trials(_config("nothing"), [0])
    with pytest.raises(ConfigError, match=r"has seed, which .* takes protocol, method"):
        pipeline_trials({**_config(), "seed": 3}, [0])
    with pytest.raises(ConfigError, match=r"lacks views, effects; .* takes protocol, method"):
        pipeline_trials(dict(protocol={}, method="fast"), [0])
    with pytest.raises(ConfigError, match=r"no effect fog; choose of kvp"):
        pipeline_trials(_config(effects=dict(fog=1.0)), [0])
    with pytest.raises(ConfigError, match="views is empty"):
        pipeline_trials({**_config(), "views": []}, [0])


def test_the_generator_is_not_the_global_one():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    pipeline_trials(_config(), [0])
    assert torch.equal(before, torch.random.get_rng_state())
