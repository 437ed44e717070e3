"""Widgets that say how the image is shown: its mode, the view, windows of grey levels."""

import ipywidgets as widgets

from drrlib.lab.explorer.compose import MODES
from drrlib.lab.explorer.controls import Controls, column, label, put, put_range, row

_ROOM = 1.0  # of a window slider beyond the window, in widths of it


class ImageControls(Controls):
    """Modes and views (`modes`), grey levels (`box`)."""

    def __init__(self, *shared):
        super().__init__(*shared)
        state = self.state
        modes = list(MODES) if state.views else ["DRR"]
        self.mode = _choice([(m, m) for m in modes], state.mode, "auto")
        self.follow(self.mode, "mode", state.show)
        views = [(f"view {k + 1}", k) for k in range(len(state.views))]
        self.view = _choice(views or [("DRR", 0)], 0, "auto")
        self.follow(self.view, "view", state.look_at)
        self.modes = row(self.mode, *([self.view] if len(views) > 1 else []), wrap=True)
        self.xray, self.drr = (_levels() for _ in range(2))
        for k, bar in enumerate((self.xray, self.drr)):
            self.follow(bar, "grey levels", lambda new, k=k: self._level(k, new))
        self.negative = widgets.Checkbox(
            value=False, description="dense is dark", indent=False, layout=dict(width="130px")
        )
        self.follow(self.negative, "dense is dark", state.set_negative)
        auto = self.button("suit both images", state.auto_window, "grey levels from the images")
        levels = [row(label("X-ray"), self.xray)] if state.views else []
        self.box = column([*levels, row(label("DRR"), self.drr), row(auto, self.negative)])
        self._shown = None

    def _level(self, k: int, window: tuple[float, float]) -> None:
        """Set one window, unless the browser only rounded it to whole steps of the slider."""
        bar, now = (self.xray, self.drr)[k], sorted(self.state.windows[k])
        if max(abs(a - b) for a, b in zip(window, now, strict=True)) > bar.step:
            self.state.set_window(**{("xray", "drr")[k]: window})

    def sync(self, moving: bool) -> None:
        """Follow the state. The ends of sliders stay while something moves."""
        state = self.state
        put(self.mode, state.mode)
        put(self.view, state.active)
        put(self.negative, state.negative)
        if moving or self._shown == state.windows:
            return
        for bar, (low, high) in zip((self.xray, self.drr), state.windows, strict=True):
            low, high = min(low, high), max(low, high)
            inside = bar.min <= low and high <= bar.max and high - low > 0.1 * (bar.max - bar.min)
            if inside:
                put(bar, (low, high))
            else:
                room = _ROOM * (high - low)
                bar.step = max((high - low) / 200, 1e-9)
                put_range(bar, low - room, high + room, (low, high))
        self._shown = state.windows


def _choice(options: list[tuple], value, width: str) -> widgets.ToggleButtons:
    # Their width follows the text.
    return widgets.ToggleButtons(
        options=options,
        value=value,
        style=dict(button_width=width),
        layout=widgets.Layout(width="auto"),
    )


def _levels() -> widgets.FloatRangeSlider:
    layout = widgets.Layout(flex="1 1 auto", width="auto")
    return widgets.FloatRangeSlider(
        value=(0.0, 1.0), min=-1.0, max=2.0, step=0.01, readout_format=".2f", layout=layout
    )
