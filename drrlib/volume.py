"""CT as linear attenuation on a grid with a full affine."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.arrays import (
    Numbers,
    as_affine,
    as_length,
    as_number,
    as_tensor,
    as_whole,
    check_values,
)
from drrlib.errors import ConfigError, GeometryError, ShapeError, VolumeError

# Linear attenuation of water at 60 keV [1/mm]: 0.2059 cm2/g x 1 g/cm3.
# Source: Hubbell and Seltzer, NIST XCOM / NISTIR 5632, table for liquid water.
MU_WATER = 0.02059
_MOST_VOXELS = 2**31  # with the air that coarsening adds


def hu_to_mu(
    hu: Float[Tensor, "x y z"], mu_water: float = MU_WATER, air_hu: float = -1000.0
) -> Float[Tensor, "x y z"]:
    """Linear attenuation [1/mm] of Hounsfield units: mu = mu_water (1 + HU / 1000), at least 0.

    The definition of the Hounsfield scale solved for mu. Everything at or below `air_hu`
    becomes exactly 0, padding such as -2048 included.
    """
    mu = (mu_water * (1 + hu / 1000)).clamp_min(0)
    return torch.where(hu <= air_hu, 0.0, mu)


@dataclass(frozen=True, eq=False)
class Volume:
    """Attenuation with its place in the world.

    Args:
        mu: Linear attenuation [1/mm] as mu[x, y, z], finite, at least 0; float32 or float64;
            float16 or bfloat16 to store it in half the memory on a GPU. Arrays and lists become
            float32, which the fast kernels take.
        affine: world_from_voxel [mm, LPS], 4x4, column vectors; index 0 is a voxel centre. May be
            oblique, mirrored, anisotropic and sheared.
        center: Point that C-arm poses refer to [mm, world]; default the grid's middle.
            Cropping and coarsening keep it.

    Raises:
        ShapeError, GeometryError, VolumeError: what is wrong with which argument.
    """

    # Kept as tensors [x, y, z], [4, 4] and [3], the last two float64 on the CPU.
    mu: Numbers
    affine: Numbers
    center: Numbers | None = None

    def __post_init__(self):
        dense = isinstance(self.mu, Tensor) and self.mu.layout == torch.strided
        mu = self.mu if dense else _float32(self.mu, "mu")
        check_values(mu, "mu")
        object.__setattr__(self, "mu", mu)
        if mu.ndim != 3 or mu.numel() == 0:
            raise ShapeError(f"mu has shape {tuple(mu.shape)}; expected [x, y, z], none empty")
        if mu.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
            raise VolumeError(f"mu has dtype {mu.dtype}; expected float32 or float64")
        lowest = self.mu.detach().min()
        wide = torch.promote_types(self.mu.dtype, torch.float32)  # a sum of float16 overflows
        if not bool(torch.isfinite(self.mu.detach().sum(dtype=wide))) or bool(lowest < 0):
            raise VolumeError(
                f"mu has NaN, infinite or negative voxels (smallest {float(lowest):.3g}); expected "
                "attenuation in 1/mm: for Hounsfield units use Volume.from_hu"
            )
        affine = as_affine(self.affine)
        object.__setattr__(self, "affine", affine)
        if self.center is None:
            middle = (torch.tensor(mu.shape, dtype=torch.float64) - 1) / 2
            object.__setattr__(self, "center", affine[:3, :3] @ middle + affine[:3, 3])
            return
        center = as_tensor(self.center, "center").detach().to("cpu", torch.float64)
        if tuple(center.shape) != (3,):
            raise ShapeError(f"center has shape {tuple(center.shape)}; expected (3,)")
        if not bool(torch.isfinite(center).all()):
            raise GeometryError("center is not finite; expected a point in world mm")
        object.__setattr__(self, "center", center)

    @classmethod
    def from_hu(
        cls, hu: Numbers, affine: Numbers, *, mu_water: float = MU_WATER, air_hu: float = -1000.0
    ) -> "Volume":
        """Volume of Hounsfield units (array or tensor [x, y, z]) and a 4x4 world_from_voxel.

        mu is float32, which the fast kernels take, whatever the type of an array; only a float64
        tensor stays float64. See `hu_to_mu` for the rest.

        Raises:
            ConfigError, ShapeError, GeometryError, VolumeError: what is wrong with which argument.
        """
        mu_water = as_length(mu_water, "mu_water, attenuation of water in 1/mm,")
        hu = as_tensor(hu, "hu") if isinstance(hu, Tensor) else _float32(hu, "hu")
        hu = hu if hu.dtype == torch.float64 else hu.to(torch.float32)
        if not bool(torch.isfinite(hu).all()):
            raise VolumeError("hu has NaN or infinite voxels; replace them, for air by -1000")
        if hu.ndim != 3:
            raise ShapeError(f"hu has shape {tuple(hu.shape)}; expected [x, y, z]")
        return cls(hu_to_mu(hu, mu_water, air_hu), affine)

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shape))
        spacing = " x ".join(f"{x:.4g}" for x in self.spacing.tolist())
        return f"Volume({size} voxels of {spacing} mm, mu up to {float(self.mu.max()):.3g} / mm)"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along x, y, z."""
        return tuple(self.mu.shape)

    @property
    def spacing(self) -> Float[Tensor, "3"]:
        """Distance of neighbouring voxel centres along x, y, z [mm]."""
        return self.affine[:3, :3].norm(dim=0)

    @property
    def targets(self) -> Float[Tensor, "6 3"]:
        """Points whose displacement the mTRE measures: 50 mm from the centre along each axis."""
        step = 50 * torch.eye(3, dtype=torch.float64)
        return self.center + torch.cat([step, -step])

    def with_mu(self, mu: Float[Tensor, "x y z"]) -> "Volume":
        """The same grid with other attenuation, such as a parameter to optimise."""
        return replace(self, mu=mu)

    def to(self, target: torch.dtype | torch.device | str) -> "Volume":
        """The same volume with another floating-point type, or on another device."""
        return replace(self, mu=self.mu.to(target))

    def crop_to_support(self, margin: int = 0) -> "Volume":
        """Cut away empty borders but for `margin` voxels; every DRR stays the same.

        Raises:
            ConfigError: a negative margin.
            VolumeError: the volume is empty.
        """
        margin = as_whole(margin, "margin", 0)
        filled = self.mu.detach() != 0
        # Axis by axis: a list of all filled voxels would take 24 bytes for each.
        spans = [torch.nonzero(filled.any(a).any(b)).flatten() for a, b in ((2, 1), (2, 0), (1, 0))]
        if len(spans[0]) == 0:
            raise VolumeError("the volume is empty: no voxel attenuates; are the units HU?")
        lower = [max(int(span[0]) - margin, 0) for span in spans]
        upper = [int(span[-1]) + 1 + margin for span in spans]
        mu = self.mu[tuple(slice(lo, up) for lo, up in zip(lower, upper, strict=True))]
        affine = self.affine.clone()
        affine[:3, 3] += affine[:3, :3] @ torch.tensor(lower, dtype=torch.float64)
        return Volume(mu.contiguous(), affine, self.center)

    def structure(self, mask: Tensor | np.ndarray) -> "Volume":
        """What a mask covers, alone: cut to its box, whose middle is the new centre.

        Args:
            mask: Which voxels belong to it [x, y, z], boolean.

        Raises:
            ShapeError: not a mask of this grid.
            VolumeError: nothing in it attenuates.
        """
        kept = self.with_mu(torch.where(self._mask(mask), self.mu, 0.0)).crop_to_support()
        return Volume(kept.mu, kept.affine)

    def without(self, mask: Tensor | np.ndarray, mu: float = 0.0) -> "Volume":
        """The volume with other attenuation where a mask covers it.

        Args:
            mask: Which voxels to empty [x, y, z], boolean.
            mu: What they get [1/mm]; 0 is air, `MU_WATER` about soft tissue.

        Raises:
            ShapeError: not a mask of this grid.
            ConfigError, VolumeError: mu is no attenuation.
        """
        return self.with_mu(torch.where(self._mask(mask), as_number(mu, "mu"), self.mu))

    def _mask(self, mask: object) -> Tensor:
        """On the device of the volume."""
        if isinstance(mask, np.ndarray) and mask.dtype == bool:
            mask = torch.from_numpy(mask.copy())
        shape = tuple(getattr(mask, "shape", ()))
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or shape != self.shape:
            kind = getattr(mask, "dtype", type(mask).__name__)
            raise ShapeError(
                f"mask is {kind} of shape {shape}; expected a boolean for each of the {self.shape} "
                "voxels, such as labels == 3"
            )
        check_values(mask, "mask")
        return mask.to(self.mu.device)

    def coarsen(self, factor: int | tuple[int, int, int]) -> "Volume":
        """Average blocks of voxels. Where a size is not divisible, air is added at its upper end.

        Raises:
            ConfigError: a factor below 1, or beyond all bounds.
        """
        several = isinstance(factor, (tuple, list))
        factors = tuple(as_whole(f, "factor") for f in (factor if several else (factor,) * 3))
        if len(factors) != 3:
            raise ConfigError(f"factor has {len(factors)} numbers; expected one or three")
        if math.prod(n + -n % f for n, f in zip(self.shape, factors, strict=True)) > _MOST_VOXELS:
            raise ConfigError(
                f"factor is {factors} for {self.shape} voxels, blocks far larger than the volume; "
                "expected about its size at most"
            )
        pad = [x for n, f in zip(self.shape[::-1], factors[::-1], strict=True) for x in (0, -n % f)]
        wide = torch.promote_types(self.mu.dtype, torch.float32)  # half types cannot be pooled
        mu = torch.nn.functional.pad(self.mu.to(wide), pad)[None, None]
        mu = torch.nn.functional.avg_pool3d(mu, factors)[0, 0].to(self.mu.dtype)
        f = torch.tensor(factors, dtype=torch.float64)
        affine = self.affine.clone()
        affine[:3, 3] += affine[:3, :3] @ ((f - 1) / 2)
        affine[:3, :3] *= f
        return Volume(mu, affine, self.center)

    def coarsen_to(self, size: float) -> "Volume":
        """Average blocks of voxels to about `size` mm along each axis, never to finer ones."""
        size = as_length(size, "size")
        return self.coarsen(tuple(max(1, round(size / x)) for x in self.spacing.tolist()))


def _float32(values: Numbers, name: str) -> Tensor:
    return as_tensor(values, name, torch.float32).contiguous()
