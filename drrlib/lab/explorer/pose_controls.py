"""Widgets that move the C-arm: presets, step keys, sliders and number fields."""

import ipywidgets as widgets

from drrlib.geometry import PARAMETERS
from drrlib.lab.explorer.controls import (
    Controls,
    column,
    label,
    number,
    put,
    put_range,
    put_slider,
    row,
    slider,
)
from drrlib.lab.explorer.placement import ADJUSTABLE, STEPS

_NAMES = {
    "theta": "cranial + <i>theta</i>",
    "phi": "LAO + <i>phi</i>",
    "gamma": "turn <i>gamma</i>",
    "bx": "left + <i>bx</i>",
    "by": "back + <i>by</i>",
    "bz": "head + <i>bz</i>",
    "sdd": "source-detector",
    "sod": "source-isocentre",
}
_REACH = 60  # steps from a slider's middle to its ends


class PoseControls(Controls):
    """Six parameters; `box` for the pose, `lengths` for the C-arm's lengths."""

    def __init__(self, *shared):
        super().__init__(*shared)
        self.sliders, self.fields = {}, {}
        self._reach = {}
        rows = {name: self._row(name) for name in (*PARAMETERS, *ADJUSTABLE)}
        self.step = widgets.Dropdown(
            options=[(f"{s:g}", s) for s in STEPS],
            value=self.state.step,
            layout=widgets.Layout(width="70px", flex="0 0 auto"),
        )
        self.follow(self.step, "step", self.state.set_step)
        presets = [
            self.button(
                "from the header" if name == "header" else name,
                lambda name=name: self.state.go_to(name),
                f"to the pose {name!r}",
            )
            for name in self.state.presets
        ]
        top = row(*presets, label("&nbsp;step [°, mm]", "84px"), self.step, wrap=True)
        hint = label("Sliders; or a number and Enter; or arrow keys in a field.", "auto")
        self.box = column([top, *(rows[name] for name in PARAMETERS), hint])
        warn = label(
            "A wrong length moves the depth. Change it only if the header lacks it.", "auto"
        )
        self.lengths = column([*(rows[name] for name in ADJUSTABLE), warn])

    def _row(self, name: str) -> widgets.HBox:
        state = self.state
        value = state.numbers[name]
        self.sliders[name] = slider(value - _REACH, value + _REACH, value, 0.1)
        self.fields[name] = number(value)
        bar = self.sliders[name]
        self.slide(bar, name, lambda: state.numbers[name], lambda new: state.drag(name, new))
        self.follow(self.fields[name], name, lambda new: state.move(degrees=True, **{name: new}))
        keys = [
            self.button(sign, lambda s=step: state.nudge(name, s), f"{name} by a step", "30px")
            for sign, step in (("−", -1), ("+", 1))
        ]
        unit = label("°" if name in PARAMETERS[:3] else "mm", "22px")
        parts = (keys[0], self.sliders[name], keys[1], self.fields[name], unit)
        return row(label(_NAMES[name]), *parts)

    def sync(self, moving: bool) -> None:
        """Follow the state. The ends of sliders stay while something moves."""
        reach = _REACH * self.state.step
        put(self.step, self.state.step) if self.state.step in STEPS else None
        for name, value in self.state.numbers.items():
            bar = self.sliders[name]
            put(self.fields[name], value)
            if self.fields[name].step != self.state.step:
                self.fields[name].step = self.state.step
            near = bar.min + 0.1 * reach <= value <= bar.max - 0.1 * reach
            if not moving and (not near or self._reach.get(name) != reach):
                bar.step = min(0.1, 0.1 * self.state.step)
                put_range(bar, value - reach, value + reach, value)
                self._reach[name] = reach
            else:
                put_slider(bar, value)
