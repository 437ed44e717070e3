"""What a registration tries, and what it returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.errors import ConfigError
from drrlib.geometry.carm import CArm


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


@dataclass(frozen=True)
class RegistrationResult:
    """What a registration found and how sure it is.

    Attributes:
        eta: Pose parameters [6] (rad, mm).
        pose: The same as world_from_camera [4, 4].
        carm: The C-arm, with the lengths that were freed.
        loss: Loss of the pose at the finest level used; where outliers were found, without them.
        converged: Whether the pose can be trusted.
        reason: Why, or why not.
        gap: Misfit of the second-best place over that of the best, both at the second level;
            infinite where all candidates ended in one place.
        agreement: Part of the coarse candidates that ended in the best place.
        kept: Part of the image that the CT explains; the rest was taken for outliers.
        condition: Condition number of the Gauss-Newton matrix, in millimetres at points 50 mm off
            the centre.
        covariance: Of eta and the freed lengths, from the residual image [n, n]; that of 1 - ZNCC
            whatever the loss.
        target_sd: Standard deviation that it gives to these points [mm].
        places: Poses refined at the second level [k, 6], best first.
        misfits: Their mean squared residuals [k].
        path: (stage, eta, loss) of the best pose after each stage.
        attempts: How often the search was made.
        renders: Images rendered, counted in pixels of the full detector.
        seconds: Wall time; of a batch, its share.
    """

    eta: Float[Tensor, "6"]
    pose: Float[Tensor, "4 4"]
    carm: CArm
    loss: float
    converged: bool
    reason: str
    gap: float
    agreement: float
    kept: float
    condition: float
    covariance: Float[Tensor, "n n"]
    target_sd: float
    places: Float[Tensor, "k 6"]
    misfits: Float[Tensor, " k"]
    path: tuple[tuple[str, Tensor, float], ...]
    attempts: int
    renders: float
    seconds: float

    def __str__(self) -> str:
        angles = ", ".join(f"{a:+.2f}" for a in torch.rad2deg(self.eta[:3]).tolist())
        shift = ", ".join(f"{b:+.2f}" for b in self.eta[3:].tolist())
        return (
            f"{'converged' if self.converged else 'NOT converged'}: {self.reason}; loss "
            f"{self.loss:.3g}; theta, phi, gamma = {angles} deg; b = {shift} mm; "
            f"+-{self.target_sd:.2g} mm; {self.renders:.0f} full renders in {self.seconds:.1f} s"
        )
