"""Write a DRR in the form that its file name asks for."""

import gzip
import os
import struct
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float
from torch import Tensor

from drrlib.arrays import Numbers, as_path, as_tensor, check_kind
from drrlib.atomic import write_whole
from drrlib.errors import ConfigError, GeometryError, ShapeError
from drrlib.geometry import CArm, ScanProjection
from drrlib.io.nifti import LPS_FROM_RAS
from drrlib.io.xray_write import write_xray

DRR_SUFFIXES = (".png", ".nii", ".nii.gz", ".npy", ".dcm")


def write_drr(
    path: str | os.PathLike, image: Numbers, carm: CArm, eta: Numbers, center: Numbers
) -> Path:
    """Write line integrals [height, width] by the suffix of the name.

    | suffix | values | geometry |
    |---|---|---|
    | .png | 16 bits, 0 to the largest line integral, dense is bright | none |
    | .nii, .nii.gz | line integrals, float32 | the detector's place about the CT |
    | .npy | line integrals, float32 | none |
    | .dcm | counts, see `write_xray` | lengths and angles |

    Args:
        path: Where to.
        image: One image, with any leading axes of length 1.
        carm: Its C-arm.
        eta: Pose parameters [6] (rad, mm).
        center: The volume's centre [mm, world].

    Raises:
        ConfigError: another suffix.
        ShapeError, GeometryError: what the format cannot hold.
        OSError: it cannot be written.
    """
    path = as_path(path)
    suffix = next((s for s in DRR_SUFFIXES if path.name.lower().endswith(s)), None)
    if suffix is None:
        raise ConfigError(
            f"{path.name!r} ends in none of {', '.join(DRR_SUFFIXES)}, which tell what to write"
        )
    if suffix == ".dcm":
        return write_xray(path, image, carm, eta)
    values = as_tensor(image, "image").detach().cpu().float().numpy()
    check_kind(carm, (CArm, ScanProjection), "carm")
    if values.size != carm.height * carm.width:
        raise ShapeError(
            f"image has shape {values.shape}; expected one of {carm.height} x {carm.width} pixels"
        )
    values = values.reshape(carm.height, carm.width)
    if suffix == ".npy":
        write_whole(path, lambda name: _save_npy(name, values))
    elif suffix == ".png":
        write_whole(path, lambda name: name.write_bytes(_png(values)))
    else:
        made = _nifti(values, carm, as_tensor(carm.pose(eta, center), "pose"))
        data = made.to_bytes()
        if suffix == ".nii.gz":
            data = gzip.compress(data, 6, mtime=0)  # without a time in it
        write_whole(path, lambda name: name.write_bytes(data))
    return path


def _save_npy(name: Path, values: np.ndarray) -> None:
    with open(name, "wb") as file:
        np.save(file, values)


def _png(values: np.ndarray) -> bytes:
    """A grey picture of 16 bits (PNG, ISO 15948): signature, IHDR, IDAT, IEND."""
    top = float(values.max())
    scaled = np.rint(values.clip(0) * (65535 / top if top > 0 else 0.0)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in scaled)
    height, width = values.shape

    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def _nifti(values: np.ndarray, carm: CArm, pose: Float[Tensor, "4 4"]) -> nib.Nifti1Image:
    """One slice [column, row, 1] that stands where the detector stood."""
    if not isinstance(carm, CArm):
        raise GeometryError("only a C-arm has a flat detector; expected a CArm for NIfTI")
    frame = carm.frame(pose)
    corner, column, row = (x.detach().cpu().numpy() for x in frame[1:])
    normal = np.cross(column, row)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([column, row, normal / np.linalg.norm(normal)], axis=1)
    affine[:3, 3] = corner + 0.5 * column + 0.5 * row
    image = nib.Nifti1Image(values.T[:, :, None], LPS_FROM_RAS @ affine)
    image.header.set_xyzt_units("mm")
    return image
