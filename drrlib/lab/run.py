"""A notebook's run: seeds, a record of what ran where, saved results."""

import ast
import json
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from drrlib.atomic import write_whole
from drrlib.errors import ConfigError
from drrlib.lab.paper import compare_with_paper, repository
from drrlib.lab.studies import trial_generator
from drrlib.versions import installed_version

PROFILES = ("quick", "full")


def start_run(name: str, profile: str, seed: int, backend: str, cfg: dict) -> "Run":
    """Seed torch and NumPy and begin the record of the notebook `name` (such as "01_siddon_drr").

    Raises:
        ConfigError: an unknown profile, a parameter from papermill that the notebook does not
            have, or no checkout around.
    """
    _refuse_unknown_parameters()
    if profile not in PROFILES:
        raise ConfigError(f"profile is {profile!r}; choose one of {', '.join(PROFILES)}")
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  SciPy's optimizers draw from the global state
    parameters = {"profile": profile, "seed": seed, "backend": backend, **cfg}
    return Run(name, profile, seed, parameters, repository())


@dataclass(repr=False)
class Run:
    """One execution of one notebook; made by `start_run`, closed by `finish`."""

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

    def study_folder(self, name: str, resume: bool = False) -> Path:
        """Where the shards of a study lie, results/<profile>/studies; emptied unless `resume`."""
        folder = self.folder / "studies" / f"{self.name}.{name}"
        if not resume and folder.exists():
            shutil.rmtree(folder)
        return folder

    def generator(self, index: int) -> torch.Generator:
        """Random numbers of trial `index`, the same in any order, batch or resumed run."""
        return trial_generator(self.seed, index)

    def note(self, **facts) -> None:
        """Add facts to the record, such as the backend that "auto" chose."""
        self.notes.update(facts)

    def save_table(self, table: pd.DataFrame, name: str) -> pd.DataFrame:
        """Write <notebook>.<name>.csv and return it as read back: plots draw what is saved."""
        path = self.folder / f"{self.name}.{name}.csv"
        _write(path, table.to_csv(index=False))
        return pd.read_csv(path)

    def save_records(self, table: pd.DataFrame, name: str) -> pd.DataFrame:
        """Write <notebook>.<name>.parquet, for records of many trials, and return it as read back.

        Floating-point columns are kept in single precision.
        """
        floats = table.select_dtypes("float64").columns
        path = self.folder / f"{self.name}.{name}.parquet"
        small = table.astype({column: "float32" for column in floats})
        write_whole(path, lambda name: small.to_parquet(name, index=False, compression="zstd"))
        return pd.read_parquet(path)

    def save_figure(self, figure, name: str) -> None:
        """Write <notebook>.<name>.png and .svg; a plotly figure becomes a .html page."""
        path = self.folder / f"{self.name}.{name}"
        if hasattr(figure, "write_html"):
            # Without a name of its own the drawing gets a random one in every run.
            figure.write_html(f"{path}.html", include_plotlyjs="cdn", div_id=path.name)
            return
        # A file made twice from the same table shall be the same file.
        figure.savefig(f"{path}.png", metadata={"Software": None})
        figure.savefig(f"{path}.svg", metadata={"Date": None})

    def compare(self, item: str, ours: dict, *, exact: bool = False) -> pd.DataFrame:
        """`compare_with_paper`, judged in the full profile only (`exact=True`: in both).

        The record also keeps what the verdict came from: our bounds unrounded, which rows were
        judged together (`call`; the order of times is a matter of all of them), and `exact`.
        """
        judge = exact or self.profile == "full"
        table = compare_with_paper(item, ours, judge=judge, root=self.root)
        call = len({row["call"] for row in self.comparisons})
        for row in table.to_dict("records"):
            mine = ours[row["quantity"]]
            bounds = [float(x) for x in mine[1:]] if isinstance(mine, tuple) else []
            self.comparisons.append({**row, "bounds": bounds, "call": call, "exact": exact})
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


def _refuse_unknown_parameters() -> None:
    """Stop a notebook whose parameters papermill was given under a name that it does not have.

    papermill only warns, then sets the name in a cell of its own, headed "# Parameters", after
    the cell of defaults. So each name set in such a cell must have been set in a cell before it.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    known = set()
    for source in shell.user_ns.get("In", []) if shell else []:
        names = _names_set(source)
        if source.startswith("# Parameters\n") and names - known:
            raise ConfigError(
                f"this notebook has no parameter {', '.join(sorted(names - known))}; "
                "choose from those in its cell of parameters"
            )
        known |= names


def _names_set(source: str) -> set[str]:
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:  # a cell that failed, in a session by hand; it has set nothing
        return set()
    return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def device_name() -> str:
    """The GPU where there is one, else the processor."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else _processor()


def _machine(root: Path) -> dict:
    """Commit, versions and device; what cannot be found out is "unknown"."""
    packages = {name: installed_version(name) for name in ("drrlib", "torch", "numpy", "numba")}
    # Results are what runs write: those of an earlier notebook do not make the code another.
    code = (".", ":(exclude)results")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no", "--", *code)
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
    write_whole(path, lambda name: name.write_text(text, encoding="utf-8"))
