"""CT volumes from TIFF stacks, one page a slice, as Autoscoper and XROMM keep bones; from .npy."""

import os

import numpy as np

from drrlib.arrays import as_length, as_numbers
from drrlib.errors import ConfigError
from drrlib.io.pictures import read_picture
from drrlib.volume import MU_WATER, Volume


def read_tiff_stack(
    path: str | os.PathLike,
    spacing: tuple[float, float, float],
    *,
    hu: tuple[float, float] | None = None,
    mu_per_value: float | None = None,
    mu_water: float = MU_WATER,
) -> Volume:
    """Volume of a TIFF stack, or of a .npy file [page, row, column].

    x is along columns, y along rows, z along pages; the first voxel is at 0.

    A stack tells neither spacing nor what its values mean; one of `hu` and `mu_per_value` must say
    it. For a bone that was cut out of a CT and whose scale is lost, any `mu_per_value` serves
    similarities that do not look at the scale, such as 2e-5 for 12 bits.

    Args:
        path: The stack, at least two pages.
        spacing: Distance of neighbouring columns, rows and pages [mm].
        hu: (slope, intercept) of Hounsfield units: hu = slope * value + intercept.
        mu_per_value: Attenuation [1/mm] of the value 1; 0 is air.
        mu_water: As in `hu_to_mu`.

    Raises:
        ConfigError: no such file, no stack, or not one of both scales; names the file.
        VolumeError: values that are no attenuation.
    """
    spacing = as_numbers(spacing, "spacing", 3)
    if min(spacing) <= 0:
        raise ConfigError(f"spacing is {spacing}; expected three lengths above 0 [mm]: x, y, z")
    if (hu is None) == (mu_per_value is None):
        raise ConfigError(
            "give one of hu=(slope, intercept), such as (1, -1024) for a CT that was stored with "
            "an offset, and mu_per_value=... [1/mm]: a TIFF stack does not tell its scale"
        )
    if hu is not None:
        hu = as_numbers(hu, "hu", 2)
    else:
        mu_per_value = as_length(mu_per_value, "mu_per_value")
    values = read_picture(path, signed=True).values
    if len(values) < 2:
        raise ConfigError(f"{os.fspath(path)!r} has one page; expected a stack of slices")
    voxels = np.ascontiguousarray(values.transpose(2, 1, 0), dtype=np.float32)
    affine = np.diag([*spacing, 1.0])
    if hu is not None:
        return Volume.from_hu(hu[0] * voxels + hu[1], affine, mu_water=mu_water)
    return Volume(mu_per_value * voxels, affine)
