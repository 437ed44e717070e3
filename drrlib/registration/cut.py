"""Rays that show what no pose explains: past the ends of the CT, and past one bone among others.

A CT covers a part of the patient, an X-ray image goes on past it. Rays through the ends of the
volume are lit by anatomy that the DRR lacks, and a registration that compares them slides along
the body. Nobody knows that anatomy, but it is plain where it lies: the tissue on a face of the
volume goes on behind it. So the faces are continued, coarsely, into an empty volume around the
CT, and a ray loses its weight by how much of that it meets. The weight follows the pose.

Where the volume is one bone, or an implant, and the X-ray image shows more, only the rays that meet
it count, and those a little beside its outline.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import (
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    interpolate,
    max_pool2d,
    pad,
)

from drrlib.drr import DRR
from drrlib.geometry import Geometry
from drrlib.volume import MU_WATER, Volume

_BLOCK = 8.0  # voxels of what lies beyond [mm]
_REACH = 160.0  # how far the body goes on [mm]
_TISSUE = 0.3  # part of water's attenuation; less is air, a blanket, or a table
_MEETS = 0.08  # a ray through so much of the body beyond [-], 4 mm of water, loses most weight
_LEAST = 0.01  # and keeps this: where every ray meets the body beyond, all count alike
_ACROSS = 50  # pixels across the image of it, at most
# Of one bone: a ray that meets this part of what the densest one does; pixels beside the outline
# that count, too; what the others keep.
_LIT, _BESIDE, _ELSE = 0.05, 4, 0.005


def continued(volume: Volume) -> Volume | None:
    """What lies around a volume if the tissue on its faces goes on; None where there is none."""
    spacing = volume.spacing.tolist()
    counts = [max(2, round(n * s / _BLOCK)) for n, s in zip(volume.shape, spacing, strict=True)]
    mu = volume.mu.detach().float()
    mu = torch.where(mu > _TISSUE * MU_WATER, mu, 0.0)
    fine, mu = mu, adaptive_avg_pool3d(mu[None, None], counts)[0, 0].clone()
    for axis in range(3):  # what goes on is the face itself, not what lies within a block of it
        across = counts[:axis] + counts[axis + 1 :]
        for end in (0, -1):
            face = adaptive_avg_pool2d(fine.select(axis, end)[None], across)[0]
            mu.select(axis, end).copy_(face)
    sizes = [n * s / c for n, s, c in zip(volume.shape, spacing, counts, strict=True)]
    more = [round(_REACH / size) for size in sizes]
    ends = [n for n in reversed(more) for _ in range(2)]
    around = pad(mu[None, None], ends, mode="replicate")[0, 0].clone()
    inside = tuple(slice(m, m + c) for m, c in zip(more, counts, strict=True))
    around[inside] = 0
    if not bool((around > 0).any()):
        return None
    affine = volume.affine.clone()
    joined = affine.new_tensor([n / c for n, c in zip(volume.shape, counts, strict=True)])
    affine[:3, 3] += affine[:3, :3] @ ((joined - 1) / 2)
    affine[:3, :3] *= joined
    affine[:3, 3] -= affine[:3, :3] @ affine.new_tensor(more, dtype=affine.dtype)
    return Volume(around, affine, volume.center)


class Beyond:
    """How much weight pixels keep, from the pose of the camera.

    Args:
        drr: Renderer of `continued`.
        geometry: The camera whose pixels are weighed.
    """

    def __init__(self, drr: DRR, geometry: Geometry):
        self.size = (geometry.height, geometry.width)
        self.binning = max(1, round(min(self.size) / _ACROSS))
        self.drr = drr.with_carm(geometry.join(self.binning))

    def with_carm(self, geometry: Geometry) -> "Beyond":
        return Beyond(self.drr, geometry)

    def __call__(
        self, pose: Float[Tensor, "m 4 4"], image: Float[Tensor, "m 1 h w"] | None = None
    ) -> Float[Tensor, "m 1 h w"]:
        """Parts of each weight that are left at poses of this camera, without history.

        Args:
            pose: Of the camera.
            image: What the volume shows there; not looked at.
        """
        frames, _ = self.drr.frames(pose.detach())
        meets = self.drr.march(frames).image / _MEETS
        left = torch.exp(-meets.square()).clamp_min(_LEAST)
        if self.binning > 1:
            left = interpolate(left, scale_factor=self.binning, mode="bilinear")
        return left[..., : self.size[0], : self.size[1]]


class Covered:
    """As `Beyond`, for one bone among others: the pixels that its image covers, and a few beside.

    Args:
        beyond: Of the same camera, where the bone is cut; None where it is whole.
    """

    def __init__(self, beyond: Beyond | None = None):
        self.beyond = beyond

    def with_carm(self, geometry: Geometry) -> "Covered":
        return Covered(self.beyond and self.beyond.with_carm(geometry))

    def __call__(
        self, pose: Float[Tensor, "m 4 4"], image: Float[Tensor, "m 1 h w"]
    ) -> Float[Tensor, "m 1 h w"]:
        """Parts of each weight that are left at poses of this camera, without history.

        Args:
            pose: Of the camera.
            image: What the bone alone shows there.
        """
        image = image.detach()
        lit = image > _LIT * image.amax(dim=(1, 2, 3), keepdim=True)
        near = lit.to(image)
        for wide, high in ((2 * _BESIDE + 1, 1), (1, 2 * _BESIDE + 1)):
            near = max_pool2d(near, (high, wide), stride=1, padding=(high // 2, wide // 2))
        left = near.clamp_min(_ELSE)
        return left if self.beyond is None else left * self.beyond(pose, image)
