"""Links of the pages and notebooks lead somewhere, and every public name says what it is.

`make docs` builds the site of them, with tools that `make test` does not need.
"""

import inspect
import re
from functools import cache
from importlib import import_module
from pathlib import Path

import nbformat
import pytest

import notebook_files as files

ROOT = files.ROOT
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
]
ROOMS = sorted(
    ".".join(path.parent.relative_to(ROOT).parts)
    for path in (ROOT / "drrlib").rglob("__init__.py")
    if "__all__" in path.read_text(encoding="utf-8")
)
_LINK = re.compile(r"\]\((?!https?:|mailto:|attachment:)([^)\s]+)\)")


@cache
def text_of(page: Path) -> str:
    """The markdown of a page or notebook without its code."""
    if page.suffix == ".ipynb":
        cells = nbformat.read(page, as_version=4).cells
        return "\n\n".join(c.source for c in cells if c.cell_type == "markdown")
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The anchors of headings, as GitHub makes them."""
    heads = re.findall(r"^#+ +(.+?) *$", text_of(page), re.M)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", r"\1", head).lower() for head in heads]
    return {re.sub(r"[^\w\- ]", "", head).replace(" ", "-") for head in plain}


def dead_links(page: Path) -> list[str]:
    """Relative links of a page that name no file, or no heading of one."""
    dead = []
    for link in _LINK.findall(text_of(page)):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists():
            dead.append(link)
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    assert dead_links(page) == []


def test_a_dead_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A page: `one` of [two](other.md)\n[a](page.md#a-page-one-of-two) [b](#none) "
        "[c](none.md) [d](https://example.org/x)\n```\n[e](none)\n```\n",
        encoding="utf-8",
    )
    assert dead_links(page) == ["other.md", "#none", "none.md"]


def public(room: str) -> list[tuple[str, object]]:
    """What a room exports, and the public methods and properties of its classes."""
    module = import_module(room)
    found = [(f"{room}.{name}", getattr(module, name)) for name in module.__all__]
    for name, thing in list(found):
        if inspect.isclass(thing):
            found += [
                (f"{name}.{key}", member)
                for key, member in vars(thing).items()
                if not key.startswith("_")
                and (inspect.isroutine(member) or isinstance(member, property))
            ]
    return found


def undocumented(things: list[tuple[str, object]]) -> list[str]:
    """Names of functions, classes, methods and properties without a docstring, even inherited."""
    ours = []
    for name, thing in things:
        made = inspect.isclass(thing) or inspect.isroutine(thing) or isinstance(thing, property)
        if made and not (inspect.getdoc(thing) or "").strip():
            ours.append(name)
    return ours


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_say_what_they_are(room):
    assert undocumented(public(room)) == []


def test_what_says_nothing_is_found():
    class Silent:
        def method(self):
            pass

    Silent.__doc__ = None
    assert undocumented([("Silent", Silent), ("method", Silent.method), ("len", len)]) == [
        "Silent",
        "method",
    ]


def test_docstrings_hold_no_link_by_accident():
    """Two brackets in a row, such as a shape and its unit, are a link in markdown: say (mm)."""
    found = []
    for path in sorted((ROOT / "drrlib").rglob("*.py")):
        for block in re.findall(r'"""(.*?)"""', path.read_text(encoding="utf-8"), re.S):
            found += [(path.name, text) for text in re.findall(r"\][ ]\[[a-z].*?\]", block)]
    assert found == []


def test_the_site_has_every_page_and_every_room():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r": ([\w/]+\.md)$", text, re.M))
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name in named, f"mkdocs.yml does not name docs/{page.name}"
    rooms = {room.split(".")[1] for room in ROOMS if "." in room}
    assert {f"api/{room}.md" for room in rooms} <= named
    made = (ROOT / "tools" / "site_pages.py").read_text(encoding="utf-8")
    assert all(f'"{room}": ' in made for room in rooms)


def test_links_of_the_repository_become_links_of_the_site():
    pytest.importorskip("mkdocs", reason="MkDocs is installed by `make docs` alone")
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.exceptions import PluginError
    from mkdocs.structure.files import File, Files
    from mkdocs.structure.pages import Page

    import site_pages

    config = MkDocsConfig()
    config.load_dict({"site_name": "drrlib", "docs_dir": str(ROOT / "docs")})
    config.validate()
    site_pages.on_config(config)
    made = [File(name, str(ROOT / "docs"), "site", True) for name in ("index.md", "io.md")]
    pages, url = Files(made), files.project_facts(ROOT)[0]

    def turned(text: str, file: File) -> str:
        return site_pages.on_page_markdown(text, Page(None, file, config), config, pages)

    first, second = made
    assert (
        turned("[a](docs/io.md#ct) [b](https://x.org)", first) == "[a](io.md#ct) [b](https://x.org)"
    )
    assert turned("[a](../README.md)", second) == "[a](index.md)"
    version = files.project_facts(ROOT)[1]
    assert turned("[a](../data)", second) == f"[a]({url}/tree/v{version}/data)"
    assert turned("[a](LICENSE)", first) == f"[a]({url}/blob/v{version}/LICENSE)"
    with pytest.raises(PluginError, match="names nothing"):
        turned("[a](none.md)", first)
