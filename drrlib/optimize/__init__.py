"""What is minimised and how: objectives, step rules, second-order steps, searches, the loop."""

from drrlib.optimize.gradient_free import GRADIENT_FREE, CmaEs, GradientFree, SciPySearch
from drrlib.optimize.iteration import Iteration
from drrlib.optimize.loop import constant, cosine, descend_level, linear, lowest, search_level
from drrlib.optimize.objective import Linear, Objective, Sight
from drrlib.optimize.rules import GD, GDDM, GDM, OPTIMIZERS, Adam, Optimizer, get_optimizer
from drrlib.optimize.search import LOST, RAN_OUT, Search, Trace
from drrlib.optimize.second_order import Normal, covariance, levenberg, normal_equations, residuals

__all__ = [
    "GD",
    "GDDM",
    "GDM",
    "GRADIENT_FREE",
    "LOST",
    "OPTIMIZERS",
    "RAN_OUT",
    "Adam",
    "CmaEs",
    "GradientFree",
    "Iteration",
    "Linear",
    "Normal",
    "Objective",
    "Optimizer",
    "SciPySearch",
    "Search",
    "Sight",
    "Trace",
    "constant",
    "cosine",
    "covariance",
    "descend_level",
    "get_optimizer",
    "levenberg",
    "linear",
    "lowest",
    "normal_equations",
    "residuals",
    "search_level",
]
