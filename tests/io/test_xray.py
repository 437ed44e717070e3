"""X-ray images of every kind become the line integrals that they were made from."""

import math

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.dataset import Dataset

from drrlib import CArm, View, read_xray, read_xray_run
from drrlib.errors import ConfigError, DicomError, DrrlibError
from drrlib.io import Calibration
from helpers import write_xray

OPEN = 3000.0
CARM = CArm(1100.0, 750.0, 96, 128, 0.3, 0.4)


def body(height=96, width=128):
    """Line integrals of a lying cylinder with a bone in it, and air above and below."""
    row = (np.arange(height)[:, None] + 0.5) / height - 0.5
    column = (np.arange(width)[None] + 0.5) / width - 0.5
    soft = 2.0 * np.sqrt(np.clip(1 - (row / 0.33) ** 2, 0, None)) * np.ones_like(column)
    bone = 1.5 * np.sqrt(np.clip(1 - ((row - 0.05) ** 2 + column**2) / 0.04, 0, None))
    return soft + bone


TRUE = body()


def counts(integrals=TRUE):
    noise = 8 * np.random.default_rng(0).standard_normal(integrals.shape)
    return np.rint((OPEN + noise) * np.exp(-integrals)).astype(np.uint16)


def logged(integrals=TRUE, high=60000.0):
    return np.rint(high * integrals / 6.0 + 200).astype(np.uint16)


def likeness(view, true=TRUE):
    """Correlation with the true line integrals where the view has weight."""
    keep = np.ones_like(true, bool) if view.weights is None else view.weights.numpy() > 0
    return float(np.corrcoef(view.image.numpy()[keep], true[keep])[0, 1])


def test_counts_of_the_header_become_line_integrals(tmp_path):
    tags = dict(PixelIntensityRelationship="LIN", PixelIntensityRelationshipSign=1)
    view = read_xray(write_xray(tmp_path / "x.dcm", counts(), **tags))
    assert isinstance(view, View)
    assert np.abs(view.image.numpy() - TRUE).max() < 0.02
    assert (view.carm.sdd, view.carm.sod, view.carm.delx) == (1100.0, 750.0, 0.3)
    expected = [math.radians(20), math.radians(-30), 0, 0, 0, 0]
    assert view.start.tolist() == pytest.approx(expected)
    assert any("open field found" in note for note in view.notes)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_sign_tells_which_way_up_whatever_is_shown(tmp_path, photometric, sign):
    stored = logged() if sign == -1 else 65535 - logged()
    tags = dict(
        PixelIntensityRelationship="LOG",
        PixelIntensityRelationshipSign=sign,
        PhotometricInterpretation=photometric,
        Modality="DX",
        PresentationIntentType="FOR PROCESSING",
    )
    view = read_xray(write_xray(tmp_path / "x.dcm", stored, **tags))
    assert likeness(view) > 0.9999
    assert any("scale of the line integrals is not known" in note for note in view.notes)


@pytest.mark.parametrize("modality", ["DX", "CR", "XA"])
@pytest.mark.parametrize("inverse", [False, True])
def test_without_a_relationship_the_picture_tells(tmp_path, modality, inverse):
    """Radiographs are shown with white bone, fluoroscopy with dark bone."""
    stored = counts() if modality == "XA" else logged()
    stored = 65535 - stored if inverse else stored
    tags = dict(Modality=modality, PhotometricInterpretation=f"MONOCHROME{1 if inverse else 2}")
    if modality == "DX":
        tags["PresentationIntentType"] = "FOR PRESENTATION"
        tags["PresentationLUTShape"] = "INVERSE" if inverse else "IDENTITY"
    view = read_xray(write_xray(tmp_path / "x.dcm", stored, **tags))
    assert likeness(view) > 0.999


def test_a_modality_table_turns_a_logarithm_back(tmp_path):
    """XA with LOG: the table gives intensity (PS3.3 C.8.7.1.1.2)."""
    table = Dataset()
    entries = np.rint(60000 * np.exp(-np.arange(256) / 255 * 5.0)).astype(np.uint16)[::-1].copy()
    table.LUTDescriptor, table.ModalityLUTType = [256, 0, 16], "US"
    table.LUTData = entries.tobytes()
    stored = np.rint(255 - 255 * TRUE / 5.0).astype(np.uint8)
    path = write_xray(
        tmp_path / "x.dcm", stored, PixelIntensityRelationship="LOG", ModalityLUTSequence=[table]
    )
    view = read_xray(path)
    assert np.abs(view.image.numpy() - TRUE).max() < 0.03
    assert any("Modality LUT" in note for note in view.notes)


def test_a_voi_table_is_applied_to_a_picture_made_for_the_eye(tmp_path):
    table = Dataset()
    table.LUTDescriptor = [256, 0, 16]
    table.LUTData = (65535 - np.arange(256) * 257).astype(np.uint16).tobytes()  # falls
    stored = np.rint(255 - 255 * TRUE / 5.0).astype(np.uint8)
    tags = dict(Modality="DX", PresentationIntentType="FOR PRESENTATION")
    view = read_xray(write_xray(tmp_path / "x.dcm", stored, VOILUTSequence=[table], **tags))
    assert likeness(view) > 0.999


def test_a_run_is_read_once_and_frame_by_frame(tmp_path, monkeypatch):
    run = np.stack([counts(TRUE), np.full_like(counts(), 7), counts(0.9 * TRUE)])
    path = write_xray(
        tmp_path / "x.dcm", run, PixelIntensityRelationship="LIN", PositionerMotion="DYNAMIC",
        PositionerPrimaryAngleIncrement=[0, 5, 10], PositionerSecondaryAngleIncrement=[0, 0, 0],
    )  # fmt: skip
    alone = read_xray(path, frame=2, mask=False)
    reads, read = [], pydicom.dcmread
    monkeypatch.setattr(pydicom, "dcmread", lambda *a, **k: reads.append(a) or read(*a, **k))
    views = read_xray_run(path, mask=False)
    assert len(reads) == 1 and len(views) == 3 and views[1] is None
    assert torch.equal(views[2].image, alone.image) and views[2].notes == alone.notes
    assert torch.equal(views[2].start, alone.start)
    (last,) = read_xray_run(path, frames=[2], mask=False)
    assert torch.equal(last.image, alone.image)
    for wrong, words in (
        (dict(frames=[3]), "frame is 3; .*has 3"),
        (dict(frames=[]), "frames is"),
        (dict(frame=1), "expected frames="),
        (dict(colour=1), "unknown"),
        (dict(frames=[1]), "x.dcm'.* every frame is constant"),
    ):
        with pytest.raises(ConfigError, match=words):
            read_xray_run(path, **wrong)


def test_pages_of_a_stack_are_a_run(tmp_path):
    np.save(tmp_path / "run.npy", np.stack([TRUE, 0.5 * TRUE]))
    first, second = read_xray_run(tmp_path / "run.npy", carm=CARM, values="line integrals")
    assert first.lines and torch.equal(second.image, torch.from_numpy(0.5 * TRUE))


def test_frames_and_their_maximum(tmp_path):
    vessel = np.zeros_like(TRUE)
    vessel[40:44, 20:60] = 0.5
    later = np.zeros_like(TRUE)
    later[60:64, 40:90] = 0.5
    run = np.stack([counts(TRUE + x) for x in (0 * vessel, vessel, later)])
    path = write_xray(tmp_path / "x.dcm", run, PixelIntensityRelationship="LIN")
    for k, extra in enumerate((0 * vessel, vessel, later)):
        assert np.abs(read_xray(path, frame=k).image.numpy() - TRUE - extra).max() < 0.03
    most = read_xray(path, frame="max")
    assert np.abs(most.image.numpy() - TRUE - vessel - later).max() < 0.03
    with pytest.raises(ConfigError, match=r"frame is 3; .*x.dcm' has 3"):
        read_xray(path, frame=3)
    moved = write_xray(
        tmp_path / "m.dcm", run, PixelIntensityRelationship="LIN", PositionerMotion="DYNAMIC",
        PositionerPrimaryAngleIncrement=[0, 5, 10], PositionerSecondaryAngleIncrement=[0, 0, 0],
    )  # fmt: skip
    with pytest.raises(ConfigError, match="positioner moved"):
        read_xray(moved, frame="max")
    assert read_xray(moved, frame=2).start[1] == pytest.approx(math.radians(-20))


def _item(**tags):
    item = Dataset()
    for keyword, value in tags.items():
        setattr(item, keyword, value)
    return item


def test_enhanced_xa_has_its_tags_in_functional_groups(tmp_path):
    shared = _item(
        XRayGeometrySequence=[
            _item(DistanceSourceToIsocenter=700.0, DistanceSourceToDetector=1050.0)
        ],
        FramePixelDataPropertiesSequence=[
            _item(
                PixelIntensityRelationship="LIN",
                PixelIntensityRelationshipSign=1,
                ImagerPixelSpacing=[0.5, 0.25],
            )
        ],
        FieldOfViewSequence=[_item(FieldOfViewRotation=0, FieldOfViewHorizontalFlip="NO")],
        CollimatorShapeSequence=[
            _item(
                CollimatorShape="RECTANGULAR",
                CollimatorLeftVerticalEdge=11,
                CollimatorRightVerticalEdge=128,
                CollimatorUpperHorizontalEdge=1,
                CollimatorLowerHorizontalEdge=96,
            )
        ],
    )
    frames = [
        _item(
            PositionerPositionSequence=[
                _item(PositionerPrimaryAngle=float(a), PositionerSecondaryAngle=10.0)
            ]
        )
        for a in (5, 15)
    ]
    integrals = TRUE.copy()
    integrals[:, :10] = 4.0
    path = write_xray(
        tmp_path / "x.dcm",
        np.stack([counts(integrals)] * 2),
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
        DistanceSourceToDetector=None,
        DistanceSourceToPatient=None,
        ImagerPixelSpacing=None,
        PositionerPrimaryAngle=None,
        PositionerSecondaryAngle=None,
    )
    view = read_xray(path, frame=1)
    assert (view.carm.sdd, view.carm.sod, view.carm.dely, view.carm.delx) == (1050, 700, 0.5, 0.25)
    assert view.start[:2].tolist() == pytest.approx([math.radians(10), math.radians(15)])
    assert float(view.weights[:, :10].max()) == 0 and float(view.weights[:, 14:].min()) == 1
    with pytest.raises(ConfigError, match="positioner moved"):
        read_xray(path, frame="max")


def test_what_the_header_lacks_is_named_and_can_be_given(tmp_path):
    path = write_xray(tmp_path / "x.dcm", counts(), ImagerPixelSpacing=None)
    with pytest.raises(DicomError, match=r"x.dcm': the header lacks ImagerPixelSpacing.*dely="):
        read_xray(path)
    view = read_xray(path, delx=0.3, dely=0.4, theta=0.1)
    assert view.carm.delx == 0.3 and view.start[0] == pytest.approx(0.1)
    without = write_xray(tmp_path / "y.dcm", counts(), PositionerPrimaryAngle=None)
    view = read_xray(without)
    assert view.start is None and any("PositionerPrimaryAngle" in note for note in view.notes)
    assert not any("SECRET" in note for note in view.notes)
    view = read_xray(without, carm=CARM)
    assert view.carm == CARM


FILES = {
    "png": lambda p, x: Image.fromarray(x).save(p),
    "tif": lambda p, x: Image.fromarray(x).save(p),
    "npy": np.save,
}


@pytest.mark.parametrize("suffix", FILES)
def test_pictures_of_raw_counts(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    FILES[suffix](path, counts())
    view = read_xray(path, carm=CARM)
    assert np.abs(view.image.numpy() - TRUE).max() < 0.05
    assert any("estimated: bone is dark" in note for note in view.notes)
    with pytest.raises(ConfigError, match=r"x\.\w+': the file tells no geometry; pass carm="):
        read_xray(path)
    with pytest.raises(ConfigError, match=r"carm has \d+ x \d+ pixels.* expected the same"):
        read_xray(path, carm=CARM.crop(0, 0, 96, 120))


def test_pictures_with_white_bone_and_colour_channels(tmp_path):
    grey = np.rint(20 + 200 * TRUE / TRUE.max()).astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3, axis=2)).save(tmp_path / "x.jpg", quality=95)
    view = read_xray(tmp_path / "x.jpg", carm=CARM)
    assert likeness(view) > 0.99
    assert any("estimated: bone is bright" in note for note in view.notes)
    wrong = read_xray(tmp_path / "x.jpg", carm=CARM, bone="dark", mask=False)
    assert likeness(wrong) < 0 and any("bone was said to be dark" in n for n in wrong.notes)
    coloured = np.zeros((96, 128, 3), np.uint8)
    coloured[..., 0] = grey
    Image.fromarray(coloured).save(tmp_path / "red.png")
    with pytest.raises(ConfigError, match=r"red.png' is coloured"):
        read_xray(tmp_path / "red.png", carm=CARM)


def test_line_integrals_as_floating_numbers_stay(tmp_path):
    np.save(tmp_path / "x.npy", TRUE)
    view = read_xray(tmp_path / "x.npy", carm=CARM, mask=False)
    assert torch.equal(view.image, torch.from_numpy(TRUE)) and view.weights is None
    np.save(tmp_path / "y.npy", np.exp(-TRUE))
    view = read_xray(tmp_path / "y.npy", carm=CARM, values="counts", open_field=1.0, mask=False)
    assert np.abs(view.image.numpy() - TRUE).max() < 0.05


def test_a_calibration_gives_the_pose(tmp_path):
    np.save(tmp_path / "x.npy", counts())
    pose = CARM.pose([0.1, 0.2, 0.3, 4.0, 5.0, 6.0], [0.0, 0.0, 0.0])
    view = read_xray(tmp_path / "x.npy", carm=Calibration(CARM, pose))
    assert torch.equal(view.pose, pose) and view.carm == CARM


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(values="raw"), "values is 'raw'"),
        (dict(bone="white"), "bone is 'white'"),
        (dict(frame="last"), "frame is .last."),
        (dict(sodd=3.0), "unknown"),
        (dict(carm=CARM, sdd=3.0), "come with carm"),
        (dict(open_field=-5.0), "open field would be -5 counts"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, says):
    path = write_xray(tmp_path / "x.dcm", counts(), PixelIntensityRelationship="LIN")
    with pytest.raises(ConfigError, match=says):
        read_xray(path, **options)


def test_files_that_are_no_xray(tmp_path):
    with pytest.raises(ConfigError, match=r"none.png' does not exist"):
        read_xray(tmp_path / "none.png", carm=CARM)
    for name, content in (
        ("a.png", b"no picture"),
        ("b.npy", b"\x93NUMPY\x01\x00rest"),
        ("c.dcm", b"\0" * 128 + b"DICM" + b"\x02\x00\x00\x00rest"),
        ("d", b""),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DrrlibError, match=name):
            read_xray(tmp_path / name, carm=CARM)
    whole = write_xray(tmp_path / "x.dcm", counts()).read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:-5000])
    with pytest.raises(DicomError, match=r"cut.dcm': the pixel data cannot be decoded") as caught:
        read_xray(tmp_path / "cut.dcm")
    assert "SECRET" not in str(caught.value)
    with pytest.raises(DicomError, match="has Modality CT"):
        read_xray(write_xray(tmp_path / "ct.dcm", counts(), Modality="CT"))
    with pytest.raises(ConfigError, match="is constant"):
        read_xray(write_xray(tmp_path / "flat.dcm", np.full((96, 128), 7, np.uint16)))
    objects = np.array([{}], dtype=object)
    np.save(tmp_path / "o.npy", objects, allow_pickle=True)
    with pytest.raises(ConfigError, match="no readable NumPy array"):
        read_xray(tmp_path / "o.npy", carm=CARM)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_headers_end_in_errors_of_ours(tmp_path, seed):
    """Bytes changed at random: a view, or an error that names the file."""
    random = np.random.default_rng(seed)
    path = write_xray(tmp_path / "x.dcm", counts(), PixelIntensityRelationship="LIN")
    content = bytearray(path.read_bytes())
    for at in random.integers(132, 900, 6):
        content[at] = random.integers(256)
    path.write_bytes(content)
    try:
        read_xray(path)
    except DrrlibError as error:
        assert "SECRET" not in str(error)


def test_show_draws_and_writes_what_was_assumed(tmp_path):
    view = read_xray(write_xray(tmp_path / "x.dcm", counts(), PixelIntensityRelationship="LIN"))
    figure = view.show()
    assert len(figure.axes) == 3 and "counts" in figure.get_suptitle()
    figure.savefig(tmp_path / "x.png")
    small = view.crop(10, 10, 60, 60).resize(30, 30)
    assert small.notes == view.notes and small.start is not None


def test_show_names_what_is_missing(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    view = View(TRUE, CARM)
    with pytest.raises(ConfigError, match=r"pip install drrlib\[lab\]"):
        view.show()


REAL = {  # bone where, against what: medians of regions, and the share that has weight
    "dx_dog_thorax.dcm": (
        dict(sod=850.0),
        (slice(40, 55), slice(100, 160)),
        (slice(0, 10), slice(0, 200)),
        (1.0, 1.0),
    ),
    "cr_chest_pa_RG1_J2KI.dcm": (
        dict(sod=1800.0, delx=0.2, dely=0.2),
        (slice(900, 1100), slice(880, 960)),
        (slice(600, 800), slice(400, 600)),
        (0.99, 1.0),
    ),
    "xa_coronary_96frames.dcm": (
        dict(sdd=1000.0, sod=700.0, delx=0.3, dely=0.3, frame=40),
        (slice(100, 400), slice(320, 360)),
        (slice(250, 300), slice(180, 220)),
        (0.7, 0.85),
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_real_images(real_data, name):
    options, dense, thin, share = REAL[name]
    view = read_xray(real_data / "xray" / name, **options)
    dense, thin = float(view.image[dense].median()), float(view.image[thin].median())
    assert dense > thin + 0.5
    kept = 1.0 if view.weights is None else float(view.weights.mean())
    assert share[0] <= kept <= share[1]


def test_the_real_run_without_geometry_says_so(real_data):
    path = real_data / "xray" / "xa_coronary_96frames.dcm"
    with pytest.raises(DicomError, match=r"xa_coronary.*lacks DistanceSourceToDetector.*sdd="):
        read_xray(path)


def test_pydicom_is_not_asked_for_the_patient(tmp_path):
    from drrlib.io.xray_file import TAGS

    assert not {"PatientName", "PatientID", "PatientBirthDate"} & set(TAGS)
    assert all(pydicom.datadict.tag_for_keyword(tag) for tag in TAGS)


def test_odd_shapes_and_tables_are_ignored_and_not_repeated(tmp_path):
    tags = dict(ShutterShape="SECRET", RescaleSlope=1, RescaleIntercept=0)
    path = write_xray(tmp_path / "x.dcm", counts(), **tags)
    view = read_xray(path)
    assert any("display shutter cannot be used" in note for note in view.notes)
    assert not any("secret" in note.lower() for note in view.notes)


def test_a_tag_of_an_unknown_kind_is_named_as_unusable(tmp_path):
    path = write_xray(tmp_path / "x.dcm", counts())
    data = path.read_bytes()
    at = data.index(b"\x18\x00\x64\x11DS")  # ImagerPixelSpacing
    path.write_bytes(data[: at + 4] + b"ZZ" + data[at + 6 :])
    with pytest.raises(DicomError, match=r"ImagerPixelSpacing|damaged"):
        read_xray(path)
