"""MetaImage and NRRD: places and values by hand-written headers; refusals. And other containers."""

import sys
import zipfile

import nibabel
import numpy as np
import pytest

from drrlib.errors import ConfigError, DicomError, VolumeError
from drrlib.io import read_metaimage_nrrd, read_volume

HU = np.random.default_rng(0).integers(-1000, 1500, (4, 3, 5)).astype("<i2")
PLACE = np.array([[0, -2.0, 0, 10], [0.5, 0, 0, -20], [0, 0, 3.0, 30], [0, 0, 0, 1]])
META = """ObjectType = Image
NDims = 3
DimSize = 4 3 5
ElementType = MET_SHORT
BinaryData = True
BinaryDataByteOrderMSB = False
Offset = 10 -20 30
TransformMatrix = 0 1 0 -1 0 0 0 0 1
ElementSpacing = 0.5 2 3
ElementDataFile = LOCAL
"""
# The same place in right-anterior-superior coordinates.
NRRD = """NRRD0004
type: int16
dimension: 3
space: right-anterior-superior
sizes: 4 3 5
space directions: (0,-0.5,0) (2,0,0) (0,0,3)
space origin: (-10,20,30)
endian: little
encoding: raw

"""


def _write(path, header, data=None):
    path.write_bytes(header.encode() + (HU.tobytes(order="F") if data is None else data))
    return path


@pytest.mark.parametrize(("name", "header"), [("a.mha", META), ("A.NRRD", NRRD)])
def test_values_and_place(tmp_path, name, header):
    pytest.importorskip("SimpleITK", reason="the extra formats is not installed")
    hu, affine = read_metaimage_nrrd(_write(tmp_path / name, header))
    assert np.array_equal(hu, HU) and np.allclose(affine, PLACE)
    assert np.allclose(read_volume(tmp_path / name).affine, PLACE)
    with pytest.raises(ConfigError, match="series given for a file of one volume"):
        read_volume(tmp_path / name, series=1)


@pytest.mark.parametrize(
    ("change", "data", "says"),
    [
        (("ElementType", "ElementNumberOfChannels = 3\nElementType"), None, "3 values per voxel"),
        (("DimSize = 4 3 5", "DimSize = 4 3 50"), None, "damaged"),
        (("MET_SHORT", "SECRET"), None, "damaged"),
        (("LOCAL", "other.raw"), None, "data file is"),
        (("DimSize = 4 3 5", "DimSize = 40000 30000 50000"), None, "at most"),
        (("0 1 0 -1 0 0 0 0 1", "0 0 0 0 0 0 0 0 0"), None, "affine|damaged"),
    ],
)
def test_refusals(tmp_path, change, data, says):
    pytest.importorskip("SimpleITK", reason="the extra formats is not installed")
    path = _write(tmp_path / "a.mha", META.replace(*change), data)
    with pytest.raises(VolumeError, match=says) as caught:
        read_metaimage_nrrd(path)
    assert "SECRET" not in str(caught.value)
    with pytest.raises(VolumeError, match="does not exist"):
        read_metaimage_nrrd(tmp_path / "b.mha")


def test_without_simpleitk(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(VolumeError, match=r"\.mha files are read by SimpleITK.*pip install"):
        read_volume(_write(tmp_path / "a.mha", META))


def test_containers_are_named(tmp_path):
    for name in ("a.nii.gz", "b.nii"):
        nibabel.save(nibabel.Nifti1Image(HU, np.eye(4)), tmp_path / name)
    with pytest.raises(VolumeError, match=r"holds 2 files of one volume each, first 'a\.nii\.gz'"):
        read_volume(tmp_path)
    with zipfile.ZipFile(tmp_path / "ct.zip", "w") as archive:
        archive.write(tmp_path / "b.nii")
    (tmp_path / "ct.zip").rename(tmp_path / "ct")
    with pytest.raises(DicomError, match="an archive; unpack it"):
        read_volume(tmp_path / "ct")
    (tmp_path / "DICOMDIR").write_bytes(b"x" * 300)
    with pytest.raises(DicomError, match="a DICOMDIR is an index"):
        read_volume(tmp_path / "DICOMDIR")


def test_sizes_that_disagree_are_said(tmp_path):
    image = nibabel.Nifti1Image(HU, np.diag([2.0, 2, 3, 1]))
    image.header["pixdim"][1:4] = 1.5, 2, 3
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.warns(UserWarning, match="2 x 2 x 3 and pixdim of 1.5 x 2 x 3"):
        assert np.allclose(read_volume(tmp_path / "a.nii").spacing, [2, 2, 3])


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.mha", META.replace("NDims = 3", "NDims = 65535")),
        ("a.nrrd", NRRD.replace("dimension: 3\n", "dimension: 3\n" + "9" * 5000 + "\n")),
        ("b.nrrd", NRRD.replace("(2,0,0)", "(2,0,SECRET)")),
    ],
)
def test_headers_that_end_the_process_or_are_quoted(tmp_path, name, header):
    pytest.importorskip("SimpleITK", reason="the extra formats is not installed")
    with pytest.raises(VolumeError, match="damaged") as caught:
        read_metaimage_nrrd(_write(tmp_path / name, header))
    error = caught.value
    assert error.__cause__ is None and "SECRET" not in str(error)
    assert error.__context__ is None or error.__suppress_context__
