"""One X-ray image, with what is known of it."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.arrays import Numbers, as_tensor
from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry import Geometry, check_rigid


@dataclass(frozen=True, eq=False)
class View:
    """An X-ray image as line integrals, its camera, and what is known of its pixels and its pose.

    Args:
        image: Line integrals [height, width] (or with leading axes of length 1), from a tensor,
            array or list; kept as float64.
        carm: Intrinsics of the image: a CArm, or the ScanProjection of a CT localizer.
        weights: Non-negative weight of each pixel [height, width]; 0 leaves it out, whatever is
            there, as for masks, crops and collimators (see `drrlib.regions`). None for 1.
        pose: world_from_camera [4, 4] in a frame that views of one patient position share, such as
            that of a calibration. It need not be the CT's.
        start: Pose parameters eta [6] to look around, or several [s, 6], as far as a header or a
            person tells.
        notes: What a reader assumed or found, in plain sentences.
        lines: Whether values are line integrals as a DRR has them. False for a picture of unknown
            making, which tells what is denser than what lies beside it, or less dense: `register`
            then compares in windows.
        most: The largest line integral that the image can show, where scatter and glare fill in
            behind metal: an implant then is a plateau. Images normalised in windows heed it.

    Raises:
        ShapeError, ConfigError, GeometryError: what is wrong with which argument.
    """

    # Kept as float64 tensors.
    image: Numbers
    carm: Geometry
    weights: Numbers | None = None
    pose: Numbers | None = None
    start: Numbers | None = None
    notes: tuple[str, ...] = ()
    lines: bool = True
    most: float | None = None

    def __post_init__(self):
        if not isinstance(self.carm, Geometry):
            raise ConfigError(
                f"carm is a {type(self.carm).__name__}; expected a CArm, or a ScanProjection"
            )
        image, weights = check_images(self.image, self.carm, self.weights, "image")
        if len(image) != 1:
            raise ShapeError(f"image has shape {tuple(image.shape)}; expected one, [height, width]")
        object.__setattr__(self, "image", image[0, 0])
        object.__setattr__(self, "weights", None if weights is None else weights[0, 0])
        if self.pose is not None:
            pose = as_tensor(self.pose, "pose", torch.float64).detach().cpu()
            check_rigid(pose, "pose")
            if pose.ndim != 2:
                raise ShapeError(f"pose has shape {tuple(pose.shape)}; expected (4, 4)")
            object.__setattr__(self, "pose", pose)
        if self.most is not None and not 0 < self.most < math.inf:
            raise ConfigError(f"most is {self.most}; expected a line integral above 0, or None")
        if self.start is not None:
            object.__setattr__(self, "start", check_starts(self.start))

    def __repr__(self) -> str:
        known = [name for name in ("weights", "pose", "start") if getattr(self, name) is not None]
        size = f"{self.carm.height} x {self.carm.width} pixels"
        return f"View({size}, {type(self.carm).__name__}{''.join(', ' + x for x in known)})"

    def crop(self, top: int, left: int, height: int, width: int) -> "View":
        """The window of so many rows and columns; the C-arm follows.

        Raises:
            ConfigError: the window leaves the image, or what it shows is constant.
        """
        carm = self.carm.crop(top, left, height, width)
        window = (slice(top, top + height), slice(left, left + width))
        weights = None if self.weights is None else self.weights[window]
        return replace(self, image=self.image[window], carm=carm, weights=weights)

    def resize(self, height: int, width: int) -> "View":
        """The image averaged (or, to more pixels, repeated) to another number of pixels.

        Pixels count by their weights, so that what has none does not bleed into its neighbours.

        Raises:
            ConfigError: fewer than one pixel.
        """
        pool = torch.nn.functional.adaptive_avg_pool2d
        size = (height, width)
        carm = self.carm.resize(height, width)
        if self.weights is None:
            return replace(self, image=pool(self.image[None], size)[0], carm=carm)
        image = torch.where(self.weights > 0, self.image, 0.0)
        weights = pool(self.weights[None], size)[0]
        image = pool((self.weights * image)[None], size)[0] / weights.clamp_min(1e-12)
        return replace(self, image=image, carm=carm, weights=weights)

    def show(self):
        """Draw what was understood: the image (dense is bright), its weights, and a histogram.

        Returns:
            The matplotlib figure, for a notebook to display or `.savefig(path)`.

        Raises:
            ConfigError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ConfigError(
                "View.show draws with matplotlib, which is not installed; pip install drrlib[lab]"
            ) from None
        image = self.image.cpu().numpy()
        counts = self.image.new_ones(image.shape) if self.weights is None else self.weights
        counts = counts.cpu().numpy()
        inside = image[counts > 0]
        spread = torch.as_tensor(inside).flatten()
        spread = spread[:: max(1, len(spread) // 200_000)]
        low, high = spread.quantile(spread.new_tensor([0.005, 0.995])).tolist()
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        axes = figure.subplots(1, 3)
        axes[0].imshow(image, cmap="gray", vmin=low, vmax=high)
        axes[0].set_xlabel(f"line integrals, {low:.2g} to {high:.2g}")
        axes[1].imshow(image, cmap="gray", vmin=low, vmax=high)
        veil = axes[1].imshow(counts, cmap="autumn", vmin=0, vmax=1, interpolation="nearest")
        veil.set_alpha(0.5 * (counts <= 0))
        axes[1].set_xlabel(
            f"red: weight 0, {100 * float((counts <= 0).mean()):.3g} % of the pixels"
        )
        for label, part, colour in (
            ("weight above 0", inside, "tab:blue"),
            ("weight 0", image[counts <= 0], "tab:red"),
        ):
            if part.size:
                axes[2].hist(
                    part.ravel(), 128, histtype="step", color=colour, label=label, log=True
                )
        axes[2].set_yscale("log")
        axes[2].set_xlabel("line integral")
        axes[2].set_ylabel("pixels")
        axes[2].legend(fontsize=8)
        figure.suptitle("\n".join(self.notes), fontsize=8, ha="left", x=0.01)
        return figure


def as_views(views: object) -> list[View]:
    """One view or several as a list.

    Raises:
        ConfigError: something else than views, or none.
    """
    views = list(views) if isinstance(views, (list, tuple)) else [views]
    if not views:
        raise ConfigError("got no views; expected a View(image, carm), or several")
    for view in views:
        if not isinstance(view, View):
            raise ConfigError(
                f"got a {type(view).__name__} for an X-ray image; expected View(image, carm)"
            )
    return views


def check_starts(start: Numbers) -> Float[Tensor, "*n 6"]:
    """Starts [6] or [n, 6] on the CPU in float64.

    Raises:
        ShapeError: not [6] or [n, 6].
        ConfigError: not finite, or angles that must be degrees.
    """
    start = as_tensor(start, "start").detach().to("cpu", torch.float64)
    if start.ndim not in (1, 2) or start.shape[-1] != 6 or start.numel() == 0:
        raise ShapeError(f"start has shape {tuple(start.shape)}; expected [6] or [n, 6], n >= 1")
    if not bool(torch.isfinite(start).all()):
        raise ConfigError("start has NaN or infinite parameters; expected rad and mm")
    return start


def check_images(
    images: Numbers, carm: Geometry, weights: Numbers | None = None, name: str = "image"
) -> tuple[Float[Tensor, "t 1 height width"], Float[Tensor, "t 1 height width"] | None]:
    """Images [t, 1, height, width] in float64, and a weight for each of their pixels.

    Raises:
        ShapeError: another size than the detector's.
        ConfigError: not finite, constant, or weights that leave nothing.
    """
    images = as_tensor(images, name).detach().double()
    size = (carm.height, carm.width)
    lead = images.shape[:-2]
    if tuple(images.shape[-2:]) != size or len(lead) > 2 or lead.numel() < 1:
        raise ShapeError(
            f"{name} has shape {tuple(images.shape)}; the C-arm has a detector of {size} pixels: "
            "expected [height, width] or [n, 1, height, width] of that size"
        )
    if lead[-1:] not in ((), (1,)):
        raise ShapeError(f"{name} has {lead[-1]} channels; expected [n, 1, height, width]")
    images = images.reshape(-1, 1, *size)
    if weights is not None:
        weights = as_tensor(weights, f"weights of {name}").detach().to(images)
        one_or_each = weights.numel() in (images[0].numel(), images.numel())
        if tuple(weights.shape[-2:]) != size or not one_or_each:
            raise ShapeError(
                f"weights of {name} have shape {tuple(weights.shape)}; expected {size}, or as "
                f"{name}"
            )
        weights = weights.reshape(-1, 1, *size).expand_as(images)
        if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
            raise ConfigError(f"weights of {name} are negative or not finite; expected >= 0")
    counts = torch.ones_like(images, dtype=torch.bool) if weights is None else weights > 0
    if not bool(torch.isfinite(images[counts]).all()):
        where = "" if weights is None else " where its weight is not 0"
        raise ConfigError(
            f"{name} has NaN or infinite pixels{where}; give them weight 0, or replace them first"
        )
    low = torch.where(counts, images, torch.inf).amin(dim=(1, 2, 3))
    high = torch.where(counts, images, -torch.inf).amax(dim=(1, 2, 3))
    if bool((low >= high).any()):
        raise ConfigError(f"{name} is constant where its weight is not 0; nothing to register to")
    return images, weights
