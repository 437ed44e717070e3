"""Run notebooks: the only way in which they are executed for a commit or in CI.

    python tools/run_notebooks.py                      every notebook, quick
    python tools/run_notebooks.py 01 geometry          some, by number or part of the name
    python tools/run_notebooks.py 08 --profile full -p seed 3
    python tools/run_notebooks.py --update             store the outputs of a quick CPU run
    python tools/run_notebooks.py --write-setup        setup cells and badges from pyproject.toml
    python tools/run_notebooks.py --clean FILE...      drop what changes from run to run

papermill only warns about an unknown parameter and about a missing `parameters` cell, so a run
with a misspelt name would quietly use the defaults. Both are refused here.
"""

import argparse
import ast
import base64
import io
import json
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROFILES = ("quick", "full")
MAX_BYTES = 1_000_000  # of a stored notebook
QUICK_SECONDS = 60.0  # what a quick run may take on two cores
VOLATILE = [
    "metadata.papermill",
    "metadata.widgets",
    "cell.metadata.papermill",
    "cell.metadata.execution",
]


class Refused(Exception):
    """What was asked for cannot be run; nothing has been executed."""


@dataclass
class Outcome:
    name: str
    seconds: float
    status: str
    output: Path


# --- what a notebook says about itself ---------------------------------------------------------


def read_notebook(path: Path):
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises JSON, validation and attribute errors alike
        raise Refused(f"{path.name} is not a notebook: {error}") from error


def parameters_of(path: Path) -> dict:
    """The names and defaults of the one cell tagged `parameters`, which holds literals only."""
    cells = read_notebook(path).cells
    found = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    if len(found) != 1 or found[0].cell_type != "code":
        raise Refused(
            f"{path.name} has {len(found)} cells tagged `parameters`; "
            "expected exactly one code cell, so tag the one that holds the defaults"
        )
    if any("injected-parameters" in c.metadata.get("tags", []) for c in cells):
        raise Refused(f"{path.name} is an executed copy (injected parameters); run the original")
    values = {}
    try:
        for statement in ast.parse(found[0].source).body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    values[name] = ast.literal_eval(value)
                case _:
                    raise ValueError(f"line {statement.lineno} is no plain assignment")
    except (SyntaxError, ValueError) as error:
        raise Refused(
            f"the parameters cell of {path.name} must hold only lines such as `seed = 0`, "
            f"with a literal value: {error}"
        ) from error
    return values


def select(folder: Path, wanted: list[str]) -> list[Path]:
    """Notebooks by number ("1", "01"), name, part of a name, or path; all when none is named."""
    every = sorted(folder.glob("*.ipynb"))
    if not every:
        raise Refused(f"there is no notebook in {folder}")
    if not wanted:
        return every
    chosen = []
    for word in wanted:
        stem = Path(word).stem if word.endswith(".ipynb") else word
        if stem.isdigit():
            hits = [p for p in every if re.match(rf"0*{int(stem)}_", p.name)]
        else:
            hits = [p for p in every if p.stem == stem] or [p for p in every if stem in p.stem]
        if len(hits) != 1:
            names = ", ".join(p.stem for p in (hits or every))
            raise Refused(f"{word!r} names {len(hits)} notebooks; choose one of: {names}")
        chosen += [p for p in hits if p not in chosen]
    return chosen


def check_parameters(path: Path, given: dict) -> None:
    known = parameters_of(path)
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise Refused(
            f"{path.name} has no parameter {', '.join(unknown)}; it has {', '.join(known)}"
        )


def literal(text: str):
    """A command line value: a Python literal where it reads as one, else a string."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


# --- execution ---------------------------------------------------------------------------------


def kernel_manager_class():
    """A kernel manager that starts the interpreter running this script, whatever is installed.

    A kernel named python3 in the user's home folder would otherwise win over the environment's.
    """
    import ipykernel.kernelspec
    import zmq
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    class ThisInterpreter(AsyncKernelManager):
        def __init__(self, **options):
            super().__init__(**options)
            # Newer kernels warn, in every run, where their local sockets are not encrypted.
            if self.has_trait("transport_encryption") and zmq.has("curve"):
                self.transport_encryption = "auto"

        @property
        def kernel_spec(self):
            return KernelSpec(
                resource_dir=str(ipykernel.kernelspec.RESOURCES),
                **ipykernel.kernelspec.get_kernel_dict(),
            )

    return ThisInterpreter


def execute(path: Path, output: Path, parameters: dict) -> Outcome:
    """Run one notebook from its own folder; a failure is told and kept in the outcome."""
    import papermill

    output.parent.mkdir(parents=True, exist_ok=True)
    print(f"{path.stem} ...", flush=True)
    begin, status = time.perf_counter(), "ok"
    try:
        papermill.execute_notebook(
            path,
            output,
            parameters,
            kernel_name="python3",
            language="python",
            kernel_manager_class=kernel_manager_class(),
            cwd=path.parent,
            progress_bar=sys.stderr.isatty(),
        )
    except papermill.PapermillExecutionError as error:
        status = f"FAILED: {error.ename}"
        print(f"\n{path.name}, cell {error.exec_count}, failed:\n{error.source}\n", file=sys.stderr)
        print("\n".join(error.traceback), file=sys.stderr)
    except Exception as error:  # a kernel that dies or never starts: the others still get their run
        status = f"FAILED: {type(error).__name__}"
        print(f"\n{path.name} could not be run: {type(error).__name__}: {error}", file=sys.stderr)
    return Outcome(path.stem, time.perf_counter() - begin, status, output)


def clean(notebook) -> None:
    """Keep outputs and execution counts, drop what changes from run to run."""
    from nbstripout import strip_output

    notebook.metadata.kernelspec = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    notebook.metadata.language_info = {"name": "python"}
    strip_output(notebook, keep_output=True, keep_count=True, keep_id=False, extra_keys=VOLATILE)


def shrink_pictures(notebook) -> None:
    """Store PNG outputs with a palette of 256 colours: a third of the bytes, no visible change."""
    from PIL import Image

    for output in (o for cell in notebook.cells for o in cell.get("outputs", [])):
        data = output.get("data", {})
        if "image/png" in data:
            picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
            small = io.BytesIO()
            white = Image.new("RGBA", picture.size, "white")
            white.alpha_composite(picture.convert("RGBA"))
            white.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
                small, "png", optimize=True, dpi=picture.info.get("dpi", (96, 96))
            )
            data["image/png"] = base64.b64encode(small.getvalue()).decode()


def write_notebook(notebook, path: Path) -> None:
    import nbformat

    text = nbformat.writes(notebook)
    if len(text.encode()) > MAX_BYTES:
        raise Refused(
            f"{path.name} would have {len(text.encode()) / 1e6:.2f} MB, "
            f"at most {MAX_BYTES / 1e6:.0f} MB is stored; draw fewer or smaller figures"
        )
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")
    os.replace(temporary, path)


def store(outcome: Outcome, path: Path) -> None:
    """Replace a notebook by its executed copy, unless that is too large."""
    notebook = read_notebook(outcome.output)
    clean(notebook)
    shrink_pictures(notebook)
    try:
        write_notebook(notebook, path)
    except Refused as error:
        outcome.status = "FAILED: too large"
        print(error, file=sys.stderr)


# --- what is made from pyproject.toml ----------------------------------------------------------


def project_facts(root: Path) -> tuple[str, str]:
    """(repository address, version) as pyproject.toml states them."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    found = [re.search(rf'^{key} = "(.+)"$', text, re.M) for key in ("Repository", "version")]
    if None in found:
        raise Refused("pyproject.toml lacks a line `Repository = ...` or `version = ...`")
    return found[0].group(1), found[1].group(1)


def setup_source(root: Path) -> str:
    """The setup cell: it installs the tagged version on Colab and does nothing elsewhere."""
    url, version = project_facts(root)
    return f"""import sys
from pathlib import Path

if "google.colab" in sys.modules and not Path("../drrlib").is_dir():
    !git clone -q --depth 1 -b v{version} {url}.git repo
    %cd -q repo/notebooks
    %pip install -q .."""


def badge(root: Path, name: str) -> str:
    url, version = project_facts(root)
    slug = url.removeprefix("https://github.com/")
    colab = "https://colab.research.google.com"
    return (
        f"[![Open in Colab]({colab}/assets/colab-badge.svg)]"
        f"({colab}/github/{slug}/blob/v{version}/notebooks/{name}.ipynb)"
    )


def write_setup(path: Path, root: Path) -> None:
    """Put the badge under the title and the setup cell after the header, or renew them."""
    import nbformat

    notebook = read_notebook(path)
    if not notebook.cells or notebook.cells[0].cell_type != "markdown":
        raise Refused(f"{path.name} must begin with a markdown cell, its header")
    header = notebook.cells[0]
    title, *rest = header.source.split("\n")
    rest = [line for line in rest if not line.startswith("[![Open in Colab]")]
    body = "\n".join(rest).strip("\n")
    header.source = f"{title}\n\n{badge(root, path.stem)}\n\n{body}".rstrip("\n")
    tagged = [c for c in notebook.cells if "setup" in c.metadata.get("tags", [])]
    if not tagged:
        tagged = [nbformat.v4.new_code_cell(metadata={"tags": ["setup"]})]
        notebook.cells.insert(1, tagged[0])
    tagged[0].source = setup_source(root)
    write_notebook(notebook, path)


# --- report ------------------------------------------------------------------------------------


def comparisons(root: Path, profile: str, names: list[str]) -> list[dict]:
    """Rows of "paper against ours" that the runs of these notebooks wrote beside their tables."""
    rows = []
    for name in names:
        record = root / "results" / profile / f"{name}.run.json"
        if record.is_file():
            rows += json.loads(record.read_text(encoding="utf-8")).get("comparisons", [])
    return rows


def print_table(rows: list[list[str]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip())


def report(outcomes: list[Outcome], root: Path, profile: str) -> None:
    rows = [["notebook", "seconds", "status", "executed notebook"]]
    for o in outcomes:
        slow = profile == "quick" and o.status == "ok" and o.seconds > QUICK_SECONDS
        status = f"{o.status}, over {QUICK_SECONDS:.0f} s" if slow else o.status
        rows.append([o.name, f"{o.seconds:.1f}", status, os.path.relpath(o.output, root)])
    print()
    print_table(rows)
    fresh = [o.name for o in outcomes if o.status == "ok"]
    columns = ["item", "quantity", "unit", "paper", "ours", "interval", "verdict"]
    judged = [[str(row[c]) for c in columns] for row in comparisons(root, profile, fresh)]
    if judged:
        print()
        print_table([columns, *judged])


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="numbers or names; all when none is given")
    parser.add_argument("--profile", choices=PROFILES, default="quick")
    parser.add_argument(
        "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE")
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--update", action="store_true", help="store outputs in notebooks/")
    action.add_argument("--write-setup", action="store_true", help="renew setup cells and badges")
    action.add_argument("--clean", action="store_true", help="drop volatile metadata only")
    options = parser.parse_args(argv)
    if options.update and (options.profile != "quick" or options.parameter):
        parser.error("--update stores a quick run with the default parameters, nothing else")
    return options


def run(options: argparse.Namespace, root: Path) -> int:
    notebooks = select(root / "notebooks", options.names)
    if options.write_setup:
        for path in notebooks:
            write_setup(path, root)
        return 0
    if options.clean:
        for path in notebooks:
            notebook = read_notebook(path)
            clean(notebook)
            write_notebook(notebook, path)
        return 0
    given = {name: literal(value) for name, value in options.parameter}
    if options.update:
        # Nothing is injected, so that the stored cells count 1..N; quick must be the default.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        for path in notebooks:
            if parameters_of(path).get("profile") != "quick":
                raise Refused(f'{path.name}: the parameters cell must set profile = "quick"')
    else:
        given.setdefault("profile", options.profile)
    for path in notebooks:
        check_parameters(path, given)
    profile = given.get("profile", "quick")
    if profile not in PROFILES:
        raise Refused(f"profile is {profile!r}; choose one of: {', '.join(PROFILES)}")
    outcomes = []
    for path in notebooks:
        output = root / "results" / profile / "notebooks" / path.name
        outcomes.append(execute(path, output, given))
        if options.update and outcomes[-1].status == "ok":
            store(outcomes[-1], path)
    report(outcomes, root, profile)
    return 0 if all(o.status == "ok" for o in outcomes) else 1


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    """Exit status: 0 all ran, 1 a notebook failed, 2 the request was refused."""
    options = parse(argv)
    try:
        return run(options, root)
    except Refused as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
