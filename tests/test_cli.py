"""The command `drrlib`: which command runs, what is told where, exit statuses, what is written.

What `drrlib study` does with its file: lab/studies/test_command.py.
"""

import importlib.util
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from drrlib import DRR, CArm, RegistrationResult, Volume, cli, eta, read_volume, read_xray
from drrlib.cli.check import BOUND, compare_backends
from drrlib.cli.common import as_options
from drrlib.errors import GeometryError
from drrlib.io import write_ct_series, write_drr, write_xray
from drrlib.lab.phantoms import skull

STUDY = """
work = "registration"
trials = 3
folder = "kept"
[config]
volume = "thorax"
voxel = 12.0
pixels = 12
levels = [[1, 3]]
device = "cpu"
"""
COMMANDS = ["check", "render", "register", "study"]
CARM = CArm.square(sdd=1020.0, sod=600.0, pixels=64, extent=400.0)
TRUE = eta(theta=6, phi=24, b=(6, -4, 8), degrees=True)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A CT as DICOM, and an X-ray image of it whose header has angles some degrees off."""
    folder = tmp_path_factory.mktemp("data")
    phantom = skull(5.0)
    write_ct_series(folder / "ct", phantom.hu, phantom.affine)
    image = DRR(read_volume(folder / "ct"), CARM).at(TRUE)
    write_xray(folder / "xray.dcm", image, CARM, eta(phi=20, degrees=True))
    np.save(folder / "hu.npy", phantom.hu.transpose(2, 1, 0).astype(np.int16))
    return folder


# --- which command


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_names_every_command(capsys, word):
    assert cli.main([word]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("usage: drrlib COMMAND") and told.err == ""
    assert all(f"\n  {command} " in told.out for command in COMMANDS)


def test_the_version_is_told(capsys):
    assert cli.main(["--version"]) == 0
    assert re.fullmatch(r"drrlib \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize("words", [[], ["render_all"], ["--versions"], ["", "study"]], ids=str)
def test_an_unknown_command_is_refused_with_the_help(capsys, words):
    assert cli.main(words) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("usage: drrlib COMMAND")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_its_own_help(capsys, command):
    with pytest.raises(SystemExit) as left:
        cli.main([command, "--help"])
    told = capsys.readouterr()
    assert left.value.code == 0 and told.err == ""
    assert told.out.startswith(f"usage: drrlib {command} ")
    assert command == "study" or f"examples:\n  drrlib {command}" in told.out


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_arguments_are_told_with_the_usage(capsys, command):
    with pytest.raises(SystemExit) as left:
        cli.main([command, "file", "file", "--no-such-option"])
    told = capsys.readouterr()
    assert left.value.code == 2 and told.out == ""
    assert f"usage: drrlib {command} " in told.err and f"drrlib {command}: error: " in told.err


# --- study


def test_a_study_runs(capsys, folder):
    (folder / "study.toml").write_text(STUDY)
    assert cli.main(["study", "study.toml", "--output", "table.csv"]) == 0
    assert capsys.readouterr().out.startswith("3 trials, ")
    assert len(pd.read_csv("table.csv")) == 3


def test_a_study_without_its_file_is_refused_in_one_line(capsys):
    assert cli.main(["study", "nowhere.toml"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert told.err.startswith("study: nowhere.toml cannot be read as TOML: ")


def test_without_the_laboratory_the_way_to_it_is_told(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "drrlib.lab.studies.command", raising=False)
    monkeypatch.delattr("drrlib.lab.studies.command", raising=False)
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert cli.main(["study", "study.toml"]) == 2
    told = capsys.readouterr().err
    assert "pandas" in told and told.endswith('run pip install "drrlib[lab]"\n')


def test_the_module_is_the_command(folder):
    """In a process of its own: exit status, and words from the command line."""
    command = [sys.executable, "-m", "drrlib", "study", "study.toml", "--dry-run", "--seed", "7"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2 and run.stdout == "" and run.stderr.startswith("study: ")
    (folder / "study.toml").write_text(STUDY)
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    told = dict(line.split(maxsplit=1) for line in run.stdout.splitlines())
    assert json.loads(told["config"])["seed"] == 7 and run.stderr == ""


# --- check


@pytest.fixture(scope="module")
def rows():
    return compare_backends(24)


def test_check_tells_versions_devices_and_every_backend(capsys, monkeypatch, rows):
    monkeypatch.setattr("drrlib.cli.check.compare_backends", lambda voxels: rows)
    assert cli.main(["check"]) == 0
    told = capsys.readouterr()
    for word in ("drrlib", "torch", "cpu", "reference", "cuda", "with gradient", "are right"):
        assert word in told.out
    assert len(told.out.splitlines()) < 30


def test_errors_of_the_check_are_those_of_single_precision(rows):
    rows = {row.backend: row for row in rows}
    assert set(rows) == {"reference", "cpu", "cuda"}
    for row in (rows["reference"], rows["cpu"]):
        assert 0 < row.image < 0.1 * BOUND and 0 < row.gradient < 0.1 * BOUND and row.image_ms > 0
    assert rows["cuda"].why or rows["cuda"].image < BOUND


def test_a_backend_that_is_wrong_fails_the_check(capsys, monkeypatch, rows):
    wrong = [row._replace(gradient=0.1) if row.backend == "cpu" else row for row in rows]
    monkeypatch.setattr("drrlib.cli.check.compare_backends", lambda voxels: wrong)
    assert cli.main(["check"]) == 1
    assert capsys.readouterr().out.endswith("wrong: cpu\n")


# --- render


def test_a_view_into_every_kind_of_file(capsys, data):
    out = [f"drr{s}" for s in (".png", ".nii", ".nii.gz", ".npy", ".dcm")]
    words = ["render", str(data / "ct"), "--theta", "6", "--phi", "24", "--bx", "6", "--by", "-4"]
    words += ["--bz", "8", "--sod", "600", "--pixels", "64", *(x for o in out for x in ("-o", o))]
    assert cli.main(words) == 0
    told = capsys.readouterr()
    assert told.out.count("64 x 64 pixels, line integrals 0 to ") == 5 and "CT: " in told.err
    expected = DRR(read_volume(data / "ct"), CARM).at(TRUE)[0].numpy()
    assert np.load("drr.npy") == pytest.approx(expected, abs=1e-6)
    png = np.asarray(Image.open("drr.png")).astype(float)
    assert png.max() == 65535 and png / 65535 * expected.max() == pytest.approx(expected, abs=1e-4)
    for name in ("drr.nii", "drr.nii.gz"):
        assert nib.load(name).get_fdata()[:, :, 0].T == pytest.approx(expected, abs=1e-6)
    view = read_xray("drr.dcm")
    assert view.image.numpy() == pytest.approx(expected, abs=0.01)
    assert view.start[:3].tolist() == pytest.approx(TRUE[:3].tolist()) and view.carm == CARM
    assert {p.name for p in Path().iterdir()} == set(out)


def test_the_picture_in_nifti_stands_where_the_detector_stood(tmp_path):
    """Its pixel (i, j) lies at the C-arm's pixel centre, in RAS."""
    carm = CArm(1000.0, 600.0, 3, 4, 2.0, 5.0, x0=7.0, flipped=True)
    center = torch.tensor([10.0, 20.0, 30.0])
    image = torch.arange(12.0).reshape(3, 4)
    path = write_drr(tmp_path / "x.nii", image, carm, TRUE, center)
    file = nib.load(path)
    world = carm.pixel_centers(carm.pose(TRUE, center)).numpy()
    for i, j in ((0, 0), (2, 3), (1, 0)):
        x, y, z = file.affine[:3] @ [j, i, 0, 1]
        assert (-x, -y, z) == pytest.approx(tuple(world[i, j]), abs=1e-3)
        assert file.get_fdata()[j, i, 0] == image[i, j]


def test_a_numpy_file_needs_its_voxels(capsys, data):
    words = ["render", str(data / "hu.npy"), "-o", "drr.npy", "--pixels", "32", "--phi", "90"]
    assert cli.main(words) == 2
    assert "--spacing X Y Z" in capsys.readouterr().err
    assert cli.main([*words, "--spacing", "5", "5", "5", "--hu", "1", "0"]) == 0
    image = np.load("drr.npy")
    carm = CArm.square(sdd=1020.0, sod=510.0, pixels=32, extent=400.0)
    expected = DRR(read_volume(data / "ct"), carm).at(eta(phi=90, degrees=True))[0].numpy()
    assert image == pytest.approx(expected, abs=float(1e-3 * expected.max()))


BAD = {
    "no such CT": (["render", "nowhere", "-o", "x.png"], "does not exist"),
    "no CT": (["render", "text.txt", "-o", "x.png"], "text.txt"),
    "a suffix": (["render", "CT", "-o", "x.jpeg"], "ends in none of .png"),
    "a folder that is none": (["render", "CT", "-o", "none/x.png"], "does not exist; make it"),
    "sod beyond sdd": (["render", "CT", "-o", "x.png", "--sod", "2000"], "0 < sod < sdd"),
    "a view past the CT": (["render", "CT", "-o", "x.png", "--bx", "5000"], "no ray meets the CT"),
    "pose and view": (["render", "CT", "-o", "x.png", "--pose", "p", "--phi", "1"], "both given"),
    "a scale for DICOM": (["render", "CT", "-o", "x.png", "--hu", "1", "0"], "for TIFF stacks"),
    "no such X-ray": (["register", "CT", "no.dcm", "-o", "x.json"], "does not exist"),
    "a CT for an X-ray": (["register", "CT", "CT/CT0001.dcm", "-o", "x.json"], "Modality CT"),
    "no lengths": (["register", "CT", "grey.png", "-o", "x.json"], "--sdd"),
    "no start": (
        ["register", "CT", "grey.png", *"--sdd 1020 --sod 600 --pixel 6 --search 9 9".split()],
        "no start is given",
    ),
    "two views alone": (["register", "CT", "XRAY", "XRAY"], "--one-isocenter"),
    "a report": (["register", "CT", "XRAY", "--report", "x.doc"], "ends in none of .html"),
    "a preset": (["register", "CT", "XRAY", "--free", "sod"], "sdd"),
    "calibrations": (["register", "CT", "XRAY", "--calibration", "a", "b"], "one for each image"),
    "an angle of 0 beside a calibration": (
        ["register", "CT", "XRAY", "--calibration", "a", "--phi", "0"],
        "--phi; expected",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(capsys, data, what):
    Path("text.txt").write_text("no CT")
    grey = 255 * np.random.default_rng(0).random((40, 40))
    Image.fromarray(grey.astype(np.uint8)).save("grey.png")
    before = sorted(Path().rglob("*"))
    words, says = BAD[what]
    named = {"CT": str(data / "ct"), "XRAY": str(data / "xray.dcm")}
    words = [named.get(w, w.replace("CT/", f"{data / 'ct'}/")) for w in words]
    assert cli.main([*words, "--quiet"]) == 2
    told = capsys.readouterr()
    assert says in told.err and told.err.count("\n") == 1 and told.out == "", told.err
    assert "Traceback" not in told.err and sorted(Path().rglob("*")) == before


def test_what_goes_wrong_otherwise_is_a_failure(capsys, data, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("drrlib.cli.render.write_drr", full)
    words = ["render", str(data / "ct"), "-o", "x.png", "--pixels", "16"]
    assert cli.main(words) == 1
    told = capsys.readouterr().err
    assert "failed (OSError: no space left); --debug tells where" in told
    assert cli.main([*words, "--debug"]) == 1 and "Traceback" in capsys.readouterr().err


def test_messages_name_options_in_place_of_keywords():
    assert as_options("pass sdd=... [mm]") == "pass --sdd ... [mm]"
    assert as_options("it lacks x; pass theta=... [rad]\n(phi=pi/2: left)") == (
        "it lacks x; pass --theta ... [deg] (--phi 90: left)"
    )
    lengths = (
        "carm=CArm(...), a calibration such as carm=read_mayacam(path), or sod=..., delx=..., "
    )
    assert as_options(f"pass {lengths}dely=... [mm]") == (
        "pass --calibration FILE, or --sod ..., --pixel ... [mm]"
    )


# --- register


@pytest.fixture(scope="module")
def registered(data, tmp_path_factory):
    """One registration by the command line: its folder, exit status, and what it printed."""
    folder = tmp_path_factory.mktemp("registered")
    files = ["-o", "pose.json", "-o", "pose.tfm", "-o", "matrix.txt", "--report", "report.html"]
    command = [sys.executable, "-m", "drrlib", "register", data / "ct", data / "xray.dcm", *files]
    # A DRR of its own CT: line integrals, for which `robust` was made.
    command += ["--preset", "robust", "--search", "15", "20", "--json"]
    run = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True)
    return folder, run


def test_a_registration_by_the_header(registered, data):
    folder, run = registered
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout, parse_constant=pytest.fail)
    found = RegistrationResult.load(folder / "pose.json")
    assert found.compare(TRUE).mtre < 0.5 and told["converged"] is True
    assert math.radians(told["phi_deg"]) == pytest.approx(float(found.eta[1]))
    assert told["preset"] == "robust" and len(told["written"]) == 4
    lines = [x for x in run.stderr.splitlines() if not x.startswith("drrlib:")]
    assert all(line.startswith("register: ") for line in lines)
    assert any("rotations" in line for line in lines)  # the progress
    matrix = np.loadtxt(folder / "matrix.txt")
    assert matrix == pytest.approx(found.carm.projection_matrix(found.pose).numpy())
    assert (folder / "pose.tfm").read_text().startswith("#Insight Transform File")
    page = (folder / "report.html").read_text()
    assert "The pose can be trusted" in page and "xray.dcm" in page and str(data) not in page
    assert sorted(p.name for p in folder.iterdir()) == [
        *("matrix.txt", "pose.json", "pose.tfm", "report.html"),
    ]


def test_a_saved_pose_is_rendered(registered, data):
    folder, _ = registered
    words = ["--pose", str(folder / "pose.json"), "--pixels", "32", "-o", "found.npy", "--quiet"]
    assert cli.main(["render", str(data / "ct"), *words]) == 0
    expected = DRR(read_volume(data / "ct"), CARM.resize(32, 32)).at(TRUE)[0].numpy()
    assert np.load("found.npy") == pytest.approx(expected, abs=0.15)


def test_a_doubtful_pose_has_its_own_status(capsys, data):
    """Looked for where it is not; what was found is written with its verdict."""
    away = ["--start", "0", "-60", "0", "0", "0", "0", "--search", "4", "5", "--preset", "fast"]
    words = [str(data / "ct"), str(data / "xray.dcm"), *away, "-o", "pose.json", "--quiet"]
    assert cli.main(["register", *words]) == 3
    told = capsys.readouterr()
    assert told.out.startswith("NOT converged: ") and told.err == ""
    assert not RegistrationResult.load("pose.json").converged


def test_a_picture_with_its_geometry_by_hand(data, capsys):
    render = ["--theta", "6", "--phi", "24", "--sod", "600", "--pixels", "64", "-o", "x.png"]
    assert cli.main(["render", str(data / "ct"), *render]) == 0
    given = "--sdd 1020 --sod 600 --pixel 6.25 --theta 4 --phi 21 --search 8 12 --preset fast"
    given += " --bone bright --values logged --backend cpu -o pose.json"
    assert cli.main(["register", str(data / "ct"), "x.png", *given.split()]) in (0, 3)
    found = RegistrationResult.load("pose.json")
    assert found.compare(eta(theta=6, phi=24, degrees=True)).mtre < 3
    assert "6.25 mm" in capsys.readouterr().err


def test_two_views_about_one_isocenter(data):
    volume, views = read_volume(data / "ct"), {"a": TRUE, "b": TRUE.clone()}
    views["b"][:3] = eta(phi=-40, degrees=True)[:3]
    for name, at in views.items():
        write_xray(f"{name}.dcm", DRR(volume, CARM).at(at), CARM, at)
    words = "--one-isocenter --search 5 15 --preset fast -o pose.json --report r.png --quiet"
    assert cli.main(["register", str(data / "ct"), "a.dcm", "b.dcm", *words.split()]) == 0
    assert RegistrationResult.load("pose.json").compare(TRUE).mtre < 0.5
    assert Image.open("r.png").size[1] > 1500  # two blocks of pictures


def test_a_report_without_matplotlib_is_refused_at_once(capsys, data, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "matplotlib" else real(n, *a)
    )
    words = ["register", str(data / "ct"), str(data / "xray.dcm"), "--report", "r.html"]
    assert cli.main(words) == 2
    assert 'pip install "drrlib[lab]"' in capsys.readouterr().err and not Path("r.html").exists()


# --- the X-ray writer


def test_the_writer_repeats_itself_and_names_nobody(tmp_path):
    image = torch.linspace(0, 9, 64 * 64).reshape(64, 64)
    paths = [write_xray(tmp_path / f"{k}.dcm", image, CARM, TRUE) for k in (1, 2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert b"PHANTOM^DRRLIB" in paths[0].read_bytes()
    turned = TRUE.clone()
    turned[2] = math.radians(-88)
    view = read_xray(write_xray(tmp_path / "t.dcm", image, CARM, turned))
    assert math.degrees(view.start[2]) % 360 == pytest.approx(270)


def test_the_writer_refuses_what_a_header_cannot_hold(tmp_path):
    image = torch.rand(64, 64)
    with pytest.raises(GeometryError, match="x0 = y0 = 0"):
        write_xray(tmp_path / "x.dcm", image[:, :32], CARM.crop(0, 0, 64, 32))
    for bad in (torch.rand(3, 64), image * math.nan):
        with pytest.raises(ValueError, match="image has"):
            write_xray(tmp_path / "x.dcm", bad, CARM)
    assert not list(tmp_path.iterdir())


def test_volumes_of_numpy_files_may_be_negative(data):
    volume = Volume.from_hu(np.load(data / "hu.npy").transpose(2, 1, 0), np.diag([5.0, 5, 5, 1]))
    assert volume.shape == read_volume(data / "ct").shape
