"""The pages a newcomer reads: their Python runs as it stands, and they name what there is."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def python_of(page: Path) -> str:
    """The page's Python blocks as one program; every line has the number it has on the page."""
    lines, inside = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        begins, ends = line == "```python", inside and line == "```"
        lines.append(line if inside and not ends else "")
        inside = begins or (inside and not ends)
    return "\n".join(lines)


def run(page: Path) -> dict:
    """The names that the page's Python leaves behind."""
    names = {"__name__": page.stem}
    exec(compile(python_of(page), page, "exec"), names)
    return names


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda p: p.name)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(run(page)) > 3


def test_the_session_of_the_readme_finds_the_pose(tmp_path, monkeypatch, capsys):
    """It does what its comments say."""
    monkeypatch.chdir(tmp_path)
    names = run(PAGES[0])
    assert names["found"].converged and names["found"].compare(names["at"]).mtre < 0.1
    assert names["image"].shape == (1, 128, 128) and names["at"].grad.abs().min() > 0
    assert capsys.readouterr().out.startswith("converged: one place fits best")
    assert {path.name for path in tmp_path.iterdir()} == {"ct", "pose.json", "pose.tfm"}


def test_a_line_keeps_its_number(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n```python\na = 1\n```\n```\nno = python\n```\n```python\nb\n```\n")
    assert python_of(page).split("\n") == ["", "", "a = 1", "", "", "", "", "", "b", ""]


def test_readme_names_every_notebook_and_every_room():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    asked = text.split("## Which notebook for which question")[1].split("\n## ")[0]
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert asked.count(f"(notebooks/{notebook.name})") == 1
    tree = re.search(r"```\ndrrlib/\n(.*?)```", text, re.DOTALL)[1]
    for path in (ROOT / "drrlib").glob("*/__init__.py"):
        assert f"\n  {path.parent.name}/ " in tree
