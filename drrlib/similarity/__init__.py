"""How alike two images are: correlations, losses by name, and how grey values may differ."""

from drrlib.similarity.correlation import l2_loss, ncc, ncc_loss, zncc, zncc_loss
from drrlib.similarity.grey import LINE, Grey, Model, regress, smooth_fields
from drrlib.similarity.local import normalise
from drrlib.similarity.losses import LOSSES, Loss, check_falls, get_loss

__all__ = [
    "LINE",
    "LOSSES",
    "Grey",
    "Loss",
    "Model",
    "check_falls",
    "get_loss",
    "l2_loss",
    "ncc",
    "ncc_loss",
    "normalise",
    "regress",
    "smooth_fields",
    "zncc",
    "zncc_loss",
]
