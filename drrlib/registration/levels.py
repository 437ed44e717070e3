"""Detectors and volumes from coarse to fine, for one view or several that share one pose."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from drrlib.drr import DRR
from drrlib.geometry import Geometry
from drrlib.optimize import Sight
from drrlib.registration.crop import corners
from drrlib.registration.cut import Beyond, Covered, continued
from drrlib.similarity import Model
from drrlib.volume import Volume

FREE = ("sdd", "delx", "dely", "x0", "y0")
SMALLEST = 24  # pixels across the coarsest level

Images = Float[Tensor, "t 1 _ _"]


def halvings(geometry: Geometry) -> int:
    """How often pixels can be joined two by two until about `SMALLEST` are left across."""
    across = min(geometry.height, geometry.width)
    return max(0, int(math.log2(max(across / SMALLEST, 1))))


def join_pixels(
    images: Images, weights: Images | None, binning: int
) -> tuple[Images, Images | None]:
    """Images with binning x binning pixels averaged by their weights; added pixels have none."""
    bottom, right = (-n % binning for n in images.shape[-2:])
    if weights is None and (bottom or right):
        weights = torch.ones_like(images)
    if weights is None:
        return avg_pool2d(images, binning), None
    images = torch.where(weights > 0, images, 0.0)
    images, weights = (pad(x, (0, right, 0, bottom)) for x in (images, weights))
    joined = avg_pool2d(weights, binning)
    return avg_pool2d(weights * images, binning) / joined.clamp_min(1e-12), joined


def level_sight(
    drr: DRR, geometry: Geometry, images: Images, weights: Images | None, binning: int, **others
) -> Sight:
    """A view with its pixels joined, rendered by `drr`'s volume; `others` as in `Sight`."""
    images, weights = join_pixels(images, weights, binning)
    device, dtype = drr.grid.mu.device, drr.grid.dtype
    return Sight(
        drr.with_carm(geometry.join(binning)),
        images.to(device, dtype),
        None if weights is None else weights.to(device, dtype),
        **others,
    )


class Levels:
    """Renderers of every level. Level 0 is the coarsest, the last one the detector itself.

    From one level to the next, pixels are joined two by two. Voxels are joined to about half a
    pixel as seen at the isocentre, and at least to a whole one of the finest level.

    Args:
        volume: CT.
        cameras: Geometry of each view.
        relatives: Pose of each camera seen from the first; the first is not looked at.
        backend: As in `DRR`.
        finest: Pixels across the detector that are enough; None for all.
        only: Whether the volume is one bone among others that the images show. The coarsest level
            then has about as many pixels across the bone as else across the detector.
        most: Of each view, as `View.most`; None for no limits.
    """

    def __init__(
        self,
        volume: Volume,
        cameras: Sequence[Geometry],
        relatives: Sequence[Tensor],
        backend: str = "auto",
        finest: int | None = None,
        only: bool = False,
        most: Sequence[float | None] | None = None,
    ):
        self.cameras, self.relatives, self.only = tuple(cameras), tuple(relatives), only
        self.most = [None] * len(self.cameras) if most is None else list(most)
        self.halvings = [halvings(c) for c in cameras]
        if only:
            extent = float((volume.spacing * volume.spacing.new_tensor(volume.shape)).max())
            most = [int(math.log2(max(extent / c.pixel / SMALLEST, 1))) for c in cameras]
            self.halvings = [min(pair) for pair in zip(self.halvings, most, strict=True)]
        last = max(self.halvings)
        if finest is not None:
            across = max(min(c.height, c.width) for c in cameras)
            last = max(1, last - max(0, int(math.log2(max(across / finest, 1)))))
        self.last = min(last, max(self.halvings))
        size, spacing = [c.pixel for c in cameras], volume.spacing.tolist()
        least = min(s * self.binning(k, self.last) for k, s in enumerate(size))
        made: dict[tuple[int, ...], DRR] = {}
        self._volume, self._backend = volume, backend
        self._drr = []
        for level in range(self.last + 1):
            pixel = min(s * self.binning(k, level) for k, s in enumerate(size))
            whole = math.floor if level == self.last else round
            factors = tuple(max(1, whole(max(pixel / 2, least) / x)) for x in spacing)
            if factors not in made:
                coarse = volume.coarsen(factors)
                made[factors] = DRR(coarse, cameras[0], method="joseph", backend=backend)
            self._drr.append(made[factors])

    @property
    def center(self) -> Float[Tensor, "3"]:
        """Of the volume [mm, world]."""
        return self._volume.center

    @functools.cached_property
    def corners(self) -> Float[Tensor, "8 3"]:
        """Of the box around all of the volume that attenuates [mm, world]."""
        return corners(self._volume)

    def binning(self, view: int, level: int) -> int:
        """Pixels of the detector joined along each side."""
        return 2 ** max(self.halvings[view] - level, 0)

    def share(self, level: int) -> float:
        """Pixels of an image of this level, as a part of those of the first detector."""
        return 1 / self.binning(0, level) ** 2

    def camera(self, view: int, level: int) -> Geometry:
        """The geometry of a view with the pixels of a level."""
        return self.cameras[view].join(self.binning(view, level))

    def renderer(self, view: int, level: int) -> DRR:
        """The volume of a level, seen by that geometry."""
        return self._drr[level].with_carm(self.camera(view, level))

    @functools.cached_property
    def _around(self) -> DRR | None:
        """Renderer of what lies beyond the CT; made where windows ask for it."""
        around = continued(self._volume)
        if around is None:
            return None
        return DRR(around, self.cameras[0], method="joseph", backend=self._backend)

    def _seen(self, view: int, level: int) -> Beyond | Covered | None:
        """Which rays of a view count; None for all."""
        camera = self.camera(view, level)
        beyond = None if self._around is None else Beyond(self._around, camera)
        return Covered(beyond) if self.only else beyond

    def lengths(self, free: Sequence[str], values: Float[Tensor, " n"]) -> dict[str, Tensor]:
        """Freed lengths by name, kept where a C-arm can have them: a step may go too far."""
        carm = self.cameras[0]
        least = {"sdd": 1.01 * carm.sod, "delx": 0.1 * carm.delx, "dely": 0.1 * carm.dely}
        return {
            name: value.clamp_min(float(least.get(name, -math.inf)))
            for name, value in zip(free, values, strict=True)
        }

    def sights(
        self,
        level: int,
        images: Sequence[Images],
        weights: Sequence[Images | None],
        free: Sequence[str] = (),
        window: float = 0.0,
    ) -> list[Sight]:
        """The views at that level, from images and weights of the real detectors' sizes.

        With a window, images are normalised in it, and rays that leave the CT lose their weight.
        """
        found = []
        for k, camera in enumerate(self.cameras):
            binning = self.binning(k, level)
            others = dict(first=self.cameras[0], relative=self.relatives[k]) if k else {}
            if window:
                others["grey"] = Model(window=window)
                others |= dict(seen=self._seen(k, level), only=self.only, most=self.most[k])
            if free:

                def freed(values: Tensor, camera=camera, binning=binning) -> Geometry:
                    named = self.lengths(free, values)
                    return dataclasses.replace(camera, **named).join(binning)

                others["freed"] = freed
            found.append(
                level_sight(self._drr[level], camera, images[k], weights[k], binning, **others)
            )
        return found
