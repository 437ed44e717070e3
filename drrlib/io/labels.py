"""Label maps beside a CT: which voxel belongs to which structure."""

import itertools
import os
import warnings

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from drrlib.arrays import as_path, check_kind
from drrlib.errors import ConfigError, VolumeError
from drrlib.io.ct import READERS, suffix
from drrlib.io.plausible import NotHounsfieldWarning
from drrlib.volume import Volume

_OFF = 0.1  # voxels by which a label map may lie beside its CT
_MOST = 65535


def read_labels(path: str | os.PathLike, volume: Volume) -> Int[Tensor, "x y z"]:
    """Labels of the voxels of a volume, in its own order of axes.

    Args:
        path: NIfTI, MetaImage or NRRD, as `read_volume` takes; whole numbers from 0, which is no
            structure. Axes may be in another order or direction than the volume's.
        volume: The CT that was labelled.

    Returns:
        int32, for `volume.structure(labels == 3)` and `volume.without(labels == 3)`.

    Raises:
        ConfigError: not such a file.
        VolumeError: unreadable, another grid than the volume's, or no labels.
    """
    path = as_path(path)
    check_kind(volume, Volume, "volume")
    reader = READERS.get(suffix(path))
    if reader is None or path.is_dir():
        raise ConfigError(f"{path.name!r} is no label map; expected one of {', '.join(READERS)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotHounsfieldWarning)  # nor are they meant to be
        values, affine = reader(path)
    values = _as_stored(values, affine, volume, path.name)
    whole = np.isfinite(values).all() and values.min() >= 0 and values.max() <= _MOST
    if not whole or (values != np.rint(values)).any():
        raise VolumeError(
            f"{path.name!r} holds other values than whole numbers from 0 to {_MOST}; expected the "
            "label of each voxel"
        )
    return torch.from_numpy(np.ascontiguousarray(values).astype(np.int32))


def _as_stored(values: np.ndarray, affine: np.ndarray, volume: Volume, name: str) -> np.ndarray:
    """The same voxels with the axes of the volume."""
    voxel = np.linalg.inv(volume.affine.numpy()) @ affine  # the volume's voxel of each of theirs
    turn = np.rint(voxel[:3, :3])
    if (np.abs(turn).sum(axis=0) != 1).any() or (np.abs(turn).sum(axis=1) != 1).any():
        raise VolumeError(f"{name!r} has voxels of other sizes or directions than the CT; resample")
    order = [int(np.abs(row).argmax()) for row in turn]
    flips = [k for k in range(3) if turn[k, order[k]] < 0]
    if tuple(values.shape[i] for i in order) != volume.shape:
        raise VolumeError(
            f"{name!r} has {values.shape} voxels, the CT {volume.shape}; expected the same grid"
        )
    first = np.array([volume.shape[k] - 1 if k in flips else 0 for k in range(3)])
    exact = np.eye(4)
    exact[:3, :3], exact[:3, 3] = turn, first
    ends = itertools.product(*[(0, n - 1) for n in values.shape])
    corners = np.array([[*end, 1] for end in ends]).T
    off = np.abs(((voxel - exact) @ corners)[:3]).max()
    if off > _OFF:
        raise VolumeError(
            f"{name!r} lies {off:.2g} voxels beside the CT; expected the grid of this CT: was it "
            "drawn on another series?"
        )
    return np.flip(values.transpose(order), flips)
