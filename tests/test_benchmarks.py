"""The benchmark measures what it says: same geometry, same image, rows that are kept. No times."""

import csv
import dataclasses
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

    from drrlib.geometry import CArm

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
    import gpu
    import record
    import render

    monkeypatch.setattr(record, "RESULTS", tmp_path / "results.csv")
    monkeypatch.setattr(render, "tests_are_green", lambda: False)
    monkeypatch.setattr(gpu, "_tests_are_green", lambda: False)
    assert render.main(["--peers", "none"]) == 1 and "red" in capsys.readouterr().err
    assert gpu.main(["--device", "cpu", "--no-append"]) == 1 and "red" in capsys.readouterr().err
    assert not record.RESULTS.exists()


def _fixed(scene):
    return np.random.default_rng(0).random((N, N), np.float32)


# --- the GPU benchmark, as far as it can be tested without a GPU


def test_plan_holds_every_cell_of_the_papers_table():
    import gpu_plan as g

    table = {(j.n, j.patch) for j in g.plan() if j.group == g.TABLE}
    plain = {(n, None) for n in (100, 200, 300, 400, 500, 600)}
    patched = {(n, 150) for n in (600, 900, 1200, 1500, 1800)}
    assert table == plain | patched | {(1024, p) for p in (16, 32, 64, 128, 256, 512)}
    assert {j.repeats for j in g.plan() if j.group == g.TABLE} == {15}
    assert not [j for j in g.plan(table=False) if j.group == g.TABLE]
    assert {j.n for j in g.plan(shrink=16) if j.group == g.TABLE} < set(range(4, 150))


def test_a_batch_begins_with_the_view_and_spreads_around_it(blobs):
    import gpu_cases
    import gpu_plan as g

    job = g.Job("batch", g.IMAGE, blobs.volume, "30/20", N, batch=5)
    one, two = (gpu_cases.Setting.make(job, blobs, "cpu") for _ in range(2))
    view = blobs.view("30/20", N)
    np.testing.assert_allclose(one.pose[0].numpy(), view.world_from_camera, atol=1e-12)
    assert torch.equal(one.pose, two.pose) and torch.equal(one.cotangent, two.cotangent)
    apart = (one.eta[1:] - one.eta[:1]).abs()
    assert bool((apart > 0).all()) and bool((apart <= torch.tensor(gpu_cases.SPREAD)).all())


def test_crossings_are_counted():
    import scene

    # 1 mm voxels seen from the front: the central rays of a narrow fan meet 48 or few more.
    narrow = scene.blobs(48, size=(48.0,) * 3)
    view = narrow.view("ap", 400)
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = -23.5
    by_hand = []
    source = view.frame()[0] + 24
    for target in view.targets(np.array([7, 201, 230]), np.array([3, 180, 199])).reshape(-1, 3):
        alpha = np.concatenate(
            [(np.arange(49) - source[a]) / (target + 24 - source)[a] for a in range(3)]
        )
        points = source + np.sort(alpha)[:, None] * (target + 24 - source)
        middle = (points[1:] + points[:-1]) / 2
        by_hand.append(int(((middle > 0) & (middle < 48)).all(axis=1).sum()))
    seen = [
        _one_ray(view, i, j).crossings((48, 48, 48), affine)
        for i in (7, 201, 230)
        for j in (3, 180, 199)
    ]
    assert seen == by_hand and max(seen) > 48 and min(seen) == 0


def _one_ray(view, i, j):
    import types

    whole = type(view).targets
    one = types.SimpleNamespace(
        n=1, frame=view.frame, targets=lambda *_: whole(view, np.array([i]), np.array([j]))
    )
    one.crossings = lambda *words: type(view).crossings(one, *words)
    return one


def _gpu_case(run, **words):
    from gpu_timing import GpuCase

    return GpuCase("peer", "", "siddon", "image", run, image=run, **words)


def test_memory_that_runs_out_is_a_result_and_not_the_end():
    from gpu_timing import OUT_OF_MEMORY

    calls = []

    def full():
        calls.append(1)
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 TiB")

    case = _gpu_case(full)
    case.warm(10.0, 3)
    assert case.status == OUT_OF_MEMORY and len(calls) == 1
    assert case.once() == 0.0 and len(calls) == 1  # not tried again

    def by_driver():
        raise RuntimeError("CUDA error: out of memory")

    def wrong():
        raise ValueError("no such kernel\nlong explanation")

    driver, other = _gpu_case(by_driver), _gpu_case(wrong)
    assert driver.attempt(driver.run) is None and driver.status == OUT_OF_MEMORY
    assert other.attempt(other.run) is None
    assert other.status == "failed: ValueError: no such kernel"


def test_a_broken_device_ends_the_run(monkeypatch):
    class AcceleratorError(RuntimeError):
        pass

    monkeypatch.setattr(torch, "AcceleratorError", AcceleratorError, raising=False)

    def broken():
        raise AcceleratorError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(AcceleratorError):
        _gpu_case(broken).once()


@pytest.mark.parametrize(("wall", "runs", "slept"), [(0.0, 2, 1), (0.03, 1, 0)])
def test_gpu_time_is_between_events_and_short_calls_are_queued_first(
    monkeypatch, wall, runs, slept
):
    import time

    from gpu_timing import Meter

    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("event")

        def elapsed_time(self, end):
            return 0.25

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: log.append("sleep"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append("wait"))
    meter = Meter("cuda")

    def call():
        log.append("call")
        time.sleep(wall)

    wall_ms, gpu_ms = meter.time(call)
    assert gpu_ms == 0.25 and wall_ms >= 1e3 * wall
    once = ["event", "call", "event", "wait"]
    assert log == ["wait", *once, *(["sleep", *once] * slept)] and log.count("call") == runs


def test_a_wrong_pose_in_the_batch_stops_the_run(blobs):
    import gpu_cases
    import gpu_check
    import gpu_plan as g
    import ours
    from gpu_timing import Meter

    own = gpu_cases.DrrLibGpu(blobs, Meter("cpu"), "cpu")
    job = g.Job("batch", g.IMAGE, blobs.volume, "30/20", N, batch=3)
    setting = gpu_cases.Setting.make(job, blobs, "cpu")
    cases, reference = own.cases(setting), ours.Reference(blobs)
    errors = gpu_check.verify(cases, reference, setting)
    assert len(errors) == len(cases) >= 2 and max(errors.values()) < 2e-5
    right = cases[0].image
    cases[0].image = lambda: right()[[0, 0, 0]]
    with pytest.raises(SystemExit, match="pose 2 of 3"):
        gpu_check.verify(cases, reference, setting)
    cases[0].library = "peer"  # whose time is then not taken, while the others go on
    gpu_check.verify(cases, reference, setting)
    assert cases[0].status.startswith("failed: image is") and cases[1].status == "ok"


def test_a_wrong_gradient_stops_the_run(blobs, monkeypatch, capsys):
    import gpu_cases
    import gpu_check
    from gpu_timing import Meter

    own = gpu_cases.DrrLibGpu(blobs, Meter("cpu"), "cpu")
    gpu_check.check_own(own, blobs, "30/20", n=6)
    assert capsys.readouterr().out.count("volume gradient") >= 2
    right = gpu_check._image_and_gradients

    def off(drr, setting, mu):
        image, pose, volume = right(drr, setting, mu)
        return [image, pose * (1.01 if drr.backend == "cpu" else 1.0), volume]

    monkeypatch.setattr(gpu_check, "_image_and_gradients", off)
    with pytest.raises(SystemExit, match="pose gradient is 1"):
        gpu_check.check_own(own, blobs, "30/20", n=6)


def _gpu_row(**words):
    import record

    row = dict.fromkeys(record.GPU_COLUMNS, "")
    row |= {
        "library": "drrlib",
        "method": "siddon",
        "dtype": "float32",
        "what": "image",
        "pose": "30/20",
        "volume": "512x512x133",
        "detector": 200,
        "batch": 1,
        "status": "ok",
        "gpu_ms": 0.1,
        "wall_ms": 0.2,
        "wall_mean_ms": 0.25,
        "wall_sd_ms": 0.01,
        "repeats": 25,
        "crossings_per_ray": 500.0,
        "copy_bytes_per_s": 2e12,
        "peak_bytes": 1_000_000,
        "rel_error": "1e-06",
    }
    return row | words


def test_final_tables_say_how_far_the_goals_are_reached(capsys):
    import gpu_plan as g
    import gpu_report

    full = {"status": "out of memory", "gpu_ms": "", "wall_ms": "", "repeats": 0}
    rows = [
        _gpu_row(),
        _gpu_row(library="nanodrr", method="trilinear", variant="triton", gpu_ms=0.3, wall_ms=0.4),
        _gpu_row(library="nanodrr", method="trilinear", variant="triton compile", gpu_ms=0.15),
        _gpu_row(library="diffdrr", gpu_ms=20.0, wall_ms=20.0),
        _gpu_row(batch=64, gpu_ms=3.2),
        _gpu_row(batch=1024, gpu_ms=102.4),
        _gpu_row(library="diffdrr", batch=1024, **full),
        _gpu_row(detector=1024, patch=64, repeats=15, wall_mean_ms=5.0, wall_sd_ms=0.5),
        _gpu_row(library="diffdrr", detector=1800, patch=150, **full),
    ]
    left = [g.Job("volumes", g.POSE, "512x512x512", "30/20", 200)]
    gpu_report.final(rows, left, {"nanodrr": "not asked for"}, cuda=True)
    said = capsys.readouterr().out
    assert "nanodrr's best / drrlib siddon float32: 1.50 (wall 1.00; goal 2): NO" in said
    assert (
        "diffdrr's best siddon / drrlib siddon float32: 200.00 (wall 100.00; goal 100): yes" in said
    )
    assert "1024 poses against the best batch: 0.500 (goal 1, here at least 0.98): NO" in said
    # 40,000 rays x 500 voxels in 0.1 ms; 4 bytes each, and 4 for each pixel, of 2 TB/s
    assert "200 G crossings/s" in said and "801.6 GB/s =  40.1% of copying" in said
    table = said[said.index("Table 1") :]
    assert "1080 ± 52.5             5 ± 0.5" in table and "1490 ± 26.4" in table
    assert [line for line in table.splitlines() if "1800 x 1800" in line and "no memory" in line]
    assert "not timed (2 cases): diffdrr float32: out of memory" in said
    assert "left out for want of time (1 jobs):" in said and "512x512x512" in said
    assert "not run: nanodrr: not asked for" in said


def test_gpu_rows_are_written_after_each_job_and_old_rows_stay_valid(tmp_path, monkeypatch):
    import gpu
    import record

    with record.RESULTS.open(newline="") as file:
        assert tuple(next(csv.reader(file))) == record.COLUMNS
    path = tmp_path / "gpu_results.csv"
    monkeypatch.setattr(gpu, "_tests_are_green", lambda: True)
    monkeypatch.setattr("gpu_plan.VOLUMES", {"tiny": ((16, 16, 8), (200.0, 200.0, 180.0))})
    words = (
        "--device cpu --headline 8 --sizes 8 --batches 1 2 --poses 30/20 --no-table --peers "
        f"--repeats 3 --per-case 0.01 --output {path} --commit abc --volumes tiny"
    )
    assert gpu.main(words.split()) == 0
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == record.GPU_COLUMNS
    assert {r["status"] for r in rows} == {"ok"} and {r["commit"] for r in rows} == {"abc"}
    assert {r["what"] for r in rows} == {
        "image",
        "image+pose gradient",
        "image+volume gradient",
        "image+jacobian",
    }
    assert {r["batch"] for r in rows} == {"1", "2"} and {r["driver"] for r in rows} == {"none"}
    assert all(float(r["wall_ms"]) > 0 and r["gpu_ms"] == "" for r in rows)


@pytest.mark.parametrize("name", ["DiffDrrGpu", "NanoDrrGpu"])
def test_peers_gradients_are_those_of_the_same_image(blobs, name):
    """Pose and volume gradient of each peer against ours: the same cotangent, the same leaf."""
    import gpu_cases
    import gpu_plan as g
    from gpu_timing import Meter

    try:
        peer = getattr(gpu_cases, name)(blobs, Meter("cpu"))
    except ImportError as problem:
        pytest.skip(f"not installed: {problem}")
    own = gpu_cases.DrrLibGpu(blobs, Meter("cpu"), "cpu")
    for what in (g.POSE, g.VOLUME):
        setting = gpu_cases.Setting.make(g.Job("x", what, "v", "30/20", 32, batch=2), blobs, "cpu")
        # A smooth cotangent: with noise, what is left is the difference of the methods.
        ramp = torch.linspace(-1, 2, 32).expand(2, 1, 32, 32).contiguous()
        setting = dataclasses.replace(setting, cotangent=ramp + ramp.mT)
        ours = {c.method: c.run().double() for c in own.cases(setting)}
        for case in peer.cases(setting):
            case.image()  # without grad mode first, as in a run
            seen = case.run().double()
            true = ours["siddon" if case.method == "siddon" else "joseph"]
            if what == g.VOLUME and peer.library == "nanodrr":
                seen = seen[0, 0].permute(2, 1, 0)
            assert seen.shape == true.shape
            if what == g.POSE:
                a, b = (_along_motions(x, setting.pose) for x in (seen, true))
            else:  # a sampler's is noisy voxel by voxel; means over blocks are not
                a, b = (torch.nn.functional.avg_pool3d(x[None], 12) for x in (seen, true))
            along = float((a * b).sum() / (a.norm() * b.norm()))
            limit = 0.99999 if case.method == "siddon" else 0.95  # samplers: another integral
            assert along > limit, (case.name, what, along)


def test_the_explorer_is_timed_in_every_mode(capsys):
    spec = importlib.util.spec_from_file_location("bench_explorer", FOLDER / "explorer.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    words = ["--size", "16", "--voxels", "24", "--repeats", "1", "--threads", "1", "--no-append"]
    assert bench.main(words) == 0
    printed = capsys.readouterr().out
    for name in ("bare render", "overlay", "checkerboard", "blink", "difference"):
        assert f"{name} " in printed


def _along_motions(gradient, pose):
    """Derivatives by three small rotations [0.01 rad] and three shifts [mm] of the camera.

    Only these compare: libraries differ in what a matrix that is not rigid would mean.
    """
    motions = torch.zeros(6, 4, 4, dtype=torch.float64)
    for k, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
        motions[k, i, j], motions[k, j, i] = 0.01, -0.01
        motions[3 + k, k, 3] = 1.0
    return (gradient[:, None] * (pose[:, None] @ motions)).sum(dim=(2, 3))
