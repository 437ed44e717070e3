"""Projection of a grid, whatever the backend: checks, choice of backend, autograd."""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from drrlib.arrays import Numbers, as_tensor, as_whole
from drrlib.errors import BackendError, ConfigError, ShapeError
from drrlib.first_order import first_order
from drrlib.projectors import cpu, cuda, reference, reference_images
from drrlib.projectors.grid import HALF, Grid

METHODS = tuple(reference.METHODS)
BACKENDS = ("auto", "reference", "cpu", "cuda")


def choose_backend(grid: Grid, backend: str = "auto") -> str:
    """The backend that will run: the named one, or for "auto" the fastest that can.

    Where the kernels should run on a GPU and do not, "auto" warns and takes the reference.

    Raises:
        ConfigError: an unknown name.
        BackendError: the named backend cannot take this grid.
    """
    if not isinstance(grid, Grid):
        raise ConfigError(f"grid is a {type(grid).__name__}; expected a Grid(mu, affine)")
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise ConfigError(f"backend is {backend!r}; choose one of {', '.join(BACKENDS)}")
    fits = grid.mu.device.type == "cpu" and grid.mu.dtype == torch.float32
    if backend == "cpu" and not fits:
        raise BackendError(
            f"backend 'cpu' takes float32 volumes on the CPU; got {grid.mu.dtype} on "
            f"{grid.mu.device}: convert with volume.to(...), or use backend='reference'"
        )
    if backend == "cuda":
        missing = cuda.available(grid.mu.device)
        if grid.mu.dtype not in (torch.float32, *HALF):
            missing = f"mu has dtype {grid.mu.dtype}: convert with volume.to(torch.float32)"
        if missing:
            raise BackendError(f"backend 'cuda' cannot run here: {missing}")
    if backend != "auto":
        return backend
    if fits:
        return "cpu"
    if grid.mu.device.type != "cuda" or grid.mu.dtype == torch.float64:
        return "reference"
    return _on_gpu(grid.mu.device)


def _on_gpu(device: torch.device) -> str:
    """What "auto" means there: the kernels, or the reference with a warning that says why."""
    missing = cuda.available(device)
    if missing is None and not torch.compiler.is_compiling():
        missing = cuda.fault(device)
    if missing is None:
        return "cuda"
    warnings.warn(
        f"the CUDA kernels do not run on {device}, and the PyTorch reference takes their place, "
        f"which is slow: {missing}",
        stacklevel=4,
    )
    return "reference"


def project(
    grid: Grid,
    source: Numbers,
    corner: Numbers,
    col_step: Numbers,
    row_step: Numbers,
    height: int,
    width: int,
    *,
    method: str = "siddon",
    backend: str = "auto",
    patch_size: int | None = None,
) -> Float[Tensor, "b height width"]:
    """Line integrals from a source to every pixel centre of a flat detector, for each pose.

    Args:
        grid: The volume, or a stack of as many volumes as there are poses.
        source: X-ray source [mm, world], [b, 3].
        corner: Outer corner of pixel (0, 0) [mm, world], [b, 3].
        col_step, row_step: From a pixel to its right and its lower neighbour [mm, world], [b, 3];
            pixel (i, j) has its centre at corner + (j + 1/2) col_step + (i + 1/2) row_step.
        height, width: Rows and columns.
        method: "siddon" (exact) or "joseph" (smooth in the pose).
        backend: "reference" (any float dtype and device), "cpu" (float32), "cuda" (float32 or
            half volumes on a CUDA device), or "auto".
        patch_size: Render squares of this many pixels one after the other. The image does not
            depend on it; the reference needs less memory, the kernels need none.

    Geometry is brought to the device of `grid.mu`, and its gradient comes back.

    Returns:
        Line integrals [-], float64 for a float64 volume, else float32; zero where a ray misses
        the grid.

    Gradients:
        grid.mu, source, corner, col_step, row_step; first derivatives. With "siddon" exact but
        with jumps where a ray meets a voxel edge; finite always. The volume gradient of "cuda"
        repeats bit by bit only under torch.use_deterministic_algorithms, the others always do.

    Raises:
        ShapeError: tensors disagree.
        ConfigError: unknown method or backend, or a size below 1.
        BackendError: the named backend cannot run here.
    """
    height, width = as_whole(height, "height"), as_whole(width, "width")
    patch_size = None if patch_size is None else as_whole(patch_size, "patch_size")
    backend = choose_backend(grid, backend)
    points = _points(method, source=source, corner=corner, col_step=col_step, row_step=row_step)
    how = dict(method=method, backend=backend, patch_size=patch_size)
    _check_broadcast(points, "source, corner, col_step and row_step", "[b, 3]")
    frames = grid.frames(*points)
    grid.check_poses(len(frames))
    return images(grid, frames, height, width, **how)


def images(
    grid: Grid,
    frames: Float[Tensor, "b 12"],
    height: int,
    width: int,
    *,
    method: str = "siddon",
    backend: str = "auto",
    patch_size: int | None = None,
) -> Float[Tensor, "b height width"]:
    """As `project`, of frames in voxel coordinates (`Grid.frames`).

    Of a stack of v volumes each has b / v of the frames, one volume after the other.
    """
    choice = choose_backend(grid, backend)
    grid.check_poses(len(frames), several=True)
    _check_transforms(grid.mu, frames)
    if choice == "cuda":
        return cuda.project(grid, frames, height, width, method, patch_size)
    frames = _FirstOrder.apply(frames)
    parts = [
        cpu.Project.apply(part.mu, rows, part, height, width, method, patch_size)
        if choice == "cpu"
        else reference_images.images(part, rows, height, width, method, patch_size)
        for part, rows in _by_volume(grid, frames)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def line_integrals(
    grid: Grid,
    source: Numbers,
    target: Numbers,
    *,
    method: str = "siddon",
    backend: str = "auto",
    patch_size: int | None = None,
) -> Float[Tensor, "*ray"]:
    """Line integrals along any source-target segments, such as fan beams or chosen pixels.

    Args:
        grid: The volume.
        source, target: Segment ends [mm, world], [..., 3]; they broadcast. For a stack of v volumes
            [v, ..., 3], the rays of each volume.
        method, backend: As in `project`.
        patch_size: Take patch_size x patch_size rays at a time (reference only matters).

    Returns:
        Line integrals [-]; a segment may begin or end inside the grid.

    Gradients:
        grid.mu, source, target, as in `project`.

    Raises:
        As `project`.
    """
    choice = choose_backend(grid, backend)
    source, target = _points(method, source=source, target=target)
    _check_broadcast([source, target], "source and target", "[..., 3]")
    source, target = torch.broadcast_tensors(source, target)
    if grid.mu.ndim == 4 and (source.ndim < 2 or len(source) != grid.volumes):
        raise ShapeError(
            f"mu has {grid.volumes} volumes for rays of shape {tuple(source.shape)}; expected one "
            f"volume [x, y, z] for all, or rays [{grid.volumes}, ..., 3]"
        )
    # A ray is a detector of one pixel without extent.
    s, p = source.reshape(-1, 3), target.reshape(-1, 3)
    frames = grid.frames(s, p, torch.zeros_like(s), torch.zeros_like(s))
    _check_transforms(grid.mu, frames)
    if choice == "cuda":
        return cuda.project(grid, frames, 1, 1, method, None).reshape(source.shape[:-1])
    frames = _FirstOrder.apply(frames)
    most = patch_size**2 if patch_size else reference_images.RAYS
    values = [
        cpu.Project.apply(part.mu, rows, part, 1, 1, method, None).flatten()
        if choice == "cpu"
        else reference_images.rays(part, rows[:, :3], rows[:, 3:6], method, most)
        for part, rows in _by_volume(grid, frames)
    ]
    return torch.cat(values).reshape(source.shape[:-1])


def endpoint_gradients(
    grid: Grid,
    frames: Float[Tensor, "b 12"],
    height: int,
    width: int,
    *,
    method: str = "siddon",
    backend: str = "auto",
) -> tuple[Float[Tensor, "b height width"], Float[Tensor, "b height width 6"]]:
    """Image, and per pixel the derivatives of its value with respect to source and target.

    Args:
        frames: Source, corner, column step and row step in voxel coordinates.

    Returns:
        The image and (dE/dsource, dE/dtarget) [1/voxel], both detached.

    Raises:
        ShapeError: a stack of another number of volumes.
        BackendError: the named backend cannot run here, or a torch.func transform.
    """
    choice = choose_backend(grid, backend)
    _check_transforms(grid.mu, frames)
    frames = frames.detach().to(grid.mu.device)
    grid.check_poses(len(frames), several=True)
    if choice == "cuda":
        return cuda.march(grid, frames, height, width, method, keep=True)
    found = [
        cpu.forward(part, rows, height, width, method)
        if choice == "cpu"
        else reference_images.endpoint_gradients(part, rows, height, width, method)
        for part, rows in _by_volume(grid, frames)
    ]
    image, sums = zip(*found, strict=True)
    return (image[0], sums[0]) if len(found) == 1 else (torch.cat(image), torch.cat(sums))


def frame_gradients(
    grid: Grid,
    grad: Float[Tensor, "b height width"],
    sums: Float[Tensor, "b height width 6"],
    backend: str = "auto",
) -> Float[Tensor, "b 12"]:
    """Chain the gradient of images to their frames, by the sums that `endpoint_gradients` kept.

    Every pose is added up by itself and in one order, float64.
    """
    choice = choose_backend(grid, backend)
    if choice == "cuda":
        return cuda.cuda_reduce(grad, sums)
    if choice == "cpu":
        return cpu.reduce(grad.contiguous(), sums)
    source, target = (grad[..., None] * sums).double().split(3, dim=-1)
    i, j = (torch.arange(n).to(target) + 0.5 for n in grad.shape[1:])
    by_row = target.sum(dim=2)
    parts = [source.sum(dim=(1, 2)), by_row.sum(dim=1), (j[:, None] * target).sum(dim=(1, 2))]
    return torch.cat([*parts, (i[:, None] * by_row).sum(dim=1)], dim=-1)


def _by_volume(grid: Grid, frames: Float[Tensor, "b 12"]) -> list[tuple[Grid, Tensor]]:
    """Each volume with its own frames, one volume after the other."""
    return list(zip(grid.each(), frames.tensor_split(grid.volumes), strict=True))


def _check_broadcast(points: list[Tensor], names: str, shape: str) -> None:
    try:
        torch.broadcast_shapes(*(x.shape for x in points))
    except RuntimeError:
        shapes = ", ".join(str(tuple(x.shape)) for x in points)
        raise ShapeError(
            f"{names} of shapes {shapes} do not broadcast; expected {shape} each"
        ) from None


def _points(method: str, **points: Numbers) -> list[Tensor]:
    if method not in METHODS:
        raise ConfigError(f"method is {method!r}; choose one of {', '.join(METHODS)}")
    found = []
    for name, values in points.items():
        tensor = as_tensor(values, name)
        if tensor.ndim < 1 or tensor.shape[-1] != 3:
            raise ShapeError(f"{name} has shape {tuple(tensor.shape)}; expected [..., 3]")
        found.append(tensor)
    return found


def _check_transforms(mu: Tensor, frames: Tensor) -> None:
    """Raises BackendError under transforms that do not reach into the kernels."""
    # In a form that torch.compile can trace: compiled, derivatives would be zero without a word.
    inner = torch._C._functorch
    refused = isinstance(inner.peek_interpreter_stack(), inner.CInterpreter)
    if not (refused or torch.compiler.is_compiling()):
        refused = any(forward_ad.unpack_dual(x).tangent is not None for x in (mu, frames))
    if refused:
        raise BackendError(
            "projectors have no forward-mode derivatives and take no torch.func transforms (vmap, "
            "jacfwd, jacrev, hessian): pass poses as a batch, and use backward or drr.jacobian(eta)"
        )


class _FirstOrder(torch.autograd.Function):
    """Nothing but the refusal of second derivatives by the frames, whose gradient jumps wherever
    a ray goes from one voxel to the next: autograd would leave the jumps out."""

    @staticmethod
    def forward(ctx, frames):
        return frames.view_as(frames)

    @staticmethod
    @first_order
    def backward(ctx, grad):
        return (grad,)
