"""Widgets that point: crosshairs, regions, landmarks.

Core ipywidgets tell Python nothing of the mouse over an image. Widgets that do (ipyevents, ipympl,
FigureWidget) are extensions, which the browser side must have, too: a plain Colab, JupyterLab or VS
Code shows nothing in their place. So a crosshair is drawn in the picture and moved by sliders,
number fields or arrow keys, and a button takes the place of the click. It is slower than a mouse,
and exact to a tenth of a pixel.
"""

from html import escape

import ipywidgets as widgets

from drrlib.lab.explorer.controls import (
    Controls,
    column,
    label,
    number,
    put,
    put_slider,
    row,
    slider,
)


class PointControls(Controls):
    """Crosshairs of the image and of the CT, regions (`regions`) and landmarks (`landmarks`)."""

    def __init__(self, *shared, bounds: list[tuple[float, float]]):
        super().__init__(*shared)
        state = self.state
        self.image, self.ct = {}, {}
        image_rows = [self._image_row("column"), self._image_row("row")]
        ct_rows = [
            self._ct_row(k, name, bounds[k])
            for k, name in enumerate(("x, left +", "y, back +", "z, head +"))
        ]
        self.radius = number(state.radius_mm, 5.0)
        self.follow(self.radius, "radius", state.set_radius)
        self.leave_out = widgets.Checkbox(
            value=False, description="leave out what lies inside", indent=False
        )
        circle = row(
            label("radius [mm]"), self.radius, self.button("circle", lambda: self._draw("circle"))
        )
        corners = row(
            self.button("add corner", state.add_corner, "keep the crosshair as a corner"),
            self.button("rectangle", lambda: self._draw("rectangle"), "of two corners"),
            self.button("polygon", lambda: self._draw("polygon"), "of three corners or more"),
        )
        back = row(
            self.button("take back", state.erase, "the last corner or region"),
            self.button("clear", lambda: state.erase(everything=True)),
        )
        yellow = label("The yellow crosshair of the image:", "auto")
        self.regions = column([yellow, *image_rows, circle, corners, self.leave_out, back])
        self.landmarks = column([yellow, *image_rows, *self._landmarks(ct_rows)])

    def _landmarks(self, ct_rows: list[widgets.Widget]) -> list[widgets.Widget]:
        state = self.state
        self.name = widgets.Text(
            placeholder="name, or a number", layout=widgets.Layout(width="130px")
        )
        dive = self.button(
            "densest behind the image's crosshair", state.dive, "put the CT's crosshair there"
        )
        place = [
            self.button("place in both", lambda: self._mark(True, True)),
            self.button("image only", lambda: self._mark(True, False)),
            self.button("CT only", lambda: self._mark(False, True)),
        ]
        drop = self.button("forget", lambda: state.drop_mark(self.name.value), "the one named")
        solve = self.button(
            "pose from landmarks", state.pose_from_marks, "three or more", style="info"
        )
        self.list = widgets.HTML()
        told = label("The CT's crosshair in the slices [mm]:", "auto")
        return [told, *ct_rows, row(dive), row(self.name, drop), row(*place), row(solve), self.list]

    def _image_row(self, name: str) -> widgets.HBox:
        carm = self.state.carm
        most = float(carm.width if name == "column" else carm.height)
        pair = (slider(0.0, most, 0.5 * most, 0.1), number(0.5 * most))
        self.image[name] = pair

        def moved(value: float, moving: bool) -> None:
            column, at_row = self.state.cursor
            place = (value, at_row) if name == "column" else (column, value)
            self.state.point(*place, moving=moving)

        k = int(name == "row")
        self.slide(pair[0], name, lambda: self.state.cursor[k], lambda new: moved(new, True))
        self.follow(pair[1], name, lambda new: moved(new, False))
        return row(label(name), *pair)

    def _ct_row(self, k: int, name: str, ends: tuple[float, float]) -> widgets.HBox:
        pair = (slider(*ends, self.state.spot[k], 0.1), number(self.state.spot[k]))
        self.ct[k] = pair

        def moved(value: float, moving: bool) -> None:
            spot = list(self.state.spot)
            spot[k] = value
            self.state.point_in_ct(*spot, moving=moving)

        self.slide(pair[0], name, lambda: self.state.spot[k], lambda new: moved(new, True))
        self.follow(pair[1], name, lambda new: moved(new, False))
        return row(label(name), *pair)

    def _draw(self, shape: str) -> None:
        self.state.draw(shape, counts=not self.leave_out.value)

    def _mark(self, image: bool, ct: bool) -> None:
        self.state.mark(self.name.value, image=image, ct=ct)
        self.name.value = ""

    def sync(self, moving: bool) -> None:
        """Follow the state."""
        state = self.state
        most_of = {"column": state.carm.width, "row": state.carm.height}
        for (name, most), value in zip(most_of.items(), state.cursor, strict=True):
            bar, field = self.image[name]
            if bar.max != float(most):
                bar.max = float(most)
            put(field, value)
            put_slider(bar, value)
        for k, value in enumerate(state.spot):
            bar, field = self.ct[k]
            put(field, value)
            put_slider(bar, value)
        put(self.radius, state.radius_mm)
        put(self.list, self._told())

    def _told(self) -> str:
        """The landmarks, as a table."""
        rows = []
        for name, mark in self.state.marks.named.items():
            ct = "–" if mark.ct is None else ", ".join(f"{x:.1f}" for x in mark.ct)
            at = "; ".join(f"view {k + 1}: {c:.1f}, {r:.1f}" for k, (c, r) in mark.pixels.items())
            cells = "".join(
                f"<td style='padding-right:10px'>{escape(x)}</td>" for x in (name, ct, at)
            )
            rows.append(f"<tr>{cells}</tr>")
        return f"<table style='font-size:12px;line-height:1.4'>{''.join(rows)}</table>"
