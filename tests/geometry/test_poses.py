"""Poses for other tools."""

import math

import pytest
import torch

from drrlib.errors import GeometryError, ShapeError
from drrlib.geometry import write_tfm


def test_transform_file_by_hand(tmp_path):
    """A camera at (10, 20, 30), turned by 90 degrees about z: points of the world seen from it."""
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    pose[:3, 3] = torch.tensor([10.0, 20.0, 30.0])
    lines = write_tfm(tmp_path / "pose.tfm", pose).read_text().splitlines()
    assert lines[0] == "#Insight Transform File V1.0"
    assert lines[2] == "Transform: AffineTransform_double_3_3"
    numbers = [float(x) for x in lines[3].removeprefix("Parameters: ").split()]
    # R^T, then -R^T t = -(20, -10, 30).
    assert numbers == pytest.approx([0, 1, 0, -1, 0, 0, 0, 0, 1, -20, 10, -30])
    assert lines[4] == "FixedParameters: 0 0 0"


def test_only_rigid_poses(tmp_path):
    with pytest.raises(GeometryError, match="no scale"):
        write_tfm(tmp_path / "a.tfm", 2 * torch.eye(4))
    with pytest.raises(ShapeError, match=r"expected \(4, 4\)"):
        write_tfm(tmp_path / "a.tfm", torch.eye(4)[None])
    bad = torch.eye(4)
    bad[0, 3] = math.nan
    with pytest.raises(GeometryError, match="NaN"):
        write_tfm(tmp_path / "a.tfm", bad)
    assert not list(tmp_path.iterdir())
