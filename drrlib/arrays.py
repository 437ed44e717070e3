"""Arguments as people have them, checked at public doors: tensors, NumPy arrays and lists of
numbers, single numbers, names of files, objects of one kind."""

import math
import operator
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from drrlib.errors import ConfigError, DtypeError, GeometryError, ShapeError

Numbers = Tensor | np.ndarray | Sequence | float | int


def as_tensor(values: Numbers, name: str, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of what was given, on its own device; lists and arrays land on the CPU.

    Args:
        values: Tensor (returned as it is where it has the type), array, or nested list of numbers.
        name: What to call it in an error.
        dtype: Wanted type; None keeps floating types and makes whole numbers and masks float64.

    Raises:
        DtypeError: text, objects, complex numbers, rows of different lengths, or no values at all.
    """
    if not isinstance(values, Tensor):
        try:
            if isinstance(values, Sequence) and any(isinstance(x, Tensor) for x in values):
                values = torch.stack([as_tensor(x, name) for x in values])
            else:
                array = np.array(values, order="C")  # torch takes no negative strides
                if not array.dtype.isnative:  # as files have them
                    array = array.astype(array.dtype.newbyteorder("="))
                values = torch.from_numpy(array)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DtypeError(
                f"{name} is a {type(values).__name__} that is no array of numbers; expected a "
                "tensor, an array, or a list of rows of one length"
            ) from error
    if values.layout != torch.strided:
        raise DtypeError(f"{name} is a sparse tensor; expected a dense one: to_dense()")
    check_values(values, name)
    if values.is_complex():
        raise DtypeError(f"{name} has complex numbers; expected real ones")
    if dtype is None and not values.is_floating_point():
        dtype = torch.float64
    return values if dtype is None else values.to(dtype)


def check_values(values: Tensor, name: str) -> None:
    """Raises DtypeError where a tensor is on the device meta, which keeps shapes alone."""
    if values.device.type == "meta":
        raise DtypeError(
            f"{name} is on the device meta, where tensors have a shape and no values; expected one "
            "with values, on the CPU or a GPU"
        )


def as_affine(values: Numbers, name: str = "affine") -> Tensor:
    """A world_from_voxel matrix [4, 4] on the CPU in float64, without history.

    Raises:
        ShapeError: not 4x4.
        GeometryError: not finite, not invertible, or with another last row than (0, 0, 0, 1).
    """
    affine = as_tensor(values, name).detach().to("cpu", torch.float64)
    if tuple(affine.shape) != (4, 4):
        raise ShapeError(f"{name} has shape {tuple(affine.shape)}; expected (4, 4)")
    size = affine[:3, :3].norm(dim=0).prod()
    last = affine[3].tolist() == [0.0, 0.0, 0.0, 1.0]
    whole = bool(torch.isfinite(affine).all()) and bool(affine[:3, :3].det().abs() > 1e-6 * size)
    if not (whole and last):
        raise GeometryError(
            f"{name} is singular, not finite, or its last row is not (0, 0, 0, 1); expected "
            "world_from_voxel [mm] with column vectors"
        )
    return affine


def as_whole(value, name: str, least: int = 1) -> int:
    """A whole number of at least so much.

    Raises:
        ConfigError: anything else; True and False are no numbers.
    """
    try:
        number = least - 1 if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # of arrays and tensors
        number = least - 1
    if number < least or number >= 2**63:
        raise ConfigError(f"{name} is {_shown(value)}; expected a whole number of at least {least}")
    return number


def as_length(value, name: str) -> float:
    """A finite number above 0.

    Raises:
        ConfigError: anything else.
    """
    number = _number(value)
    if not 0 < number < math.inf:
        raise ConfigError(f"{name} is {_shown(value)}; expected a finite number above 0")
    return number


def as_number(value, name: str) -> float:
    """A finite number.

    Raises:
        ConfigError: anything else.
    """
    number = _number(value)
    if not math.isfinite(number):
        raise ConfigError(f"{name} is {_shown(value)}; expected a finite number")
    return number


def as_numbers(values, name: str, count: int) -> tuple[float, ...]:
    """So many finite numbers.

    Raises:
        ConfigError: anything else.
    """
    try:
        found = tuple(_number(x) for x in values)
    except (TypeError, RuntimeError, NotImplementedError):  # cannot be counted off; refused below
        found = ()
    if len(found) != count or not all(map(math.isfinite, found)):
        raise ConfigError(f"{name} is {_shown(values)}; expected {count} finite numbers")
    return found


def as_size(size) -> tuple[int, int]:
    """(height, width) in pixels.

    Raises:
        ConfigError: anything else.
    """
    height, width = as_numbers(size, "size, (height, width) in pixels,", 2)
    if not (1 <= height < 2**31 and 1 <= width < 2**31 and height % 1 == width % 1 == 0):
        raise ConfigError(f"size is {_shown(size)}; expected (height, width) in whole pixels")
    return int(height), int(width)


def as_flag(value, name: str) -> bool:
    """True or False.

    Raises:
        ConfigError: anything else.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise ConfigError(f"{name} is {_shown(value)}; expected True or False")
    return bool(value)


def as_path(path, name: str = "path") -> Path:
    """The name of a file or folder.

    Raises:
        ConfigError: anything else.
    """
    if not isinstance(path, (str, os.PathLike)) or "\0" in str(path):
        raise ConfigError(f"{name} is a {type(path).__name__}; expected the name of a file")
    return Path(path)


def check_kind(value, kind: type | tuple[type, ...], name: str) -> None:
    """Raises ConfigError where an argument is of no such kind."""
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join(k.__name__ for k in kinds)
        raise ConfigError(f"{name} is a {type(value).__name__}; expected a {names}")


def _number(value) -> float:
    """NaN for what is no single number."""
    single = isinstance(value, (int, float, np.number)) or getattr(value, "shape", None) == ()
    try:
        return math.nan if not single or isinstance(value, bool) else float(value)
    # Of arrays and tensors of no axes: text, objects, what no float holds, sparse, without values.
    except (TypeError, ValueError, OverflowError, RuntimeError, NotImplementedError):
        return math.nan


def _shown(value) -> str:
    shape = getattr(value, "shape", ())
    return f"a {type(value).__name__} of shape {tuple(shape)}" if shape else repr(value)[:60]
