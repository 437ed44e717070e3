"""Which similarity when: registrations to images that differ from a DRR as X-ray images do."""

import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.drr import DRR
from drrlib.errors import ConfigError
from drrlib.geometry.metrics import mtre, targets
from drrlib.lab.detector import (
    Spectrum,
    add_scatter,
    blur,
    instrument,
    polychromatic,
    quantum_noise,
    saturate,
    two_materials,
)
from drrlib.lab.evaluation import rate_columns
from drrlib.lab.studies.registration import Protocol
from drrlib.optimize.loop import descend

_EACH = {
    "scale, offset": dict(scale=0.5, offset=1.0),
    "grey map": dict(curve=0.15),
    "spectrum": dict(kvp=120.0),
    "noise": dict(photons=1000.0),
    "scatter": dict(scatter=0.5),
    "instrument": dict(rod=12.0),
}
# Effects of `acquire` by the name of the condition.
CONDITIONS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "same image": {},
        **_EACH,
        "all": {name: x for effects in _EACH.values() for name, x in effects.items()},
    }
)


def acquire(
    parts: tuple[DRR, DRR],
    pose: Float[Tensor, "1 4 4"],
    dice: torch.Generator,
    *,
    kvp: float = 0.0,
    rod: float = 0.0,
    scatter: float = 0.0,
    unsharp: float = 0.0,
    photons: float = 0.0,
    curve: float = 0.0,
    scale: float = 1.0,
    offset: float = 0.0,
) -> Float[Tensor, "1 1 height width"]:
    """One X-ray image, with the effects that are not 0 in the order of physics.

    Args:
        parts: Renderers made by `two_materials`.
        pose: world_from_camera.
        dice: Draws the rod's place and the noise.
        kvp: Tube voltage [kV] behind 3 mm of aluminium; 0 for 60 keV alone, which is the DRR.
        rod: Diameter [mm, on the detector] of a steel rod that comes from outside at any angle
            and ends near the middle (within 15 % of the detector); saturated at 12 bits.
        scatter: Median scatter-to-primary ratio, spread over a fourth of the detector's width.
        unsharp: Standard deviation of the detector's blur [pixels].
        photons: Per pixel of the open beam.
        curve: c of the grey map (1 - exp(-c x)) / c, as of a display or an unknown preprocessing.
        scale, offset: Of the grey values, at last.
    """
    carm = parts[0].carm
    if kvp:
        image = polychromatic(parts, pose, Spectrum.kramers(kvp))
    else:
        image = parts[0](pose) + parts[1](pose)
    if rod:
        size = torch.tensor([carm.width * float(carm.delx), carm.height * float(carm.dely)])
        draw = torch.rand(3, generator=dice, dtype=torch.float64)
        tip = size * (0.5 + 0.3 * (draw[:2] - 0.5))
        angle = 2 * torch.pi * draw[2]
        away = 2 * size.max() * torch.stack([angle.cos(), angle.sin()])
        image = image + instrument(carm, tip[None], (tip + away)[None], rod).to(image)
    if scatter:
        image = add_scatter(image, scatter, carm.width / 4)
    if unsharp:
        image = blur(image, unsharp)
    if photons:
        image = quantum_noise(image, photons, dice)
    if rod:
        image = saturate(image)
    if curve:
        image = (1 - torch.exp(-curve * image)) / curve
    return scale * image + offset


def similarity_trials(config: Mapping, indices: Sequence[int]) -> pd.DataFrame:
    """Registrations by one similarity under all conditions; the work of `run_study`.

    Args:
        config: `protocol`, entries of a Protocol, whose `loss` is the similarity (its `noise` must
            be 0); `conditions`, effects of `acquire` by name.
        indices: Start k under condition c of n has index k n + c. True pose, start, place of the
            rod and noise depend on k alone: all conditions and similarities get the same.

    Returns:
        Columns trial, similarity, condition, start, loss (of the image, by the similarity),
        mtre_mm, start_mtre_mm.

    Raises:
        ConfigError: noise in the protocol, an unknown effect.
    """
    protocol = Protocol.of(config["protocol"])
    if protocol.noise:
        raise ConfigError(
            f"noise is {protocol.noise}; expected 0: noise comes from the conditions' photons"
        )
    names = list(config["conditions"])
    parameters = inspect.signature(acquire).parameters.values()
    known = [p.name for p in parameters if p.kind == p.KEYWORD_ONLY]
    unknown = sorted({x for effects in config["conditions"].values() for x in effects} - set(known))
    if unknown:
        raise ConfigError(f"there is no effect {', '.join(unknown)}; choose of {', '.join(known)}")
    drr = protocol.renderer()
    parts = two_materials(drr)
    etas, starts, images = [], [], []
    for index in indices:
        eta, start, dice = protocol.draw(index // len(names))
        effects = config["conditions"][names[index % len(names)]]
        etas.append(eta)
        starts.append(start)
        images.append(acquire(parts, drr.pose(eta[None]), dice, **effects))
    start, true_pose = torch.stack(starts), drr.pose(torch.stack(etas))
    result = descend(
        torch.cat(images), drr.volume, drr.carm, start, loss=protocol.loss,
        optimizer=protocol.optimizer, levels=protocol.levels, schedule=protocol.schedule,
        threshold=protocol.threshold, patience=1 + sum(n for _, n in protocol.levels),
        method=protocol.method, backend=protocol.backend, progress=False,
    )  # fmt: skip
    points = targets(drr.volume)
    return pd.DataFrame(
        dict(
            trial=list(indices),
            similarity=protocol.loss,
            condition=[names[i % len(names)] for i in indices],
            start=[i // len(names) for i in indices],
            loss=result.final_loss.numpy(),
            mtre_mm=mtre(drr.pose(result.final_eta), true_pose, points).numpy(),
            start_mtre_mm=mtre(drr.pose(start), true_pose, points).numpy(),
        )
    )


def success_by_condition(trials: pd.DataFrame, limit: float = 1.0) -> pd.DataFrame:
    """How often each similarity finds the pose under each condition, with Wilson's 95 % interval.

    Args:
        trials: Rows of `similarity_trials`.
        limit: mTRE [mm] below which a start has succeeded.

    Returns:
        Columns similarity, condition, successes, trials, rate_percent, low_percent, high_percent,
        median_mtre_mm (of all starts), in the order of `trials`.
    """
    rows = []
    for (similarity, condition), group in trials.groupby(["similarity", "condition"], sort=False):
        hits, count = int((group["mtre_mm"] < limit).sum()), len(group)
        row = dict(similarity=similarity, condition=condition, successes=hits, trials=count)
        rows.append(row | rate_columns(hits, count))
        rows[-1]["median_mtre_mm"] = float(group["mtre_mm"].median())
    return pd.DataFrame(rows)


def best_by_condition(table: pd.DataFrame) -> pd.DataFrame:
    """The similarity that succeeds most often under each condition, and those beside it.

    Args:
        table: Rows of `success_by_condition`.

    Returns:
        Columns condition, best ("none" where no start succeeds), rate_percent of the best, and
        not_told_apart: the others whose interval reaches the interval of the best, with a comma
        between them.
    """
    rows = []
    for condition, group in table.groupby("condition", sort=False):
        best = group.loc[group["rate_percent"].idxmax()]
        reach = group["high_percent"] >= best["low_percent"]
        others = group.loc[reach & (group["similarity"] != best["similarity"]), "similarity"]
        if best["rate_percent"] == 0:
            best, others = {**best, "similarity": "none"}, []
        row = dict(condition=condition, best=best["similarity"], rate_percent=best["rate_percent"])
        rows.append({**row, "not_told_apart": ", ".join(others)})
    return pd.DataFrame(rows)
