"""One object and one geometry for all libraries: a volume, and a flat detector seen from a pose."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch

SDD, SOD, DETECTOR = 1020.0, 510.0, 400.0  # [mm]
EXTENT = 256.0  # edge of the analytic volume [mm], whatever the number of voxels

# eta = (theta, phi, gamma, bx, by, bz) in radians and mm, as drrlib.CArm takes it.
POSES = {
    "oblique": (0.12, 0.35, 0.0, 3.0, -5.0, 7.0),
    "ap": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    # LAO 30 degrees, cranial 20: a usual working view.
    "30/20": (math.radians(20), math.radians(30), 0.0, 3.0, -5.0, 7.0),
    "lateral": (0.0, math.pi / 2, 0.0, 0.0, 0.0, 0.0),
}
# The fixed image of a registration step is seen from this far away.
STEP = (0.03, -0.02, 0.01, 4.0, -3.0, 5.0)


@dataclass(frozen=True, eq=False)
class Scene:
    """Attenuation `mu[x, y, z]` [1/mm], float32, with a positive diagonal affine [mm]."""

    name: str
    mu: torch.Tensor
    affine: np.ndarray

    @property
    def spacing(self) -> np.ndarray:
        return np.diag(self.affine)[:3]

    @property
    def volume(self) -> str:
        """Such as "256x256x256"."""
        return "x".join(map(str, self.mu.shape))

    def to(self, device: str) -> "Scene":
        return dataclasses.replace(self, mu=self.mu.to(device))

    def view(self, pose: str, n: int, shift: tuple = (0.0,) * 6) -> "View":
        """The n x n detector at a named pose, moved by `shift` (added to eta)."""
        eta = np.array(POSES[pose]) + np.array(shift)
        center = self.affine @ np.append((np.array(self.mu.shape) - 1) / 2, 1)
        return View(pose, n, tuple(eta), tuple(center[:3]))


@dataclass(frozen=True)
class View:
    """A detector of n x n pixels, 400 mm square, at pose `eta` about `center` [mm].

    Computed here from the formulas of the README and not by drrlib.CArm, so that the two can be
    compared (tests/test_benchmarks.py).
    """

    pose: str
    n: int
    eta: tuple
    center: tuple

    @property
    def pitch(self) -> float:
        return DETECTOR / self.n

    @property
    def world_from_camera(self) -> np.ndarray:
        """Source at the origin, +x along increasing columns, +y up, +z to the detector."""
        theta, phi, gamma, *offset = self.eta
        st, ct, sp, cp = np.sin(theta), np.cos(theta), np.sin(phi), np.cos(phi)
        d = np.array([sp * ct, -cp * ct, st])
        right = np.array([cp, sp, 0.0])
        up = np.array([-sp * st, cp * st, ct])
        turn = np.array(
            [[np.cos(gamma), -np.sin(gamma), 0], [np.sin(gamma), np.cos(gamma), 0], [0, 0, 1]]
        )
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, up, d], axis=1) @ turn
        pose[:3, 3] = np.array(self.center) + np.array(offset) - SOD * d
        return pose

    @property
    def isocenter(self) -> np.ndarray:
        return np.array(self.center) + np.array(self.eta[3:])

    def frame(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Source, outer corner of pixel (0, 0), column step, row step; world [mm]."""
        pose = self.world_from_camera
        right, up, forward = pose[:3, :3].T
        source = pose[:3, 3]
        corner = source + SDD * forward + 0.5 * DETECTOR * (up - right)
        return source, corner, self.pitch * right, -self.pitch * up

    def targets(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Centres of the given pixels, world [mm], [len(rows), len(columns), 3]."""
        _, corner, column_step, row_step = self.frame()
        return (
            corner
            + (rows[:, None, None] + 0.5) * row_step
            + (columns[None, :, None] + 0.5) * column_step
        )

    def crossings(self, shape: tuple, affine: np.ndarray, most: int = 200) -> float:
        """Voxels that a ray crosses, mean over the pixels (a lattice of at most `most` squared).

        One, and one more for each voxel plane strictly inside the grid; 0 for a ray that misses.
        """
        at = np.unique(np.linspace(0, self.n - 1, min(self.n, most)).round().astype(int))
        inverse = np.linalg.inv(affine)
        source = inverse[:3, :3] @ self.frame()[0] + inverse[:3, 3] + 0.5  # faces are integers
        target = self.targets(at, at).reshape(-1, 3) @ inverse[:3, :3].T + inverse[:3, 3] + 0.5
        step = target - source
        step = np.where(np.abs(step) < 1e-12, 1e-12, step)
        ends = np.sort(np.stack([-source / step, (np.array(shape) - source) / step]), axis=0)
        first, last = ends[0].max(axis=1).clip(0, 1), ends[1].min(axis=1).clip(0, 1)
        near, far = (source + a[:, None] * step for a in (first, last))
        lower, upper = np.minimum(near, far) + 1e-9, np.maximum(near, far) - 1e-9
        planes = (np.ceil(upper) - 1 - np.floor(lower)).clip(0).sum(axis=1)
        return float(np.where(first < last, 1 + planes, 0).mean())

    def ray_lengths(self) -> np.ndarray:
        """Source to pixel centre [mm], [n, n]."""
        at = (np.arange(self.n) + 0.5) * self.pitch - 0.5 * DETECTOR
        return np.sqrt(SDD**2 + at[:, None] ** 2 + at[None, :] ** 2)


def blobs(n: int | tuple[int, int, int], seed: int = 0, size: tuple = (EXTENT,) * 3) -> Scene:
    """n^3 voxels over 256 mm: Gaussian blobs inside an ellipsoidal shell, without symmetry.

    Three numbers `n` and another `size` [mm] stretch the object along each axis.

    Nowhere zero: skipping empty space would help drrlib alone, so there is none to skip.
    Smooth, so that interpolating methods see the same object as Siddon's, and fading to the
    faces, where the libraries treat the outer half voxel differently.
    """
    random = np.random.default_rng(seed)
    shape = (n, n, n) if isinstance(n, int) else n
    axes = [((np.arange(k) + 0.5) * (EXTENT / k) - EXTENT / 2).astype(np.float32) for k in shape]
    center = np.array([6.0, -4.0, 3.0])
    radius = np.array([88.0, 98.0, 100.0])
    square = [((t - c) / r) ** 2 for t, c, r in zip(axes, center, radius, strict=True)]
    fade, fade_y, fade_z = (np.cos(np.pi * t / EXTENT) ** 2 for t in axes)
    mu = np.empty(shape, np.float32)
    for i in range(shape[0]):  # one plane at a time: little memory beside the volume
        r = np.sqrt(square[0][i] + square[1][:, None] + square[2][None, :])
        mu[i] = 2e-4 * fade[i] * fade_y[:, None] * fade_z[None, :]
        mu[i] += 0.03 * np.exp(-0.5 * ((r - 1) / 0.04) ** 2)
    for _ in range(12):
        at, width = random.uniform(-60, 60, 3), random.uniform(9, 28, 3)
        gx, gy, gz = (
            np.exp(-0.5 * ((t - a) / w) ** 2).astype(np.float32)
            for t, a, w in zip(axes, at, width, strict=True)
        )
        plane = np.float32(random.uniform(0.008, 0.025)) * gy[:, None] * gz[None, :]
        for i in np.flatnonzero(gx > 1e-6):
            mu[i] += gx[i] * plane
    spacing = np.array(size) / shape
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = 0.5 * (spacing - size)
    return Scene("blobs", torch.from_numpy(mu), affine)


def ct(path: str, above_hu: float = -500.0) -> Scene:
    """A CT in NIfTI, cropped to the box of what is denser than `above_hu`, centred at zero.

    Raises:
        SystemExit: the axes are oblique (ITK's and plastimatch's casters ignore them).
    """
    import nibabel

    image = nibabel.as_closest_canonical(nibabel.load(path))
    linear = np.asarray(image.affine)[:3, :3]
    spacing = np.linalg.norm(linear, axis=0)
    if np.abs(linear - np.diag(spacing)).max() > 1e-3 * spacing.min():
        raise SystemExit(f"{path} has oblique axes; the benchmark needs a straight volume")
    hu = np.asarray(image.dataobj, dtype=np.float32)[::-1, ::-1]  # RAS+ to LPS+
    inside = hu > above_hu
    box = []
    for axis in range(3):
        where = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(where[0], where[-1] + 1))
    mu = np.maximum(0.0206 * (1 + hu[tuple(box)] / 1000), 0).astype(np.float32)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -0.5 * spacing * (np.array(mu.shape) - 1)
    return Scene("ct", torch.from_numpy(np.ascontiguousarray(mu)), affine)
