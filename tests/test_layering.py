"""The order of imports: a module imports only from groups to its left, never from neighbours."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "drrlib"

# One tuple per layer, left to right; modules of one layer do not import each other.
# A module split from `dicom` is named dicom_*.py (or lies in dicom/) and belongs to its layer.
LAYERS = [
    ("errors", "progress", "atomic"),
    ("paper", "se3", "volume", "projectors"),
    ("carm", "dicom", "nifti", "phantoms"),
    ("readers", "scan_projection"),
    ("datasets",),
    ("drr",),
    ("acquisition", "checks", "grey_values", "losses", "metrics", "regions"),
    ("evaluation",),
    ("optimizers", "landmarks"),
    ("graphs",),
    ("levenberg", "matching", "descent", "landscapes"),
    ("outliers",),
    ("registration",),
    ("study",),
]
# For notebooks: they may import anything, and only each other import them.
LEAVES = ("repro", "plotting", "timing")
GROUPS = [name for layer in LAYERS for name in layer] + list(LEAVES)

MODULES = sorted(
    p for p in PACKAGE.rglob("*.py") if p.relative_to(PACKAGE).as_posix() != "__init__.py"
)


def group_of(module: str) -> str:
    """Group of a dotted module name inside drrlib, such as "projectors.reference"."""
    top = module.split(".")[0]
    fitting = [name for name in GROUPS if top == name or top.startswith(name + "_")]
    if not fitting:
        raise LookupError(
            f"drrlib.{module} is in no layer: add it to LAYERS in tests/test_layering.py "
            "at the place where it belongs in the order of import"
        )
    return max(fitting, key=len)


def rank(group: str) -> int:
    ranks = [i for i, layer in enumerate(LAYERS) if group in layer]
    return ranks[0] if ranks else len(LAYERS)


def imports_of(tree: ast.Module, module: str, is_package: bool) -> set[str]:
    """Modules of drrlib that a file imports anywhere, without the leading "drrlib."."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = ["drrlib", *module.split(".")]
                above = node.level - 1 if is_package else node.level
                base = ".".join([*parts[: len(parts) - above], *filter(None, [node.module])])
            # `from drrlib import volume` names a module in what is imported.
            names = [f"drrlib.{a.name}" for a in node.names] if base == "drrlib" else [base]
        else:
            continue
        found |= {name.removeprefix("drrlib.") for name in names if name.startswith("drrlib.")}
    return found


def violations(module: str, imported: set[str]) -> list[str]:
    own, bad = group_of(module), []
    for name in sorted(imported):
        other = group_of(name)
        both_leaves = own in LEAVES and other in LEAVES
        if other != own and rank(other) >= rank(own) and not both_leaves:
            bad.append(f"drrlib.{module} imports drrlib.{name}")
    return bad


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_left_only(path):
    module = module_name(path)
    imported = imports_of(ast.parse(path.read_text()), module, path.name == "__init__.py")
    assert not violations(module, imported)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_triton_is_imported_where_it_is_launched(path):
    """Modules of Triton kernels are read by nobody but each other and the functions that launch."""
    top = ast.parse(path.read_text()).body
    names = {a.name for n in top if isinstance(n, ast.Import) for a in n.names}
    for node in (n for n in top if isinstance(n, ast.ImportFrom)):
        names |= {node.module or "", *(f"{node.module}.{a.name}" for a in node.names)}
    parts = {part for name in names for part in name.split(".") if part.startswith("triton")}
    assert not parts or path.stem.startswith("triton_")


def test_no_module_hides_an_installed_one():
    taken = set(sys.stdlib_module_names) | {"torch", "numpy", "numba", "triton", "scipy"}
    assert not {path.stem for path in MODULES} & taken


def test_the_check_sees_a_wrong_import():
    assert violations("carm", {"drr"}) and violations("volume", {"se3"})
    assert violations("losses", {"plotting"}) and violations("volume", {"dicom"})
    assert not violations("dicom_writer", {"dicom", "volume", "errors"})
    assert not violations("repro", {"paper", "study"})
    source = (
        "from drrlib import drr\nfrom . import se3\nfrom .volume import Volume\nimport drrlib.dicom"
    )
    assert imports_of(ast.parse(source), "carm", False) == {"drr", "se3", "volume", "dicom"}
    inside = ast.parse("from .reference import march\nfrom ..errors import ShapeError")
    assert imports_of(inside, "projectors.ops", False) == {"projectors.reference", "errors"}


def test_an_unknown_module_is_named():
    with pytest.raises(LookupError, match=r"drrlib\.surprise is in no layer"):
        group_of("surprise")
