"""The report page, made from small results folders."""

import json
import re
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import report_page
import report_text

EVIL = "<script>alert(1)</script>"
VALUES = """item,quantity,unit,value,low,high,rule,where
Table 2,Adam success rate,%,85.7,81.29,89.21,within,p. 7
Table 2,starts,-,300,,,setting,p. 7
Fig. 8,Adam success rate,%,82.7,80.23,84.92,within,p. 8
"""
HEADER = """# A small study

[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://x.org)

- **Reproduces**: Table 2 with `Adam`
- **Needs**: nothing,
  really nothing
- **Time**: quick 1 s
- **Writes**: `07_small.*`

Does it converge? See [the sources](../data/sources.csv)."""
ROW = {
    "item": "Table 2",
    "quantity": "Adam success rate",
    "unit": "%",
    "paper": 85.7,
    "ours": 96.01234,
    "interval": "[93.2, 97.7]",
    "verdict": "no",
}
RECORD = {
    "notebook": "07_small",
    "parameters": {"profile": "full", "seed": 3},
    "commit": "0123456789abcdef" + 24 * "0",
    "dirty": True,
    "versions": {"torch": "9.9.9"},
    "device": "Some GPU",
    "threads": 2,
    "wall_seconds": 12.5,
    "comparisons": [ROW],
}


class Page(HTMLParser):
    """Tags, what the page would load, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.loads, self.links, self.texts = [], [], [], []
        self.feed(text)
        self.text = re.sub(r"\s+", " ", "".join(self.texts))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.texts.append(" " if tag in ("br", "td", "dt", "dd") else "")
        for name, value in attributes:
            assert not name.startswith("on"), f"{name} runs code"
            if name in ("src", "srcset", "data", "poster"):
                self.loads.append(value)
            if name == "href":
                self.links.append(value)

    def handle_data(self, data):
        self.texts.append(data)


def notebook(*cells):
    return new_notebook(cells=[new_markdown_cell(HEADER), *cells])


@pytest.fixture
def root(tmp_path):
    """One notebook with a full record, two tables and a figure."""
    text = '[project]\nversion = "1.2.3"\n\n[project.urls]\n'
    (tmp_path / "pyproject.toml").write_text(text + 'Repository = "https://github.com/a/b"\n')
    for name in ("data", "notebooks", "results/full"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data/paper_values.csv").write_text(VALUES)
    cells = [
        new_markdown_cell("## How often\n\nThe rate is $a_m$."),
        new_code_cell('run.save_table(df, "rates")'),
        new_markdown_cell("## Comparison with the paper"),
        new_code_cell('run.compare("Table 2", ours)'),
        new_markdown_cell("## Limits\n\nOnly one phantom."),
    ]
    nbformat.write(notebook(*cells), tmp_path / "notebooks/07_small.ipynb")
    folder = tmp_path / "results/full"
    (folder / "07_small.run.json").write_text(json.dumps(RECORD))
    rates = pd.DataFrame({"optimizer": ["GD", "Adam"], "rate_percent": [0.0, 96.01234]})
    rates.to_csv(folder / "07_small.rates.csv", index=False)
    pd.DataFrame({"n": range(100)}).to_csv(folder / "07_small.long.csv", index=False)
    figure, _ = plt.subplots(figsize=(1, 1))
    figure.savefig(folder / "07_small.curve.png", dpi=200)
    plt.close(figure)
    return tmp_path


def render(root, profile="full"):
    return Page(report_page.render(root, profile))


def test_the_page_holds_what_the_results_hold(root):
    page = render(root)
    claim = "Table 2 Adam success rate p. 7 85.7 % [81.29, 89.21] 96.01 % [93.2, 97.7]"
    for word in (
        f"{claim} \N{MULTIPLICATION X} no",
        "A small study",
        "Reproduces Table 2 with Adam",
        "nothing, really nothing",
        "0123456789ab, with local changes",
        "Some GPU, 2 threads",
        "torch 9.9.9",
        "profile = full, seed = 3; 12.5 s",
        "not compared in these results: Fig. 8 (1)",
        "88 more rows there",
    ):
        assert word in page.text
    # The order of the notebook; what no cell names is last.
    places = [page.text.index(w) for w in ("How often", "07_small.rates.csv", "Comparison with")]
    places += [page.text.index("against 85.7"), page.text.index("Only one phantom")]
    places += [page.text.index("07_small.curve.png")]
    assert places == sorted(places)
    assert "math" in page.tags


def test_the_page_loads_nothing(root):
    page = render(root)
    assert len(page.loads) == 1 and page.loads[0].startswith("data:image/png;base64,")
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "@import" not in page.text and "url(" not in page.text
    assert "../../notebooks/../data/sources.csv" in page.links
    local = [x for x in page.links if not x.startswith(("http", "#"))]
    there = [x for x in local if (root / "results/full" / x).resolve().is_file()]
    assert set(local) - set(there) == {"../../notebooks/../data/sources.csv"}


def test_everything_is_escaped(root):
    folder = root / "results/full"
    row = {key: f"{EVIL}{value}" for key, value in ROW.items()}
    record = {**RECORD, "device": EVIL, "comparisons": [row], "parameters": {EVIL: EVIL}}
    record |= {"versions": {EVIL: EVIL}, "commit": EVIL, "wall_seconds": EVIL, "threads": EVIL}
    (folder / "07_small.run.json").write_text(json.dumps(record))
    pd.DataFrame({EVIL: [EVIL], "x": ['" onload="alert(1)']}).to_csv(folder / "07_small.rates.csv")
    (root / "data/paper_values.csv").write_text(VALUES.replace("Fig. 8", EVIL))
    evil = f"{EVIL} [x](javascript:alert(1)) ![x](https://e.org/x.png) $ {EVIL} $ <b onclick=x>"
    cells = [new_markdown_cell(f"## {evil}\n\n$$\n{EVIL}\n$$")]
    nbformat.write(
        new_notebook(cells=[new_markdown_cell(f"# {evil}\n\n- **Needs**: {evil}"), *cells]),
        root / "notebooks/07_small.ipynb",
    )
    (folder / "07_small.<script>.bin").write_text("")
    page = render(root)
    assert "script" not in page.tags and "img" in page.tags
    assert page.text.count(EVIL) >= 20
    assert not [link for link in page.links if "javascript" in link.lower()]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda f: (f / "07_small.run.json").unlink(), "no run record"),
        (lambda f: (f / "07_small.run.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "07_small.run.json").write_text("[]"), "cannot be read"),
        (lambda f: (f / "07_small.run.json").write_text('{"comparisons": [{}]}'), "lacks item"),
        (lambda f: (f / "07_small.run.json").write_text("{}"), "unknown"),
        (lambda f: (f / "07_small.rates.csv").write_text(""), "rates.csv cannot be read"),
        (lambda f: (f / "07_small.curve.png").write_bytes(b"no"), "curve.png is not a PNG"),
        (lambda f: (f.parents[1] / "notebooks/07_small.ipynb").unlink(), "07_small.rates.csv"),
        (lambda f: (f.parents[1] / "data/paper_values.csv").unlink(), "96.01 %"),
        (lambda f: [p.unlink() for p in f.iterdir()], "No run has left a record here"),
    ],
)
def test_missing_pieces_are_told(root, damage, told):
    damage(root / "results/full")
    assert told in render(root).text


ERROR = new_output("error", ename="ZeroDivisionError", evalue=f"by {EVIL}", traceback=[])


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ({"execution_count": 1, "outputs": [ERROR]}, f"failed: ZeroDivisionError: by {EVIL}"),
        ({"execution_count": None}, "stopped before its end"),
    ],
)
def test_a_failed_run_shows_its_error_and_no_old_verdict(root, cell, told):
    copy = root / "results/full/notebooks/07_small.ipynb"
    copy.parent.mkdir()
    nbformat.write(notebook(new_code_cell("1 / 0", **cell)), copy)
    page = render(root)
    assert told in page.text
    assert "96.01 %" not in page.text and "no result" in page.text
    assert "notebooks/07_small.html" in page.links
    assert (copy.parent / "07_small.html").stat().st_size > 10_000


def test_an_interactive_figure_is_linked_from_the_executed_notebook(root):
    folder = root / "results/full"
    (folder / "07_small.turn.html").write_text("<p>plotly</p>")
    data = {"application/vnd.plotly.v1+json": {"data": []}}
    cell = new_code_cell('run.save_figure(f, "turn")', execution_count=1)
    cell.outputs = [new_output("display_data", data)]
    copy = folder / "notebooks/07_small.ipynb"
    copy.parent.mkdir()
    nbformat.write(notebook(cell), copy)
    page = render(root)
    assert "07_small.turn.html" in page.links and "96.01 %" in page.text
    linked = re.findall(r'href="([^"]*turn[^"]*)"', copy.with_suffix(".html").read_text())
    assert linked == ["../07_small.turn.html"] and (copy.parent / linked[0]).is_file()


def test_no_results_is_refused(root, capsys):
    assert report_page.main(["--profile", "quick"], root=root) == 2
    assert "make reproduce PROFILE=quick" in capsys.readouterr().err
    assert report_page.main(["--profile", "full"], root=root) == 0
    assert capsys.readouterr().out.strip() == (root / "results/full/report.html").as_uri()


def test_numbers():
    values = [
        12345.6,
        1e-7,
        0.123456,
        12,
        12.0,
        1234567.0,
        float("nan"),
        None,
        float("inf"),
        -0.5,
        "x",
    ]
    shown = ["12350", "1e-07", "0.1235", "12", "12", "1.235e+06", "", "", "inf", "-0.5", "x"]
    assert [report_text.number(value) for value in values] == shown


def test_tex_that_is_not_understood_stays_readable():
    assert "<code>\\frac{</code>" in report_text.to_html("$\\frac{$")
    assert "<code>a &lt; b</code>" in report_text.to_html("$a < b$")
