"""Digitally reconstructed radiographs: a volume, a C-arm, and images for poses."""

import copy
import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry.carm import Frame
from drrlib.geometry.localizer import Geometry
from drrlib.projectors import METHODS, Grid, choose_backend, endpoint_gradients
from drrlib.volume import Volume


class DRR:
    """Renderer of one volume by one C-arm.

    Args:
        volume: Attenuation with its affine; `volume.mu` may require a gradient.
        carm: Intrinsics, whose lengths may require gradients: a CArm, or a geometry whose method
            `integrate` gives the images of a grid for poses, such as ScanProjection.
        method: "siddon" (exact) or "joseph" (smooth in the pose, for second-order steps).
        backend: "auto", "cpu", "cuda" or "reference".
        patch_size: Render square patches of so many pixels; changes memory, never the image.

    Raises:
        ConfigError, BackendError: an unknown option, or a backend that cannot run here.
    """

    def __init__(
        self,
        volume: Volume,
        carm: Geometry,
        *,
        method: str = "siddon",
        backend: str = "auto",
        patch_size: int | None = None,
    ):
        if method not in METHODS:
            raise ConfigError(f"method is {method!r}; choose one of {', '.join(METHODS)}")
        self.volume, self.carm = volume, carm
        self.method, self.patch_size = method, patch_size
        self.grid = Grid(volume.mu, volume.affine)
        self._wanted = backend
        self.backend = choose_backend(self.grid, backend)
        self._center = volume.center.to(self.grid.mu.device)

    def with_carm(self, carm: Geometry) -> "DRR":
        """The same volume, prepared once, seen by another C-arm, such as a coarser detector."""
        other = copy.copy(self)
        other.carm = carm
        return other

    def with_mu(self, mu: Float[Tensor, "*b x y z"]) -> "DRR":
        """The same renderer with other attenuation on the same grid, such as a network's output.

        Args:
            mu: Linear attenuation [1/mm], [x, y, z] or one volume for each pose [b, x, y, z]; may
                require a gradient. It is not searched for infinite or negative values. `volume`
                stays as it is, for its centre: the values are in `grid.mu`.

        Raises:
            ShapeError: another number of voxels.
            BackendError: the backend that the renderer was asked for by name cannot take it.
        """
        if tuple(mu.shape[-3:]) != self.grid.shape:
            raise ShapeError(
                f"mu has shape {tuple(mu.shape)}; expected the {self.grid.shape} voxels of this "
                "renderer's volume, or a stack of such volumes [b, x, y, z]"
            )
        other = copy.copy(self)
        other.grid = Grid(mu, self.grid.affine)
        other.backend = choose_backend(other.grid, self._wanted)
        other._center = self._center.to(mu.device)
        return other

    def freeze(self) -> "DRR":
        """The same renderer, which takes the volume as it is now and does not look at it again.

        What torch.compile(drr, fullgraph=True) needs. See `Grid.freeze`.
        """
        other = copy.copy(self)
        other.grid = self.grid.freeze()
        return other

    def view(
        self, eta: Float[Tensor, "b 6"], **lengths: float | int | Tensor
    ) -> Float[Tensor, "b 1 height width"]:
        """Images at eta by this C-arm with some of its lengths at other values.

        Args:
            eta: As in `pose`.
            lengths: New values of `CArm`'s fields by name, such as sdd=torch.tensor(1000.0) [mm];
                tensors may require gradients.

        Gradients: eta, lengths, `volume.mu`; first derivatives.

        Raises:
            ConfigError: the C-arm has no such field.
            GeometryError: lengths that no C-arm can have.
        """
        unknown = sorted(set(lengths) - {field.name for field in dataclasses.fields(self.carm)})
        if unknown:
            raise ConfigError(
                f"a C-arm has no {', '.join(unknown)}; it has sdd, sod, delx, dely, "
                "x0, y0 [mm], and height and width in pixels"
            )
        other = self.with_carm(dataclasses.replace(self.carm, **lengths))
        return other(other.pose(eta))

    def pose(self, eta: Float[Tensor, "*b 6"]) -> Float[Tensor, "*b 4 4"]:
        """world_from_camera of eta about this volume's centre; see `CArm.pose`."""
        near = eta.device == self._center.device
        return self.carm.pose(eta, self._center if near else self.volume.center)

    def __call__(self, pose: Float[Tensor, "b 4 4"]) -> Float[Tensor, "b 1 height width"]:
        """Line integrals [-] seen from each pose (world_from_camera), on the volume's device.

        Gradients: pose, the lengths of `carm`, `volume.mu`; first derivatives.
        """
        image = self.carm.integrate(
            self.grid, pose,
            method=self.method, backend=self.backend, patch_size=self.patch_size,
        )  # fmt: skip
        return image[:, None]

    def jacobian(
        self,
        parameters: Float[Tensor, "b n"],
        frame_of: Callable[[Tensor], Frame] | None = None,
    ) -> tuple[Float[Tensor, "b 1 height width"], Float[Tensor, "b 1 height width n"]]:
        """Images and their derivatives with respect to the parameters of each pose.

        One march: the derivatives come from the sums that the kernel keeps per ray.

        Args:
            parameters: One row per image; eta, unless `frame_of` says otherwise.
            frame_of: Maps parameters [b, n] to `CArm.frame`'s source and detector, row by row,
                such as lambda xi: carm.frame(pose @ se3.exp(xi)).

        Returns:
            The image and dE/dparameters, both without autograd history.
        """
        if parameters.ndim != 2:
            raise ShapeError(f"parameters has shape {tuple(parameters.shape)}; expected [batch, n]")
        frame_of = frame_of or (lambda eta: self.carm.frame(self.pose(eta)))
        grid = self.grid

        def frames(p: Tensor) -> Tensor:
            source, corner, *steps = frame_of(p)
            points = [grid.to_voxel(source), grid.to_voxel(corner)]
            return torch.cat(points + [grid.to_voxel_step(x) for x in steps], dim=-1)

        p = parameters.detach()
        # Rows do not depend on each other, so the sum over them has all the derivatives.
        slope = torch.autograd.functional.jacobian(lambda x: frames(x).sum(dim=0), p)  # [12, b, n]
        image, sums = endpoint_gradients(
            grid, frames(p), self.carm.height, self.carm.width,
            method=self.method, backend=self.backend,
        )  # fmt: skip
        at_source, corner, column, row = slope.to(sums).permute(1, 0, 2).split(3, dim=1)
        j = torch.arange(self.carm.width).to(sums)[:, None] + 0.5
        i = torch.arange(self.carm.height).to(sums)[:, None, None] + 0.5
        ds, dp = sums[..., :3].flatten(1, 2), sums[..., 3:].flatten(1, 2)  # [b, h w, 3]
        shape = (*image.shape, p.shape[1])
        jacobian = (ds @ at_source + dp @ corner).reshape(shape)
        jacobian += j * (dp @ column).reshape(shape) + i * (dp @ row).reshape(shape)
        return image[:, None], jacobian[:, None]
