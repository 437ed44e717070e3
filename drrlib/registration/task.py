"""What a registration is asked, and whether it can be."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.arrays import Numbers, as_numbers, as_tensor
from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry import CArm, Geometry
from drrlib.registration.levels import FREE, Levels
from drrlib.similarity import Loss, zncc_loss
from drrlib.view import check_images, check_starts


class Task(NamedTuple):
    """What is asked of all images alike; see `register`."""

    search: tuple[float, float]
    free: tuple[str, ...]
    loss: Loss

    @property
    def squares(self) -> bool:
        """Whether the loss is 1 - ZNCC, a sum of squares."""
        return self.loss is zncc_loss

    def check(self, levels: Levels) -> None:
        """Raises ConfigError where cameras and volume cannot be asked this."""
        search, free = as_numbers(self.search, "search", 2), self.free
        if not all(0 < x for x in search) or search[0] > math.pi:
            raise ConfigError(
                f"search is {search}; expected (rotation in rad up to pi, translation in mm), > 0"
            )
        unknown = sorted(set(free) - set(FREE))
        if unknown or len(set(free)) < len(free):
            raise ConfigError(f"free is {tuple(free)}; expected of {', '.join(FREE)}, once each")
        if {"sdd", "delx", "dely"} <= set(free):
            raise ConfigError(
                "free has sdd, delx and dely; an image only tells their ratios: hold one of them"
            )
        if free and (len(levels.cameras) > 1 or not isinstance(levels.cameras[0], CArm)):
            raise ConfigError("free is for one view of a C-arm; others would need lengths for each")
        if levels.only and not self.squares:
            raise ConfigError('only=True compares in windows, which needs loss="zncc"')
        if free and not self.squares:
            raise ConfigError('free needs loss="zncc", whose optimum Levenberg-Marquardt finds')


def check_pictures(
    fixed: Sequence[Numbers], weights: Sequence[Numbers | None], cameras: Sequence[Geometry]
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Images of each view and their weights, as `check_images` returns them.

    Raises:
        ShapeError, ConfigError: what is wrong with which view.
    """
    if not (len(fixed) == len(weights) == len(cameras)):
        raise ShapeError(
            f"got images of {len(fixed)} views and weights of {len(weights)}; the "
            f"registration has {len(cameras)} cameras"
        )
    names = ["fixed"] if len(fixed) == 1 else [f"fixed[{k}]" for k in range(len(fixed))]
    pairs = [check_images(*given) for given in zip(fixed, cameras, weights, names, strict=True)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def check_ranges(start: Numbers, fixed: Sequence[Tensor]) -> Float[Tensor, "t s 6"]:
    """Starts of each image, float64 on the CPU.

    Raises:
        ShapeError, ConfigError: as `check_starts`, or not as many as there are images.
    """
    start = as_tensor(start, "start", torch.float64)
    if start.ndim != 3 or start.shape[2] != 6 or {len(x) for x in fixed} != {len(start)}:
        raise ShapeError(
            f"start has shape {tuple(start.shape)} for images of shapes "
            f"{[tuple(x.shape) for x in fixed]}; expected [t, s, 6] for t images"
        )
    return check_starts(start.flatten(0, 1)).reshape(start.shape)
