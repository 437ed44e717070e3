"""Arguments of public doors that are no name, number, size, flag or camera: errors of ours."""

import numpy as np
import pytest
import torch

from drrlib import geometry, io
from drrlib.errors import DrrlibError
from drrlib.geometry import CArm
from drrlib.registration import (
    Registration,
    RegistrationResult,
    Track,
    register,
    register_bodies,
    track,
)
from drrlib.view import View
from drrlib.volume import Volume

MANY = np.ones((2, 3))
CARM = CArm(1000.0, 500.0, 6, 6, 4.0, 4.0)
VOLUME = Volume(torch.rand(4, 5, 6), torch.eye(4))
POSE = CARM.pose(torch.zeros(6), VOLUME.center)
MATRIX = CARM.projection_matrix(POSE)
VIEW = View(torch.rand(6, 6), CARM, start=torch.zeros(6))
XRAY = dict(sdd=1.0, sod=1.0, delx=1.0, dely=1.0)
CALLS = {
    "tfm name": lambda: geometry.write_tfm(3, POSE),
    "matrix name": lambda: geometry.write_matrix([], MATRIX),
    "series name": lambda: io.write_ct_series(None, np.zeros((3, 3, 3)), np.eye(4)),
    "series values": lambda: io.write_ct_series("a", "b", np.eye(4)),
    "xray camera": lambda: io.write_xray("a.dcm", torch.ones(6, 6), MANY),
    "drr camera": lambda: io.write_drr("a.npy", torch.ones(6, 6), 3, torch.zeros(6), [0, 0, 0]),
    "read names": lambda: [f(b"a") for f in (io.read_nifti, io.read_mayacam)],
    "localizer name": lambda: io.read_localizer(MANY),
    "result name": lambda: RegistrationResult.load({}),
    "zero byte": lambda: io.read_xray("a\0b"),
    "frame": lambda: io.read_xray(__file__, frame=MANY),
    "mask": lambda: io.read_xray(__file__, mask=MANY),
    "values": lambda: io.read_xray(__file__, values=MANY),
    "mesh number": lambda: io.read_mesh("a.stl", MANY),
    "mesh lines": lambda: io.read_mesh("a.stl", 1.0, lines=1.5),
    "stack hu": lambda: io.read_tiff_stack("a.tif", (1, 1, 1), hu=3),
    "stack spacing": lambda: io.read_tiff_stack("a.tif", torch.ones(2, 2), mu_per_value=1.0),
    "size": lambda: io.calibration_from_matrix(MATRIX, 6),
    "ahead": lambda: io.calibration_from_matrix(MATRIX, (6, 6), ahead=MANY),
    "centers": lambda: io.calibration_from_matrix(MATRIX, (6, 6), pixel_centers=MANY),
    "cameras": lambda: io.with_common_isocenter(torch.ones(3)),
    "degree": lambda: io.Distortion.fit(MANY, MANY, (6, 6), [2]),
    "opencv": lambda: geometry.to_opencv(3, POSE),
    "diffdrr": lambda: geometry.to_diffdrr(CARM, POSE, [1.0, 2.0]),
    "degrees": lambda: geometry.eta(0.0, 0.0, 0.0, degrees=MANY),
    "poses": lambda: geometry.mtre(POSE.expand(2, 4, 4), POSE.expand(3, 4, 4), torch.ones(1, 3)),
    "sdd": lambda: geometry.mpd(POSE, POSE, torch.ones(1, 3), MANY),
    "center": lambda: CARM.pose(torch.zeros(6), torch.zeros(2, 3)),
    "huge": lambda: CArm(10**400, 500.0, 6, 6, 4.0, 4.0),
    "volume": lambda: Registration(3, CARM),
    "camera": lambda: Registration(VOLUME, "a"),
    "only": lambda: register(VIEW, VOLUME, only=MANY),
    "preset": lambda: register(VIEW, VOLUME, preset=MANY),
    "search": lambda: register(VIEW, VOLUME, search=3),
    "free": lambda: register(VIEW, VOLUME, free=3, preset="fast"),
    "bodies": lambda: register_bodies(VIEW, 5, torch.zeros(1, 6)),
    "reach": lambda: track([VIEW], VOLUME, reach="ab"),
    "smooth": lambda: track([VIEW], VOLUME, smooth="a"),
    "fine": lambda: track([VIEW], VOLUME, fine=3),
    "track's preset": lambda: track([VIEW], VOLUME, preset=MANY),
    "track's search": lambda: track([VIEW], VOLUME, search=3),
    "track's name": lambda: Track.load(3),
    "labels' name": lambda: io.read_labels(3, VOLUME),
    "mask of another kind": lambda: VOLUME.structure("a"),
    "what takes its place": lambda: VOLUME.without(VOLUME.mu > 0, "a"),
    "blocks": lambda: VOLUME.coarsen_to(1e18),
}


@pytest.mark.parametrize("what", CALLS)
def test_wrong_arguments(what, monkeypatch, tmp_path):
    import jaxtyping

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of tests
    with pytest.raises(DrrlibError, match=r"\w{4}"):
        CALLS[what]()
