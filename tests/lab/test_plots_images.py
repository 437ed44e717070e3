"""The shared figure helpers."""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import pytest
import torch

from drrlib.errors import ConfigError, ShapeError
from drrlib.lab.plots import images as plotting
from drrlib.lab.plots import scene


@pytest.fixture(autouse=True)
def own_style():
    with plt.rc_context():
        plotting.use_style()
        yield
    plt.close("all")


def test_overlay_is_red_for_fixed_cyan_for_moving_grey_for_both():
    fixed = torch.tensor([[0.0, 2.0, 0.0, 1.0]])
    moving = torch.tensor([[0.0, 0.0, 8.0, 4.0]])
    colours = plotting.overlay(fixed[None, None], moving)
    expected = [[0, 0, 0], [1, 0, 0], [0, 1, 1], [0.5, 0.5, 0.5]]
    assert np.array_equal(colours[0], expected)
    assert not plotting.overlay(torch.ones(2, 2), torch.ones(2, 2)).any()


def test_images_share_the_stated_window():
    images = [torch.zeros(1, 1, 4, 6), torch.full((4, 6), 3.0, requires_grad=True)]
    figure = plotting.show_images(images, ["a", "b"], columns=3)
    shown = [axis.images[0].get_clim() for axis in figure.axes]
    assert shown == [(0.0, 3.0), (0.0, 3.0)]
    assert figure.get_supxlabel() == "grey window 0 to 3"
    assert [axis.get_xlabel() for axis in figure.axes] == ["a", "b"]
    figure = plotting.show_images(images, window=(1, 2))
    assert figure.axes[0].images[0].get_clim() == (1, 2)


def test_radiographs_have_windows_of_their_own():
    body = torch.zeros(20, 20)
    body[5:15, 5:15] = torch.linspace(1, 3, 100).reshape(10, 10)
    low, high = plotting.radiograph_window(body)
    assert (low, high) == (1.1, 2.99)  # 5 % and 99.5 % of the way from 1 to 3; air is left out
    assert plotting.radiograph_window(torch.zeros(3, 3)) == (0.0, 1.0)
    figure = plotting.show_radiographs([body, 2 * body], ["a", "b"], [(0, 1), (low, high)])
    assert [axis.images[0].get_clim() for axis in figure.axes] == [(0, 1), (low, high)]
    assert [axis.get_xlabel() for axis in figure.axes] == ["a\n0 to 1", "b\n1.1 to 2.99"]


def test_signed_images_are_white_at_zero():
    image = torch.tensor([[-4.0, 0.0], [0.0, 1.0]])
    figure = plotting.show_signed([image, image], ["a", "b"], [4.0, 8.0])
    assert [axis.images[0].get_clim() for axis in figure.axes] == [(-4, 4), (-8, 8)]
    assert figure.axes[1].get_xlabel() == "b, ±8"
    low, high = plotting.show_signed([image], ["a"]).axes[0].images[0].get_clim()
    assert -low == high and 3.9 < high <= 4
    assert plotting.show_signed([torch.zeros(2, 2)], ["a"])


def test_turntable_has_a_slider_step_for_each_image():
    images = [torch.full((1, 1, 4, 5), float(k)) for k in range(3)]
    figure = scene.turntable(images, ["0 deg", "120 deg", "240 deg"], (0.0, 2.0))
    assert [s.label for s in figure.layout.sliders[0].steps] == ["0 deg", "120 deg", "240 deg"]
    grey = []
    for frame in figure.frames:
        png = base64.b64decode(frame.data[0].source.split(",")[1])
        grey.append(np.asarray(PIL.Image.open(io.BytesIO(png))))
    assert [(g.shape[:2], g.min(), g.max()) for g in grey] == [
        ((4, 5), 0, 0),
        ((4, 5), 128, 128),
        ((4, 5), 255, 255),
    ]


def test_checkerboard_takes_both_in_turn():
    fixed, moving = np.zeros((4, 8)), np.full((4, 8), 3.0)
    fixed[0, 0], moving[3, 7] = 2.0, 5.0  # each scaled to 0..1 by itself
    board = plotting.checkerboard(fixed, moving, tiles=4)
    assert board[0, 0] == 1 and board[3, 7] == 0  # tile (1, 3) is of the fixed image
    moving[0, 2] = 5.0
    assert plotting.checkerboard(fixed, moving, tiles=4)[0, 2] == 1
    with pytest.raises(ShapeError, match="one size"):
        plotting.checkerboard(fixed, moving.T)
    with pytest.raises(ConfigError, match="tiles is 9"):
        plotting.checkerboard(fixed, moving, tiles=9)


def test_overlays_fill_a_grid():
    figure = plotting.show_overlays(np.eye(4), [np.eye(4)] * 5, columns=4)
    assert len(figure.axes) == 8 and sum(len(a.images) for a in figure.axes) == 5


def test_wrong_images_are_named():
    with pytest.raises(ShapeError, match=r"\(2, 1, 3, 3\)"):
        plotting.as_image(torch.zeros(2, 1, 3, 3))
    with pytest.raises(ShapeError, match="one size"):
        plotting.overlay(torch.zeros(2, 2), torch.zeros(3, 3))
    with pytest.raises(ConfigError, match="2 labels for 1 images"):
        plotting.show_images([torch.zeros(2, 2)], ["a", "b"])
    with pytest.raises(ConfigError, match="at least one"):
        plotting.show_images([])


def test_optimizers_keep_one_colour_each():
    assert len(set(plotting.OPTIMIZER_COLORS.values())) == len(plotting.OPTIMIZER_COLORS)
