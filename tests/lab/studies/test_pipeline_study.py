"""Studies of pipelines: the same trials for every method, and what their records hold."""

import numpy as np
import pandas as pd
import pytest
import torch

from drrlib.errors import ConfigError
from drrlib.geometry.metrics import mtre, targets
from drrlib.lab.evaluation import converged_table, error_table
from drrlib.lab.studies.pipeline import METHODS, pipeline_trials
from drrlib.lab.studies.registration import Protocol, eta_of

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
    points = targets(drr.volume)
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


def test_an_unknown_method_is_named():
    with pytest.raises(ConfigError, match=r"'nothing'; choose of one start"):
        pipeline_trials(_config("nothing"), [0])


def test_the_generator_is_not_the_global_one():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    pipeline_trials(_config(), [0])
    assert torch.equal(before, torch.random.get_rng_state())
