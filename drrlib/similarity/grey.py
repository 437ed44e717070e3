"""How the grey values of an X-ray image may differ from those of a DRR: a linear regression.

Another spectrum bends grey values, which a polynomial of them follows. Scatter, an uneven beam or
an uneven detector add something smooth, which a polynomial over the detector follows.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Model(NamedTuple):
    """What the fixed image may be, given the moving one.

    Attributes:
        degree: Of the polynomial of the moving image's values; 1 is scale and offset.
        smooth: Degree of the polynomial over the detector that is added; 0 adds nothing.
        window: Standard deviation [pixels] of Gaussian windows in which both images are
            normalised, see `local`; 0 for none. It leaves nothing for degree and smooth to do.
    """

    degree: int = 1
    smooth: int = 0
    window: float = 0.0


LINE = Model()


class Grey(NamedTuple):
    """A fixed image, without its weighted mean, as a regression on the moving one.

    Attributes:
        fitted: Values of the regression [m, pixels].
        left: What the fixed image is more than that [m, pixels].
        slope: Derivative of the regression by the moving image [m, pixels].
        columns: Powers of the moving image at mean 0 and deviation 1, then what is smooth
            [m, pixels, k].
        turn: Root weights times columns times this are orthonormal [m, k, k].
    """

    fitted: Float[Tensor, "m pixels"]
    left: Float[Tensor, "m pixels"]
    slope: Float[Tensor, "m pixels"]
    columns: Float[Tensor, "m pixels k"]
    turn: Float[Tensor, "m k k"]


def regress(
    moving: Float[Tensor, "m pixels"],
    fixed: Float[Tensor, "m pixels"],
    weights: Float[Tensor, "m pixels"],
    degree: int,
    fields: Float[Tensor, "pixels f"],
) -> Grey:
    """Weighted least squares of the fixed image on powers of the moving one, and on `fields`.

    A row whose columns cannot be told apart is NaN throughout.
    """
    share = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-30)
    # Without its mean, so that the ridge below does not depend on an offset of grey values.
    fixed = fixed - (share * fixed).sum(dim=1, keepdim=True)
    x = moving - (share * moving).sum(dim=1, keepdim=True)
    spread = (share * x.square()).sum(dim=1, keepdim=True).sqrt().clamp_min(1e-20)
    x = x / spread
    powers = torch.stack([x**k for k in range(degree + 1)], dim=2)
    columns = torch.cat([powers, fields.expand(len(powers), -1, -1)], dim=2)
    weighted = weights[..., None] * columns
    # Cholesky's factor in float64 makes the few columns orthonormal without a tall QR.
    gram = (weighted.mT @ columns).double()
    gram = gram + 1e-9 * torch.diag_embed(gram.diagonal(dim1=1, dim2=2) + 1e-30)
    factor, failed = torch.linalg.cholesky_ex(gram)
    if bool(failed.any()):  # few pixels are lit, and rounding makes two columns one
        more = 1e-4 * torch.diag_embed(gram.diagonal(dim1=1, dim2=2))
        again, lost = torch.linalg.cholesky_ex(gram + more)
        again = torch.where((lost > 0)[:, None, None], torch.nan, again)
        factor = torch.where((failed > 0)[:, None, None], again, factor)
    unit = torch.eye(gram.shape[1]).to(gram)
    turn = torch.linalg.solve_triangular(factor, unit, upper=False).mT.to(columns)
    weight = (turn @ (turn.mT @ (weighted.mT @ fixed[..., None])))[..., 0]  # of each column
    fitted = (columns @ weight[..., None])[..., 0]
    slope = sum(k * weight[:, k, None] * columns[..., k - 1] for k in range(1, degree + 1))
    return Grey(fitted, fixed - fitted, slope / spread, columns, turn)


def smooth_fields(height: int, width: int, degree: int) -> Float[Tensor, "pixels f"]:
    """Products of Legendre polynomials over rows and columns, of this degree in all at most.

    Without the constant, so none for degree 0; each is at most 1 in size.
    """
    rows, columns = (_legendre(n, degree) for n in (height, width))
    pairs = [(i, k - i) for k in range(1, degree + 1) for i in range(k + 1)]
    fields = [torch.outer(rows[i], columns[j]).flatten() for i, j in pairs]
    return torch.stack(fields, dim=1) if fields else rows[0].new_zeros(height * width, 0)


def _legendre(count: int, degree: int) -> list[Float[Tensor, " count"]]:
    """P_0 .. P_degree at the middles of so many equal parts of [-1, 1]; Bonnet's recursion."""
    x = (2 * torch.arange(count, dtype=torch.float64) + 1) / count - 1
    found = [torch.ones_like(x), x]
    for k in range(2, degree + 1):
        found.append(((2 * k - 1) * x * found[-1] - (k - 1) * found[-2]) / k)
    return found
