"""CT volumes from MetaImage (.mha, .mhd) and NRRD (.nrrd, .nhdr) files, by SimpleITK."""

import os
import re
from pathlib import Path

import numpy as np

from drrlib.arrays import as_path
from drrlib.errors import VolumeError
from drrlib.io.nifti import MAX_VOXELS
from drrlib.io.plausible import warn_of_air

_AXES, _HEAD = 10, 2**16  # MetaIO's own limit; bytes that hold a header
_LINE = 500  # bytes


def read_metaimage_nrrd(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Voxel values and affine; needs the extra "formats" (pip install 'drrlib[formats]').

    Returns:
        hu: float32 [x, y, z].
        affine: world_from_voxel [mm, LPS], float64 [4, 4], as ITK reads the header.

    Raises:
        VolumeError: SimpleITK is missing; not such a file, damaged, or not one 3D volume of real
            numbers with a place in the world.
    """
    path = as_path(path)
    try:
        import SimpleITK as sitk
    except ImportError:
        raise VolumeError(
            f"{path.suffix} files are read by SimpleITK, which is not installed: "
            "pip install SimpleITK, or save the volume as NIfTI"
        ) from None
    if not path.is_file():
        raise VolumeError(f"{os.fspath(path)!r} does not exist; expected MetaImage or NRRD")
    _check_header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(os.fspath(path))
    try:
        reader.ReadImageInformation()
        size = reader.GetSize()
        values = reader.GetNumberOfComponents()
        if (
            values != 1
            or len(size) != 3
            or min(size) < 1
            or np.prod(size, dtype=float) > MAX_VOXELS
        ):
            raise VolumeError(
                f"the image has size {tuple(size)} with {values} values per voxel; "
                f"expected one volume [x, y, z] of one value, at most {MAX_VOXELS} voxels"
            )
        image = reader.Execute()
        hu = sitk.GetArrayFromImage(image)
    except RuntimeError:
        raise _unreadable(path) from None  # whose text quotes the header
    if np.iscomplexobj(hu):
        raise VolumeError("the voxels are complex; expected one real number each (HU)")
    affine = np.eye(4)
    directions = np.array(image.GetDirection()).reshape(3, 3)
    affine[:3, :3], affine[:3, 3] = directions * image.GetSpacing(), image.GetOrigin()
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise VolumeError("the affine of the image is singular or not finite; set its directions")
    hu = hu.transpose(2, 1, 0).astype(np.float32)
    warn_of_air(hu, stacklevel=3)
    return hu, affine


def _unreadable(path: Path) -> VolumeError:
    return VolumeError(
        f"not a readable {path.suffix} file: damaged, cut short, or its data file is missing; copy "
        "it again"
    )


def _check_header(path: Path) -> None:
    """Raises VolumeError for a header that would end the process: a MetaImage of more axes than
    MetaIO has room for, a NRRD with a long line that is no "key:=value", which its parser copies
    into a short message."""
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    for number in re.findall(rb"NDims\s*[=:]\s*(\S*)", head):
        if not (number.isdigit() and 1 <= int(number[:9]) <= _AXES):
            raise _unreadable(path)
    if head.startswith(b"NRRD"):
        for line in re.split(rb"\r?\n\r?\n", head)[0].splitlines():
            if len(line) > _LINE and b":=" not in line[:_LINE]:
                raise _unreadable(path)
