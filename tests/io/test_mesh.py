"""Surfaces become volumes of one material; TIFF stacks become CTs."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from drrlib import DRR, CArm, read_mesh, read_tiff_stack, read_volume
from drrlib.errors import ConfigError, VolumeError

trimesh = pytest.importorskip(
    "trimesh", reason="trimesh is not installed: pip install drrlib[mesh]"
)


@pytest.mark.parametrize("suffix", ["stl", "obj", "ply"])
def test_a_sphere_has_its_volume_and_its_line_integrals(tmp_path, suffix):
    ball = trimesh.creation.icosphere(subdivisions=4, radius=10.0)
    ball.apply_translation([5.0, -3.0, 40.0])
    ball.export(tmp_path / f"x.{suffix}")
    volume = read_mesh(tmp_path / f"x.{suffix}", mu=0.5, voxel=0.5)
    assert float(volume.mu.sum()) * 0.5**3 / 0.5 == pytest.approx(ball.volume, rel=1e-3)
    assert volume.center.tolist() == pytest.approx([5.0, -3.0, 40.0], abs=0.01)
    assert 0 <= float(volume.mu.min()) and float(volume.mu.max()) == pytest.approx(0.5)
    drr = DRR(volume, CArm.square(sdd=1000, sod=500, pixels=41, extent=80.0))
    image = drr.at([0.3, 0.7, 0.2, 0.0, 0.0, 0.0])[0]
    assert float(image[20, 20]) == pytest.approx(0.5 * 20, rel=0.02)


def test_a_box_is_exact_where_its_faces_cut_voxels(tmp_path):
    trimesh.creation.box(extents=(7.3, 4.0, 2.5)).export(tmp_path / "x.stl")
    volume = read_mesh(tmp_path / "x.stl", mu=1.0, voxel=1.0, lines=4)
    middle = volume.mu[:, volume.shape[1] // 2, volume.shape[2] // 2 - 1]
    assert float(volume.mu.sum()) == pytest.approx(7.3 * 4.0 * 2.5, rel=0.03)
    assert float(middle.max()) > 0.49


def test_inside_out_units_and_a_small_hole(tmp_path):
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.01)  # metres
    faces = np.delete(ball.faces, [100], axis=0)[:, ::-1]
    trimesh.Trimesh(ball.vertices, faces, process=False).export(tmp_path / "x.stl")
    volume = read_mesh(tmp_path / "x.stl", mu=1.0, voxel=0.5, scale=1000.0)
    expected = 4 / 3 * math.pi * 10**3
    assert float(volume.mu.sum()) * 0.5**3 == pytest.approx(expected, rel=0.01)


def test_what_is_no_closed_surface(tmp_path, monkeypatch):
    ball = trimesh.creation.icosphere(subdivisions=3, radius=10.0)
    half = trimesh.Trimesh(ball.vertices, ball.faces[ball.triangles_center[:, 2] > 0])
    half.export(tmp_path / "half.stl")
    with pytest.raises(VolumeError, match=r"half.stl' is an open surface .*close its holes"):
        read_mesh(tmp_path / "half.stl", mu=1.0)
    (tmp_path / "bad.stl").write_bytes(b"solid nothing")
    with pytest.raises(VolumeError, match=r"bad.stl'"):
        read_mesh(tmp_path / "bad.stl", mu=1.0)
    with pytest.raises(VolumeError, match="does not exist"):
        read_mesh(tmp_path / "none.stl", mu=1.0)
    ball.export(tmp_path / "x.stl")
    with pytest.raises(VolumeError, match=r"too large for voxels of 0\.5 mm"):
        read_mesh(tmp_path / "x.stl", mu=1.0, scale=1000.0)
    with pytest.raises(ConfigError, match="mu is 0"):
        read_mesh(tmp_path / "x.stl", mu=0.0)
    with pytest.raises(ConfigError, match=r"use read_mesh\(path, mu\)"):
        read_volume(tmp_path / "x.stl")
    monkeypatch.setitem(__import__("sys").modules, "trimesh", None)
    with pytest.raises(ConfigError, match=r"pip install drrlib\[mesh\]"):
        read_mesh(tmp_path / "x.stl", mu=1.0)


def test_a_real_prosthesis_lies_on_its_image(real_data):
    """The silhouette at the tracked pose meets the metal of the X-ray (its table: 1-2 pixels)."""
    from scipy.ndimage import binary_dilation, gaussian_filter

    from drrlib import Volume, read_xray
    from drrlib.io import calibration_from_krt

    folder = real_data / "knee_implant_biplane"
    implant = read_mesh(folder / "models/femur0.stl", mu=1.0, voxel=1.0, lines=2)
    entry = json.loads((folder / "reference.json").read_text())["frames"]["0"]["cam2"]
    lines = (folder / "calibration/Camcal2.txt").read_text().split("\n")[4:7]
    k = np.array([[float(x) for x in line.split(",")] for line in lines])
    camera = calibration_from_krt(k, np.eye(3), np.zeros(3), (1024, 1024), sod=1300.0)
    view = read_xray(folder / entry["image"], carm=camera).resize(512, 512)
    pose = torch.tensor(entry["T"], dtype=torch.float64)
    drawn = DRR(Volume(implant.mu, pose @ implant.affine), view.carm)(view.pose[None])[0, 0]
    covered = (drawn > 0.5).double().numpy()
    image = view.image.numpy() - gaussian_filter(view.image.numpy(), 10)
    near = binary_dilation(covered, iterations=12)

    def likeness(shift):
        moved = np.roll(covered, shift, (0, 1))
        return np.corrcoef(image[near], (moved - gaussian_filter(moved, 10))[near])[0, 1]

    assert likeness((0, 0)) > 0.75
    for shift in ((0, 3), (0, -3), (3, 0), (-3, 0)):
        assert likeness(shift) < likeness((0, 0)) - 0.05


def test_a_tiff_stack(tmp_path):
    stack = np.arange(2 * 3 * 4, dtype=np.uint16).reshape(2, 3, 4) + 1000  # page, row, column
    pages = [Image.fromarray(p) for p in stack]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    volume = read_tiff_stack(tmp_path / "x.tif", (0.5, 0.6, 0.7), hu=(1.0, -1024.0))
    assert volume.shape == (4, 3, 2) and volume.spacing.tolist() == pytest.approx([0.5, 0.6, 0.7])
    assert volume.affine[:3, 3].tolist() == [0, 0, 0]
    assert float(volume.mu[2, 1, 1]) == pytest.approx(0.02059 * (1 + (1018 - 1024) / 1000))
    volume = read_tiff_stack(tmp_path / "x.tif", (0.5, 0.6, 0.7), mu_per_value=2e-5)
    assert float(volume.mu[3, 2, 0]) == pytest.approx(1011 * 2e-5)
    for options, says in (
        (dict(), "give one of hu"),
        (dict(hu=(1.0, 0.0), mu_per_value=1.0), "give one of hu"),
    ):
        with pytest.raises(ConfigError, match=says):
            read_tiff_stack(tmp_path / "x.tif", (1.0, 1.0, 1.0), **options)
    with pytest.raises(ConfigError, match="spacing is"):
        read_tiff_stack(tmp_path / "x.tif", (1.0, 1.0, 0.0), mu_per_value=1.0)
    pages[0].save(tmp_path / "one.tif")
    with pytest.raises(ConfigError, match=r"one.tif' has one page"):
        read_tiff_stack(tmp_path / "one.tif", (1.0, 1.0, 1.0), mu_per_value=1.0)
    with pytest.raises(ConfigError, match="use read_tiff_stack"):
        read_volume(tmp_path / "x.tif")
