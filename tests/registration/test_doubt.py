"""Doubt: nothing at a perfect image, more than noise alone, and aware of what moves a part."""

import pytest
import torch

from drrlib.drr import DRR
from drrlib.geometry import CArm, ScanProjection
from drrlib.lab.phantoms import skull
from drrlib.optimize import Objective, Sight, covariance
from drrlib.registration.doubt import doubt
from drrlib.similarity import Model
from drrlib.volume import Volume

CARM = CArm.square(1020.0, 700.0, 80, 380.0)
ETA = torch.tensor([[0.05, 0.1, -0.1, 3.0, -4.0, 5.0]], dtype=torch.float64)


@pytest.fixture(scope="module")
def drr():
    phantom = skull(4.0)
    return DRR(Volume.from_hu(phantom.hu, phantom.affine), CARM, method="joseph")


def _sights(drr, image):
    sights = [Sight(drr, image, grey=Model(window=2.5))]
    return sights, Objective(sights).linearize(ETA)


def _size(matrix):
    assert torch.allclose(matrix, matrix.mT, rtol=1e-6, atol=1e-12)
    assert float(torch.linalg.eigvalsh(matrix).min()) > -1e-9
    return float(matrix[0].diagonal()[3:].sum().sqrt())


def test_a_perfect_image_leaves_what_lengths_leave(drr):
    """0.21 mm of 700 mm along the view, and nothing where a second view holds the depth."""
    sights, linear = _sights(drr, drr.at(ETA))
    found = doubt(sights, linear, ETA)
    assert _size(found) == pytest.approx(0.21, rel=0.01)
    view = drr.pose(ETA)[0, :3, 2]
    assert float(view @ found[0, 3:, 3:] @ view) == pytest.approx(0.21**2, rel=0.01)
    assert _size(doubt(2 * sights, 2 * linear, ETA)) < 1e-3


def test_a_localizer_s_lengths_are_known_to_one_in_a_hundred(drr):
    scan = DRR(drr.volume, ScanProjection(1040.0, 570.0, 60, 52, 4.0, 4.0), method="joseph")
    sights, linear = _sights(scan, scan.at(ETA))
    assert _size(doubt(sights, linear, ETA)) == pytest.approx(5.7, rel=0.01)


def test_it_is_more_than_noise_and_sees_what_moves_a_part(drr):
    image = drr.at(ETA)
    generator = torch.Generator().manual_seed(0)
    noise = 0.05 * torch.randn(image.shape, generator=generator)
    sights, linear = _sights(drr, image + noise)
    plain = _size(doubt(sights, linear, ETA))
    assert plain > _size(covariance(sights, linear))
    moved = image.clone()  # some fields of the checkerboard, a pixel to the right
    fields = torch.arange(80) // 8 % 2 == 0
    where = fields[:, None] & fields
    moved[..., where] = image.roll(1, dims=-1)[..., where]
    assert _size(doubt(*_sights(drr, moved + noise), ETA)) > 2 * plain
