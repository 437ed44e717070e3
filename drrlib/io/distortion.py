"""Distortion of image intensifiers: where a pixel of the straight picture lies in the bent one.

An intensifier bends straight lines (pincushion from its curved input, S from the earth's field).
Polynomials of degree 3 to 5 in both coordinates describe it; they are fitted to the points of a
calibration grid. Source: Brainerd et al. 2010, doi:10.1002/jez.589 (grids of XROMM);
Gronenschild 1997, doi:10.1118/1.598113 (global polynomials).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import ndimage

from drrlib.arrays import Numbers, as_size, as_tensor, as_whole
from drrlib.errors import ConfigError, ShapeError


@dataclass(frozen=True, eq=False)
class Distortion:
    """A fitted distortion. Make it by `Distortion.fit`.

    Attributes:
        coefficients: Of (column, row) in the bent picture, [terms, 2].
        degree: Of the polynomials.
        size: (height, width).
        rms: Of the residuals at the calibration points [pixels].
    """

    coefficients: Float[ndarray, "terms 2"]
    degree: int
    size: tuple[int, int]
    rms: float

    @classmethod
    def fit(
        cls, seen: Numbers, straight: Numbers, size: tuple[int, int], degree: int = 4
    ) -> "Distortion":
        """Fit polynomials to calibration points.

        Args:
            seen: (column, row) of the points in the bent picture [n, 2], pixel centres at
                half-integers.
            straight: Where the same points belong in the straight picture [n, 2], such as the
                corners of the ideal grid in pixels.
            size: (height, width) of both pictures.
            degree: 1 to 7; the (degree + 1)(degree + 2) / 2 terms need twice as many points.

        Raises:
            ShapeError, ConfigError: other shapes, too few points, or points on a line.
        """
        size, degree = as_size(size), as_whole(degree, "degree")
        pair = [
            as_tensor(x, n).detach().cpu().double().numpy()
            for x, n in ((seen, "seen"), (straight, "straight"))
        ]
        if pair[0].shape != pair[1].shape or pair[0].ndim != 2 or pair[0].shape[1] != 2:
            raise ShapeError(
                f"seen and straight have shapes {pair[0].shape} and {pair[1].shape}; expected the "
                "same number of points in both, [n, 2]"
            )
        if not 1 <= degree <= 7 or not all(np.isfinite(p).all() for p in pair):
            raise ConfigError(f"degree is {degree}, or points are not finite; expected 1 to 7")
        terms = _terms(pair[1], size, degree)
        if len(terms) < 2 * terms.shape[1]:
            raise ConfigError(
                f"{len(terms)} points for {terms.shape[1]} terms; expected twice as many points: "
                "take a lower degree"
            )
        solution, _, rank, _ = np.linalg.lstsq(terms, pair[0], rcond=1e-10)
        if rank < terms.shape[1]:
            raise ConfigError("the points lie on too few lines for this degree; take a lower one")
        rms = float(np.sqrt(np.square(terms @ solution - pair[0]).sum(axis=1).mean()))
        return cls(solution, degree, size, rms)

    def bend(self, straight: Numbers) -> Float[ndarray, "n 2"]:
        """(column, row) in the bent picture of points of the straight one [n, 2]."""
        points = as_tensor(straight, "straight").detach().cpu().double().numpy()
        return _terms(points, self.size, self.degree) @ self.coefficients

    def undistort(self, image: Float[ndarray, "height width"]) -> Float[ndarray, "height width"]:
        """The straight picture, interpolated linearly; beyond the bent one the edge goes on.

        Raises:
            ShapeError: another size than the fit's.
        """
        if tuple(image.shape) != self.size:
            raise ShapeError(f"image has shape {image.shape}; the distortion is of {self.size}")
        row, column = np.indices(self.size).reshape(2, -1) + 0.5
        bent = self.bend(np.stack([column, row], axis=1)) - 0.5
        places = bent[:, ::-1].T.reshape(2, *self.size)
        return ndimage.map_coordinates(image, places, order=1, mode="nearest")


def _terms(points: np.ndarray, size: tuple[int, int], degree: int) -> np.ndarray:
    """Products of powers of the coordinates, scaled to about -1 ... 1."""
    half = 0.5 * max(size)
    x, y = ((points[:, q] - 0.5 * size[1 - q]) / half for q in range(2))
    powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    return np.stack([x**i * y**j for i, j in powers], axis=1)
