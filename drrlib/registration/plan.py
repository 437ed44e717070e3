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
        kept: Poses that descend at the coarsest level.
        steps: Steps of that descent (Adam).
        refined: Different places, at most, that are refined at each finer level; the last number
            holds for all further ones.
        rounds: Most steps of Levenberg-Marquardt at each finer level, likewise.
        finest: Pixels across the detector that are enough; None for all.
        attempts: Where the answer is not sure, begin again with more rotations, so many times
            in all.
        window: Standard deviation [pixels of each level] of the windows in which both images are
            normalised; 0 compares grey values as they are, and takes no inverted image.
        rates: Rates of the coarse descent for rotation [rad] and translation [mm].
        seed: Of the sweep.

    Raises:
        ConfigError: one of them leaves nothing to try.
    """

    rotations: int
    kept: int
    steps: int
    refined: tuple[int, ...]
    rounds: tuple[int, ...]
    finest: int | None
    attempts: int
    window: float = 2.5
    rates: tuple[float, float] = (0.05, 8.0)
    seed: int = 0

    def __post_init__(self):
        counts = {name: getattr(self, name) for name in ("rotations", "kept", "attempts")}
        for name in ("refined", "rounds"):
            counts[name] = min(getattr(self, name), default=0)
        empty = [name for name, count in counts.items() if count < 1]
        if empty:
            raise ConfigError(f"{', '.join(empty)} of the preset empty or below 1; expected one")
        if not self.window >= 0:
            raise ConfigError(f"window of the preset is {self.window}; expected pixels >= 0")

    def at(self, level: int) -> tuple[int, int]:
        """Places and most steps at a level finer than the coarsest, which is 0."""
        return tuple(x[min(max(level, 1), len(x)) - 1] for x in (self.refined, self.rounds))


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "fast": Preset(256, 12, 40, (6, 1), (10, 6), finest=100, attempts=1),
        "robust": Preset(512, 24, 50, (12, 5, 1), (12, 8, 6), finest=256, attempts=2),
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
