"""Studies of looks: what a trial is, what is cut, what is refused, and stated against true."""

import numpy as np
import pandas as pd
import pytest

from drrlib.errors import ConfigError
from drrlib.lab.studies import Protocol, look_trials, middle_of, stated_against_true

SMALL = dict(rotations=8, kept=2, steps=2, refined=(1,), rounds=((1,),), attempts=1)
BASE = Protocol(voxel=8.0, pixels=40, detector=380.0, sod=700.0, view_range=5.0)


def config(**changes):
    looks = {"plain": {}, "shown": dict(presented=1.0, letters=True, finer=2)}
    entries = dict(protocol=BASE.config(), looks=looks, views=[[0.0] * 3], cut=32.0, preset=SMALL)
    return {**entries, **changes}


def test_a_trial_is_the_same_pose_under_every_look():
    table = look_trials(config(), [2, 3])
    assert table["look"].tolist() == ["plain", "shown"] and table["pose"].tolist() == [1, 1]
    true = table[[name for name in table if name.startswith(("true_", "start_"))]].to_numpy()
    assert np.array_equal(true[0], true[1])
    assert (table["mtre_mm"] > 0).all() and (table["target_sd_mm"] > 0).all()
    alone = look_trials(config(), [3]).drop(columns="seconds")
    pd.testing.assert_frame_equal(
        alone, table.drop(columns="seconds")[1:].reset_index(drop=True), check_exact=True
    )
    # The preset is honoured, and a name will do.
    other = look_trials(config(preset=dict(SMALL, seed=3)), [3])
    assert other["mtre_mm"][0] != alone["mtre_mm"][0]
    assert other["attempts"][0] == 1


def test_what_a_study_of_looks_makes_nothing_of_is_refused():
    for changes, words in (
        (dict(looks={}), "looks or views is empty"),
        (dict(looks={"fog": dict(fog=1.0)}), "no effect fog"),
        (dict(looks={"letters": dict(letters=True)}), "for the eye"),
        (dict(cut=-1.0), "cut is -1.0"),
        (dict(cut=500.0), "two slices"),
        (dict(protocol=BASE.with_(loss="l2").config()), "loss"),
        (dict(protocol=BASE.with_(noise=0.1).config()), "noise"),
        (dict(preset="best"), "preset is 'best'"),
    ):
        with pytest.raises(ConfigError, match=words):
            look_trials(config(**changes), [0])


def test_the_middle_of_a_volume_is_where_it_was():
    volume = BASE.renderer().volume
    middle = middle_of(volume, 24.0)
    assert middle.shape == (*volume.shape[:2], volume.shape[2] - 6)
    assert np.array_equal(middle.mu.numpy(), volume.mu.numpy()[:, :, 3:-3])
    first = volume.affine @ volume.affine.new_tensor([0, 0, 3, 1])
    assert np.allclose(middle.affine[:, 3], first)


def test_stated_against_true_by_hand():
    trials = pd.DataFrame({
        "look": ["a"] * 4 + ["b"], "mtre_mm": [0.1, 0.5, 2.5, 9.0, 1.9],
        "in_plane_mm": [0.1, 0.5, 0.2, 5.0, 0.3], "depth_mm": [0.0, 0.1, 2.4, 1.0, 1.8],
        "target_sd_mm": [0.2, 0.3, 1.0, 1.0, 1.0], "depth_sd_mm": [0.1, 0.1, 1.0, 1.0, 1.0],
        "converged": [True, True, True, False, False],
    })  # fmt: skip
    table = stated_against_true(trials, ["look"]).set_index("look")
    a, b = table.loc["a"], table.loc["b"]
    assert (a["trials"], a["found"], a["right"]) == (4, 2, 2)
    assert (a["converged"], a["wrong_and_converged"], a["median_mm"]) == (3, 1, 1.5)
    assert (a["within_1_sd_percent"], a["within_2_sd_percent"]) == (25, 50)
    # Loose in depth, as it says, and tight across the view: right.
    assert (b["found"], b["right"], b["within_2_sd_percent"]) == (0, 1, 100)
    assert list(stated_against_true(trials)["trials"]) == [5]
    assert len(stated_against_true(trials[:0], ["look"])) == 0
