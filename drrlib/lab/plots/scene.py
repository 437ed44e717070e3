"""Drawings of the scene: the C-arm in 3D, and a ray through a visible grid."""

import itertools
import sys
from collections.abc import Sequence

import numpy as np
import plotly.express as px
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.geometry import CArm
from drrlib.lab.plots.images import BLUE, GREEN, ORANGE, RED, as_image
from drrlib.volume import Volume


def surface_points(volume: Volume, threshold: float, count: int = 4000, seed: int = 0):
    """Random world points [count, 3] (mm) on the surface of everything above `threshold` [1/mm]."""
    solid = torch.nn.functional.pad(volume.mu.detach() > threshold, (1,) * 6)
    inner = solid[1:-1, 1:-1, 1:-1]
    buried = inner.clone()
    for axis in range(3):
        for shift in (-1, 1):
            buried &= solid.roll(shift, axis)[1:-1, 1:-1, 1:-1]
    index = torch.nonzero(inner & ~buried)
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(seed))[:count]
    return index[order].double() @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def carm_figure(
    volume: Volume, carm: CArm, pose: Float[Tensor, "4 4"], image: Tensor, threshold: float = 0.03
) -> go.Figure:
    """Source, detector with its image, corner rays, isocentre and the bone surface, in 3D.

    Args:
        volume: CT; the surface is that of attenuation above `threshold` [1/mm].
        carm, pose: Where source and detector are.
        image: The DRR, painted on the detector.
    """
    frame = carm.frame(pose[None])
    source, corner, col, row = (x[0].detach().numpy() for x in frame)
    h, w = carm.height, carm.width
    edges = np.array([corner, corner + w * col, corner + w * col + h * row, corner + h * row])
    skin = surface_points(volume, threshold).numpy()
    parts = [
        go.Scatter3d(
            x=skin[:, 0].round(1),
            y=skin[:, 1].round(1),
            z=skin[:, 2].round(1),
            mode="markers",
            marker=dict(size=2, color=skin[:, 1].round(), colorscale="Greys", opacity=0.6),
            name="bone surface",
        ),
        _line(np.vstack([edges, edges[:1]]), BLUE, "detector"),
        _point(source, RED, "X-ray source"),
        _point(volume.center.numpy(), GREEN, "volume centre"),
        _line(np.array([source, corner + 0.5 * w * col + 0.5 * h * row]), RED, "central ray"),
    ]
    for k, edge in enumerate(edges):
        parts.append(_line(np.array([source, edge]), ORANGE, "corner rays", shown=k == 0))
    step = max(1, -(-max(h, w) // 64))
    picture = image.detach().reshape(h, w)[::step, ::step].numpy().round(3)
    i, j = np.mgrid[0:h:step, 0:w:step] + 0.5
    at = corner + j[..., None] * col + i[..., None] * row
    parts.append(
        go.Surface(
            x=at[..., 0].round(1),
            y=at[..., 1].round(1),
            z=at[..., 2].round(1),
            surfacecolor=picture,
            colorscale="Greys_r",
            showscale=False,
            name="DRR",
        )
    )
    figure = go.Figure(parts)
    axes = dict(
        xaxis_title="x: left [mm]",
        yaxis_title="y: posterior [mm]",
        zaxis_title="z: superior [mm]",
        aspectmode="data",
        camera_eye=dict(x=-1.4, y=-1.2, z=0.6),
    )
    figure.update_layout(
        height=560, scene=axes, margin=dict(l=0, r=0, t=10, b=0), legend=dict(x=0, y=1)
    )
    return figure


def ray_figure(
    mu: np.ndarray, source: tuple[float, float], target: tuple[float, float]
) -> tuple[go.Figure, list[float]]:
    """Siddon's parameter line in a 2-D slice: voxels, planes, crossings and midpoints.

    Args:
        mu: [x, y] values; voxel (i, j) has its centre at (i, j).
        source, target: Ends of the ray in voxel coordinates.

    Returns:
        An interactive figure and the sorted alphas of the crossings.
    """
    s, d = np.array(source), np.subtract(target, source)
    alphas = [
        (plane - 0.5 - s[a]) / d[a] for a in range(2) if d[a] for plane in range(mu.shape[a] + 1)
    ]
    at = {alpha: s + alpha * d for alpha in sorted(alphas) if 0 <= alpha <= 1}
    tolerance = 1e-9
    inside = [
        alpha
        for alpha, p in at.items()
        if all(-0.5 - tolerance <= p[a] <= mu.shape[a] - 0.5 + tolerance for a in range(2))
    ]
    middles = [(a + b) / 2 for a, b in itertools.pairwise(inside)]
    crossing, middle = (np.array([s + a * d for a in xs]) for xs in (inside, middles))
    text = [f"alpha = {a:.3f}" for a in inside]
    figure = go.Figure(
        [
            go.Heatmap(
                z=mu.T.round(4),
                colorscale="Greys",
                zmin=-0.2,
                zmax=1.4,
                xgap=1,
                ygap=1,
                showscale=False,
            ),
            go.Scatter(x=[s[0], target[0]], y=[s[1], target[1]], line_color=RED, name="ray"),
            _marks(crossing, BLUE, "crossings", text),
            _marks(middle, ORANGE, "midpoints", [f"{b:.3f}" for b in middles]),
        ]
    )
    figure.update_layout(
        height=480,
        plot_bgcolor="white",
        margin=dict(l=40, r=10, t=10, b=40),
        xaxis_title="x [voxel]",
        yaxis=dict(title="y [voxel]", scaleanchor="x"),
    )
    return figure, inside


def turntable(images: Sequence, labels: Sequence[str], window: tuple[float, float]) -> go.Figure:
    """Images rendered beforehand, one at a time, chosen by a slider; bright is dense.

    Args:
        images: One image each, all of one size; stored as 8-bit PNG.
        labels: What the slider shows for each.
        window: Values shown as black and as white.
    """
    low, high = window
    grey = np.stack([as_image(image) for image in images])
    grey = np.uint8(np.clip((grey - low) / (high - low), 0, 1) * 255 + 0.5)
    figure = px.imshow(grey, animation_frame=0, binary_string=True)
    for step, label in zip(figure.layout.sliders[0].steps, labels, strict=True):
        step.label = label
    figure.layout.sliders[0].currentvalue = dict(prefix="")
    figure.layout.sliders[0].pad = dict(t=10)
    figure.layout.updatemenus = []  # the slider is enough; a play button needs a page of settings
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.update_traces(hoverinfo="skip", hovertemplate=None)
    figure.update_layout(width=440, height=520, margin=dict(l=10, r=10, t=10, b=10))
    return figure


def show(figure: go.Figure) -> None:
    """Show a plotly figure without storing plotly's own code in the notebook."""
    figure.show(renderer="colab" if "google.colab" in sys.modules else "plotly_mimetype")


def _line(points: np.ndarray, color: str, name: str, shown: bool = True) -> go.Scatter3d:
    x, y, z = points.T
    return go.Scatter3d(
        x=x,
        y=y,
        z=z,
        mode="lines",
        line=dict(color=color, width=4),
        name=name,
        legendgroup=name,
        showlegend=shown,
    )


def _point(point: np.ndarray, color: str, name: str) -> go.Scatter3d:
    x, y, z = ([v] for v in point)
    return go.Scatter3d(x=x, y=y, z=z, mode="markers", marker=dict(color=color, size=6), name=name)


def _marks(points: np.ndarray, color: str, name: str, text: list[str]) -> go.Scatter:
    return go.Scatter(
        x=points[:, 0],
        y=points[:, 1],
        mode="markers",
        marker=dict(color=color, size=9),
        name=name,
        text=text,
    )
