"""What is pointed at: crosshairs in image and CT, landmarks, and regions drawn on the image."""

from collections.abc import Sequence

from drrlib.errors import ConfigError
from drrlib.lab.explorer.areas import Area, Areas
from drrlib.lab.explorer.gantry import Gantry
from drrlib.lab.explorer.handover import views_of
from drrlib.lab.explorer.marks import Marks, densest, pose_from_marks
from drrlib.view import View


class Pointing(Gantry):
    """A C-arm that is moved by hand, with what a hand points at and draws; made as a `Gantry`.

    Attributes:
        pointing: Whether crosshairs are drawn.
        cursor: Crosshair in the image (column, row), pixels of the full detector.
        spot: Crosshair in the CT [mm, world].
        radius_mm: Of the next circle, on the detector.
        marks: Landmarks.
        areas: Regions of each view.
    """

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.radius_mm, self.pointing = 20.0, False
        self.spot = tuple(self.volume.center.tolist())
        self.marks, self.areas = Marks(), [Areas() for _ in self.placement.carms]
        self._cursors = [(0.5 * c.width, 0.5 * c.height) for c in self.placement.carms]

    @property
    def cursor(self) -> tuple[float, float]:
        """Crosshair in the active view (column, row)."""
        return self._cursors[self.active]

    @property
    def view(self) -> View | None:
        """The active view with the shapes drawn in it and the lengths that were set, or None."""
        return views_of(self)[self.active] if self.views else None

    def set_pointing(self, pointing: bool) -> None:
        """Draw the crosshairs, or not."""
        self.pointing = bool(pointing)
        self._changed()

    def set_radius(self, radius_mm: float) -> None:
        """Of the next circle [mm, on the detector]."""
        if not 0 < float(radius_mm) < float("inf"):
            raise ConfigError(f"radius_mm is {radius_mm}; expected more than 0 mm on the detector")
        self.radius_mm = float(radius_mm)
        self._changed()

    def point(self, column: float, row: float, moving: bool = False) -> None:
        """Put the crosshair of the active view, in pixels of the full detector."""
        self._cursors[self.active] = (float(column), float(row))
        self._changed(moving)

    def point_in_ct(self, x: float, y: float, z: float, moving: bool = False) -> None:
        """Put the crosshair of the CT [mm, world]."""
        self.spot = (float(x), float(y), float(z))
        self._changed(moving)

    def dive(self) -> None:
        """Put the CT's crosshair on the densest voxel behind the image's crosshair."""
        self.spot = densest(self.volume, self.carm, self.pose, self.cursor)
        self._changed()

    def draw(
        self,
        shape: str,
        points: Sequence[Sequence[float]] | None = None,
        *,
        radius_mm: float | None = None,
        counts: bool = True,
    ) -> None:
        """Draw a region in the active view; it becomes weights.

        Args:
            shape: "circle", "rectangle" or "polygon".
            points: (column, row) of the circle's centre, of two corners, or of three and more;
                None for the crosshair, and for the corners that wait (`add_corner`).
            radius_mm: Of a circle, on the detector; None for `radius_mm` of the explorer.
            counts: Whether what lies inside counts; False leaves it out.

        Raises:
            ConfigError: what no region can be, or no X-ray image.
        """
        self._need_view()
        areas = self.areas[self.active]
        if points is None:
            points = [self.cursor] if shape == "circle" else areas.corners
            waiting = shape != "circle"
        else:
            waiting = False
        points = tuple((float(x), float(y)) for x, y in points)
        radius = self.radius_mm if radius_mm is None else float(radius_mm)
        areas.add(Area(shape, points, radius, counts), self.views[self.active].carm)
        if waiting:
            areas.corners = []
        self.say(f"regions: {len(areas.drawn)}; {self.counting():.0f} % of the image counts")

    def add_corner(self) -> None:
        """Keep the crosshair as a corner of the next rectangle or polygon."""
        self._need_view()
        corners = self.areas[self.active].corners
        corners.append(self.cursor)
        self.say(f"corners: {len(corners)}; two make a rectangle, three and more a polygon")

    def erase(self, everything: bool = False) -> None:
        """Take back the last corner or region of the active view, or all of them."""
        areas = self.areas[self.active]
        areas.clear() if everything else areas.drop()
        self.say(f"left are {len(areas.drawn)} regions and {len(areas.corners)} corners")

    def counting(self) -> float:
        """Percent of the active view's pixels that count."""
        view = self.view
        whole = view is None or view.weights is None
        return 100.0 if whole else 100 * float((view.weights > 0).double().mean())

    def mark(self, name: str = "", *, image: bool = True, ct: bool = True) -> None:
        """Place a landmark at the crosshairs: in the active view, in the CT, or in both."""
        name = name.strip() or self.marks.next_name()
        k = self.active if image else None
        self.marks.set(
            name, ct=self.spot if ct else None, view=k, pixel=self.cursor if image else None
        )
        self.say(f"landmark {name!r}; pairs in this view: {len(self.marks.pairs(self.active)[0])}")

    def drop_mark(self, name: str) -> None:
        """Forget a landmark."""
        self.marks.drop(name)
        self.say(f"landmark {name!r} is gone")

    def pose_from_marks(self) -> None:
        """Move the C-arm to where the landmarks say it is (`pnp`, or `arun` of crossed rays)."""
        carms, k = self.placement.carms, self.active
        pose, told = pose_from_marks(self.marks, carms, self.views, k, self.pose)
        self._gesture = None
        self._place(self.frames.placed(self.placement, pose))
        self.say(told)

    def _need_view(self) -> None:
        if not self.views:
            raise ConfigError("there is no X-ray image; explore(volume, view) takes one")
