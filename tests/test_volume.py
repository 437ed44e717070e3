"""Volume: Hounsfield units to attenuation, cropping, coarsening and refusals."""

import math

import numpy as np
import pytest
import torch

from drrlib.errors import ConfigError, DrrlibError, GeometryError, ShapeError, VolumeError
from drrlib.volume import MU_WATER, Volume, hu_to_mu

SHEARED = [[-0.5, 0.1, 0.0, 7.0], [0.0, 0.6, 0.3, -5.0], [0.0, -0.1, 2.0, 40.0], [0, 0, 0, 1.0]]


def volume(shape=(4, 5, 6), affine=SHEARED) -> Volume:
    torch.manual_seed(0)
    return Volume(torch.rand(shape, dtype=torch.float64), torch.tensor(affine).double())


def world(v: Volume, index) -> torch.Tensor:
    return v.affine[:3, :3] @ torch.tensor(index, dtype=torch.float64) + v.affine[:3, 3]


def moment(v: Volume) -> torch.Tensor:
    """Sum of mu dV and of mu x dV: what must stay when only the grid changes."""
    index = torch.stack(torch.meshgrid(*map(torch.arange, v.shape), indexing="ij"), -1).double()
    points = index @ v.affine[:3, :3].T + v.affine[:3, 3]
    size = v.affine[:3, :3].det().abs()
    first = (v.mu[..., None] * points).sum((0, 1, 2))
    return torch.cat([v.mu.sum()[None], first]) * size


def test_hounsfield_units_by_hand():
    hu = torch.tensor([-2048.0, -1000.0, -999.0, -500.0, 0.0, 1000.0]).reshape(1, 1, 6)
    expected = [0, 0, 0.00002059, 0.010295, 0.02059, 0.04118]
    mu = hu_to_mu(hu).flatten()
    assert mu[:2].tolist() == [0, 0] and MU_WATER == 0.02059
    torch.testing.assert_close(mu, torch.tensor(expected), rtol=1e-3, atol=1e-9)
    raised = hu_to_mu(hu, mu_water=0.03, air_hu=-600.0).flatten()
    torch.testing.assert_close(raised, torch.tensor([0, 0, 0, 0.015, 0.03, 0.06]))


@pytest.mark.parametrize("kind", [np.int16, np.uint8, ">i2", np.float32, np.float64])
def test_from_hu_takes_every_array(kind):
    hu = np.arange(24).reshape(2, 3, 4).astype(kind)[:, ::-1].transpose(2, 0, 1)
    v = Volume.from_hu(hu, np.eye(4))
    assert v.shape == (4, 2, 3)
    assert v.mu.dtype == torch.float32
    expected = MU_WATER * (1 + hu.astype(np.float64) / 1000)
    np.testing.assert_allclose(v.mu.numpy(), expected, rtol=1e-6)


def test_from_hu_does_not_share_memory():
    hu = np.zeros((2, 2, 2), np.float32)
    v = Volume.from_hu(torch.from_numpy(hu), torch.eye(4))
    hu[:] = 500
    assert float(v.mu.max()) == pytest.approx(MU_WATER)


def test_center_and_spacing_by_hand():
    v = Volume(torch.ones(3, 5, 1), torch.diag(torch.tensor([-2.0, 3.0, 4.0, 1.0])))
    assert v.center.tolist() == [-2, 6, 0] and v.center.dtype == torch.float64
    assert v.spacing.tolist() == [2, 3, 4] and v.shape == (3, 5, 1)
    torch.testing.assert_close(
        volume().spacing,
        torch.tensor([0.5, math.sqrt(0.38), math.sqrt(4.09)]).double(),
        rtol=1e-6,
        atol=0,
    )


@pytest.mark.parametrize("margin", [0, 1, 50])
def test_crop_keeps_every_filled_voxel_where_it_is(margin):
    mu = torch.zeros(9, 8, 7, dtype=torch.float64)
    mu[3:6, 2:4, 5] = volume().mu[:3, :2, 0] + 0.1
    whole = Volume(mu, torch.tensor(SHEARED).double())
    cut = whole.crop_to_support(margin)
    assert cut.shape == {0: (3, 2, 1), 1: (5, 4, 3), 50: (9, 8, 7)}[margin]
    torch.testing.assert_close(moment(cut), moment(whole), rtol=1e-12, atol=1e-12)
    assert torch.equal(cut.center, whole.center)
    at = cut.mu.nonzero()[0].tolist()
    torch.testing.assert_close(world(cut, at), world(whole, whole.mu.nonzero()[0].tolist()))


@pytest.mark.parametrize("factor", [1, 2, (1, 2, 3), (4, 5, 6), 7])
def test_coarsen_keeps_mass_and_where_it_lies(factor):
    fine = volume()
    coarse = fine.coarsen(factor)
    f = (factor,) * 3 if isinstance(factor, int) else factor
    assert coarse.shape == tuple(-(-n // k) for n, k in zip(fine.shape, f, strict=True))
    assert torch.equal(coarse.center, fine.center)
    # A block's mass sits in its middle afterwards, so only the total is kept exactly.
    torch.testing.assert_close(moment(coarse)[0], moment(fine)[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(world(coarse, [-0.5] * 3), world(fine, [-0.5] * 3))


def test_coarsen_by_hand():
    v = Volume(torch.tensor([1.0, 3.0, 5.0]).reshape(3, 1, 1), torch.eye(4))
    coarse = v.coarsen((2, 1, 1))
    assert coarse.mu.flatten().tolist() == [2.0, 2.5]
    assert coarse.affine[:3, 3].tolist() == [0.5, 0, 0] and coarse.spacing.tolist() == [2, 1, 1]


def test_gradients_flow_through_crop_and_coarsen():
    mu = torch.rand(4, 4, 4, dtype=torch.float64, requires_grad=True)
    v = Volume(mu, torch.eye(4)).crop_to_support().coarsen(2)
    v.mu.sum().backward()
    torch.testing.assert_close(mu.grad, torch.full_like(mu, 1 / 8))


def test_with_mu_and_to_keep_the_place():
    v = volume().crop_to_support()
    other = v.with_mu(v.mu * 2).to(torch.float32)
    assert other.mu.dtype == torch.float32 and other.affine.dtype == torch.float64
    assert torch.equal(other.affine, v.affine) and torch.equal(other.center, v.center)


GOOD = torch.ones(2, 2, 2)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Volume(GOOD[..., :0], torch.eye(4)), ShapeError, "none empty"),
        (lambda: Volume(-GOOD, torch.eye(4)), VolumeError, "from_hu"),
        (lambda: Volume(GOOD * math.nan, torch.eye(4)), VolumeError, "NaN"),
        (lambda: Volume(GOOD * math.inf, torch.eye(4)), VolumeError, "infinite"),
        (lambda: Volume(GOOD, torch.zeros(4, 4)), GeometryError, "singular"),
        (lambda: Volume(GOOD, torch.eye(4) * 2), GeometryError, "last row"),
        (lambda: Volume(GOOD, torch.eye(4) * math.nan), GeometryError, "finite"),
        (lambda: Volume(GOOD, torch.eye(4), torch.full((3,), math.nan)), GeometryError, "center"),
        (lambda: Volume.from_hu(np.zeros((2, 2)), np.eye(4)), ShapeError, r"\(2, 2\)"),
        (lambda: Volume.from_hu(np.full((2, 2, 2), np.nan), np.eye(4)), VolumeError, "NaN"),
        (lambda: Volume.from_hu(GOOD, np.eye(4), mu_water=0.0), ConfigError, "mu_water"),
        (lambda: Volume(GOOD, torch.eye(4)).coarsen(0), ConfigError, "factor"),
        (lambda: Volume(GOOD, torch.eye(4)).crop_to_support(-1), ConfigError, "margin"),
        (lambda: Volume(GOOD * 0, torch.eye(4)).crop_to_support(), VolumeError, "empty"),
    ],
)
def test_refusals(make, error, says):
    with pytest.raises(error, match=says) as caught:
        make()
    assert isinstance(caught.value, (DrrlibError, ValueError))


def test_repr_is_one_line():
    assert repr(Volume(torch.ones(2, 3, 4), torch.eye(4, dtype=torch.float64))) == (
        "Volume(2 x 3 x 4 voxels of 1 x 1 x 1 mm, mu up to 1 / mm)"
    )


def test_arrays_become_float32_for_the_kernels():
    hu = np.zeros((2, 2, 2))
    assert Volume.from_hu(hu, np.eye(4)).mu.dtype == torch.float32
    assert Volume.from_hu(torch.from_numpy(hu), np.eye(4)).mu.dtype == torch.float64
