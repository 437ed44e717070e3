"""Calls of public functions, in which one or two arguments are wrong."""

import random
import shutil
import warnings
from pathlib import Path

import numpy as np
import torch

from fuzzing.doors import doors
from fuzzing.judge import said

SHAPES = [(), (0,), (3,), (6,), (4, 4), (2, 6), (1, 4, 4), (5, 5, 5), (1, 1, 6, 6), (6, 6)]
SHAPES += [(3, 4), (3, 3), (8, 3), (1, 0), (5, 6, 4), (2, 5, 6, 4)]


def numbers(draw: random.Random):
    """Something in the place of a number."""
    odd = [0, -1, 1, 2.5, 1e30, -1e-30, float("nan"), float("inf"), None, "3", "", True, 1 + 2j]
    odd += [[], [1.0], {}, object(), torch.tensor(3.0), torch.ones(2), np.ones(1), 10**400, 2**63]
    odd += [np.float16(3), np.int8(-3), b"3", (0, 3), "\0", "nan", [[1.0], [1.0, 2.0]], [None]]
    return draw.choice([*odd, torch.nn.Parameter(torch.ones(6)), range(3), np.datetime64("NaT")])


def arrays(draw: random.Random):
    """Something in the place of an array."""
    shape = draw.choice(SHAPES)
    values = np.asarray(np.random.default_rng(draw.randrange(2**32)).normal(size=shape))
    if values.size and draw.random() < 0.4:
        values.flat[draw.randrange(values.size)] = draw.choice([np.nan, np.inf, -np.inf, 1e300])
    if draw.random() < 0.2:
        values = np.asarray(np.clip(values, -9, 9) * draw.choice([0.0, 1e-300, 1e20, 1e300]))
    made = draw.choice([float, np.float32, np.float16, ">f4", int, bool, complex, str, object])
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = values.astype(made)
    if made in (str, object, ">f4") or draw.random() < 0.4:
        return draw.choice(
            [
                values,
                values.tolist(),
                np.ma.masked_array(values),
                values[..., ::-1] if values.ndim else values,
            ]
        )
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    kinds = [tensor, tensor.to("meta"), tensor.to_sparse() if tensor.ndim else tensor]
    kinds += [tensor.to(torch.bfloat16), tensor.T if tensor.ndim == 2 else tensor]
    if tensor.is_floating_point():
        kinds.append(tensor.clone().requires_grad_())
    return draw.choice([*kinds, tensor, tensor])


class Calls:
    """`trial(draw)` calls one function; what was given is in `given`."""

    def __init__(self, folder: Path):
        self.folder = folder / "calls"
        self.folder.mkdir()
        self.known = doors(self.folder)
        self.given = ""

    def trial(self, draw: random.Random) -> str | None:
        door = draw.choice(self.known)
        places, words = list(door.places), dict(door.words)
        for _ in range(draw.choice([1, 1, 2])):
            keys = [*range(len(places)), *words]
            key, value = draw.choice(keys), draw.choice([numbers, arrays])(draw)
            (words if isinstance(key, str) else places)[key] = value
        if (self.folder / "ct").exists():
            shutil.rmtree(self.folder / "ct")
        self.given = f"{door.name}: {door.places}, {door.words}\n<- {places}, {words}\n"
        allowed = (OSError,) if "write" in door.name else ()
        found = said(lambda: [str(door.function(*places, **words))[:2000]], allowed)
        return f"{door.name}: {found}" if found else None

    def warm(self) -> None:
        """Kernels are compiled before any clock runs."""
        for door in self.known:
            said(lambda door=door: [str(door.function(*door.places, **door.words))])
