"""The CUDA backend as PyTorch sees it: operators with their gradients, and launches.

Three operators, known to `torch.library`, so that `torch.compile` and CUDA graphs take them as
they are. (A compiled function is cut in two where the volume is asked whether it has changed;
`Grid.freeze` leaves the question out, and then `fullgraph=True` goes through.) Kernels run on the
device of their tensors and on its current stream. Triton is first imported where a volume on a
CUDA device asks for a backend.
With TRITON_INTERPRET=1 the same kernels take CPU tensors, slowly, for tests.
"""

import functools
import importlib.util
import math
import os
import re
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from drrlib.errors import ShapeError
from drrlib.first_order import refuse
from drrlib.projectors.cuda_launch import launch_adjoint, launch_forward, reduce_sums
from drrlib.projectors.grid import MOST_VOXELS, Grid

# Sums are kept for the backward pass while they take less than this part of the free memory.
_PART = 0.5
_SMALL = 2**26  # [bytes] that are never worth the question how much is free
_OLDEST = (7, 5)
_TRITON = (3, 3)  # the first whose compiler takes tuples of tensors as the kernels pass them


def available(device: torch.device) -> str | None:
    """Why kernels cannot run on this device; None where they can, as far as versions tell."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install triton; Linux only)"
    if device.type != "cuda":
        move = f"the volume is on {device}: move it with volume.to('cuda')"
        return None if interpreted() else move
    if torch.compiler.is_compiling():
        return None  # nothing of this can be traced
    if torch.cuda.get_device_capability(device) < _OLDEST:
        return "Triton needs a GPU of compute capability 7.5 (T4) or later"
    return _old_triton()


@functools.cache
def _old_triton() -> str | None:
    try:
        import triton
    except (ImportError, OSError) as error:
        return f"Triton cannot be imported ({error}): install it anew"
    version = tuple(map(int, re.findall(r"\d+", triton.__version__)[:2]))
    if version >= _TRITON:
        return None
    return (
        f"Triton {triton.__version__} cannot compile the kernels: they need Triton 3.3 or later, "
        "which comes with PyTorch 2.7"
    )


@functools.cache
def fault(device: torch.device) -> str | None:
    """What goes wrong on this device with the image of a box, and where to say so; None if nothing.

    Asked once for each device, before "auto" takes the kernels: what a compiler or driver of some
    other version makes of them is not known.

    Raises:
        torch.cuda.OutOfMemoryError: not even this fits.
    """
    try:
        with torch.inference_mode(False), torch.no_grad():
            image, sums = march(*_box(device), 16, 16, "siddon", True)
            slope = cuda_reduce(image, sums)
            right = bool((image - 2).abs().max() < 1e-4) and bool(torch.isfinite(slope).all())
        wrong = None if right else "the image of a box is wrong"
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # of any kind: compilers and drivers have their own
        wrong = f"{type(error).__name__}: {str(error).strip()[:200]}"
    if wrong is None:
        return None
    import triton

    return (
        f"{wrong} (Triton {triton.__version__}, PyTorch {torch.__version__}, "
        f"{torch.cuda.get_device_name(device)}); please report this line among drrlib's issues"
    )


def _box(device: torch.device) -> tuple[Grid, Tensor]:
    """A grid of 1 / mm, and a detector whose rays all go 2 mm through it."""
    ends = [-5.0, 0.2, 0.3, 6.0, 0.2, 0.3, *[0.0] * 6]
    grid = Grid(torch.ones(2, 2, 2, device=device), torch.eye(4, dtype=torch.float64))
    return grid, torch.tensor([ends], dtype=torch.float64).to(device)


def interpreted() -> bool:
    """Whether Triton runs kernels in Python, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def project(
    grid: Grid, frames: Tensor, height: int, width: int, method: str, patch_size: int | None
) -> Tensor:
    """Images [b, height, width] of frames [b, 12] (voxel coordinates), float32."""
    keep = torch.is_grad_enabled() and frames.requires_grad
    keep = keep and _fits(24 * len(frames) * height * width, frames.device)
    try:
        return march(grid, frames, height, width, method, keep, patch_size)[0]
    except torch.cuda.OutOfMemoryError:
        if not keep:
            raise
    warnings.warn(
        f"out of memory for the gradients of {len(frames)} images of {height} x {width}: the "
        "backward pass will march again, some images at a time",
        stacklevel=3,
    )
    return march(grid, frames, height, width, method, False, patch_size)[0]


def march(
    grid: Grid,
    frames: Tensor,
    height: int,
    width: int,
    method: str,
    keep: bool,
    patch_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Images [b, height, width], and dE/dsource, dE/dtarget [b, height, width, 6] if `keep`."""
    padded = grid.padded()
    patch = patch_size or max(height, width)
    return cuda_project(
        grid.mu,
        padded.values,
        padded.geometry,
        padded.whole,
        frames,
        height,
        width,
        method == "joseph",
        keep,
        patch,
    )


@torch.library.custom_op("drrlib::cuda_project", mutates_args=())
def cuda_project(
    mu: Tensor,
    values: Tensor,
    geometry: Tensor,
    whole: Tensor,
    frames: Tensor,
    height: int,
    width: int,
    joseph: bool,
    keep: bool,
    patch: int,
) -> tuple[Tensor, Tensor]:
    """`march` on tensors: mu only takes the gradient, values is its padded copy.

    Of a stack of v volumes [v, x, y, z] each has b / v of the frames, one volume after the other.
    """
    image = frames.new_empty(len(frames), height, width, dtype=torch.float32)
    kept = (height, width) if keep else (0, 0)
    sums = frames.new_empty(len(frames), *kept, 6, dtype=torch.float32)
    for top in range(0, height, patch):
        for left in range(0, width, patch):
            window = (top, left, min(patch, height - top), min(patch, width - left))
            launch_forward(values, geometry, frames, image, sums, window, joseph, keep)
    return image, sums


@cuda_project.register_fake
def _(mu, values, geometry, whole, frames, height, width, joseph, keep, patch):
    kept = (height, width) if keep else (0, 0)
    image = frames.new_empty(len(frames), height, width, dtype=torch.float32)
    return image, frames.new_empty(len(frames), *kept, 6, dtype=torch.float32)


def _save(ctx, inputs, output):
    mu, values, geometry, whole, frames, _, _, joseph, _, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(values, geometry, whole, frames, output[1])
    ctx.joseph, ctx.shape, ctx.dtype = joseph, mu.shape, mu.dtype


def _backward(ctx, grad, _):
    values, geometry, whole, frames, sums = ctx.saved_tensors
    slopes = [None] * 10
    if grad is not None and ctx.needs_input_grad[0]:
        slope = cuda_volume_gradient(grad, whole, frames, list(ctx.shape), ctx.joseph)
        slopes[0] = slope.to(ctx.dtype)
    if grad is not None and ctx.needs_input_grad[4]:
        slopes[4] = cuda_frame_gradient(grad, sums, values, geometry, frames, ctx.joseph)
    return tuple(slopes)


cuda_project.register_autograd(_backward, setup_context=_save)


@torch.library.custom_op("drrlib::cuda_frame_gradient", mutates_args=())
def cuda_frame_gradient(
    grad: Tensor, sums: Tensor, values: Tensor, geometry: Tensor, frames: Tensor, joseph: bool
) -> Tensor:
    """Chain the image gradient to the frames [b, 12]; a product with the sums of the march.

    Where they were not kept, march again, as many poses of a volume at a time as the memory
    takes. Every pose is added up by itself, so the split changes no bit.
    """
    grad = grad.contiguous()
    if sums.shape[1]:
        return reduce_sums(grad, sums)
    out = torch.empty_like(frames)
    batch, height, width = grad.shape
    stack = values.reshape(-1, *values.shape[-3:])
    own = batch // len(stack)

    def run(part: slice) -> None:
        image = torch.empty_like(grad[part])
        sums = grad.new_empty(*image.shape, 6)
        window, of = (0, 0, height, width), stack[part.start // own]
        launch_forward(of, geometry, frames[part], image, sums, window, joseph, True)
        out[part] = reduce_sums(grad[part], sums)

    most = max(1, _budget(grad.device) // (28 * height * width))
    for first in range(0, batch, max(own, 1)):
        in_batches(run, first, first + own, most)
    return out


cuda_frame_gradient.register_autograd(refuse)


@cuda_frame_gradient.register_fake
def _(grad, sums, values, geometry, frames, joseph):
    return torch.empty_like(frames)


@torch.library.custom_op("drrlib::cuda_reduce", mutates_args=())
def cuda_reduce(grad: Tensor, sums: Tensor) -> Tensor:
    """Chain the image gradient to the frames [b, 12], float64, by the sums of a march."""
    return reduce_sums(grad.contiguous(), sums)


cuda_reduce.register_autograd(refuse)


@cuda_reduce.register_fake
def _(grad, sums):
    return grad.new_empty(len(grad), 12, dtype=torch.float64)


@torch.library.custom_op("drrlib::cuda_volume_gradient", mutates_args=())
def cuda_volume_gradient(
    grad: Tensor, whole: Tensor, frames: Tensor, shape: list[int], joseph: bool
) -> Tensor:
    """Chain the image gradient to every voxel, float32 of this shape, [x, y, z] or a stack.

    By float atomics, whose order varies from run to run; in whole numbers under
    torch.use_deterministic_algorithms.
    """
    padded = [*shape[:-3], *(n + 3 for n in shape[-3:])]
    if math.prod(padded[-3:]) > MOST_VOXELS:
        raise ShapeError(
            f"mu has {tuple(shape)} voxels; a volume gradient takes at most {MOST_VOXELS} with "
            "their padding: crop the volume, for instance with volume.crop_to_support()"
        )
    fixed = torch.are_deterministic_algorithms_enabled()
    out = grad.new_zeros(padded, dtype=torch.int64 if fixed else torch.float32)
    scale = whole.new_ones(())
    if fixed:
        # No voxel gets more than sum |grad| times the longest way through a slab, which is less
        # than sqrt(3) times the Frobenius norm of the affine: in units of 1 / scale, below 2^62.
        metric = whole[6:].reshape(3, 3)
        most = grad.abs().sum(dtype=torch.float64) * (3 * metric.trace()).sqrt()
        scale = 2.0**62 / most.clamp_min(1e-280)
    launch_adjoint(grad.contiguous(), whole, frames, scale, out, joseph, fixed)
    out = out[..., 1:-2, 1:-2, 1:-2]
    return (out / scale).float() if fixed else out.contiguous()


cuda_volume_gradient.register_autograd(refuse)


@cuda_volume_gradient.register_fake
def _(grad, whole, frames, shape, joseph):
    return grad.new_empty(shape, dtype=torch.float32)


# --- memory


def in_batches(run: Callable[[slice], None], start: int, stop: int, batch: int) -> None:
    """run(slice) over start .. stop, `batch` at a time; half as many where memory runs out.

    Raises:
        torch.cuda.OutOfMemoryError: even one is too many.
    """
    batch = min(batch, stop - start)
    while start < stop:
        part = slice(start, min(start + batch, stop))
        try:
            run(part)
            start = part.stop
            continue
        except torch.cuda.OutOfMemoryError:
            if batch == 1:
                raise
        # Outside the except clause, whose traceback keeps the tensors of the failed attempt.
        batch //= 2
        warnings.warn(f"out of memory: going on with {batch} images at a time", stacklevel=2)


def _budget(device: torch.device) -> int:
    """Bytes that a call may take for what it throws away again."""
    if device.type != "cuda":
        return _SMALL
    free, _ = torch.cuda.mem_get_info(device)
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(_PART * (free + idle))


def _fits(size: int, device: torch.device) -> bool:
    # Neither compiled nor recorded code can ask how much is free.
    if torch.compiler.is_compiling() or size <= _SMALL:
        return True
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return True
    return size <= _budget(device)
