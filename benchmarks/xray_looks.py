"""What the clinic makes of line integrals, for `xrays.py`: numpy and scipy, nothing of drrlib.

Attenuation: Hubbell and Seltzer, NIST XCOM (NISTIR 5632), water, cortical bone (ICRU-44),
aluminium and iron. Spectrum: Kramers' law at 90 kVp behind 2.7 mm of aluminium.
"""

from collections.abc import Mapping

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter, label

LOOKS = ("mono", "hard", "cut", "shown", "clinic")
FINER = 3  # pixels of the line integrals across one of the detector

_ENERGY = np.arange(25.0, 91.0, 5.0)  # [keV]
_XCOM = {  # mass attenuation [cm2/g] by energy [keV]
    "water": {20: 0.8096, 30: 0.3756, 40: 0.2683, 50: 0.2269, 60: 0.2059, 80: 0.1837, 100: 0.1707},
    "bone": {20: 4.001, 30: 1.331, 40: 0.6655, 50: 0.4242, 60: 0.3148, 80: 0.2229, 100: 0.1855},
    "aluminium": {
        20: 3.441,
        30: 1.128,
        40: 0.5685,
        50: 0.3681,
        60: 0.2778,
        80: 0.2018,
        100: 0.1704,
    },
    "iron": {20: 25.68, 30: 8.176, 40: 3.629, 50: 1.958, 60: 1.205, 80: 0.5952, 100: 0.3717},
}
_SCATTER, _SCATTER_WIDTH = 0.8, 55.0  # of the primary behind the body; its reach [mm]
_FOCUS = 0.45  # blur of the focal spot [mm]


def _attenuation(material: str) -> np.ndarray:
    table = _XCOM[material]
    values = np.interp(np.log(_ENERGY), np.log(list(table)), np.log(list(table.values())))
    return np.exp(values)


_SPECTRUM = (90 / _ENERGY - 1).clip(0) * _ENERGY * np.exp(-_attenuation("aluminium") * 2.7 * 0.27)
_SPECTRUM = _SPECTRUM / _SPECTRUM.sum()


def acquire(
    lines: Mapping[str, np.ndarray],
    look: str,
    rng: np.random.Generator,
    extent: float,
    negative: bool,
) -> np.ndarray:
    """An X-ray image [n, n] with a look of the clinic.

    Args:
        lines: `mu` [-] at 60 keV, `soft` and `bone` [g/cm2], each [3 n, 3 n].
        look: mono, one energy; hard, a spectrum with scatter, blur and noise; cut, the same (of
            a body longer than the CT); shown, processed for a screen; clinic, shown with a
            collimator, letters, a wire and a screw.
        rng: Of noise and of what is drawn.
        extent: Side of the detector [mm].
        negative: Whether a processed image is inverted.
    """
    if look == "mono":
        return -np.log(_joined(np.exp(-lines["mu"])))
    pitch = extent / len(lines["mu"])
    metal = _instruments(len(lines["mu"]), pitch, rng) if look == "clinic" else 0.0
    logged = _logged(_measured(lines, metal, pitch, rng))
    if look in ("hard", "cut"):
        return logged
    image = _shown(logged, pitch * FINER)
    if look == "clinic":
        image = _dressed(image, rng)
    return 4095 - image if negative else image


def blank_border(image: np.ndarray) -> np.ndarray | None:
    """Weights 0 where the value of a corner reaches in from the border, as behind blades."""
    labels, _ = label(image == image[0, 0])
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    blank = np.isin(labels, np.setdiff1d(border, [0]))
    if blank.mean() < 0.02:
        return None
    return 1.0 - binary_dilation(blank, iterations=2)


def _measured(lines, metal, pitch: float, rng) -> np.ndarray:
    """Intensity behind the body over that without it, with scatter, blur and noise."""
    per = [_attenuation(m) for m in ("water", "bone", "iron")]
    depth = (lines["soft"], lines["bone"], metal)  # [g/cm2]
    intensity = 0.0
    for share, *values in zip(_SPECTRUM, *per, strict=True):
        intensity = intensity + share * np.exp(
            -sum(v * d for v, d in zip(values, depth, strict=True))
        )
    intensity = _joined(gaussian_filter(intensity, _FOCUS / pitch))
    body = intensity < 0.6
    # Scatter comes from where the beam is weakened, and reaches everywhere (one wide Gaussian).
    made = intensity * np.sqrt(1 - intensity.clip(0, 1)) * -np.log(intensity.clip(1e-9, 1))
    made = gaussian_filter(made, _SCATTER_WIDTH / (FINER * pitch), mode="nearest")
    if body.any():
        made = made * _SCATTER * np.median(intensity[body]) / max(np.median(made[body]), 1e-9)
        intensity = intensity + made
    photons = rng.uniform(400, 1500)  # a pixel behind the densest fifth: automatic exposure
    if body.any():
        photons = photons / np.percentile(intensity[body], 20)
    counted = gaussian_filter(rng.poisson(intensity * photons) / photons, 0.35)
    return counted.clip(1 / photons, None)


def _logged(intensity: np.ndarray) -> np.ndarray:
    return -np.log(intensity)


def _shown(logged: np.ndarray, pixel: float) -> np.ndarray:
    """Edges raised at 3 and 12 mm, a sigmoid curve, 12 bits."""
    raised = logged + 1.0 * (logged - gaussian_filter(logged, 3 / pixel))
    raised = raised + 0.7 * (logged - gaussian_filter(logged, 12 / pixel))
    low, high = np.percentile(raised, (1, 99.5))
    curve = 1 / (1 + np.exp(-5 * ((raised - low) / (high - low) - 0.5)))
    return np.rint(4095 * (curve - curve.min()) / (curve.max() - curve.min()))


def _dressed(image: np.ndarray, rng) -> np.ndarray:
    """Behind a disc or blades, with letters in a corner."""
    n = len(image)
    if rng.random() < 0.5:
        rows, columns = np.mgrid[:n, :n] - 0.5 * (n - 1)
        open_ = np.hypot(rows, columns) < 0.46 * n
    else:
        top, bottom, left, right = (rng.uniform(0.03, 0.14, 4) * n).astype(int)
        open_ = np.zeros((n, n), bool)
        open_[top : n - bottom, left : n - right] = True
    image = np.where(open_, image, 0 if rng.random() < 0.7 else 4095)
    row, column = rng.integers(8, 20), rng.integers(8, n - 50)
    for k in range(5):
        letter = rng.random((9, 6)) < 0.55
        image[row : row + 9, column + 7 * k : column + 7 * k + 6][letter] = 4095
    return image


def _instruments(n: int, pitch: float, rng) -> np.ndarray:
    """A bent wire and a screw of steel [g/cm2]."""
    rows, columns = np.mgrid[:n, :n] * pitch
    ends = rng.uniform(0.05, 0.95, (3, 2)) * n * pitch
    t = np.linspace(0, 1, 900)[:, None]
    curve = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
    at, radius = np.rint(curve / pitch).astype(int).clip(0, n - 1), rng.uniform(0.5, 0.9)
    wire = np.zeros((n, n), bool)
    wire[at[:, 0], at[:, 1]] = True
    steel = 1.2 * radius * binary_dilation(wire, iterations=max(1, round(radius / pitch)))
    turn, (y, x) = rng.uniform(0, np.pi), rng.uniform(0.25, 0.75, 2) * n * pitch
    along = (rows - y) * np.sin(turn) + (columns - x) * np.cos(turn)
    across = (columns - x) * np.sin(turn) - (rows - y) * np.cos(turn)
    steel[(abs(along) < rng.uniform(15, 25)) & (abs(across) < 2.5)] += 4.0
    return steel * 0.787  # [g/cm2] of each millimetre


def _joined(image: np.ndarray) -> np.ndarray:
    n = len(image) // FINER
    return image.reshape(n, FINER, n, FINER).mean(axis=(1, 3))
