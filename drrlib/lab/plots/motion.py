"""Figures of a body that was tracked: its parameters over time, and a moving picture."""

import dataclasses
import io
import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from drrlib.arrays import Numbers
from drrlib.atomic import write_whole
from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry import PARAMETERS, to_degrees
from drrlib.lab.plots.images import BLACK, BLUE, RED, WIDE
from drrlib.registration import Track, gather
from drrlib.view import View
from drrlib.volume import Volume

_DEVIATIONS = 2.0  # of the band
_MAX_BYTES = 1_000_000
_TRUSTED, _DOUBTED = (255, 140, 0), (213, 60, 60)  # outlines
_COLORS = 96  # of a picture, at most


def show_motion(track: Track, truth: Numbers | None = None, *, width: float = WIDE) -> Figure:
    """The six parameters over time; bands: two stated deviations, crosses: doubtful time steps.

    Args:
        track: What was found.
        truth: True parameters [n, 6] (rad, mm), drawn as a thin line.

    Raises:
        ShapeError: truth of another shape.
    """
    eta, good = to_degrees(track.eta).numpy(), track.converged.numpy()
    if truth is not None:
        truth = to_degrees(torch.as_tensor(truth).double()).numpy()
        if truth.shape != eta.shape:
            raise ShapeError(f"truth has shape {truth.shape}; expected {eta.shape}, as the track")
    spread = _spreads(track)
    figure, axes = plt.subplots(2, 3, figsize=(width, 0.5 * width), sharex=True)
    step = np.arange(len(eta))
    for q, (axis, name) in enumerate(zip(axes.flat, PARAMETERS, strict=True)):
        value = np.where(good, eta[:, q], np.nan)
        band = _DEVIATIONS * spread[:, q]
        axis.fill_between(step, value - band, value + band, color=BLUE, alpha=0.25, lw=0)
        axis.plot(step, value, ".-", color=BLUE, ms=3, lw=0.8, label="found")
        known = value[good] if truth is None else np.concatenate([value[good], truth[:, q]])
        if truth is not None:
            axis.plot(step, truth[:, q], color=BLACK, lw=0.6, label="true")
        if len(known):
            margin = 0.15 * max(np.ptp(known), 0.1)
            axis.set_ylim(known.min() - margin, known.max() + margin)
        if not good.all():  # what is not clipped and empty confuses the layout
            low = np.full((~good).sum(), axis.get_ylim()[0])
            axis.plot(step[~good], low, "x", color=RED, ms=4, clip_on=False)
        axis.set_ylabel(f"{name} [{'deg' if q < 3 else 'mm'}]")
    for axis in axes[1]:
        axis.set_xlabel("time step")
    if truth is not None:
        axes[0, 0].legend()
    figure.supxlabel(
        f"band: {_DEVIATIONS:g} stated deviations; red crosses: doubtful time steps, which are "
        "left out",
        fontsize=7,
    )
    return figure


def _spreads(track: Track) -> np.ndarray:
    """Standard deviation of each parameter [n, 6] in degrees and mm; NaN where none is stated."""
    rows = []
    for one in track.results:
        known = one.covariance
        rows.append(
            torch.full((6,), torch.nan, dtype=torch.float64)
            if known is None
            else known[:6, :6].diagonal().clamp_min(0).sqrt()
        )
    return to_degrees(torch.stack(rows)).numpy()


def save_animation(
    path: str | os.PathLike,
    track: Track,
    frames: Sequence[View | Sequence[View] | None],
    volume: Volume,
    *,
    width: int = 240,
    milliseconds: int = 120,
) -> Path:
    """A GIF of the frames with the edges of the tracked body: orange where trusted, red where not.

    It has fewer pixels and colours until it is below 1 MB.

    Args:
        path: Ends in .gif.
        track: Of these frames.
        frames: As they were given to `track`, all as views; None for those without an image.
        volume: Likewise.
        width: Of a picture [pixels]; several views stand beside each other.
        milliseconds: For each frame.

    Raises:
        ConfigError: another suffix, or too many frames for 1 MB.
        ShapeError: not as many frames as time steps.
    """
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ConfigError(f"{path.name} ends in {path.suffix!r}; expected .gif")
    if len(frames) != len(track):
        raise ShapeError(f"got {len(frames)} frames and {len(track)} time steps; expected as many")
    pictures = _pictures(track, frames, volume)
    colors = _COLORS
    while True:
        data = _gif(pictures, width, colors, milliseconds)
        if len(data) < _MAX_BYTES:
            break
        if width < 64:
            raise ConfigError(f"{len(frames)} frames do not fit into 1 MB; expected fewer")
        width, colors = round(0.8 * width), max(24, round(0.8 * colors))
    write_whole(path, lambda name: name.write_bytes(data))
    return path


def _pictures(track: Track, frames, volume: Volume) -> list[np.ndarray]:
    """Each frame with its outline [h, w, 3], the views beside each other."""
    found, size = [], None
    for one, frame in zip(track.results, frames, strict=True):
        if frame is None:
            found.append(None)
            continue
        views = [frame] if isinstance(frame, View) else list(frame)
        parts = []
        for seen in gather(dataclasses.replace(one, only=False), views, volume):
            picture = np.repeat((255 * seen.fixed).astype(np.uint8)[..., None], 3, axis=-1)
            picture[seen.edges] = _TRUSTED if one.converged else _DOUBTED
            parts.append(picture)
        found.append(np.concatenate(parts, axis=1))
        size = found[-1].shape
    if size is None:
        raise ConfigError("no frame has an image; expected one at least")
    return [np.zeros(size, np.uint8) if x is None else x for x in found]


def _gif(pictures: list[np.ndarray], width: int, colors: int, milliseconds: int) -> bytes:
    made = []
    for picture in pictures:
        image = Image.fromarray(picture)
        size = (width, max(1, round(width * image.height / image.width)))
        small = width > image.width
        image = image.resize(size, Image.Resampling.NEAREST if small else Image.Resampling.BOX)
        made.append(image.quantize(colors, dither=Image.Dither.NONE))
    data = io.BytesIO()
    how = dict(format="GIF", save_all=True, append_images=made[1:], loop=0, optimize=True)
    made[0].save(data, duration=milliseconds, **how)
    return data.getvalue()
