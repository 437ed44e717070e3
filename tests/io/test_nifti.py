"""NIfTI files: axes, scaling, refusals and the real ones."""

import nibabel as nib
import numpy as np
import pytest
import torch

from drrlib.errors import ConfigError, VolumeError
from drrlib.io import read_nifti, read_volume

HU = np.arange(24, dtype=np.int16).reshape(2, 3, 4) * 40 - 500
RAS = np.array([[-2.0, 0, 0, 10], [0, 3, 0.5, -20], [0, 0, 4, 30], [0, 0, 0, 1]])


def save(path, data, affine=RAS, change=None):
    image = nib.Nifti1Image(data, affine)
    if change:
        change(image.header)
        # Without an affine of its own the image keeps the header as it is.
        image = nib.Nifti1Image(data, None, image.header)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
def test_world_axes_become_lps(tmp_path, name):
    hu, affine = read_nifti(save(tmp_path / name, HU))
    assert hu.dtype == np.float32 and np.array_equal(hu, HU)
    expected = [[2, 0, 0, -10], [0, -3, -0.5, 20], [0, 0, 4, 30], [0, 0, 0, 1]]
    np.testing.assert_allclose(affine, expected, atol=1e-6)


def test_voxels_do_not_hang_on_the_file(tmp_path):
    """Not mapped: Windows would refuse to write or remove the file while they are in use."""
    path = save(tmp_path / "ct.nii", HU.astype(np.float32))
    hu, _ = read_nifti(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert np.array_equal(hu, HU)


def test_read_volume_takes_nifti(tmp_path):
    path = save(tmp_path / "CT.NII.GZ", HU)
    v = read_volume(str(path), mu_water=0.02)
    torch.testing.assert_close(v.mu, torch.from_numpy(0.02 * (1 + HU / 1000)).float())
    with pytest.raises(ConfigError, match="one volume"):
        read_volume(path, series=3)


def test_slope_and_intercept_are_applied(tmp_path):
    path = save(tmp_path / "ct.nii", HU)
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([3.0, 5.0], "<f4").tobytes()
    path.write_bytes(raw)
    assert np.array_equal(read_nifti(path)[0], 3.0 * HU + 5)


def test_units_become_mm(tmp_path):
    path = save(tmp_path / "ct.nii", HU, change=lambda h: h.set_xyzt_units(xyz="micron"))
    np.testing.assert_allclose(read_nifti(path)[1][2], [0, 0, 0.004, 0.03], atol=1e-9)


def test_a_qform_alone_is_enough(tmp_path):
    def only_qform(header):
        header.set_sform(None, 0)
        header.set_qform(np.diag([-2.0, 3, 4, 1]), 1)

    path = save(tmp_path / "ct.nii", HU, change=only_qform)
    np.testing.assert_allclose(read_nifti(path)[1], np.diag([2, -3, 4, 1]), atol=1e-6)


def test_one_time_point_is_a_volume(tmp_path):
    assert np.array_equal(read_nifti(save(tmp_path / "ct.nii", HU[..., None]))[0], HU)


def no_place(header):
    header.set_sform(None, 0)
    header.set_qform(None, 0)


RGB = np.zeros((2, 2, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize(
    ("data", "change", "says"),
    [
        (HU[0], None, "one volume"),
        (np.stack([HU, HU], -1), None, "time point"),
        (HU.astype(np.complex64), None, "one real number"),
        (RGB, None, "one real number"),
        (HU, no_place, "neither sform nor qform.*Volume.from_hu"),
    ],
)
def test_refusals(tmp_path, data, change, says):
    with pytest.raises(VolumeError, match=says):
        read_nifti(save(tmp_path / "ct.nii", data, change=change))


def test_singular_affine(tmp_path):
    path = save(tmp_path / "ct.nii", HU)
    raw = bytearray(path.read_bytes())
    raw[312:328] = bytes(16)  # srow_z
    path.write_bytes(raw)
    with pytest.raises(VolumeError, match="singular"):
        read_nifti(path)


def test_damaged_files(tmp_path):
    whole = save(tmp_path / "ct.nii.gz", np.random.default_rng(0).random((20, 20, 20))).read_bytes()
    for name, content in {
        "short.nii.gz": whole[: len(whole) // 2],
        "text.nii.gz": b"no gzip",
        "text.nii": b"hello",
        "empty.nii": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VolumeError):
            read_nifti(tmp_path / name)
    with pytest.raises(VolumeError, match="does not exist"):
        read_nifti(tmp_path / "none.nii")


def test_an_absurd_size_is_refused_before_reading(tmp_path):
    path = save(tmp_path / "ct.nii", HU)
    raw = bytearray(path.read_bytes())
    raw[42:48] = np.array([32000, 32000, 32000], "<i2").tobytes()
    path.write_bytes(raw)
    with pytest.raises(VolumeError, match="at most"):
        read_nifti(path)


def test_thorax_padding_is_air_and_the_grid_is_mirrored(real_data):
    path = real_data / "thorax_lidc0001" / "ct.nii.gz"
    hu, affine = read_nifti(path)
    padding = hu == -2048
    assert hu.shape == (512, 512, 133) and 0.2 < padding.mean() < 0.22
    assert np.linalg.det(affine[:3, :3]) < 0
    v = read_volume(path)
    assert float(v.mu[torch.from_numpy(padding)].max()) == 0
    np.testing.assert_allclose(v.spacing, [0.703125, 0.703125, 2.5], atol=1e-6)
    # +x is the patient's left and +y the back: the labels say where these organs are.
    labels = np.asarray(nib.load(path.with_name("labels_totalsegmentator.nii.gz")).dataobj)
    rows = [line.split(",") for line in path.with_name("structures.csv").read_text().split()]
    number_of = {row[2]: int(row[3]) for row in rows[1:]}

    def middle(name):
        index = np.argwhere(labels[::2, ::2, ::2] == number_of[name]).mean(axis=0) * 2
        return affine[:3, :3] @ index + affine[:3, 3]

    left, right, spine, heart = map(
        middle, ["lung_upper_lobe_left", "lung_upper_lobe_right", "vertebrae_T8", "heart"]
    )
    assert left[0] - 40 > spine[0] > right[0] + 40
    assert heart[1] < spine[1] - 40 and heart[0] > spine[0]


@pytest.mark.parametrize(
    ("name", "shape", "spacing"),
    [
        ("totalsegmentator/pelvis_3mm.nii.gz", (122, 101, 112), [3, 3, 3]),
        ("totalsegmentator/heart_aorta_1p5mm.nii.gz", (120, 126, 164), [1.5, 1.5, 1.5]),
        ("head_phantom_philips/CT_pitch.nii.gz", (175, 248, 58), [0.8125, 0.8125, 2.397]),
    ],
)
def test_other_real_volumes(real_data, name, shape, spacing):
    v = read_volume(real_data / name)
    assert v.shape == shape and float(v.mu.max()) > 0.02
    np.testing.assert_allclose(v.spacing, spacing, atol=1e-3)
    if "pitch" in name:
        third = v.affine[:3, 2] / v.spacing[2]
        assert float(torch.rad2deg(torch.arccos(third[2]))) == pytest.approx(16.5, abs=0.1)
