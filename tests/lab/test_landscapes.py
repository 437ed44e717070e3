"""Landscapes: radii and curvatures of functions that are known, Hessians that agree."""

import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from drrlib.drr import DRR
from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry import CArm
from drrlib.lab.landscapes import (
    PARAMETERS,
    along,
    convex_basin,
    gauss_newton_hessian,
    losses_at,
    lowest_curvature,
    monotone_basin,
    offsets,
    plane,
    rotation_axes,
    width_at,
)
from drrlib.lab.plots import landscapes as draw
from drrlib.similarity import LOSSES
from drrlib.volume import Volume

PAPER_LOSSES = ("zncc", "ncc", "l2")  # those whose Hessian the module knows
ETA = torch.tensor([0.07, 0.11, -0.05, 1.5, -2.0, 1.0], dtype=torch.float64)


@pytest.fixture(scope="module")
def scene():
    """A smooth lopsided ball of 24^3 voxels, 2 mm, seen by Joseph on 20 x 20 pixels."""
    x = 2.0 * (torch.arange(24, dtype=torch.float64) - 11.5)
    x, y, z = x[:, None, None], x[None, :, None], x[None, None, :]
    mu = 0.02 * torch.exp(-((x / 9) ** 2 + (y / 13) ** 2 + (z / 7) ** 2))
    mu += 0.03 * torch.exp(-(((x - 6) / 5) ** 2 + ((y + 4) / 4) ** 2 + ((z - 3) / 6) ** 2))
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    affine[:3, 3] = -23.0
    carm = CArm(400.0, 200.0, 20, 20, 5.0, 5.0)
    return DRR(Volume(mu, affine), carm, method="joseph", backend="reference")


def test_radii_of_a_cosine():
    """1 - cos is convex to 90 degrees and rises to 180; grid step 6 degrees."""
    at = offsets(240.0, 81)
    loss = 1 - torch.cos(torch.deg2rad(at))
    convex, monotone = convex_basin(at, loss), monotone_basin(at, loss)
    # At +-90 the second difference is 0 up to rounding: the last sure point is 84.
    assert convex.radius in (84.0, 90.0) and convex.above in (84.0, 90.0) and not convex.open
    assert monotone == (180.0, 180.0, False)
    assert width_at(at, loss, 1.0) == pytest.approx(180.0)
    assert width_at(at, loss, 2.5) == math.inf


def test_sides_differ_and_the_shorter_counts():
    at = offsets(10.0, 21)
    # Second differences (x^2, then a kink downwards): convex to -10 and up to +3.
    loss = torch.where(at > 4, 16 + 2 * (at - 4), at.square())
    assert convex_basin(at, loss) == (9.0, 3.0, True)
    assert convex_basin(at, loss).radius == 3.0
    loss = torch.where(at < -6, 72 - at.square(), at.square())
    assert monotone_basin(at, loss) == (6.0, 10.0, True)
    # A bump at the optimum itself leaves nothing.
    assert convex_basin(at, -at.square()) == (0.0, 0.0, False)
    assert monotone_basin(at, -at.square()) == (0.0, 0.0, False)
    assert convex_basin(at, at.square()) == (9.0, 9.0, True)


def test_width_is_interpolated():
    at = offsets(4.0, 9)
    assert width_at(at, 2 * at.abs(), 3.0) == pytest.approx(3.0)
    assert width_at(at, torch.where(at > 0, 4 * at, -at), 2.0) == pytest.approx(0.5 + 2.0)
    assert width_at(at, at.abs() + 1, 0.5) == 0.0


def test_lowest_curvature_of_a_quadratic_in_other_units():
    """3 u^2 + 4 u v + 2 v^2: Hessian [[6, 4], [4, 4]], eigenvalues 5 -+ sqrt(17)."""
    u, v = offsets(1.0, 5), offsets(0.6, 7)
    loss = 3 * u[:, None] ** 2 + 4 * u[:, None] * v + 2 * v**2
    seen = lowest_curvature(loss, (float(u.diff()[0]), float(v.diff()[0])))
    assert seen.shape == (3, 5)
    assert torch.allclose(seen, torch.full((3, 5), 5 - math.sqrt(17)).double())
    wide = lowest_curvature(loss, (float(u.diff()[0]), float(v.diff()[0])), stride=2)
    assert wide.shape == (1, 3) and torch.allclose(wide, seen[1:2, 1:4])
    saddle = u[:, None] ** 2 - v**2
    assert (lowest_curvature(saddle, (0.5, 0.2)) < 0).all()


def difference_hessian(loss_of, eta, step):
    """Hessian by central differences of the given step [rad, mm], against which ours is judged."""
    jumps = torch.diag(step.double())
    i, j = torch.triu_indices(6, 6, offset=1)
    both = [s * jumps[i] + t * jumps[j] for s in (1, -1) for t in (1, -1)]
    value = loss_of(eta + torch.cat([jumps.new_zeros(1, 6), jumps, -jumps, *both]))
    zero, up, down, *corner = value.split([1, 6, 6] + 4 * [len(i)])
    hessian = torch.diag((up + down - 2 * zero) / step.double() ** 2)
    mixed = (corner[0] - corner[1] - corner[2] + corner[3]) / (4 * step[i] * step[j]).double()
    hessian[i, j] = hessian[j, i] = mixed
    return hessian


def test_difference_hessian_of_a_quadratic():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    a = a @ a.T
    step = torch.tensor([0.01, 0.02, 0.03, 1.0, 2.0, 3.0])

    def loss_of(eta):
        return 0.5 * torch.einsum("ni,ij,nj->n", eta - 0.3 * ETA, a, eta - 0.3 * ETA)

    assert torch.allclose(difference_hessian(loss_of, ETA, step), a, atol=1e-8)


@pytest.mark.parametrize("loss", PAPER_LOSSES)
def test_gauss_newton_agrees_with_differences(scene, loss):
    fixed = scene(scene.pose(ETA[None]))
    step = torch.tensor([1e-4] * 3 + [1e-2] * 3, dtype=torch.float64)
    seen = difference_hessian(lambda eta: losses_at(scene, fixed, eta, [loss])[:, 0], ETA, step)
    expected = gauss_newton_hessian(scene, ETA, loss)
    unit = expected.diagonal().sqrt()
    assert ((seen - expected) / (unit[:, None] * unit)).abs().max() < 0.02
    assert torch.linalg.eigvalsh(expected)[0] > 0


def test_losses_do_not_depend_on_the_batch(scene):
    fixed = scene(scene.pose(ETA[None]))
    eta = plane(ETA, ("phi", "bz"), offsets(0.2, 3), offsets(8.0, 5))
    assert eta.shape == (3, 5, 6)
    whole = losses_at(scene, fixed, eta)
    assert whole.shape == (3, 5, 3) and whole.dtype == torch.float64
    assert torch.equal(whole, losses_at(scene, fixed, eta, batch=2))
    assert (whole[1, 2] < 1e-9).all() and (whole.reshape(15, 3)[0] > 1e-3).all()
    moved = scene(scene.pose(eta[2, 4][None]))
    for k, loss in enumerate(PAPER_LOSSES):
        assert whole[2, 4, k] == pytest.approx(float(LOSSES[loss](fixed, moving=moved)), rel=1e-6)


def test_poses_vary_in_the_named_parameters_only():
    line = along(ETA, "bz", offsets(6.0, 3))
    assert torch.allclose(line - ETA, torch.tensor([[0] * 5 + [d] for d in (-6, 0, 6)]).double())
    eta = plane(ETA, ("theta", "gamma"), offsets(1.0, 3), offsets(2.0, 5)) - ETA
    assert torch.allclose(eta[0, 4], torch.tensor([-1.0, 0, 2, 0, 0, 0]).double())
    assert (eta[..., [1, 3, 4, 5]] == 0).all()
    slanted = along(ETA, torch.tensor([0.0, 1, -2, 0, 0, 0]).double(), offsets(0.3, 3)) - ETA
    assert torch.allclose(slanted[2], torch.tensor([0, 0.3, -0.6, 0, 0, 0]).double())


def test_rotation_axes_are_those_of_the_c_arm(scene):
    """phi turns about the long axis (LAO: the detector goes to the patient's left), gamma about
    the viewing direction, theta about the line across both; Fig. 3 of the paper."""
    axes = rotation_axes(scene, torch.zeros(6).double())
    expected = torch.tensor([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]]).double()  # theta, phi, gamma
    assert torch.allclose(axes.T, expected, atol=1e-12)
    axes = rotation_axes(scene, ETA)
    assert torch.allclose(axes[:, 1], torch.tensor([0.0, 0, 1]).double(), atol=1e-12)
    assert torch.allclose(axes[:, 2], scene.pose(ETA)[:3, 2], atol=1e-12)
    # A small turn by the three angles is the rotation by the sum of the columns.
    small = 1e-5 * torch.tensor([1.0, -2, 3, 0, 0, 0]).double()
    turn = scene.pose(ETA + small)[:3, :3] @ scene.pose(ETA)[:3, :3].mT
    vector = torch.stack([turn[2, 1], turn[0, 2], turn[1, 0]])
    assert torch.allclose(vector, axes @ small[:3], rtol=1e-3, atol=1e-9)


def test_bad_input_is_refused(scene):
    with pytest.raises(ConfigError, match="odd n"):
        offsets(1.0, 4)
    with pytest.raises(ConfigError, match="'psi'"):
        along(ETA, "psi", offsets(1.0, 3))
    with pytest.raises(ConfigError, match="equal steps"):
        convex_basin(torch.tensor([-1.0, 0.0, 2.0]).double(), torch.zeros(3).double())
    with pytest.raises(ConfigError, match="equal steps"):
        convex_basin(torch.tensor([0.0, 1.0, 2.0]).double(), torch.zeros(3).double())
    with pytest.raises(ShapeError, match="odd n"):
        monotone_basin(torch.linspace(-1, 1, 4).double(), torch.zeros(4).double())
    with pytest.raises(ConfigError, match="batch is 0"):
        losses_at(scene, scene(scene.pose(ETA[None])), ETA[None], batch=0)
    with pytest.raises(ConfigError, match="gradient"):
        gauss_newton_hessian(scene, ETA, "gradient")
    with pytest.raises(ConfigError, match="stride is 2"):
        lowest_curvature(torch.zeros(4, 9).double(), (1.0, 1.0), stride=2)


def _table():
    """A paraboloid 0.1 a^2 + 0.2 b^2 in every plane, and a saddle as another loss."""
    rows = []
    for first, second in draw.PAIRS:
        for a in (-2.0, -1.0, 0.0, 1.0, 2.0):
            for b in (-2.0, -1.0, 0.0, 1.0, 2.0):
                row = dict(first=first, second=second, a=a, b=b)
                rows.append({**row, "zncc": 0.1 * a * a + 0.2 * b * b, "l2": a * a - b * b + 4})
    return pd.DataFrame(rows)


def test_panels_and_surfaces_show_the_table():
    table = _table()
    a, _, grid = draw.plane_of(table, ("phi", "gamma"), "zncc")
    assert a.tolist() == [-2, -1, 0, 1, 2] and grid.shape == (5, 5)
    assert grid[3, 0] == pytest.approx(0.9) and grid[2, 2] == 0
    figure = draw.landscape_panels(table, "zncc", label="loss [-]")
    assert [axis.get_xlabel() for axis in figure.axes[:6]] == [
        "theta [deg]",
        "theta [deg]",
        "phi [deg]",
        "bx [mm]",
        "bx [mm]",
        "by [mm]",
    ]
    surfaces = draw.landscape_surfaces(table, {"zncc": "1 - ZNCC", "l2": "L2"})
    assert len(surfaces.data) == 12
    assert [trace.visible for trace in surfaces.data] == [True] * 6 + [False] * 6
    assert surfaces.data[5].z[0, 3] == pytest.approx(0.9)  # z[b, a]
    shown = surfaces.layout.updatemenus[0].buttons[1].args[0]["visible"]
    assert list(shown) == [False] * 6 + [True] * 6
    with pytest.raises(ConfigError, match="theta and phi"):
        draw.plane_of(table.iloc[1:], ("theta", "phi"), "zncc")
    plt.close("all")


def test_profiles_are_thick_where_convex():
    at = offsets(2.0, 5)
    table = pd.DataFrame({"parameter": "phi", "offset": at, "loss": at.square()})
    basins = pd.DataFrame([dict(parameter="phi", convex_below=1.0, convex_above=2.0)])
    figure, axis = plt.subplots()
    draw.profile_lines(axis, table, basins, {name: "k" for name in PARAMETERS})
    thin, thick = axis.lines[:2]
    assert thin.get_xdata().tolist() == [-2, -1, 0, 1, 2]
    assert thick.get_xdata().tolist() == [-1, 0, 1, 2]
    assert thick.get_linewidth() > thin.get_linewidth()
    plt.close(figure)
