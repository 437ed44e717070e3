"""Three slices of the CT through a point, oriented as radiologists read them."""

from itertools import permutations

import numpy as np

from drrlib.volume import Volume

# Plane -> (axis of its normal, axis to the right, axis downwards), and whether each runs against
# the patient axis: left to the right, back or feet downwards.
PLANES = {
    "axial": (2, (0, 1), (1, 1)),
    "coronal": (1, (0, 2), (1, -1)),
    "sagittal": (0, (1, 2), (1, -1)),
}
_WINDOW = (0.012, 0.045)  # 1/mm shown as black and as white: soft tissue is grey, bone bright


class Slices:
    """The CT's voxels, with axes nearest to the patient's (left, back, head) put in that order.

    Oblique volumes are shown along their own axes.

    Args:
        volume: CT. Its voxels are not copied where they are on the CPU.
    """

    def __init__(self, volume: Volume):
        affine = volume.affine.numpy()
        ways = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        order = max(permutations(range(3)), key=lambda p: sum(abs(ways[k, p[k]]) for k in range(3)))
        mu = volume.mu.detach().cpu().float().numpy().transpose(order)
        affine = affine[:, [*order, 3]].copy()
        for k in range(3):
            if affine[k, k] < 0:
                mu = np.flip(mu, k)
                affine[:3, 3] += affine[:3, k] * (mu.shape[k] - 1)
                affine[:3, k] *= -1
        self.mu, self.affine, self._inverse = mu, affine, np.linalg.inv(affine)
        self.spacing = np.linalg.norm(affine[:3, :3], axis=0)

    def index(self, point) -> np.ndarray:
        """Voxel coordinates [3] of a point [mm, world]; not rounded."""
        return self._inverse[:3, :3] @ np.asarray(point, dtype=float) + self._inverse[:3, 3]

    def bounds(self) -> list[tuple[float, float]]:
        """Least and largest coordinate of voxel centres along the world's axes [mm]."""
        ends = np.array(np.meshgrid(*[(0, n - 1) for n in self.mu.shape])).reshape(3, -1)
        corners = self.affine[:3, :3] @ ends + self.affine[:3, 3:]
        return list(zip(corners.min(axis=1).tolist(), corners.max(axis=1).tolist(), strict=True))

    def plane(self, name: str, point) -> tuple[np.ndarray, tuple[float, float], float]:
        """One slice through a point.

        Returns:
            Grey values [rows, columns] uint8; the point's place (column, row) in pixel
            coordinates; and the height of a pixel over its width.
        """
        normal, (right, down), signs = PLANES[name]
        at = self.index(point)
        k = int(np.clip(round(at[normal]), 0, self.mu.shape[normal] - 1))
        image = np.take(self.mu, k, axis=normal)  # [first, second] of the axes that are left
        image = image.T  # rows: down, columns: right; the axes are in ascending order
        column, row = at[right] + 0.5, at[down] + 0.5
        if signs[1] < 0:
            image, row = image[::-1], image.shape[0] - row
        low, high = _WINDOW
        grey = np.clip((image - low) * (255 / (high - low)), 0, 255).astype(np.uint8)
        return grey, (column, row), float(self.spacing[down] / self.spacing[right])

    def silhouette(self, across: int, longest: int = 64) -> np.ndarray:
        """The densest voxel along one axis, as grey values [second, first] uint8, thinned out."""
        thin = tuple(slice(None, None, max(1, n // longest)) for n in self.mu.shape)
        image = self.mu[thin].max(axis=across).T
        return np.clip(image * (255 / max(float(image.max()), 1e-9)), 0, 255).astype(np.uint8)
