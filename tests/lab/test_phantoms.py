"""Procedural phantoms: HU, orientation, asymmetry, the same object on every grid."""

import os
import subprocess
import sys

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from drrlib.errors import ConfigError
from drrlib.lab import phantoms
from drrlib.lab.phantoms import painting, pelvis, skull, thorax
from drrlib.lab.phantoms.shapes import ball, capsule, column, cut, ellipsoid, ring, triangle, union

MAKERS = {"skull": skull, "thorax": thorax, "pelvis": pelvis}


@pytest.fixture(scope="module")
def coarse():
    """All three phantoms with 4 mm voxels."""
    return {name: make(4.0) for name, make in MAKERS.items()}


def attenuation(phantom):
    return np.clip(1 + phantom.hu.astype(float) / 1000, 0, None)


def at(phantom, point):
    """HU of the voxel that holds a world point."""
    index = np.linalg.inv(phantom.affine) @ [*point, 1.0]
    return phantom.hu[tuple(np.round(index[:3]).astype(int))]


@pytest.mark.parametrize("name", MAKERS)
def test_hu_and_affine(coarse, name):
    phantom = coarse[name]
    assert phantom.hu.dtype == np.float32 and phantom.affine.dtype == np.float64
    assert phantom.hu.shape == {"skull": (64,) * 3}.get(name, (96,) * 3)
    assert phantom.hu.min() == -1000 and 800 < phantom.hu.max() <= 3071
    assert np.all(np.isfinite(phantom.hu))
    # air outside is exact, so it attenuates exactly nothing
    assert np.all(phantom.hu[0, 0] == -1000) and np.mean(phantom.hu == -1000) > 0.3
    # world origin in the middle of the grid, axes LPS, 4 mm
    np.testing.assert_array_equal(phantom.affine[:3, :3], 4 * np.eye(3))
    middle = phantom.affine @ [*(0.5 * (np.array(phantom.hu.shape) - 1)), 1]
    np.testing.assert_allclose(middle, [0, 0, 0, 1], atol=1e-12)


@pytest.mark.parametrize("name", MAKERS)
def test_landmarks_lie_in_the_grid(coarse, name):
    phantom = coarse[name]
    half = 0.5 * 4.0 * np.array(phantom.hu.shape)
    assert len(phantom.landmarks) >= 8
    assert all(np.all(np.abs(point) < half) for point in phantom.landmarks.values())


@pytest.mark.parametrize("name", MAKERS)
def test_left_and_right_differ(coarse, name):
    mu = attenuation(coarse[name])
    mirrored = mu[::-1]
    # voxelwise, over the body: well above the noise of any registration, yet still a patient
    difference = np.abs(mu - mirrored)[mu + mirrored > 0.1].mean()
    assert 0.02 < difference < 0.4
    frontal = mu.sum(axis=1)
    detail = frontal - 0.5 * (np.roll(frontal, 3, axis=1) + np.roll(frontal, -3, axis=1))
    inside = frontal > 5
    assert np.corrcoef(detail[inside], detail[::-1][inside])[0, 1] < 0.97


def test_skull_orientation(coarse):
    mu = attenuation(coarse["skull"])
    x, y, z = (coarse["skull"].affine[0, 3] + 4.0 * np.arange(64) for _ in range(3))
    bone = mu > 1.5
    # the foremost tissue is the nose: in front (-y), below the vault, near the midline
    front = np.argwhere(mu > 0.5)
    nose = front[front[:, 1].argmin()]
    assert y[nose[1]] < -95 and -60 < z[nose[2]] < 10 and abs(x[nose[0]]) < 15
    # the vault is the top, teeth are low and in front, the spine low and behind them
    assert 100 < z[np.argwhere(bone)[:, 2].max()] < 118
    dense = np.argwhere(mu > 2.9)
    assert z[dense[:, 2]].max() < -40 and np.median(y[dense[:, 1]]) < -30
    assert at(coarse["skull"], coarse["skull"].landmarks["C3"]) > 200


def test_skull_has_air_in_its_sinuses_and_brain_in_its_case():
    phantom = skull(1.0, shape=(96, 200, 140))
    assert at(phantom, (31, -62, -28)) < -900  # cheek, left
    assert at(phantom, (-31, -62, -28)) < -900  # cheek, right
    assert at(phantom, (6, -26, -6)) < -900  # sphenoid
    assert 0 < at(phantom, (30, 20, 60)) < 60  # brain
    assert at(phantom, (36, 5, -4)) > 1500  # ear capsule
    assert at(phantom, (2, -80, 60)) > 200  # forehead


def test_thorax_orientation(coarse):
    phantom = coarse["thorax"]
    # the heart lies on the patient's left (+x): less lung there at its height
    axis = phantom.affine[0, 3] + 4.0 * np.arange(96)
    level = (axis > -60) & (axis < -10)
    lung = np.logical_and(phantom.hu > -980, phantom.hu < -600)[:, :, level]
    assert lung[axis < 0].sum() > 1.15 * lung[axis > 0].sum()
    assert phantom.landmarks["heart apex"][0] > 40
    assert at(phantom, phantom.landmarks["carina"]) < -700
    assert phantom.landmarks["T1"][2] > phantom.landmarks["T12"][2] + 200
    assert phantom.landmarks["T7"][1] > 20 > -60 > phantom.landmarks["heart apex"][1]
    # gas in the stomach on the left, liver under the right dome
    assert at(phantom, (66, -26, -116)) < -900 < 40 < at(phantom, (-70, -14, -130)) < 90


def test_contrast_medium_fills_the_left_heart():
    region = {"spacing": 3.0, "shape": (40, 40, 40)}
    plain, filled = thorax(**region), thorax(**region, contrast=True)
    assert at(plain, (42, -34, -42)) < 80 and 250 < at(filled, (42, -34, -42)) < 450
    assert np.mean(filled.hu - plain.hu) > 1
    assert {"LAD", "LCX", "RCA"} == filled.landmarks.keys() - plain.landmarks.keys()


def test_pelvis_has_heads_in_sockets(coarse):
    phantom = coarse["pelvis"]
    left, right = (np.array(phantom.landmarks[f"{s} femoral head"]) for s in ("left", "right"))
    assert left[0] > 80 and right[0] < -80
    assert at(phantom, left) > 150 and at(phantom, right) > 150
    assert phantom.landmarks["left ASIS"][1] < -70 < 0 < phantom.landmarks["sacral promontory"][1]
    assert phantom.landmarks["L4"][2] > phantom.landmarks["left pubis"][2] + 150


@pytest.mark.parametrize("name", MAKERS)
def test_same_object_at_every_resolution(name):
    fine = MAKERS[name](1.0, shape=72).hu.astype(float)
    for factor in (2, 3):  # 2 mm voxels are painted as they are, 3 mm ones as 1.5 mm
        n = 72 // factor
        coarse = MAKERS[name](float(factor), shape=n).hu.astype(float)
        averaged = fine.reshape(n, factor, n, factor, n, factor).mean(axis=(1, 3, 5))
        assert abs(averaged.mean() - coarse.mean()) < 2
        assert np.abs(averaged - coarse).mean() < 15
        assert np.corrcoef(averaged.ravel(), coarse.ravel())[0, 1] > 0.997


def test_grid_choices():
    assert skull(shape=(3, 4, 8)).affine[0, 0] == 32.0
    phantom = skull((2.0, 3.0, 4.0), shape=(6, 5, 4))
    assert phantom.hu.shape == (6, 5, 4)
    np.testing.assert_array_equal(np.diag(phantom.affine), [2, 3, 4, 1])
    np.testing.assert_array_equal(phantom.affine[:3, 3], [-5, -6, -6])
    # a small grid is a window into the large one
    window, wide = skull(4.0, shape=8).hu, skull(4.0, shape=16).hu
    np.testing.assert_allclose(window, wide[4:12, 4:12, 4:12], atol=0.05)


@pytest.mark.parametrize("name", MAKERS)
def test_seed_decides_and_global_state_does_not(name):
    make = MAKERS[name]
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = make(4.0, shape=20, seed=5)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    second = make(4.0, shape=20, seed=5)
    np.testing.assert_array_equal(first.hu, second.hu)
    assert first.landmarks == second.landmarks
    other = make(4.0, shape=20, seed=6)
    assert np.abs(other.hu - first.hu).mean() > 3


def test_slabs_do_not_show(monkeypatch):
    whole = skull(4.0, shape=20).hu
    monkeypatch.setattr(painting, "SLAB_VOXELS", 1)
    np.testing.assert_allclose(skull(4.0, shape=20).hu, whole, atol=0.05)


@pytest.mark.parametrize(
    "arguments",
    [
        {"spacing": 0},
        {"spacing": -1.0},
        {"spacing": float("nan")},
        {"spacing": (1.0, 1.0)},
        {"spacing": "fine"},
        {"shape": 0},
        {"shape": 2.5},
        {"shape": float("nan")},
        {"shape": (4, 4)},
        {"spacing": 1.0, "shape": (4, 4, float("inf"))},
        {"seed": -1},
        {"seed": 1.5},
    ],
)
def test_bad_arguments(arguments):
    # the tests' type checker refuses some of these before the package's own check sees them
    for make in MAKERS.values():
        with pytest.raises((ConfigError, TypeCheckError), match=r"spacing|shape|seed"):
            make(**arguments)


def test_public_names():
    assert set(phantoms.__all__) >= {"Phantom", "skull", "thorax", "pelvis"}


# the bricks: hand-computed distances


@pytest.mark.parametrize(
    ("shape", "point", "expected"),
    [
        (ball((1, 2, 3), 5), (1, 2, 10), 2.0),
        (ball((1, 2, 3), 5), (1, 6, 3), -1.0),
        (ellipsoid((0, 0, 0), (10, 20, 30), (0, 0, np.pi / 2)), (21, 0, 0), 1.0),
        (capsule((0, 0, 0), (0, 0, 10), 2), (0, 5, 4), 3.0),
        (capsule((0, 0, 0), (0, 0, 10), 2), (0, 3, 14), 3.0),
        (capsule((0, 0, 0), (0, 0, 10), 2, 4), (6, 0, 5), 3.0),
        (triangle((0, 0, 0), (10, 0, 0), (0, 10, 0), 1), (2, 2, 4), 3.0),
        (triangle((0, 0, 0), (10, 0, 0), (0, 10, 0), 1), (-3, 2, 4), 4.0),
        (ring((0, 0, 0), 10, 2), (13, 0, 4), 3.0),
        (column((0, 0, 0), (5, 5), 10), (0, 0, 13), 3.0),
        (cut(ball((0, 0, 0), 5), (0, 0, 2), 2), (0, 0, 4), 3.0),
        (union(ball((0, 0, 0), 1), ball((5, 0, 0), 1)), (4.5, 0, 0), -0.5),
    ],
)
def test_distances(shape, point, expected):
    x, y, z = np.float32(point).reshape(3, 1)
    # coordinates beside the point must not matter
    x, y, z = (np.concatenate([v - 1, v, v + 1]) for v in (x, y, z))
    assert shape.distance(x, y, z)[1, 1, 1] == pytest.approx(expected, abs=2e-3)


def test_partial_volume_of_a_flat_shell_is_exact():
    scene = painting.Painting(0)
    shell = cut(column((0, 0, 0), (50, 50), 50, 8), (0, 0, 1), 0.3)
    scene.onion(shell, (0, 1000), (0.4, 0))
    hu = scene.render((2, 2, 5), np.array([1.5, 1.5, 1.5]))
    # surface at z = 0.3; the voxel from -0.75 to 0.75 holds 0.45 air, 0.4 shell, 0.65 inside
    assert hu[0, 0, 2] == pytest.approx((-1000 * 0.45 + 1000 * 0.4) / 1.5, abs=0.1)
    np.testing.assert_allclose(hu[0, 0], [0, 0, hu[0, 0, 2], -1000, -1000], atol=1e-3)


def test_texture_is_its_own_voxel_average():
    texture = painting.Texture(3, 9, 14)
    fine = ((np.arange(32) - 15.5) * 0.5).astype(np.float32)
    coarse = fine.reshape(4, 8).mean(axis=1)
    averaged = texture.on(fine, fine, fine, (0.5,) * 3).reshape(4, 8, 4, 8, 4, 8)
    direct = texture.on(coarse, coarse, coarse, (4.0,) * 3)
    np.testing.assert_allclose(averaged.mean(axis=(1, 3, 5)), direct, atol=1e-5)
    wide = np.linspace(-200, 200, 60, dtype=np.float32)
    values = texture.on(wide, wide, wide, (0.1,) * 3)
    assert abs(values.mean()) < 0.1 and 0.9 < values.std() < 1.1


def test_the_bits_do_not_depend_on_threads():
    """Products by BLAS do: a worker of one thread would compute with another phantom."""
    code = (
        "from drrlib.lab.phantoms import skull; import sys; sys.stdout.buffer.write(skull(6.0).hu)"
    )
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    one, four = (
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **dict.fromkeys(names, n)},
            check=True,
            capture_output=True,
        ).stdout
        for n in "14"
    )
    assert len(one) == skull(6.0).hu.nbytes and one == four
