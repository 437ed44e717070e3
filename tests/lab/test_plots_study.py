"""Figures of studies show the numbers of their tables."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from drrlib.errors import ConfigError
from drrlib.lab.evaluation import success_by_distance, success_table
from drrlib.lab.plots import BLUE, RED
from drrlib.lab.plots import study as figures


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


@pytest.fixture
def trials():
    """Three starts of two rules; the second start of each was lost from the valley."""
    rows = []
    for rule, loss in (("a", 1e-7), ("b", 1e-4)):
        for trial, (end, mtre) in enumerate([(loss, 0.1), (0.2, 40.0), (loss, 0.2)]):
            row = dict(rule=rule, trial=trial, loss=end, zncc=1 - end, mtre_mm=mtre)
            row |= dict(start_mtre_mm=10.0 + 20 * trial, loss_0=0.5, loss_10=2 * end)
            rows.append({**row, "loss_20": np.nan if end < 1e-6 else end})
    return pd.DataFrame(rows)


def test_rates_stand_where_the_table_says(axes, trials):
    figures.draw_rates(axes, success_table(trials, ["rule"]), "rule", {"a": 85.0})
    lines = {line.get_label(): line for line in axes.lines if line.get_label()[0] != "_"}
    drawn = {box.get_label(): box[0] for box in axes.containers}
    assert drawn["loss < 1e-6"].get_xdata().tolist() == pytest.approx([200 / 3, 0.0])
    assert drawn["mTRE < 1 mm"].get_xdata().tolist() == pytest.approx([200 / 3, 200 / 3])
    assert lines["paper"].get_xydata().tolist() == [[85.0, 0.0]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first row on top


def test_rates_of_nothing_and_of_all_are_drawn(axes, trials):
    for count in range(1, 40):
        part = pd.concat([trials[trials["mtre_mm"] < 1]] * count)
        figures.draw_rates(axes, success_table(part, ["rule"]), "rule")
    assert axes.containers[-1][0].get_xdata().tolist() == [100.0, 100.0]


def test_a_start_that_ended_keeps_its_loss(axes, trials):
    steps, losses = figures.traces(trials)
    assert steps.tolist() == [0, 10, 20]
    assert losses[0].tolist() == [0.5, 2e-7, 1e-7] and losses[1].tolist() == [0.5, 0.4, 0.2]
    figures.draw_losses(axes, trials, "rule", {"a": BLUE, "b": RED})
    medians = {line.get_label(): line.get_ydata().tolist() for line in axes.lines}
    assert medians == {"a": [0.5, 2e-7, 1e-7], "b": [0.5, 2e-4, 1e-4]}
    with pytest.raises(ConfigError, match="no losses over steps"):
        figures.traces(trials[["loss", "trial"]])


def test_traces_are_blue_where_they_succeeded(axes, trials):
    part = trials[trials["rule"] == "a"].reset_index(drop=True)
    figures.draw_traces(axes, part, part["mtre_mm"] < 1)
    colors = [line.get_color() for line in axes.lines if len(line.get_xdata())]
    assert sorted(colors) == sorted([RED, BLUE, BLUE])
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert words == ["1 failed", "2 succeeded"]


def test_distance_stands_in_the_middle_of_its_bin(axes, trials):
    table = success_by_distance(trials, [0, 20, 40, 60])
    figures.draw_distance(axes, table, "mTRE < 1 mm", "all", color=BLUE, ls="--")
    assert axes.lines[0].get_xdata().tolist() == [10, 30, 50]
    assert axes.lines[0].get_ydata().tolist() == [100, 0, 100]


def test_success_curves_end_their_capture_range(axes):
    rows = [
        dict(rule=rule, start_mtre_mm=5.0 + 10 * k, mtre_mm=0.5 if i < hits else np.nan)
        for rule, successes in (("a", (20, 19, 10)), ("b", (10, 20, 20)))
        for k, hits in enumerate(successes)
        for i in range(20)
    ]
    trials, edges = pd.DataFrame(rows).assign(loss=0.1, zncc=0.9), [0, 10, 20, 30]
    figures.plot_success_curve(axes, trials, edges, "rule", {"a": BLUE, "b": RED})
    curve, end, other, level = axes.lines  # b has no capture range
    assert curve.get_ydata().tolist() == pytest.approx([100, 95, 50])
    assert other.get_ydata().tolist() == pytest.approx([50, 100, 100])
    assert list(end.get_xdata()) == [20, 20] and list(level.get_ydata()) == [95, 95]
    assert end.get_color() == curve.get_color() == BLUE and other.get_color() == RED
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert words == ["a: 20 mm", "b: none"]
    axes.clear()
    figures.plot_success_curve(axes, trials[trials["rule"] == "a"], edges)
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert words == ["20 mm"]


def test_error_distributions_count_the_lost(axes, trials):
    trials.loc[1, "mtre_mm"] = np.nan
    figures.plot_error_distribution(axes, trials, "rule", {"a": BLUE, "b": RED})
    a, b, success = axes.lines
    assert a.get_xdata().tolist()[:2] == [0.1, 0.2] and np.isnan(a.get_xdata()[2])
    assert b.get_xdata().tolist() == [0.1, 0.2, 40.0]
    assert b.get_ydata().tolist() == pytest.approx([100 / 3, 200 / 3, 100])
    assert list(success.get_xdata()) == [1.0, 1.0] and axes.get_xscale() == "log"


def test_the_frame_is_around_the_best_pair(axes):
    rows = [
        dict(lr_rotation=r, lr_translation=t, score=-3.0 - (r == 0.05) * (t == 50.0))
        for r in (0.01, 0.05)
        for t in (5.0, 50.0, 500.0)
    ]
    figures.draw_rate_search(axes, pd.DataFrame(rows))
    assert axes.patches[0].get_xy() == (0.5, 0.5)  # column 1, row 1
    assert [text.get_text() for text in axes.texts] == ["-3.0"] * 4 + ["-4.0", "-3.0"]


def test_a_map_of_rates_holds_every_number_in_its_field(axes):
    rows = [("x", "a", 0.0), ("x", "b", 37.5), ("y", "a", 100.0), ("y", "b", 12.0)]
    table = pd.DataFrame(rows, columns=["similarity", "condition", "rate_percent"])
    figures.draw_rate_map(axes, table, "similarity", "condition")
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "0", (1, 0): "38", (0, 1): "100", (1, 1): "12"}
    assert axes.images[0].get_array().tolist() == [[0.0, 37.5], [100.0, 12.0]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["x", "y"]


def test_success_and_quartiles_stand_at_their_values(axes, trials):
    table = trials.assign(error=np.where(trials["rule"] == "a", 2.0, 6.0))
    figures.draw_success(axes, success_table(table, ["error"]), "error", "mTRE < 1 mm", "all")
    line, _, (bar,) = axes.containers[0]
    assert line.get_xydata().tolist() == [
        [2.0, pytest.approx(200 / 3)],
        [6.0, pytest.approx(200 / 3)],
    ]
    # Wilson, 2 of 3: 20.77 to 93.85 %, by hand from the closed form.
    assert bar.get_segments()[0][:, 1].tolist() == pytest.approx([20.77, 93.85], abs=0.01)
    figures.draw_quartiles(axes, table, "error", "start_mtre_mm", "all")  # 10, 30, 50 mm
    line, _, (bar,) = axes.containers[1]
    assert line.get_xydata().tolist() == [[2.0, 30.0], [6.0, 30.0]]
    assert bar.get_segments()[1][:, 1].tolist() == [20.0, 40.0]


def test_picks_lie_on_their_pixels(axes):
    """A pixel (row 3, column 7) has its centre at (7.5, 3.5)."""
    image = np.zeros((10, 20))
    image[3, 7] = 1.0
    true = np.array([[7.5, 3.5], [19.0, 0.5]])
    figures.draw_picks(axes, image, true, true + 1, ["a", "b"])
    left, right, bottom, top = axes.images[0].get_extent()
    assert (left, right, bottom, top) == (0, 20, 10, 0)
    shown = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert shown["landmark"] == true.tolist() and shown["picked"] == (true + 1).tolist()
    assert [text.get_text() for text in axes.texts] == ["a", "b"]
    assert [text.get_ha() for text in axes.texts] == ["left", "right"]
    figures.draw_picks(axes, image, true, true)
    assert len(axes.texts) == 2  # no names, no texts


def test_bars_of_shards_stand_where_the_log_says(axes):
    table = pd.DataFrame(
        dict(worker=["w2", "w1", "w2"], began=[0.0, 0.5, 2.0], ended=[1.5, 3.0, 2.5])
    )
    figures.draw_shards(axes, table)
    bars = [(b.get_x(), b.get_width(), round(b.get_y() + b.get_height() / 2)) for b in axes.patches]
    assert bars == [(0.0, 1.5, 0), (0.5, 2.5, 1), (2.0, 0.5, 0)]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["w2", "w1"]


def test_stated_against_true_has_a_point_for_each_trial(axes):
    trials = pd.DataFrame({
        "look": ["a", "a", "a", "b"], "mtre_mm": [0.1, 0.3, 5.0, 0.5],
        "target_sd_mm": [0.2, 0.2, 2.0, 0.1], "converged": [True, True, False, True],
    })  # fmt: skip
    figures.draw_stated(axes, trials, "look")
    marks = [x for x in axes.lines if x.get_marker() in "ox" and len(x.get_xdata())]
    drawn = sorted((x.get_marker(), *xy) for x in marks for xy in x.get_xydata().tolist())
    assert drawn == [("o", 0.1, 0.5), ("o", 0.2, 0.1), ("o", 0.2, 0.3), ("x", 2.0, 5.0)]
    axes.clear()
    figures.draw_ratios(axes, trials, "look")
    steps = axes.lines[0]
    assert steps.get_xdata().tolist() == pytest.approx([0.5, 1.5])
    assert steps.get_ydata().tolist() == [0.5, 1.0]
