"""Digitally reconstructed radiographs: a volume, a C-arm, and images for poses."""

import copy
import dataclasses
import math
import warnings
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.arrays import Numbers, as_tensor
from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry import BEHIND, LENGTHS, Geometry, depth
from drrlib.projectors import (
    METHODS,
    Grid,
    choose_backend,
    endpoint_gradients,
    frame_gradients,
    images,
)
from drrlib.volume import Volume


class DRR:
    """Renderer of one volume by one C-arm.

    Args:
        volume: Attenuation with its affine; `volume.mu` may require a gradient.
        carm: Intrinsics, whose lengths may require gradients: a CArm, or another geometry with its
            methods, such as ScanProjection.
        method: "siddon" (exact) or "joseph" (smooth in the pose, for second-order steps).
        backend: "auto", "cpu", "cuda" or "reference". A float64 volume takes the reference, which
            is slow; "auto" warns of it.
        patch_size: Render square patches of so many pixels; changes memory, never the image.

    Raises:
        ConfigError, BackendError: not a Volume, an unknown option, or a backend that cannot run
            here.
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
        if not isinstance(volume, Volume):
            raise ConfigError(
                f"volume is a {type(volume).__name__}; expected a Volume: read_volume(path), "
                "Volume.from_hu(hu, affine) or Volume(mu, affine)"
            )
        _check_geometry(carm)
        if not isinstance(method, str) or method not in METHODS:
            raise ConfigError(f"method is {method!r}; choose one of {', '.join(METHODS)}")
        self.volume, self.carm = volume, carm
        self.method, self.patch_size = method, patch_size
        self.grid = Grid(volume.mu, volume.affine)
        self._wanted = backend
        self.backend = choose_backend(self.grid, backend)
        if backend == "auto" and volume.mu.dtype == torch.float64:
            warnings.warn(
                "the volume is float64, which only the PyTorch reference renders, some fifty times "
                "as slowly as the kernels: volume.to(torch.float32), or name backend='reference'",
                stacklevel=2,
            )
        self._center = volume.center.to(self.grid.mu.device)

    def with_carm(self, carm: Geometry) -> "DRR":
        """The same volume, prepared once, seen by another C-arm, such as a coarser detector."""
        _check_geometry(carm)
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
        if not isinstance(mu, Tensor):
            mu = as_tensor(mu, "mu", torch.float32)
        if mu.ndim not in (3, 4) or tuple(mu.shape[-3:]) != self.grid.shape:
            raise ShapeError(
                f"mu has shape {tuple(mu.shape)}; expected the {self.grid.shape} voxels of this "
                "renderer's volume, or a stack of such volumes [b, x, y, z]"
            )
        other = copy.copy(self)
        other.grid = self.grid.with_mu(mu)
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

    def at(
        self, eta: Numbers, **lengths: float | int | Tensor
    ) -> Float[Tensor, "*b 1 height width"]:
        """Images at pose parameters, if wanted with other lengths of the C-arm.

        Args:
            eta: [..., 6], as in `pose`; see `geometry.eta`.
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
                f"a C-arm has no {', '.join(unknown)}; it has {', '.join(LENGTHS)} [mm], and "
                "height and width in pixels"
            )
        seen = self.with_carm(dataclasses.replace(self.carm, **lengths)) if lengths else self
        return seen(seen.pose(eta))

    def pose(self, eta: Numbers) -> Float[Tensor, "*b 4 4"]:
        """world_from_camera of eta about this volume's centre; see `CArm.pose`."""
        eta = as_tensor(eta, "eta")
        near = eta.device == self._center.device
        return self.carm.pose(eta, self._center if near else self.volume.center)

    def __call__(self, pose: Numbers) -> Float[Tensor, "*b 1 height width"]:
        """Line integrals [-] seen from each pose (world_from_camera), on the volume's device.

        Args:
            pose: [..., 4, 4].

        Gradients: pose, the lengths of `carm`, `volume.mu`; first derivatives.

        Warns where poses on the CPU leave the whole volume behind the source, which is black.
        """
        pose = as_tensor(pose, "pose")
        frames, rows = self.frames(pose)
        how = dict(method=self.method, backend=self.backend, patch_size=self.patch_size)
        image = images(self.grid, frames.reshape(-1, 12), rows, self.carm.width, **how)
        self._say_behind(pose)  # while a GPU renders
        return image.reshape(*frames.shape[:-2], 1, self.carm.height, self.carm.width)

    def frames(self, pose: Tensor, shift: bool = True) -> tuple[Float[Tensor, "*b k 12"], int]:
        """Source and detector of each pose in voxel coordinates, and rows of each of its parts.

        Every image of this renderer goes through here. Without `shift`, of derivatives of poses.
        """
        if self.grid.mu.ndim == 4:
            self.grid.check_poses(pose.shape[:-2].numel() if shift else self.grid.volumes)
        frame, rows = self.carm.strips(pose)
        return self.grid.frames(*frame, shift=shift), rows

    def _say_behind(self, pose: Tensor) -> None:
        """Warns where every pose looks away from the volume. Poses on a GPU are not waited for."""
        if type(pose) is not Tensor or not pose.is_cpu or torch.compiler.is_compiling():
            return
        pose, volume = pose.detach().double(), self.volume
        if bool((depth(volume.center, pose) < 0).all()) and pose.numel():
            ends = [torch.tensor([-0.5, n - 0.5], dtype=torch.float64) for n in volume.shape]
            corners = torch.cartesian_prod(*ends) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
            if bool((depth(corners, pose[..., None, :, :]) < 0).all()):
                warnings.warn(f"the whole volume lies {BEHIND}", stacklevel=3)

    def march(self, frames: Float[Tensor, "b k 12"]) -> "March":
        """Images of `frames`, with what their derivatives by them are made of; without history."""
        rows = self.carm.height // frames.shape[1]
        image, sums = endpoint_gradients(
            self.grid,
            frames.reshape(-1, 12),
            rows,
            self.carm.width,
            method=self.method,
            backend=self.backend,
        )
        image = image.reshape(len(frames), 1, self.carm.height, self.carm.width)
        return March(image, sums, self.grid, self.backend)

    def jacobian(
        self, eta: Numbers
    ) -> tuple[Float[Tensor, "*b 1 height width"], Float[Tensor, "*b 1 height width 6"]]:
        """Images and their derivatives by the pose parameters, from one march.

        Args:
            eta: [..., 6], as in `pose`.

        Returns:
            The image and dE/deta, both without autograd history.
        """
        eta = as_tensor(eta, "eta", torch.float64).detach()
        image, slopes = self.linearize(self.pose(eta), self.carm.pose_slopes(eta))
        return image, slopes

    def linearize(
        self, pose: Float[Tensor, "*b 4 4"], slopes: Float[Tensor, "*b n 4 4"]
    ) -> tuple[Float[Tensor, "*b 1 height width"], Float[Tensor, "*b 1 height width n"]]:
        """As `jacobian`, for any parameters of the pose.

        Args:
            pose: world_from_camera.
            slopes: Its derivative by each parameter, such as pose @ hat(xi) for twists of the
                camera.
        """
        frames, _ = self.frames(pose)
        moved, _ = self.frames(slopes, shift=False)
        march = self.march(frames.reshape(-1, *frames.shape[-2:]))
        jacobian = march.jacobian(moved.reshape(-1, *moved.shape[-3:]))
        lead = pose.shape[:-2]
        return march.image.reshape(*lead, *march.image.shape[1:]), jacobian.reshape(
            *lead, *jacobian.shape[1:]
        )


def _check_geometry(carm) -> None:
    if not isinstance(carm, Geometry):
        raise ConfigError(
            f"carm is a {type(carm).__name__}; expected a CArm(sdd, sod, ...) or a ScanProjection"
        )


def limited(image: Tensor, most: float) -> Tensor:
    """Line integrals as an image shows them whose beam never falls below a part of the open one.

    Scatter and glare fill in behind metal, so that the beam is exp(-E) + s, and however thick the
    metal, -log((exp(-E) + s) / (1 + s)) never exceeds `most`.
    """
    s = 1 / math.expm1(most)
    return math.log1p(s) - torch.log(torch.exp(-image) + s)


class March(NamedTuple):
    """Images of one march, and their derivatives by source and targets.

    Attributes:
        image: [b, 1, height, width].
        sums: Derivatives of each pixel by its source and its target, of each part of the detector
            [b k, rows, width, 6].
        grid, backend: What was marched through, and how.
    """

    image: Float[Tensor, "b 1 height width"]
    sums: Tensor
    grid: Grid
    backend: str

    def limited(self, most: float | None) -> "March":
        """The same of images that cannot show more than `most`, see `limited`; None: no limit."""
        if most is None:
            return self
        image = self.image.detach().requires_grad_()
        with torch.enable_grad():
            shown = limited(image, most)
            (slope,) = torch.autograd.grad(shown.sum(), image)
        sums = self.sums * slope.reshape(self.sums.shape[:-1])[..., None]
        return self._replace(image=shown.detach(), sums=sums)

    def jacobian(self, slopes: Float[Tensor, "b n k 12"]) -> Float[Tensor, "b 1 height width n"]:
        """Derivative of the image by n parameters, whose derivatives of the frames are given."""
        sums, n = self.sums, slopes.shape[1]
        at_source, corner, column, row = (
            slopes.to(sums).permute(0, 2, 3, 1).reshape(-1, 12, n).split(3, dim=1)
        )
        rows, width = sums.shape[1:3]
        j = torch.arange(width).to(sums)[:, None] + 0.5
        i = torch.arange(rows).to(sums)[:, None, None] + 0.5
        ds, dp = sums[..., :3].flatten(1, 2), sums[..., 3:].flatten(1, 2)  # [b k, rows width, 3]
        shape = (len(sums), rows, width, n)
        jacobian = (ds @ at_source + dp @ corner).reshape(shape)
        jacobian += j * (dp @ column).reshape(shape) + i * (dp @ row).reshape(shape)
        return jacobian.reshape(*self.image.shape, n)

    def pull(self, grad: Float[Tensor, "b 1 height width"]) -> Float[Tensor, "b k 12"]:
        """Gradient by the frames of what has the gradient `grad` by the images, float64."""
        grad = grad.to(self.sums).reshape(self.sums.shape[:-1])
        return frame_gradients(self.grid, grad, self.sums, self.backend).unflatten(
            0, (len(self.image), -1)
        )
