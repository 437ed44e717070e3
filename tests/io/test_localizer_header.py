"""The geometry of a CT localizer from its header."""

import math

import numpy as np
import pydicom
import pytest
import torch

import helpers
from drrlib import cli
from drrlib.drr import DRR
from drrlib.errors import ConfigError, DicomError
from drrlib.geometry import ScanProjection
from drrlib.io import is_localizer, localizer_from_dicom, read_localizer
from drrlib.registration import RegistrationResult


def _close(actual, expected, atol=1e-9):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    assert torch.allclose(actual, expected, rtol=0, atol=atol), actual


def _header(**changes):
    values = dict(
        Modality="CT",
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        Rows=4,
        Columns=6,
        ImagePositionPatient=[0, -5, 60],
        ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
        PixelSpacing=[3, 2],
        DistanceSourceToDetector=1000,
        DistanceSourceToPatient=600,
        AngularPosition=90,
        PatientPosition="HFS",
        GantryDetectorTilt=0,
    )
    header = pydicom.Dataset()
    for key, value in {**values, **changes}.items():
        if value is not None:
            setattr(header, key, value)
    return header


def test_header_by_hand():
    """Tube at +x for 90 degrees, head first and supine; pixel (r, c) at (0, -5 + 2c, 60 - 3r)."""
    scan, pose = localizer_from_dicom(_header())
    assert scan == ScanProjection(1000.0, 600.0, 4, 6, 2.0, 3.0, flipped=True)
    source, target = helpers.rays(scan, pose[None])
    _close(source[0, 0, 0], [600.0, 0.0, 60.0])
    at_isocentre = source + 0.6 * (target - source)
    for r, c in ((0, 0), (3, 5), (1, 2)):
        _close(at_isocentre[0, r, c], [0.0, -5.0 + 2 * c, 60.0 - 3 * r])
    _close(scan.eta(pose, torch.tensor([0.0, 0.0, 55.5])), [0, -math.pi / 2, 0, 0, 0, 0])


# Where the tube stands in the patient: DICOM PS3.3 C.7.3.1.1.2 and C.8.15.3.8, by hand.
SIDES = {
    ("HFS", 0): (0, -1, 0),
    ("HFS", 90): (1, 0, 0),
    ("HFS", 180): (0, 1, 0),
    ("HFP", 0): (0, 1, 0),
    ("HFP", 90): (-1, 0, 0),
    ("FFS", 0): (0, -1, 0),
    ("FFS", 90): (-1, 0, 0),
    ("FFP", 0): (0, 1, 0),
    ("FFP", 90): (1, 0, 0),
}


@pytest.mark.parametrize("position,angle", SIDES)
def test_the_side_of_the_tube(position, angle):
    across = [0, 1, 0] if angle == 90 else [1, 0, 0]
    header = _header(
        PatientPosition=position,
        AngularPosition=None,
        TubeAngle=angle,
        ImageOrientationPatient=[*across, 0, 0, -1],
    )
    scan, pose = localizer_from_dicom(header)
    _close(pose[:3, 2], [-float(x) for x in SIDES[position, angle]])
    assert abs(float(pose[:3, :3].det()) - 1) < 1e-12
    along = (-1 if scan.flipped else 1) * pose[:3, 0]
    _close(along, [float(x) for x in across])


def test_what_a_header_lacks_is_named_with_its_keyword():
    instead = {
        "DistanceSourceToDetector": dict(sdd=1000.0),
        "DistanceSourceToPatient": dict(sod=600.0),
        "AngularPosition": dict(tube_angle=90.0),
        "PatientPosition": dict(patient_position="HFS"),
    }
    expected = localizer_from_dicom(_header())
    for tag, keyword in instead.items():
        with pytest.raises(DicomError, match=f"{tag}.*{next(iter(keyword))}="):
            localizer_from_dicom(_header(**{tag: None}))
        scan, pose = localizer_from_dicom(_header(**{tag: None}), **keyword)
        assert scan == expected[0] and torch.equal(pose, expected[1])
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows"):
        with pytest.raises(DicomError, match=tag):
            localizer_from_dicom(_header(**{tag: None}))


@pytest.mark.parametrize(
    "change,says",
    [
        (dict(ImageType=["ORIGINAL", "PRIMARY", "AXIAL"]), "LOCALIZER"),
        (dict(GantryDetectorTilt=-18.5), "GantryDetectorTilt"),
        (dict(AngularPosition=0), "opposite"),
        (dict(ImageOrientationPatient=[0, 0, -1, 0, 1, 0]), "follow the table"),
        (dict(ImageOrientationPatient=[0, 2, 0, 0, 0, -1]), "perpendicular unit"),
        (dict(PixelSpacing=[0, 2]), "PixelSpacing"),
        (dict(DistanceSourceToPatient=-1), "sod="),
        (dict(PatientPosition="HFDR"), "patient_position="),
    ],
)
def test_unusable_headers(change, says):
    with pytest.raises(DicomError, match=says):
        localizer_from_dicom(_header(**change))
    with pytest.raises(ConfigError, match="pydicom"):
        localizer_from_dicom("scan.dcm")
    with pytest.raises(ConfigError, match="choose one of HFS"):
        localizer_from_dicom(_header(), patient_position="upright")


def test_the_real_localizer_fits_its_ct(real_data):
    """Of the right pose and of wrong ones: the tube on the other side, and 4 mm along the table."""
    folder = real_data / "head_phantom_philips"
    file = folder / "study_21570_mixed/S1000_surview/I10"
    if not file.exists() or not (folder / "study_21570_mixed/S2010_axial_5mm").exists():
        pytest.skip("DRRLIB_DATA does not hold the localizer of the plastic skull")
    from drrlib.io import read_volume
    from drrlib.similarity import zncc

    header = pydicom.dcmread(file)
    scan, pose = localizer_from_dicom(header)
    # The data's description: pixel (r, c) at (0, -124.8 + 0.9765625 c, 916.5 - 0.9765625 r).
    source, target = helpers.rays(scan, pose[None])
    at_isocentre = source + 570 / 1040 * (target - source)
    _close(at_isocentre[0, 10, 20], [0.0, -124.8 + 19.53125, 916.5 - 9.765625])
    _close(source[0, 0, 0], [570.0, 124.7118, 916.5], atol=0.01)
    window = (88, 132, 136, 208)
    image = torch.from_numpy(header.pixel_array.astype(np.float32))[88:224, 132:340][None, None]
    volume = read_volume(folder / "study_21570_mixed/S2010_axial_5mm").coarsen((4, 4, 1))
    found = {}
    for name, angle, shift in (("true", 90, 0), ("other side", 270, 0), ("moved", 90, 4)):
        scan, pose = localizer_from_dicom(header, tube_angle=angle)
        pose[2, 3] += shift
        found[name] = float(zncc(image, DRR(volume, scan.crop(*window))(pose[None]))[0])
    assert found["true"] > 0.85
    assert found["true"] > 0.02 + max(found["other side"], found["moved"]), found


# --- the file as a view


def _file(path, **changes):
    """A localizer as a file, as large as a view needs, with something to see in it."""
    stored = np.add.outer(np.arange(4), np.arange(6)).astype(np.uint16)
    header = _header(RescaleSlope=1, RescaleIntercept=-1024, PatientName="SECRET^NAME", **changes)
    path = helpers.write_xray(path, stored, **{e.keyword: e.value for e in header})
    return path, stored


def test_a_file_becomes_a_view_where_its_header_says(tmp_path):
    path, stored = _file(tmp_path / "scout.dcm")
    assert is_localizer(path)
    view = read_localizer(path)
    geometry, pose = localizer_from_dicom(_header())
    assert view.carm == geometry and torch.equal(view.pose, pose) and not view.lines
    assert torch.equal(view.image, torch.from_numpy(stored).double())
    assert read_localizer(path, sod=650.0).carm.sod == 650.0


def test_files_that_are_none_are_refused(tmp_path):
    plain = helpers.write_xray(tmp_path / "xray.dcm", np.eye(8, dtype=np.uint16))
    text = tmp_path / "text.dcm"
    text.write_text("nothing")
    lacking, _ = _file(tmp_path / "lacking.dcm", AngularPosition=None)
    assert not any(map(is_localizer, (plain, text, tmp_path / "nowhere")))
    for path in (plain, text, lacking, tmp_path / "nowhere"):
        with pytest.raises(DicomError, match=path.name) as error:
            read_localizer(path)
        assert "SECRET" not in str(error.value)


def test_the_command_line_takes_it(tmp_path, real_data):
    """The surview of the plastic skull, from its header's pose."""
    folder = real_data / "head_phantom_philips"
    words = ["--shrink", "4", "--preset", "fast", "--search", "5", "10", "--quiet"]
    words += ["-o", str(tmp_path / "pose.json"), "--report", str(tmp_path / "report.html")]
    xray = folder / "study_21570_mixed" / "S1000_surview" / "I10"
    ct = folder / "study_21570_mixed" / "S2010_axial_5mm"
    assert cli.main(["register", str(ct), str(xray), *words]) in (0, 3)
    found = RegistrationResult.load(tmp_path / "pose.json")
    off = found.compare(localizer_from_dicom(pydicom.dcmread(xray))[1])
    assert math.degrees(off.parts.rotation) < 3 and isinstance(found.carm, ScanProjection)
    assert (tmp_path / "report.html").stat().st_size > 1e5
