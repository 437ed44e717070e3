"""How much a registration tries before it answers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from drrlib.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """How much is tried before an answer is given.

    Args:
        rotations: Coarse images of the sweep.
        kept: Poses that descend at the coarsest level, half of them all the way where outliers are
            looked for.
        steps: Steps of that descent (Adam).
        refined: Different places, at most, that are refined at each finer level; the last number
            holds for all further ones.
        rounds: Most steps of each round of Levenberg-Marquardt at each finer level, likewise;
            outliers are looked for before each round.
        finest: Pixels across the detector that are enough; None for all.
        attempts: Where the answer is not sure, begin again with more rotations, so many times
            in all.
        degree: Of the polynomial by which grey values may differ from the CT's in the fine steps:
            1 for scale and offset, 2 or 3 for another spectrum too.
        smooth: Degree of the polynomial over the detector by which images may differ as well, as by
            scatter; 0 for none. Not used where the finest level is less than 80 pixels across.
        window: Standard deviation [pixels of each level] of the windows in which both images are
            normalised, which also finds inverted images and leaves out rays beyond the CT. Degree,
            smooth and outliers then have nothing to do. 0 for none. Of no use to losses other than
            1 - ZNCC, which see grey values as they are.
        rates: Rates of the coarse descent for rotation [rad] and translation [mm].
        seed: Of the sweep.

    Raises:
        ConfigError: one of them leaves nothing to try.
    """

    rotations: int
    kept: int
    steps: int
    refined: tuple[int, ...]
    rounds: tuple[tuple[int, ...], ...]
    finest: int | None
    attempts: int
    degree: int = 3
    smooth: int = 3
    window: float = 0.0
    rates: tuple[float, float] = (0.05, 8.0)
    seed: int = 0

    def __post_init__(self):
        counts = {name: getattr(self, name) for name in ("rotations", "kept", "attempts")}
        counts["refined"] = min(self.refined, default=0)
        counts["rounds"] = min((len(steps) for steps in self.rounds), default=0)
        empty = [name for name, count in counts.items() if count < 1]
        if empty:
            raise ConfigError(f"{', '.join(empty)} of the preset empty or below 1; expected one")
        if not 0 <= self.window < math.inf:
            raise ConfigError(f"window of the preset is {self.window}; expected pixels, 0 or more")

    def at(self, level: int) -> tuple[int, tuple[int, ...]]:
        """Places, and rounds of steps, at a level finer than the coarsest, which is 0."""
        return tuple(x[min(max(level, 1), len(x)) - 1] for x in (self.refined, self.rounds))


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "fast": Preset(96, 6, 30, (2, 1), ((8, 4), (5,)), finest=100, attempts=1),
        "robust": Preset(256, 12, 40, (3, 1), ((10, 6, 4), (4, 3)), finest=None, attempts=2),
        "xray": Preset(
            512, 24, 50, (12, 5, 1), ((12,), (8,), (6,)), finest=256, attempts=2, window=2.5
        ),
    }
)


def get_preset(preset: str | Preset) -> Preset:
    """The preset of that name, or the one that was given.

    Raises:
        ConfigError: an unknown name.
    """
    if isinstance(preset, Preset):
        return preset
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ConfigError(
            f"preset is {preset!r}; choose {', '.join(PRESETS)}, in `register` also paper, "
            "or give a Preset"
        )
    return PRESETS[preset]
