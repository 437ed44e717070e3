"""Two fluoroscopes' pictures: the phantom's files, the real sets' descriptions, what a trial is."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from drrlib.errors import ConfigError
from drrlib.geometry import check_rigid
from drrlib.lab.paper import data_folder
from drrlib.lab.studies import fluoroscopy
from drrlib.lab.studies.fluoroscopy import BiplaneProtocol, load_scene

TINY = dict(
    rotations=8, kept=2, steps=6, refined=(1,), rounds=((3,),), finest=96, attempts=1, window=2.5
)


@pytest.mark.parametrize("case", ["radius", "implant"])
def test_the_phantom_lies_where_its_pictures_show_it(case):
    """The loss is lowest at the true pose, read back through calibrations, stacks and meshes."""
    scene = load_scene("phantom", case, 2, 96, 1.5)
    assert scene.known and len(scene.views) == 2 and "phantoms" in scene.citation
    for parameter in range(6):
        losses = fluoroscopy.losses_around(scene, parameter, (-8, 0, 8), 0, 2.5)
        assert losses.argmin() == 1 and losses[1] < 0.35, (parameter, losses)


def test_an_implant_is_compared_up_to_what_its_picture_can_show():
    scene = load_scene("phantom", "implant", 2, 96, 1.5)
    assert all(1.6 < view.most < 2.2 for view in scene.views)
    assert all(view.most is None for view in load_scene("phantom", "ulna", 2, 96).views)
    views = tuple(dataclasses.replace(view, most=None) for view in scene.views)
    blind = dataclasses.replace(scene, views=views)
    better, worse = (fluoroscopy.losses_around(s, 0, (0,), 0, 2.5) for s in (scene, blind))
    assert better < 0.7 * worse
    shown = fluoroscopy.compared(scene, scene.eta, 0, 2.5)
    assert len(shown) == 2 and all(x.fixed.shape == x.moving.shape for x in shown)
    assert all(0.02 < float((x.weights > 0.5).float().mean()) < 0.4 for x in shown)


def test_a_trial_is_a_function_of_its_index(monkeypatch):
    protocol = BiplaneProtocol(pixels=96, rotation=4, translation=5, plan=TINY)
    table = fluoroscopy.biplane_trials(protocol.config(), [3, 1])
    assert table["trial"].tolist() == [3, 1] and (table["start_mtre_mm"] > 0).all()
    assert np.isfinite(table[["mtre_mm", "loss", "stated_mm", "theta_deg"]]).all(axis=None)
    assert [x[0] for x in json.loads(table["path"][0])][:2] == ["sweep", "coarse"]
    assert (protocol.start(3).abs() <= torch.tensor([4 * torch.pi / 180] * 3 + [5.0] * 3)).all()
    scene = protocol.scene()
    apart = fluoroscopy.apart(scene, table)
    assert apart.shape == (2, 2) and apart[0, 0] < 1e-6 and torch.allclose(apart, apart.T)
    # Without a reference there is nothing to be off from.
    unknown = dataclasses.replace(scene, known=False)
    monkeypatch.setattr(fluoroscopy, "load_scene", lambda *_: unknown)
    again = fluoroscopy.biplane_trials(protocol.config(), [3])
    assert again["mtre_mm"].isna().all() and again["loss"][0] == table["loss"][0]


def test_what_does_not_exist_is_told():
    with pytest.raises(ConfigError, match=r"case is 'femur'; choose one of radius, ulna, implant"):
        load_scene("phantom", "femur", 2, 96)
    with pytest.raises(ConfigError, match="data is 'hip'; choose one of wrist_biplane"):
        load_scene("hip", "radius", 2, 96)
    with pytest.raises(ConfigError, match="views is 3; expected 1 or 2"):
        BiplaneProtocol(views=3)


@pytest.mark.parametrize("data", [fluoroscopy.WRIST, fluoroscopy.KNEE])
def test_descriptions_name_listed_files_and_rigid_places(data):
    about = json.loads((data_folder() / "sources" / f"{data}.json").read_text())
    listing = (data_folder() / "sources" / f"{data}.sha256").read_text().split()
    for case in about["cases"].values():
        assert {*case["images"], case["model"], *about["calibration"]} <= set(listing)
        check_rigid(torch.tensor(case["place"], dtype=torch.float64), "place")


@pytest.mark.parametrize(
    ("data", "case"), [(fluoroscopy.WRIST, "radius"), (fluoroscopy.KNEE, "implant_50")]
)
def test_real_pictures_show_the_body_at_its_reference_pose(real_data, monkeypatch, data, case):
    monkeypatch.setenv("DRRLIB_DATA", str(real_data))
    if not (real_data / data).exists():
        pytest.skip(f"DRRLIB_DATA does not hold {data}")
    scene = load_scene(data, case, 2, 128, 1.5)
    for parameter in (0, 4):
        losses = fluoroscopy.losses_around(scene, parameter, (-8, 0, 8), 0, 2.5)
        assert losses.argmin() == 1, (parameter, losses)
