"""Bars show where somebody watches, and nowhere else."""

import sys

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
