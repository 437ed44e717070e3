"""The DICOM writer: a valid object, exact on the way back, nothing half-written."""

import numpy as np
import pydicom
import pytest

from drrlib.errors import DicomError, GeometryError, ShapeError, VolumeError
from drrlib.io import list_series, read_ct_series, write_ct_series

RNG = np.random.default_rng(0)
HU = RNG.integers(-1024, 3000, (7, 5, 4)).astype(np.float32)
ANGLE = 0.3
ROTATION = np.array(
    [[1, 0, 0], [0, np.cos(ANGLE), -np.sin(ANGLE)], [0, np.sin(ANGLE), np.cos(ANGLE)]]
)


def affine_of(kind: str) -> np.ndarray:
    affine = np.diag([0.451171875, 0.7, 2.5, 1.0])
    affine[:3, 3] = [-115.5, 3.25, 696.21]
    if kind in ("oblique", "mirrored oblique"):
        affine[:3, :3] = ROTATION @ affine[:3, :3]
    if kind == "sheared":
        affine[1, 2] = -0.83
    if kind in ("mirrored", "mirrored oblique"):
        affine[:3, 0] *= -1
    return affine


def points(affine: np.ndarray, shape) -> np.ndarray:
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return index @ affine[:3, :3].T + affine[:3, 3]


@pytest.mark.parametrize("kind", ["plain", "oblique", "sheared", "mirrored", "mirrored oblique"])
def test_round_trip(tmp_path, kind):
    affine = affine_of(kind)
    back = read_ct_series(write_ct_series(tmp_path / "ct", HU + 0.3, affine))
    assert back.hu.dtype == np.float32 and np.linalg.det(back.affine) > 0
    flip = -1 if "mirrored" in kind else 1
    assert np.array_equal(back.hu[:, :, ::flip], HU)
    there = points(back.affine, HU.shape)[:, :, ::flip]
    np.testing.assert_allclose(there, points(affine, HU.shape), atol=1e-8)
    if flip == 1:
        np.testing.assert_allclose(back.affine, affine, atol=1e-9)


def test_lowest_and_highest_value_come_back(tmp_path):
    hu = np.zeros((2, 2, 2))
    hu[0, 0, 0], hu[1, 1, 1] = -33792, 31743
    back = read_ct_series(write_ct_series(tmp_path / "ct", hu, np.eye(4)))
    assert np.array_equal(back.hu, hu)


def test_the_same_input_gives_the_same_bytes(tmp_path):
    folders = [write_ct_series(tmp_path / n, HU, np.eye(4)) for n in ("a", "b")]
    folders.append(write_ct_series(tmp_path / "c", HU + 1, np.eye(4)))
    first, second, other = (sorted(folder.iterdir()) for folder in folders)
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    uid = {pydicom.dcmread(files[0]).SeriesInstanceUID for files in (first, second, other)}
    assert len(uid) == 2


def test_the_object_is_valid(tmp_path):
    folder = write_ct_series(tmp_path / "deep" / "ct", HU, np.eye(4), description="head")
    read = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    first = read[0]
    assert first.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert (
        first.SOPClassUID == first.file_meta.MediaStorageSOPClassUID == pydicom.uid.CTImageStorage
    )
    assert first.SOPInstanceUID == first.file_meta.MediaStorageSOPInstanceUID
    assert str(first.PatientName) == "PHANTOM^DRRLIB" and first.SeriesDescription == "head"
    assert (first.Rows, first.Columns) == (5, 7) and first.RescaleIntercept == -1024
    assert len({ds.SOPInstanceUID for ds in read}) == len(read) == 4
    assert len({ds.StudyInstanceUID for ds in read}) == len({ds.SeriesInstanceUID for ds in read})
    assert [ds.InstanceNumber for ds in read] == [1, 2, 3, 4]
    # Type 1 and 2 attributes of the CT Image IOD: present, even where empty.
    for keyword in (
        "PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName AccessionNumber "
        "StudyID PositionReferenceIndicator Manufacturer PatientPosition FrameOfReferenceUID KVP "
        "AcquisitionNumber SliceThickness ImageType RescaleType PhotometricInterpretation"
    ).split():
        assert keyword in first, keyword
    (info,) = list_series(tmp_path)
    assert info.usable and info.number == 1 and info.size == (7, 5) and info.n_files == 4


def test_an_empty_folder_is_used_and_a_full_one_left_alone(tmp_path):
    (tmp_path / "ct").mkdir()
    folder = write_ct_series(tmp_path / "ct", HU, np.eye(4))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(DicomError, match="not an empty folder"):
        write_ct_series(tmp_path / "ct", HU, np.eye(4))
    assert before == {path: path.read_bytes() for path in (tmp_path / "ct").iterdir()}


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(pydicom.dataset.FileDataset, "save_as", full)
    with pytest.raises(OSError, match="disk full"):
        write_ct_series(tmp_path / "ct", HU, np.eye(4))
    assert list(tmp_path.iterdir()) == []


def skewed() -> np.ndarray:
    affine = np.eye(4)
    affine[0, 1] = 0.2
    return affine


@pytest.mark.parametrize(
    ("hu", "affine", "error", "says"),
    [
        (HU[:, :, :1], np.eye(4), ShapeError, "two slices"),
        (HU[0], np.eye(4), ShapeError, "x, y, z"),
        (HU * np.nan, np.eye(4), VolumeError, "NaN"),
        (HU + 40000, np.eye(4), VolumeError, "31743"),
        (HU, np.eye(3), ShapeError, r"\(4, 4\)"),
        (HU, np.diag([1, 1, 0, 1]), GeometryError, "0.001"),
        (HU, np.eye(4) * 2, GeometryError, "last row"),
        (HU, skewed(), GeometryError, "perpendicular"),
        (HU, np.eye(4) + 3 * np.eye(4, k=1) * [[0], [1], [0], [0]], GeometryError, "60 degrees"),
    ],
)
def test_refusals(tmp_path, hu, affine, error, says):
    with pytest.raises(error, match=says):
        write_ct_series(tmp_path / "ct", hu, affine)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("description", ["x" * 65, "a\\b", "Schädel"])
def test_a_description_that_the_format_cannot_hold(tmp_path, description):
    with pytest.raises(DicomError, match="description"):
        write_ct_series(tmp_path / "ct", HU, np.eye(4), description=description)
