"""drrlib itself, in the form in which its peers are measured."""

from importlib.metadata import version

import numba
import numpy as np
import torch
from scene import SDD, SOD, Scene, View
from timing import Case

from drrlib.drr import DRR
from drrlib.geometry import CArm
from drrlib.projectors import Grid, line_integrals, project
from drrlib.similarity import zncc
from drrlib.volume import Volume


class DrrLib:
    """Image, image with the gradients of the ray ends, and the whole step; both methods."""

    library = "drrlib"

    def __init__(self, scene: Scene, threads: int, backend: str = "cpu"):
        torch.set_num_threads(threads)
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        affine = torch.from_numpy(scene.affine)
        self.volume, self.grid = Volume(scene.mu, affine), Grid(scene.mu, affine)
        self.backend = backend
        self.version = f"numba {version('numba')}"

    def image(self, view: View) -> np.ndarray:
        """The Siddon image, for use as a fixed image."""
        return self._cases(view, np.zeros((view.n, view.n)), "siddon")[0].image()

    def cases(self, view: View, fixed: np.ndarray) -> list[Case]:
        return self._cases(view, fixed, "siddon") + self._cases(view, fixed, "joseph")

    def _cases(self, view: View, fixed: np.ndarray, method: str) -> list[Case]:
        n, backend = view.n, self.backend
        frame = [torch.from_numpy(v.copy())[None] for v in view.frame()]
        leaves = [v.clone().requires_grad_() for v in frame]
        eta = torch.tensor([view.eta], dtype=torch.float64, requires_grad=True)
        carm = CArm(SDD, SOD, n, n, view.pitch, view.pitch)
        drr = DRR(self.volume, carm, method=method, backend=backend)
        drr.grid = self.grid  # one padded copy of the volume for all sizes
        target = torch.as_tensor(fixed, dtype=torch.float32)[None, None]

        def image():
            return project(self.grid, *frame, n, n, method=method, backend=backend)

        def with_gradient():
            seen = project(self.grid, *leaves, n, n, method=method, backend=backend)
            return torch.autograd.grad(seen, leaves, target[0])

        def step():
            value = zncc(target, drr(drr.pose(eta)))
            torch.autograd.grad(value.sum(), eta)
            return float(value.detach())

        arguments = (self.library, backend, method)
        return [
            Case(*arguments, "image", image, lambda: image()[0].double().numpy()),
            Case(*arguments, "image+gradient", with_gradient),
            Case(*arguments, "step", step, value=step),
        ]


class Reference:
    """float64 images of some pixels by drrlib's plain definition, which tests hold to 1e-10."""

    def __init__(self, scene: Scene, most: int = 60):
        self.grid = Grid(scene.mu.double(), torch.from_numpy(scene.affine))  # on mu's device
        self.most = most

    def error(self, seen: np.ndarray, view: View, method: str) -> float:
        """RMS of the difference over the RMS of the reference, on a lattice of pixels.

        A trilinear image is held against Joseph's, the nearest of ours in kind.
        """
        at = np.unique(np.linspace(0, view.n - 1, min(view.n, self.most)).round().astype(int))
        key = (view, "siddon" if method == "siddon" else "joseph")
        if getattr(self, "_key", None) != key[0]:
            self._key, self._images = key[0], {}
        if key[1] not in self._images:
            target = torch.from_numpy(view.targets(at, at)).to(self.grid.mu.device)
            source = torch.from_numpy(view.frame()[0].copy()).to(target)
            with torch.no_grad():
                self._images[key[1]] = line_integrals(
                    self.grid, source, target, method=key[1], backend="reference", patch_size=32
                ).cpu()
        true = self._images[key[1]].numpy()
        return float(np.linalg.norm(seen[np.ix_(at, at)] - true) / np.linalg.norm(true))
