"""Pixels that the CT cannot explain, such as an instrument: found and given no weight.

The fixed image is fitted by the moving one (`grey_values`) with Tukey's biweight (Beaton and
Tukey 1974, doi:10.1080/00401706.1974.10489171), whose scale is the median absolute residual.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from drrlib.optimize import Objective
from drrlib.similarity import LINE, Model, regress, smooth_fields

_CUT = 6.0  # scales: beyond it a pixel counts nothing
# Scale is at least so much of the image's own deviation, per millimetre of a pixel seen at the
# isocentre: what pixels of finite size leave even at the right pose is no outlier.
_LEAST = 0.02
ROUNDS = 10


class Fit(NamedTuple):
    """How a moving image explains a fixed one.

    Attributes:
        weights: Of each pixel, [m, pixels].
        residual: Fixed minus fitted, over the fitted image's deviation [m, pixels].
        scale: Robust deviation of the residual [m].
    """

    weights: Float[Tensor, "m pixels"]
    residual: Float[Tensor, "m pixels"]
    scale: Float[Tensor, " m"]


def fit(
    moving: Float[Tensor, "m h w"],
    fixed: Float[Tensor, "m h w"],
    weights: Float[Tensor, "m h w"] | None,
    model: Model = LINE,
    pixel: float = 1.0,
    rounds: int = ROUNDS,
) -> Fit:
    """Regression on the moving image by reweighted least squares.

    Args:
        moving, fixed, weights: Images, and weights that are given.
        model: How grey values may differ.
        pixel: Size of a pixel at the isocentre [mm].
        rounds: How often weights are found anew.
    """
    fields = smooth_fields(*moving.shape[1:], model.smooth).to(moving)
    moving, fixed = moving.flatten(1), fixed.flatten(1)
    given = torch.ones_like(moving) if weights is None else weights.flatten(1)
    fixed = torch.where(given > 0, fixed, 0.0)
    w, residual, scale = given, fixed, fixed.new_ones(len(fixed), 1)
    for _ in range(rounds):
        residual = _left(moving, fixed, w, model.degree, fields)
        seen = torch.where(given > 0, residual.abs(), torch.nan)
        scale = (1.4826 * seen.nanmedian(dim=1, keepdim=True).values).clamp_min(_LEAST * pixel)
        w = given * (1 - (residual / (_CUT * scale)).square()).clamp_min(0).square()
    return Fit(w, torch.where(given > 0, residual, 0.0), scale[:, 0])


def _left(moving, fixed, weights, degree, fields):
    """Fixed image minus its regression, over the deviation of what the regression explains."""
    grey = regress(moving, fixed, weights, degree, fields)
    share = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-30)
    middle = (share * grey.fitted).sum(dim=1, keepdim=True)
    contrast = (share * (grey.fitted - middle).square()).sum(dim=1, keepdim=True).sqrt()
    return grey.left / contrast.clamp_min(1e-20)


def reweighed(
    objective: Objective, images: Sequence[Float[Tensor, "m _"]], rounds: int = ROUNDS
) -> tuple[Objective, list[Fit]]:
    """Views with new weights, and the fits behind them, from the images that each view shows."""
    found, fits = [], []
    for sight, image in zip(objective.sights, images, strict=True):
        moving = image.reshape(-1, *sight.fixed.shape[-2:])
        given = None if sight.weights is None else sight.weights[:, 0].expand_as(moving)
        fixed = sight.fixed[:, 0].expand_as(moving)
        how = (sight.grey, sight.drr.carm.pixel, rounds)
        fits.append(fit(moving, fixed, given, *how))
        weights = fits[-1].weights.reshape(-1, 1, *moving.shape[1:])
        found.append(dataclasses.replace(sight, weights=weights))
    return objective.with_sights(found), fits


def misfit(fits: Sequence[Fit], owner: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Mean squared residual, each cut off where the best row of the same owner cuts it.

    One measure for all rows of an owner, which their own weights are not.
    """
    total = torch.zeros(len(owner), dtype=torch.float64)
    for one in fits:
        scale = one.scale.cpu()
        least = torch.full((int(owner.max()) + 1,), torch.inf, dtype=scale.dtype)
        least = least.scatter_reduce(0, owner, scale, "amin")[owner].to(one.residual)
        cut = (_CUT * least).square()[:, None]
        total += one.residual.square().minimum(cut).mean(dim=1).double().cpu() / len(fits)
    return total
