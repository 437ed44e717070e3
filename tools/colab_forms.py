"""What Google Colab draws of a notebook: a form of its parameters, and the machine it asks for.

Colab reads comments: `# @title` heads a form, `# @param` behind an assignment makes a field of it.
Whatever else stands behind `@param` belongs to the field, so that an explanation has a line of
its own above. Plain Jupyter, papermill and nbval see comments.
"""

import ast
import json
import re
from typing import NamedTuple

TITLE = "# @title Parameters"
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "raw"}
_FREE = " {allow-input: true}"  # behind a list: other values may be typed
_PARAM = re.compile(r'# @param (?:(\[.*\])(?: \{allow-input: true\})?|\{type:"(\w+)"\})')
_OFFERS_GPU = re.compile(r"^backend = .*\"cuda\"", re.M)
_NO_GPU = re.compile(r"^- \*\*Needs\*\*.*\bno GPU\b", re.M)


class Field(NamedTuple):
    """One line of the form."""

    name: str
    value: object
    options: list | None  # what a list offers
    kind: str | None  # else the type of the field


def fields(source: str) -> list[Field]:
    """The form of a cell, in order.

    Raises:
        ValueError: an assignment has no field, or its default does not fit the field.
    """
    lines, found = source.split("\n"), []
    for statement in ast.parse(source).body:
        name, value, behind = _assignment(statement, lines)
        match = _PARAM.fullmatch(behind)
        if not match:
            raise ValueError(f'{name} lacks a field such as `# @param {{type:"integer"}}`')
        options, kind = match[1] and json.loads(match[1]), match[2]
        if options is not None and value not in options:
            raise ValueError(f"{name} is {value!r}, which its list does not offer: {options}")
        if options is None and kind not in (TYPES.get(type(value), "raw"), "raw"):
            raise ValueError(f"{name} is {value!r}, and its field takes the type {kind}")
        found.append(Field(name, value, options, kind))
    return found


def with_form(source: str) -> str:
    """The cell with a title and with a field behind each assignment that has none.

    Quoted words in its comment, where the default is one of them, are what a list offers; with ""
    among them other words may be typed, such as a path.
    """
    lines = source.split("\n")
    for statement in reversed(ast.parse(source).body):
        _name, value, behind = _assignment(statement, lines)
        if behind.startswith("# @param"):
            continue
        at = statement.lineno - 1
        above = lines[at - 1] if at and lines[at - 1].startswith("#") else ""
        options = list(dict.fromkeys(re.findall(r'"([^"]*)"', behind or above)))
        if len(options) > 1 and value in options:
            field = json.dumps(options) + (_FREE if "" in options else "")
            if re.fullmatch(r'# ("\w+"(, | or )?)+', behind):
                behind = ""  # the list says as much
        else:
            field = f'{{type:"{TYPES.get(type(value), "raw")}"}}'
        code = lines[at].encode()[: statement.end_col_offset].decode()
        lines[at : at + 1] = [*([behind] if behind else []), f"{code}  # @param {field}"]
    return "\n".join(lines if lines[0].startswith("# @title") else [TITLE, *lines])


def set_machine(notebook) -> None:
    """Ask for a GPU where the backends offer "cuda", unless the header says that none is needed."""
    notebook.metadata.colab = {"provenance": []}
    notebook.metadata.pop("accelerator", None)
    parameters = [c.source for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if any(map(_OFFERS_GPU.search, parameters)) and not _NO_GPU.search(notebook.cells[0].source):
        notebook.metadata.accelerator = "GPU"
        notebook.metadata.colab["gpuType"] = "T4"


def _assignment(statement: ast.stmt, lines: list[str]) -> tuple[str, object, str]:
    """Name, value, and the comment behind them."""
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            line = lines[statement.end_lineno - 1].encode()
            behind = line[statement.end_col_offset :].decode().strip()
            return name, ast.literal_eval(value), behind
    raise ValueError(f"line {statement.lineno} is no plain assignment")
