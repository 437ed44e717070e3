"""Work for studies in tests; a module, so that other processes can import it."""

import time

import pandas as pd
import torch

from drrlib.study import trial_generator


def draws(config, indices):
    """A random number per trial."""
    rows = []
    for i in indices:
        if i == config.get("broken"):
            raise RuntimeError(f"trial {i} cannot be done")
        time.sleep(config.get("sleep", 0))
        value = torch.rand((), generator=trial_generator(config["seed"], i), dtype=torch.float64)
        rows.append(dict(trial=i, value=config["scale"] * float(value)))
    return pd.DataFrame(rows)


def wrong(config, indices):
    """Trials that nobody asked for."""
    return pd.DataFrame({"trial": [i + 1 for i in indices]})
