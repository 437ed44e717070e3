"""What leaves an explorer: its views with weights, and a pose that was placed by hand."""

import dataclasses
from typing import TYPE_CHECKING

from drrlib.registration import RegistrationResult
from drrlib.view import View

if TYPE_CHECKING:
    from drrlib.lab.explorer.state import Explorer


def views_of(explorer: "Explorer") -> list[View]:
    """The views as they are to be registered: with the C-arms' lengths as set by hand, and the
    drawn regions joined with the weights that they came with."""
    views = []
    for view, carm, areas in zip(
        explorer.views, explorer.placement.carms, explorer.areas, strict=True
    ):
        weights = areas.weights(view.carm)
        if weights is not None and view.weights is not None:
            weights = weights * view.weights
        weights = view.weights if weights is None else weights
        views.append(dataclasses.replace(view, carm=carm, weights=weights))
    return views


def handed_over(explorer: "Explorer") -> RegistrationResult:
    """The pose of the first view, said to be placed by hand; `converged` is False, since nothing
    judged it. Its loss is NaN without an X-ray image."""
    placement = explorer.frames.activate(explorer.placement, 0)
    shown = explorer.look().loss
    return RegistrationResult(
        eta=placement.eta.clone(),
        pose=explorer.frames.pose(placement),
        loss=float("nan") if shown is None else shown,
        converged=False,
        reason="placed by hand",
        carm=placement.carms[0],
        center=explorer.volume.center,
        renders=0.0,
        seconds=0.0,
    )
