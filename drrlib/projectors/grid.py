"""A volume as the projectors see it: attenuation on a grid, and where the grid lies."""

import copy

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from drrlib.arrays import Numbers, as_affine, as_tensor, check_values
from drrlib.errors import ConfigError, DtypeError, ShapeError, VolumeError

# The kernels index with 32-bit integers.
MOST_VOXELS = 2**31 - 1

HALF = (torch.float16, torch.bfloat16)


class Grid:
    """Attenuation `mu[x, y, z]` [1/mm] with its affine; constant inside a voxel, zero outside.

    The grid keeps one padded copy of the support of `mu` for the kernels, on its device. It is
    made at the first render and made again when `mu` was changed in place (torch's version
    counter tells; a write through `mu.data` escapes it). A tensor made under inference mode has no
    counter: its copy is made at every render.

    Args:
        mu: Linear attenuation [1/mm], float32 or float64, any strides; float16 or bfloat16 to
            store and read half the bytes, with all sums in float32. Or a stack of volumes on one
            grid, [v, x, y, z]: each pose, or each row of rays, then has a volume of its own.
        affine: world_from_voxel [mm], 4x4, column vectors; index 0 is a voxel centre. May be
            oblique, mirrored, anisotropic and sheared. Takes no gradient.

    Raises:
        ShapeError: `mu` is not [x, y, z] or [v, x, y, z] with at least one voxel, or `affine` not
            4x4.
        DtypeError: `mu` is not a floating-point volume.
        GeometryError: `affine` is not finite or cannot be inverted.
    """

    def __init__(self, mu: Float[Tensor, "*v x y z"], affine: Numbers):
        mu = _attenuation(mu)
        affine = as_affine(affine)
        self.mu = mu
        with torch.inference_mode(False):  # what is kept serves renders with gradients, too
            self.affine = affine.to(mu.device)
            # Poses live on the host, unless a CUDA graph moves them: the matrix is on both.
            self._host = torch.linalg.inv(affine)
            self.voxel_from_world = self._host.to(mu.device)
            linear = affine[:3, :3]
            box = torch.tensor([0, 0, 0, *mu.shape[-3:]], dtype=torch.float64)
            self._whole = torch.cat([box, (linear.T @ linear).flatten()]).to(mu.device)
            # Squared world length of a step in voxel coordinates.
            self.metric = self._whole[6:].reshape(3, 3)
        self._padded: Padded | None = None
        self._frozen: int | None = None  # version of mu, where it is not to change
        self._parts: list[Grid] = []

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along x, y, z."""
        return tuple(self.mu.shape[-3:])

    @property
    def volumes(self) -> int:
        """Number of volumes in the stack; 1 where there is none."""
        return len(self.mu) if self.mu.ndim == 4 else 1

    def with_mu(self, mu: Float[Tensor, "*v x y z"]) -> "Grid":
        """Other attenuation in the same place; on the same device nothing is moved for it.

        Raises:
            ShapeError, DtypeError: as `Grid`.
        """
        mu = _attenuation(mu)
        if mu.device != self.mu.device or tuple(mu.shape[-3:]) != self.shape:
            return Grid(mu, self.affine)
        other = copy.copy(self)
        other.mu, other._padded, other._frozen, other._parts = mu, None, None, []
        return other

    def each(self) -> "list[Grid]":
        """A grid for each volume of the stack; their padded copies are kept here.

        Raises:
            VolumeError: the volume was changed in place after `freeze`.
        """
        self._check_frozen()
        if self.mu.ndim == 3:
            return [self]
        if not self._parts:
            self._parts = [copy.copy(self) for _ in self.mu]
            for part in self._parts:
                part._padded, part._frozen = None, None
        for part, mu in zip(self._parts, self.mu, strict=True):
            part.mu = mu
        return self._parts

    def check_poses(self, number: int, several: bool = False) -> None:
        """Raises ShapeError where a stack has another number of volumes than there are poses.

        With `several`, each volume may have more frames than one.
        """
        fits = number % self.volumes == 0 if several else number == self.volumes
        if self.mu.ndim == 4 and not fits:
            raise ShapeError(
                f"mu has {self.volumes} volumes for {number} poses; expected one volume [x, y, z] "
                "for all, or one for each pose"
            )

    def freeze(self) -> "Grid":
        """The same grid, whose volume is taken as it is now and not looked at again.

        That question is the only step of a render that torch.compile cannot trace. A render that
        is not compiled still asks it.

        Raises:
            ConfigError: `mu` requires a gradient, so it is to be changed; or it was made under
                inference mode, where changes are not counted.
        """
        if self.mu.requires_grad:
            raise ConfigError("mu requires a gradient: a volume that will change cannot be frozen")
        if self.mu.is_inference():
            raise ConfigError("mu was made under torch.inference_mode, which counts no changes")
        other = copy.copy(self)
        other.padded().finish()
        other._frozen = self.mu._version
        return other

    def _check_frozen(self) -> None:
        if self._frozen is not None and self._frozen != self.mu._version:
            raise VolumeError("mu was changed in place after freeze(): freeze it again")

    @property
    def dtype(self) -> torch.dtype:
        """Of the images: float64 for a float64 volume, else float32."""
        return torch.promote_types(self.mu.dtype, torch.float32)

    def to_voxel(self, points: Float[Tensor, "*b 3"], shift: bool = True) -> Float[Tensor, "*b 3"]:
        """World points [mm] in voxel coordinates (integers are voxel centres), float64.

        Without `shift` these are displacements. They are computed where the points are.
        """
        m = self.voxel_from_world if points.device == self.mu.device else self._host
        moved = points.to(m) @ m[:3, :3].T
        return moved + m[:3, 3] if shift else moved

    def frames(
        self,
        source: Float[Tensor, "*#b 3"],
        corner: Float[Tensor, "*#b 3"],
        col_step: Float[Tensor, "*#b 3"],
        row_step: Float[Tensor, "*#b 3"],
        shift: bool = True,
    ) -> Float[Tensor, "*b 12"]:
        """Detectors [mm, world] in voxel coordinates, on the device of `mu`, float64.

        Without `shift`, the derivatives of detectors; gradients go through either way.
        """
        points = [self.to_voxel(source, shift), self.to_voxel(corner, shift)]
        steps = [self.to_voxel(col_step, False), self.to_voxel(row_step, False)]
        return torch.cat(torch.broadcast_tensors(*points, *steps), dim=-1).to(self.mu.device)

    def padded(self) -> "Padded":
        """The support of `mu` inside a shell of zeros, for the kernels; cached.

        Raises:
            VolumeError: the volume was changed in place after `freeze`.
        """
        if self._frozen is not None and torch.compiler.is_compiling():
            return self._padded
        self._check_frozen()
        version = _version(self.mu)
        if self._padded is None or version is None or self._padded.version != version:
            self._padded = Padded(self.mu.detach(), self._whole)
        self._padded.wait()
        return self._padded


class _Moment:
    """A point in the work of a CUDA stream."""

    def __init__(self, stream):
        self.stream, self.event = stream.cuda_stream, stream.record_event()


class Padded:
    """A contiguous copy of the bounding box of the non-zero voxels with zeros around it.

    The box of a stack is that of all its volumes.

    One layer of zeros below and two above each axis: a ray that enters through a side face
    then reads zeros instead of asking whether it is inside. The odd strides that result also
    keep power-of-two volumes from mapping every voxel of a ray to one cache set.

    Attributes:
        values: [*v, nx + 3, ny + 3, nz + 3], float32 or the half type of `mu`, on its device.
        lower: index in `mu` of the first voxel of the box, int64 [3].
        count: number of voxels of the box, int64 [3].
        geometry: lower, count and the metric [3, 3] in one tensor [15], float64, on the device.
        whole: the same for the box of all voxels of `mu`; given by the grid.
        version: of `mu`, as torch counts its changes in place; None where it does not.
    """

    def __init__(self, mu: Float[Tensor, "*v x y z"], whole: Float[Tensor, "15"]):
        self.version, self.whole = _version(mu), whole
        with torch.inference_mode(False):  # gradients may be asked of later renders
            self._fill(mu)
        self._made = _Moment(torch.cuda.current_stream(mu.device)) if mu.is_cuda else None

    def wait(self) -> None:
        """Let the current stream of the device wait for the copy, if another one makes it."""
        # A graph is recorded after all streams have come to rest, and may not wait for others.
        if self._made is None or torch.cuda.is_current_stream_capturing():
            return
        stream = torch.cuda.current_stream(self.values.device)
        if stream.cuda_stream != self._made.stream:
            stream.wait_event(self._made.event)
            for x in (self.values, self.geometry, self.whole):
                x.record_stream(stream)  # its memory is not given away while this stream reads

    def finish(self) -> None:
        """Wait here for the copy: compiled code does not ask which stream it runs on."""
        if self._made is not None:
            self._made.event.synchronize()

    def _fill(self, mu: Tensor) -> None:
        bounds = _support(mu)
        lower, upper = bounds.cpu().tolist()  # the one wait for a GPU
        box = mu[(..., *(slice(lo, up) for lo, up in zip(lower, upper, strict=True)))]
        count = box.shape[-3:]
        size = [n + 3 for n in count]
        if np.prod(size, dtype=np.int64) > MOST_VOXELS:
            raise ShapeError(
                f"mu has a support of {tuple(count)} voxels; the kernels take at most "
                f"{MOST_VOXELS}: crop or coarsen the volume, or use backend='reference'"
            )
        dtype = mu.dtype if mu.dtype in HALF else torch.float32
        self.values = torch.zeros(*mu.shape[:-3], *size, dtype=dtype, device=mu.device)
        self.values[..., 1:-2, 1:-2, 1:-2] = box
        self.lower = np.array(lower, dtype=np.int64)
        self.count = np.array(count, dtype=np.int64)
        first, end = bounds.to(self.whole.dtype)
        self.geometry = torch.cat([first, end - first, self.whole[6:]])


def _attenuation(mu: Numbers) -> Tensor:
    """The values of a grid, if they can be one."""
    if not isinstance(mu, Tensor) or mu.layout != torch.strided:
        mu = as_tensor(mu, "mu", torch.float32)
    check_values(mu, "mu")
    if mu.ndim not in (3, 4) or mu.numel() == 0:
        raise ShapeError(
            f"mu has shape {tuple(mu.shape)}; expected [x, y, z] or [v, x, y, z], none empty"
        )
    if mu.dtype not in (torch.float32, torch.float64, *HALF):
        raise DtypeError(
            f"mu has dtype {mu.dtype}; expected float32, float64, float16 or bfloat16: convert it"
        )
    return mu


def _version(mu: Tensor) -> int | None:
    return None if mu.is_inference() else mu._version


def _support(mu: Float[Tensor, "*v x y z"]) -> Int[Tensor, "2 3"]:
    """First and one-past-last index of the non-zero voxels, where mu is; one voxel if all are 0.

    In numbers that stay there: a question to a GPU waits for all that it has to do.
    """
    filled = mu != 0 if mu.ndim == 3 else (mu != 0).any(dim=0)
    plane = filled.any(dim=2)
    bounds = []
    for line in (plane.any(dim=1), plane.any(dim=0), filled.any(dim=0).any(dim=0)):
        n = len(line)
        at = torch.arange(n, device=mu.device)
        bounds.append(torch.stack([n - ((n - at) * line).amax(), ((at + 1) * line).amax()]))
    lower, upper = torch.stack(bounds, dim=1)
    none = upper == 0
    return torch.stack([lower * ~none, upper + none])
