"""The C-arm and a start from the header of an X-ray image: what it tells, lacks, contradicts."""

import math

import pydicom
import pytest
import torch
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from drrlib.errors import ConfigError, DicomError, GeometryError
from drrlib.geometry import CArm
from drrlib.io import carm_from_dicom, start_from_dicom
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
    made = start_from_dicom(
        xray_header(
            PatientOrientation=list(letters),
            PositionerPrimaryAngle=180 if behind else 0,
            PositionerSecondaryAngle=0,
            FieldOfViewRotation=90,
            PatientPosition="FFS",
        )
    )
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
    assert torch.equal(
        start_from_dicom(xray_header(PatientPosition=position))[1],
        start_from_dicom(xray_header())[1],
    )


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
        with pytest.raises(ConfigError, match="expected 3 finite numbers"):
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


# --- the C-arm alone


def _close(actual, expected, atol=1e-9):
    expected = torch.tensor(expected, dtype=torch.float64)
    assert torch.allclose(actual, expected, rtol=0, atol=atol), actual


def test_dicom_header_by_hand():
    carm, eta = carm_from_dicom(xray_header())
    assert carm == CArm(1100.0, 750.0, 40, 50, delx=0.3, dely=0.4)
    _close(eta, [math.radians(20), math.radians(-30), 0, 0, 0, 0])  # cranial 20, RAO 30
    device, none = carm_from_dicom(
        xray_header(FieldOfViewHorizontalFlip="YES", PositionerPrimaryAngle=None), sod=800.0
    )
    assert device.flipped and device.sod == 800.0 and none is None


@pytest.mark.parametrize(
    ("tag", "value", "keyword"),
    [
        ("DistanceSourceToDetector", None, "sdd"),
        ("DistanceSourceToPatient", 0, "sod"),
        ("ImagerPixelSpacing", None, "dely"),
        ("ImagerPixelSpacing", [0.0, 0.0], "dely"),
    ],
)
def test_dicom_header_without_a_length_is_refused(tag, value, keyword):
    header = xray_header(**{tag: value})
    header.PatientName = "SECRET"
    with pytest.raises(DicomError, match=f"{tag}.*pass {keyword}=") as caught:
        carm_from_dicom(header)
    assert "SECRET" not in str(caught.value)


def test_real_x_ray_headers(real_data):
    folder = real_data / "xray"
    headers = {p.stem: pydicom.dcmread(p, stop_before_pixels=True) for p in folder.iterdir()}
    with pytest.raises(DicomError, match=r"lacks DistanceSourceToDetector.*pass sdd="):
        carm_from_dicom(headers["xa_coronary_96frames"])
    lengths = dict(sdd=1000.0, sod=700.0, delx=0.3, dely=0.3)
    _, eta = carm_from_dicom(headers["xa_coronary_96frames"], **lengths)
    assert torch.rad2deg(eta[:2]).round().tolist() == [2.0, -32.0]  # cranial 2, RAO 32
    dog, eta = carm_from_dicom(headers["dx_dog_thorax"], sod=900.0)
    assert dog.sdd == 1000.0 and abs(dog.dely / dog.delx - 1) < 2e-3 and eta is None
    with pytest.raises(DicomError, match="pass sod="):
        carm_from_dicom(headers["cr_chest_pa_RG1_J2KI"])


def test_dicom_turn_and_flip():
    """Turned clockwise by 90 deg the head is on the right; then flipped, on the left."""
    head = CENTER + torch.tensor([0.0, 0.0, 10.0])
    for flip, column in (("NO", 1), ("YES", -1)):
        header = xray_header(
            FieldOfViewRotation=90,
            FieldOfViewHorizontalFlip=flip,
            PositionerPrimaryAngle=0,
            PositionerSecondaryAngle=0,
        )
        carm, eta = carm_from_dicom(header)
        _close(eta, [0, 0, H, 0, 0, 0])
        seen = carm.project(head[None], carm.pose(eta[None], CENTER))[0, 0]
        _close(seen, [25 + column * 10 * 1100 / 750 / 0.3, 20.0])


def test_dicom_angles_of_a_frame():
    run = dict(NumberOfFrames=3, PositionerMotion="DYNAMIC")
    mean = xray_header(
        **run, PositionerPrimaryAngleIncrement=2, PositionerSecondaryAngleIncrement=-1
    )
    offsets = xray_header(
        **run,
        PositionerPrimaryAngleIncrement=[0, 3, 5],
        PositionerSecondaryAngleIncrement=[0, -1, -4],
    )
    for header, frame, angles in (
        (mean, 0, (20, -30)),
        (mean, 2, (18, -26)),
        (offsets, 0, (20, -30)),
        (offsets, 2, (16, -25)),
        (xray_header(NumberOfFrames=3), 2, (20, -30)),
    ):
        _close(carm_from_dicom(header, frame=frame)[1][:2].rad2deg(), list(angles))
    with pytest.raises(ConfigError, match="frame is 3; the image has 3"):
        carm_from_dicom(mean, frame=3)
    with pytest.raises(DicomError, match="lacks PositionerSecondaryAngleIncrement"):
        carm_from_dicom(xray_header(**run), frame=1)


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("DistanceSourceToDetector", [1100, 1200]),
        ("ImagerPixelSpacing", [0.4, 0.3, 0.2]),
        ("FieldOfViewRotation", 45),
        ("FieldOfViewHorizontalFlip", "SECRET"),
        ("PositionerPrimaryAngle", [10, 20]),
        ("PositionerPrimaryAngle", 400),
        ("PositionerSecondaryAngle", 91),
        ("PositionerPrimaryAngleIncrement", [1, 2]),
        ("DetectorPrimaryAngle", 5),
        ("Rows", 0),
        ("Columns", None),
    ],
)
def test_dicom_nonsense_is_named(tag, value):
    with pytest.raises(DicomError, match=tag) as caught:
        carm_from_dicom(xray_header(NumberOfFrames=3, **{tag: value}), frame=2)
    assert "SECRET" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Invalid value")
@pytest.mark.parametrize("raw", [b"SECRET", b"nan", b"1e999", b"1\\\\2"])
@pytest.mark.parametrize(
    "tag", ["PositionerPrimaryAngle", "DistanceSourceToDetector", "ImagerPixelSpacing"]
)
def test_dicom_bytes_that_are_no_number(tag, raw):
    header, number = xray_header(), tag_for_keyword(tag)
    element = RawDataElement(Tag(number), "DS", len(raw), raw, 0, False, True)
    header._dict[Tag(number)] = element
    with pytest.raises(DicomError, match=tag) as caught:
        carm_from_dicom(header)
    assert "SECRET" not in str(caught.value)


def test_a_path_is_not_axray_header():
    with pytest.raises(ConfigError, match="dcmread"):
        carm_from_dicom("image.dcm")
    with pytest.raises(GeometryError, match="between source and detector"):
        carm_from_dicom(xray_header(), sod=1200.0)


def _item(**tags):
    item = pydicom.Dataset()
    for keyword, value in tags.items():
        setattr(item, keyword, value)
    return item


ANGLES = [(-30, 20), (-10, 5), (15, 0)]


def _enhanced(each=("PositionerPositionSequence",), **others):
    """An enhanced XA header of three frames; the groups in `each` are given frame by frame."""
    groups = [
        dict(
            XRayGeometrySequence=[
                _item(DistanceSourceToIsocenter=750.0, DistanceSourceToDetector=1100.0)
            ],
            FramePixelDataPropertiesSequence=[_item(ImagerPixelSpacing=[0.4, 0.3])],
            FieldOfViewSequence=[_item(FieldOfViewRotation=0.0, FieldOfViewHorizontalFlip="YES")],
            PositionerPositionSequence=[
                _item(PositionerPrimaryAngle=primary, PositionerSecondaryAngle=secondary)
            ],
            TablePositionSequence=[_item(TableTopVerticalPosition=others.get("table", 0.0) * k)],
        )
        for k, (primary, secondary) in enumerate(ANGLES)
    ]
    tops = dict.fromkeys(
        [
            *("DistanceSourceToDetector", "DistanceSourceToPatient", "ImagerPixelSpacing"),
            *("PositionerPrimaryAngle", "PositionerSecondaryAngle"),
        ]
    )
    header = xray_header(**tops, NumberOfFrames=3)
    shared = {name: x for name, x in groups[0].items() if name not in each}
    header.SharedFunctionalGroupsSequence = [_item(**shared)]
    header.PerFrameFunctionalGroupsSequence = [
        _item(**{name: x for name, x in one.items() if name in each}) for one in groups
    ]
    header.PatientName = "SECRET"
    return header


ALL = ("XRayGeometrySequence", "FramePixelDataPropertiesSequence", "FieldOfViewSequence")


@pytest.mark.parametrize("each", [(), ALL], ids=["shared", "each frame"])
def test_functional_groups_tell_as_much_as_the_top(each):
    header = _enhanced((*each, "PositionerPositionSequence"))
    before = str(header)
    for k, (primary, secondary) in enumerate(ANGLES):
        device, start = start_from_dicom(header, frame=k)
        assert (device.sdd, device.sod, device.dely, device.delx) == (1100, 750, 0.4, 0.3)
        assert device.flipped
        wanted = [math.radians(secondary), math.radians(primary)]
        assert start[:2].tolist() == pytest.approx(wanted)
        plain, angles = carm_from_dicom(header, frame=k)
        assert plain == device and torch.allclose(angles, start)
    assert str(header) == before  # it is read, not changed
    with pytest.raises(ConfigError, match="frame is 3; the image has 3"):
        start_from_dicom(header, frame=3)


def test_what_functional_groups_lack_is_looked_for_there():
    header = _enhanced()
    del header.SharedFunctionalGroupsSequence[0].XRayGeometrySequence[0].DistanceSourceToIsocenter
    lacks = r"lacks DistanceSourceToPatient.*pass sod=.*XRayGeometrySequence.*SourceToIsocenter"
    with pytest.raises(DicomError, match=lacks) as caught:
        start_from_dicom(header, frame=1)
    assert "SECRET" not in str(caught.value)
    assert start_from_dicom(header, sod=700.0, frame=1)[0].sod == 700.0
    header = _enhanced()
    del header.PerFrameFunctionalGroupsSequence[2]
    with pytest.raises(DicomError, match="describes 2 frames, and frame 2"):
        carm_from_dicom(header, frame=2)


def test_a_table_that_moves_between_frames_with_groups():
    each = ("PositionerPositionSequence", "TablePositionSequence")
    moved = _enhanced(each, table=20.0)
    with pytest.raises(DicomError, match=r"the table moved before frame 1.*pass b="):
        start_from_dicom(moved, frame=1)
    assert start_from_dicom(moved)[1][3:].tolist() == [0, 0, 0]
    assert start_from_dicom(moved, frame=1, b=(1, 2, 3))[1][3:].tolist() == [1, 2, 3]
    assert start_from_dicom(_enhanced(each), frame=1)[1][3:].tolist() == [0, 0, 0]


def test_damaged_functional_groups_end_in_errors_of_ours():
    for place in ("SharedFunctionalGroupsSequence", "XRayGeometrySequence"):
        header = _enhanced()
        groups = header if place.startswith("Shared") else header.SharedFunctionalGroupsSequence[0]
        tag = Tag(tag_for_keyword(place))
        groups[tag] = pydicom.DataElement(tag, "LO", "SECRET")
        with pytest.raises(DicomError, match="lacks DistanceSourceToDetector") as caught:
            start_from_dicom(header)
        assert "SECRET" not in str(caught.value)
