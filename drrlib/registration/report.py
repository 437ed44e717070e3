"""A registration on one page, for a person to judge."""

import base64
import datetime
import hashlib
import html
import io
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from drrlib.atomic import write_whole
from drrlib.errors import ConfigError
from drrlib.geometry import CArm
from drrlib.registration.evidence import gather
from drrlib.registration.report_figure import (
    WIDTH,
    draw_view,
    height_of,
    matplotlib_figure,
    page,
)
from drrlib.registration.report_words import Words, words
from drrlib.versions import installed_version
from drrlib.view import View, as_views
from drrlib.volume import Volume

REPORTS = (".html", ".png", ".pdf")
_DPI = 110
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{headline}</title>
<meta name="viewport" content="width=device-width">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1210px; margin: 1.5em auto; padding: 0 1em;
  color: #222; background: #fff; }}
h1 {{ font-size: 1.35em; color: #fff; background: {colour}; padding: .6em .8em;
  border-radius: .3em; }}
h2 {{ font-size: 1.1em; margin-top: 1.6em; }}
table {{ border-collapse: collapse; }}
td {{ padding: .25em 1.2em .25em 0; vertical-align: top; border-bottom: 1px solid #ddd; }}
td:first-child {{ color: #555; white-space: nowrap; }}
img {{ width: 100%; }}
small, .from td {{ font-size: .85em; color: #555; }}
</style></head><body>
<h1>{headline}</h1>
<p>{meaning}</p>
{facts}
{pictures}
<h2>How to read the pictures</h2>
<ul>{look}</ul>
{notes}
<h2>Where this comes from</h2>
<div class="from">{source}</div>
<p><small>Not a medical device. The stated error covers what the image shows of itself; a wrong
source-detector distance, pixel size or a bone that moved since the CT is not in it.</small></p>
</body></html>
"""


def write_report(
    result, path: str | os.PathLike, views: View | Sequence[View], volume: Volume, names=()
) -> Path:
    """See `RegistrationResult.report`."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in REPORTS:
        raise ConfigError(f"{path.name!r} ends in none of {', '.join(REPORTS)}")
    matplotlib_figure()
    found = gather(result, views, volume)
    said = words(result, [x.likeness for x in found])
    if suffix == ".html":
        views = as_views(views)
        text = _html(result, found, said, views, _source(result, views, volume, names))
        write_whole(path, lambda name: name.write_text(text, encoding="utf-8", newline="\n"))
        return path
    made = page(result, found, said)
    kind = suffix[1:]
    write_whole(path, lambda name: made.savefig(name, format=kind, dpi=_DPI))
    return path


def figure(result, views: View | Sequence[View], volume: Volume):
    """See `RegistrationResult.show`."""
    matplotlib_figure()
    found = gather(result, views, volume)
    return page(result, found, words(result, [x.likeness for x in found]))


def _html(result, found, said: Words, views: list[View], source) -> str:
    pictures = []
    for k, one in enumerate(found):
        made = matplotlib_figure()(figsize=(WIDTH, height_of(one)), layout="constrained")
        draw_view(made, one, result if k == 0 else None)
        buffer = io.BytesIO()
        made.savefig(buffer, format="png", dpi=_DPI)
        data = base64.b64encode(buffer.getvalue()).decode()
        title = f"<h2>View {k + 1} of {len(found)}</h2>" if len(found) > 1 else ""
        alt = (
            f"pictures of view {k + 1}: image, CT, edges, overlay, checkerboard, what is left over"
        )
        pictures.append(f'{title}<p><img alt="{alt}" src="data:image/png;base64,{data}"></p>')
    notes = [note for view in views for note in view.notes]
    listed = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return _PAGE.format(
        headline=html.escape(said.headline),
        colour="#1b6e3c" if result.converged else "#a33327",
        meaning=html.escape(said.meaning),
        facts=_table(said.facts),
        pictures="\n".join(pictures),
        look="".join(f"<li>{html.escape(text)}</li>" for text in said.look),
        notes=f"<h2>What was assumed when the image was read</h2><ul>{listed}</ul>"
        if notes
        else "",
        source=_table(source),
    )


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = (f"<tr><td>{html.escape(a)}</td><td>{html.escape(b)}</td></tr>" for a, b in rows)
    return f"<table>{''.join(cells)}</table>"


def _source(result, views: list[View], volume: Volume, names) -> list[tuple[str, str]]:
    """Versions, sizes, fingerprints of the numbers; nothing of a patient."""
    size = " x ".join(map(str, volume.shape))
    spacing = " x ".join(f"{x:.3g}" for x in volume.spacing.tolist())
    rows = [("Files", ", ".join(map(str, names)))] if names else []
    rows.append(("CT", f"{size} voxels of {spacing} mm; fingerprint {_print(volume.mu)}"))
    for k, view in enumerate(views):
        carm = result.carm if k == 0 else view.carm
        kind = "C-arm" if isinstance(carm, CArm) else type(carm).__name__
        lengths = f"source to detector {float(carm.sdd):.5g} mm, to isocentre {float(carm.sod):.5g}"
        pixels = f"{carm.width} x {carm.height} pixels of {float(carm.delx):.4g} mm"
        text = f"{pixels}; {kind}, {lengths} mm; fingerprint {_print(view.image)}"
        rows.append((f"X-ray image {k + 1}" if len(views) > 1 else "X-ray image", text))
    how = f"preset {result.preset or 'none'}, {result.attempts} attempts" + (
        ", one bone among others" if result.only else ""
    )
    rows.append(("Search", f"{how}, {result.renders:.0f} images, {result.seconds:.1f} s"))
    found = {name: installed_version(name) for name in ("torch", "numpy")}
    versions = ", ".join(f"{name} {number}" for name, number in found.items())
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    own = installed_version("drrlib", "of a checkout")
    rows.append(("Made by", f"drrlib {own}, {versions}, Python {platform.python_version()}"))
    rows.append(("When", now))
    return rows


def _print(tensor) -> str:
    """The first digits of SHA-256 of the numbers, by which the same data are known again."""
    data = tensor.detach().cpu().contiguous().numpy().tobytes()
    return hashlib.sha256(data).hexdigest()[:12]
