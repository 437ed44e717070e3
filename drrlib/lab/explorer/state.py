"""All that an explorer knows and does; nothing here draws widgets, and no browser is needed.

`drrlib.lab.explorer.explore` puts widgets around it. Code may drive it beside them:

    state = explore(ct, xray).state
    state.move(theta=5, bx=-10, degrees=True)
    state.draw("circle", [(100, 100)], radius_mm=80)
    found = state.register()
"""

import os
from collections.abc import Callable, Sequence

import numpy as np
import torch

from drrlib.arrays import Numbers
from drrlib.errors import ConfigError
from drrlib.geometry import CArm
from drrlib.lab.explorer.compose import check_mode, good_window
from drrlib.lab.explorer.handover import handed_over, views_of
from drrlib.lab.explorer.placement import Placement
from drrlib.lab.explorer.pointing import Pointing
from drrlib.lab.explorer.sights import Look, Sights, check_views
from drrlib.lab.threads import limited_threads
from drrlib.registration import RegistrationResult, register
from drrlib.similarity import get_loss
from drrlib.view import View
from drrlib.volume import Volume

_DEFAULT = dict(sdd=1020.0, sod=510.0, pixels=200, extent=400.0)  # [mm] without an X-ray image
_TRACE = 300  # losses that are kept


class Explorer(Pointing):
    """A CT that is aligned by hand to one or several X-ray images.

    Angles are radians and lengths mm, but where `degrees=True` says degrees.

    Args:
        volume: CT as attenuation.
        views: One X-ray image, or several of one patient position whose `pose`s say how the cameras
            stood to each other; None to look at DRRs alone.
        start: Parameters eta [6] of the first view; None for what the view knows, else AP.
        carm: The C-arm, where there is no view.
        loss: Name in `similarity.LOSSES`, or a function; shown live.
        backend, method: As in `DRR`.
        budget: Milliseconds that a DRR may take while something moves; it gets as many pixels as
            that allows.

    Attributes:
        placement: Where the C-arm is; `eta`, `pose` and `carm` read it.
        mode: Of `compose.MODES`.
        windows: (black, white) of the X-ray image and of the DRR, in their own grey values.
        negative: Whether dense is shown dark.
        step: Of step keys, degrees or mm.
        pointing, cursor, spot, radius_mm, marks, areas: As in `Pointing`.
        trace: (loss, whether at rest), newest last.
        result: Of the last registration, while the pose is its.
        status: What the status line says.

    Raises:
        ConfigError, ShapeError: what is wrong with which argument.
    """

    def __init__(
        self,
        volume: Volume,
        views: View | Sequence[View] | None = None,
        *,
        start: Numbers | None = None,
        carm: CArm | None = None,
        loss: str | Callable = "zncc",
        backend: str = "auto",
        method: str = "siddon",
        budget: float = 30.0,
    ):
        if not isinstance(volume, Volume):
            raise ConfigError(f"volume is a {type(volume).__name__}; expected a Volume")
        views = check_views(views)
        if views and carm is not None:
            raise ConfigError("got a C-arm and views, which have their own; give one of the two")
        carms = tuple(v.carm for v in views) or (carm or CArm.square(**_DEFAULT),)
        super().__init__(volume, views, start, carms)
        self.sights = Sights(volume, carms[0], backend=backend, method=method, budget=budget)
        self.loss = get_loss(loss)
        self.mode = "overlay" if views else "DRR"
        self.negative = False
        self.trace: list[tuple[float, bool]] = []
        self._look: tuple[tuple, Look] | None = None
        self._windows = [None] * len(carms)

    def __repr__(self) -> str:
        told = ", ".join(f"{n} {x:+.2f}" for n, x in list(self.numbers.items())[:6])
        return f"Explorer({self.volume}, {len(self.views)} X-ray images; {told} [deg, mm])"

    # --- reading -----------------------------------------------------------------------------

    @property
    def windows(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """(black, white) of the X-ray image and of the DRR; found at the first look, then kept."""
        if self._windows[self.active] is None:
            look = self.look()
            fixed = (0.0, 1.0) if look.fixed is None else good_window(look.fixed, look.weights)
            self._windows[self.active] = (fixed, good_window(look.moving))
        return self._windows[self.active]

    def look(self, moving: bool = False) -> Look:
        """The active view as it is now: coarse for what moves, fine for what rests."""
        k, carm = self.active, self.carm
        size = self.sights.size(carm, not moving)
        key = (self.placement, size, self.areas[k].version, self.loss)
        if self._look is not None and self._look[0] == key:
            if self.trace and not moving:
                self.trace[-1] = (self.trace[-1][0], True)
            return self._look[1]
        image = self.sights.render(carm, self.pose, size)
        fixed = weights = loss = None
        if self.views:
            fixed, weights = self.fixed(size)
            pair = [torch.from_numpy(x)[None, None] for x in (fixed, image[0])]
            given = None if weights is None else torch.from_numpy(weights)[None, None]
            # Waking others takes longer than a small image does, more so on a shared processor.
            with limited_threads():
                loss = float(self.loss(*pair, given))
            self.trace = [*self.trace, (loss, not moving)][-_TRACE:]
        fine = size == self.sights.size(carm, True)
        look = Look(image[0], fixed, weights, loss, fine)
        self._look = (key, look)
        return look

    def fixed(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray | None]:
        """The active X-ray image and its weights with so many rows and columns; kept."""
        key = (self.active, self.areas[self.active].version)
        return self.sights.fixed(key, lambda: self.view, size)

    # --- showing -----------------------------------------------------------------------------

    def show(self, mode: str) -> None:
        """Choose a mode of `compose.MODES`."""
        self.mode = check_mode(mode, bool(self.views))
        self._changed()

    def set_window(
        self, *, xray: Sequence[float] | None = None, drr: Sequence[float] | None = None
    ) -> None:
        """(black, white) of the X-ray image or of the DRR, in their own grey values."""
        old = self.windows
        given = zip(old, (xray, drr), strict=True)
        new = [before if now is None else tuple(map(float, now)) for before, now in given]
        if any(len(w) != 2 or not np.isfinite(w).all() for w in new):
            raise ConfigError(f"windows are {new}; expected two finite numbers, black and white")
        self._windows[self.active] = tuple(new)
        self._changed()

    def auto_window(self) -> None:
        """Windows that suit both images as they are now."""
        self._windows[self.active] = None
        self._changed()

    def set_negative(self, negative: bool) -> None:
        """Show dense as dark, or as bright."""
        self.negative = bool(negative)
        self._changed()

    # --- registering and handing over --------------------------------------------------------

    def register(
        self,
        preset: str | None = None,
        *,
        search: tuple[float, float] = (15.0, 30.0),
        only: bool = False,
    ) -> RegistrationResult:
        """Register all views from where the C-arm is, and move it there.

        Args:
            preset: As in `drrlib.register`; None lets it choose.
            search: How far the pose may be: angles [degrees] and shifts [mm].
            only: As in `drrlib.register`.

        Raises:
            ConfigError, ShapeError: as `drrlib.register`; and no X-ray image.
        """
        self._need_view()
        self.say("registering ...", "busy")
        views, carms = views_of(self), self.placement.carms
        start = self.frames.eta(self.placement, 0)
        reach = (float(torch.deg2rad(torch.tensor(float(search[0])))), float(search[1]))
        backend = self.sights.drr.backend
        found = register(
            views, self.volume, start, preset=preset, search=reach, backend=backend, only=only
        )
        self._gesture = None
        self._place(self.frames.activate(Placement(found.eta, carms, 0), self.active))
        self.result = found
        self.say(str(found), "ready" if found.converged else "warning")
        return found

    def handed_over(self) -> RegistrationResult:
        """The first view's pose as a result: that of `register` where the pose is still its, else
        one that says it was placed by hand."""
        return self.result if self.result is not None else handed_over(self)

    def save(self, path: str | os.PathLike) -> str:
        """Write the first view's pose as JSON, which `RegistrationResult.load` reads.

        Raises:
            ConfigError: the file cannot be written.
        """
        if not str(path).strip():
            raise ConfigError("the file has no name; expected one such as pose.json")
        try:
            written = self.handed_over().save(path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
        self.say(f"saved {written.name}")
        return str(written)

    def pose_text(self) -> str:
        """eta and world_from_camera of the active view, as Python that can be pasted."""
        rows = ",\n    ".join(str([round(x, 6) for x in row]) for row in self.pose.tolist())
        angles = self.numbers
        told = ", ".join(f"{n}={angles[n]:.4f}" for n in ("theta", "phi", "gamma"))
        b = ", ".join(f"{angles[n]:.4f}" for n in ("bx", "by", "bz"))
        return (
            f"eta({told}, b=({b}), degrees=True)\n"
            f"# eta in rad and mm\n{[round(x, 9) for x in self.eta.tolist()]}\n"
            f"# world_from_camera [mm]\n[\n    {rows},\n]"
        )
