"""Images at the size that a screen needs: coarse while something moves, fine when it rests."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.drr import DRR
from drrlib.errors import ConfigError
from drrlib.geometry import CArm
from drrlib.view import View, as_views
from drrlib.volume import Volume

# Longest sides of a detector [pixels], of which the one is taken that the time allows.
SIZES = (64, 96, 128, 160, 200, 256, 320, 400, 512)
_KEPT = 12  # resampled views that are kept


@dataclass(frozen=True, eq=False)
class Look:
    """One view at one pose, as it is shown.

    Attributes:
        moving: The DRR [height, width], float32.
        fixed: The X-ray image at the same pixels, or None where there is none.
        weights: Of each pixel, or None for 1.
        loss: Of the pair; None without an X-ray image.
        fine: Whether it has the pixels of an image at rest.
    """

    moving: np.ndarray
    fixed: np.ndarray | None
    weights: np.ndarray | None
    loss: float | None
    fine: bool


class Sights:
    """Renders one volume, and resamples X-ray images, at sizes that a budget of time allows.

    Args:
        volume: CT.
        carm: Any C-arm; each image brings its own.
        backend, method: As in `DRR`.
        budget: Milliseconds that the DRR of a moving image may take.
        longest: Pixels of the longer side of an image at rest, at most.
    """

    def __init__(
        self,
        volume: Volume,
        carm: CArm,
        *,
        backend: str = "auto",
        method: str = "siddon",
        budget: float = 30.0,
        longest: int = 512,
    ):
        self.drr = DRR(volume, carm, backend=backend, method=method)
        self.budget, self.longest = budget, longest
        self._per_pixel = None  # [ms]; measured
        self._fixed: OrderedDict[tuple, tuple] = OrderedDict()

    def size(self, carm: CArm, fine: bool) -> tuple[int, int]:
        """Rows and columns of an image at rest or in motion; never more than the detector has."""
        most = min(max(carm.height, carm.width), self.longest)
        if not fine:
            most = min(most, self._affordable(carm))
        shrink = most / max(carm.height, carm.width)
        return max(1, round(carm.height * shrink)), max(1, round(carm.width * shrink))

    def _affordable(self, carm: CArm) -> int:
        """The largest of SIZES that the budget allows."""
        if self._per_pixel is None:
            return SIZES[2]
        aspect = min(carm.height, carm.width) / max(carm.height, carm.width)
        fits = [n for n in SIZES if n * n * aspect * self._per_pixel <= self.budget]
        return fits[-1] if fits else SIZES[0]

    def render(self, carm: CArm, pose: Float[Tensor, "4 4"], size: tuple[int, int]) -> np.ndarray:
        """The DRR [1, height, width] as float32."""
        drr = self.drr.with_carm(carm.resize(*size))
        began = time.perf_counter()
        with torch.no_grad():
            image = drr(pose).cpu().numpy()
        new = 1e3 * (time.perf_counter() - began) / image.size
        # The first one may have compiled the kernel; an outlier must not make every image coarse.
        old = new if self._per_pixel is None else min(self._per_pixel, 4 * new)
        self._per_pixel = 0.7 * old + 0.3 * new
        return image

    def fixed(
        self, key: tuple, make: Callable[[], View], size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """An X-ray image and its weights with so many pixels, float32.

        Args:
            key: Names the image and its weights; what was made is kept under it.
            make: Gives the view, when it is needed.
        """
        key = (*key, size)
        if key not in self._fixed:
            view = make()
            same = size == (view.carm.height, view.carm.width)
            view = view if same else view.resize(*size)
            image = torch.nan_to_num(view.image).float().numpy()
            weights = None if view.weights is None else view.weights.float().numpy()
            self._fixed[key] = (image, weights)
            while len(self._fixed) > _KEPT:
                self._fixed.popitem(last=False)
        self._fixed.move_to_end(key)
        return self._fixed[key]


def check_views(views: View | Sequence[View] | None) -> tuple[View, ...]:
    """The views as a tuple, of flat detectors only.

    Raises:
        ConfigError: something else than views, or a view of a scanned projection.
    """
    none = views is None or (isinstance(views, (list, tuple)) and not views)
    views = () if none else tuple(as_views(views))
    for view in views:
        if not isinstance(view.carm, CArm):
            raise ConfigError(
                f"the view has a {type(view.carm).__name__}; the explorer moves C-arms with a flat "
                "detector: expected a CArm"
            )
    return views
