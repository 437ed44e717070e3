"""The notebook runner, on tiny notebooks."""

import base64
import io
import json
import sys

import nbformat
import numpy as np
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import colab_forms
import notebook_files as files
import run_notebooks as runner

PARAMETERS = 'profile = "quick"\nsize = 2'
SHOW = "import os, sys\nprint(profile, size, os.path.basename(os.getcwd()), sys.executable)"


def make(root, name="01_small", parameters=PARAMETERS, code=SHOW, tags=("parameters",)):
    """Write a notebook with a header, a parameters cell and one more cell; return its path."""
    cells = [
        new_markdown_cell("# Small\n\n**Time:** none"),
        new_code_cell(parameters, metadata={"tags": list(tags)}),
        new_code_cell(code),
    ]
    path = root / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)
    return path


@pytest.fixture
def root(tmp_path):
    text = '[project]\nname = "drrlib"\nversion = "1.2.3"\n\n[project.urls]\n'
    (tmp_path / "pyproject.toml").write_text(text + 'Repository = "https://github.com/a/b"\n')
    return tmp_path


def run(root, *arguments):
    return runner.main([str(a) for a in arguments], root=root)


def executed(root, profile, name="01_small"):
    path = root / "results" / profile / "notebooks" / f"{name}.ipynb"
    return nbformat.read(path, as_version=4)


def text_of(notebook):
    return "".join(o.text for c in notebook.cells for o in c.get("outputs", []) if "text" in o)


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_runs_with_parameters_in_this_interpreter(root, capfd, profile):
    path = make(root)
    before = path.read_bytes()
    assert run(root, "1", "--profile", profile, "-p", "size", "5") == 0
    assert text_of(executed(root, profile)).split() == [profile, "5", "notebooks", sys.executable]
    assert path.read_bytes() == before
    table = capfd.readouterr().out
    assert "01_small" in table and f"results/{profile}/notebooks/01_small.ipynb" in table


def test_a_failing_notebook_fails_the_run_and_not_the_next(root, capfd):
    make(root, "01_bad", code="1 / 0")
    make(root, "02_good")
    record = {"item": "Table 9", "quantity": "rate", "unit": "%", "paper": 1.0, "ours": 2.0}
    (root / "results/quick").mkdir(parents=True)
    (root / "results/quick/02_good.run.json").write_text(
        json.dumps({"comparisons": [{**record, "interval": "", "verdict": "no"}]})
    )
    assert run(root) == 1
    shown = capfd.readouterr()
    assert "FAILED: ZeroDivisionError" in shown.out and "1 / 0" in shown.err
    assert "Table 9" in shown.out and "verdicts: 1 no" in shown.out
    assert text_of(executed(root, "quick", "02_good")).startswith("quick 2")


def test_numbers_that_quick_cannot_judge_are_counted(root, capfd):
    make(root)
    row = dict(item="Table 9", quantity="rate", unit="%", paper=1.0, ours=2 / 3, interval="")
    (root / "results/quick").mkdir(parents=True)
    (root / "results/quick/01_small.run.json").write_text(
        json.dumps({"comparisons": [{**row, "verdict": v} for v in ("not judged", "yes", "yes")]})
    )
    assert run(root, "--report") == 0
    shown = capfd.readouterr().out
    assert "0.6667" in shown and "verdicts: 1 not judged, 2 yes" in shown
    assert "make reproduce PROFILE=full" in shown
    page = root / "results/quick/report.html"
    assert page.as_uri() in shown and "notebooks/01_small.html" in page.read_text()


def test_update_stores_a_clean_quick_run(root, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    path = make(root, code="import os\nprint(repr(os.environ['CUDA_VISIBLE_DEVICES']))\nsize")
    assert run(root, "--update") == 0
    stored = nbformat.read(path, as_version=4)
    assert [c.execution_count for c in stored.cells if c.cell_type == "code"] == [1, 2]
    assert text_of(stored).strip() == "''"
    assert "papermill" not in path.read_text()
    first = path.read_bytes()
    assert run(root, "--update") == 0
    assert path.read_bytes() == first


def test_a_stored_widget_is_its_name_alone():
    """Without its kernel the browser would show an error in its place."""
    data = {files.WIDGET: {"model_id": "0123"}, "text/plain": "a panel"}
    output = nbformat.v4.new_output("execute_result", data=data, execution_count=1)
    notebook = new_notebook(cells=[new_code_cell("b", outputs=[output])])
    notebook.metadata["widgets"] = {"state": {}}
    files.clean(notebook)
    assert notebook.cells[0].outputs[0].data == {"text/plain": "a panel"}
    assert "widgets" not in notebook.metadata


def test_stored_pictures_are_small_and_look_the_same():
    from PIL import Image

    rng = np.random.default_rng(0)
    grey = np.repeat(rng.integers(0, 256, (80, 80, 1)), 3, axis=2).astype(np.uint8)
    grey[:40, :, :] = [[[230, 159, 0]]]
    before = io.BytesIO()
    Image.fromarray(np.dstack([grey, np.full((80, 80), 255, np.uint8)])).save(before, "png")
    data = {"image/png": base64.b64encode(before.getvalue()).decode(), "text/plain": "a figure"}
    output = nbformat.v4.new_output("display_data", data=data)
    notebook = new_notebook(cells=[new_markdown_cell("# A"), new_code_cell("b", outputs=[output])])
    files.shrink_pictures(notebook)
    stored = notebook.cells[1].outputs[0].data
    after = base64.b64decode(stored["image/png"])
    assert len(after) < 0.75 * len(before.getvalue()) and stored["text/plain"] == "a figure"
    seen = np.asarray(Image.open(io.BytesIO(after)).convert("RGB")).astype(int)
    assert abs(seen - grey).max() <= 2
    again = notebook.cells[1].outputs[0].data["image/png"]
    files.shrink_pictures(notebook)
    second = np.asarray(Image.open(io.BytesIO(base64.b64decode(again))).convert("RGB"))
    assert (second == seen).all()


def test_update_refuses_a_large_notebook(root, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    path = make(root, code="print('x' * 2_000_000)")
    before = path.read_bytes()
    assert run(root, "--update") == 1
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("notebook", "arguments", "message"),
    [
        ({}, ["-p", "sise", "3"], "no parameter sise; it has profile, size"),
        ({}, ["-p", "profile", "fast"], "choose one of: quick, full"),
        ({}, ["07"], "names 0 notebooks"),
        ({"tags": ()}, [], "0 cells tagged"),
        ({"tags": ("parameters", "injected-parameters")}, [], "executed copy"),
        ({"parameters": PARAMETERS + "\nhalf = size / 2"}, [], "literal value"),
        ({"parameters": PARAMETERS + "\nimport os"}, [], "no plain assignment"),
        ({"parameters": "profile = ("}, [], "literal value"),
        ({"parameters": "size = 2"}, [], "no parameter profile"),
        ({"parameters": 'profile = "full"'}, ["--update"], "must set profile"),
    ],
)
def test_refused_before_anything_runs(root, monkeypatch, capsys, notebook, arguments, message):
    monkeypatch.setattr(runner, "execute", lambda *a: pytest.fail("it was executed"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    make(root, **notebook)
    assert run(root, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_no_notebook_is_refused(root, capsys):
    make(root).write_text("{ not json")
    assert run(root) == 2
    assert "is not a notebook" in capsys.readouterr().err


def test_update_takes_no_parameters(root):
    with pytest.raises(SystemExit):
        run(root, "--update", "--profile", "full")


def test_selection_by_number_name_and_path(root):
    paths = [make(root, name) for name in ("01_siddon_drr", "02_carm", "11_more")]
    folder = root / "notebooks"
    assert files.select(folder, []) == paths
    assert files.select(folder, ["1"]) == files.select(folder, ["01"]) == paths[:1]
    assert files.select(folder, ["carm", "notebooks/11_more.ipynb", "2"]) == paths[1:]
    with pytest.raises(files.Refused, match="names 3 notebooks"):
        files.select(folder, ["_"])


def test_setup_cell_and_badge_are_written_once(root):
    path = make(root)
    assert run(root, "--write-setup") == 0
    first = path.read_bytes()
    assert run(root, "--write-setup") == 0
    assert path.read_bytes() == first
    header, setup, parameters, _ = nbformat.read(path, as_version=4).cells
    assert header.source.startswith("# Small\n\n[![Open in Colab](")
    assert "/github/a/b/blob/v1.2.3/notebooks/01_small.ipynb" in header.source
    assert "-b v1.2.3 https://github.com/a/b.git drrlib-1.2.3" in setup.source
    assert setup.source.endswith('pip install -q "..[lab]" && touch ../installed-lab')
    assert parameters.metadata.tags == ["parameters"]


FORM = """# @title Parameters
# "quick": a few; "full": all
profile = "quick"  # @param ["quick", "full"]
backend = "auto"  # @param ["auto", "cpu", "cuda"]

size = 2  # @param {type:"integer"}
# "ü" [mm]; "" for none
name = ""  # @param {type:"string"}
far = 1.5  # @param {type:"number"}
again = False  # @param {type:"boolean"}
least = None  # @param {type:"raw"}
pairs = ()  # @param {type:"raw"}
# a path, or "new"; "" for none
path = ""  # @param ["new", ""] {allow-input: true}"""
PLAIN = """profile = "quick"  # "quick": a few; "full": all
backend = "auto"  # "auto", "cpu" or "cuda"

size = 2
name = ""  # "ü" [mm]; "" for none
far = 1.5
again = False
least = None
pairs = ()
path = ""  # a path, or "new"; "" for none"""


def test_parameters_become_a_form_once(root):
    path = make(root, parameters=PLAIN.replace('"ü" [mm]; ""', 'ü [mm]; ""'))
    for _ in range(2):
        assert run(root, "--write-setup") == 0
        notebook = nbformat.read(path, as_version=4)
        assert notebook.cells[2].source == FORM.replace('"ü" [mm]', "ü [mm]")
        assert notebook.metadata.accelerator == "GPU"
    form = colab_forms.fields(FORM)
    assert [field.name for field in form if field.options] == ["profile", "backend", "path"]
    assert [field.kind for field in form if field.kind] == [
        *("integer", "string", "number", "boolean", "raw", "raw")
    ]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a = 1  # of them", "a lacks a field"),
        ('a = 1  # @param {type:"integer"} of them', "a lacks a field"),
        ('a = "x"  # @param ["y", "z"]', "does not offer"),
        ('a = 1  # @param {type:"number"}', "takes the type number"),
        ("a.b = 1", "no plain assignment"),
    ],
)
def test_a_form_that_colab_would_not_draw(source, message):
    with pytest.raises(ValueError, match=message):
        colab_forms.fields(source)


def test_what_colab_saved_is_cleaned():
    cell = new_code_cell("1", metadata={"id": "x", "outputId": "y", "colab": {"height": 17}})
    notebook = new_notebook(cells=[new_markdown_cell("# A"), cell])
    notebook.metadata.colab = {"provenance": [{"file_id": "secret"}], "toc_visible": True}
    notebook.metadata.accelerator = "TPU"
    files.clean(notebook)
    assert cell.metadata == {} and notebook.metadata.colab == {"provenance": []}
    assert "accelerator" not in notebook.metadata


def test_a_tag_of_the_setup_cell_installs_an_extra(root):
    path = make(root)
    run(root, "--write-setup")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].metadata.tags.append("extra-cluster")
    nbformat.write(notebook, path)
    assert run(root, "--write-setup") == 0
    setup = nbformat.read(path, as_version=4).cells[1]
    assert setup.source.endswith(
        'pip install -q "..[lab,cluster]" && touch ../installed-lab-cluster'
    )
    assert setup.metadata.tags == ["setup", "extra-cluster"]


def test_the_version_stands_in_one_place():
    url, version = files.project_facts(files.ROOT)
    citation = (files.ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {version}\n" in citation and f'"{url}"' in citation
    assert f"## {version}" in (files.ROOT / "CHANGELOG.md").read_text()


CALLS_START = (
    "from drrlib.lab.run import start_run\n"
    'start_run("01_small", profile, 0, "auto", dict(size=size))'
)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"size": 5}, None), ({"profile": "quick", "profle": "full"}, "no parameter profle")],
)
def test_plain_papermill_is_stopped_at_a_wrong_name(root, given, message):
    path = make(root, code=CALLS_START)

    def papermill_alone():
        papermill.execute_notebook(
            path,
            root / "out.ipynb",
            given,
            kernel_name="python3",
            language="python",
            kernel_manager_class=runner.kernel_manager_class(),
            cwd=path.parent,
            progress_bar=False,
        )

    if message is None:
        papermill_alone()
    else:
        with pytest.raises(papermill.PapermillExecutionError, match=message):
            papermill_alone()
