"""Write a volume as a valid DICOM CT series, for phantoms and tests."""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat

from drrlib.arrays import as_path, as_tensor
from drrlib.errors import DicomError, GeometryError, ShapeError, VolumeError
from drrlib.io.dicom_tags import CT_IMAGE

INTERCEPT = -1024
LOWEST, HIGHEST = -32768 + INTERCEPT, 32767 + INTERCEPT


def write_ct_series(
    folder: str | os.PathLike,
    hu: np.ndarray,
    affine: np.ndarray,
    *,
    description: str = "drrlib phantom",
) -> Path:
    """Write one CT Image Storage file per slice: Explicit VR Little Endian, signed 16 bits.

    The same arguments give the same bytes, UIDs included. The folder appears only when it is
    complete. A mirrored affine is written with its slices in the opposite order, which is the
    same object in the world; read back, it has a right-handed affine.

    Args:
        folder: New or empty folder.
        hu: Hounsfield units [x, y, z], rounded to whole numbers, at least two slices.
        affine: world_from_voxel [mm, LPS], 4x4; x and y perpendicular, z may be sheared against
            them by up to 60 degrees.
        description: SeriesDescription, at most 64 characters.

    Returns:
        The folder.

    Raises:
        ShapeError, VolumeError, GeometryError: voxels or affine that the format cannot hold.
        DicomError: the folder has content, or the description is too long.
        OSError: it cannot be written.
    """
    folder = as_path(folder, "folder")
    hu = as_tensor(hu, "hu", torch.float32).detach().cpu().numpy()
    affine = as_tensor(affine, "affine", torch.float64).detach().cpu().numpy()
    _check(hu, affine)
    if (
        not isinstance(description, str)
        or len(description) > 64
        or "\\" in description
        or not description.isascii()
    ):
        raise DicomError("description is not plain text of at most 64 characters without backslash")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DicomError(f"{str(folder)!r} exists and is not an empty folder; name a new one")
    if np.linalg.det(affine[:3, :3]) < 0:
        hu, affine = hu[:, :, ::-1], affine.copy()
        affine[:3, 3] += affine[:3, 2] * (hu.shape[2] - 1)
        affine[:3, 2] *= -1
    stored = (np.rint(hu).astype(np.int32) - INTERCEPT).astype("<i2")
    key = hashlib.sha256(f"{stored.shape}{description}".encode())
    key.update(np.ascontiguousarray(stored).tobytes() + affine.tobytes())
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        for k in range(stored.shape[2]):
            ds = _dataset(stored[:, :, k].T, affine, k, key.hexdigest(), description)
            ds.save_as(partial / f"CT{k + 1:04d}.dcm", enforce_file_format=True)
        if folder.exists():
            folder.rmdir()
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _check(hu: np.ndarray, affine: np.ndarray) -> None:
    if hu.ndim != 3 or min(hu.shape) < 1 or hu.shape[2] < 2:
        raise ShapeError(f"hu has shape {hu.shape}; expected [x, y, z] with at least two slices")
    if max(hu.shape[:2]) > 65535:
        raise ShapeError(f"hu has shape {hu.shape}; expected at most 65535 columns and rows")
    if not np.isfinite(hu).all() or hu.min() < LOWEST or hu.max() > HIGHEST:
        raise VolumeError(f"hu is not within {LOWEST} ... {HIGHEST}; clip it and replace NaN")
    if affine.shape != (4, 4):
        raise ShapeError(f"affine has shape {affine.shape}; expected (4, 4)")
    if not np.isfinite(affine).all() or affine[3].tolist() != [0, 0, 0, 1]:
        raise GeometryError("affine is not finite or its last row is not (0, 0, 0, 1)")
    size = np.linalg.norm(affine[:3, :3], axis=0)
    if not size.min() > 1e-3:
        raise GeometryError(f"affine has voxels of {size.tolist()} mm; expected more than 0.001")
    x, y, z = (affine[:3, :3] / size).T
    if abs(x @ y) > 1e-4:
        raise GeometryError("x and y of affine are not perpendicular; resample the volume first")
    if abs(np.cross(x, y) @ z) < 0.5:
        raise GeometryError("z of affine leans by more than 60 degrees; resample the volume first")


def decimal(numbers) -> list[DSfloat]:
    return [DSfloat(float(number), auto_format=True) for number in numbers]


def new_uid(key: str, what: str) -> UID:
    """The same for the same arguments."""
    return generate_uid(entropy_srcs=[key, what])


def new_dataset(kind: str, key: str, what: str) -> FileDataset:
    """The beginning of an object: its class, its UIDs from `key`, a study of nobody."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(kind)
    meta.MediaStorageSOPInstanceUID = new_uid(key, what)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = UID(kind), new_uid(key, what)
    ds.PatientName, ds.PatientID = "PHANTOM^DRRLIB", "DRRLIB"
    ds.PatientBirthDate = ds.PatientSex = ""
    ds.StudyInstanceUID = new_uid(key, "study")
    ds.StudyDate = ds.StudyTime = ds.ReferringPhysicianName = ds.AccessionNumber = ""
    ds.StudyID = "1"
    return ds


def _dataset(
    pixels: np.ndarray, affine: np.ndarray, k: int, key: str, description: str
) -> FileDataset:
    """One slice; attributes in the order of the CT Image IOD (PS3.3 A.3)."""
    size = np.linalg.norm(affine[:3, :3], axis=0)
    normal = np.cross(affine[:3, 0] / size[0], affine[:3, 1] / size[1])
    ds = new_dataset(CT_IMAGE, key, f"slice {k}")
    ds.Modality, ds.SeriesInstanceUID, ds.SeriesNumber = "CT", new_uid(key, "series"), 1
    ds.SeriesDescription, ds.PatientPosition = description, "HFS"
    ds.FrameOfReferenceUID = new_uid(key, "frame of reference")
    ds.PositionReferenceIndicator = ""
    ds.Manufacturer = "drrlib"
    ds.InstanceNumber, ds.AcquisitionNumber = k + 1, 1
    ds.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
    ds.PixelSpacing = decimal([size[1], size[0]])  # between rows, between columns
    ds.ImageOrientationPatient = decimal([*affine[:3, 0] / size[0], *affine[:3, 1] / size[1]])
    ds.ImagePositionPatient = decimal(affine[:3, 3] + k * affine[:3, 2])
    ds.SliceThickness = decimal([normal @ affine[:3, 2]])[0]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(INTERCEPT), "1", "HU"
    ds.KVP = None
    ds.PixelData = pixels.tobytes()
    return ds
