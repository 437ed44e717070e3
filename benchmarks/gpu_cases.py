"""drrlib, DiffDRR and nanodrr on a device: the same batch of poses, the same cotangent."""

import types
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import torch
from gpu_plan import IMAGE, JACOBIAN, TABLE, VOLUME, Job
from gpu_timing import GpuCase, Meter
from peers_torch import _placeholders
from scene import DETECTOR, SDD, SOD, Scene, View

from drrlib.drr import DRR
from drrlib.errors import DrrlibError
from drrlib.geometry import CArm
from drrlib.volume import Volume

# Poses of a batch lie around the view: so far at most [rad, mm].
SPREAD = (0.1, 0.1, 0.05, 8.0, 8.0, 8.0)


@dataclass(frozen=True, eq=False)
class Setting:
    """A job with its tensors: what all libraries are given."""

    job: Job
    views: list[View]
    eta: torch.Tensor  # float64 [batch, 6]
    pose: torch.Tensor  # world_from_camera, float64 [batch, 4, 4]
    cotangent: torch.Tensor  # float32 [batch, 1, n, n]

    @classmethod
    def make(cls, job: Job, scene: Scene, device: str) -> "Setting":
        """The first pose is the view itself; the others are drawn around it, always the same."""
        shifts = np.random.default_rng(1).uniform(-1, 1, (job.batch, 6)) * SPREAD
        shifts[0] = 0
        views = [scene.view(job.pose, job.n, tuple(shift)) for shift in shifts]
        pose = torch.from_numpy(np.stack([v.world_from_camera for v in views])).to(device)
        generator = torch.Generator(device).manual_seed(0)
        shape = (job.batch, 1, job.n, job.n)
        cotangent = torch.rand(shape, generator=generator, device=device)
        eta = torch.from_numpy(np.stack([v.eta for v in views])).to(device)
        return cls(job, views, eta, pose, cotangent)


def carm_of(job: Job) -> CArm:
    return CArm(SDD, SOD, job.n, job.n, DETECTOR / job.n, DETECTOR / job.n)


class DrrLibGpu:
    """drrlib through its public interface; `backend` as `DRR` takes it."""

    library = "drrlib"

    def __init__(self, scene: Scene, meter: Meter, backend: str):
        self.meter, self.backend = meter, backend
        self.version = ""
        affine = torch.from_numpy(scene.affine)
        self.volumes = {"float32": Volume(scene.mu, affine)}
        self.grids = {}
        for dtype in (torch.float32, torch.float16):
            name = str(dtype).removeprefix("torch.")
            try:
                volume = Volume(scene.mu.to(dtype), affine)
                # The public constructor decides whether the backend takes this volume.
                carm = CArm(SDD, SOD, 1, 1, DETECTOR, DETECTOR)
                self.grids[name] = DRR(volume, carm, backend=backend).grid
                self.volumes[name] = volume
            except DrrlibError as problem:
                if dtype == torch.float32:
                    raise SystemExit(f"drrlib cannot run here: {problem}") from None
                print(f"  drrlib {name} left out: {problem}")

    def cases(self, setting: Setting) -> list[GpuCase]:
        if setting.job.group == TABLE:
            return [self._case(setting, "siddon", "float32", "")]
        found = [self._case(setting, m, d, "") for d in self.grids for m in ("siddon", "joseph")]
        if setting.job.compiled:
            found += [self._case(setting, m, "float32", "compile") for m in ("siddon", "joseph")]
        return found

    def renderer(self, job: Job, method: str, dtype: str, mu=None) -> DRR:
        carm = carm_of(job)
        volume = self.volumes[dtype]
        volume = volume if mu is None else volume.with_mu(mu)
        drr = DRR(volume, carm, method=method, backend=self.backend, patch_size=job.patch)
        if mu is None:
            drr.grid = self.grids[dtype]  # what it prepares of the volume, once for all jobs
        return drr

    def _case(self, setting: Setting, method: str, dtype: str, variant: str) -> GpuCase:
        job, state = setting.job, {}

        def prepare():  # at the first call, where running out of memory is caught
            if not state:
                mu = self.volumes[dtype].mu.clone() if job.what == VOLUME else None
                drr = self.renderer(job, method, dtype, None if mu is None else mu.requires_grad_())
                state["render"] = _compiled(drr.freeze()) if variant else drr
                state["drr"], state["leaf"] = drr, mu
            return state

        def images():
            with torch.no_grad():
                return prepare()["render"](setting.pose)

        def jacobian():
            return prepare()["drr"].jacobian(setting.eta)

        def gradient():
            found = prepare()
            return _gradient(found["render"], setting, setting.pose, found["leaf"])

        run = {IMAGE: images, JACOBIAN: jacobian}.get(job.what, gradient)
        return GpuCase(
            self.library, variant, method, job.what, run, images, dtype=dtype, meter=self.meter
        )


def _calls(setting: Setting, prepare: Callable[[], dict]) -> tuple[Callable, Callable]:
    """What a peer's case runs, and how it renders its images.

    Args:
        prepare: Makes the peer's renderer at its first call: `render` (pose -> images) and
            `leaf` (the volume whose gradient is wanted, or None).
    """
    pose = setting.pose.float()

    def images():
        with torch.no_grad():
            return prepare()["render"](pose)

    def gradient():
        found = prepare()
        return _gradient(found["render"], setting, pose, found["leaf"])

    return images if setting.job.what == IMAGE else gradient, images


class DiffDrrGpu:
    """DiffDRR 0.6.1, Siddon and trilinear (500 samples), eager.

    Its pose is a RigidTransform of world_from_camera; its patches are those of `patch_size`.
    """

    library = "diffdrr"

    def __init__(self, scene: Scene, meter: Meter):
        _placeholders("torchvision", "kornia", "torchio")
        from diffdrr.drr import DRR as Theirs
        from diffdrr.pose import RigidTransform

        self.make, self.transform = Theirs, RigidTransform
        self.scene, self.meter = scene, meter
        self.version = f"diffdrr {version('diffdrr')}"

    def cases(self, setting: Setting) -> list[GpuCase]:
        if setting.job.what == JACOBIAN:
            return []
        methods = ("siddon",) if setting.job.group == TABLE else ("siddon", "trilinear")
        return [self._case(setting, method) for method in methods]

    def _case(self, setting: Setting, method: str) -> GpuCase:
        job, state = setting.job, {}

        def prepare():
            if not state:
                wants = job.what == VOLUME
                mu = self.scene.mu.clone().requires_grad_() if wants else self.scene.mu
                subject = types.SimpleNamespace(
                    volume=types.SimpleNamespace(affine=self.scene.affine),
                    density=types.SimpleNamespace(data=mu[None]),
                    mask=None,
                    reorient=torch.eye(4)[None],
                )
                drr = self.make(
                    subject,
                    sdd=SDD,
                    height=job.n,
                    delx=DETECTOR / job.n,
                    renderer=method,
                    reverse_x_axis=False,
                    patch_size=job.patch,
                ).to(setting.pose.device)
                drr.density = mu  # the leaf itself, whatever the grad mode of this first call
                state["render"] = lambda pose: drr(self.transform(pose))
                state["leaf"] = mu if wants else None
            return state

        run, images = _calls(setting, prepare)
        return GpuCase(self.library, "", method, job.what, run, images, meter=self.meter)


class NanoDrrGpu:
    """nanodrr 0.1.6 through its DRR module, which keeps the pixel positions; 500 samples.

    On a GPU its Triton kernel, eager in float32 and with a half-precision volume; at the
    headline also compiled (reduce-overhead, as in its own benchmark) and its torch path. The
    geometry stays float32: rounded to bfloat16, as its benchmark has it, a source 510 mm away
    moves by millimetres, and the kernel computes in float32 anyway.
    """

    library = "nanodrr"

    def __init__(self, scene: Scene, meter: Meter):
        _placeholders("torchio")
        from nanodrr.data import Subject
        from nanodrr.drr import DRR as Theirs

        self.make, self.subject, self.scene, self.meter = Theirs, Subject, scene, meter
        self.version = f"nanodrr {version('nanodrr')}"
        # A T4 has no bfloat16 arithmetic.
        modern = meter.cuda and torch.cuda.get_device_capability() >= (8, 0)
        self.half = torch.bfloat16 if modern else torch.float16
        self.images = {}

    def cases(self, setting: Setting) -> list[GpuCase]:
        job, half = setting.job, str(self.half).removeprefix("torch.")
        if job.what == JACOBIAN or job.group == TABLE:
            return []  # it has neither Jacobian nor Siddon nor patches
        if not self.meter.cuda:
            return [self._case(setting, "torch", "float32")]
        wanted = [("triton", "float32"), ("triton", half)]
        if job.compiled:
            wanted += [("triton compile", "float32"), ("triton compile", half)]
            wanted += [("torch", "float32")]
        return [self._case(setting, *words) for words in wanted]

    def _case(self, setting: Setting, variant: str, dtype: str) -> GpuCase:
        job, state = setting.job, {}
        backend = variant.split()[0]

        def prepare():
            if not state:
                image = self._image(dtype)
                leaf = image.detach().clone().requires_grad_() if job.what == VOLUME else None
                subject = self._subject(image if leaf is None else leaf)
                pitch, device = DETECTOR / job.n, setting.pose.device
                k_inv = torch.tensor(
                    [  # rows run downwards, the camera's +y up
                        [pitch / SDD, 0.0, -0.5 * DETECTOR / SDD],
                        [0.0, -pitch / SDD, 0.5 * DETECTOR / SDD],
                        [0.0, 0.0, 1.0],
                    ],
                    device=device,
                )[None]
                drr = self.make(k_inv, torch.tensor([SDD], device=device), job.n, job.n)

                def render(pose):
                    return drr(subject, pose, backend=backend)

                state["render"] = _compiled(render) if "compile" in variant else render
                state["leaf"] = leaf
            return state

        run, images = _calls(setting, prepare)
        return GpuCase(
            self.library, variant, "trilinear", job.what, run, images, dtype=dtype, meter=self.meter
        )

    def _image(self, dtype: str) -> torch.Tensor:
        if dtype not in self.images:
            image = self.scene.mu.permute(2, 1, 0)[None, None].contiguous()
            self.images[dtype] = image.to(getattr(torch, dtype))
        return self.images[dtype]

    def _subject(self, image: torch.Tensor):
        affine = torch.from_numpy(self.scene.affine)
        subject = self.subject(
            image,
            image.detach(),
            affine.float(),
            affine.inverse().float(),
            self.subject._make_voxel_to_grid(image.shape),
            torch.zeros(3),
            max_label=0,
            convert_to_mu=False,
        )
        for name, buffer in subject.named_buffers():
            if buffer is not image:  # moving the volume itself would make a copy of a leaf
                setattr(subject, name, buffer.to(image.device))
        return subject


def _gradient(render: Callable, setting: Setting, pose: torch.Tensor, leaf) -> torch.Tensor:
    """Image and the product of the cotangent with its derivative by volume or pose."""
    if leaf is None:
        leaf = pose = pose.detach().requires_grad_()
    image = render(pose)
    return torch.autograd.grad(image, leaf, setting.cotangent.to(image.dtype))[0]


def _compiled(render: Callable) -> Callable:
    """`render` by torch.compile with CUDA graphs; each call begins a new step of theirs."""
    fast = torch.compile(render, mode="reduce-overhead", fullgraph=True)

    def call(pose):
        torch.compiler.cudagraph_mark_step_begin()
        return fast(pose)

    return call


def adapters(
    scene: Scene, meter: Meter, backend: str, peers: list[str]
) -> tuple[list, dict[str, str]]:
    """drrlib and the peers that can run here, and for the others the reason why not."""
    ready, missing = [DrrLibGpu(scene, meter, backend)], {}
    for make in (DiffDrrGpu, NanoDrrGpu):
        if make.library not in peers:
            missing[make.library] = "not asked for"
            continue
        try:
            ready.append(make(scene, meter))
        except (ImportError, AttributeError) as problem:
            missing[make.library] = f"{type(problem).__name__}: {problem}"
    return ready, missing
