"""Which similarity when: registrations to images that differ from a DRR as X-ray images do."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pandas as pd
import torch

from drrlib.errors import ConfigError
from drrlib.geometry import mtre
from drrlib.lab.detector import Effects, acquire, two_materials
from drrlib.lab.evaluation import rate_columns
from drrlib.lab.studies.protocol import read_config

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


def similarity_trials(config: Mapping, indices: Sequence[int]) -> pd.DataFrame:
    """Registrations by one similarity under all conditions; the work of `run_study`.

    Args:
        config: `protocol`, entries of a Protocol but noise and trace, whose `loss` is the
            similarity; `conditions`, effects of `acquire` by name.
        indices: Start k under condition c of n has index k n + c. True pose, start, place of the
            rod and noise depend on k alone: all conditions and similarities get the same.

    Returns:
        Columns trial, similarity, condition, start, loss (of the image, by the similarity),
        mtre_mm, start_mtre_mm.

    Raises:
        ConfigError: an unknown effect or entry, or one that is not used.
    """
    protocol, conditions = read_config(config, "conditions")
    work = "a study of similarities, whose conditions have noise of their own,"
    protocol.refuse(work, "noise", "trace")
    names = list(conditions)
    if not names:
        raise ConfigError(
            "conditions is empty; expected effects by name, such as {'same image': {}}"
        )
    for effects in conditions.values():
        Effects.of(effects)
    numbers, met = zip(*((i // len(names), names[i % len(names)]) for i in indices), strict=True)
    drr = protocol.renderer()
    parts = two_materials(drr)
    true_eta, start, dice = protocol.draws(numbers)
    true_pose = drr.pose(true_eta)
    images = [
        acquire(parts, drr.pose(eta[None]), d, **conditions[name])
        for eta, d, name in zip(true_eta, dice, met, strict=True)
    ]
    result = protocol.descend(torch.cat(images), drr, start, numbers)
    points = drr.volume.targets
    table = dict(trial=list(indices), similarity=protocol.loss, condition=met, start=numbers)
    table["loss"] = result.loss.numpy()
    table["mtre_mm"] = mtre(result.pose, true_pose, points).numpy()
    table["start_mtre_mm"] = mtre(drr.pose(start), true_pose, points).numpy()
    return pd.DataFrame(table)


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
