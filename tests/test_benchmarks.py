"""The benchmark measures what it says: same geometry, same image, rows that are kept. No times."""

import csv
import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
SIZE, N = 48, 12


@pytest.fixture(scope="module", autouse=True)
def benchmark_folder():
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


@pytest.fixture
def blobs():
    import scene

    return scene.blobs(SIZE)


def test_geometry_is_that_of_carm(blobs):
    from scene import SDD, SOD, STEP

    from drrlib.carm import CArm

    for shift in ((0.0,) * 6, STEP):
        view = blobs.view("oblique", N, shift)
        carm = CArm(SDD, SOD, N, N, view.pitch, view.pitch)
        eta = torch.tensor([view.eta], dtype=torch.float64)
        pose = carm.pose(eta, torch.tensor(view.center, dtype=torch.float64))
        np.testing.assert_allclose(pose[0].numpy(), view.world_from_camera, atol=1e-10)
        for ours, theirs in zip(view.frame(), carm.frame(pose), strict=True):
            np.testing.assert_allclose(ours, theirs[0].numpy(), atol=1e-10)


def test_volume_has_nothing_to_skip_and_no_symmetry(blobs):
    mu = blobs.mu
    assert mu.dtype == torch.float32 and bool((mu > 0).all())
    for axis in range(3):
        assert float((mu - mu.flip(axis)).abs().max()) > 0.01
    assert blobs.view("ap", N).center == pytest.approx((0.0, 0.0, 0.0), abs=1e-9)


def test_same_object_at_any_resolution(blobs):
    import scene

    fine = scene.blobs(2 * SIZE)
    assert float(fine.mu.mean()) == pytest.approx(float(blobs.mu.mean()), rel=0.05)
    np.testing.assert_allclose(fine.spacing * 2, blobs.spacing)


def test_a_wrong_image_stops_the_run(blobs):
    import ours
    import render

    view = blobs.view("oblique", N)
    cases = ours.DrrLib(blobs, 1).cases(view, _fixed(blobs))
    reference = ours.Reference(blobs)
    errors = render.verify(cases, reference, view)
    assert all(error < 1e-5 for error in errors.values()) and len(errors) == 2
    right = cases[0].image
    cases[0].image = lambda: right()[:, ::-1]
    with pytest.raises(SystemExit, match="off the reference"):
        render.verify(cases, reference, view)


@pytest.mark.parametrize("name", ["itk", "rtk", "plastimatch", "diffdrr", "nanodrr"])
def test_peers_render_the_same_image(blobs, name):
    import ours
    import peers

    needs = {"itk": "itk", "rtk": "itk", "diffdrr": "diffdrr", "nanodrr": "nanodrr"}.get(name)
    there = importlib.util.find_spec(needs) if needs else shutil.which("plastimatch")
    if not there:
        pytest.skip(f"{name} is not installed")
    loaded = peers.load([name], blobs, 1)
    if not loaded:
        pytest.skip(f"{name} lacks a package it needs")
    reference = ours.Reference(blobs)
    # ITK takes the next voxel's value: off by a share of the voxel, here 5 mm. nanodrr samples.
    limit = {"itk": 0.06, "nanodrr": 0.02}.get(name, 1e-5)
    for pose in ("oblique", "ap"):
        view = blobs.view(pose, N)
        cases = loaded[0].cases(view, _fixed(blobs))
        images = [c for c in cases if c.image and c.variant != "compile"]
        assert images
        for case in images:
            seen = case.image()
            assert reference.error(seen, view, case.method) < limit
            assert reference.error(seen[:, ::-1], view, case.method) > 0.2
            assert reference.error(seen[::-1], view, case.method) > 0.2


def test_rounds_are_interleaved_and_slow_cases_rest():
    from timing import Case, interleave

    order = []

    def case(name, milliseconds):
        def run():
            order.append(name)
            return milliseconds

        return Case(name, "", "siddon", "image", run, own_clock=True)

    quick, slow = case("a", 1.0), case("b", 900.0)
    interleave([quick, slow], repeats=9, budget_s=1.0)
    assert len(quick.times) == 9 and len(slow.times) == 3
    assert "".join(order[2:]) == "aaabaaabaaab"
    assert quick.median == 1.0 and quick.sd == 0.0


def test_rows_are_appended_and_other_columns_refused(tmp_path):
    import record

    path = tmp_path / "results.csv"
    record.append([{"library": "a", "median_ms": 1.5}], path)
    record.append([{"library": "b"}], path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["library"] for r in rows] == ["a", "b"] and rows[0]["median_ms"] == "1.5"
    assert tuple(rows[0]) == record.COLUMNS
    path.write_text("other\n1\n")
    with pytest.raises(SystemExit, match="has columns"):
        record.append([{"library": "c"}], path)
    assert path.read_text() == "other\n1\n"


def test_whole_run_without_check_appends_nothing(tmp_path, monkeypatch, capsys):
    import record
    import render

    monkeypatch.setattr(record, "RESULTS", tmp_path / "results.csv")
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    words = "--no-check --no-memory --sizes 8 --volumes 16 --repeats 3 --peers none --threads 1"
    assert render.main(words.split()) == 0
    said = capsys.readouterr().out
    assert "no row is appended" in said and "blobs 16x16x16, oblique, detector 8²" in said
    assert not record.RESULTS.exists()


def test_red_tests_block(monkeypatch, tmp_path, capsys):
    import record
    import render

    monkeypatch.setattr(record, "RESULTS", tmp_path / "results.csv")
    monkeypatch.setattr(render, "tests_are_green", lambda: False)
    assert render.main(["--peers", "none"]) == 1
    assert "red" in capsys.readouterr().err and not record.RESULTS.exists()


def test_unknown_peer_is_named():
    import peers

    with pytest.raises(SystemExit, match="nosuch"):
        peers.choose(["itk", "nosuch"])
    assert peers.choose(["none"]) == [] and peers.choose(["all"]) == list(peers.NAMES)


def _fixed(scene):
    return np.random.default_rng(0).random((N, N), np.float32)
