"""Losses by name, and functions of one's own in their place.

A loss is a function (fixed, moving, weights) -> [b] that is to be minimised. Those by name are at
least 0, and 0 where the images match.
"""

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from drrlib.errors import ConfigError
from drrlib.similarity.correlation import l2_loss, ncc, ncc_loss, zncc, zncc_loss
from drrlib.similarity.gradient import gradient_ncc_loss
from drrlib.similarity.information import mutual_information_loss
from drrlib.similarity.patch import multiscale_ncc_loss, patch_ncc_loss

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]

LOSSES: Mapping[str, Loss] = MappingProxyType(
    {
        "zncc": zncc_loss,
        "ncc": ncc_loss,
        "l2": l2_loss,
        "gradient_ncc": gradient_ncc_loss,
        "patch_ncc": patch_ncc_loss,
        "multiscale_ncc": multiscale_ncc_loss,
        "mutual_information": mutual_information_loss,
    }
)


def get_loss(loss: str | Callable) -> Loss:
    """The loss of that name; or a function of one's own, with the signature that all losses have.

    A function (fixed, moving) -> [b] will do where no weights are given.

    Raises:
        ConfigError: an unknown name, a likeness, or a function of other arguments.
    """
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss]
    if not callable(loss):
        raise ConfigError(f"loss is {loss!r}; choose one of {', '.join(LOSSES)} or pass a function")
    if loss in (zncc, ncc):
        raise ConfigError(
            f"loss is the function {loss.__name__}, a likeness, and a loss is to be minimised: "
            f'pass "{loss.__name__}" or {loss.__name__}_loss'
        )
    taken = _positional(loss)
    if taken >= 3:
        return loss
    if taken < 2:
        raise ConfigError(f"loss takes {taken} arguments; expected (fixed, moving, weights)")

    def unweighted(fixed: Tensor, moving: Tensor, weights: Tensor | None = None) -> Tensor:
        if weights is not None:
            raise ConfigError(
                "weights are given, and the loss takes (fixed, moving) alone; add a third "
                "argument, weights, which may be None"
            )
        return loss(fixed, moving)

    return unweighted


def check_falls(loss: Loss, fixed: Tensor, weights: Tensor | None = None) -> None:
    """Raise ConfigError unless an image is as near to itself as to its mirror image, or nearer.

    A likeness in the place of a loss would lead a registration away without a word.
    """
    with torch.no_grad():
        fixed = torch.where(weights > 0, fixed, 0.0) if weights is not None else fixed
        same, other = loss(fixed, fixed, weights), loss(fixed, fixed.flip(-1), weights)
    if bool((same > other + 1e-6 * other.abs()).any()):
        raise ConfigError(
            f"the loss of an image with itself is {float(same.max()):.3g}, more than the "
            f"{float(other.min()):.3g} of its mirror image; a loss is to be minimised: turn its "
            "sign"
        )


def _positional(function: Callable) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # built in: nothing is known of it
        return 3
    if any(p.kind == p.VAR_POSITIONAL for p in parameters):
        return 3
    own = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in own for p in parameters)
