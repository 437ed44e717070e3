"""The six parameters of a pose, eta = (theta, phi, gamma, bx, by, bz), and their names and units.

Angles are in radians everywhere but where a function says degrees.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.arrays import Numbers, as_flag, as_tensor
from drrlib.errors import ShapeError

PARAMETERS = ("theta", "phi", "gamma", "bx", "by", "bz")


def eta(
    theta: Numbers = 0.0,
    phi: Numbers = 0.0,
    gamma: Numbers = 0.0,
    b: Numbers = (0.0, 0.0, 0.0),
    *,
    degrees: bool = False,
) -> Float[Tensor, "*n 6"]:
    """Pose parameters by name; numbers or rows of numbers, which broadcast.

    Args:
        theta: Cranial(+)/caudal(-) angle.
        phi: LAO(+)/RAO(-) angle; 0 has the detector in front of the patient (AP), 90 degrees at
            the left (lateral).
        gamma: Turn of the detector about the viewing direction.
        b: Offset of the isocentre from the volume's centre [mm, LPS], [..., 3].
        degrees: Angles are in degrees, not radians.

    Returns:
        float64. Gradients: all arguments.

    Raises:
        ShapeError: b has no three numbers, or the arguments do not broadcast.
    """
    named = {"theta": theta, "phi": phi, "gamma": gamma}
    angles = [as_tensor(x, name, torch.float64) for name, x in named.items()]
    offset = as_tensor(b, "b", torch.float64)
    if offset.shape[-1:] != (3,):
        raise ShapeError(f"b has shape {tuple(offset.shape)}; expected [..., 3]: x, y and z in mm")
    if as_flag(degrees, "degrees"):
        angles = [torch.deg2rad(x) for x in angles]
    try:
        return torch.stack(torch.broadcast_tensors(*angles, *offset.unbind(-1)), dim=-1)
    except RuntimeError:
        shapes = [tuple(x.shape) for x in (*angles, offset[..., 0])]
        raise ShapeError(
            f"theta, phi, gamma and b have leading axes {shapes}, which do not broadcast"
        ) from None


def to_radians(rows: Numbers) -> Float[Tensor, "*n 6"]:
    """Parameters with angles in degrees, as people state them, to radians."""
    return _scaled(rows, math.pi / 180)


def to_degrees(rows: Numbers) -> Float[Tensor, "*n 6"]:
    """The inverse of `to_radians`."""
    return _scaled(rows, 180 / math.pi)


def _scaled(rows: Numbers, factor: float) -> Tensor:
    rows = as_tensor(rows, "rows")
    if rows.shape[-1:] != (6,):
        raise ShapeError(f"rows have shape {tuple(rows.shape)}; expected [..., 6]")
    return torch.cat([rows[..., :3] * factor, rows[..., 3:]], dim=-1)
