"""Which pixels hold an image: grounds, shutters, blades, saturated skin, letters."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from drrlib import CArm, read_xray
from drrlib.errors import ConfigError
from drrlib.io.xray_mask import dead_field, header_mask
from helpers import write_xray

SIZE = (200, 240)
CARM = CArm(1000.0, 600.0, *SIZE, 0.5, 0.5)
ROW, COLUMN = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5


def shot(scale=3000.0, seed=0):
    """Counts of a smooth body with bones: thick in the middle, with texture everywhere."""
    apart = np.hypot((ROW - 100) / 110, (COLUMN - 120) / 110)
    soft = 3.0 * np.sqrt(np.clip(1 - apart**2, 0, None))
    bones = 0.8 * (np.sin(ROW / 9.0) > 0.6) * (apart < 0.7)
    beam = scale * np.exp(-soft - gaussian_filter(bones.astype(float), 1.5))
    return beam + np.sqrt(beam) * np.random.default_rng(seed).standard_normal(SIZE)


DISC = np.hypot(ROW - 100, COLUMN - 120) < 97
OCTAGON = DISC | (np.abs(ROW - 100) + np.abs(COLUMN - 120) < 120) & (np.abs(ROW - 100) < 90)
BLADES = (ROW > 25) & (ROW < 180) & (COLUMN > 30)
FIELDS = {"disc": DISC, "octagon": OCTAGON, "blades": BLADES}


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("bits", [8, 12])
def test_the_ground_outside_of_the_beam_is_left_out(tmp_path, name, bits):
    inside = FIELDS[name]
    beam = np.where(inside, shot(), 0).clip(0, 4095)
    stored = (beam / 16).astype(np.uint8) if bits == 8 else beam.astype(np.uint16)
    Image.fromarray(stored).save(tmp_path / "x.png")
    view = read_xray(tmp_path / "x.png", carm=CARM)
    kept = view.weights.numpy() > 0
    assert not kept[~inside].any()
    assert kept[inside].mean() > 0.85
    assert any("constant ground" in note for note in view.notes)


def test_air_beside_a_body_is_no_ground():
    """Bone bright and air clipped to 0: an ellipse with soft borders stays whole."""
    apart = np.hypot((ROW - 100) / 80, (COLUMN - 120) / 60)
    head = np.rint(220 * np.sqrt(np.clip(1 - apart**2, 0, None)))
    for dense in (0, 1):
        field, said = dead_field(head, 256, dense)
        assert field.all() and not said
    assert not dead_field(np.where(DISC, 255 - head, 0), 256)[0].all()


def shown(header_tags, tmp_path, beam=None, **options):
    stored = np.rint(shot() if beam is None else beam).clip(0, 65535).astype(np.uint16)
    tags = dict(PixelIntensityRelationship="LIN", PixelIntensityRelationshipSign=1)
    path = write_xray(tmp_path / "x.dcm", stored, **tags, **header_tags)
    return read_xray(path, **options)


EDGES = ("LeftVerticalEdge", "RightVerticalEdge", "UpperHorizontalEdge", "LowerHorizontalEdge")


def test_shutters_of_the_header(tmp_path):
    """Rows and columns count from 1, edges included; several shapes hold at once."""
    tags = dict(zip((f"Shutter{e}" for e in EDGES), (11, 200, 21, 180), strict=True))
    tags |= dict(ShutterShape=["RECTANGULAR", "CIRCULAR"])
    tags |= dict(CenterOfCircularShutter=[100, 120], RadiusOfCircularShutter=60)
    kept = shown(tags, tmp_path).weights.numpy() > 0
    expected = np.zeros(SIZE, bool)
    expected[20:180, 10:200] = True
    expected &= np.hypot(ROW + 0.5 - 100, COLUMN + 0.5 - 120) <= 60
    assert (kept == expected).mean() > 0.999
    tags = dict(ShutterShape="POLYGONAL", VerticesOfThePolygonalShutter=[51, 51, 51, 151, 151, 51])
    kept = shown(tags, tmp_path).weights.numpy() > 0
    assert kept[60, 60] and not kept[140, 140] and abs(kept.sum() - 5000) < 160


def test_a_collimator_is_believed_where_the_image_agrees(tmp_path):
    edges = dict(zip((f"Collimator{e}" for e in EDGES), (31, 240, 26, 180), strict=True))
    tags = dict(CollimatorShape="RECTANGULAR", **edges)
    view = shown(tags, tmp_path)  # structure goes on beyond these edges
    assert any("collimator does not fit the image: ignored" in note for note in view.notes)
    assert float(view.weights.mean() if view.weights is not None else 1) > 0.95
    behind = np.where(BLADES, shot(), 40.0)
    view = shown(tags, tmp_path, behind)
    assert any("collimator of the header" in note for note in view.notes)
    assert not (view.weights.numpy() > 0)[~BLADES].any()


@pytest.mark.parametrize(
    "tags",
    [
        dict(ShutterShape="RECTANGULAR"),
        dict(ShutterShape="RECTANGULAR", ShutterLeftVerticalEdge=500),
        dict(ShutterShape="POLYGONAL", VerticesOfThePolygonalShutter=[1, 2, 3]),
        dict(ShutterShape="CIRCULAR", CenterOfCircularShutter=[5, 5], RadiusOfCircularShutter=0),
        dict(ShutterShape="HEART"),
    ],
)
def test_shutters_that_cannot_be_are_passed_over(tmp_path, tags):
    view = shown(tags, tmp_path)
    assert any("shutter cannot be used: ignored" in note for note in view.notes)


def test_a_round_field_of_the_header(tmp_path):
    """Diameter 60 mm at 0.3 mm: 100 pixels around the middle, with nothing beyond."""
    inside = np.hypot((ROW - 100) * 0.3, (COLUMN - 120) * 0.3) <= 30
    beam = np.where(inside, shot(), 30 + np.random.default_rng(1).standard_normal(SIZE))
    tags = dict(FieldOfViewShape="ROUND", FieldOfViewDimensions=60, ImagerPixelSpacing=[0.3, 0.3])
    kept = shown(tags, tmp_path, beam).weights.numpy() > 0
    assert not kept[~inside].any() and kept[inside].mean() > 0.97


def test_blades_with_a_soft_border(tmp_path):
    beam = np.where(COLUMN > 40, shot(), 15.0)
    beam = gaussian_filter(beam, 2.0) + np.random.default_rng(1).standard_normal(SIZE)
    view = shown({}, tmp_path, beam)
    kept = view.weights.numpy() > 0
    assert any("blades" in note for note in view.notes)
    assert not kept[:, :40].any() and kept[:, 52:].mean() > 0.98


def test_the_rim_of_a_saturated_open_field_is_lost_skin(tmp_path):
    beam = shot(9000.0).clip(0, 4095)
    view = shown({}, tmp_path, beam)
    kept, saturated = view.weights.numpy() > 0, beam == 4095
    assert any("saturated" in note for note in view.notes)
    assert (saturated & ~kept).any() and (saturated & kept).any()
    assert kept[~saturated].mean() > 0.98


def test_letters_are_left_out(tmp_path):
    drawn = Image.new("L", SIZE[::-1])
    ImageDraw.Draw(drawn).text((100, 80), "R 12", fill=255, font_size=16)
    letters = np.asarray(drawn) > 128
    view = shown({}, tmp_path, np.where(letters, 4095, shot()))
    kept = view.weights.numpy() > 0
    assert kept[letters].mean() < 0.05 and kept.mean() > 0.95


def test_the_caller_may_make_the_weights(tmp_path):
    beam = np.where(DISC, shot(), 0.0)
    assert shown({}, tmp_path, beam, mask=False).weights is None


def test_padding_is_no_image(tmp_path):
    beam = shot()
    beam[:, :30] = 60000
    view = shown(dict(PixelPaddingValue=60000), tmp_path, beam)
    assert not (view.weights.numpy() > 0)[:, :30].any()
    assert float(view.image[:, 30:].max()) < 5
    with pytest.raises(ConfigError, match="constant"):
        shown(dict(PixelPaddingValue=60000), tmp_path, np.full(SIZE, 60000))


def test_nothing_stated_is_all_open():
    import pydicom

    kept, notes = header_mask(pydicom.Dataset(), shot())
    assert kept.all() and notes == ()
