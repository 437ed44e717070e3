"""What `track` returns: a registration for each time step, and what they tell together."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from drrlib.arrays import as_length
from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry import PARAMETERS, inverse, to_degrees
from drrlib.registration.result import RegistrationResult, plain, read_json, write_json

_FORMAT = "drrlib track 1"


@dataclass(frozen=True, eq=False, repr=False)
class Track:
    """One body at n time steps; `track[k]` is the registration of time step k.

    Attributes:
        results: One for each time step. `attempts` is 0 where the short fit was trusted, else how
            often a search was made; `loss` is that of the finest level that was used there.
        smooth: Width of the smoothing over time [time steps]; None for none.
    """

    results: tuple[RegistrationResult, ...]
    smooth: float | None = None

    def __repr__(self) -> str:
        good, found = int(self.converged.sum()), self.results
        sd = self.target_sd[self.converged]
        sure = f"; +- {float(sd.median()):.2g} mm in the median" if len(sd) else ""
        searched = sum(one.attempts > 0 for one in found)
        renders = sum(one.renders for one in found)
        return (
            f"Track({len(found)} time steps, {good} trusted{sure}; {searched} searched; "
            f"{renders:.0f} full renders in {sum(one.seconds for one in found):.1f} s)"
        )

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: int) -> RegistrationResult:
        return self.results[index]

    def __eq__(self, other: object) -> bool:
        """Whether every number is the same, NaN included."""
        if not isinstance(other, Track):
            return NotImplemented
        return self.results == other.results and self.smooth == other.smooth

    __hash__ = None

    @property
    def poses(self) -> Float[Tensor, "n 4 4"]:
        """world_from_camera of each time step, doubtful ones included."""
        return torch.stack([one.pose for one in self.results])

    @property
    def eta(self) -> Float[Tensor, "n 6"]:
        """The same as parameters [rad, mm]."""
        return torch.stack([one.eta for one in self.results])

    @property
    def converged(self) -> Bool[Tensor, " n"]:
        """Which time steps can be trusted."""
        return torch.tensor([bool(one.converged) for one in self.results])

    @property
    def target_sd(self) -> Float[Tensor, " n"]:
        """Stated standard deviation at points 50 mm off the centre [mm]."""
        return torch.tensor([one.target_sd for one in self.results], dtype=torch.float64)

    def table(self) -> list[dict]:
        """A row for each time step: frame, verdict, pose [deg, mm], stated errors [mm], costs."""
        rows = []
        for k, one in enumerate(self.results):
            units = ("deg",) * 3 + ("mm",) * 3
            names = [f"{n}_{u}" for n, u in zip(PARAMETERS, units, strict=True)]
            rows.append(
                {
                    "frame": k,
                    "converged": bool(one.converged),
                    "reason": one.reason,
                    **dict(zip(names, to_degrees(one.eta).tolist(), strict=True)),
                    "target_sd_mm": one.target_sd,
                    "across_sd_mm": one.across_sd,
                    "depth_sd_mm": one.depth_sd,
                    "loss": one.loss,
                    "kept": one.kept,
                    "searches": one.attempts,
                    "renders": one.renders,
                    "seconds": one.seconds,
                }
            )
        return rows

    def relative_to(self, other: "Track") -> Float[Tensor, "n 4 4"]:
        """Pose of this body in the frame of another at each time step, as of a joint.

        Args:
            other: The other body, tracked in the same frames.

        Returns:
            other_from_this: points of this body's CT to the other's [mm]; NaN where either body is
            doubtful.

        Raises:
            ConfigError, ShapeError: no track, or one of another number of time steps.
        """
        if not isinstance(other, Track):
            raise ConfigError(f"other is a {type(other).__name__}; expected a Track")
        if len(self) != len(other):
            raise ShapeError(
                f"this track has {len(self)} time steps, the other {len(other)}; expected two "
                "bodies tracked in the same frames"
            )
        found = other.poses @ inverse(self.poses)
        return torch.where((self.converged & other.converged)[:, None, None], found, math.nan)

    def save(self, path: str | os.PathLike) -> Path:
        """Write everything as JSON, without a lost digit; `load` reads it back equal."""
        results = [plain(one) for one in self.results]
        return write_json(path, _FORMAT, {"smooth": self.smooth, "results": results})

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Track":
        """Read what `save` wrote.

        Raises:
            ConfigError: the file cannot be read, or is something else.
        """
        return read_json(path, _FORMAT, cls._from_plain)

    @classmethod
    def _from_plain(cls, entries: dict) -> "Track":
        results = tuple(RegistrationResult.from_plain(one) for one in entries["results"])
        smooth = entries["smooth"]
        return cls(results, None if smooth is None else as_length(smooth, "smooth"))
