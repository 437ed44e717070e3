"""The renderer as users call it: gradients of every geometric parameter, the Jacobian."""

import inspect
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from drrlib.drr import DRR
from drrlib.errors import BackendError, ConfigError, GeometryError, ShapeError
from drrlib.geometry import CArm, ScanProjection
from drrlib.projectors import METHODS
from drrlib.registration import register
from drrlib.view import View
from drrlib.volume import Volume
from helpers import KERNELS, affine, outside_band, placed, random_volume, worst

ETA = torch.tensor([[0.21, 0.37, -0.12, 1.0, -2.0, 0.7]], dtype=torch.float64)


def _volume(dtype=torch.float32, size=(12, 14, 10)):
    return Volume(random_volume(size, dtype=dtype), affine((2.0, 1.5, 2.5), size, (5.0, 1.0, -3.0)))


def _carm(n=8):
    return CArm(200.0, 110.0, n, n, 60.0 / n, 64.0 / n, 1.0, -2.0)


@pytest.mark.parametrize("method", METHODS)
def test_gradcheck_of_every_geometric_parameter(method):
    volume = _volume(torch.float64, (5, 4, 6))

    def image(eta, sdd, sod, delx, dely, x0, y0):
        carm = CArm(sdd, sod, 3, 2, delx, dely, x0, y0)
        drr = DRR(volume, carm, method=method, backend="reference")
        return drr(drr.pose(eta))

    lengths = [
        torch.tensor(x, dtype=torch.float64, requires_grad=True)
        for x in (200.0, 110.0, 4.1, 3.3, 1.3, -2.1)
    ]
    eta = ETA.clone().requires_grad_()
    assert torch.autograd.gradcheck(image, (eta, *lengths), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", [*KERNELS, "reference"])
def test_jacobian_is_the_gradient_of_every_pixel(backend, method):
    volume = _volume()
    volume = volume.with_mu(placed(volume.mu, backend))
    drr = DRR(volume, _carm(4), method=method, backend=backend)
    eta = torch.cat([ETA, ETA + 0.05])
    image, jacobian = drr.jacobian(eta)
    assert jacobian.shape == (2, 1, 4, 4, 6)
    leaf = eta.clone().requires_grad_()
    rendered = drr(drr.pose(leaf))
    assert worst(image, rendered.detach()) < 1e-6
    for flat in range(16):
        pixel = rendered[:, 0].flatten(1)[:, flat].sum()
        (row,) = torch.autograd.grad(pixel, leaf, retain_graph=True)
        assert torch.allclose(
            jacobian[:, 0].flatten(1, 2)[:, flat].double().cpu(), row, rtol=2e-4, atol=2e-5
        )


@pytest.mark.parametrize("backend", [*KERNELS, "reference"])
def test_other_attenuation_for_each_pose(backend):
    volume = _volume()
    volume = volume.with_mu(placed(volume.mu, backend))
    drr = DRR(volume, _carm(4), backend=backend)
    eta = torch.cat([ETA, ETA + 0.05])
    stack = torch.stack([volume.mu, volume.mu.flip(0)])
    many = drr.with_mu(stack)
    image, jacobian = many.jacobian(eta)
    assert torch.equal(many(drr.pose(eta)), image)
    for k in range(2):
        one = DRR(volume.with_mu(stack[k]), _carm(4), backend=backend)
        for ours, alone in zip((image, jacobian), one.jacobian(eta[k : k + 1]), strict=True):
            assert worst(ours[k : k + 1].cpu(), alone.cpu()) < 1e-5
    network = stack.mean(dim=0).requires_grad_()  # a single volume is for all poses
    drr.with_mu(network)(drr.pose(eta)).sum().backward()
    assert network.grad.abs().sum() > 0
    with pytest.raises(ShapeError, match="2 volumes for 3 poses"):
        many.jacobian(torch.cat([eta, ETA]))
    with pytest.raises(ShapeError, match=r"\(12, 14, 10\) voxels"):
        drr.with_mu(stack[..., 1:])


def test_frozen_renderer_gives_the_same():
    drr = DRR(_volume(), _carm())
    assert torch.equal(drr.freeze()(drr.pose(ETA)), drr(drr.pose(ETA)))


# By itself: torch.compile cannot trace the wrappers that check shapes in tests.
WHOLE = """
import torch
from drrlib.geometry import CArm, ScanProjection
from drrlib.drr import DRR
from drrlib.volume import Volume
from helpers import affine, interpreted, placed, random_volume

volume = Volume(placed(random_volume((8, 9, 7)), "cuda"), affine(size=(8, 9, 7)))
drr = DRR(volume, CArm(200.0, 110.0, 5, 6, 3.0, 3.0), backend="cuda")
many = drr.with_mu(torch.stack([volume.mu, volume.mu.flip(0)]))
eta = torch.tensor([[0.21, 0.37, -0.12, 1.0, -2.0, 0.7], [0.0, 0.2, 0.1, 0.0, 1.0, 0.0]]).double()
for render in (drr, many):
    torch._dynamo.reset()
    engine = "aot_eager" if interpreted() else "inductor"
    whole = torch.compile(render.freeze(), backend=engine, fullgraph=True)
    pose = render.pose(eta).requires_grad_()
    images = whole(pose), render(pose)
    slopes = [torch.autograd.grad(x.square().sum(), pose)[0] for x in images]
    assert images[1].sum() > 0
    torch.testing.assert_close(*images, rtol=1e-5, atol=0)
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-9)
print("agrees")
"""


@pytest.mark.gpu(interpreter=True)
def test_frozen_renderer_is_compiled_in_one_piece():
    run = subprocess.run(
        [sys.executable, "-c", WHOLE], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    assert run.stdout.strip() == "agrees", run.stderr[-3000:]


def test_backend_for_other_attenuation():
    drr = DRR(_volume(), _carm(), backend="cpu")
    with pytest.raises(BackendError, match="float32"):
        drr.with_mu(drr.volume.mu.double())
    drr = DRR(_volume(), _carm())
    assert drr.with_mu(drr.volume.mu.double()).backend == "reference"


def test_jacobian_of_other_parameters():
    """Any parameters of the pose will do, such as twists of the camera."""
    from drrlib.geometry import se3

    drr = DRR(_volume(torch.float64), _carm(), method="joseph", backend="reference")
    base = drr.pose(ETA)

    def pose_of(xi):
        return base @ se3.exp(xi)

    zero = torch.zeros(1, 6, dtype=torch.float64)
    slopes = torch.autograd.functional.jacobian(lambda x: pose_of(x)[0], zero)[:, :, 0]
    image, jacobian = drr.linearize(base, slopes.permute(2, 0, 1)[None])
    step = torch.zeros(1, 6, dtype=torch.float64)
    step[0, 3] = 1e-4
    finite = (drr(pose_of(step)) - drr(pose_of(-step))) / 2e-4
    assert outside_band(jacobian[..., 3], finite, 1e-6) <= 1 / 64
    assert worst(image, drr(base)) < 1e-12


def test_gradient_matches_finite_differences_for_joseph():
    drr = DRR(_volume(torch.float64), _carm(), method="joseph", backend="reference")
    _, jacobian = drr.jacobian(ETA)
    for k, h in enumerate([1e-5] * 3 + [1e-4] * 3):
        step = torch.zeros(1, 6, dtype=torch.float64)
        step[0, k] = h
        finite = (drr(drr.pose(ETA + step)) - drr(drr.pose(ETA - step))) / (2 * h)
        # One pixel of 64 may sit on a kink of the interpolation.
        assert outside_band(jacobian[..., k], finite, 1e-6) <= 1 / 64


def test_volume_gradient_recovers_a_scale():
    volume = _volume()
    mu = volume.mu.clone().requires_grad_()
    drr = DRR(volume.with_mu(mu), _carm())
    image = drr(drr.pose(ETA))
    image.sum().backward()
    # The image is linear in mu: <mu, gradient> = sum of the image.
    assert torch.isclose((mu.detach() * mu.grad).sum(), image.detach().sum(), rtol=1e-5)


def test_magnification_by_hand():
    """A 2 mm cube in the isocentre, source 100 mm away, detector 200 mm: shadow 2 x 2 pixels of
    2 mm, and 2 mm of attenuation on the central rays, lengthened by the slant."""
    volume = Volume(torch.full((1, 1, 1), 0.05), affine((2.0, 2.0, 2.0), (1, 1, 1)))
    drr = DRR(volume, CArm(200.0, 100.0, 6, 6, 2.0, 2.0))
    image = drr(drr.pose(torch.zeros(1, 6)))[0, 0]
    slant = np.sqrt(1 + 2 * (1 / 200) ** 2)
    expected = torch.zeros(6, 6)
    expected[2:4, 2:4] = 0.05 * 2 * slant
    assert torch.allclose(image, expected, atol=1e-7)


def test_options_are_checked():
    with pytest.raises(ConfigError, match="siddon, joseph"):
        DRR(_volume(), _carm(), method="trilinear")
    with pytest.raises(BackendError, match="float32"):
        DRR(_volume(torch.float64), _carm(), backend="cpu")
    assert DRR(_volume(), _carm()).backend == "cpu"


def test_another_carm_shares_the_prepared_volume():
    fine = DRR(_volume(), _carm(8))
    coarse = fine.with_carm(fine.carm.downsample(2))
    assert coarse.grid is fine.grid and fine.carm.height == 8
    alone = DRR(_volume(), _carm(8).downsample(2))
    assert torch.equal(coarse(coarse.pose(ETA)), alone(alone.pose(ETA)))


def test_leading_axes_and_lists():
    drr = DRR(_volume(), _carm())
    eta = torch.cat([ETA, ETA + 0.05, ETA - 0.1, ETA + 0.2, ETA, ETA]).reshape(2, 3, 6)
    images, jacobian = drr.jacobian(eta)
    assert images.shape == (2, 3, 1, 8, 8) and jacobian.shape == (2, 3, 1, 8, 8, 6)
    assert torch.equal(drr.at(eta), images)
    for i in range(2):
        assert torch.equal(drr.at(eta[i]), images[i])
        one, slopes = drr.jacobian(eta[i, 1])
        assert one.shape == (1, 8, 8) and slopes.shape == (1, 8, 8, 6)
        assert torch.equal(one, images[i, 1]) and torch.equal(slopes, jacobian[i, 1])
    pose = drr.pose(ETA[0].tolist())
    assert torch.equal(drr(pose), images[0, 0]) and torch.equal(drr(pose.numpy()), images[0, 0])
    assert torch.equal(drr(pose.tolist()), images[0, 0])


def test_march_pulls_gradients_back_to_the_frames():
    """Against autograd, for a C-arm and for a scan whose rows have sources of their own."""
    generator = torch.Generator().manual_seed(3)
    scan = ScanProjection(200.0, 110.0, 8, 8, 4.0, 4.0)
    for carm in (_carm(), scan):
        for dtype, limit in ((torch.float32, 1e-5), (torch.float64, 1e-9)):
            backend = "cpu" if dtype == torch.float32 else "reference"
            drr = DRR(_volume(dtype), carm, method="joseph", backend=backend)
            grad = torch.rand(1, 1, 8, 8, generator=generator, dtype=torch.float64)
            frames = drr.frames(drr.pose(ETA))[0]
            march = drr.march(frames)
            ours = torch.einsum(
                "nkq,kq->n", drr.frames(carm.pose_slopes(ETA), False)[0][0], march.pull(grad)[0]
            )
            leaf = ETA.clone().requires_grad_()
            (drr.at(leaf) * grad).sum().backward()
            assert worst(ours, leaf.grad[0]) < limit
            assert torch.equal(march.image, drr.at(ETA))


def test_a_float64_volume_says_what_it_costs():
    with pytest.warns(UserWarning, match="some fifty times as slowly"):
        assert DRR(_volume(torch.float64), _carm()).backend == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DRR(_volume(torch.float64), _carm(), backend="reference")
        DRR(_volume(), _carm())


def test_a_tensor_is_no_volume():
    with pytest.raises(ConfigError, match=r"volume is a Tensor; expected a Volume"):
        inspect.unwrap(DRR.__init__)(DRR.__new__(DRR), _volume().mu, _carm())


def test_other_lengths_are_those_of_a_changed_carm_and_takes_gradients():
    drr = DRR(_volume(), _carm())
    changed = DRR(drr.volume, CArm(210.0, 110.0, 8, 8, 7.0, 8.0, 1.0, -2.0))
    assert torch.equal(drr.at(ETA, sdd=210.0, delx=7.0), changed(changed.pose(ETA)))
    # sod moves the source that the pose places, so the pose must be that of the changed C-arm.
    changed = DRR(drr.volume, CArm(200.0, 120.0, 8, 8, 7.5, 8.0, 1.0, -2.0))
    assert torch.equal(drr.at(ETA, sod=120.0), changed(changed.pose(ETA)))
    sdd = torch.tensor(200.0, dtype=torch.float64, requires_grad=True)
    drr.at(ETA, sdd=sdd).sum().backward()
    assert sdd.grad != 0 and drr.carm.sdd == 200.0
    with pytest.raises(ConfigError, match=r"no sid; it has sdd"):
        drr.at(ETA, sid=1000.0)


def test_a_matrix_of_the_other_sign_is_named():
    """Its camera looks the other way: the image is black, and a search would never end well."""
    volume, carm = _volume(), _carm()
    drr, pose = DRR(volume, carm), carm.pose(ETA[0], volume.center)
    matrix = -carm.projection_matrix(pose)
    device, away = CArm.from_projection_matrix(matrix, 8, 8, carm.delx, sod=110.0)
    with pytest.warns(UserWarning, match="behind the source.*other sign"):
        assert not bool(drr.with_carm(device)(away).any())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = drr(torch.stack([away, pose]))  # one of two may look away
        drr(pose * torch.nan)
    views = [View(image[1, 0], carm, pose=x) for x in (pose, away)]
    for given, said in ((views[1], "volume's centre lies behind"), (views, "view 1.*behind")):
        with pytest.raises(GeometryError, match=said):
            register(given, volume)


def test_vmap_over_poses_says_that_poses_are_batched_already():
    drr = DRR(_volume(), _carm(4), backend="cpu")
    poses = drr.pose(torch.cat([ETA, ETA]))
    with pytest.raises(BackendError, match=r"torch\.func"):
        torch.func.vmap(drr)(poses)
