"""Detectors and volumes from coarse to fine, for one view or several that share one pose."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from drrlib.drr import DRR
from drrlib.geometry.carm import CArm, Frame
from drrlib.geometry.se3 import check_rigid
from drrlib.optimize.second_order import Sight
from drrlib.volume import Volume

FREE = ("sdd", "delx", "dely", "x0", "y0")
_SMALLEST = 24  # pixels across the coarsest level


@dataclass(frozen=True)
class View:
    """A further X-ray image of the same patient position.

    Args:
        fixed: Line integrals [height, width].
        carm: Its intrinsics.
        relative: Pose of this camera seen from the first one, inverse(first) @ this [4, 4].
        weights: Non-negative weight of each pixel [height, width]; None for 1.
    """

    fixed: Tensor
    carm: CArm
    relative: Float[Tensor, "4 4"]
    weights: Tensor | None = None

    def __post_init__(self):
        check_rigid(self.relative, "relative")


class Levels:
    """Renderers of every level. Level 0 is the coarsest, the last one the detector itself.

    From one level to the next, pixels are joined two by two. Voxels are joined to about half a
    pixel as seen at the isocentre, and at least to a whole one of the finest level. Where a
    detector cannot be halved, it is continued by pixels of no weight.

    Args:
        volume: CT.
        carms: Intrinsics of each view.
        relatives: Pose of each camera seen from the first; the first is the identity.
        backend: As in `DRR`.
        finest: Pixels across the detector that are enough; None for all.
    """

    def __init__(
        self,
        volume: Volume,
        carms: Sequence[CArm],
        relatives: Sequence[Tensor],
        backend: str,
        finest: int | None,
    ):
        self.carms, self.relatives, self.center = tuple(carms), tuple(relatives), volume.center
        self.halvings = [
            max(0, int(math.log2(max(min(c.height, c.width) / _SMALLEST, 1)))) for c in carms
        ]
        last = max(self.halvings)
        if finest is not None:
            across = max(min(c.height, c.width) for c in carms)
            last = max(1, last - max(0, int(math.log2(max(across / finest, 1)))))
        self.last = min(last, max(self.halvings))
        size = [float(c.delx) * float(c.sod) / float(c.sdd) for c in carms]
        spacing = volume.spacing.tolist()
        made: dict[tuple[int, ...], DRR] = {}
        self._drr = []
        for level in range(self.last + 1):
            pixel = min(s * self.binning(k, level) for k, s in enumerate(size))
            least = min(s * self.binning(k, self.last) for k, s in enumerate(size))
            whole = math.floor if level == self.last else round
            factors = tuple(max(1, whole(max(pixel / 2, least) / x)) for x in spacing)
            if factors not in made:
                made[factors] = DRR(
                    volume.coarsen(factors), carms[0], method="joseph", backend=backend
                )
            self._drr.append(made[factors])

    def binning(self, view: int, level: int) -> int:
        """Pixels of the detector joined along each side."""
        return 2 ** max(self.halvings[view] - level, 0)

    def share(self, level: int) -> float:
        """Pixels of an image of this level, as a part of those of the first detector."""
        return 1 / self.binning(0, level) ** 2

    def carm(self, view: int, level: int, lengths: dict[str, Tensor] | None = None) -> CArm:
        """Intrinsics at that level, with some lengths of the real detector replaced."""
        carm = dataclasses.replace(self.carms[view], **(lengths or {}))
        bottom, right = self._padding(view)
        carm = dataclasses.replace(
            carm, height=carm.height + bottom, width=carm.width + right,
            x0=carm.x0 + 0.5 * right * carm.delx, y0=carm.y0 + 0.5 * bottom * carm.dely,
        )  # fmt: skip
        return carm.downsample(self.binning(view, level))

    def lengths(self, free: Sequence[str], values: Float[Tensor, " n"]) -> dict[str, Tensor]:
        """Freed lengths by name, kept where a C-arm can have them: a step may go too far."""
        carm = self.carms[0]
        least = {"sdd": 1.01 * carm.sod, "delx": 0.1 * carm.delx, "dely": 0.1 * carm.dely}
        return {
            name: value.clamp_min(float(least.get(name, -math.inf)))
            for name, value in zip(free, values, strict=True)
        }

    def renderer(self, view: int, level: int) -> DRR:
        return self._drr[level].with_carm(self.carm(view, level))

    def sights(
        self,
        level: int,
        fixed: Sequence[Float[Tensor, "t 1 _ _"]],
        weights: Sequence[Float[Tensor, "t 1 _ _"] | None],
        free: Sequence[str] = (),
    ) -> list[Sight]:
        """The views at that level, from images and weights of the real detectors' sizes."""
        found = []
        for k in range(len(self.carms)):
            image, weight = self._binned(k, level, fixed[k], weights[k])
            drr = self.renderer(k, level)
            device = drr.grid.mu.device
            found.append(
                Sight(
                    drr,
                    image.to(device, drr.grid.dtype),
                    None if weight is None else weight.to(device, drr.grid.dtype),
                    self._frames(k, level, tuple(free)),
                )
            )
        return found

    def _frames(self, view: int, level: int, free: tuple[str, ...]):
        carm, relative = self.carm(view, level), self.relatives[view]

        def frame_of(p: Float[Tensor, "m n"]) -> Frame:
            # The parameters are those of the first camera, whose isocentre may lie elsewhere.
            pose = self.carms[0].pose(p[:, :6], self.center) @ relative.to(p)
            if not free:
                return carm.frame(pose)
            rows = [
                self.carm(view, level, self.lengths(free, row[6:])).frame(pose[i : i + 1])
                for i, row in enumerate(p)
            ]
            return Frame(*(torch.cat(part) for part in zip(*rows, strict=True)))

        return frame_of

    def _padding(self, view: int) -> tuple[int, int]:
        whole = 2 ** self.halvings[view]
        carm = self.carms[view]
        return -carm.height % whole, -carm.width % whole

    def _binned(self, view, level, fixed, weights):
        bottom, right = self._padding(view)
        if weights is None and (bottom or right):
            weights = torch.ones_like(fixed)
        binning = self.binning(view, level)
        if weights is None:
            return avg_pool2d(fixed, binning), None
        fixed = torch.where(weights > 0, fixed, 0.0)
        fixed, weights = (pad(x, (0, right, 0, bottom)) for x in (fixed, weights))
        weight = avg_pool2d(weights, binning)
        return avg_pool2d(weights * fixed, binning) / weight.clamp_min(1e-12), weight
