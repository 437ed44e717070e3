"""A notebook's run: seeds, a record of what ran where, saved results."""

import json
import os
import platform
import re
import subprocess
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from drrlib.errors import ConfigError
from drrlib.paper import compare_with_paper, repository

PROFILES = ("quick", "full")


def start(name: str, profile: str, seed: int, backend: str, cfg: dict) -> "Run":
    """Seed torch and NumPy and begin the record of the notebook `name` (such as "01_siddon_drr").

    Raises:
        ConfigError: an unknown profile, or no checkout around.
    """
    if profile not in PROFILES:
        raise ConfigError(f"profile is {profile!r}; choose one of {', '.join(PROFILES)}")
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  SciPy's optimizers draw from the global state
    parameters = {"profile": profile, "seed": seed, "backend": backend, **cfg}
    return Run(name, profile, seed, parameters, repository())


@dataclass(repr=False)
class Run:
    """One execution of one notebook; made by `start`, closed by `finish`."""

    name: str
    profile: str
    seed: int
    parameters: dict
    root: Path
    notes: dict = field(default_factory=dict)
    comparisons: list[dict] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    @property
    def folder(self) -> Path:
        """results/<profile>, made when first asked for."""
        folder = self.root / "results" / self.profile
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def generator(self, index: int) -> torch.Generator:
        """Random numbers of trial `index`, the same in any order, batch or resumed run."""
        state = np.random.SeedSequence([self.seed, index]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0]) >> 1)

    def note(self, **facts) -> None:
        """Add facts to the record, such as the backend that "auto" chose."""
        self.notes.update(facts)

    def save_table(self, table: pd.DataFrame, name: str) -> pd.DataFrame:
        """Write <notebook>.<name>.csv and return it as read back: plots draw what is saved."""
        path = self.folder / f"{self.name}.{name}.csv"
        _write(path, table.to_csv(index=False))
        return pd.read_csv(path)

    def save_figure(self, figure, name: str) -> None:
        """Write <notebook>.<name>.png and .svg; a plotly figure becomes a .html page."""
        path = self.folder / f"{self.name}.{name}"
        if hasattr(figure, "write_html"):
            figure.write_html(f"{path}.html", include_plotlyjs="cdn")
            return
        # A file made twice from the same table shall be the same file.
        figure.savefig(f"{path}.png", metadata={"Software": None})
        figure.savefig(f"{path}.svg", metadata={"Date": None})

    def compare(self, item: str, ours: dict, *, exact: bool = False) -> pd.DataFrame:
        """`compare_with_paper`, judged in the full profile only (`exact=True`: in both)."""
        judge = exact or self.profile == "full"
        table = compare_with_paper(item, ours, judge=judge, root=self.root)
        self.comparisons += table.to_dict("records")
        return table

    def finish(self) -> None:
        """Write <notebook>.run.json: code, versions, machine, parameters, time, comparisons."""
        record = {
            "notebook": self.name,
            "parameters": self.parameters,
            **_machine(self.root),
            "wall_seconds": round(time.perf_counter() - self.began, 2),
            **self.notes,
            "comparisons": self.comparisons,
        }
        text = json.dumps(record, indent=1, default=str) + "\n"
        _write(self.folder / f"{self.name}.run.json", text)


def device_name() -> str:
    """The GPU where there is one, else the processor."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else _processor()


def _machine(root: Path) -> dict:
    """Commit, versions and device; what cannot be found out is "unknown"."""
    packages = {}
    for name in ("drrlib", "torch", "numpy", "numba"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "unknown"
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {
        "commit": _git(root, "rev-parse", "HEAD") or "unknown",
        "dirty": "unknown" if changes is None else bool(changes),
        "versions": {"python": platform.python_version(), **packages},
        "device": device_name(),
        "threads": torch.get_num_threads(),
    }


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    except OSError:
        return None  # no git on this machine
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.is_file() else []
    return names[0] if names else platform.processor() or platform.machine()


def _write(path: Path, text: str) -> None:
    """All or nothing: a run that is killed leaves no half file."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
