"""Run notebooks: the only way in which they are executed for a commit or in CI.

    python tools/run_notebooks.py                      every notebook, quick
    python tools/run_notebooks.py 01 geometry          some, by number or part of the name
    python tools/run_notebooks.py 08 --profile full -p seed 3
    python tools/run_notebooks.py --report             and make the report page of all results
    python tools/run_notebooks.py --update             store the outputs of a quick CPU run
    python tools/run_notebooks.py --write-setup        setup cells and badges from pyproject.toml
    python tools/run_notebooks.py --clean FILE...      drop what changes from run to run

papermill only warns about an unknown parameter and about a missing `parameters` cell, so a run
with a misspelt name would quietly use the defaults. Both are refused here, before anything runs;
a notebook that plain papermill runs is stopped by `drrlib.lab.run.start_run`.
"""

import argparse
import ast
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from notebook_files import (
    ROOT,
    Refused,
    clean,
    parameters_of,
    read_notebook,
    select,
    shrink_pictures,
    write_notebook,
    write_setup,
)

PROFILES = ("quick", "full")
QUICK_SECONDS = 60.0  # what a quick run may take on two cores


@dataclass
class Outcome:
    name: str
    seconds: float
    status: str
    output: Path


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


# --- summary -----------------------------------------------------------------------------------


def comparisons(root: Path, profile: str, names: list[str]) -> list[dict]:
    """Rows of "paper against ours" that the runs of these notebooks wrote beside their tables."""
    rows = []
    for name in names:
        record = root / "results" / profile / f"{name}.run.json"
        if record.is_file():
            found = json.loads(record.read_text(encoding="utf-8")).get("comparisons", [])
            rows += [{"notebook": name, **row} for row in found]
    return rows


def shown(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_table(rows: list[list[str]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    print()
    for row in rows:
        print("  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip())


def summary(outcomes: list[Outcome], root: Path, profile: str) -> None:
    """What ran, where the executed copies are, and the paper's numbers beside ours."""
    rows = [["notebook", "seconds", "status", "executed notebook"]]
    for o in outcomes:
        slow = profile == "quick" and o.status == "ok" and o.seconds > QUICK_SECONDS
        status = f"{o.status}, over {QUICK_SECONDS:.0f} s" if slow else o.status
        rows.append([o.name, f"{o.seconds:.1f}", status, os.path.relpath(o.output, root)])
    print_table(rows)
    # The record of a notebook that failed is an earlier run's.
    judged = comparisons(root, profile, [o.name for o in outcomes if o.status == "ok"])
    if judged:
        columns = ["item", "quantity", "unit", "paper", "ours", "interval", "verdict", "notebook"]
        print_table([columns, *([shown(row[c]) for c in columns] for row in judged)])
        counts = Counter(row["verdict"] for row in judged)
        print(f"\nverdicts: {', '.join(f'{n} {verdict}' for verdict, n in counts.items())}")
        if profile == "quick" and counts["not judged"]:
            print("quick is too small to judge rates and times: make reproduce PROFILE=full")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="numbers or names; all when none is given")
    parser.add_argument("--profile", choices=PROFILES, default="quick")
    parser.add_argument(
        "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE")
    )
    parser.add_argument("--report", action="store_true", help="make the report page afterwards")
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
        os.environ["TQDM_DISABLE"] = "1"
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
    summary(outcomes, root, profile)
    if options.report:
        from report_page import write_report

        print(f"\nreport: {write_report(root, profile).as_uri()}")
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
