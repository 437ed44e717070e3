"""Align a CT to X-ray images by hand, in a notebook, and hand the pose over.

    panel = explore(ct, xray)  # the last line of a cell shows it
    panel.state.handed_over().save("pose.json")

What it knows and does is an `Explorer`, which needs no browser; widgets stand around it. Only core
ipywidgets and one image are used, so nothing has to be installed into Colab, JupyterLab, Notebook 7
or VS Code. The price: without an extension the mouse over an image tells Python nothing, so points
are placed with a crosshair that sliders, number fields and arrow keys move.
"""

from drrlib.lab.explorer.canvas import Canvas
from drrlib.lab.explorer.compose import MODES, compose
from drrlib.lab.explorer.shell import Panel, explore
from drrlib.lab.explorer.state import Explorer

__all__ = ["MODES", "Canvas", "Explorer", "Panel", "compose", "explore"]
