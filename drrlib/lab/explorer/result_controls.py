"""Widgets that register, undo, and hand the pose over."""

from html import escape

import ipywidgets as widgets

from drrlib.lab.explorer.controls import Controls, column, label, number, put, row
from drrlib.registration import PRESETS

_AUTO = "auto"
_COLOURS = {"ready": "#2e7d32", "busy": "#1565c0", "warning": "#b26a00", "error": "#c62828"}


class ResultControls(Controls):
    """`buttons` and `line` are always seen; `options` and `box` fold out."""

    def __init__(self, *shared):
        super().__init__(*shared)
        state = self.state
        self.preset = widgets.Dropdown(
            options=[("as the images ask for", _AUTO), *((p, p) for p in PRESETS)],
            value=_AUTO,
            layout=widgets.Layout(width="190px"),
        )
        self.degrees, self.mm = number(15.0, 5.0), number(30.0, 5.0)
        self.only = widgets.Checkbox(
            value=False, description="the CT is one bone among others", indent=False
        )
        reach = row(label("looks within ±"), self.degrees, label("°", "16px"), self.mm, label("mm"))
        self.options = column([row(label("preset"), self.preset), reach, self.only])
        self.register = self.button(
            "Register from here",
            self._register,
            "look for the pose around this one",
            style="primary",
        )
        self.register.disabled = not state.views
        undo = self.button("Undo", state.undo, "take the last movement back")
        self.loss = widgets.HTML(layout=widgets.Layout(margin="0 0 0 12px"))
        self.buttons = row(self.register, undo, self.loss)
        self.line = widgets.HTML()
        self.text = widgets.Textarea(rows=11, layout=widgets.Layout(width="auto", height="190px"))
        self.file = widgets.Text(value="pose.json", layout=widgets.Layout(width="170px"))
        self.box = column(
            [
                row(self.button("Copy pose", self._copy, "write it into the field below")),
                self.text,
                row(self.file, self.button("Save", lambda: state.save(self.file.value))),
            ]
        )

    def _register(self) -> None:
        self.register.disabled = True
        try:
            reach = (self.degrees.value, self.mm.value)
            preset = None if self.preset.value == _AUTO else self.preset.value
            self.state.register(preset, search=reach, only=self.only.value)
        finally:
            self.register.disabled = False

    def _copy(self) -> None:
        self.text.value = self.state.pose_text()
        self.state.say("the pose is in the field: click into it, select all, copy")

    def sync(self, moving: bool) -> None:
        """Follow the state."""
        state = self.state
        if not moving:
            put(self.text, state.pose_text())
        told = "" if not state.trace else f"loss <b>{state.trace[-1][0]:.4g}</b>"
        put(self.loss, told)
        self.tell()

    def tell(self) -> None:
        """Bring the status line up to date, and nothing else."""
        put(self.line, status_html(self.state.status))


def status_html(status) -> str:
    """The status line; a traceback folds out below it."""
    colour = _COLOURS[status.kind]
    told = (
        f'<div style="border-left:5px solid {colour};padding:3px 8px;line-height:1.4;'
        f'white-space:normal"><b style="color:{colour}">{status.kind}</b> {escape(status.text)}'
    )
    if status.details:
        told += (
            "<details><summary>details</summary>"
            f'<pre style="font-size:11px;overflow:auto">{escape(status.details)}</pre></details>'
        )
    return told + "</div>"
