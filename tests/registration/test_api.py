"""Registration as a whole: what it finds, how sure it says it is, what it refuses."""

import dataclasses
import inspect
import math

import pytest
import torch

from drrlib.drr import DRR
from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry import CArm
from drrlib.io import read_volume
from drrlib.lab.phantoms import skull, thorax
from drrlib.registration import PAPER, PRESETS, Preset, Registration, descend
from drrlib.registration import register as register_views
from drrlib.registration.judge import beyond, hold, judge
from drrlib.registration.stages import distinct
from drrlib.view import View
from drrlib.volume import Volume

CARM = CArm(1020.0, 510.0, 48, 48, 400 / 48, 400 / 48)
TRUE = torch.tensor([0.1, 0.2, -0.05, 4.0, -6.0, 5.0], dtype=torch.float64)
# Almost 45 deg and 60 mm off.
FAR = TRUE + torch.tensor([0.7, -0.75, 0.7, 55.0, -50.0, 55.0])
NEAR = TRUE + torch.tensor([0.1, -0.1, 0.1, 10.0, -10.0, 10.0])
SIDE = torch.tensor([0.0, 1.4, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)


@pytest.fixture(scope="module")
def volume():
    phantom = skull(6.0)
    return Volume.from_hu(phantom.hu, phantom.affine)


def register(image, volume, carm, start, weights=None, **options):
    return register_views(View(image, carm, weights), volume, start, **options)


def _image(volume, eta=TRUE, carm=CARM, noise=0.0, seed=0, method="joseph"):
    drr = DRR(volume, carm, method=method)
    image = drr(drr.pose(eta[None]))[0, 0].double()
    generator = torch.Generator().manual_seed(seed)
    return image + noise * torch.randn(image.shape, generator=generator, dtype=torch.float64)


def _error(result, volume, eta=TRUE, carm=CARM):
    return float(result.compare(carm.pose(eta, volume.center)).mtre)


def _depth(result):
    return float(result.compare(TRUE).parts.depth)


# --- what it finds


def test_a_smooth_field_does_not_pull_the_pose_away(volume):
    """As of scatter, or of a tube whose beam is weaker on one side (heel effect)."""
    carm = CArm(1020.0, 510.0, 96, 96, 400 / 96, 400 / 96)
    x = torch.linspace(-1, 1, 96, dtype=torch.float64)
    image = _image(volume, carm=carm) + 0.6 * x + 0.3 * x[:, None].square()
    found = register(image, volume, carm, NEAR)
    plain = dataclasses.replace(PRESETS["robust"], smooth=0)
    pulled = register(image, volume, carm, NEAR, preset=plain)
    assert found.converged and _error(found, volume, carm=carm) < 0.1
    assert _error(pulled, volume, carm=carm) > 20 * _error(found, volume, carm=carm)


@pytest.mark.parametrize("preset", ["robust", "fast"])
@pytest.mark.parametrize("phi", [0.0, math.pi / 2], ids=["frontal", "lateral"])
def test_finds_a_skull_from_far_away(volume, preset, phi):
    """With the noise of an X-ray, from an image by the other method."""
    turn = torch.tensor([0.0, phi, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    fixed = _image(volume, TRUE + turn, noise=0.05, method="siddon")
    found = register(fixed, volume, CARM, FAR + turn, preset=preset)
    assert found.converged and found.reason == "one place fits best"
    assert _error(found, volume, TRUE + turn) < 1.0
    assert torch.allclose(found.pose, CARM.pose(found.eta, volume.center))
    assert 0 < found.loss < 0.01 and 0.7 < found.kept <= 1 and 0 < found.agreement <= 1
    assert found.gap > 1.5 and 0 < found.target_sd < 1 and found.condition > 1
    assert found.covariance.shape == (6, 6) and found.covariance.diagonal().min() > 0
    assert [name for name, _, _ in found.path] == ["sweep", "coarse", "level 1"]
    assert len(found.places) == len(found.misfits) >= 1 and found.carm == CARM
    assert found.misfits.tolist() == sorted(found.misfits.tolist())
    most = {"robust": 800, "fast": 200}[preset]
    assert found.attempts == 1 and 50 < found.renders < most and found.seconds > 0
    assert repr(found).startswith("converged: one place fits best; loss ")


def test_a_perfect_image_gives_the_truth(volume):
    found = register(_image(volume), volume, CARM, FAR)
    assert _error(found, volume) < 1e-3 and found.loss < 1e-9
    assert torch.equal(found.path[-1][1], found.eta)


def test_the_paper_is_one_descent(volume):
    """Same pose and loss as the loop with the paper's settings; success as the paper judges it."""
    fixed = _image(volume, method="siddon")
    starts = torch.stack([NEAR, FAR])
    found = register(fixed, volume, CARM, starts, preset="paper")
    direct = descend(fixed[None, None], DRR(volume, CARM), starts, schedule=PAPER)
    assert torch.equal(found.eta, direct.best.eta) and found.loss == direct.best.loss
    assert found.converged == (found.loss < 1e-6) and found.reason == direct.best.reason
    assert found.gap is None and found.places is None and found.attempts == 1
    assert found.covariance.shape == (6, 6) and 0 < found.target_sd < 1
    assert found.renders == direct.renders + 1 and len(found.trace.loss) <= 250


def test_one_of_several_starts_is_enough(volume):
    far = TRUE + torch.tensor([0.0, 3.0, 0.0, 0.0, 0.0, 0.0])
    options = dict(preset="fast", search=(0.3, 30.0))
    fixed = _image(volume)
    assert not register(fixed, volume, CARM, far, **options).converged
    found = register(fixed, volume, CARM, torch.stack([far, NEAR]), **options)
    assert found.converged and _error(found, volume) < 0.01


def test_two_views_hold_the_depth(volume):
    """They share one pose: less error along the first view, and the result knows it."""
    pose = CARM.pose(TRUE, volume.center)
    other = CArm(1100.0, 600.0, 64, 60, 7.0, 7.0)
    second = other.pose(TRUE + SIDE, volume.center)
    drr, errors = DRR(volume, other, method="joseph"), []
    for seed in (1, 2):
        fixed = _image(volume, noise=0.1, seed=seed)
        side = drr(second[None])[0, 0].double()
        generator = torch.Generator().manual_seed(50 + seed)
        side = side + 0.1 * torch.randn(side.shape, generator=generator, dtype=torch.float64)
        alone = register(fixed, volume, CARM, NEAR)
        views = [View(fixed, CARM, pose=pose), View(side, other, pose=second)]
        both = register_views(views, volume, NEAR)
        assert both.converged and both.target_sd < 0.7 * alone.target_sd
        assert both.condition < 0.5 * alone.condition
        errors.append((_depth(both), _depth(alone)))
    both, alone = torch.tensor(errors).mean(dim=0).tolist()
    assert both < 0.5 * alone and both < 0.15


@pytest.mark.parametrize("factor", [1.03, 0.97])
def test_a_wrong_distance_can_be_freed(volume, factor):
    """Held, an sdd that is 3 % wrong costs centimetres in depth."""
    wrong = dataclasses.replace(CARM, sdd=CARM.sdd * factor)
    held = register(_image(volume), volume, wrong, NEAR)
    freed = register(_image(volume), volume, wrong, NEAR, free=("sdd",))
    assert _error(held, volume) > 5 and held.carm == wrong
    assert _error(freed, volume) < 0.05 and freed.carm.sdd == pytest.approx(CARM.sdd, abs=0.05)
    assert freed.covariance.shape == (7, 7) and freed.condition > 3 * held.condition
    assert freed.eta.shape == (6,)


def test_a_shifted_detector_can_be_freed_with_it(volume):
    real = dataclasses.replace(CARM, sdd=1000.0, x0=6.0, y0=-5.0)
    fixed = _image(volume, carm=real)
    found = register(fixed, volume, CARM, NEAR, free=("sdd", "x0", "y0"))
    assert found.covariance.shape == (9, 9)
    assert (found.carm.sdd, found.carm.x0, found.carm.y0) == pytest.approx((1000, 6, -5), abs=0.5)
    assert _error(found, volume) < 0.5


def test_weights_leave_out_what_hides_the_patient(volume):
    """Half the image black: without weights there is no way, and it is said; with them, no harm."""
    fixed = _image(volume)
    fixed[:, 24:] = math.nan
    seen = torch.isfinite(fixed).double()
    found = register(fixed, volume, CARM, NEAR, weights=seen)
    assert found.converged and _error(found, volume) < 0.01
    hidden = register(fixed.nan_to_num(0.0), volume, CARM, NEAR)
    assert not hidden.converged and _error(hidden, volume) > 10


def test_an_instrument_does_not_move_the_pose(volume):
    fixed = _image(volume)
    fixed[:, 20:23] += 3
    found = register(fixed, volume, CARM, NEAR)
    assert found.converged and _error(found, volume) < 0.01 and 0.9 < found.kept < 0.97
    moved = register(fixed, volume, CARM, NEAR, loss="l2")
    assert _error(moved, volume) > 0.5


@pytest.mark.parametrize("loss", ["gradient_ncc", "mutual_information"])
def test_other_similarities(volume, loss):
    found = register(_image(volume), volume, CARM, NEAR, loss=loss, preset="fast")
    assert found.converged and found.kept == 1 and _error(found, volume) < 0.5


def test_a_function_as_loss_sees_the_weights(volume):
    seen = []

    def loss(fixed, moving, weights):
        seen.append(None if weights is None else weights.shape[1:] == moving.shape[1:])
        weights = torch.ones_like(moving) if weights is None else weights
        return (weights * (fixed - moving).square()).mean(dim=(1, 2, 3))

    options = dict(loss=loss, preset=dataclasses.replace(PRESETS["fast"], rotations=16))
    ones = torch.ones(48, 48)
    found = register(_image(volume), volume, CARM, NEAR, weights=ones, **options)
    assert set(seen) == {True} and _error(found, volume) < 1.0
    register(_image(volume), volume, CARM, NEAR, **options)
    assert set(seen) == {True, None}


def test_a_detector_that_cannot_be_halved(volume):
    carm = CArm(1020.0, 510.0, 61, 53, 7.0, 7.0, flipped=True)
    found = register(_image(volume, carm=carm), volume, carm, NEAR)
    assert found.converged and _error(found, volume, carm=carm) < 0.01


def test_a_view_from_behind(volume):
    """Angles on either side of 180 deg are one place, and so are both names of a steep pose."""
    for start in ([0.0, 3.3, 0.0], [1.7, 0.2, 0.0]):
        start = torch.tensor([*start, 0.0, 0.0, 0.0], dtype=torch.float64)
        true = start + torch.tensor([0.05, -0.1, 0.05, 5.0, 4.0, 3.0])
        found = register(_image(volume, true), volume, CARM, start, preset="fast")
        assert found.converged and _error(found, volume, true) < 0.05


def test_half_precision_volumes(volume):
    found = register(_image(volume), volume.to(torch.float16), CARM, NEAR, preset="fast")
    assert found.converged and _error(found, volume) < 0.1


# --- how sure it is


def test_a_wrong_image_is_not_believed(volume):
    noise = torch.rand(48, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other = thorax(8.0)
    chest = _image(Volume.from_hu(other.hu, other.affine), torch.zeros(6, dtype=torch.float64))
    start = torch.zeros(6, dtype=torch.float64)
    for image, preset in ((noise, "fast"), (chest, "robust")):
        found = register(image, volume, CARM, start, preset=preset)
        assert not found.converged and found.attempts == PRESETS[preset].attempts
        assert repr(found).startswith("NOT converged: ")
    # Steps in freed lengths go anywhere with nothing to see; none may lead to an impossible C-arm.
    found = register(chest, volume, CARM, start, preset="fast", free=("sdd", "x0"))
    assert not found.converged and found.carm.sdd > CARM.sod


def test_verdicts():
    good = dict(loss=0.01, kept=0.9, gap=2.0, target_sd=0.2, outside=False)
    assert judge(**good) == (True, "one place fits best")
    for changes, reason in (
        ({"loss": math.nan}, "not finite"),
        ({"outside": True}, "outside the range"),
        ({"kept": 0.4}, "40 % of the image"),
        ({"loss": 0.3}, "unlike, loss 0.3"),
        ({"gap": 1.2}, "nearly as well, 1.20 times"),
        ({"target_sd": 2.5}, r"does not hold the pose, +-2.5 mm"),
        ({"target_sd": math.nan}, "does not hold the pose"),
    ):
        converged, why = judge(**(good | changes))
        assert not converged and reason in why


def test_beyond_the_range():
    """Twice the range is allowed, around any start; angles are compared as rotations."""
    search, center = (0.4, 30.0), torch.zeros(3, dtype=torch.float64)

    def outside(eta, *starts):
        eta = torch.tensor(eta, dtype=torch.float64)
        starts = torch.tensor(starts, dtype=torch.float64)
        pose = (CARM.pose(x, center) for x in (starts, eta))
        return beyond(*pose, eta[3:] - starts[:, 3:], search)

    zero = [0.0] * 6
    assert not outside(zero, zero) and not outside([0.7, 0, 0, 0, 0, -55], zero)
    assert outside([0.9, 0, 0, 0, 0, 0], zero) and outside([0, 0, 0, 0, 0, -65], zero)
    assert not outside([0.9, 0, 0, 0, 0, 0], zero, [0.5, 0, 0, 0, 0, 0])
    # Each start lacks something else, so the pose is in the range of neither.
    assert outside([0.9, 0, 0, 65, 0, 0], [0.9, 0, 0, 0, 0, 0], [0, 0, 0, 65, 0, 0])
    turn = 2 * math.pi
    assert not outside([0, 3.1, 0, 0, 0, 0], [0, 3.3 - turn, 0, 0, 0, 0])
    assert not outside([math.pi - 1.6, 0.1 + math.pi, math.pi, 0, 0, 0], [1.5, 0.1, 0, 0, 0, 0])


def test_hold_in_millimetres(volume):
    """Pure variance in one parameter, and what it does to points 50 mm around the centre."""
    center, points = volume.center, volume.targets
    eye, zero = torch.eye(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)

    def sd(*diagonal):
        spread = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        return hold(CARM, center, points, zero, eye, spread).target_sd

    assert sd(0, 0, 0, 4.0, 0, 0) == pytest.approx(2.0)
    assert sd(0, 0, 0, 1.0, 4.0, 4.0) == pytest.approx(3.0)
    # Four of six points lie 50 mm off the axis of a rotation.
    assert sd(0, 0, 1e-4, 0, 0, 0) == pytest.approx(0.01 * 50 * math.sqrt(4 / 6))
    reach = 50 * math.sqrt(4 / 6)
    even = torch.diag(torch.tensor([reach**2] * 3 + [1.0] * 3, dtype=torch.float64))
    assert hold(CARM, center, points, zero, even, eye).condition == pytest.approx(1.0)
    even[3, 3] = 0
    assert hold(CARM, center, points, zero, even, eye).target_sd == math.inf


def test_distinct_places():
    center = torch.zeros(3, dtype=torch.float64)
    eta = torch.zeros(5, 6, dtype=torch.float64)
    eta[:, 3] = torch.tensor([0.0, 4.0, 11.0, 13.0, 30.0])
    points = 50 * torch.eye(3, dtype=torch.float64)
    assert distinct(CARM.pose(eta, center), points, 5) == [0, 2, 4]
    assert distinct(CARM.pose(eta, center), points, 2) == [0, 2]


# --- repeating, batches, refusals


def test_repeats_by_seed(volume):
    fixed = _image(volume, noise=0.1)
    first, again, other = (
        register(fixed, volume, CARM, FAR, preset=dataclasses.replace(PRESETS["fast"], seed=seed))
        for seed in (5, 5, 6)
    )
    assert torch.equal(first.eta, again.eta) and first.loss == again.loss
    again = dataclasses.replace(again, seconds=first.seconds)
    assert first == again and first != other
    assert torch.equal(first.path[0][1], again.path[0][1])
    assert not torch.equal(first.path[0][1], other.path[0][1])
    assert _error(other, volume) < 1.5


@pytest.mark.parametrize("weighted", [False, True])
def test_images_side_by_side_are_as_if_alone(volume, weighted):
    """Also where only one of them is not sure and is tried again."""
    noise = torch.rand(48, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fixed = torch.stack([_image(volume), noise, _image(volume, TRUE + SIDE)])
    fixed, starts = fixed[:, None], torch.stack([NEAR, NEAR, NEAR + SIDE])
    weights = torch.ones(3, 1, 48, 48) if weighted else None
    if weighted:
        weights[0, :, :, :12] = 0
    prepared = Registration(volume, CARM)
    together = prepared([fixed], starts[:, None], weights=[weights])
    assert [r.attempts for r in together] == [1, 2, 1]
    for i, result in enumerate(together):
        weight = None if weights is None else weights[i, 0]
        alone = register(fixed[i, 0], volume, CARM, starts[i], weights=weight)
        if i == 1:  # its descents roam, and rounding decides where they end
            assert not alone.converged
            continue
        # As near as the last steps go: 1e-5 rad and 2e-3 mm, of either.
        apart = (result.eta - alone.eta).abs()
        assert apart[:3].max() < 2e-5 and apart[3:].max() < 4e-3 and alone.converged
        assert result.gap == alone.gap and result.agreement == alone.agreement


HOLE = torch.ones(48, 48).double()
HOLE[3, 4] = math.nan


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(image=lambda x: x[:40]), ShapeError, r"image has shape \(40, 48\)"),
        (dict(image=lambda x: x.expand(2, 1, -1, -1)), ShapeError, "expected one"),
        (dict(image=lambda x: x * HOLE), ConfigError, "image has NaN"),
        (dict(image=torch.ones_like), ConfigError, "image is constant"),
        (dict(weights=torch.ones(48, 40)), ShapeError, "weights of image"),
        (dict(weights=-torch.ones(48, 48)), ConfigError, "negative"),
        (dict(start=NEAR[:5]), ShapeError, r"start has shape \(5,\)"),
        (dict(start=NEAR.expand(0, 6)), ShapeError, r"n >= 1"),
        (dict(start=NEAR.expand(1, 1, 6)), ShapeError, r"\[6\] or \[n, 6\]"),
        (dict(start=NEAR * math.nan), ConfigError, "start has NaN"),
        (
            dict(start=None, pose=None, preset="paper"),
            ConfigError,
            "no start is given and the view",
        ),
        (
            dict(preset="best"),
            ConfigError,
            "'best'; choose fast, robust, xray, in `register` also paper",
        ),
        (dict(loss="ssd"), ConfigError, "zncc"),
        (dict(search=(0.0, 60.0)), ConfigError, "search is"),
        (dict(search=(4.0, 60.0)), ConfigError, "up to pi"),
        (dict(search=(0.5, math.inf)), ConfigError, "search is"),
        (dict(free=("sod",)), ConfigError, "expected of sdd, delx"),
        (dict(free=("sdd", "sdd")), ConfigError, "once each"),
        (dict(free=("sdd", "delx", "dely")), ConfigError, "ratios"),
        (dict(free=("sdd",), loss="l2"), ConfigError, 'free needs loss="zncc"'),
        (dict(free=("sdd",), several=True), ConfigError, "free is for one view"),
        (dict(preset="paper", several=True), ConfigError, "one whole image"),
        (dict(preset="paper", free=("sdd",)), ConfigError, "fixed lengths"),
        (dict(preset="paper", weights=torch.ones(48, 48)), ConfigError, "one whole image"),
        (dict(preset="paper", search=(0.3, 30.0)), ConfigError, "no search"),
        (dict(several=True, pose=None), ConfigError, r"views \[0, 1\] of 2 have no pose"),
    ],
    ids=lambda x: ",".join(f"{k}" for k in x) if isinstance(x, dict) else "",
)
def test_bad_input_is_named(volume, change, error, message):
    image, options = _image(volume), dict(preset="fast") | change
    image = options.pop("image", lambda x: x)(image)
    start, weights = options.pop("start", NEAR), options.pop("weights", None)
    several, pose = options.pop("several", False), options.pop("pose", torch.eye(4))
    with pytest.raises(error, match=message):
        views = [View(image, CARM, weights, pose)] * (2 if several else 1)
        register_views(views, volume, start, **options)


def test_what_is_no_view_is_named(volume):
    with pytest.raises(ConfigError, match=r"got a Tensor for an X-ray image; expected View"):
        inspect.unwrap(register_views)([_image(volume)], volume, NEAR)


def test_a_view_may_know_where_to_look(volume):
    """A start of its own, or a pose in the patient's frame."""
    image, pose = _image(volume), CARM.pose(NEAR, volume.center)
    expected = register(image, volume, CARM, NEAR, preset="fast")
    for view in (View(image, CARM, start=NEAR), View(image, CARM, pose=pose)):
        found = register_views(view, volume, preset="fast")
        assert torch.allclose(found.eta, expected.eta, atol=1e-6)


def test_arrays_and_lists_are_taken(volume):
    image = _image(volume)
    expected = register(image, volume, CARM, NEAR, torch.ones(48, 48), preset="fast")
    ones = torch.ones(48, 48, dtype=torch.bool)
    found = register(image.numpy(), volume, CARM, NEAR.tolist(), ones.numpy(), preset="fast")
    assert torch.equal(found.eta, expected.eta)


def test_bad_input_of_a_batch_is_named(volume):
    prepared, fixed = Registration(volume, CARM, preset="fast"), _image(volume)[None, None]
    with pytest.raises(ShapeError, match="2 views and weights of 2"):
        prepared([fixed, fixed], NEAR[None, None])
    with pytest.raises(ShapeError, match=r"expected \[t, s, 6\] for t images"):
        prepared([fixed], NEAR[None, None].expand(2, 1, 6))
    with pytest.raises(ShapeError, match="detector of"):
        prepared([fixed[..., :40]], NEAR[None, None])
    with pytest.raises(ConfigError, match="fixed has NaN"):
        prepared([fixed * HOLE], NEAR[None, None])


def test_a_preset_that_tries_nothing_is_refused():
    with pytest.raises(ConfigError, match="rotations, rounds of the preset"):
        Preset(0, 6, 30, (2, 1), ((), (5,)), finest=100, attempts=1)


# --- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("loss", ["zncc", "gradient_ncc"])
def test_a_volume_on_the_gpu(volume, dtype, loss):
    """Images, weights and starts may lie on either side; the answer is on the CPU."""
    fixed = _image(volume)
    weights = torch.ones(48, 48, dtype=torch.float64)
    weights[:, :8] = 0
    there = volume.to("cuda").to(dtype)
    expected = register(fixed, volume, CARM, NEAR, weights=weights, loss=loss, preset="fast")
    assert expected.converged
    for image, mask in ((fixed, weights), (fixed.cuda(), weights), (fixed, weights.cuda())):
        found = register(image, there, CARM, NEAR, weights=mask, loss=loss, preset="fast")
        assert found.eta.device.type == found.covariance.device.type == "cpu"
        assert found.converged and _error(found, volume) < 0.2
        if loss == "zncc" and dtype == torch.float32:
            assert torch.allclose(found.eta, expected.eta, atol=1e-3)
    start = NEAR.cuda()
    assert _error(register(fixed.cuda(), there, CARM, start, preset="fast"), volume) < 0.2


@pytest.mark.gpu
def test_views_lengths_and_the_paper_on_the_gpu(volume):
    fixed, there = _image(volume).cuda(), volume.to("cuda")
    pose, second = (CARM.pose(x, volume.center) for x in (TRUE, TRUE + SIDE))
    side = View(_image(volume, TRUE + SIDE).cuda(), CARM, pose=second)
    both = [View(fixed, CARM, pose=pose), side]
    assert _error(register_views(both, there, NEAR), volume) < 0.05
    wrong = dataclasses.replace(CARM, sdd=1000.0)
    freed = register(fixed, there, wrong, NEAR, free=("sdd",))
    assert freed.carm.sdd == pytest.approx(CARM.sdd, abs=0.2)
    paper = register(fixed, there, CARM, NEAR, preset="paper")
    assert paper.covariance.shape == (6, 6) and paper.eta.device.type == "cpu"


# --- real data


@pytest.mark.parametrize("phi", [0.0, math.pi / 2], ids=["AP", "lateral"])
def test_real_plastic_skull(real_data, phi):
    real = read_volume(real_data / "head_phantom_philips" / "ct_0deg_1mm.nii.gz")
    carm = CArm(1020.0, 510.0, 100, 100, 4.0, 4.0)
    turn = torch.tensor([0.0, phi, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    fixed = _image(real, TRUE + turn, carm, method="siddon")
    found = register(fixed, real, carm, FAR + turn)
    assert found.converged and _error(found, real, TRUE + turn, carm) < 0.5
