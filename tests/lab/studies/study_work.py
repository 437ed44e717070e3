"""Work for studies in tests; a module, so that other processes can import it."""

import os
import signal
import time
from pathlib import Path

import numba
import pandas as pd
import torch

from drrlib.lab.studies import trial_generator


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


def counted(config, indices):
    """Draws that leave a line for each trial begun, in a file of this process."""
    with (Path(config["lines"]) / str(os.getpid())).open("a") as lines:
        for i in indices:
            lines.write(f"{i}\n")
    return draws(config, indices)


def witness(config, indices):
    """What a worker sees: its threads and its GPU."""
    time.sleep(config.get("sleep", 0))
    seen = dict(kernel=numba.get_num_threads(), torch=torch.get_num_threads())
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "unset")
    return pd.DataFrame([dict(trial=i, pid=os.getpid(), gpu=gpu, **seen) for i in indices])


def signals(config, indices):
    """What a worker does about Ctrl-C."""
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    return pd.DataFrame([dict(trial=i, ignored=ignored, blocked=blocked) for i in indices])


def fatal(config, indices):
    """Draws by a process that is killed, as for lack of memory, at one trial."""
    if config["at"] in indices:
        os.kill(os.getpid(), signal.SIGKILL)
    return draws(config, indices)
