"""The widgets around the state, without a browser: they ask it, and follow it."""

import asyncio

import ipywidgets
import pytest

from drrlib.lab.explorer import Explorer, Panel, explore


@pytest.fixture
def panel(state):
    return Panel(state)


def test_a_number_and_a_slider_move_the_state_and_each_other(panel, head):
    panel.pose.fields["bx"].value = 7.25
    assert panel.state.numbers["bx"] == 7.25 and panel.pose.sliders["bx"].value == 7.25
    before = panel.image.value
    panel.pose.sliders["theta"].value = 12.0
    assert panel.state.numbers["theta"] == pytest.approx(12) and panel.image.value != before
    assert panel.pose.fields["theta"].value == 12
    panel.results.buttons.children[1].click()  # Undo
    assert panel.state.numbers["theta"] == pytest.approx(8)
    assert panel.pose.sliders["theta"].value == pytest.approx(8, abs=0.1)


def test_code_moves_the_widgets(panel):
    panel.state.move(phi=77.7777777, degrees=True)
    assert panel.pose.fields["phi"].value == 77.778
    assert panel.pose.sliders["phi"].min < 77 < panel.pose.sliders["phi"].max
    assert "phi=77.7778" in panel.results.text.value
    panel.state.show("edges")
    assert panel.looks.mode.value == "edges"


def test_a_browser_that_rounds_a_slider_moves_nothing(panel):
    """It sends a slider's value back as the nearest whole step."""
    panel.state.move(theta=3.14159, degrees=True)
    exact = panel.state.eta
    panel.pose.sliders["theta"].value = 3.1
    low, high = panel.looks.drr.value
    panel.looks.drr.value = (low, high + 0.5 * panel.looks.drr.step)
    assert panel.state.eta.equal(exact) and len(panel.state._undo) == 1


def test_what_is_refused_is_told_and_the_field_goes_back(panel):
    panel.pose.fields["sod"].value = 5000.0
    assert panel.pose.fields["sod"].value == 510.0
    assert "error" in panel.results.line.value and "sod is 5000" in panel.results.line.value
    assert "<details>" in panel.results.line.value
    panel.state.move(bx=0)
    assert "error" not in panel.results.line.value


def test_a_picture_that_cannot_be_drawn_is_told(panel, monkeypatch):
    def broken(moving=False):
        raise RuntimeError("no ink")

    with monkeypatch.context() as patch:
        patch.setattr(panel.canvas, "encoded", broken)
        panel.state.move(bx=1)
        assert "drawing: RuntimeError: no ink" in panel.results.line.value
    with monkeypatch.context() as patch:  # then nothing else can be shown, either
        patch.setattr(panel.state.sights, "render", broken)
        panel.pose.fields["bx"].value = 2.0
        assert "drawing: TypeError" in panel.results.line.value
    panel.pose.fields["bx"].value = 3.0
    assert "ready" in panel.results.line.value and panel.state.numbers["bx"] == 3


def test_buttons_register_and_copy(panel, head):
    panel.state.move(bx=15)
    panel.results.degrees.value, panel.results.mm.value = 10, 20
    panel.results.preset.value = "fast"
    panel.results.register.click()
    assert "converged" in panel.results.line.value and not panel.results.register.disabled
    assert panel.state.result.compare(head.true).mtre < 0.5
    panel.results.box.children[0].children[0].click()
    assert panel.results.text.value == panel.state.pose_text()


def test_sections_that_point_show_the_crosshair(panel):
    panel.folds.selected_index = 2
    assert panel.state.pointing
    panel.points.image["column"][1].value = 12.5
    panel.points.ct[2][0].value = 20.0
    assert panel.state.cursor == (12.5, 20.0) and panel.state.spot[2] == 20.0
    panel.folds.selected_index = 0
    assert not panel.state.pointing


def test_a_drag_is_drawn_at_once_and_in_full_when_it_rests(state):
    async def drag():
        panel = Panel(state)
        seen = []
        state.watch(seen.append)
        for value in (9.0, 10.0, 11.0):
            panel.pose.sliders["theta"].value = value
        assert seen == [True] * 3
        await asyncio.sleep(0.6)
        return seen

    assert asyncio.run(drag()) == [True, True, True, False]
    assert len(state._undo) == 1 and state.trace[-1][1]


def test_only_core_widgets_and_one_image_are_shown(panel, head):
    def walk(widget):
        yield widget
        for child in getattr(widget, "children", ()):
            yield from walk(child)

    shown = list(walk(panel.widget))
    modules = {x._view_module for x in shown}
    assert modules == {"@jupyter-widgets/controls"}
    assert sum(isinstance(x, ipywidgets.Image) for x in shown) == 1
    bundle = panel._repr_mimebundle_()
    view = bundle["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] == panel.widget.model_id and "Explorer(" in bundle["text/plain"]
    assert isinstance(explore(head.volume).state, Explorer)
