"""Scenes and comparators shared by tests."""

import math
import os
import subprocess
from dataclasses import dataclass

import numpy as np
import pydicom
import pytest
import torch
from torch import Tensor

# "cuda" runs on a GPU, or in Triton's interpreter, which projectors/test_triton.py starts.
KERNELS = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu(interpreter=True))]


def run(*command, **options) -> str:
    """What a command printed; its errors are the test's."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class View:
    """One flat detector [mm, world]: the arguments of `project` after the grid."""

    source: Tensor
    corner: Tensor
    col_step: Tensor
    row_step: Tensor
    height: int
    width: int

    @property
    def frame(self) -> list[Tensor]:
        return [self.source, self.corner, self.col_step, self.row_step]

    @property
    def targets(self) -> Tensor:
        """Pixel centres [b, h, w, 3]."""
        i = torch.arange(self.height, dtype=torch.float64)[:, None, None] + 0.5
        j = torch.arange(self.width, dtype=torch.float64)[:, None] + 0.5
        corner, col, row = (x[:, None, None] for x in self.frame[1:])
        return corner + j * col + i * row


def affine(spacing=(1.0, 1.0, 1.0), size=(16, 16, 16), shift=(0.0, 0.0, 0.0)) -> Tensor:
    """Axis-aligned world_from_voxel with the grid centred at `shift`."""
    a = torch.eye(4, dtype=torch.float64)
    for q in range(3):
        a[q, q] = spacing[q]
        a[q, 3] = shift[q] - 0.5 * spacing[q] * (size[q] - 1)
    return a


def view(theta, phi, size=(13, 11), *, sdd=120.0, sod=60.0, extent=40.0, offset=(0.0, 0.0, 0.0)):
    """A detector of `extent` mm around the world origin, seen from (theta, phi) [rad]."""
    ct, st, cp, sp = math.cos(theta), math.sin(theta), math.cos(phi), math.sin(phi)
    ahead = torch.tensor([sp * ct, -cp * ct, st], dtype=torch.float64)
    right = torch.tensor([cp, sp, 0.0], dtype=torch.float64)
    up = torch.linalg.cross(ahead, right)
    center = torch.tensor(offset, dtype=torch.float64)
    height, width = size
    col, row = right * extent / width, -up * extent / height
    source = center - sod * ahead
    corner = center + (sdd - sod) * ahead - 0.5 * width * col - 0.5 * height * row
    return View(*(x[None] for x in (source, corner, col, row)), height, width)


GENERIC_VIEWS = {
    "oblique": view(0.21, 0.37, offset=(0.7, -1.1, 0.4)),
    "lateral": view(-0.13, 1.41, offset=(0.3, 0.2, -0.6)),
    "axial": view(1.36, 0.31, offset=(0.23, 0.11, 0.47)),
    "diagonal": view(0.05, math.pi / 4 + 0.03, offset=(0.1, 0.3, 0.2)),
}
ALIGNED_VIEWS = {
    "AP": view(0.0, 0.0, (16, 16)),
    "exact lateral": view(0.0, math.pi / 2, (16, 16)),
    "exact cranial": view(math.pi / 2, 0.0, (15, 16)),
}


def rays(geometry, pose: Tensor) -> tuple[Tensor, Tensor]:
    """Source and target of every pixel [b, height, width, 3], written out from the strips."""
    frame, rows = geometry.strips(pose)
    source, corner, col, row = (x[:, :, None, None] for x in frame)
    i = torch.arange(rows, dtype=torch.float64)[:, None, None] + 0.5
    j = torch.arange(geometry.width, dtype=torch.float64)[:, None] + 0.5
    target = (corner + j * col + i * row).flatten(1, 2)
    return source.expand(-1, -1, rows, geometry.width, -1).flatten(1, 2), target


def random_volume(size=(16, 16, 16), seed=0, dtype=torch.float32) -> Tensor:
    """Attenuation in 0..0.02 per mm, without zeros at the border."""
    generator = torch.Generator().manual_seed(seed)
    return (0.02 * torch.rand(size, generator=generator, dtype=torch.float64)).to(dtype)


def interpreted() -> bool:
    """Whether Triton's interpreter stands in for the GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def placed(tensor: Tensor, backend: str) -> Tensor:
    """The tensor where the backend takes it."""
    return tensor.cuda() if backend == "cuda" and not interpreted() else tensor


def worst(actual: Tensor, expected: Tensor) -> float:
    """Largest deviation as a fraction of the largest expected value; infinite for NaN."""
    difference = (actual.double() - expected.double()).abs().max()
    if difference == 0:
        return 0.0
    scale = expected.double().abs().max()
    return float(torch.nan_to_num(difference / scale, nan=math.inf))


def outside_band(actual: Tensor, expected: Tensor, band: float) -> float:
    """Fraction of elements that differ by more than `band` of the largest expected value."""
    difference = (actual.double() - expected.double()).abs()
    bad = ~(difference <= band * expected.double().abs().max())
    return float(bad.double().mean())


def xray_header(**changes):
    """An XA header; a changed keyword gets that value, or is left out for None."""
    header = pydicom.Dataset()
    header.Rows, header.Columns = 40, 50
    header.DistanceSourceToDetector, header.DistanceSourceToPatient = 1100, 750
    header.ImagerPixelSpacing = [0.4, 0.3]  # between rows, between columns
    header.PositionerPrimaryAngle, header.PositionerSecondaryAngle = -30, 20
    for keyword, value in changes.items():
        if value is None:
            delattr(header, keyword)
        else:
            setattr(header, keyword, value)
    return header


def write_xray(path, stored, **tags):
    """A DICOM X-ray image with the geometry of `xray_header`; tags as there."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    stored = np.ascontiguousarray(stored)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.12.1"
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["xray"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    ds.update(xray_header())
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    ds.PatientName, ds.Modality = "SECRET^NAME", "XA"
    ds.Rows, ds.Columns = stored.shape[-2:]
    if stored.ndim == 3:
        ds.NumberOfFrames = len(stored)
    bits = 8 * stored.dtype.itemsize
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelRepresentation, ds.SamplesPerPixel = int(stored.dtype.kind == "i"), 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PixelData = stored.tobytes()
    for keyword, value in tags.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    ds.save_as(path, enforce_file_format=True)
    return path
