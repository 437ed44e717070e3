"""Time steps of a moving picture, checked against the first and made ready for a registration."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from drrlib.arrays import as_tensor
from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry import Geometry, inverse
from drrlib.view import View

Frame = View | Sequence[View] | Tensor | np.ndarray | Sequence[Tensor] | Sequence[np.ndarray] | None
_SAME = 1e-6  # part of a length by which cameras of two time steps may differ
_STILL = 1e-3  # [mm, and as a part of 1] by which their places to each other may differ
_LENGTHS = ("sdd", "sod", "delx", "dely", "x0", "y0")


class Instant(NamedTuple):
    """One time step.

    Attributes:
        images: Of each view [1, 1, height, width]; empty where a view shows nothing.
        weights: Likewise, or None.
        lacks: Why nothing can be compared; "" where it can.
    """

    images: list[Tensor]
    weights: list[Tensor | None]
    lacks: str


def instants(frames) -> tuple[list[View], list[Instant]]:
    """The views of the first time step, and all time steps.

    Args:
        frames: As in `track`, whatever came.

    Raises:
        ShapeError, ConfigError: no time steps, or one that is not as the first.
    """
    if isinstance(frames, View | Tensor | np.ndarray | str) or not hasattr(frames, "__iter__"):
        raise ConfigError(
            f"frames is a {type(frames).__name__}; expected a sequence with a View, or a list of "
            "views of one instant, for each time step"
        )
    frames = list(frames)
    if not frames:
        raise ConfigError("frames is empty; expected a View, or a list of views, for each instant")
    first = list(frames[0]) if isinstance(frames[0], list | tuple) else [frames[0]]
    other = [type(view).__name__ for view in first if not isinstance(view, View)]
    if other or not first:
        raise ConfigError(
            f"frames[0] is {', '.join(other) or 'empty'}; expected a View, or several: the first "
            "time step tells the cameras"
        )
    return first, [_instant(frame, k, first) for k, frame in enumerate(frames)]


def _instant(frame, k: int, first: Sequence[View]) -> Instant:
    if frame is None:
        return Instant([], [], "no image")
    parts = list(frame) if isinstance(frame, list | tuple) else [frame]
    if len(parts) != len(first):
        raise ShapeError(
            f"frames[{k}] has {len(parts)} views, frames[0] has {len(first)}; expected as many at "
            "each time step, and None for a time step without images"
        )
    images, weights = [], []
    for v, (part, camera) in enumerate(zip(parts, first, strict=True)):
        if part is None:
            return Instant([], [], f"view {v} has no image" if len(first) > 1 else "no image")
        image, weight = _picture(part, camera, f"frames[{k}]" + f"[{v}]" * (len(first) > 1))
        images.append(image[None, None])
        weights.append(None if weight is None else weight[None, None])
    _check_places(parts, first, k)
    for v, (image, weight) in enumerate(zip(images, weights, strict=True)):
        counted = image if weight is None else image[weight > 0]
        if counted.numel() == 0 or bool(counted.min() == counted.max()):
            which = f"view {v}" if len(first) > 1 else "the image"
            return Instant([], [], f"{which} shows nothing: every pixel is the same, or not finite")
    return Instant(images, weights, "")


def _picture(part, camera: View, name: str) -> tuple[Tensor, Tensor | None]:
    """Image and weights [height, width]; pixels of an array that are not finite have no weight."""
    if isinstance(part, View):
        _check_camera(part.carm, camera.carm, name)
        return part.image, part.weights
    if not isinstance(part, Tensor | np.ndarray):
        raise ConfigError(
            f"{name} is a {type(part).__name__}; expected a View, an image as array or tensor "
            "taken by the camera of the first time step, or None"
        )
    image = as_tensor(part, name).detach().double()
    size = (camera.carm.height, camera.carm.width)
    if tuple(image.shape[-2:]) != size or image.numel() != size[0] * size[1]:
        raise ShapeError(f"{name} has shape {tuple(image.shape)}; expected {size}, as frames[0]")
    image, weights = image.reshape(size), camera.weights
    finite = torch.isfinite(image)
    if not bool(finite.all()):
        weights = finite.double() if weights is None else weights * finite
        image = torch.where(finite, image, 0.0)
    return image, weights


def _check_camera(carm: Geometry, first: Geometry, name: str) -> None:
    """Raises where a camera is another than at the first time step."""
    size, expected = ((c.height, c.width) for c in (carm, first))
    if size != expected:
        raise ShapeError(f"{name} has {size} pixels, frames[0] has {expected}; expected the same")
    other = [
        length
        for length in _LENGTHS
        if abs(float(getattr(carm, length)) - float(getattr(first, length)))
        > _SAME * max(1.0, abs(float(getattr(first, length))))
    ]
    if type(carm) is not type(first) or carm.flipped != first.flipped or other:
        what = ", ".join(other) or "its kind, or flipped"
        raise ConfigError(
            f"{name} was taken by another camera than frames[0] ({what}); expected one for all "
            "time steps: track the parts of the run one by one"
        )


def _check_places(parts: Sequence, first: Sequence[View], k: int) -> None:
    """Raises ConfigError where cameras stand to each other otherwise than at the first step."""
    for v in range(1, len(first)):
        pair = (parts[0], parts[v])
        if not all(isinstance(x, View) and x.pose is not None for x in pair):
            continue
        now, then = (
            inverse(a.pose) @ b.pose for a, b in ((parts[0], parts[v]), (first[0], first[v]))
        )
        if bool(((now - then).abs() > _STILL).any()):
            raise ConfigError(
                f"frames[{k}]: view {v} stands to view 0 otherwise than at frames[0]; expected "
                "cameras that keep their places to each other"
            )
