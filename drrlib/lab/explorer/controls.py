"""What all groups of widgets share: buttons, fields and sliders that ask the state, and follow it.

Only core ipywidgets of versions 7.7 and 8 are used, so that Colab, JupyterLab, Notebook 7 and VS
Code show them as they come.
"""

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

from drrlib.lab.explorer.state import Explorer

SLIDER = dict(readout=False, continuous_update=True)
_DIGITS = 3  # of number fields


class Controls:
    """A group of widgets; `box` shows them.

    Args:
        state: What they change.
        do: `do(what, action, *given)` carries out an action and tells of failures.
        syncing: Whether widgets are being set to what the state says, so that their changes are
            nobody's wish.
    """

    def __init__(self, state: Explorer, do: Callable[..., Any], syncing: Callable[[], bool]):
        self.state, self.do, self.syncing = state, do, syncing

    def button(
        self,
        text: str,
        action: Callable[[], Any],
        tip: str = "",
        width: str = "auto",
        style: str = "",
    ) -> widgets.Button:
        """A button that carries out an action."""
        made = widgets.Button(
            description=text,
            tooltip=tip or text,
            button_style=style,
            layout=widgets.Layout(width=width, flex="0 0 auto", padding="0 8px"),
        )
        made.on_click(lambda _: self.do(text, action))
        return made

    def follow(self, widget: widgets.Widget, what: str, action: Callable[[Any], Any]) -> None:
        """Carry out `action(new value)` where a person changes a widget."""

        def changed(change) -> None:
            if not self.syncing():
                self.do(what, action, change["new"])

        widget.observe(changed, "value")

    def slide(
        self, bar: widgets.FloatSlider, what: str, value: Callable, action: Callable[[float], Any]
    ) -> None:
        """As `follow`, for a slider that shows `value()`.

        The browser sets a slider to a whole number of its steps and sends that back as if a person
        had moved it; so a change within one step is none.
        """
        self.follow(bar, what, lambda new: action(new) if _apart(bar, new, value()) else None)


def put_slider(bar: widgets.FloatSlider, value: float) -> None:
    """Set a slider where it stands more than a step away."""
    if _apart(bar, bar.value, value):
        bar.value = min(max(value, bar.min), bar.max)


def _apart(bar: widgets.FloatSlider, a: float, b: float) -> bool:
    return abs(a - b) > bar.step


def number(value: float = 0.0, step: float = 1.0, width: str = "82px") -> widgets.FloatText:
    """A number field, which takes keys: digits and Enter, or the arrows up and down."""
    return widgets.FloatText(
        value=round(value, _DIGITS),
        step=step,
        layout=widgets.Layout(width=width, flex="0 0 auto"),
    )


def slider(low: float, high: float, value: float, step: float) -> widgets.FloatSlider:
    """A slider that tells of each movement."""
    layout = widgets.Layout(flex="1 1 80px", min_width="60px", width="auto")
    return widgets.FloatSlider(value=value, min=low, max=high, step=step, layout=layout, **SLIDER)


def label(text: str, width: str = "104px") -> widgets.HTML:
    """A name before a row."""
    told = f'<span style="font-size:12px;white-space:nowrap">{text}</span>'
    return widgets.HTML(told, layout=widgets.Layout(width=width, flex="0 0 auto"))


def row(*children: widgets.Widget, wrap: bool = False) -> widgets.HBox:
    """Widgets side by side."""
    layout = widgets.Layout(align_items="center", flex_flow="row wrap" if wrap else "row nowrap")
    return widgets.HBox(children, layout=layout)


def column(children: Sequence[widgets.Widget]) -> widgets.VBox:
    """Widgets below each other."""
    return widgets.VBox(list(children), layout=widgets.Layout(overflow="hidden"))


def put(widget: widgets.Widget, value: Any) -> None:
    """Set a widget's value where it says something else."""
    if isinstance(value, float) and isinstance(widget, widgets.FloatText):
        value = round(value, _DIGITS)
    if widget.value != value:
        widget.value = value


def put_range(widget: widgets.Widget, low: float, high: float, value: Any) -> None:
    """Set a slider's ends, in an order that never crosses them, and its value."""
    if low > widget.max:
        widget.max, widget.min = high, low
    else:
        widget.min, widget.max = low, high
    widget.value = value
