"""One self-contained HTML page from the results of a profile: results/<profile>/report.html.

    python tools/report_page.py                    the results of make reproduce
    python tools/report_page.py --profile full     the committed results

What the page says comes from the run records, tables and figures in results/<profile>/ and from
the text of the notebooks; nothing is computed. Executed notebooks, where there are any, become
HTML beside their copies and are linked.
"""

import argparse
import json
import re
import struct
import sys
from base64 import b64encode
from collections import Counter
from datetime import datetime
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import escape

from notebook_files import ROOT, Refused, project_facts, read_notebook
from report_text import heading, number, to_html

SIGNS = {"yes": "\N{CHECK MARK} ", "no": "\N{MULTIPLICATION X} "}
COLUMNS = ("item", "quantity", "unit", "paper", "ours", "interval", "verdict")
MOST_ROWS = 24  # of a table on the page; the file holds all of them
SHOWN_ROWS = 12  # of a longer one
PNG_SCALE = 0.5  # screen pixels per pixel of a figure, which is saved at 200 dpi


# --- what lies in results/<profile>/ -----------------------------------------------------------


def notebook_names(root: Path, profile: str) -> list[str]:
    """Every notebook, and every name that has a file among the results."""
    names = {path.stem for path in (root / "notebooks").glob("*.ipynb")}
    folder = root / "results" / profile
    return sorted(names | {path.name.split(".")[0] for path in folder.glob("[0-9][0-9]_*.*")})


def read_record(path: Path) -> tuple[dict | None, str]:
    """The run record, or None and the reason."""
    if not path.is_file():
        return None, "There is no run record: this notebook has not run to its end here."
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        missing = [c for row in record.get("comparisons", []) for c in COLUMNS if c not in row]
        if missing:
            raise ValueError(f"a comparison lacks {', '.join(missing)}")
    except (ValueError, AttributeError, TypeError) as error:  # no JSON, or JSON of another form
        return None, f"The run record {path.name} cannot be read: {error}"
    return record, ""


def figure(path: Path) -> dict:
    """A PNG as a data URI, with its size on the page."""
    data = path.read_bytes()
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 24:
        return {"kind": "problem", "text": f"{path.name} is not a PNG file."}
    width, height = (round(PNG_SCALE * x) for x in struct.unpack(">II", data[16:24]))
    uri = f"data:image/png;base64,{b64encode(data).decode()}"
    vector = path.with_suffix(".svg")
    links = [path.name] + ([vector.name] if vector.is_file() else [])
    return dict(kind="figure", name=path.name, uri=uri, width=width, height=height, links=links)


def table(path: Path) -> dict:
    """A CSV file as formatted cells, shortened where it is long."""
    try:
        frame = pd.read_csv(path)
    except ValueError as error:  # pandas' parser and empty-file errors are ValueErrors
        return {"kind": "problem", "text": f"{path.name} cannot be read: {error}"}
    part = frame if len(frame) <= MOST_ROWS else frame.head(SHOWN_ROWS)
    return {
        "kind": "table",
        "name": path.name,
        "columns": [str(c).replace("_", " ") for c in frame.columns],
        "numeric": [pd.api.types.is_numeric_dtype(t) for t in frame.dtypes],
        "rows": [[number(x) for x in row] for row in part.itertuples(index=False)],
        "left_out": len(frame) - len(part),
    }


def artefacts(folder: Path, name: str) -> dict[str, list[dict]]:
    """What a notebook saved: short name -> figures, tables and links."""
    found = {}
    for path in sorted(folder.glob(f"{name}.*")):
        short, suffix = path.name.removeprefix(f"{name}.").removesuffix(path.suffix), path.suffix
        if suffix == ".png":
            item = figure(path)
        elif suffix == ".csv":
            item = table(path)
        elif suffix == ".html":
            item = {"kind": "link", "name": path.name, "text": "Interactive figure"}
        elif short == "run" or (suffix == ".svg" and path.with_suffix(".png").is_file()):
            continue  # the record, and a PNG's twin
        else:
            item = {"kind": "link", "name": path.name, "text": "Data"}
        found.setdefault(short, []).append(item)
    return found


# --- one notebook, all notebooks ---------------------------------------------------------------


def failure(notebook) -> str:
    """What an executed copy says went wrong, or ""."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return f"The last run failed: {output.ename}: {output.evalue}."
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            return "The last run stopped before its end."  # it was killed, or its kernel died
    return ""


def blocks(notebook, found: dict[str, list[dict]], rows: list[dict]) -> list[dict]:
    """Text, figures, tables and verdicts in the order of the notebook.

    What no cell names comes last, so that nothing in the folder is left out.
    """
    rest, result = dict(found), []
    verdicts = [{"kind": "verdicts"}] if rows else []
    for cell in notebook.cells[1:] if notebook else []:
        if cell.cell_type == "markdown":
            result.append({"kind": "text", "html": to_html(cell.source)})
            continue
        if "save_" in cell.source:
            for short in re.findall(r"""["']([\w.-]+)["']""", cell.source):
                result += rest.pop(short, [])
        if ".compare(" in cell.source and verdicts:
            result.append(verdicts.pop())
    return result + [item for items in rest.values() for item in items] + verdicts


def section(root: Path, profile: str, name: str) -> dict:
    """All that the page shows of one notebook."""
    folder = root / "results" / profile
    stored = root / "notebooks" / f"{name}.ipynb"
    copy = folder / "notebooks" / f"{name}.ipynb"
    # papermill adds its own cells to the copy of a run that failed: the original has the text.
    executed = read_notebook(copy) if copy.is_file() else None
    notebook = read_notebook(stored) if stored.is_file() else executed
    record, problem = read_record(folder / f"{name}.run.json")
    if executed and (failed := failure(executed)):
        # The record is an earlier run's, and so are its verdicts.
        record, problem = None, f"{failed} Figures and tables here may be an earlier run's."
    rows = (record or {}).get("comparisons", [])
    result = {
        "name": name,
        "title": name,
        "header": "",
        "facts": {},
        "problem": problem,
        "record": record,
        "rows": [{**row, "name": name} for row in rows],
        "counts": Counter(row["verdict"] for row in rows),
        "links": [],
        "blocks": blocks(notebook, artefacts(folder, name), rows),
    }
    if notebook and notebook.cells and notebook.cells[0].cell_type == "markdown":
        result |= heading(notebook.cells[0].source)
    if executed:
        result["links"].append(("executed notebook", f"notebooks/{executed_html(copy).name}"))
    if stored.is_file():
        result["links"].append(("notebook", f"../../notebooks/{name}.ipynb"))
    return result


def executed_html(copy: Path) -> Path:
    """nbconvert's page of an executed notebook, beside it; made again only where it is older."""
    from nbconvert import HTMLExporter

    page = copy.with_suffix(".html")
    if not page.is_file() or page.stat().st_mtime <= copy.stat().st_mtime:
        notebook = read_notebook(copy)
        link_interactive(notebook, copy)
        html, _ = HTMLExporter(template_name="lab").from_notebook_node(notebook)
        page.write_text(html, encoding="utf-8")
    return page


def link_interactive(notebook, copy: Path) -> None:
    """nbconvert cannot show plotly's figures: a link to the saved page takes their place."""
    saved = sorted(copy.parents[1].glob(f"{copy.stem}.*.html"))
    for cell in notebook.cells:
        named = [p.name for p in saved if p.name.split(".")[1] in cell.source]
        links = "".join(
            f'<p>Interactive: <a href="../{escape(n)}">{escape(n)}</a></p>' for n in named
        )
        for output in cell.get("outputs", []):
            if "application/vnd.plotly.v1+json" in output.get("data", {}):
                output.data = {"text/html": links or "<p>An interactive figure, not saved.</p>"}


def with_paper(root: Path, rows: list[dict]) -> tuple[list[dict], list[str]]:
    """The comparisons with the paper's range and place, and the items that none of them treats."""
    path = root / "data" / "paper_values.csv"
    paper = pd.read_csv(path, comment="#").to_dict("records") if path.is_file() else []
    known = {(row["item"], row["quantity"]): row for row in paper}
    blank = {"low": None, "high": None, "where": ""}
    full = []
    for row in rows:
        its = known.get((row["item"], row["quantity"]), blank)
        full.append({**row, **{name: its[name] for name in blank}})
    done = {(row["item"], row["quantity"]) for row in rows}
    missing = Counter(
        item
        for (item, q), row in known.items()
        if row["rule"] not in ("setting", "text") and (item, q) not in done
    )
    return full, [f"{item} ({n})" for item, n in missing.items()]


def provenance(sections: list[dict]) -> list[dict]:
    """Commit, machine and versions, once for all notebooks that share them."""
    groups = {}
    for part in sections:
        record = part["record"]
        if record is None:
            continue
        known = {
            "commit": str(record.get("commit", "unknown")),
            "dirty": record.get("dirty") is not False,
            "device": f"{record.get('device', 'unknown')}, {record.get('threads', '?')} threads",
            "versions": ", ".join(f"{k} {v}" for k, v in record.get("versions", {}).items()),
        }
        key = json.dumps(known)
        groups.setdefault(key, {**known, "names": []})["names"].append(part["name"])
    return list(groups.values())


def verdict(word: str, count: int | str = "") -> str:
    """A word and a sign, so that it needs no colour."""
    return f"{SIGNS.get(word, '')}{count} {word}".replace("  ", " ").strip()


# --- the page ----------------------------------------------------------------------------------


def render(root: Path, profile: str) -> str:
    """The page as text."""
    folder = root / "results" / profile
    if not folder.is_dir():
        raise Refused(f"there are no results in {folder}; run: make reproduce PROFILE={profile}")
    sections = [section(root, profile, name) for name in notebook_names(root, profile)]
    rows, not_compared = with_paper(root, [row for part in sections for row in part["rows"]])
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["verdict"] = verdict
    url, version = project_facts(root)
    return environment.get_template("report_page.html.j2").render(
        profile=profile,
        url=url,
        version=version,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        sections=sections,
        rows=rows,
        counts=Counter(row["verdict"] for row in rows),
        not_compared=not_compared,
        provenance=provenance(sections),
    )


def write_report(root: Path, profile: str) -> Path:
    """Make the page anew and return its path."""
    text = render(root, profile)
    path = root / "results" / profile / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--profile", choices=("quick", "full"), default="quick")
    try:
        print(write_report(root, parser.parse_args(argv).profile).as_uri())
    except Refused as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
