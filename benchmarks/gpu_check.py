"""Images and gradients against the float64 reference: nothing wrong is timed."""

import torch
from gpu_cases import DrrLibGpu, Setting, carm_of
from gpu_plan import POSE, Job
from gpu_timing import GpuCase
from ours import Reference
from scene import Scene

from drrlib.drr import DRR

QUANTITIES = ("image", "pose gradient", "volume gradient")
# Largest relative error of each (ratio of norms), by the type of the volume.
OWN_LIMITS = {"float32": (2e-5, 2e-3, 1e-3), "float16": (2e-3, 5e-2, 5e-3)}
ALIGNED = 1e-3  # image of a view along an axis: rays in voxel faces may take either neighbour
PEER_LIMIT = 0.05  # a larger error is another image and not a less exact one


def check_own(own: DrrLibGpu, scene: Scene, pose: str, n: int = 24) -> None:
    """drrlib's image and both gradients, on a small detector, before anything is timed.

    Raises:
        SystemExit: the error of one is beyond its limit, or not a number.
    """
    device = str(scene.mu.device)
    setting = Setting.make(Job("check", POSE, scene.volume, pose, n, batch=2), scene, device)
    exact = own.volumes["float32"].to(torch.float64)
    for method in ("siddon", "joseph"):
        mu = exact.mu.requires_grad_()
        reference = DRR(exact, carm_of(setting.job), method=method, backend="reference")
        truth = _image_and_gradients(reference, setting, mu)
        for dtype in own.grids:
            mu = own.volumes[dtype].mu.clone().requires_grad_()
            seen = _image_and_gradients(own.renderer(setting.job, method, dtype, mu), setting, mu)
            limits = OWN_LIMITS[dtype]
            for name, x, true, limit in zip(QUANTITIES, seen, truth, limits, strict=True):
                error = float((x - true).norm() / true.norm())
                print(f"  {method} {dtype} {name}: {error:.1e} (at most {limit:g})")
                if not error <= limit:
                    raise SystemExit(
                        f"drrlib {method} {dtype}: {name} is {error:.1e} off the float64 "
                        f"reference; expected at most {limit:g}: nothing was timed"
                    )


def _image_and_gradients(drr: DRR, setting: Setting, mu: torch.Tensor) -> list[torch.Tensor]:
    pose = setting.pose.clone().requires_grad_()
    image = drr(pose)
    weights = setting.cotangent.to(image.dtype)
    found = [image.detach(), *torch.autograd.grad(image, (pose, mu), weights)]
    return [x.double() for x in found]


def verify(cases: list[GpuCase], reference: Reference, setting: Setting) -> dict[int, float]:
    """Relative error of each case's image, by its place in `cases`; the larger of two poses.

    The first and the last pose of the batch are compared, so that a batch in another order, or
    with one pose for all, is found out. A case that fails here is out (see `GpuCase.status`),
    and so is a peer with another image: no time without the same image.

    Raises:
        SystemExit: drrlib's own image is wrong.
    """
    errors = {}
    ends = sorted({0, setting.job.batch - 1})
    kept = []
    for case in cases:
        images = case.attempt(case.image)
        kept.append(None if images is None else [images[k, 0].double().cpu().numpy() for k in ends])
        del images
    for place, k in enumerate(ends):
        view = setting.views[k]
        for i, case in enumerate(cases):
            if kept[i] is None:
                continue
            error = reference.error(kept[i][place], view, case.method)
            limit = _limit(case, k == 0 and setting.job.pose in ("ap", "lateral"))
            if not error <= limit and case.library != "drrlib":
                case.status = f"failed: image is {error:.1e} off the reference"
            elif not error <= limit:
                raise SystemExit(
                    f"{case.name} at {view.n}², {view.pose}, pose {k} of {setting.job.batch}: "
                    f"image is {error:.1e} off the reference; expected at most {limit:g}"
                )
            errors[i] = max(error, errors.get(i, 0.0))
    return errors


def _limit(case: GpuCase, aligned: bool) -> float:
    if case.library != "drrlib":
        return PEER_LIMIT
    limit = OWN_LIMITS[case.dtype][0]
    return max(limit, ALIGNED) if aligned else limit
