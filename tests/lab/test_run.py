"""Run records, saved results and the comparison with the paper."""

import json
import subprocess
import sys
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from drrlib.errors import ConfigError
from drrlib.lab import paper
from drrlib.lab.run import start_run

VALUES = """# comment
item,quantity,unit,value,low,high,rule,where
T,rate,%,80,75,85,within,p. 1
T,speed,-,2,1.5,,at_least,p. 1
T,starts,-,300,,,setting,p. 1
T,a,ms,10,9,11,order,p. 1
T,b,ms,20,18,22,order,p. 1
T,c,ms,21,19,23,order,p. 1
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A small checkout, with the working folder in its notebooks/."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "drrlib"\n')
    for name in ("data", "notebooks"):
        (tmp_path / name).mkdir()
    (tmp_path / "data/paper_values.csv").write_text(VALUES)
    monkeypatch.chdir(tmp_path / "notebooks")
    return tmp_path


def start(profile="quick", seed=3):
    return start_run("01_small", profile, seed, "auto", {"size": 8})


def test_the_same_seed_gives_the_same_numbers(root):
    draws = []
    for _ in range(2):
        run = start()
        trial = torch.rand(2, generator=run.generator(5))
        draws.append((torch.rand(3), np.random.rand(3), trial))  # noqa: NPY002
    for first, second in zip(*draws, strict=True):
        assert np.array_equal(first, second)
    run = start()
    other = torch.rand(2, generator=run.generator(6))
    assert not torch.equal(other, draws[0][2])


def test_unknown_profile_and_missing_checkout(root, monkeypatch, tmp_path_factory):
    with pytest.raises(ConfigError, match="'quik'"):
        start("quik")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    monkeypatch.setattr(paper, "__file__", str(root.parent / "site-packages" / "paper.py"))
    with pytest.raises(ConfigError, match="inside a checkout"):
        start()


def test_tables_and_figures_are_written_beside_the_record(root):
    run = start()
    table = pd.DataFrame({"x": [1, 2], "y": [0.1, 1 / 3]})
    pd.testing.assert_frame_equal(run.save_table(table, "summary"), table)
    contents = []
    for _ in range(2):
        figure, axis = plt.subplots()
        axis.plot(table.x, table.y)
        with plt.rc_context({"svg.hashsalt": "drrlib"}):
            run.save_figure(figure, "fig")
        plt.close(figure)
        contents.append((run.folder / "01_small.fig.svg").read_bytes())
    assert contents[0] == contents[1]
    run.note(backend_used="cpu")
    run.compare("T", {"rate": (80.0, 77.0, 83.0)})
    run.finish()
    files = sorted(path.name for path in (root / "results/quick").iterdir())
    kinds = ["fig.png", "fig.svg", "run.json", "summary.csv"]
    assert files == [f"01_small.{kind}" for kind in kinds]
    record = json.loads((root / "results/quick/01_small.run.json").read_text())
    expected = {"profile": "quick", "seed": 3, "backend": "auto", "size": 8}
    assert record["parameters"] == expected
    assert record["backend_used"] == "cpu" and record["wall_seconds"] >= 0
    assert record["commit"] == "unknown" and record["dirty"] == "unknown"
    assert set(record["versions"]) == {"python", "drrlib", "torch", "numpy", "numba"}
    assert record["threads"] >= 1 and record["device"]
    assert record["comparisons"][0]["verdict"] == "not judged"


def test_commit_and_local_changes_are_recorded(root):
    def git(*arguments):
        who = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)

    def record():
        run = start()
        run.finish()
        return json.loads((run.folder / "01_small.run.json").read_text())

    git("init", "-q")
    (root / "results/full").mkdir(parents=True)
    (root / "results/full/old.csv").write_text("1")
    git("add", "data", "results")
    git("commit", "-q", "-m", "first")
    clean = record()
    assert len(clean["commit"]) == 40 and clean["dirty"] is False
    (root / "results/full/old.csv").write_text("2")  # as another notebook of the same run does
    assert record()["dirty"] is False
    (root / "data/paper_values.csv").write_text(VALUES + "\n")
    assert record()["dirty"] is True


def test_a_parameter_that_the_notebook_lacks_is_refused(root, monkeypatch):
    cells = ["", "import sys", 'profile, seed = "quick", 0', "broken (", "# Parameters\nseed = 1"]
    shell = SimpleNamespace(user_ns={"In": cells})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    start()
    for name in ("sed", "sys", "broken"):
        shell.user_ns["In"] = [*cells[:-1], f"# Parameters\nseed = 1\n{name} = 2\n"]
        with pytest.raises(ConfigError, match=f"no parameter {name}"):
            start()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    start()


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ({"rate": 84.0}, "yes"),
        ({"rate": 86.0}, "no"),
        ({"rate": (86.0, 84.0, 88.0)}, "yes"),
        ({"rate": (90.0, 86.0, 93.0)}, "no"),
        ({"rate": float("nan")}, "no"),
        ({"speed": 1.5}, "yes"),
        ({"speed": 1.4}, "no"),
        ({"starts": 1}, "not judged"),
        ({"a": 5.0, "b": 6.0}, "yes"),
        ({"a": 6.0, "b": 5.0}, "no"),
        ({"b": 9.0, "c": 5.0}, "not judged"),  # the paper's own spreads overlap
        ({"a": 6.0}, "not judged"),
    ],
)
def test_verdicts(root, ours, verdict):
    assert set(paper.compare_with_paper("T", ours)["verdict"]) == {verdict}
    assert set(paper.compare_with_paper("T", ours, judge=False)["verdict"]) == {"not judged"}


def test_full_runs_are_judged_and_exact_claims_always(root):
    assert start("full").compare("T", {"rate": 84.0})["verdict"].item() == "yes"
    assert start("quick").compare("T", {"rate": 84.0}, exact=True)["verdict"].item() == "yes"


def test_unknown_items_and_rules_are_named(root):
    with pytest.raises(ConfigError, match=r"'rates'.*'rate'"):
        paper.paper_value("T", "rates")
    (root / "data/paper_values.csv").write_text(VALUES.replace("at_least", "about"))
    with pytest.raises(ConfigError, match="about"):
        paper.paper_values()


def test_the_committed_file_is_sound():
    root = paper.repository()
    table = paper.paper_values(root)
    assert not table.duplicated(["item", "quantity"]).any()
    assert table[["item", "quantity", "unit", "rule", "where"]].notna().all(axis=None)
    # A number is missing where the paper only states something, and nowhere else.
    assert (table["value"].isna() == (table["rule"] == "text")).all()
    assert "Arun" in paper.paper_text("Text", "landmark start", root)
    judged = table[~table["rule"].isin(["setting", "text"])]
    assert (judged["low"] <= judged["value"]).all()
    assert (judged["value"] <= judged["high"].fillna(np.inf)).all()
    assert paper.paper_value("Fig. 8", "Adam success rate", root) == 82.7
    # 745 of 1000, Wilson 95 %, computed by hand from the closed form.
    row = table[(table["item"] == "Text") & (table["quantity"] == "success rate")].iloc[0]
    assert (row["low"], row["high"]) == (71.71, 77.1)
