"""For notebook 17: a stranger's CT and X-ray image, what was understood of them, and a zip to keep.

Nothing here leaves the machine. In Colab files are asked for and handed over by `google.colab`.
"""

from drrlib.lab.own_data.drawings import (
    cut_faces,
    draw_ct,
    draw_edges,
    draw_starts,
    upright,
    view_table,
)
from drrlib.lab.own_data.files import Inputs, example, find_inputs, read_image
from drrlib.lab.own_data.package import CITE, conventions, pack

__all__ = [
    "CITE",
    "Inputs",
    "conventions",
    "cut_faces",
    "draw_ct",
    "draw_edges",
    "draw_starts",
    "example",
    "find_inputs",
    "pack",
    "read_image",
    "upright",
    "view_table",
]
