"""Line integrals through a voxel grid; tensors in, tensors out."""

from drrlib.projectors.grid import Grid
from drrlib.projectors.ops import (
    BACKENDS,
    METHODS,
    choose_backend,
    endpoint_gradients,
    frame_gradients,
    images,
    line_integrals,
    project,
)

__all__ = [
    "BACKENDS",
    "METHODS",
    "Grid",
    "choose_backend",
    "endpoint_gradients",
    "frame_gradients",
    "images",
    "line_integrals",
    "project",
]
