"""The pages of the documentation's site that are made from the repository; a hook of MkDocs.

README becomes the first page, beside it CONTRIBUTING and CHANGELOG, a page of the notebooks, and
one for each room with its docstrings. Links keep the form that GitHub wants: here a link to a page
of the site is turned to it, a picture is taken along, and what else lies in the repository is
linked there, at the released version. A link to nothing fails the strict build.
"""

import json
import re
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from notebook_files import ROOT, colab_address, project_facts

MADE = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
ROOMS = {
    "drrlib": "drrlib",
    "geometry": "drrlib.geometry",
    "io": "drrlib.io",
    "registration": "drrlib.registration",
    "optimize": "drrlib.optimize",
    "similarity": "drrlib.similarity",
    "projectors": "drrlib.projectors",
    "errors": "drrlib.errors",
    "lab": "drrlib.lab",
}
_LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")


def on_config(config):
    config.repo_url, version = project_facts(ROOT)
    config.repo_name = "GitHub"
    config.extra["version_shown"] = version
    return config


def on_files(files: Files, config) -> Files:
    made = {page: (ROOT / source).read_text(encoding="utf-8") for page, source in MADE.items()}
    made["notebooks.md"] = _notebooks()
    made |= {f"api/{name}.md": _room(module) for name, module in ROOMS.items()}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    for page in [f for f in files if f.is_documentation_page()]:
        for path in _pictures(page, config):
            name = path.relative_to(ROOT).as_posix()
            if files.get_file_from_path(name) is None:
                files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page, config, files: Files) -> str:
    """Links of the repository become links of the site."""
    pages = {target: name for name, target in MADE.items()}

    def turned(match: re.Match) -> str:
        path = _target(page.file.src_uri, match[2])
        name = path.relative_to(ROOT).as_posix()
        if not path.exists():
            raise PluginError(f"{page.file.src_uri}: {match[2]} names nothing in the repository")
        inside = pages.get(name, name.removeprefix("docs/"))
        if files.get_file_from_path(inside) is None:
            kind = "tree" if path.is_dir() else "blob"
            version = config.extra["version_shown"]
            return f"{match[1]}{config.repo_url}/{kind}/v{version}/{name}{match[3] or ''}"
        up = "../" * page.file.src_uri.count("/")
        return f"{match[1]}{up}{inside}{match[3] or ''}"

    return markdown if page.file.src_uri == "notebooks.md" else _LINK.sub(turned, markdown)


def _target(page: str, link: str) -> Path:
    """What a link means in the repository, seen from the file that the page is made of."""
    source = ROOT / MADE[page] if page in MADE else ROOT / "docs" / page
    return (source.parent / link).resolve()


def _pictures(page: File, config) -> list[Path]:
    linked = [m[2] for m in _LINK.finditer(page.content_string)]
    found = [_target(page.src_uri, link) for link in linked if link.endswith((".png", ".svg"))]
    return [path for path in found if path.is_file() and "docs" not in path.parts]


def _notebooks() -> str:
    """A table of the stored notebooks with their titles; they are read on GitHub or on Colab."""
    url, version = project_facts(ROOT)
    rows = [
        "# Notebooks",
        "",
        "As they are stored, with their outputs.",
        "",
        "| notebook | | |",
        "|---|---|---|",
    ]
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"]
        title = "".join(first).split("\n")[0].removeprefix("# ")
        stored = f"[{path.stem}]({url}/blob/v{version}/notebooks/{path.name})"
        rows.append(f"| {stored} | {title} | [Colab]({colab_address(ROOT, path.stem)}) |")
    return "\n".join(rows) + "\n"


def _room(module: str) -> str:
    """A room and what it exports; of the laboratory each module."""
    if module != "drrlib.lab":
        return f"::: {module}\n"
    folder = ROOT / "drrlib" / "lab"
    inside = sorted(
        path.stem
        for path in folder.iterdir()
        if not path.name.startswith("_")
        and (path.suffix == ".py" or (path / "__init__.py").exists())
    )
    options = "    options:\n      heading_level: 2\n"
    return "# drrlib.lab\n\n" + "\n".join(f"::: drrlib.lab.{name}\n{options}" for name in inside)
