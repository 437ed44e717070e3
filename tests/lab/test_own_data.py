"""A stranger's data for notebook 17: found, understood, packed. The notebook itself runs in CI."""

import json
import sys
import types
import zipfile

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from drrlib import CArm, RegistrationResult, View, Volume, eta, read_volume, read_xray, register
from drrlib.errors import ConfigError
from drrlib.lab import own_data


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return own_data.example(tmp_path_factory.mktemp("example"), 6.0, 64, 0)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_the_example_is_what_it_says(inputs):
    volume, view = read_volume(inputs.ct), read_xray(inputs.xray)
    hu, size, lean = own_data.upright(volume)
    assert own_data.cut_faces(hu) == ["foot", "head"] and lean < 1e-3
    assert size == pytest.approx([6.0] * 3) and hu.shape == volume.shape
    true = view.carm.project(inputs.points, view.carm.pose(inputs.true, volume.center))
    assert 0.05 < float((true - inputs.pixels).abs().mean()) < 1.5  # clicked by somebody
    off = torch.rad2deg(view.start - inputs.true)[:3].abs()
    assert 2 < float(off.min()) and float(off.max()) < 10


def test_a_grid_of_any_axes_stands_upright():
    """A block at the patient's left, back and head, in a grid whose axes are z, -x, y."""
    mu = torch.zeros(4, 3, 5)
    mu[3, 0, 4] = 0.04
    affine = np.array([[0, -2.0, 0, 0], [0, 0, 3.0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]])
    hu, size, lean = own_data.upright(Volume(mu, affine))
    assert hu.shape == (3, 5, 4) and size == [2.0, 3.0, 1.0] and lean == 0
    assert hu[2, 4, 3] > 0 and (hu > 0).sum() == 1


def test_missing_things_are_told():
    carm = read_carm()
    table = own_data.view_table(View(torch.rand(8, 8), carm, torch.eye(8))).set_index("what")
    assert table.loc["angles", "known"] == "missing"
    assert table.loc["masked", "known"] == "88 % of the pixels"
    known = own_data.view_table(View(torch.rand(8, 8), carm, start=eta(phi=0.5))).set_index("what")
    assert known.loc["theta, phi, gamma", "known"] == "+0.0, +28.6, +0.0 deg"


def read_carm():
    return CArm.square(sdd=1000.0, sod=500.0, pixels=8, extent=80.0)


@pytest.mark.parametrize("given", [("x", ""), ("nowhere", "nowhere"), ("upload", "upload")])
def test_what_cannot_be_found_is_refused(given):
    with pytest.raises(ConfigError, match=r"give both|does not exist|needs Google Colab"):
        own_data.find_inputs(*given, 6.0, 64, 0)


def test_a_zip_is_unpacked(tmp_path, inputs):
    for name, files in (("ct", sorted(inputs.ct.iterdir())), ("xray", [inputs.xray])):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as packed:
            for file in files:
                packed.write(file, f"inside/{file.name}")
    found = own_data.find_inputs(*(str(tmp_path / f"{x}.zip") for x in ("ct", "xray")), 6, 64, 0)
    assert torch.equal(read_volume(found.ct).mu, read_volume(inputs.ct).mu)
    assert found.xray.name == "xray.dcm" and found.true is None


def test_a_damaged_zip_is_refused(tmp_path, inputs):
    with zipfile.ZipFile(tmp_path / "ct.zip", "w") as packed:
        packed.write(inputs.xray, "xray.dcm")
    whole = (tmp_path / "ct.zip").read_bytes()
    for name, data in (("cut", whole[:-30]), ("turned", whole[:900] + b"x" + whole[901:])):
        (tmp_path / f"{name}.zip").write_bytes(data)
        with pytest.raises(ConfigError, match="cannot be unpacked"):
            own_data.find_inputs(str(tmp_path / f"{name}.zip"), str(inputs.xray), 6.0, 64, 0)


def test_colab_is_asked(monkeypatch, inputs):
    files = types.ModuleType("google.colab.files")
    files.upload = lambda: {"xray (1).dcm": inputs.xray.read_bytes()}
    colab, google = types.ModuleType("google.colab"), types.ModuleType("google")
    google.colab, colab.files = colab, files
    for name, module in (("google", google), ("google.colab", colab)):
        monkeypatch.setitem(sys.modules, name, module)
    found = own_data.find_inputs(str(inputs.ct), "upload", 6.0, 64, 0)
    assert torch.equal(read_xray(found.xray).image, read_xray(inputs.xray).image)
    files.upload = dict
    with pytest.raises(ConfigError, match="nothing was chosen"):
        own_data.find_inputs("upload", "upload", 6.0, 64, 0)


def test_one_zip_has_all_of_it(tmp_path, inputs):
    volume, view = read_volume(inputs.ct), own_data.read_image(inputs.xray, 0, 0, 0)
    found = register(view, volume, inputs.true, preset="fast", search=(0.1, 5.0))
    figures = {"ct": own_data.draw_ct(volume)}
    figures["starts"] = own_data.draw_starts(view, volume, {"start": view.start})
    figures["failures"] = own_data.draw_edges([("as it is", found, view)], volume)
    path = own_data.pack(tmp_path / "out" / "mine.zip", found, view, volume, figures)
    with zipfile.ZipFile(path) as packed:
        names = set(packed.namelist())
        assert names == {
            *("README.txt", "report.html", "pose.json", "pose_slicer.tfm", "matrix_3x4.txt"),
            *("pose_other_tools.json", "ct.png", "starts.png", "failures.png"),
        }
        packed.extractall(tmp_path)
        assert "doi:10.3844" in packed.read("README.txt").decode()
        tools = json.loads(packed.read("pose_other_tools.json"))
    assert RegistrationResult.load(tmp_path / "pose.json") == found
    matrix = np.loadtxt(tmp_path / "matrix_3x4.txt")
    k, extrinsic = (np.array(tools["DeepDRR"][x]) for x in ("k", "extrinsic"))
    assert k @ extrinsic[:3] == pytest.approx(matrix, rel=1e-9, abs=1e-6)
    assert len(tools) == 6
