"""What a notebook file says, how it is stored, and what in it is made from pyproject.toml."""

import ast
import base64
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path

import nbformat

import colab_forms

ROOT = Path(__file__).resolve().parent.parent
COLAB = "https://colab.research.google.com"
MAX_BYTES = 1_000_000  # of a stored notebook
VOLATILE = [
    "metadata.papermill",
    "metadata.widgets",
    "cell.metadata.papermill",
    "cell.metadata.execution",
    # what Colab leaves in a notebook that it saves
    "cell.metadata.id",
    "cell.metadata.outputId",
    "cell.metadata.colab",
    "cell.metadata.executionInfo",
]
WIDGET = "application/vnd.jupyter.widget-view+json"


class Refused(Exception):
    """What was asked for cannot be run; nothing has been executed."""


def read_notebook(path: Path):
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


def clean(notebook) -> None:
    """Keep outputs and execution counts, drop what changes from run to run or who saved it."""
    from nbstripout import strip_output

    notebook.metadata.kernelspec = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    notebook.metadata.language_info = {"name": "python"}
    colab_forms.set_machine(notebook)
    strip_output(notebook, keep_output=True, keep_count=True, keep_id=False, extra_keys=VOLATILE)
    for output in (o for cell in notebook.cells for o in cell.get("outputs", [])):
        output.get("data", {}).pop(WIDGET, None)  # without its kernel, a widget shows an error


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
    text = nbformat.writes(notebook)
    if len(text.encode()) > MAX_BYTES:
        raise Refused(
            f"{path.name} would have {len(text.encode()) / 1e6:.2f} MB, "
            f"at most {MAX_BYTES / 1e6:.0f} MB is stored; draw fewer or smaller figures"
        )
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")
    os.replace(temporary, path)


# --- what is made from pyproject.toml ----------------------------------------------------------


def project_facts(root: Path) -> tuple[str, str]:
    """(repository address, version) as pyproject.toml states them."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    found = [re.search(rf'^{key} = "(.+)"$', text, re.M) for key in ("Repository", "version")]
    if None in found:
        raise Refused("pyproject.toml lacks a line `Repository = ...` or `version = ...`")
    return found[0].group(1), found[1].group(1)


def setup_source(root: Path, tags: Sequence[str] = ()) -> str:
    """The setup cell: it installs the tagged version on Colab and does nothing elsewhere.

    With what notebooks need, the extra "lab"; a tag of the cell such as "extra-cluster" adds
    another optional part of the package. What an earlier run has done, in this session or before
    a restart of it, is not done again; an installation that failed is.
    """
    url, version = project_facts(root)
    extras = ["lab", *(t.removeprefix("extra-") for t in tags if t.startswith("extra-"))]
    done = f"../installed-{'-'.join(extras)}"
    clone = f"drrlib-{version}"
    return f"""import sys
from pathlib import Path

if "google.colab" in sys.modules:
    if not Path("../drrlib").is_dir():
        if not Path("{clone}").is_dir():
            !git clone -q --depth 1 -b v{version} {url}.git {clone}
        %cd -q {clone}/notebooks
    if not Path("{done}").is_file():
        !{{sys.executable}} -m pip install -q "..[{",".join(extras)}]" && touch {done}"""


def colab_address(root: Path, name: str) -> str:
    """Where Google Colab opens the released version of a notebook."""
    url, version = project_facts(root)
    slug = url.removeprefix("https://github.com/")
    return f"{COLAB}/github/{slug}/blob/v{version}/notebooks/{name}.ipynb"


def badge(root: Path, name: str) -> str:
    return f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({colab_address(root, name)})"


def write_setup(path: Path, root: Path) -> None:
    """Put the badge under the title and the setup cell after the header, or renew them.

    Parameters get a form, and the metadata say which machine Colab shall take.
    """
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
    tagged[0].source = setup_source(root, tagged[0].metadata.tags)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            parameters_of(path)  # refuses what is no list of literals
            cell.source = colab_forms.with_form(cell.source)
    colab_forms.set_machine(notebook)
    write_notebook(notebook, path)
