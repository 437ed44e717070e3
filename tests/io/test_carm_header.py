"""A start from the header of an X-ray image: what it tells, what it lacks, what it contradicts."""

import math

import pydicom
import pytest
import torch

from drrlib.errors import ConfigError, DicomError
from drrlib.io.carm_header import start_from_dicom
from helpers import xray_header

H = math.pi / 2
CENTER = torch.tensor([10.0, -20.0, 30.0], dtype=torch.float64)


def seen(start, point):
    """Where a point [mm] beside the volume's centre is on the detector, from the middle [mm]."""
    carm, eta = start
    point = CENTER + torch.tensor(point, dtype=torch.float64)
    pixel = carm.project(point[None], carm.pose(eta[None], CENTER))[0, 0]
    middle = torch.tensor([carm.width / 2, carm.height / 2], dtype=torch.float64)
    return ((pixel - middle) * torch.tensor([carm.delx, carm.dely])).tolist()


def test_angles_become_a_start():
    carm, eta = start_from_dicom(xray_header())
    expected = [math.radians(20), math.radians(-30), 0, 0, 0, 0]  # cranial 20, RAO 30
    assert torch.allclose(eta, torch.tensor(expected, dtype=torch.float64), atol=1e-12)
    assert (carm.sdd, carm.sod, carm.delx, carm.flipped) == (1100.0, 750.0, 0.3, False)
    _, eta = start_from_dicom(xray_header(), theta=0.1, gamma=0.3, b=(1.0, 2.0, 3.0))
    assert torch.allclose(eta, torch.tensor([0.1, -math.pi / 6, 0.3, 1, 2, 3]).double(), atol=1e-7)


@pytest.mark.parametrize(
    ("tag", "keyword"), [("PositionerSecondaryAngle", "theta"), ("PositionerPrimaryAngle", "phi")]
)
def test_a_missing_angle_is_named_with_its_keyword(tag, keyword):
    without = xray_header(**{tag: None})
    without.PatientName = "SECRET"
    with pytest.raises(DicomError, match=f"lacks {tag}.*pass {keyword}=") as caught:
        start_from_dicom(without)
    assert "SECRET" not in str(caught.value)
    place = ("theta", "phi").index(keyword)
    for replaced in (without, xray_header(**{tag: [1, 2]})):
        assert start_from_dicom(replaced, **{keyword: 0.25})[1][place] == 0.25
    with pytest.raises(DicomError, match=r"lacks DistanceSourceToPatient.*pass sod="):
        start_from_dicom(xray_header(DistanceSourceToPatient=None))


# Which way the head (+z) and the left (+x) are in a frontal picture whose rows and columns point
# as PatientOrientation says: 10 mm in the patient are 10 * 1100 / 750 mm at the detector.
FRONTAL = {
    ("L", "F"): ((0, -1), (1, 0)),
    ("R", "F"): ((0, -1), (-1, 0)),
    ("R", "H"): ((0, 1), (-1, 0)),
    ("L", "H"): ((0, 1), (1, 0)),
    ("H", "L"): ((1, 0), (0, 1)),
    ("H", "R"): ((1, 0), (0, -1)),
    ("F", "L"): ((-1, 0), (0, 1)),
    ("F", "R"): ((-1, 0), (0, -1)),
}


@pytest.mark.parametrize("letters", FRONTAL)
@pytest.mark.parametrize("behind", [False, True])
def test_patient_orientation_settles_turn_and_flip(letters, behind):
    """Whether the detector is in front of the patient or behind, the picture lies as stored."""
    made = start_from_dicom(xray_header(
        PatientOrientation=list(letters), PositionerPrimaryAngle=180 if behind else 0,
        PositionerSecondaryAngle=0, FieldOfViewRotation=90, PatientPosition="FFS",
    ))  # fmt: skip
    # By hand: rows x columns point away from the source, unless the picture is mirrored.
    mirrored = "".join(letters) in ("RF", "LH", "HR", "FL")
    assert made[0].flipped == (mirrored != behind)
    for way, point in zip(FRONTAL[letters], ((0, 0, 10.0), (10.0, 0, 0)), strict=True):
        expected = [10 * 1100 / 750 * w for w in way]
        assert seen(made, point) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("primary", "letters"),
    [(90, ["P", "F"]), (-90, ["A", "F"]), (45, ["LP", "F"]), (45, ["PL", "F"]), (-50, ["A", "F"])],
)
def test_lateral_and_oblique_pictures_fit_as_they_are(primary, letters):
    angles = dict(PositionerPrimaryAngle=primary, PositionerSecondaryAngle=10)
    carm, eta = start_from_dicom(xray_header(PatientOrientation=letters, **angles))
    assert not carm.flipped and eta[2] == 0


def test_orientation_that_cannot_be_is_refused():
    lateral = dict(PositionerPrimaryAngle=90, PositionerSecondaryAngle=0)
    impossible = xray_header(PatientOrientation=["L", "F"], **lateral)
    with pytest.raises(DicomError, match=r"PatientOrientation does not fit the view.*theta="):
        start_from_dicom(impossible)
    carm, eta = start_from_dicom(impossible, gamma=0.0, flipped=True)
    assert carm.flipped and eta[2] == 0
    frontal = dict(PositionerPrimaryAngle=0, PositionerSecondaryAngle=0)
    with pytest.raises(DicomError, match="does not fit the view"):
        start_from_dicom(xray_header(PatientOrientation=["R", "F"], **frontal), flipped=False)
    for wrong in ("L", ["X", "SECRET"], ["L", "F", "A"]):
        with pytest.raises(DicomError, match=r"unusable PatientOrientation.*gamma=") as caught:
            start_from_dicom(xray_header(PatientOrientation=wrong))
        assert "SECRET" not in str(caught.value)
    dog = xray_header(PatientOrientation=["LE", "CD"], AnatomicalOrientationType="QUADRUPED")
    with pytest.raises(DicomError, match=r"AnatomicalOrientationType.*gamma="):
        start_from_dicom(dog)


@pytest.mark.parametrize("position", ["HFS", "HFP", "HFDL", ""])
def test_head_first_positions_change_nothing(position):
    """The angles are with respect to the patient, PS3.3 C.8.7.5.1.2."""
    assert torch.equal(start_from_dicom(xray_header(PatientPosition=position))[1],
                       start_from_dicom(xray_header())[1])  # fmt: skip


@pytest.mark.parametrize("position", ["FFS", "FFP", "LFS", "AFDR"])
def test_other_positions_need_to_know_where_the_head_is(position):
    lying = xray_header(PatientPosition=position)
    with pytest.raises(DicomError, match=r"PatientPosition is not head first.*gamma=pi"):
        start_from_dicom(lying)
    assert start_from_dicom(lying, gamma=math.pi)[1][2] == math.pi
    turned = xray_header(PatientPosition=position, PatientOrientation=["R", "H"])
    assert start_from_dicom(turned)[1][2] == pytest.approx(math.pi)


def test_without_orientation_the_field_of_view_decides():
    carm, eta = start_from_dicom(
        xray_header(FieldOfViewRotation=90, FieldOfViewHorizontalFlip="YES")
    )
    assert carm.flipped and eta[2] == pytest.approx(H)


def test_a_table_that_moved_leaves_b_open():
    run = dict(NumberOfFrames=3, TableMotion="DYNAMIC")
    still = dict(TableVerticalIncrement=0, TableLateralIncrement=0)
    moved = xray_header(**run, **still, TableLongitudinalIncrement=[0, 0, 4])
    for frame in (0, 1):
        assert not start_from_dicom(moved, frame=frame)[1][3:].any()
    with pytest.raises(DicomError, match=r"table moved before frame 2.*pass b="):
        start_from_dicom(moved, frame=2)
    assert start_from_dicom(moved, frame=2, b=[0, 0, 4])[1][5] == 4
    with pytest.raises(DicomError, match="table moved before frame 1"):
        start_from_dicom(xray_header(**run), frame=1)


def test_bad_keywords_are_named():
    with pytest.raises(ConfigError, match="phi is"):
        start_from_dicom(xray_header(), phi=math.nan)
    for b in ([1.0, 2.0], [1.0], [1.0, math.inf, 2.0]):
        with pytest.raises(ConfigError, match="three for b"):
            start_from_dicom(xray_header(), b=b)
    with pytest.raises(ConfigError, match="dcmread"):
        start_from_dicom(3)


def test_real_headers_say_what_must_be_given(real_data):
    """An angiogram whose lengths were removed, and a column stand that has no positioner."""
    folder = real_data / "xray"
    read = {p.stem: pydicom.dcmread(p, stop_before_pixels=True) for p in folder.iterdir()}
    xa, dx = read["xa_coronary_96frames"], read["dx_dog_thorax"]
    given = {}
    for name, value in (("sdd", 1000.0), ("sod", 700.0), ("dely", 0.3), ("delx", 0.3)):
        with pytest.raises(DicomError, match=f"pass {name}="):
            start_from_dicom(xa, **given)
        given[name] = value
    _, eta = start_from_dicom(xa, **given)
    expected = [math.radians(2), math.radians(-32), 0, 0, 0, 0]
    assert torch.allclose(eta, torch.tensor(expected, dtype=torch.float64), atol=1e-9)
    given = {}
    for name, value in (("sod", 900.0), ("theta", 0.0), ("phi", math.pi)):
        with pytest.raises(DicomError, match=f"pass {name}="):
            start_from_dicom(dx, **given)
        given[name] = value
    carm, eta = start_from_dicom(dx, **given)
    # The stored picture has the left at its right; from behind that is the view from the source.
    assert carm.flipped and eta[2] == 0 and carm.sdd == 1000.0
