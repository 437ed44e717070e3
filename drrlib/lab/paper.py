"""The paper's numbers (data/paper_values.csv) and their comparison with ours."""

import re
from pathlib import Path

import pandas as pd

from drrlib.errors import ConfigError

RULES = ("within", "at_least", "order", "setting", "text")


def repository() -> Path:
    """The folder of drrlib's pyproject.toml, found by walking up from here, then from this file."""
    here = Path.cwd()
    for folder in [here, *here.parents, *Path(__file__).resolve().parents]:
        project = folder / "pyproject.toml"
        if project.is_file() and re.search(r'^name = "drrlib"', project.read_text("utf-8"), re.M):
            return folder
    raise ConfigError(
        f"no pyproject.toml of drrlib in {here} or above it; run the notebooks inside a checkout"
    )


def data_folder() -> Path:
    """Where paper_values.csv and sources.csv lie: in an installed package, or in the checkout."""
    installed = Path(__file__).parent / "data"
    return installed if installed.is_dir() else repository() / "data"


def paper_values(root: Path | None = None) -> pd.DataFrame:
    """data/paper_values.csv: the only place where the paper's numbers stand."""
    path = (root / "data" if root else data_folder()) / "paper_values.csv"
    table = pd.read_csv(path, comment="#")
    unknown = sorted(set(table["rule"]) - set(RULES))
    if unknown:
        raise ConfigError(f"{path.name} has unknown rules {unknown}; choose from {RULES}")
    return table


def paper_value(item: str, quantity: str, root: Path | None = None) -> float:
    """One number of the paper, in the unit that the file states."""
    return float(_row(paper_values(root), item, quantity)["value"])


def paper_text(item: str, quantity: str, root: Path | None = None) -> str:
    """A statement of the paper without a number, in our words (rule `text`)."""
    return str(_row(paper_values(root), item, quantity)["where"])


def paper_times(root: Path | None = None) -> pd.DataFrame:
    """Table 1 with a row per cell.

    Returns:
        Columns item, quantity (as in the file), group (such as "patch 150"), size (pixels across
        the detector), patch (pixels across; 0: none), mean_ms, sd_ms.
    """
    table = paper_values(root)
    table = table[table["item"].str.startswith("Table 1, ")].reset_index(drop=True)
    group = table["item"].str.removeprefix("Table 1, ")
    last = table["quantity"].str.extract(r"(\d+)$")[0].astype(int)
    by_patch = table["quantity"].str.startswith("patch ")
    across = group.str.extract(r"^(\d+) x \d+$")[0].fillna("0").astype(int)
    patch_of = group.str.extract(r"^patch (\d+)$")[0].fillna("0").astype(int)
    return pd.DataFrame(
        {
            "item": table["item"],
            "quantity": table["quantity"],
            "group": group,
            "size": last.where(~by_patch, across),
            "patch": last.where(by_patch, patch_of),
            "mean_ms": table["value"].astype(float),
            "sd_ms": (table["high"] - table["low"]) / 2,
        }
    )


def compare_with_paper(
    item: str, ours: dict, *, judge: bool = True, root: Path | None = None
) -> pd.DataFrame:
    """The paper's numbers beside ours, with a verdict for each.

    Args:
        item: As in the file, such as "Table 2".
        ours: quantity -> value, or (value, low, high) with our own interval.
        judge: False gives "not judged" throughout (a quick run proves nothing about a rate).

    Returns:
        Columns item, quantity, unit, paper, ours, interval, verdict ("yes", "no", "not judged").
        Rule `within`: our value lies in [low, high], or our interval meets it. `at_least`: our
        value reaches low. `order`: every pair of given quantities whose paper intervals
        [low, high] are disjoint is in the paper's order. `setting`, `text`: never judged.

    Raises:
        ConfigError: the file has no such item or quantity.
    """
    paper = paper_values(root)
    mine = {name: value if isinstance(value, tuple) else (value,) for name, value in ours.items()}
    rows = {name: _row(paper, item, name) for name in mine}
    table = []
    for name, (value, *bounds) in mine.items():
        row = rows[name]
        verdict = "not judged"
        if judge and row["rule"] == "within":
            low, high = bounds or (value, value)
            verdict = "yes" if low <= row["high"] and high >= row["low"] else "no"
        elif judge and row["rule"] == "at_least":
            verdict = "yes" if value >= row["low"] else "no"
        elif judge and row["rule"] == "order":
            pairs = [_same_order(row, value, rows[n], mine[n][0]) for n in mine if n != name]
            known = [p for p in pairs if p is not None]
            verdict = ("yes" if all(known) else "no") if known else "not judged"
        interval = "[{:.4g}, {:.4g}]".format(*bounds) if bounds else ""
        known_values = dict(item=item, quantity=name, unit=row["unit"], paper=row["value"])
        table.append({**known_values, "ours": value, "interval": interval, "verdict": verdict})
    return pd.DataFrame(table)


def _row(paper: pd.DataFrame, item: str, quantity: str) -> pd.Series:
    found = paper[(paper["item"] == item) & (paper["quantity"] == quantity)]
    if len(found) != 1:
        there = sorted(set(paper.loc[paper["item"] == item, "quantity"])) or sorted(
            set(paper["item"])
        )
        raise ConfigError(
            f"paper_values.csv has {len(found)} rows for {item!r}, {quantity!r}; it has {there}"
        )
    return found.iloc[0]


def _same_order(a: pd.Series, ours_a: float, b: pd.Series, ours_b: float) -> bool | None:
    """Whether ours are ordered as the paper's; None where the paper itself does not tell."""
    if b["rule"] != "order" or (a["low"] <= b["high"] and b["low"] <= a["high"]):
        return None
    return bool((a["value"] < b["value"]) == (ours_a < ours_b))
