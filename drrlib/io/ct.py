"""One door for CT files of every format."""

import os
from collections.abc import Iterable
from pathlib import Path

from drrlib.errors import ConfigError
from drrlib.io.dicom_series import read_ct_series
from drrlib.io.nifti import read_nifti
from drrlib.volume import MU_WATER, Volume


def read_volume(
    path_or_paths: str | os.PathLike | Iterable,
    *,
    series: int | None = None,
    mu_water: float = MU_WATER,
) -> Volume:
    """Volume of a DICOM CT series (folder, file list) or a NIfTI file (.nii, .nii.gz).

    Args:
        path_or_paths: What to read; see `read_ct_series` and `read_nifti`.
        series: SeriesNumber, where a DICOM folder holds several usable series.
        mu_water: Attenuation of water [1/mm]; see `hu_to_mu`.

    Raises:
        DicomError, VolumeError: the files cannot be used.
        ConfigError: `series` was given for a NIfTI file.
    """
    one = isinstance(path_or_paths, (str, os.PathLike))
    suffix = Path(path_or_paths).suffix.lower() if one else ""
    other = {".tif": "read_tiff_stack(path, spacing, ...)", ".stl": "read_mesh(path, mu)"}
    other |= {".tiff": other[".tif"], ".obj": other[".stl"], ".ply": other[".stl"]}
    if suffix in other:
        raise ConfigError(
            f"{os.fspath(path_or_paths)!r} does not tell what its values are; use {other[suffix]}"
        )
    if one and Path(path_or_paths).name.lower().endswith((".nii", ".nii.gz")):
        if series is not None:
            raise ConfigError(f"series is {series}; expected None: a NIfTI file holds one volume")
        return Volume.from_hu(*read_nifti(path_or_paths), mu_water=mu_water)
    found = read_ct_series(path_or_paths, series=series)
    return Volume.from_hu(found.hu, found.affine, mu_water=mu_water)
