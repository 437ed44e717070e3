"""How much a registration tries before it answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from drrlib.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """How much is tried before an answer is given.

    Args:
        rotations: Coarse images of the sweep.
        kept: Poses that descend at the coarsest level, half of them all the way.
        steps: Steps of that descent (Adam).
        refined: Different places, at most, that are refined at the second level.
        rounds: Most steps of each round of Levenberg-Marquardt at the second level; outliers are
            looked for before each round.
        fine_rounds: The same for every finer level, for the best place alone.
        finest: Pixels across the detector that are enough; None for all.
        attempts: Where the answer is not sure, begin again with more rotations, so many times
            in all.
        degree: Of the polynomial by which grey values may differ from the CT's in the fine steps:
            1 for scale and offset, 2 or 3 for another spectrum too.
        smooth: Degree of the polynomial over the detector by which images may differ as well, as by
            scatter; 0 for none. Not used where the finest level is less than 80 pixels across.
        rates: Rates of the coarse descent for rotation [rad] and translation [mm].
        seed: Of the sweep.

    Raises:
        ConfigError: one of them leaves nothing to try.
    """

    rotations: int
    kept: int
    steps: int
    refined: int
    rounds: tuple[int, ...]
    fine_rounds: tuple[int, ...]
    finest: int | None
    attempts: int
    degree: int = 3
    smooth: int = 3
    rates: tuple[float, float] = (0.05, 8.0)
    seed: int = 0

    def __post_init__(self):
        counts = {
            name: getattr(self, name) for name in ("rotations", "kept", "refined", "attempts")
        }
        counts |= {name: len(getattr(self, name)) for name in ("rounds", "fine_rounds")}
        empty = [name for name, count in counts.items() if count < 1]
        if empty:
            raise ConfigError(f"{', '.join(empty)} of the preset empty or below 1; expected one")


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "fast": Preset(96, 6, 30, 2, (8, 4), (5,), finest=100, attempts=1),
        "robust": Preset(256, 12, 40, 3, (10, 6, 4), (4, 3), finest=None, attempts=2),
    }
)


def get_preset(preset: str | Preset) -> Preset:
    """The preset of that name, or the one that was given.

    Raises:
        ConfigError: an unknown name.
    """
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise ConfigError(
            f"preset is {preset!r}; choose {', '.join(PRESETS)}, in `register` also paper, "
            "or give a Preset"
        )
    return PRESETS[preset]
