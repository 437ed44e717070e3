"""The page about a registration: what it says, what it shows, what it leaves out."""

import base64
import dataclasses
import math
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from drrlib.drr import DRR
from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry import CArm, eta
from drrlib.lab.phantoms import skull
from drrlib.registration import REPORTS, register
from drrlib.registration.evidence import gather
from drrlib.registration.judge import cloud
from drrlib.registration.report_words import words
from drrlib.view import View
from drrlib.volume import Volume

CARM = CArm.square(sdd=1020.0, sod=510.0, pixels=72, extent=400.0)
TRUE = eta(theta=6, phi=-24, gamma=3, b=(6, -4, 8), degrees=True)


@pytest.fixture(scope="module")
def volume():
    phantom = skull(6.0)
    return Volume.from_hu(phantom.hu, phantom.affine)


@pytest.fixture(scope="module")
def view(volume):
    weights = torch.ones(72, 72)
    weights[:, :10] = 0
    notes = ("the open field was <found> & taken",)
    return View(DRR(volume, CARM).at(TRUE), CARM, weights, notes=notes)


@pytest.fixture(scope="module")
def found(view, volume):
    return register(view, volume, TRUE + 0.02, preset="fast", search=(0.1, 5.0))


class Page(HTMLParser):
    """Tags that are open, links out of the page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def pictures(text):
    return re.findall(r'src="data:image/png;base64,([^"]+)"', text)


def test_a_page_is_one_file_with_all_in_it(tmp_path, found, view, volume):
    path = found.report(tmp_path / "report.html", view, volume, names=["a<b.dcm"])
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and all(link.startswith("data:image/png") for link in page.links)
    for word in (
        *("The pose can be trusted: one place fits best", "deg cranial", "deg RAO"),
        *("to the left", "to the front", "to the head", "across the view", "mm in depth"),
        *("the open field was <found> & taken", "a<b.dcm", "preset fast", "fingerprint"),
        *("source to detector 1020 mm", "drrlib ", "Not a medical device"),
    ):
        assert word in page.text, word
    (picture,) = pictures(text)
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("suffix", [".png", ".pdf"])
def test_a_picture_by_its_suffix(tmp_path, found, view, volume, suffix):
    path = found.report(str(tmp_path / f"report{suffix}"), view, volume)
    data = path.read_bytes()
    assert data.startswith({".png": b"\x89PNG", ".pdf": b"%PDF"}[suffix])
    if suffix == ".png":
        width, height = Image.open(path).size
        assert width < height and width > 1000
    assert set(REPORTS) == {".html", ".png", ".pdf"}


def test_figure_for_a_notebook(found, view, volume):
    assert type(found.show(view, volume)).__name__ == "Figure"


def test_evidence_at_the_true_pose_agrees(found, view, volume):
    (one,) = gather(found, view, volume)
    assert one.likeness > 0.99 and one.fixed.shape == (72, 72)
    for picture in (one.fixed, one.moving, one.weights):
        assert picture.min() >= 0 and picture.max() <= 1
    assert (one.weights[:, :10] == 0).all() and (one.weights[:, 10:] == 1).all()
    kept = one.weights > 0
    assert np.abs(one.fixed - one.moving)[kept].mean() < 0.02
    assert np.abs(one.residual[kept]).max() < 0.5
    assert 0.02 < one.edges.mean() < 0.3
    # A frontal picture, seen from the detector: the patient's left is on its right.
    assert tuple(x[0] for x in one.letters) == ("R", "L", "H", "F")


def test_a_wrong_pose_shows(found, view, volume):
    moved = found.eta + eta(b=(8, 0, 0))
    wrong = dataclasses.replace(found, eta=moved, pose=CARM.pose(moved, volume.center))
    right, off = (gather(x, view, volume)[0] for x in (found, wrong))
    assert off.likeness < right.likeness - 0.03
    assert np.abs(off.residual).mean() > 5 * np.abs(right.residual).mean()


def test_a_negative_is_shown_upright(found, view, volume):
    negative = dataclasses.replace(view, image=-view.image)
    upright = gather(found, view, volume)[0]
    again = gather(dataclasses.replace(found, inverted=True), negative, volume)[0]
    assert again.fixed == pytest.approx(upright.fixed) and again.likeness > 0.99


def test_windows_and_the_end_of_the_ct_count(found, view, volume):
    """Compared in windows: rays that leave a cut CT are shown to count less."""
    cut = Volume(volume.mu[:, :, :28].contiguous(), volume.affine, volume.center)
    windows = dataclasses.replace(found, window=2.5)
    weights = gather(windows, view, cut)[0].weights
    assert weights[:12, 25:50].mean() < 0.2 < 0.8 < weights[40:60, 25:50].mean()


def test_one_bone_among_others_is_shown_alone(found, view, volume):
    """Cut to what counts, with a margin; the CT's picture is black elsewhere."""
    small = Volume(volume.mu[12:30, 10:28, 14:30].contiguous(), volume.affine, volume.center)
    one = gather(dataclasses.replace(found, window=2.5, only=True), view, small)[0]
    assert one.fixed.shape < view.image.shape and one.fixed.shape == one.weights.shape
    assert (one.moving[one.weights < 0.05] == 0).all() and (one.weights > 0.9).any()


def test_several_views_have_a_block_each(tmp_path, volume):
    etas = [TRUE, TRUE + eta(phi=70, degrees=True)]
    views = [View(DRR(volume, CARM).at(x), CARM, pose=CARM.pose(x, volume.center)) for x in etas]
    start = TRUE + 0.02
    result = register(views, volume, start, preset="fast", search=(0.1, 5.0))
    blocks = gather(result, views, volume)
    assert len(blocks) == 2 and min(b.likeness for b in blocks) > 0.99
    text = result.report(tmp_path / "r.html", views, volume).read_text()
    assert len(pictures(text)) == 2 and "View 2 of 2" in text


@pytest.mark.parametrize("reason", ["images unlike, loss 0.8", "another place fits nearly as well"])
def test_doubt_comes_first_and_says_what_to_do(tmp_path, found, view, volume, reason):
    doubtful = dataclasses.replace(found, converged=False, reason=reason)
    said = words(doubtful, [0.4])
    assert said.headline == f"The pose is doubtful: {reason}" and said.meaning.endswith((".", "?"))
    text = doubtful.report(tmp_path / "r.html", view, volume).read_text()
    assert said.headline in text and "can be trusted" not in text


def test_a_pose_that_is_not_held_has_no_error(tmp_path, found, view, volume):
    loose = dataclasses.replace(found, target_sd=math.inf, covariance=None, converged=False)
    text = loose.report(tmp_path / "r.html", view, volume).read_text()
    assert "none: the image does not hold the pose" in text


def test_the_ellipse_is_that_of_the_stated_error(found):
    """Its variances add up to the stated ones."""
    points = found.center + 50 * torch.cat([torch.eye(3), -torch.eye(3)]).double()
    spread = cloud(CARM, found.center, points, found.eta, found.covariance[:6, :6])
    assert float(spread.trace().sqrt()) == pytest.approx(found.target_sd)
    assert float(spread[2, 2].sqrt()) == pytest.approx(found.depth_sd)


def test_what_cannot_be_shown_is_refused(tmp_path, monkeypatch, found, view, volume):
    with pytest.raises(ConfigError, match=r"ends in none of \.html"):
        found.report(tmp_path / "report.doc", view, volume)
    with pytest.raises(ShapeError, match="the registration was of 72 x 72"):
        found.report(tmp_path / "report.png", view.resize(36, 36), volume)
    with pytest.raises(ConfigError, match="several views need a pose"):
        found.report(tmp_path / "report.png", [view, view], volume)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"pip install drrlib\[lab\]"):
        found.report(tmp_path / "report.html", view, volume)
    assert not list(tmp_path.iterdir())
