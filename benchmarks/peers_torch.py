"""Differentiable peers in PyTorch: DiffDRR (Siddon by sorting) and nanodrr (trilinear)."""

import sys
import types
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np
import torch
from scene import DETECTOR, SDD, Scene, View
from timing import Case

NUDGE = 1e-8  # both libraries start their pose parameters a hair from zero, as here


class DiffDrr:
    """DiffDRR's Siddon renderer, eager and through its own compile_renderer option.

    Step: rotation and translation parameters through its pose conversion, its DRR module and its
    normalized cross correlation, and back. Its `reorient` matrix holds the pose, so that the
    parameters stand for a small motion, as in its registration module.
    """

    library = "diffdrr"

    def __init__(self, scene: Scene, threads: int, largest: int = 200):
        _placeholders("torchvision", "kornia")
        from diffdrr.drr import DRR
        from diffdrr.metrics import NormalizedCrossCorrelation2d
        from diffdrr.pose import convert

        self.make, self.ncc, self.convert = DRR, NormalizedCrossCorrelation2d(), convert
        self.scene, self.largest = scene, largest
        self.version = f"diffdrr {version('diffdrr')}"

    def cases(self, view: View, fixed: np.ndarray) -> list[Case]:
        if view.n > self.largest:
            return []
        torch._dynamo.reset()  # kernels for this size alone, not for any size
        cases = []
        for variant in ("eager", "compile"):
            drr = self._renderer(view, variant == "compile")
            cases += _torch_cases(
                self.library,
                variant,
                "siddon",
                lambda r, t, drr=drr: drr(r, t, parameterization="axis_angle"),
                lambda x, y: self.ncc(x, y),
                fixed,
            )
        return cases

    def _renderer(self, view: View, compiled: bool):
        subject = types.SimpleNamespace(
            volume=types.SimpleNamespace(affine=self.scene.affine),
            density=types.SimpleNamespace(data=self.scene.mu[None]),
            mask=None,
            reorient=torch.tensor(view.world_from_camera, dtype=torch.float32)[None],
        )
        return self.make(
            subject,
            sdd=SDD,
            height=view.n,
            delx=view.pitch,
            reverse_x_axis=False,  # columns increase along the camera's +x
            compile_renderer=compiled,
        )


class NanoDrr:
    """nanodrr's torch path (its Triton kernel needs CUDA), 500 samples along a ray as by default.

    Step: its Registration module, which perturbs the pose about the isocentre, and its NCC.
    """

    library = "nanodrr"

    def __init__(self, scene: Scene, threads: int, largest: int = 200):
        from nanodrr.data import Subject
        from nanodrr.metrics import NormalizedCrossCorrelation2d
        from nanodrr.registration import Registration

        self.make, self.ncc, self.largest = Registration, NormalizedCrossCorrelation2d(), largest
        volume = scene.mu.permute(2, 1, 0)[None, None].contiguous()
        affine = torch.from_numpy(scene.affine)
        self.subject = Subject(
            volume,
            torch.zeros_like(volume),
            affine.float(),
            affine.inverse().float(),
            Subject._make_voxel_to_grid(volume.shape),
            torch.tensor(scene.view("ap", 1).isocenter, dtype=torch.float32),
            max_label=0,
            convert_to_mu=False,
        )
        self.version = f"nanodrr {version('nanodrr')}"

    def cases(self, view: View, fixed: np.ndarray) -> list[Case]:
        if view.n > self.largest:
            return []
        inverse_intrinsics = torch.tensor(
            [  # rows run downwards, the camera's +y up
                [view.pitch / SDD, 0.0, -0.5 * DETECTOR / SDD],
                [0.0, -view.pitch / SDD, 0.5 * DETECTOR / SDD],
                [0.0, 0.0, 1.0],
            ]
        )[None]
        pose = torch.tensor(view.world_from_camera, dtype=torch.float32)[None]
        model = self.make(
            self.subject, pose, inverse_intrinsics, torch.tensor([SDD]), view.n, view.n
        )
        torch._dynamo.reset()
        cases = []
        for variant, forward in (("eager", model), ("compile", torch.compile(model))):

            def render(r, t, forward=forward):
                return forward()

            cases += _torch_cases(
                self.library,
                variant,
                "trilinear",
                render,
                lambda x, y: self.ncc(x, y),
                fixed,
                parameters=(model._rot, model._xyz),
            )
        return cases


def _torch_cases(library, variant, method, render, similarity, fixed, parameters=None):
    """Image without graph, and step: render, similarity, backward to rotation and translation."""
    rotation, translation = parameters or (
        torch.full((1, 3), NUDGE, requires_grad=True),
        torch.full((1, 3), NUDGE, requires_grad=True),
    )
    target = torch.as_tensor(fixed, dtype=torch.float32)[None, None]

    def image():
        with torch.no_grad():
            return render(rotation, translation)

    def step():
        rotation.grad = translation.grad = None
        value = similarity(target, render(rotation, translation))
        value.sum().backward()
        return float(value.detach())

    def array():
        return image()[0, 0].double().numpy()

    arguments = (library, variant, method)
    return [
        Case(*arguments, "image", image, array),
        Case(*arguments, "step", step, value=step),
    ]


def _placeholders(*packages: str) -> None:
    """Let DiffDRR and nanodrr be imported without packages that rendering does not need.

    torchvision (gaussian_blur) and kornia (two histograms) come with a second PyTorch build;
    torchio reads files and brings a hundred megabytes, which a GPU machine may lack.
    """
    needed = {
        "torchvision": {"torchvision.transforms.functional": ("gaussian_blur",)},
        "kornia": {"kornia.enhance.histogram": ("marginal_pdf", "joint_pdf")},
        "torchio": {
            "torchio": ("LabelMap", "ScalarImage", "Subject"),
            "torchio.transforms": ("Resample",),
        },
    }
    for package in packages:
        if package in sys.modules or find_spec(package) is not None:
            continue
        for path, names in needed[package].items():
            for i in range(len(path.split("."))):
                part = ".".join(path.split(".")[: i + 1])
                sys.modules.setdefault(part, types.ModuleType(part))
            for name in names:  # classes, because annotations are made of them
                setattr(sys.modules[path], name, type(name, (), {}))
