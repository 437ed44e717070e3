"""The form of the stored notebooks; nbval checks what they compute."""

import ast
import re

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

import colab_forms
import notebook_files as files

ROOT = files.ROOT
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook, tag):
    return [cell for cell in code_cells(notebook) if tag in cell.metadata.get("tags", [])]


def parsed(cell):
    """Syntax tree of a cell, with its shell lines and magics made plain Python."""
    return ast.parse(TransformerManager().transform_cell(cell.source))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def test_there_are_notebooks():
    assert NOTEBOOKS, "notebooks/ holds no notebook"
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert len(set(numbers)) == len(numbers)
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem) for path in NOTEBOOKS)


def test_parameters_are_one_cell_of_literals(path):
    parameters = files.parameters_of(path)
    assert parameters["profile"] == "quick"
    assert {"profile", "seed", "backend"} <= set(parameters)


def test_colab_draws_a_form_of_the_parameters(path, notebook):
    (cell,) = tagged(notebook, "parameters")
    assert cell.source.startswith(f"{colab_forms.TITLE}\n")
    form = colab_forms.fields(cell.source)
    assert {field.name: field.value for field in form} == files.parameters_of(path)
    lists = {field.name: field.options for field in form}
    assert lists["profile"] == ["quick", "full"]
    assert {"auto", "cpu", "reference"} <= set(lists["backend"])


def test_colab_is_asked_for_a_gpu_where_one_is_used(notebook):
    (cell,) = tagged(notebook, "parameters")
    uses = '"cuda"' in cell.source and "no GPU" not in notebook.cells[0].source
    assert notebook.metadata.get("accelerator") == ("GPU" if uses else None)
    assert notebook.metadata.colab == {"provenance": [], **({"gpuType": "T4"} if uses else {})}


def test_every_cell_was_executed_in_order(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_outputs_are_stored_and_compared(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    # nbval passes a tagged cell in silence when there is nothing stored to compare with, and it
    # skips or ignores whole cells on request: no notebook is exempt.
    compared = tagged(notebook, "nbval-check-output")
    assert compared
    for cell in compared:
        assert cell.outputs, f"no stored output: {cell.source}"
        streams = [output.get("name") for output in cell.outputs]
        assert "stderr" not in streams, f"stderr differs from machine to machine: {cell.source}"
    for word in ("nbval-skip", "nbval-ignore-output", "raises-exception", "skip-execution"):
        assert not tagged(notebook, word)
    assert not [c for c in code_cells(notebook) if re.search(r"#\s*(NBVAL|PYTEST)_", c.source)]


def test_no_path_of_a_machine_is_stored(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|Users|tmp)/|[A-Z]:\\\\", text)


def test_setup_cell_and_badge_follow_pyproject(path, notebook):
    setup = tagged(notebook, "setup")
    assert len(setup) == 1
    source = files.setup_source(ROOT, setup[0].metadata.tags)
    assert setup[0].source == source, "run: python tools/run_notebooks.py --write-setup"
    assert code_cells(notebook)[0] is setup[0]
    assert files.badge(ROOT, path.stem) in notebook.cells[0].source
    version = re.escape(files.project_facts(ROOT)[1])
    (target,) = re.findall(r"\((https://colab\.[^)]*\.ipynb)\)", notebook.cells[0].source)
    assert re.search(rf"/blob/v{version}/notebooks/{path.stem}\.ipynb$", target)


def test_header_says_what_to_expect(notebook):
    header = notebook.cells[0]
    assert header.cell_type == "markdown" and header.source.startswith("# ")
    for word in ("Reproduces", "Needs", "Time", "Writes"):
        assert re.search(rf"^[-*_ ]*{word}\b", header.source, re.M), f"the header lacks {word}"


def test_code_is_short_and_belongs_to_a_notebook(notebook):
    for cell in code_cells(notebook):
        lines = cell.source.splitlines()
        if cell in tagged(notebook, "parameters"):  # explanations of a form have their own lines
            lines = [line for line in lines if not line.startswith("#")]
        assert len(lines) <= 20, f"over 20 lines: {cell.source}"
        for node in ast.walk(parsed(cell)):
            assert not isinstance(node, ast.ClassDef), f"a class: {node.name}"
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length <= 10, f"{node.name} has {length} lines; move it to the package"


def test_stored_as_the_runner_stores(path, notebook):
    assert path.stat().st_size <= files.MAX_BYTES
    before = nbformat.writes(notebook)
    files.clean(notebook)
    assert nbformat.writes(notebook) == before, "run: python tools/run_notebooks.py --clean"
