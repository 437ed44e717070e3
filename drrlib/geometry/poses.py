"""Poses for other tools, in files.

3D Slicer reads ITK's transform files: coordinates LPS, and the matrix that takes points of the
parent into the node's own frame (Slicer inverts it on reading, and turns LPS into its RAS).
Source: 3D Slicer's manual, "Transforms", section "Transform files".
"""

import os
from pathlib import Path

import torch

from drrlib.arrays import Numbers, as_path, as_tensor
from drrlib.atomic import write_whole
from drrlib.errors import ShapeError
from drrlib.geometry.se3 import check_rigid, inverse


def write_tfm(path: str | os.PathLike, pose: Numbers) -> Path:
    """Write world_from_camera as an ITK transform file (.tfm) for 3D Slicer.

    Under that transform a model that is given in camera coordinates, such as a C-arm or the image
    plane, stands where it stood about the CT.

    Args:
        path: Where to; ends in .tfm or .txt, as Slicer expects.
        pose: world_from_camera [4, 4] (mm, LPS).

    Raises:
        ConfigError: `path` is no name of a file.
        ShapeError, GeometryError: not one rigid transform.
        OSError: it cannot be written.
    """
    path = as_path(path)
    pose = as_tensor(pose, "pose", torch.float64).detach().cpu()
    if tuple(pose.shape) != (4, 4):
        raise ShapeError(f"pose has shape {tuple(pose.shape)}; expected (4, 4)")
    check_rigid(pose, "pose")
    back = inverse(pose)
    numbers = [*back[:3, :3].flatten().tolist(), *back[:3, 3].tolist()]
    text = (
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        f"Parameters: {' '.join(map(repr, numbers))}\nFixedParameters: 0 0 0\n"
    )
    write_whole(path, lambda name: name.write_text(text, encoding="ascii", newline="\n"))
    return path


def write_matrix(path: str | os.PathLike, matrix: Numbers) -> Path:
    """Write a 3x4 projection matrix as three lines of text, which numpy.loadtxt reads.

    Args:
        path: Where to.
        matrix: World point [mm, LPS, 1] -> (column, row, 1) x depth [mm], pixel centres at
            half-integers; see `CArm.projection_matrix`.

    Raises:
        ConfigError: `path` is no name of a file.
        ShapeError: not 3x4.
        OSError: it cannot be written.
    """
    path = as_path(path)
    matrix = as_tensor(matrix, "matrix", torch.float64).detach().cpu()
    if tuple(matrix.shape) != (3, 4):
        raise ShapeError(f"matrix has shape {tuple(matrix.shape)}; expected (3, 4)")
    text = (
        "# 3x4 projection matrix: world [mm, LPS] -> (column, row, 1) x depth [mm];\n"
        "# the centre of the first pixel is at (0.5, 0.5)\n"
    )
    text += "".join(" ".join(map(repr, row)) + "\n" for row in matrix.tolist())
    write_whole(path, lambda name: name.write_text(text, encoding="ascii", newline="\n"))
    return path
