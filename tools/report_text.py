"""The report page's text: markdown of notebooks as HTML without anything active, and numbers."""

import math
import re

import mistune
from latex2mathml.converter import convert
from markupsafe import Markup, escape
from mistune.plugins.math import math as math_syntax
from mistune.plugins.table import table as table_syntax

NOTEBOOKS = "../../notebooks/"  # their folder, as seen from results/<profile>/


class Renderer(mistune.HTMLRenderer):
    """Raw HTML is shown as text, links lead where they lead from the notebook, no images."""

    def __init__(self):
        super().__init__(escape=True)

    def link(self, text, url, title=None):
        relative = not re.match(r"[a-zA-Z][\w+.-]*:|[#/]", url)
        return super().link(text, NOTEBOOKS + url if relative else url, title)

    def image(self, text, url, title=None):
        return escape(text)  # the page loads nothing

    def heading(self, text, level, **attributes):
        return super().heading(text, min(level + 1, 6))  # the page has its own title above

    def inline_math(self, text):
        return formula(text, "inline")

    def block_math(self, text):
        return f'<div class="scroll">{formula(text.strip(), "block")}</div>'


def formula(tex: str, display: str) -> str:
    """MathML, which browsers draw themselves; TeX that is not understood stays as it is."""
    if not re.search(r"[<>&]|\\href", tex):  # the converter would pass these on unescaped
        try:
            return convert(tex, display=display)
        except Exception:  # a class per kind of syntax error, without a common base
            return f"<code>{escape(tex)}</code>"
    return f"<code>{escape(tex)}</code>"


def to_html(markdown: str) -> Markup:
    """Markdown with tables and formulas as HTML that is safe to put on the page."""
    parse = mistune.create_markdown(renderer=Renderer(), plugins=[math_syntax, table_syntax])
    return Markup(parse(markdown))


def inline_html(markdown: str) -> Markup:
    """One paragraph, without the paragraph's own tags."""
    return Markup(to_html(markdown).strip().removeprefix("<p>").removesuffix("</p>"))


def heading(markdown: str) -> dict:
    """Title, facts ("Reproduces", "Needs", "Time", "Writes") and the rest of a header."""
    first, *lines = markdown.split("\n")
    facts, rest = {}, []
    for line in lines:
        named = re.match(r"[-*_ ]*(Reproduces|Needs|Time|Writes)\b[*_:]*\s*(.*)", line)
        if named:
            facts[named[1]] = named[2]
        elif facts and not rest and line.startswith("  "):
            facts[list(facts)[-1]] += line[1:]  # the item goes on
        elif (line and not line.startswith("[![Open in Colab]")) or rest:
            rest.append(line)
    return {
        "title": first.lstrip("# "),
        "facts": {name: inline_html(text) for name, text in facts.items()},
        "header": to_html("\n".join(rest)),
    }


def number(value) -> str:
    """Four significant digits; whole numbers as they are; nothing for what is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, float) or math.isinf(value):
        return str(value)
    if value.is_integer() and abs(value) < 1e6:
        return str(int(value))
    return f"{float(f'{value:.4g}'):g}"  # 12340, not 1.234e+04
