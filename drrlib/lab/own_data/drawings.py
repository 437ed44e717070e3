"""What was understood of a CT and an X-ray image, from where it starts, and what came out."""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from drrlib.drr import DRR
from drrlib.errors import ConfigError
from drrlib.geometry import (
    to_degrees,
)
from drrlib.registration import RegistrationResult, gather
from drrlib.view import View
from drrlib.volume import MU_WATER, Volume

_TISSUE = 0.3  # part of water's attenuation above which a voxel is tissue
_CUT = 0.02  # part of a face that is tissue where a CT cuts through the body


def upright(volume: Volume) -> tuple[np.ndarray, list[float], float]:
    """Hounsfield units with axes towards left, back and head as far as the grid's own go, the
    voxels' sizes [mm], and the largest angle between a grid's axis and the patient's [deg]."""
    axes = volume.affine[:3, :3] / volume.spacing
    order = [int(axes[k].abs().argmax()) for k in range(3)]
    if sorted(order) != [0, 1, 2]:
        raise ConfigError("the CT lies askew by more than 45 degrees; resample it along the body")
    hu = 1000 * (volume.mu.detach().cpu() / MU_WATER - 1)
    hu = hu.permute(*order)
    flips = [k for k in range(3) if float(axes[k, order[k]]) < 0]
    lean = max(float(torch.rad2deg(axes[k, order[k]].abs().clamp_max(1).acos())) for k in range(3))
    return hu.flip(flips).numpy(), [float(volume.spacing[i]) for i in order], lean


def cut_faces(hu: np.ndarray) -> list[str]:
    """Faces of the grid through which the body goes on."""
    tissue = hu > 1000 * (_TISSUE - 1)
    names = (("right", "left"), ("front", "back"), ("foot", "head"))
    return [
        names[axis][end]
        for axis in range(3)
        for end in (0, 1)
        if tissue.take(-end, axis).mean() > _CUT
    ]


def draw_ct(volume: Volume) -> Figure:
    """Three middle slices with the patient's sides, red where the CT cuts through the body, and the
    histogram of Hounsfield units."""
    hu, size, _ = upright(volume)
    cut = cut_faces(hu)
    x, y, z = (n // 2 for n in hu.shape)
    axial, coronal, sagittal = hu[:, :, z].T, hu[:, y].T[::-1], hu[x].T[::-1]
    head, sides = ("head", "foot"), ("right", "left")
    slices = (
        (axial, size[1] / size[0], "axial, from the feet", (*sides, "front", "back")),
        (coronal, size[2] / size[0], "coronal, from the front", (*sides, *head)),
        (sagittal, size[2] / size[1], "sagittal", ("front", "back", *head)),
    )
    figure, axes = plt.subplots(1, 4, figsize=(10, 2.9), width_ratios=(1, 1, 1, 1.1))
    for axis, (image, aspect, name, faces) in zip(axes, slices, strict=False):
        axis.imshow(image, cmap="gray", vmin=-300, vmax=900, aspect=aspect)
        axis.set(xticks=[], yticks=[], xlabel=name)
        _mark(axis, faces, cut)
    values = hu[hu > -950].ravel()[::7]
    axes[3].hist(values, 120, color="0.4", log=True)
    axes[3].set(xlabel="Hounsfield units (air left out)", ylabel="voxels", yticks=[])
    for at, name in ((-100, "fat"), (0, "water"), (1000, "bone")):
        axes[3].axvline(at, color="tab:orange", lw=0.8)
        how = dict(fontsize=6, rotation=90, va="top", ha="right")
        axes[3].text(at, 0.97, name, transform=axes[3].get_xaxis_transform(), **how)
    return figure


_LETTERS = dict(right="R", left="L", front="A", back="P", head="H", foot="F")


def _mark(axis, faces: Sequence[str], cut: Sequence[str]) -> None:
    """Letters at left, right, top and bottom; a red bar where the body goes on."""
    places = ((0.03, 0.5), (0.97, 0.5), (0.5, 0.97), (0.5, 0.03))
    bars = (((0, 0), (0, 1)), ((1, 1), (0, 1)), ((0, 1), (1, 1)), ((0, 1), (0, 0)))
    aligned = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
    for face, place, bar, (h, v) in zip(faces, places, bars, aligned, strict=True):
        how = dict(color="yellow", ha=h, va=v, fontweight="bold", transform=axis.transAxes)
        axis.text(*place, _LETTERS[face], **how)
        if face in cut:
            axis.plot(*bar, color="red", lw=3, transform=axis.transAxes, clip_on=False)


def view_table(view: View) -> pd.DataFrame:
    """What is known of an X-ray image, and what is missing."""
    carm = view.carm
    width = float(carm.delx) * carm.width * float(carm.sod) / float(carm.sdd)
    rows = [
        ("pixels", f"{carm.width} x {carm.height} of {float(carm.delx):.3g} mm", ""),
        ("source to detector", f"{float(carm.sdd):.5g} mm", ""),
        ("source to isocentre", f"{float(carm.sod):.5g} mm", ""),
        ("field at the isocentre", f"{width:.3g} mm wide", ""),
    ]
    if view.start is None:
        rows.append(("angles", "missing", "start by hand or by landmarks"))
    else:
        angles = ", ".join(f"{x:+.1f}" for x in to_degrees(view.start)[:3].tolist())
        rows.append(("theta, phi, gamma", f"{angles} deg", ""))
    rows.append(("place of the CT", "missing", "no header tells it; it is searched for"))
    left = 0.0 if view.weights is None else float((view.weights <= 0).double().mean())
    rows.append(("masked", f"{100 * left:.2g} % of the pixels", "blades, letters, lost skin"))
    kind = "line integrals" if view.lines else "a picture: only what lies beside what counts"
    rows.append(("grey values", kind, ""))
    return pd.DataFrame(rows, columns=["what", "known", "remark"])


def draw_starts(view: View, volume: Volume, starts: dict[str, Tensor]) -> Figure:
    """The image, and the CT as it would look from each start."""
    columns = 1 + len(starts)
    figure, axes = plt.subplots(1, columns, figsize=(10, 10 / columns + 0.2), squeeze=False)
    drr = DRR(volume, view.carm)
    shown = {"X-ray image": view.image} | {n: drr.at(x)[0] for n, x in starts.items()}
    for axis, (name, image) in zip(axes[0], shown.items(), strict=True):
        low, high = np.percentile(image.detach().numpy(), (1, 99.5))
        axis.imshow(image.detach().numpy(), cmap="gray", vmin=low, vmax=high)
        axis.set(xticks=[], yticks=[], xlabel=name)
    return figure


def draw_edges(cases: Sequence[tuple[str, RegistrationResult, View]], volume: Volume) -> Figure:
    """Edges of the CT in the place that was found, on each image, with the verdict below."""
    figure, axes = plt.subplots(1, len(cases), figsize=(10, 10 / len(cases) + 0.5), squeeze=False)
    for axis, (name, found, view) in zip(axes[0], cases, strict=True):
        one = gather(found, view, volume)[0]
        picture = np.repeat(one.fixed[..., None], 3, axis=-1)
        picture[one.edges] = (1.0, 0.45, 0.0)
        axis.imshow(picture, interpolation="nearest")
        verdict = "converged" if found.converged else "NOT converged"
        axis.set(xticks=[], yticks=[])
        reason = "\n".join(textwrap.wrap(f"{verdict}: {found.reason}", 40))
        axis.set_xlabel(f"{name}\n{reason}")
    return figure
