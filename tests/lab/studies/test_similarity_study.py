"""The study of similarities: what each effect does, trials by index, the table of rates."""

import pandas as pd
import pytest
import torch

from drrlib.errors import ConfigError
from drrlib.lab.detector import acquire, two_materials
from drrlib.lab.studies import (
    CONDITIONS,
    Protocol,
    best_by_condition,
    similarity_trials,
    success_by_condition,
)

SMALL = Protocol(
    voxel=8.0,
    pixels=16,
    levels=((1, 6),),
    view_range=20.0,
    start_rotation=5.0,
    start_translation=8.0,
    method="joseph",
    backend="cpu",
    device="cpu",
)


@pytest.fixture(scope="module")
def scene():
    drr = SMALL.renderer()
    return drr, two_materials(drr), drr.pose(torch.zeros(1, 6).double())


def _dice():
    return torch.Generator().manual_seed(1)


def test_each_effect_does_what_it_says(scene):
    drr, parts, pose = scene
    plain = drr(pose)
    made = {k: acquire(parts, pose, _dice(), **v) for k, v in CONDITIONS.items()}
    assert torch.allclose(made["same image"], plain, atol=1e-5)
    assert torch.allclose(made["scale, offset"], 0.5 * plain + 1, atol=1e-5)
    assert torch.allclose(made["grey map"] * 0.15, 1 - torch.exp(-0.15 * plain), atol=1e-5)
    assert (made["scatter"] <= plain + 1e-5).all()  # more photons everywhere
    assert made["noise"].std() != plain.std() and made["noise"].isfinite().all()
    # Beam hardening: thick parts attenuate less, beside thin ones, than at one energy.
    ratio = made["spectrum"][plain > 0.1] / plain[plain > 0.1]
    thick = plain[plain > 0.1] > 0.7 * plain.max()
    assert ratio[thick].mean() < ratio[~thick].mean()
    metal = made["instrument"] - plain
    covered = (metal > 1.0).float().mean()
    # 12 mm across, at least from the middle to the border of 400 mm, where 4 mm of steel are > 3.
    assert 0.005 < covered < 0.08 and made["instrument"].max() < 12 * 0.6932
    assert made["all"].isfinite().all() and made["all"].min() >= 0.5 * -1 + 1


def test_trials_depend_on_their_start_alone(scene):
    config = dict(protocol=SMALL.config(), conditions={k: dict(v) for k, v in CONDITIONS.items()})
    whole = similarity_trials(config, range(16))
    assert list(whole["trial"]) == list(range(16))
    assert list(whole["condition"]) == 2 * list(CONDITIONS)
    assert whole["start_mtre_mm"].nunique() == 2  # a start serves all conditions
    part = similarity_trials(config, [11, 3])
    expected = whole.iloc[[11, 3]].reset_index(drop=True)
    pd.testing.assert_frame_equal(part, expected, rtol=1e-4)
    moved = whole[whole["condition"] == "same image"]
    assert (moved["mtre_mm"] < moved["start_mtre_mm"]).all()


def test_the_descent_is_the_protocol_s(scene):
    """Rates, derivative and optimizer are those of the protocol, and change the table."""
    conditions = {"same image": {}}
    tables = []
    for change in ({}, dict(rates=[0.002, 0.2]), dict(derivative="finite"), dict(optimizer="gdm")):
        protocol = SMALL.with_(**change).config()
        tables.append(similarity_trials(dict(protocol=protocol, conditions=conditions), [0, 1]))
    for table in tables:
        assert table["start_mtre_mm"].equals(tables[0]["start_mtre_mm"])
    assert len({float(table["loss"].sum()) for table in tables}) == len(tables)
    assert (tables[1]["mtre_mm"] > tables[0]["mtre_mm"]).all()  # a tenth of the rates


def test_what_cma_es_draws_does_not_depend_on_the_batch():
    pytest.importorskip("cma", reason="CMA-ES needs the extra cma")
    protocol = SMALL.with_(optimizer="cma-es", levels=((1, 40),)).config()
    config = dict(protocol=protocol, conditions={"a": {}, "b": {}})
    whole, part = similarity_trials(config, range(4)), similarity_trials(config, [3])
    pd.testing.assert_frame_equal(part, whole.iloc[[3]].reset_index(drop=True), rtol=1e-4)
    # The same start under the same condition by another name.
    assert whole["loss"][0] == whole["loss"][1] and whole["loss"][2] == whole["loss"][3]


def test_the_table_counts():
    rows = [("zncc", "a", 0.5), ("zncc", "a", 2.0), ("zncc", "a", 0.1), ("zncc", "b", 9.0)]
    trials = pd.DataFrame(rows, columns=["similarity", "condition", "mtre_mm"])
    table = success_by_condition(trials)
    assert list(table["condition"]) == ["a", "b"]
    assert list(table["successes"]) == [2, 0] and list(table["trials"]) == [3, 1]
    assert table["rate_percent"].tolist() == pytest.approx([200 / 3, 0])
    # Wilson 1927 by hand for 2 of 3 with z = 1.96: 20.8 to 93.9 %.
    assert table.loc[0, ["low_percent", "high_percent"]].tolist() == pytest.approx(
        [20.77, 93.85], abs=0.05
    )
    assert table["median_mtre_mm"].tolist() == [0.5, 9.0]
    assert list(success_by_condition(trials, 3.0)["successes"]) == [3, 0]


def test_the_best_and_those_beside_it():
    rows = [("x", "a", 50.0, 20.0, 80.0), ("y", "a", 90.0, 60.0, 98.0), ("z", "a", 5.0, 1.0, 30.0)]
    rows += [("x", "b", 40.0, 30.0, 50.0), ("y", "b", 0.0, 0.0, 10.0), ("x", "c", 0.0, 0.0, 10.0)]
    names = ["similarity", "condition", "rate_percent", "low_percent", "high_percent"]
    best = best_by_condition(pd.DataFrame(rows, columns=names))
    assert best.to_dict("list") == {
        "condition": ["a", "b", "c"],
        "best": ["y", "x", "none"],
        "rate_percent": [90.0, 40.0, 0.0],
        "not_told_apart": ["x", "", ""],
    }


def test_wrong_configurations_are_named():
    bad = dict(protocol=SMALL.config(), conditions={"fog": dict(fog=1.0)})
    with pytest.raises(ConfigError, match="fog"):
        similarity_trials(bad, [0])
    noisy = dict(protocol=SMALL.with_(noise=0.1).config(), conditions={"same": {}})
    with pytest.raises(ConfigError, match="makes nothing of noise"):
        similarity_trials(noisy, [0])
    traced = dict(protocol=SMALL.with_(trace=2).config(), conditions={"same": {}})
    with pytest.raises(ConfigError, match="makes nothing of trace"):
        similarity_trials(traced, [0])
    with pytest.raises(ConfigError, match=r"has loss, which .* takes protocol, conditions"):
        similarity_trials({**bad, "loss": "ncc"}, [0])
    with pytest.raises(ConfigError, match="lacks conditions"):
        similarity_trials(dict(protocol=SMALL.config()), [0])
    with pytest.raises(ConfigError, match="conditions is empty"):
        similarity_trials(dict(protocol=SMALL.config(), conditions={}), [0])
