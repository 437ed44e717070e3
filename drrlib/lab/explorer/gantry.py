"""The C-arm as a person moves it, step by step and back; and what is said on the way."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from drrlib.arrays import Numbers
from drrlib.errors import ConfigError, DrrlibError
from drrlib.geometry import CArm
from drrlib.lab.explorer import placement as placing
from drrlib.lab.explorer.placement import Frames, Placement
from drrlib.registration import RegistrationResult
from drrlib.view import View
from drrlib.volume import Volume

_UNDO = 200  # placements that are kept


@dataclass(frozen=True)
class Status:
    """What the status line says.

    Attributes:
        text: One sentence.
        kind: "ready", "busy", "warning" or "error".
        details: The traceback of what failed, if it failed.
    """

    text: str = ""
    kind: str = "ready"
    details: str = ""


class Gantry:
    """A placement that is moved by name, with undo, a status line and watchers.

    Angles are radians and lengths mm, but where `degrees=True` says degrees.

    Args:
        volume, views: As in `Explorer`, checked.
        start: Parameters eta [6] of the first view; None for what the view knows, else AP.
        carms: One for each view, or one where there is none.
    """

    def __init__(
        self,
        volume: Volume,
        views: Sequence[View],
        start: Numbers | None,
        carms: tuple[CArm, ...],
    ):
        self.volume, self.views = volume, tuple(views)
        self.frames = Frames(volume, self.views)
        self.presets = placing.presets(self.views, volume)
        first = self.presets.get("header", self.presets["AP"])
        first = first if start is None else placing.as_eta(start)
        self.placement = Placement(first.clone(), carms)
        self.step = 1.0
        self.result: RegistrationResult | None = None
        self.status = Status("move the sliders until both images agree")
        self._pose: tuple[Placement, Tensor] | None = None
        self._undo: list[Placement] = []
        self._gesture: tuple | None = None  # what is being dragged; one undo takes all of it back
        self._watchers: list[Callable[[bool], Any]] = []

    @property
    def active(self) -> int:
        """Index of the view that is looked at."""
        return self.placement.active

    @property
    def carm(self) -> CArm:
        """Of the active view, with the lengths that were set."""
        return self.placement.carms[self.active]

    @property
    def eta(self) -> Float[Tensor, "6"]:
        """Parameters of the active view (rad, mm)."""
        return self.placement.eta.clone()

    @property
    def pose(self) -> Float[Tensor, "4 4"]:
        """world_from_camera of the active view."""
        if self._pose is None or self._pose[0] is not self.placement:
            self._pose = (self.placement, self.frames.pose(self.placement))
        return self._pose[1].clone()

    @property
    def numbers(self) -> dict[str, float]:
        """Parameters and lengths of the active view by name, in degrees and mm."""
        return placing.numbers(self.placement)

    def move(self, *, degrees: bool = False, **values: float) -> None:
        """Set parameters (theta, phi, gamma, bx, by, bz) and lengths (sdd, sod) by name.

        Raises:
            ConfigError, GeometryError: an unknown name, or what no C-arm can be.
        """
        self._gesture = None
        self._place(placing.changed(self.placement, values, degrees))

    def drag(self, name: str, value: float) -> None:
        """One value of a movement that goes on, in degrees or mm; `rest` ends it, and one `undo`
        takes it back as a whole."""
        new = placing.changed(self.placement, {name: value}, degrees=True)
        going_on = self._gesture == (name, self.active)
        self._gesture = (name, self.active)
        self._place(new, remember=not going_on, moving=True)

    def rest(self) -> None:
        """What moved is where it shall be: it is shown with all pixels."""
        self._gesture = None
        self._changed()

    def nudge(self, name: str, sign: int) -> None:
        """One parameter or length by one `step`, up or down."""
        self._gesture = None
        self._place(placing.nudged(self.placement, name, sign * self.step))

    def go_to(self, preset: str) -> None:
        """A pose by name: "AP", "lateral", or "header" where the first view knows its start.

        Raises:
            ConfigError: there is no such pose.
        """
        if preset not in self.presets:
            raise ConfigError(f"no pose is called {preset!r}; there are {', '.join(self.presets)}")
        self._gesture = None
        target = self.presets[preset].clone()
        if preset == "header" and self.active != 0:  # it is the first view's
            first = self.frames.activate(self.placement, 0)
            told = Placement(target, first.carms, 0)
            self._place(self.frames.activate(told, self.active))
        else:
            self._place(Placement(target, self.placement.carms, self.active))

    def look_at(self, k: int) -> None:
        """Show view k. The placement stays; parameters are told by that view from now on."""
        if not 0 <= k < len(self.placement.carms):
            raise ConfigError(f"view is {k}; expected 0 to {len(self.placement.carms) - 1}")
        self.placement, self._gesture = self.frames.activate(self.placement, k), None
        self._changed()

    def set_step(self, step: float) -> None:
        """Of step keys, in degrees or mm."""
        if not 0 < float(step) < float("inf"):
            raise ConfigError(f"step is {step}; expected a number above 0, in degrees or mm")
        self.step = float(step)

    def undo(self) -> None:
        """Back to where the C-arm was before the last movement.

        Raises:
            ConfigError: nothing is left to take back.
        """
        if not self._undo:
            raise ConfigError("nothing to undo")
        self._gesture, self.result = None, None
        self.placement = self.frames.activate(self._undo.pop(), self.active)
        self.say("undone")

    def _place(self, new: Placement, remember: bool = True, moving: bool = False) -> None:
        if remember:
            self._undo = [*self._undo, self.placement][-_UNDO:]
        self.placement, self.result = new, None
        warning = placing.warnings_about(self.volume, self.carm, self.pose)
        self.status = Status(warning, "warning" if warning else "ready")
        self._changed(moving)

    def watch(self, watcher: Callable[[bool], Any]) -> None:
        """Call `watcher(moving)` after every change."""
        self._watchers.append(watcher)

    def say(self, text: str, kind: str = "ready") -> None:
        """Put a sentence into the status line."""
        self.status = Status(text, kind)
        self._changed()

    def attempt(self, what: str, action: Callable, *given, **named) -> Any:
        """Do what a button asks for. What fails is told in the status line, with its traceback in
        `status.details`; nothing is raised, since nobody would see it.

        Returns:
            What the action returned, or None where it failed.
        """
        try:
            return action(*given, **named)
        except Exception as error:
            self.failed(what, error)
        self._changed()
        return None

    def failed(self, what: str, error: Exception) -> None:
        """Keep a failure in the status line, without calling the watchers."""
        known = isinstance(error, DrrlibError)
        told = str(error) if known else f"{type(error).__name__}: {error} (unforeseen: see details)"
        details = "".join(traceback.format_exception(error))
        self.status = Status(f"{what}: {told}", "error", details)

    def _changed(self, moving: bool = False) -> None:
        for watcher in self._watchers:
            watcher(moving)
