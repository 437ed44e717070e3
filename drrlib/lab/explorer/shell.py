"""The widgets around an explorer's state; they hold no knowledge of their own."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

from drrlib.arrays import Numbers
from drrlib.geometry import CArm
from drrlib.lab.explorer.canvas import Canvas
from drrlib.lab.explorer.image_controls import ImageControls
from drrlib.lab.explorer.point_controls import PointControls
from drrlib.lab.explorer.pose_controls import PoseControls
from drrlib.lab.explorer.result_controls import ResultControls
from drrlib.lab.explorer.state import Explorer
from drrlib.view import View
from drrlib.volume import Volume

REST = 0.25  # [s] without a movement, after which the image is drawn with all its pixels
_POINTING = ("Region", "Landmarks")  # sections in which crosshairs are needed


def explore(
    volume: Volume,
    views: View | Sequence[View] | None = None,
    start: Numbers | None = None,
    *,
    carm: CArm | None = None,
    **options,
) -> "Panel":
    """Align a CT to X-ray images by hand, in a notebook.

    The last line of a cell shows it. `explore(...).state` is the `Explorer` that code may read and
    drive: `state.eta`, `state.pose`, `state.handed_over()`.

    Args:
        volume: CT as attenuation.
        views: One X-ray image, several of one patient position, or None.
        start: Parameters eta [6] of the first view; None for what the view knows, else AP.
        carm: The C-arm, where there is no view.
        options: As in `Explorer`: loss, backend, method, budget.

    Raises:
        ConfigError, ShapeError: what is wrong with which argument.
    """
    return Panel(Explorer(volume, views, start=start, carm=carm, **options))


class Panel:
    """An explorer in a notebook: one image, and core ipywidgets beside it.

    Attributes:
        state: The explorer.
        widget: The box with everything.
    """

    def __init__(self, state: Explorer):
        self.state, self.canvas = state, Canvas(state)
        self._lock = threading.RLock()  # newer kernels call widgets from threads of their own
        self._depth = 0
        self._later: asyncio.TimerHandle | None = None
        shared = (state, self.do, lambda: self._depth > 0)
        self.pose = PoseControls(*shared)
        self.looks = ImageControls(*shared)
        self.points = PointControls(*shared, bounds=self.canvas.slices.bounds())
        self.results = ResultControls(*shared)
        self.image = widgets.Image(
            format="jpeg", layout=widgets.Layout(width="auto", height="auto", object_fit="contain")
        )
        self.folds = _folds(
            {
                "Pose": self.pose.box,
                "Grey levels": self.looks.box,
                "Region": self.points.regions,
                "Landmarks": self.points.landmarks,
                "C-arm lengths": self.pose.lengths,
                "Registration": self.results.options,
                "Pose as text, file": self.results.box,
            }
        )
        self.folds.observe(self._folded, "selected_index")
        self.widget = self._laid_out()
        state.watch(self.refresh)
        self.refresh(False)

    def _laid_out(self) -> widgets.VBox:
        left = widgets.VBox(
            [self.looks.modes, self.image],
            layout=widgets.Layout(flex="3 1 520px", min_width="0", overflow="hidden"),
        )
        right = widgets.VBox(
            [self.results.buttons, self.results.line, self.folds],
            layout=widgets.Layout(flex="2 1 400px", min_width="340px", overflow="hidden"),
        )
        both = widgets.HBox(
            [left, right], layout=widgets.Layout(flex_flow="row wrap", align_items="flex-start")
        )
        return widgets.VBox([both])

    def do(self, what: str, action: Callable, *given) -> Any:
        """Carry out what a widget asks for; a failure shows in the status line."""
        with self._lock:
            return self.state.attempt(what, action, *given)

    def refresh(self, moving: bool = False) -> None:
        """Draw the state: coarse where it moves, and fine as soon as it rests."""
        with self._lock:
            self._cancel()
            try:
                value, kind = self.canvas.encoded(moving)
                with self.image.hold_sync():
                    self.image.format, self.image.value = kind, value
                self._sync(moving)
            except Exception as error:  # told, since nobody else would see it
                self.state.failed("drawing", error)
                self.results.tell()
            if moving:
                self._rest_later()

    def _sync(self, moving: bool) -> None:
        self._depth += 1
        try:
            for controls in (self.pose, self.looks, self.points, self.results):
                controls.sync(moving)
        finally:
            self._depth -= 1

    def _rest_later(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no notebook around: nothing would ever call
            self.state.rest()
            return
        self._later = loop.call_later(REST, lambda: self.do("drawing", self.state.rest))

    def _cancel(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None

    def _folded(self, change) -> None:
        index = change["new"]
        title = None if index is None else self.folds.get_title(index)
        self.do("crosshairs", self.state.set_pointing, title in _POINTING)

    def __repr__(self) -> str:
        return f"Panel({self.state!r}); run the cell in a notebook to move it"

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, Any]:
        view = dict(version_major=2, version_minor=0, model_id=self.widget.model_id)
        return {"text/plain": repr(self), "application/vnd.jupyter.widget-view+json": view}


def _folds(sections: dict[str, widgets.Widget]) -> widgets.Accordion:
    made = widgets.Accordion(list(sections.values()), selected_index=0)
    for index, title in enumerate(sections):
        made.set_title(index, title)
    return made
