"""Label maps: the same grid as the CT, however its axes lie, or a refusal."""

import nibabel as nib
import numpy as np
import pytest
import torch

from drrlib import DRR, CArm
from drrlib.errors import ConfigError, ShapeError, VolumeError
from drrlib.io import read_labels, read_volume
from drrlib.volume import Volume

AFFINE = np.diag([-2.0, -1.0, 3.0, 1.0])  # RAS, as the file has it
AFFINE[:3, 3] = (10, 20, -30)


@pytest.fixture
def ct(tmp_path):
    dice = np.random.default_rng(0)
    hu = dice.uniform(-1000, 500, (6, 7, 8)).astype(np.float32)
    nib.save(nib.Nifti1Image(hu, AFFINE), tmp_path / "ct.nii.gz")
    labels = dice.integers(0, 4, (6, 7, 8)).astype(np.uint8)
    return read_volume(tmp_path / "ct.nii.gz"), labels, tmp_path


def _save(path, labels, affine=AFFINE):
    nib.save(nib.Nifti1Image(labels, affine), path)
    return path


def test_labels_of_the_same_grid(ct, recwarn):
    volume, labels, folder = ct
    found = read_labels(_save(folder / "l.nii.gz", labels), volume)
    assert found.dtype == torch.int32 and np.array_equal(found, labels) and not len(recwarn)


def test_axes_in_another_order_and_direction(ct):
    volume, labels, folder = ct
    turned = nib.as_closest_canonical(nib.Nifti1Image(labels, AFFINE))
    turned = np.ascontiguousarray(turned.dataobj).transpose(2, 0, 1)
    affine = nib.as_closest_canonical(nib.Nifti1Image(labels, AFFINE)).affine[:, [2, 0, 1, 3]]
    found = read_labels(_save(folder / "l.nii", turned, affine), volume)
    assert np.array_equal(found, labels)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda x, a: (x[:-1], a), r"\(5, 7, 8\) voxels"),
        (lambda x, a: (x, a + _shift(0.5)), "beside the CT"),
        (lambda x, a: (x, a @ np.diag([2.0, 2, 2, 1])), "other sizes"),
        (lambda x, a: (x + np.float32(0.5), a), "whole numbers"),
        (lambda x, a: (x.astype(np.int16) - 1, a), "whole numbers"),
    ],
)
def test_what_is_no_label_map_of_this_ct_is_refused(ct, change, says):
    volume, labels, folder = ct
    with pytest.raises(VolumeError, match=says):
        read_labels(_save(folder / "l.nii", *change(labels, AFFINE)), volume)


def _shift(millimetres):
    moved = np.zeros((4, 4))
    moved[0, 3] = millimetres
    return moved


def test_other_files_are_refused(ct):
    with pytest.raises(ConfigError, match="no label map"):
        read_labels(ct[2] / "labels.png", ct[0])


def test_structures_add_up_to_the_whole(ct):
    volume, labels, _ = ct
    carm = CArm.square(sdd=1000.0, sod=500.0, pixels=16, extent=60.0)
    pose = carm.pose(torch.tensor([0.1, 0.2, 0, 0, 0, 0]).double(), volume.center)[None]
    masks = [torch.from_numpy(labels == k) for k in range(4)]
    whole = DRR(volume, carm)(pose)
    parts = sum(DRR(volume.structure(mask), carm)(pose) for mask in masks)
    assert torch.allclose(parts, whole, atol=1e-5 * float(whole.max()))
    rest = DRR(volume.without(masks[2]), carm)(pose) + DRR(volume.structure(masks[2]), carm)(pose)
    assert torch.allclose(rest, whole, atol=1e-5 * float(whole.max()))
    assert volume.without(masks[1], 0.02).mu[masks[1]].unique().tolist() == pytest.approx([0.02])


def test_a_structure_has_a_centre_of_its_own():
    mu = torch.ones(10, 10, 10)
    mask = torch.zeros(10, 10, 10, dtype=torch.bool)
    mask[2:4, 5:8, 1:9] = True
    part = Volume(mu, torch.eye(4)).structure(mask)
    assert part.shape == (2, 3, 8) and part.center.tolist() == [2.5, 6.0, 4.5]
    with pytest.raises(VolumeError, match="empty"):
        Volume(mu, torch.eye(4)).structure(mask & False)
    with pytest.raises(ShapeError, match="labels == 3"):
        Volume(mu, torch.eye(4)).structure(mask.int())
