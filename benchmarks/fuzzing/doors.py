"""Public functions, each with arguments that are right."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
import torch

import drrlib
from drrlib import geometry, io, optimize, regions, registration, similarity


class Door(NamedTuple):
    function: object
    places: list
    words: dict

    @property
    def name(self) -> str:
        return getattr(self.function, "__qualname__", type(self.function).__name__)


def _door(function, *places, **words) -> Door:
    return Door(function, list(places), words)


def from_matrix(matrix, height, width, delx, sod, ahead):
    return drrlib.CArm.from_projection_matrix(matrix, height, width, delx, sod=sod, ahead=ahead)


def doors(folder: Path) -> list[Door]:
    """All of them; those that write do so in `folder`, which must exist."""
    torch.manual_seed(0)
    mu, affine = torch.rand(5, 6, 4) * 0.02, torch.diag(torch.tensor([9.0, 9, 9, 1]).double())
    volume, carm = drrlib.Volume(mu, affine), drrlib.CArm(1020.0, 510.0, 6, 6, 9.0, 9.0)
    parts = _volumes(mu, affine, volume) + _cameras(volume, carm, folder) + _render(volume, carm)
    return parts + _compare(volume, carm) + _register(volume, carm) + _files(volume, carm, folder)


def _volumes(mu, affine, volume) -> list[Door]:
    return [
        _door(drrlib.Volume, mu, affine, [0.0, 0, 0]),
        _door(drrlib.Volume.from_hu, mu, affine, mu_water=0.02),
        _door(volume.with_mu, mu),
        _door(volume.crop_to_support, 1),
        _door(volume.structure, volume.mu > 0.01),
        _door(volume.without, volume.mu > 0.01, 0.02),
        _door(volume.coarsen, 2),
        _door(volume.coarsen_to, 20.0),
        _door(drrlib.Grid, mu, affine),
    ]


def _cameras(volume, carm, folder: Path) -> list[Door]:
    zero, center = torch.zeros(6), volume.center
    pose, points = carm.pose(zero, center), torch.rand(8, 3).double() * 40
    scan = drrlib.ScanProjection(1000.0, 500.0, 6, 6, 9.0, 9.0)
    matrix = carm.projection_matrix(pose)
    seen = np.random.default_rng(1).random((30, 2)) * 6
    foreign = geometry.to_diffdrr(carm, pose, center)
    other = carm.pose(torch.full((6,), 0.1), center)
    return [
        _door(drrlib.CArm, 1020.0, 510.0, 6, 6, 9.0, 9.0, 0.0, 0.0, flipped=False),
        _door(drrlib.ScanProjection, 1020.0, 510.0, 6, 6, 9.0, 9.0),
        _door(carm.crop, 1, 1, 3, 3),
        _door(carm.resize, 3, 3),
        _door(carm.downsample, 2),
        _door(carm.pose, zero, center),
        _door(carm.eta, pose, center),
        _door(carm.project, points, pose),
        _door(carm.projection_matrix, pose),
        _door(scan.pose, zero, center),
        _door(scan.eta, pose, center),
        _door(from_matrix, matrix, 6, 6, 9.0, 510.0, center),
        _door(drrlib.eta, 0.0, 0.0, 0.0, [0.0, 0, 0], degrees=True),
        _door(drrlib.mtre, pose, other, points),
        _door(geometry.mrpd, pose, other, points),
        _door(geometry.mpd, pose, other, points, 1020.0),
        _door(geometry.pose_errors, pose, other, center),
        _door(geometry.transform_points, pose, points),
        _door(geometry.inverse, pose),
        _door(geometry.to_degrees, zero),
        _door(geometry.to_radians, zero),
        _door(geometry.to_opencv, carm, pose),
        _door(geometry.to_deepdrr, carm, pose),
        _door(geometry.to_xreg, carm, pose),
        _door(geometry.to_nanodrr, carm, pose),
        _door(geometry.to_diffdrr, carm, pose, center, "AP"),
        _door(geometry.from_diffdrr, foreign.matrix, center, "AP", True),
        _door(geometry.from_nanodrr, geometry.to_nanodrr(carm, pose).rt_inv),
        _door(geometry.write_tfm, folder / "a.tfm", pose),
        _door(geometry.write_matrix, folder / "a.txt", matrix),
        _door(io.calibration_from_matrix, matrix, (6, 6), delx=9.0, sod=510.0, ahead=center),
        _door(io.calibration_from_krt, np.diag([99.0, 99, 1]), np.eye(3), [0, 0, 700.0], (6, 6)),
        _door(io.with_common_isocenter, [io.calibration_from_matrix(matrix, (6, 6), ahead=center)]),
        _door(io.Distortion.fit, seen, seen + 0.1, (6, 6), 2),
    ]


def _render(volume, carm) -> list[Door]:
    drr, zero = drrlib.DRR(volume, carm), torch.zeros(6)
    pose, grid = drr.pose(zero), drrlib.Grid(volume.mu, volume.affine)
    frame = [torch.zeros(1, 3), torch.ones(1, 3), torch.ones(1, 3), torch.ones(1, 3)]
    return [
        _door(drrlib.DRR, volume, carm, method="siddon", backend="auto"),
        _door(drr, pose),
        _door(drr.pose, zero),
        _door(drr.at, zero),
        _door(drr.jacobian, zero),
        _door(drr.with_mu, volume.mu),
        _door(drr.with_carm, carm),
        _door(drr.with_carm(carm).at, zero[None]),
        _door(drrlib.line_integrals, grid, frame[0], frame[1]),
        _door(drrlib.project, grid, *frame, 3, 3),
    ]


def _compare(volume, carm) -> list[Door]:
    image = drrlib.DRR(volume, carm).at(torch.zeros(6))[0]
    ones = torch.ones(6, 6)
    losses = [_door(similarity.get_loss(name), image, image) for name in similarity.LOSSES]
    return [
        *losses,
        _door(similarity.ncc, image, image, ones),
        _door(similarity.zncc, image, image, ones),
        _door(similarity.ncc_loss, image, image, ones),
        _door(similarity.zncc_loss, image, image, ones),
        _door(similarity.l2_loss, image, image, ones),
        _door(similarity.get_loss, "zncc"),
        _door(optimize.get_optimizer, "adam"),
        _door(regions.circle, carm, (3.0, 3.0), 20.0),
        _door(regions.polygon, carm, [[0.0, 0.0], [6.0, 0.0], [3.0, 6.0]]),
        _door(regions.rectangle, carm, (0, 3), (0, 3)),
        _door(regions.outside, ones),
        _door(regions.collimated, torch.rand(16, 16)),
    ]


def _register(volume, carm) -> list[Door]:
    drr, zero = drrlib.DRR(volume, carm), torch.zeros(6)
    image, pose = drr.at(zero)[0], drr.pose(zero)
    view = drrlib.View(image, carm, start=zero)
    quick = registration.Preset(2, 1, 2, (1,), ((2,),), finest=None, attempts=1, window=2.5)
    found = drrlib.descend(image, drr, torch.full((2, 6), 0.01))
    points, pixels = torch.rand(8, 3).double() * 40, torch.rand(8, 2).double() * 6
    return [
        _door(drrlib.View, image, carm, torch.ones(6, 6), pose, zero, notes=("a",), lines=True),
        _door(view.crop, 1, 1, 4, 4),
        _door(view.resize, 3, 3),
        _door(registration.arun, points, points),
        _door(registration.pnp, points, pixels, carm),
        _door(registration.register, view, volume, zero, preset="fast", search=None),
        _door(drrlib.register_bodies, view, [volume], zero[None], preset=quick, search=(0.1, 5.0)),
        _door(drrlib.track, [view, image], volume, zero, preset=quick, reach=(0.1, 5.0), fine=True),
        _door(registration.register, view, volume, zero, free=(), only=False, loss="zncc"),
        _door(registration.Registration, volume, carm),
        _door(registration.descend, image, drr, zero, loss="zncc"),
        _door(found.compare, pose),
    ]


def _files(volume, carm, folder: Path) -> list[Door]:
    image, zero = drrlib.DRR(volume, carm).at(torch.zeros(6))[0], torch.zeros(6)
    ds = pydicom.Dataset()
    ds.Rows = ds.Columns = 6
    ds.DistanceSourceToDetector, ds.DistanceSourceToPatient = 1000.0, 600.0
    ds.ImagerPixelSpacing, ds.FieldOfViewRotation = [0.4, 0.3], 0
    ds.PositionerPrimaryAngle, ds.PositionerSecondaryAngle = 10.0, 5.0
    np.save(folder / "a.npy", np.random.default_rng(2).random((3, 6, 6), dtype=np.float32))
    stack, nowhere = folder / "a.npy", folder / "nowhere"
    hu = np.zeros((3, 3, 3), dtype=np.float32)
    return [
        _door(drrlib.read_volume, nowhere, series=1, part="a", resample=1.0),
        _door(drrlib.read_ct_series, nowhere, series=1),
        _door(drrlib.list_series, nowhere),
        _door(drrlib.read_xray, stack, carm=carm, frame=0, values="auto", mask=True),
        _door(drrlib.read_xray, stack, sdd=1000.0, sod=600.0, delx=0.4, dely=0.4, theta=0.0),
        _door(drrlib.read_xray_run, stack, [0, 2], carm=carm, values="auto", mask=True),
        _door(io.read_labels, nowhere, volume),
        _door(drrlib.Track.load, nowhere),
        _door(drrlib.read_tiff_stack, stack, (1.0, 1.0, 2.0), hu=(1.0, -1024.0)),
        _door(drrlib.read_tiff_stack, stack, (1.0, 1.0, 2.0), mu_per_value=0.02, mu_water=0.02),
        _door(drrlib.read_mesh, nowhere, 0.5, voxel=2.0, scale=1.0, lines=2),
        _door(drrlib.read_mayacam, nowhere, delx=1.0, sod=500.0),
        _door(io.read_rtk_geometry, nowhere, (6, 6), (1.0, 1.0), (0.0, 0.0)),
        _door(io.read_localizer, nowhere, sdd=1000.0),
        _door(io.is_localizer, nowhere),
        _door(io.read_nifti, nowhere),
        _door(io.read_metaimage_nrrd, nowhere),
        _door(registration.RegistrationResult.load, nowhere),
        _door(drrlib.carm_from_dicom, ds, sdd=1000.0, sod=600.0, delx=0.4, dely=0.4, frame=0),
        _door(drrlib.start_from_dicom, ds, theta=0.0, phi=0.0, gamma=0.0, b=[0.0, 0, 0], frame=0),
        _door(io.localizer_from_dicom, ds, sdd=1000.0, sod=600.0, tube_angle=0.0),
        _door(io.write_ct_series, folder / "ct", hu, np.eye(4), description="a"),
        _door(io.write_xray, folder / "x.dcm", image, carm, zero, description="a"),
        _door(io.write_drr, folder / "d.png", image, carm, zero, volume.center),
    ]
