"""Bars show where somebody watches, and nowhere else."""

import sys

import pandas as pd

from drrlib.lab.studies import run_study
from drrlib.progress import progress_bar


def test_a_bar_needs_somebody_who_watches(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert progress_bar(3, "step").disable
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    shown = progress_bar(3, "step")
    assert not shown.disable and progress_bar(3, "step", wanted=False).disable
    shown.close()
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert progress_bar(3, "step").disable


def test_a_study_is_silent_where_its_work_would_show_bars(monkeypatch, tmp_path, capsys):
    """As of `descend`, in a study that shows none, or on workers of a terminal."""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    silent = []

    def work(config, indices):
        bar = progress_bar(3, "step")
        silent.append(bar.disable)
        bar.close()
        return pd.DataFrame({"trial": list(indices)})

    run_study(work, {}, 2, tmp_path, progress=False)
    assert silent == [True] and "step" not in capsys.readouterr().err
    bar = progress_bar(3, "step")
    assert not bar.disable
    bar.close()
