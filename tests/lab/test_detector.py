"""Acquisition: closed forms of spectrum, scatter, blur, noise, instrument; looks of the clinic."""

import math

import pytest
import torch

from drrlib.drr import DRR
from drrlib.errors import ConfigError
from drrlib.geometry import CArm
from drrlib.io import read_xray
from drrlib.lab.detector import (
    LOOKS,
    Effects,
    Spectrum,
    acquire,
    add_scatter,
    attenuation,
    blur,
    collimate,
    equalise,
    instrument,
    join,
    polychromatic,
    present,
    quantum_noise,
    saturate,
    save_picture,
    screw,
    two_materials,
    wire,
    write_letters,
)
from drrlib.lab.detector.looks import exposed_photons
from drrlib.volume import MU_WATER, Volume
from helpers import affine, worst

POSES = torch.tensor([[0.1, 0.2, 0.0, 1.0, 2.0, 3.0], [0.0, 1.3, 0.1, 0.0, 0.0, 0.0]]).double()


@pytest.fixture
def drr():
    """Water with a bony core and some fat, 16 mm across."""
    hu = torch.zeros(16, 16, 16, dtype=torch.float64)
    hu[4:12, 5:11, 4:10], hu[4:8, 5:11, 4:10], hu[:, :2] = 1200.0, 350.0, -100.0
    volume = Volume.from_hu(hu, affine())
    carm = CArm(200.0, 110.0, 12, 14, 4.0, 4.0)
    return DRR(volume, carm, method="siddon", backend="reference")


def _image(seed=0, batch=2, size=(20, 24)):
    generator = torch.Generator().manual_seed(seed)
    return 4 * torch.rand(batch, 1, *size, generator=generator, dtype=torch.float64)


def test_tables():
    # Hubbell and Seltzer at 60 keV [cm2/g] times density, in 1/mm.
    assert attenuation("water", [60.0]).item() == pytest.approx(MU_WATER)
    assert attenuation("bone", [60.0]).item() == pytest.approx(0.03148 * 1.92)
    assert attenuation("iron", [60.0]).item() == pytest.approx(0.1205 * 7.874)
    # Between two nodes the logarithm is linear in the logarithm: a power law.
    middle = attenuation("bone", [math.sqrt(50 * 60)]).item()
    assert middle == pytest.approx(0.192 * math.sqrt(0.4242 * 0.3148))
    # XCOM has 0.1614 cm2/g for water at 120 keV; interpolation keeps three digits.
    assert attenuation("water", [120.0]).item() == pytest.approx(0.01614, rel=2e-3)
    for bad in ([29.0], [60.0, 151.0]):
        with pytest.raises(ConfigError, match="30 to 150"):
            attenuation("water", bad)
    with pytest.raises(ConfigError, match="water, bone"):
        attenuation("lead", [60.0])


def test_kramers_by_hand():
    tube = Spectrum.kramers(100.0, 3.0)
    assert tube.energies == (30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0)
    filtered = [math.exp(-3 * 0.2699 * mu) for mu in (1.128, 0.5685)]
    ratio = 0.5 * 70 * filtered[0] / (60 * filtered[1])
    assert tube.weights[0] / tube.weights[1] == pytest.approx(ratio)
    assert tube.weights[-1] == 0
    for kvp, aluminium in ((30.0, 1.0), (130.0, 1.0), (100.0, -1.0)):
        with pytest.raises(ConfigError, match="aluminium"):
            Spectrum.kramers(kvp, aluminium)
    for energies, weights in (((60.0,), ()), ((60.0,), (0.0,)), ((60.0, 70.0), (1.0, -1.0))):
        with pytest.raises(ConfigError, match="one weight"):
            Spectrum(energies, weights)


def test_materials_add_up_and_one_energy_gives_the_drr(drr):
    pose = drr.pose(POSES)
    soft, bony = two_materials(drr)
    assert worst(soft(pose) + bony(pose), drr(pose)) < 1e-12
    found = polychromatic((soft, bony), pose, Spectrum((60.0,), (7.0,)))
    assert worst(found, drr(pose)) < 1e-12
    # At 40 keV each material is so much stronger.
    found = polychromatic((soft, bony), pose, Spectrum((40.0,), (1.0,)))
    expected = 0.2683 / 0.2059 * soft(pose) + 0.6655 / 0.3148 * bony(pose)
    assert worst(found, expected) < 1e-12


def test_the_split_is_smooth_and_ends_where_it_says(drr):
    soft, bony = two_materials(drr, 200.0, 500.0)
    mu = drr.volume.mu
    assert (soft.grid.mu[mu < 1.2 * MU_WATER - 1e-9] == mu[mu < 1.2 * MU_WATER - 1e-9]).all()
    assert (soft.grid.mu[mu > 1.5 * MU_WATER] == 0).all()
    # 350 HU is the middle, where the blend is one half.
    middle = (mu - 1.35 * MU_WATER).abs() < 1e-9
    assert middle.any()
    assert torch.allclose(bony.grid.mu[middle], 0.5 * mu[middle])
    assert torch.equal(bony.volume.center, drr.volume.center)
    with pytest.raises(ConfigError, match="low_hu < high_hu"):
        two_materials(drr, 500.0, 500.0)


def test_beam_hardening():
    """Two energies through slabs of water: -log of the mean of two exponentials."""
    values = {}
    for thickness in (2, 16):
        hu = torch.zeros(40, thickness, 40, dtype=torch.float64)
        slab = Volume.from_hu(hu, affine(size=(40, thickness, 40)))
        one = DRR(slab, CArm(2000.0, 1000.0, 1, 1, 0.1, 0.1), backend="reference")
        spectrum = Spectrum((40.0, 80.0), (1.0, 3.0))
        pose = one.pose(torch.zeros(1, 6).double())
        values[thickness] = polychromatic(two_materials(one), pose, spectrum).item()
        parts = [math.exp(-0.1 * mu * thickness) for mu in (0.2683, 0.1837)]
        assert values[thickness] == pytest.approx(-math.log((parts[0] + 3 * parts[1]) / 4))
    assert values[16] < 8 * values[2]


def test_polychromatic_has_the_gradient_of_its_pose(drr):
    carm = CArm(200.0, 110.0, 3, 3, 9.0, 9.0)
    parts = two_materials(DRR(drr.volume, carm, method="joseph", backend="reference"))
    spectrum = Spectrum.kramers(120.0)
    eta = POSES[:1].clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: polychromatic(parts, parts[0].pose(x), spectrum), eta, eps=1e-6, atol=1e-6
    )


def test_blur_keeps_the_mean_of_what_is_transmitted():
    image = _image()
    for sigma in (0.3, 2.0, 30.0):
        found = torch.exp(-blur(image, sigma)).mean(dim=(1, 2, 3))
        assert torch.allclose(found, torch.exp(-image).mean(dim=(1, 2, 3)), rtol=1e-12)
    assert torch.allclose(blur(image, 0.0), image, rtol=1e-12)
    flat = torch.full((1, 1, 8, 9), 1.5).double()
    assert torch.allclose(blur(flat, 2.0), flat)


def test_blur_of_a_point_is_a_gaussian():
    image = torch.full((1, 1, 41, 41), 60.0).double()
    image[..., 20, 20] = 0.0
    spot = torch.exp(-blur(image, 2.0))[0, 0]
    x = torch.arange(41).double() - 20
    assert (spot.sum(dim=0) * x.square()).sum().item() == pytest.approx(4.0, rel=1e-6)
    assert spot[20, 22].item() / spot[20, 20].item() == pytest.approx(math.exp(-0.5))


def test_noise_has_the_variance_of_poisson():
    image = torch.full((1, 1, 200, 200), 1.0).double()
    image[..., 100:] = 2.0
    dice = torch.Generator().manual_seed(0)
    noisy = quantum_noise(image, 1e4, dice)
    for part, level in ((noisy[..., :100], 1.0), (noisy[..., 100:], 2.0)):
        photons = 1e4 * math.exp(-level)
        count = 1e4 * torch.exp(-part)
        # Standard errors of mean and variance of 20000 draws: 1 / sqrt(20000) and 1 %.
        assert count.mean().item() == pytest.approx(photons, abs=5 * math.sqrt(photons / 20000))
        assert count.var().item() == pytest.approx(photons, rel=0.05)
        assert part.var().item() == pytest.approx(1 / photons, rel=0.05)


def test_noise_follows_its_generator_and_stays_finite():
    image, again = _image(), torch.Generator().manual_seed(3)
    noisy = quantum_noise(image, 100.0, torch.Generator().manual_seed(3))
    assert torch.equal(quantum_noise(image, 100.0, again), noisy)
    assert not torch.equal(quantum_noise(image, 100.0, again), noisy)
    dark = quantum_noise(torch.full((1, 1, 4, 4), 50.0), 100.0, again)
    assert torch.allclose(dark, torch.tensor(math.log(200.0)))
    with pytest.raises(ConfigError, match="above 0"):
        quantum_noise(image, 0.0, again)


def test_scatter_has_its_ratio_and_is_smooth():
    image = torch.zeros(2, 1, 40, 40).double()
    image[..., 8:33, 8:33] = 2 + 0.5 * _image(0, 2, (25, 25))
    primary = torch.exp(-image)
    scatter = torch.exp(-add_scatter(image, 0.8, 10.0)) - primary
    shade = (image > 0).flatten(1)
    for k in range(2):
        local = (scatter / primary)[k].flatten()[shade[k]]
        assert local.median().item() == pytest.approx(0.8)
    assert (scatter > 0).all()
    # The steps of the primary are of 0.1; neighbours in a Gaussian of 10 pixels hardly differ.
    assert scatter.diff(dim=-1).abs().max() < 0.1 * scatter.max()
    air = torch.zeros(1, 1, 5, 5)
    assert torch.equal(add_scatter(air, 1.0, 3.0), air)
    assert torch.allclose(add_scatter(image, 0.0, 3.0), image)
    for ratio, sigma in ((-1.0, 3.0), (1.0, -3.0)):
        with pytest.raises(ConfigError):
            add_scatter(image, ratio, sigma)


def test_instrument_integrates_to_its_volume():
    carm = CArm(1000.0, 500.0, 60, 80, 1.0, 1.5)
    start, end = torch.tensor([[20.0, 30.0], [10.0, 80.0]]), torch.tensor([[60.0, 45.0]] * 2)
    image = instrument(carm, start, end, 5.0, samples=16)
    assert image.shape == (2, 1, 60, 80)
    for k in range(2):
        length = (end - start)[k].norm().item()
        # A cylinder with two half balls at its ends.
        volume = math.pi * 2.5**2 * length + 4 / 3 * math.pi * 2.5**3
        total = image[k].sum().item() * 1.0 * 1.5  # mm2 of a pixel
        assert total == pytest.approx(0.1205 * 7.874 * volume, rel=1e-3)


def test_instrument_lies_where_it_was_put():
    carm = CArm(1000.0, 500.0, 40, 50, 1.0, 1.0)
    ends = torch.tensor([[10.5, 20.5]]), torch.tensor([[40.5, 20.5]])
    image = instrument(carm, *ends, 4.0, samples=1)[0, 0]
    mu = 0.1205 * 7.874
    assert image[20, 25].item() == pytest.approx(4 * mu)  # pixel (20, 25) has its centre on it
    assert image[21, 25].item() == pytest.approx(2 * math.sqrt(3) * mu)  # 1 mm off the axis
    assert image[22, 25] == 0 and image[20, 7] == 0 and image[20, 43] == 0
    point = instrument(carm, ends[0], ends[0], 4.0, samples=1)[0, 0]
    assert point[20, 10].item() == pytest.approx(4 * mu) and (point > 0).sum() == 9
    for diameter, samples in ((0.0, 1), (1.0, 0)):
        with pytest.raises(ConfigError, match="diameter"):
            instrument(carm, *ends, diameter, samples=samples)


def test_saturation():
    image = torch.tensor([0.5, 8.0, 30.0]).reshape(1, 1, 1, 3)
    assert saturate(image).flatten().tolist() == pytest.approx([0.5, 8.0, 12 * math.log(2)])
    with pytest.raises(ConfigError, match="bits"):
        saturate(image, 0)


def test_presented_images_keep_order_and_raise_details():
    step = torch.zeros(1, 1, 40, 60, dtype=torch.float64)
    step[..., 30:] = 2.0
    plain, raised = present(step, 1.0, 0.0), present(step, 1.0)
    for image in (plain, raised):
        assert float(image.min()) == 0 and float(image.max()) == 4095
        assert torch.equal(image, image.round())
    # Without details two values stay two; with them the edge overshoots on both sides.
    assert plain.unique().tolist() == [0, 4095]
    assert raised[0, 0, 20, 30] == 4095 and raised[0, 0, 20, 29] == 0
    assert 0 < raised[0, 0, 20, 0] < raised[0, 0, 20, 59] < 4095
    with pytest.raises(ConfigError, match="pixels of 0"):
        present(step, 0.0)


def test_equalise_against_a_rank():
    image = _image(batch=1, size=(64, 64)).pow(1.5)
    ranks = image.flatten().argsort().argsort().double().reshape(image.shape) / (64 * 64 - 1)
    assert worst(equalise(image, limit=256.0) / 4095, ranks) < 0.02
    # The lower the limit, the nearer to a straight line.
    straight = (image - image.min()) / (image.max() - image.min())
    bent = [worst(equalise(image, limit=x) / 4095, straight) for x in (1.0, 1.5, 256.0)]
    assert bent[0] < bent[1] < bent[2] and bent[0] < 0.06
    with pytest.raises(ConfigError, match="limit"):
        equalise(image, 0.5)


def test_collimators_letters_and_metal_lie_where_they_are_drawn():
    grey = torch.full((1, 1, 100, 120), 2000.0, dtype=torch.float64)
    for seed in range(6):
        dice = torch.Generator().manual_seed(seed)
        behind = collimate(grey, dice)
        assert set(behind.unique().tolist()) <= {0.0, 2000.0, 4095.0}
        assert behind[0, 0, 50, 60] == 2000 and behind[0, 0, 0, 0] != 2000
        lettered = write_letters(grey, dice)
        rows, columns = torch.nonzero(lettered[0, 0] == 4095, as_tuple=True)
        assert 10 < len(rows) < 800 and int(rows.max() - rows.min()) <= 12
        assert not ((rows > 30) & (rows < 70)).any() and int(columns.max() - columns.min()) < 70
    carm, dice = CArm(1000.0, 700.0, 100, 120, 2.0, 2.0), torch.Generator().manual_seed(3)
    iron = attenuation("iron", [60.0]).item()
    thin, thick = wire(carm, dice, 2.0), screw(carm, dice, 6.0)
    assert float(thin.max()) <= 2.0 * iron and float(thin.max()) > 1.0 * iron
    # A pin five times as long as wide with round ends: its volume over a pixel's area.
    volume = torch.pi * 3**2 * 30 + 4 / 3 * torch.pi * 3**3
    assert float(thick.sum()) * 4 / iron == pytest.approx(volume, rel=0.01)


def test_exposure_is_controlled_behind_the_body(drr):
    """A hundred rays through air and a hundred of the body, a fifth of which lets 0.01 through."""
    passed = torch.cat([torch.ones(100), torch.full((80,), 0.1), torch.full((20,), 0.01)]).double()
    image = -passed.log().reshape(1, 1, 10, 20)
    assert 500 / 0.1 <= exposed_photons(image, 500.0) <= 500 / 0.01
    thick = exposed_photons(image + 1.0, 500.0) / exposed_photons(image, 500.0)
    assert thick > 1
    dice = torch.Generator().manual_seed(0)
    parts, pose = two_materials(drr), drr.pose(POSES[:1])
    grainy, smooth = (
        acquire(parts, pose, dice.manual_seed(0), exposed=n) - acquire(parts, pose, dice)
        for n in (100.0, 10000.0)
    )
    assert 5 < float(grainy.std() / smooth.std()) < 20


def test_join_adds_intensities():
    image = _image(size=(4, 6))
    joined = join(image, 2)
    assert joined.shape == (2, 1, 2, 3)
    assert worst(torch.exp(-joined)[0, 0, 0, 0], torch.exp(-image)[0, 0, :2, :2].mean()) < 1e-15
    with pytest.raises(ConfigError, match="divisor"):
        join(image, 4)


@pytest.mark.parametrize("look", LOOKS)
def test_looks_are_read_from_their_files(drr, look, tmp_path):
    fine = DRR(drr.volume, drr.carm.resize(48, 56), method="siddon", backend="reference")
    drawn = [torch.Generator().manual_seed(1) for _ in range(2)]
    parts, pose = two_materials(fine), drr.pose(POSES[:1])
    # So small a body must not shine more than it shades.
    effects = dict(LOOKS[look], finer=2, scatter=0.05 if "scatter" in LOOKS[look] else 0.0)
    image, again = (acquire(parts, pose, dice, **effects) for dice in drawn)
    assert image.shape == (1, 1, 24, 28) and torch.equal(image, again)
    carm = drr.carm.resize(24, 28)
    shown = Effects(**LOOKS[look]).shown
    path = save_picture(tmp_path / f"xray{'.png' if shown else '.tif'}", image)
    given = dict(values="display", bone="bright") if shown else dict(values="counts", bone="dark")
    view = read_xray(path, carm=carm, mask=False, open_field=None if shown else 40000, **given)
    pair = torch.stack([view.image.double(), image[0, 0]])
    assert float(torch.corrcoef(pair.flatten(1))[0, 1]) > 0.999
    if not shown:
        assert worst(*pair) < 0.03
    exact = read_xray(
        save_picture(tmp_path / "xray.npy", image), carm=carm, mask=False, values="line integrals"
    )
    assert worst(exact.image, image[0, 0].float()) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, "xray.npy"])


def test_effects_that_make_no_sense_are_refused(drr, tmp_path):
    parts, pose, dice = two_materials(drr), drr.pose(POSES[:1]), torch.Generator()
    with pytest.raises(ConfigError, match="no effect fog"):
        acquire(parts, pose, dice, fog=1.0)
    with pytest.raises(ConfigError, match="one of the two"):
        Effects(presented=1.0, equalised=True)
    with pytest.raises(ConfigError, match="for the eye"):
        Effects(letters=True)
    with pytest.raises(ConfigError, match="photons and exposed"):
        Effects(photons=1.0, exposed=1.0)
    for name, image in (("x.jpg", torch.zeros(4, 4)), ("x.png", torch.zeros(2, 4, 4))):
        with pytest.raises(ConfigError, match="expected one image"):
            save_picture(tmp_path / name, image)
