"""The shared figure helpers."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from drrlib import plotting
from drrlib.errors import ConfigError, ShapeError


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
