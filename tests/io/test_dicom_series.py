"""CT series: geometry, order, rescaling, refusals, and nothing about the patient in messages."""

import contextlib
import copy
import inspect
import logging
import struct
import warnings

import numpy as np
import pydicom
import pytest
import torch
from scipy.ndimage import map_coordinates

from drrlib.errors import ConfigError, DicomError, GeometryError, ShapeError, VolumeError
from drrlib.io import list_series, read_ct_series, read_volume, write_ct_series

AFFINE = np.array(
    [[0.8, 0, 0, -12.0], [0, 1.1, 0, 7.5], [0, 0, 2.5, 100.25], [0, 0, 0, 1]], dtype=float
)


def _hu(shape=(6, 5, 7)):
    return np.random.default_rng(0).integers(-1000, 1500, shape).astype(np.float32)


@pytest.fixture
def series(tmp_path):
    """Files of a small series, and a way to edit one header."""
    write_ct_series(tmp_path / "ct", _hu(), AFFINE)
    files = sorted((tmp_path / "ct").iterdir())

    def edit(index, **values):
        for k in range(len(files)) if index is None else [index]:
            data = pydicom.dcmread(files[k])
            for keyword, value in values.items():
                if value is None:
                    delattr(data, keyword)
                elif keyword == "PixelPaddingValue":
                    data.add_new("PixelPaddingValue", "US", value)
                else:
                    setattr(data, keyword, value)
            data.save_as(files[k])

    return tmp_path / "ct", files, edit


def test_round_trip_is_exact(series):
    found = read_ct_series(series[0])
    assert np.array_equal(found.hu, _hu())
    assert np.allclose(found.affine, AFFINE, atol=1e-9)
    assert str(found.info) == "series 1 (CT, slices, 7 files): usable"


def test_order_comes_from_position_not_from_name_or_number(series):
    folder, files, edit = series
    for k, name in enumerate("gcafbed"):
        edit(k, InstanceNumber=7 - k)
        files[k].rename(folder / name)
    (folder / "notes.txt").write_text("not DICOM")
    assert np.array_equal(read_ct_series(folder).hu, _hu())


@pytest.mark.parametrize(
    "change",
    [
        np.diag([1.0, 1.0, -1.0]),
        np.diag([-1.0, 1.0, 1.0]),
        np.array([[1, 0, 0.2], [0, 1, -0.3], [0, 0, 1.0]]),
        np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]]),
    ],
    ids=["feet first", "mirrored", "gantry tilt", "sagittal"],
)
def test_any_orientation_keeps_every_voxel_in_place(tmp_path, change):
    affine = AFFINE.copy()
    affine[:3, :3] = change @ affine[:3, :3]
    write_ct_series(tmp_path / "ct", _hu(), affine)
    found = read_ct_series(tmp_path / "ct")
    voxel = np.argwhere(np.ones(found.hu.shape))
    world = voxel @ found.affine[:3, :3].T + found.affine[:3, 3]
    back = (world - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    expected = _hu()[tuple(np.rint(back).astype(int).T)]
    assert np.allclose(back, np.rint(back), atol=1e-6)
    assert np.array_equal(found.hu.ravel(), expected)


def test_each_slice_has_its_own_rescaling(series):
    folder, _, edit = series
    edit(2, RescaleSlope=2, RescaleIntercept=-2000)
    hu = read_ct_series(folder).hu
    assert np.array_equal(hu[:, :, 2], 2 * (_hu()[:, :, 2] + 1024) - 2000)
    assert np.array_equal(hu[:, :, 3], _hu()[:, :, 3])


def test_padding_becomes_air(series):
    folder, files, edit = series
    edit(None, PixelPaddingValue=24)  # stored 24 is -1000 HU
    data = pydicom.dcmread(files[0])
    pixels = data.pixel_array.copy()
    pixels[:2] = 24
    data.PixelData = pixels.tobytes()
    data.RescaleIntercept = -4000
    data.save_as(files[0])
    assert (read_ct_series(folder).hu[:, :2, 0] == -1000).all()


REFUSALS = {
    "missing slice": (lambda f, e: f[3].unlink(), "missing slices.*1 gaps.*slices 2 and 3"),
    "duplicate": (
        lambda f, e: e(3, ImagePositionPatient=[-12, 7.5, 105.25]),
        "duplicate slice positions",
    ),
    "uneven": (
        lambda f, e: e(3, ImagePositionPatient=[-12, 7.5, 108.25]),
        "non-uniform slice positions: slice 3",
    ),
    "sideways": (
        lambda f, e: e(3, ImagePositionPatient=[-9, 7.5, 107.75]),
        "non-uniform slice positions: slice 3",
    ),
    "orientation": (
        lambda f, e: e(3, ImageOrientationPatient=[0, 1, 0, 1, 0, 0]),
        "another ImageOrientationPatient",
    ),
    "skewed axes": (lambda f, e: e(3, ImageOrientationPatient=[1, 0, 0, 1, 1, 0]), "another Image"),
    "spacing": (lambda f, e: e(3, PixelSpacing=[2, 2]), "another PixelSpacing"),
    "zero spacing": (lambda f, e: e(None, PixelSpacing=[0, 0]), "two lengths > 0"),
    "no spacing": (lambda f, e: e(None, PixelSpacing=None), "tags: PixelSpacing in 7 of 7"),
    "no position": (lambda f, e: e(None, ImagePositionPatient=None), "tags: ImagePositionPatient"),
    "localizer": (
        lambda f, e: e(None, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        "a localizer is a projection",
    ),
    "MR": (lambda f, e: e(None, Modality="MR"), "expected Modality CT"),
    "multi-frame": (lambda f, e: e(None, NumberOfFrames=2), "one file per slice"),
    "absurd size": (lambda f, e: e(None, Rows=65535, Columns=65535), "at most 1073741824"),
    "zero slope": (lambda f, e: e(2, RescaleSlope=0), "RescaleSlope is 0"),
    "hostile slope": (lambda f, e: e(2, RescaleSlope="1e30"), "rescale slope"),
    "cut pixels": (lambda f, e: e(2, PixelData=b"\0" * 10), "cannot be decoded"),
    "rows": (lambda f, e: e(3, Rows=4), "another Rows"),
    "no rescaling": (lambda f, e: e(3, RescaleSlope=None), "RescaleIntercept in 1 of 7"),
    "electron density": (lambda f, e: e(None, RescaleType="ED"), "no Hounsfield units"),
    "perfusion": (lambda f, e: e(None, ImageType=["DERIVED", "SECONDARY", "CBF"]), "Hounsfield"),
    "screen shot": (
        lambda f, e: e(None, SOPClassUID="1.2.840.10008.5.1.4.1.1.7"),
        "screen shot",
    ),
    "no pixels": (lambda f, e: e(2, PixelData=None), "slice 2: no pixel data"),
    "steep": (
        lambda f, e: [e(k, ImagePositionPatient=[20 * k, 7.5, 100.25 + k]) for k in range(7)],
        "60 degrees",
    ),
    "one slice": (lambda f, e: [x.unlink() for x in f[1:]], "only one slice"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_name_the_series_and_never_the_patient(series, name):
    folder, files, edit = series
    edit(
        None,
        PatientName="SECRET^NAME",
        PatientID="SECRET-ID",
        PatientBirthDate="19310203",
        StudyDate="20191224",
        InstitutionName="SECRET HOSPITAL",
    )
    damage, message = REFUSALS[name]
    damage(files, edit)
    with pytest.raises(DicomError, match=message) as caught:
        read_ct_series(folder)
    text = str(caught.value) + "".join(map(str, list_series(folder)))
    assert "series 1" in text
    assert not any(x in text for x in ("SECRET", "19310203", "20191224"))


def test_several_series_must_be_chosen(tmp_path):
    write_ct_series(tmp_path / "a", _hu(), AFFINE)
    write_ct_series(tmp_path / "b", _hu((4, 4, 3)), AFFINE)
    other = sorted((tmp_path / "b").iterdir())
    for path in other:
        data = pydicom.dcmread(path)
        data.SeriesNumber = 2
        data.save_as(path)
    with pytest.raises(DicomError, match=r"2 CT series are usable.*choose by `series"):
        read_ct_series(tmp_path)
    assert read_ct_series(tmp_path, series=2).hu.shape == (4, 4, 3)
    with pytest.raises(DicomError, match="no series has number 9"):
        read_ct_series(tmp_path, series=9)
    assert read_ct_series(other).hu.shape == (4, 4, 3)


def test_a_series_of_two_kinds_counts_as_two(series):
    folder, files, edit = series
    edit(6, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert [(s.kind, s.n_files) for s in list_series(folder)] == [("slices", 6), ("localizer", 1)]
    assert np.array_equal(read_ct_series(folder).hu, _hu()[:, :, :6])
    assert np.array_equal(read_ct_series(list_series(folder)[0].paths).hu, _hu()[:, :, :6])
    assert read_ct_series(map(str, files)).hu.shape == (6, 5, 6)


def test_an_empty_sop_class_is_no_obstacle(series):
    folder, _, edit = series
    edit(None, SOPClassUID="")
    assert np.array_equal(read_ct_series(folder).hu, _hu())


def test_positions_may_be_rounded(series):
    folder, _, edit = series
    edit(3, ImagePositionPatient=[-12.01, 7.5, 107.77])
    assert np.allclose(read_ct_series(folder).affine, AFFINE, atol=0.02)


def test_signed_padding_in_an_unsigned_tag(series):
    folder, files, _ = series
    data = pydicom.dcmread(files[0])
    pixels = data.pixel_array.copy()
    pixels[0] = -2000
    data.PixelData = pixels.tobytes()
    data.add_new("PixelPaddingValue", "US", 63536)
    data.save_as(files[0])
    hu = read_ct_series(folder).hu
    assert (hu[:, 0, 0] == -1000).all() and np.array_equal(hu[:, 1:], _hu()[:, 1:])


def test_a_file_without_preamble_is_read(series):
    folder, files, _ = series
    for path in files:
        data = pydicom.dcmread(path)
        bare = pydicom.dataset.Dataset({e.tag: e for e in data})
        bare.save_as(path, implicit_vr=True, little_endian=True)
        assert path.read_bytes()[128:132] != b"DICM"
    assert np.array_equal(read_ct_series(folder).hu, _hu())


def test_a_syntax_without_decoder_says_what_to_install(series):
    folder, files, _ = series
    for path in files:
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
        data.PixelData = pydicom.encaps.encapsulate([data.PixelData])
        data["PixelData"].VR = "OB"
        data.save_as(path)
    with pytest.raises(DicomError, match="pip install pylibjpeg pylibjpeg-openjpeg"):
        read_ct_series(folder)


@pytest.mark.parametrize("cut", [10, 140, 400, 700, -1, -40])
def test_a_truncated_file_is_never_read_as_whole(series, cut):
    folder, files, _ = series
    files[3].write_bytes(files[3].read_bytes()[:cut])
    with pytest.raises(DicomError):
        read_ct_series(folder)


def test_nothing_there(tmp_path):
    with pytest.raises(DicomError, match="does not exist"):
        read_ct_series(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(DicomError, match=r"no DICOM images found \(1 other files\)"):
        read_ct_series(tmp_path)


def test_writer_is_all_or_nothing(tmp_path):
    for name in ("one", "two"):
        write_ct_series(tmp_path / name, _hu(), AFFINE)
    first, again = (sorted((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
    with pytest.raises(DicomError, match="not an empty folder"):
        write_ct_series(tmp_path / "one", _hu(), AFFINE)
    with pytest.raises(VolumeError, match="31743"):
        write_ct_series(tmp_path / "three", _hu() + 1e6, AFFINE)
    with pytest.raises(ShapeError):
        write_ct_series(tmp_path / "three", _hu()[0], AFFINE)
    skewed = AFFINE.copy()
    skewed[0, 1] = 0.5
    with pytest.raises(GeometryError, match="perpendicular"):
        write_ct_series(tmp_path / "three", _hu(), skewed)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]


# --- real series


def test_real_study_is_told_apart(real_data):
    folder = real_data / "head_phantom_philips" / "study_21570_mixed"
    found = list_series(folder)
    assert [(s.kind, s.usable) for s in found] == [
        ("localizer", False),
        ("slices", True),
        ("secondary capture", False),
    ]
    ct = read_ct_series(folder)  # the one usable series needs no choice
    assert ct.hu.shape == (512, 512, 28)
    assert np.allclose(np.linalg.norm(ct.affine[:3, :3], axis=0), [0.451, 0.451, 5.0], atol=1e-3)
    assert 600 < ct.hu.max() < 1000


def test_real_compressed_series_uses_positions(real_data):
    ct = read_ct_series(real_data / "totalsegmentator" / "dicom_j2k_lossless")
    assert ct.hu.shape == (512, 512, 20)
    assert np.allclose(ct.affine[:3, 2], [0, 0, 2.0])  # SliceThickness says 3
    assert -1100 < ct.hu.min() and 1000 < ct.hu.max() < 3100


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("dicom_misc", "multi-frame, 1 file.*perfusion"),
        ("xray", r"none of 3 series is a usable CT:[\s\S]*XA, other"),
        ("xray/xa_coronary_96frames.dcm", "XA, other.*expected Modality CT"),
        ("xray/dx_dog_thorax.dcm", "DX, other.*expected Modality CT"),
        ("xray/cr_chest_pa_RG1_J2KI.dcm", "CR, other.*expected Modality CT"),
        ("head_phantom_philips/study_21570_mixed/S1000_surview", "localizer"),
        ("head_phantom_philips/study_21570_mixed/S4010_secondary_capture", "screen shot"),
        ("head_phantom_philips", "2 CT series are usable"),
    ],
)
def test_real_objects_that_are_no_ct_volume(real_data, name, says):
    with pytest.raises(DicomError, match=says):
        read_ct_series(real_data / name)


def _tilted_and_upright(real_data):
    folder = real_data / "head_phantom_philips"
    tilted = read_ct_series(folder / "dicom_tilt_minus18p5")
    return tilted, read_volume(folder / "ct_0deg_1mm.nii.gz")


def test_gantry_tilt_is_in_the_affine(real_data):
    """Voxels of the tilted series, looked up in the untilted CT of the same phantom."""
    tilted, upright = _tilted_and_upright(real_data)
    assert np.allclose(tilted.affine[:3, 2], [0, 0, 2.5], atol=0.01)
    angle = np.degrees(np.arcsin(tilted.affine[2, 1] / np.linalg.norm(tilted.affine[:3, 1])))
    assert abs(angle + 18.5) < 0.1
    normal = np.cross(tilted.affine[:3, 0], tilted.affine[:3, 1])
    straight = tilted.affine.copy()
    normal /= np.linalg.norm(normal)
    straight[:3, 2] = normal * (normal @ tilted.affine[:3, 2])

    def correlation(affine):
        index = np.stack(np.meshgrid(*(np.arange(0, n, 6) for n in tilted.hu.shape)), axis=-1)
        index = index.reshape(-1, 3)
        world = index @ affine[:3, :3].T + affine[:3, 3]
        back = torch.linalg.inv(upright.affine).numpy()
        there = (world @ back[:3, :3].T + back[:3, 3]).T
        inside = ((there > 0) & (there.T < np.array(upright.shape) - 1).T).all(axis=0)
        found = map_coordinates(upright.mu.numpy(), there[:, inside], order=1)
        own = np.clip(tilted.hu[tuple(index[inside].T)], -1000, None)
        return np.corrcoef(found, own)[0, 1]

    assert correlation(tilted.affine) > 0.95
    assert correlation(straight) < 0.8


@pytest.mark.parametrize("length", [140, 300, 600])
def test_a_damaged_end_slice_is_not_passed_over(series, length):
    folder, files, _ = series
    files[-1].write_bytes(files[-1].read_bytes()[:length])
    with pytest.raises(DicomError, match=r"damaged|missing or unreadable|cannot be decoded"):
        read_ct_series(folder)


def test_free_text_in_the_modality_is_not_repeated(series):
    folder, _, edit = series
    edit(None, Modality="SMITH")
    with pytest.raises(DicomError, match="unknown modality") as caught:
        read_ct_series(folder)
    assert "SMITH" not in str(caught.value)


def test_a_huge_compressed_image_is_refused_before_decoding(real_data, tmp_path):
    for path in (real_data / "totalsegmentator" / "dicom_j2k_lossless").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    victim = sorted(tmp_path.iterdir())[3]
    data = victim.read_bytes()
    at = data.index(b"\xff\x4f\xff\x51") + 8
    victim.write_bytes(data[:at] + struct.pack(">2I", 60000, 60000) + data[at + 8 :])
    with pytest.raises(DicomError, match="announces 60000 x 60000"):
        read_ct_series(tmp_path)


# --- what broken copies, anonymisers and scanners leave


@pytest.mark.parametrize("left", [b"", bytes(5000), bytes(100), b"\xff" * 5000])
def test_what_is_left_of_the_last_slices_is_not_passed_over(series, left):
    folder, files, _ = series
    (folder / "notes.txt").write_bytes(b"")
    (folder / f"._{files[0].name}").write_bytes(b"\0\5\x16\7" * 100)  # macOS writes these
    assert read_ct_series(folder).hu.shape == (6, 5, 7)
    for path in files[-2:]:
        path.write_bytes(left)
    with pytest.raises(DicomError, match=r"2 of 9 files are damaged.*CT0006"):
        list_series(folder)


def test_names_without_a_suffix(series):
    folder, files, _ = series
    for k, path in enumerate(files):
        path.rename(folder / f"1.2.840.{k}")
    (folder / "1.2.840.7").write_bytes(bytes(200))
    (folder / "VERSION").write_text("3")
    with pytest.raises(DicomError, match="1 of 9 files"):
        read_ct_series(folder)


def test_signed_values_declared_unsigned(series):
    folder, _, edit = series
    for k in range(7):
        pixels = _hu()[:, :, k].T.astype("<i2").tobytes()
        edit(k, PixelRepresentation=0, RescaleIntercept=0, PixelData=pixels)
    with pytest.raises(DicomError, match=r"to 65[0-9]{3} HU.*PixelRepresentation"):
        read_ct_series(folder)


def _two_passes(series, tmp_path, shift, **tags):
    """Two acquisitions in one series, the second at the positions of the first plus `shift`."""
    _, files, edit = series
    edit(None, **{tag: first for tag, (first, _) in tags.items()})
    for path in files:
        data = pydicom.dcmread(path)
        data.ImagePositionPatient[2] += shift
        data.SOPInstanceUID = data.SOPInstanceUID[:50] + ".1"
        data.RescaleIntercept = -1000
        for tag, (_, second) in tags.items():
            setattr(data, tag, second)
        data.save_as(path.with_name(f"again{path.name}"))


@pytest.mark.parametrize("shift", [0.0, 1.25, 0.4])
@pytest.mark.parametrize(
    ("tag", "values", "named"),
    [
        ("AcquisitionNumber", (1, 2), "AcquisitionNumber 2"),
        ("TemporalPositionIdentifier", (7, 8), "TemporalPositionIdentifier 8"),
        ("ConvolutionKernel", ("B30f", "SECRET"), "ConvolutionKernel no. 2"),
        ("TriggerTime", (0, 412.5), "TriggerTime 412.5"),
    ],
)
def test_two_acquisitions_in_one_another_are_told_apart(
    series, tmp_path, shift, tag, values, named
):
    _two_passes(series, tmp_path, shift, **{tag: values})
    one, two = list_series(tmp_path / "ct")
    assert one.usable and two.usable and two.part == named
    assert np.array_equal(read_ct_series(one.paths).hu, _hu())
    assert np.array_equal(read_ct_series(two.paths).hu, _hu() + 24)
    with pytest.raises(DicomError, match=f"2 CT series are usable[\\s\\S]*{named}") as caught:
        read_ct_series(tmp_path / "ct")
    assert "SECRET" not in str(caught.value)


def test_acquisitions_one_after_the_other_are_one_stack(series):
    folder, _, edit = series
    for k in range(7):
        edit(k, AcquisitionNumber=k // 2)
    assert np.array_equal(read_ct_series(folder).hu, _hu())


def test_copies_are_named(series):
    folder, files, _ = series
    (folder / "copy.dcm").write_bytes(files[2].read_bytes())
    with pytest.raises(DicomError, match=r"'CT0003.dcm' and 'copy.dcm'.*copies of each other"):
        read_ct_series(folder)


def test_a_series_uid_missing_or_of_every_slice_its_own(series):
    folder, _, edit = series
    edit(None, SeriesInstanceUID=None)
    assert np.array_equal(read_ct_series(folder).hu, _hu())
    for k in range(7):
        edit(k, SeriesInstanceUID=f"1.2.3.{k}")
    with pytest.raises(DicomError, match=r"7 files have this number.*anonymisers"):
        read_ct_series(folder)


@pytest.mark.parametrize("spacing", [0.625, 1.25, 2 / 3])
def test_positions_rounded_to_tenths(series, spacing):
    folder, _, edit = series
    for k in range(7):
        edit(k, ImagePositionPatient=[round(-12 + 0.33 * k, 1), 7.5, round(spacing * k, 1)])
    affine = read_ct_series(folder).affine
    assert np.allclose(affine[:3, 2], [0.33, 0, spacing], atol=0.02)
    edit(3, ImagePositionPatient=[-10.8, 7.5, round(spacing * 3 + 0.2, 1)])
    with pytest.raises(DicomError, match="non-uniform slice positions: slice 3"):
        read_ct_series(folder)


def test_resampling_says_what_it_did(tmp_path):
    """Values linear in the place come back, across two spacings and a gap."""
    places = [0, 1, 2, 4, 6, 12]  # of 14 slices, 2.5 mm apart
    hu = np.broadcast_to(-900 + 10 * np.arange(14.0), (3, 4, 14))
    write_ct_series(tmp_path / "ct", hu, AFFINE)
    for k, path in enumerate(sorted((tmp_path / "ct").iterdir())):
        if k not in places:
            path.unlink()
    with pytest.raises(DicomError, match="resample=<mm>"):
        read_ct_series(tmp_path / "ct")
    with pytest.warns(UserWarning, match=r"6 slices, 2.500 to 15.000 mm apart.*linear"):
        found = read_ct_series(tmp_path / "ct", resample=1.25)
    assert found.hu.shape == (3, 4, 25) and "to 25, 1.25 mm apart" in found.note
    assert np.allclose(found.hu, -900 + 5 * np.arange(25), atol=1e-3)
    assert np.allclose(found.affine[:3, 2:], [[0, -12], [0, 7.5], [1.25, 100.25]])
    with pytest.warns(UserWarning, match="resampled"):
        assert read_volume(tmp_path / "ct", resample=2.5).shape == (3, 4, 13)
    for wrong in (0, -1.0, np.nan, np.inf, "1"):
        with pytest.raises(ConfigError, match="resample is"):
            inspect.unwrap(read_ct_series)(tmp_path / "ct", resample=wrong)
    for wrong in (1e-9, 1e9):
        with pytest.raises(DicomError, match="resample is"):
            read_ct_series(tmp_path / "ct", resample=wrong)


@pytest.mark.parametrize(
    ("add", "clip", "says"),
    [(1000, -2000, "nothing is near air: the lowest value is 6"), (0, 0, "nothing is near air")],
)
def test_nothing_near_air_is_said(tmp_path, add, clip, says):
    write_ct_series(tmp_path / "ct", np.maximum(_hu() + add, clip), AFFINE)
    with pytest.warns(UserWarning, match=says):
        read_volume(tmp_path / "ct")


def test_a_background_that_is_not_air_is_said(tmp_path):
    hu = np.zeros((9, 9, 5))
    hu[3:6, 3:6] = -800  # lungs of a patient whom a mask cut out
    write_ct_series(tmp_path / "ct", hu, AFFINE)
    with pytest.warns(UserWarning, match="around the patient has 0 HU"):
        read_volume(tmp_path / "ct")


# --- enhanced multi-frame CT


def _enhanced(layout, frames, hu):
    """One object with all slices; frames: (place of the slice, tags of its content)."""
    item, seq = pydicom.Dataset, lambda **tags: [_dataset(**tags)]
    order = np.random.default_rng(1).permutation(len(frames))
    ds = _dataset(
        SOPClassUID=f"1.2.840.10008.5.1.4.1.1.2.{2 if layout == 'legacy' else 1}",
        SOPInstanceUID="1.2.3.4",
        SeriesInstanceUID="1.2.3",
        SeriesNumber=5,
        Modality="CT",
        ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        NumberOfFrames=len(frames),
        Rows=hu.shape[1],
        Columns=hu.shape[0],
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        PixelRepresentation=1,
    )
    ds.PixelData = b"".join((hu[:, :, k].T + 1024).astype("<i2").tobytes() for k in order)
    once = item()
    once.PlaneOrientationSequence = seq(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    once.PixelMeasuresSequence = seq(PixelSpacing=[1.1, 0.8])
    values = seq(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")
    once.PixelValueTransformationSequence = values
    per_frame = []
    for k in order:
        place, content = frames[k]
        own = copy.deepcopy(once) if layout == "all in frames" else item()
        own.PlanePositionSequence = seq(ImagePositionPatient=[-12.0, 7.5, place])
        own.FrameContentSequence = seq(**content)
        own.CTImageFrameTypeSequence = seq(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
        per_frame.append(own)
    ds.SharedFunctionalGroupsSequence = [item() if layout == "all in frames" else once]
    ds.PerFrameFunctionalGroupsSequence = per_frame
    return ds


def _dataset(**tags):
    ds = pydicom.Dataset()
    for tag, given in tags.items():
        setattr(ds, tag, given)
    return ds


def _save(ds, path):
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.save_as(path, enforce_file_format=True)
    return path


PLACES = [100.25 + 2.5 * k for k in range(7)]


@pytest.mark.parametrize("layout", ["shared", "all in frames", "legacy"])
def test_enhanced_ct(tmp_path, layout):
    ds = _enhanced(layout, [(z, {"StackID": "1"}) for z in PLACES], _hu())
    found = read_ct_series(_save(ds, tmp_path / "a.dcm"))
    assert np.array_equal(found.hu, _hu()) and np.allclose(found.affine, AFFINE)
    assert str(found.info) == "series 5 (CT, multi-frame, 1 file): usable"


def test_phases_and_damage_of_enhanced_ct(tmp_path):
    frames = [(z, {"TemporalPositionIndex": t}) for t in (1, 2) for z in PLACES]
    both = np.concatenate([_hu(), _hu() + 100], axis=2)
    path = _save(_enhanced("shared", frames, both), tmp_path / "a.dcm")
    assert [s.part[-1] for s in list_series(path)] == ["1", "2"]
    with pytest.raises(DicomError, match=r"2 CT series are usable.*part="):
        read_ct_series(path)
    found = read_ct_series(path, part="TemporalPositionIndex 2")
    assert np.array_equal(found.hu, _hu() + 100)
    with pytest.raises(DicomError, match="no stack has the part 'x'"):
        read_ct_series(path, part="x")
    ds = _enhanced("shared", [(z, {}) for z in PLACES], _hu())
    del ds.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    with pytest.raises(DicomError, match="ImagePositionPatient in 1 of 7 slices"):
        read_ct_series(_save(ds, tmp_path / "b.dcm"))
    ds.NumberOfFrames = 9
    with pytest.raises(DicomError, match="functional groups"):
        read_ct_series(_save(ds, tmp_path / "b.dcm"))


def test_passes_that_only_the_clock_tells_apart(series, tmp_path):
    """A time for each pass, or for each slice; no message shows it."""
    _two_passes(series, tmp_path, 0.0, AcquisitionTime=("101500.25", "101612"))
    for each in (False, True):
        if each:
            for k, path in enumerate(sorted((tmp_path / "ct").iterdir())):
                data = pydicom.dcmread(path)
                data.AcquisitionTime = f"{float(data.AcquisitionTime) + 0.5 * (k % 7):013.6f}"
                data.save_as(path)
        one, two = list_series(tmp_path / "ct")
        assert two.part == "AcquisitionTime no. 2" and "1016" not in str(two)
        assert np.array_equal(read_ct_series(one.paths).hu, _hu())
        found = read_ct_series(tmp_path / "ct", part="AcquisitionTime no. 2")
        assert np.array_equal(found.hu, _hu() + 24)


def test_passes_whose_times_mix_are_refused(series, tmp_path):
    _two_passes(series, tmp_path, 0.0, AcquisitionTime=("101500", "101612"))
    path = next((tmp_path / "ct").glob("again*"))
    data = pydicom.dcmread(path)
    data.AcquisitionTime = "101400"
    data.save_as(path)
    with pytest.raises(DicomError, match=r"duplicate slice positions \(7\)"):
        read_ct_series(tmp_path / "ct")


def _nested(levels):
    """A sequence in a sequence in a sequence ..., whose innermost element is broken."""
    value = struct.pack("<HH2sH", 0x28, 0x30, b"ZZ", 4) + b"1\\2 "
    for _ in range(levels):
        item = struct.pack("<HHI", 0xFFFE, 0xE000, len(value)) + value
        value = struct.pack("<HH2sHI", 0x28, 0x30, b"SQ", 0, len(item)) + item
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(value)) + value


def _replaced(path, keyword, vr, value):
    """An element of another kind than DICOM's, which no writer would write."""
    tag, data = pydicom.tag.Tag(keyword), path.read_bytes()
    old = pydicom.dcmread(path)[tag]
    at = data.index(struct.pack("<HH2s", tag.group, tag.element, old.VR.encode()))
    (length,) = struct.unpack("<H", data[at + 6 : at + 8])
    long = vr in (b"SQ", b"UN")
    head = struct.pack("<HI", 0, len(value)) if long else struct.pack("<H", len(value))
    new = struct.pack("<HH2s", tag.group, tag.element, vr) + head + value
    path.write_bytes(data[:at] + new + data[at + 8 + length :])


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SamplesPerPixel", "ImageType", "Rows"])
def test_a_deep_broken_sequence_is_not_written_out(series, keyword):
    """As text it would grow without end."""
    folder, files, _ = series
    _replaced(files[0], keyword, b"SQ", _nested(60))
    try:
        assert read_ct_series(folder).hu.shape == (6, 5, 7)
    except DicomError as error:
        assert keyword in ("Rows", "SamplesPerPixel") and len(str(error)) < 1000


def test_positions_beyond_all_bounds_are_refused(series):
    folder, files, _ = series
    _replaced(files[2], "ImagePositionPatient", b"DS", b"1e308\\-1e308\\1e308 ")
    with pytest.raises(DicomError, match="ImagePositionPatient in 1 of 7"):
        read_ct_series(folder)


def test_what_pydicom_warns_and_logs_stays_inside(series, caplog):
    folder, files, edit = series
    edit(None, SpecificCharacterSet="SECRET")
    _replaced(files[1], "SeriesNumber", b"IS", b"SECRET")
    caplog.clear()
    with caplog.at_level("DEBUG"), warnings.catch_warnings():
        warnings.simplefilter("error")
        str(list_series(folder))
        with contextlib.suppress(DicomError):
            read_ct_series(folder)
    assert "SECRET" not in caplog.text
    logging.getLogger("pydicom").warning("one of its own")  # of others it stays
    assert "one of its own" in caplog.text


def test_an_unknown_compression_is_not_repeated(series):
    folder, files, _ = series
    for path in files:
        data = path.read_bytes()
        uid = b"1.2.840.10008.1.2.1\0"
        path.write_bytes(data.replace(uid, b"SECRET.SECRET.SECRET", 1))
    with pytest.raises(DicomError) as caught:
        read_ct_series(folder)
    assert "SECRET" not in str(caught.value)
