"""CT series rendered: through DICOM and back, and a tilted series in its true place."""

import numpy as np
import torch

from drrlib.drr import DRR
from drrlib.geometry import CArm
from drrlib.io import read_ct_series, read_volume, write_ct_series
from drrlib.lab.phantoms import skull
from drrlib.volume import Volume
from helpers import worst


def test_phantom_through_dicom_gives_the_same_drr(tmp_path):
    phantom = skull(6.0)
    write_ct_series(tmp_path / "ct", phantom.hu, phantom.affine)
    carm = CArm(1020.0, 510.0, 24, 24, 16.0, 16.0)
    images = []
    for volume in (
        Volume.from_hu(phantom.hu, phantom.affine),
        read_volume(tmp_path / "ct"),
    ):
        drr = DRR(volume, carm)
        images.append(drr(drr.pose(torch.tensor([[0.1, 0.2, 0.0, 3.0, 2.0, 1.0]]))))
    assert worst(images[1], images[0]) < 2e-3  # rounded to whole HU


def _tilted_and_upright(real_data):
    folder = real_data / "head_phantom_philips"
    tilted = read_ct_series(folder / "dicom_tilt_minus18p5")
    return tilted, read_volume(folder / "ct_0deg_1mm.nii.gz")


def test_tilted_drr_coincides_with_the_upright_one(real_data):
    """Rendered in its true geometry, the tilted series shows the same head in the same place."""
    tilted, upright = _tilted_and_upright(real_data)
    volume = Volume.from_hu(tilted.hu, tilted.affine, air_hu=-900.0)
    upright = Volume(torch.where(upright.mu < 0.1 * 0.0206, 0.0, upright.mu), upright.affine)
    carm = CArm(1020.0, 510.0, 100, 100, 3.0, 3.0)
    for phi in (0.0, np.pi / 2):
        pose = carm.pose(torch.tensor([[0.0, phi, 0.0, 0.0, 0.0, 0.0]]), upright.center)
        a, b = (DRR(v, carm)(pose)[0, 0] for v in (upright, volume))
        # Rows that both scans cover: the middle of the head.
        a, b = a[35:65].double(), b[35:65].double()
        scores = {}
        for dx in range(-3, 4):
            for dy in range(-3, 4):
                moved = b.roll((dy, dx), (0, 1))[4:-4, 4:-4].flatten()
                still = a[4:-4, 4:-4].flatten()
                scores[dx, dy] = float(torch.corrcoef(torch.stack([still, moved]))[0, 1])
        assert max(scores, key=scores.get) == (0, 0)  # within half a pixel: 0.75 mm at the head
        assert scores[0, 0] > 0.98
