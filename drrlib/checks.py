"""What a registration is given, checked before the work begins."""

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry.localizer import Geometry


def check_starts(start: Tensor) -> Float[Tensor, "n 6"]:
    """Starts [n, 6] on the CPU in float64.

    Raises:
        ShapeError: not [6] or [n, 6].
        ConfigError: not finite.
    """
    if start.ndim not in (1, 2) or start.shape[-1] != 6 or start.numel() == 0:
        raise ShapeError(f"start has shape {tuple(start.shape)}; expected [6] or [n, 6], n >= 1")
    if not bool(torch.isfinite(start).all()):
        raise ConfigError("start has NaN or infinite parameters; expected rad and mm")
    return start.detach().to("cpu", torch.float64).reshape(-1, 6)


def check_image(
    fixed: Tensor, carm: Geometry, weights: Tensor | None = None, name: str = "fixed"
) -> tuple[Float[Tensor, "t 1 height width"], Float[Tensor, "t 1 height width"] | None]:
    """Images [t, 1, height, width] in float64, and a weight for each of their pixels.

    Raises:
        ShapeError: another size than the detector's.
        ConfigError: not finite, constant, or weights that leave nothing.
    """
    size = (carm.height, carm.width)
    if tuple(fixed.shape[-2:]) != size or fixed.ndim not in (2, 4) or fixed.shape[:-2].numel() < 1:
        raise ShapeError(
            f"{name} has shape {tuple(fixed.shape)}; the C-arm has a detector of {size} pixels: "
            "expected [height, width] or [n, 1, height, width] of that size"
        )
    if fixed.ndim == 4 and fixed.shape[1] != 1:
        raise ShapeError(f"{name} has {fixed.shape[1]} channels; expected [n, 1, height, width]")
    fixed = fixed.detach().double().reshape(-1, 1, *size)
    if weights is not None:
        one_or_each = weights.numel() in (fixed[0].numel(), fixed.numel())
        if tuple(weights.shape[-2:]) != size or not one_or_each:
            raise ShapeError(
                f"weights of {name} have shape {tuple(weights.shape)}; expected {size}, or as fixed"
            )
        weights = weights.detach().to(fixed).reshape(-1, 1, *size).expand_as(fixed)
        if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
            raise ConfigError(f"weights of {name} are negative or not finite; expected >= 0")
    counts = torch.ones_like(fixed, dtype=torch.bool) if weights is None else weights > 0
    if not bool(torch.isfinite(fixed[counts]).all()):
        where = "" if weights is None else " where its weight is not 0"
        raise ConfigError(
            f"{name} has NaN or infinite pixels{where}; give them weight 0, or replace them first"
        )
    low = torch.where(counts, fixed, torch.inf).amin(dim=(1, 2, 3))
    high = torch.where(counts, fixed, -torch.inf).amax(dim=(1, 2, 3))
    if bool((low >= high).any()):
        raise ConfigError(f"{name} is constant where its weight is not 0; nothing to register to")
    return fixed, weights
