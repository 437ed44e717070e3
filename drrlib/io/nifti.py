"""CT volumes from NIfTI files."""

import os
import warnings
import zlib

import nibabel as nib
import numpy as np

from drrlib.arrays import as_path
from drrlib.errors import VolumeError
from drrlib.io.plausible import warn_of_air

MAX_VOXELS = 2**30
# World axes of NIfTI are RAS (+x right, +y anterior), ours LPS.
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
UNIT_MM = {"mm": 1.0, "unknown": 1.0, "meter": 1000.0, "micron": 1e-3}


def read_nifti(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Voxel values and affine of a .nii or .nii.gz file (or .hdr with .img).

    Returns:
        hu: float32 [x, y, z] in the file's own axis order, scaled by its slope and intercept.
        affine: world_from_voxel [mm, LPS], float64 [4, 4], from the sform, else the qform; may be
            oblique or mirrored.

    Raises:
        VolumeError: not NIfTI, damaged, not one 3D volume of real numbers, or without a place in
            the world.
    """
    path = as_path(path)
    try:
        image = nib.load(path, mmap=False)  # Windows locks a file that is mapped
    except FileNotFoundError:
        raise VolumeError(f"{os.fspath(path)!r} does not exist; expected a NIfTI file") from None
    except Exception as error:  # a damaged header can raise nearly anything
        raise VolumeError(
            f"not a readable NIfTI file ({type(error).__name__}); expected .nii or .nii.gz"
        ) from error
    if not isinstance(image, nib.Nifti1Pair):
        raise VolumeError(f"the file holds a {type(image).__name__}; expected NIfTI")
    header, shape = image.header, image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
        raise VolumeError(
            f"the NIfTI image has shape {image.shape}; expected one volume [x, y, z]: save one "
            "time point or channel as a file of its own"
        )
    if np.prod(shape, dtype=float) > MAX_VOXELS:
        raise VolumeError(
            f"the NIfTI image has shape {shape}; expected at most {MAX_VOXELS} voxels"
        )
    dtype = image.get_data_dtype()
    if dtype.fields is not None or dtype.kind not in "iuf":
        raise VolumeError(f"the voxels have type {dtype}; expected one real number each (HU)")
    if not (int(header["sform_code"]) or int(header["qform_code"])):
        raise VolumeError(
            "the NIfTI header has neither sform nor qform: the place and the left-right direction "
            "are unknown; set the sform, or pass array and affine to Volume.from_hu"
        )
    affine = LPS_FROM_RAS @ np.asarray(image.affine, dtype=np.float64)
    try:
        unit = header.get_xyzt_units()[0]
    except KeyError:
        raise VolumeError(
            "the NIfTI header names no known unit of length; set xyzt_units"
        ) from None
    affine[:3] *= UNIT_MM.get(unit, 1.0)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise VolumeError("the NIfTI affine is singular or not finite; set a valid sform")
    sides = np.linalg.norm(image.affine[:3, :3], axis=0)
    pixdim = np.abs(header["pixdim"][1:4].astype(float))
    if not np.allclose(sides, pixdim, rtol=0.01):
        warnings.warn(
            f"the NIfTI sform has voxels of {_sizes(sides)} and pixdim of {_sizes(pixdim)}; the "
            "sform is taken: check the size of the volume",
            stacklevel=2,
        )
    try:
        hu = image.get_fdata(dtype=np.float32, caching="unchanged")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise VolumeError(
            f"the NIfTI voxels cannot be read ({type(error).__name__}): damaged or cut short; copy "
            "the file again"
        ) from error
    hu = hu.reshape(shape, order="F")
    warn_of_air(hu, stacklevel=3)
    return hu, affine


def _sizes(values: np.ndarray) -> str:
    return " x ".join(f"{x:.4g}" for x in values)
