r"""The definition: line integrals through a voxel grid in plain tensor operations.

Any float dtype, any device, differentiated by autograd. The kernels do the same steps.

Siddon (1985, doi:10.1118/1.595715), with source s and target p in voxel coordinates:

1. The ray is x(alpha) = s + alpha D, with D = p - s and alpha in [0, 1].
2. It crosses the voxel plane at i - 1/2 of axis a where alpha = (i - 1/2 - s_a) / D_a.
   A ray parallel to axis a crosses none of its planes.
3. All crossings, sorted, cut the ray into segments of constant attenuation.
4. The segment from alpha_m to alpha_{m+1} lies in the voxel that holds its midpoint;
   voxel i holds [i - 1/2, i + 1/2), and outside the grid the attenuation is zero.
5. I = sum_m (alpha_{m+1} - alpha_m) V_m and E = L I, with L = |A D| the length in mm.

Joseph (1982, doi:10.1109/TMI.1982.4307572):

1. a is the dominant axis, the one with the largest |D_a| (the first of equals).
2. In each slab k of axis a the ray is sampled where x_a = k, by bilinear interpolation
   between the voxel centres in the two other axes, with zeros outside the grid.
3. I = sum_k w_k V(x(alpha_k)) / |D_a|, where w_k is how much of [k - 1/2, k + 1/2] lies
   between source and target (1 but for a slab that holds one of them). E = L I.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def siddon(
    mu: Float[Tensor, "x y z"],
    metric: Float[Tensor, "3 3"],
    source: Float[Tensor, "ray 3"],
    target: Float[Tensor, "ray 3"],
) -> Float[Tensor, " ray"]:
    """Exact line integrals [-] of source-target segments given in voxel coordinates.

    Memory: a few arrays of [ray, nx + ny + nz + 3]; the caller bounds it with patches.
    Gradients: mu, source, target, by autograd.
    """
    direction = target - source  # [ray, 3], step 1
    crossings = [direction.new_zeros(len(direction), 1), direction.new_ones(len(direction), 1)]
    for axis, n in enumerate(mu.shape):  # step 2
        d = direction[:, axis : axis + 1]
        parallel = d == 0
        planes = torch.arange(n + 1, dtype=d.dtype, device=d.device) - 0.5
        alpha = (planes - source[:, axis : axis + 1]) / torch.where(parallel, 1.0, d)
        crossings.append(torch.where(parallel, 0.0, alpha).clamp(0, 1))
    alpha = torch.cat(crossings, dim=1).sort(dim=1).values  # [ray, plane], step 3
    middle = (0.5 * (alpha[:, 1:] + alpha[:, :-1])).detach()
    at = source.detach()[:, None] + middle[..., None] * direction.detach()[:, None]
    value = _voxels(mu, torch.floor(at + 0.5))  # [ray, segment], step 4
    integral = (alpha.diff(dim=1) * value).sum(dim=1)  # step 5
    return integral * _length(direction, metric)


def joseph(
    mu: Float[Tensor, "x y z"],
    metric: Float[Tensor, "3 3"],
    source: Float[Tensor, "ray 3"],
    target: Float[Tensor, "ray 3"],
) -> Float[Tensor, " ray"]:
    """Line integrals [-] by Joseph's method; arguments and gradients as `siddon`."""
    direction = target - source
    size = direction.detach().abs()
    first = (size[:, 0] >= size[:, 1]) & (size[:, 0] >= size[:, 2])
    a = torch.where(first, 0, torch.where(size[:, 1] >= size[:, 2], 1, 2))  # [ray], step 1
    b = torch.where(a == 0, 1, 0)
    c = torch.where(a == 2, 1, 2)
    axes = torch.stack([a, b, c], dim=1)  # [ray, 3]
    s, d = source.gather(1, axes), direction.gather(1, axes)
    count = torch.tensor(mu.shape, device=mu.device)[axes]  # [ray, 3]
    da = torch.where(d[:, :1] == 0, 1.0, d[:, :1])  # zero only for a ray without length

    k = torch.arange(max(mu.shape), dtype=s.dtype, device=s.device)[None]  # [1, slab]
    alpha = (k - s[:, :1]) / da  # [ray, slab], step 2
    y = s[:, 1:2] + alpha * d[:, 1:2]
    z = s[:, 2:3] + alpha * d[:, 2:3]
    jy, jz = torch.floor(y.detach()), torch.floor(z.detach())
    wy, wz = y - jy, z - jz
    start, end = torch.minimum(s[:, :1], s[:, :1] + d[:, :1]), s[:, :1] + d[:, :1]
    end = torch.maximum(s[:, :1], end)
    weight = (torch.minimum(k + 0.5, end) - torch.maximum(k - 0.5, start)).clamp(0, 1)
    weight = torch.where(k < count[:, :1], weight, 0.0)
    sample = 0.0
    for oy, fy in ((0, 1 - wy), (1, wy)):
        for oz, fz in ((0, 1 - wz), (1, wz)):
            index = torch.stack([k.expand_as(y), jy + oy, jz + oz], dim=-1)
            back = axes.argsort(dim=1)[:, None].expand(-1, index.shape[1], -1)
            sample = sample + fy * fz * _voxels(mu, index.gather(2, back))
    integral = (weight * sample).sum(dim=1) / da[:, 0].abs()  # step 3
    return integral * _length(direction, metric)


def _voxels(mu: Float[Tensor, "x y z"], index: Float[Tensor, "ray n 3"]) -> Float[Tensor, "ray n"]:
    """mu at whole voxel indices, zero outside the grid and where they are NaN."""
    size = torch.tensor(mu.shape, device=mu.device)
    inside = ((index >= 0) & (index < size)).all(dim=-1)
    i, j, k = torch.where(inside[..., None], index, 0).long().unbind(-1)
    return torch.where(inside, mu[i, j, k], 0.0)


def _length(
    direction: Float[Tensor, "ray 3"], metric: Float[Tensor, "3 3"]
) -> Float[Tensor, " ray"]:
    """World length [mm] of voxel-coordinate displacements; its gradient at zero is zero."""
    square = ((direction @ metric.to(direction)) * direction).sum(dim=-1)
    none = square == 0
    return torch.where(none, 0.0, torch.where(none, 1.0, square).sqrt())


METHODS = {"siddon": siddon, "joseph": joseph}
