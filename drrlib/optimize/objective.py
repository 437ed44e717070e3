"""What is minimised: the loss of poses at one level of resolution, for one view or several.

The parameters of a row are eta of the first view, then lengths of its C-arm that are freed. Every
view renders once for a row; image, loss, gradient and Jacobian come from that one march.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from drrlib.drr import DRR, March
from drrlib.geometry import Geometry
from drrlib.similarity import LINE, Loss, Model, normalise, zncc_loss

# Central differences move each angle and each translation by this much either way.
FINITE_STEPS = (math.radians(0.5),) * 3 + (0.5,) * 3
# Less than this part of the X-ray image costs so much a part.
_SCANT, _PRICE = 0.08, 0.5


@dataclass(frozen=True)
class Sight:
    """One view at one level: who renders it, and what it should look like.

    Args:
        drr: Renderer with this view's camera at this level.
        fixed: An image for each row of parameters [m, 1, h, w], or one for all.
        weights: Weight of each pixel, as `fixed`; None for 1 everywhere.
        first: Geometry of the first view, whose eta the parameters are; None where it is this one.
        relative: Pose of this camera seen from the first [4, 4]; None where it is the first.
        freed: Where lengths are free: their values -> this camera.
        grey: How grey values may differ. A window normalises both images before any loss looks at
            them. Degree and smooth fields concern second-order steps: where grey values differ only
            by scale and offset, the loss is 1 - ZNCC; else half the part of the image's variance
            that a regression leaves.
        seen: Poses of this camera [m, 4, 4] and images [m, 1, h, w] -> part of each weight that
            counts there [m, 1, h, w].
        only: Whether it is one bone among others that is looked for, which covers little of the
            image. Else a pose at which `seen` leaves almost nothing costs more.
        most: The largest line integral that the fixed image can show, see `drr.limited`; None for
            no limit.
    """

    drr: DRR
    fixed: Tensor
    weights: Tensor | None = None
    first: Geometry | None = None
    relative: Tensor | None = None
    freed: Callable[[Tensor], Geometry] | None = None
    grey: Model = LINE
    seen: Callable[[Tensor, Tensor], Tensor] | None = None
    only: bool = False
    most: float | None = None

    def left(
        self, parameters: Float[Tensor, "m n"], image: Float[Tensor, "m 1 h w"]
    ) -> Float[Tensor, "m 1 h w"] | None:
        """What is left of weights at each row of parameters and its image; None for all."""
        if self.seen is None:
            return None
        return self.seen(self.pose(parameters), image).to(self.fixed)

    def counted(self, left: Tensor | None) -> Tensor | None:
        """Weights that count, from what is left of them, in the shape of `left`; None for 1."""
        if self.seen is None:
            return self.weights
        return left if self.weights is None else left * self.weights.reshape(-1, *left.shape[1:])

    def compare(
        self, loss: Loss, image: Float[Tensor, "m 1 h w"], left: Float[Tensor, "m 1 h w"] | None
    ) -> Float[Tensor, " m"]:
        """The loss of images of this view, both normalised in windows if `grey` says so."""
        fixed, weights = self.fixed, self.counted(left)
        if self.grey.window:
            shown = torch.ones_like(image) if weights is None else weights.expand_as(image)
            fixed = normalise(fixed[:, 0].expand_as(image[:, 0]), shown[:, 0], self.grey.window)
            image = normalise(image[:, 0], shown[:, 0], self.grey.window)
            fixed, image = fixed.value[:, None], image.value[:, None]
        found = loss(fixed, image, weights)
        return found if self.seen is None else found + self.scant(self.share(left))

    def share(self, left: Float[Tensor, "m ..."]) -> Float[Tensor, " m"]:
        """Part of the image's weight that is left."""
        counted = left.flatten(1)
        if self.weights is not None:
            weights = self.weights.flatten(1)
            counted = counted * weights / weights.mean(dim=1, keepdim=True).clamp_min(1e-12)
        return counted.mean(dim=1)

    def scant(self, share: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        """What is added to the loss of a pose that explains so little of the image."""
        return torch.zeros_like(share) if self.only else _PRICE * (_SCANT - share).clamp_min(0)

    def render(self, parameters: Float[Tensor, "m n"]) -> Float[Tensor, "m 1 h w"]:
        """Images, without history."""
        return self.march(parameters).image

    def march(self, parameters: Float[Tensor, "m n"]) -> March:
        """Images of the parameters, with what their derivatives are made of."""
        frames = self._frames(self.pose(parameters), parameters)
        return self.drr.march(frames).limited(self.most)

    def slopes(self, parameters: Float[Tensor, "m n"]) -> Float[Tensor, "m n k 12"]:
        """Derivative of the frames by each parameter."""
        turned = (self.first or self.drr.carm).pose_slopes(parameters[:, :6])
        if self.relative is not None:
            turned = turned @ self.relative.to(turned)
        if self.freed is None:
            return self.drr.frames(turned, shift=False)[0]
        found, pose = [], self.pose(parameters)
        for i, row in enumerate(parameters):
            lengths = row[6:]
            own = self.drr.with_carm(self.freed(lengths))
            by_pose, here = own.frames(turned[i], shift=False)[0], own.frames(pose[i])[0]
            # Frames are linear in the lengths: a step of 1 mm is the derivative.
            by_length = [
                self.drr.with_carm(self.freed(lengths + one)).frames(pose[i])[0] - here
                for one in torch.eye(len(lengths)).to(lengths)
            ]
            found.append(torch.cat([by_pose, torch.stack(by_length)]))
        return torch.stack(found)

    def rows(self, rows: Int[Tensor, " r"]) -> "Sight":
        """The view with some of its images, which may repeat; one image stays for all."""
        if len(self.fixed) == 1 and (self.weights is None or len(self.weights) == 1):
            return self
        rows = rows.to(self.fixed.device)
        fixed, weights = self.fixed, self.weights
        if len(fixed) > 1:
            fixed = fixed[rows]
        if weights is not None and len(weights) > 1:
            weights = weights[rows]
        return replace(self, fixed=fixed, weights=weights)

    def pose(self, parameters: Float[Tensor, "m n"]) -> Float[Tensor, "m 4 4"]:
        """Where this view's camera stands."""
        eta = parameters[:, :6]
        if self.relative is None:
            return self.drr.pose(eta)
        pose = self.drr.with_carm(self.first).pose(eta)
        return pose @ self.relative.to(pose)

    def _frames(self, pose: Tensor, parameters: Tensor) -> Float[Tensor, "m k 12"]:
        if self.freed is None:
            return self.drr.frames(pose)[0]
        own = [self.drr.with_carm(self.freed(row[6:])) for row in parameters]
        return torch.stack([one.frames(p)[0] for one, p in zip(own, pose, strict=True)])


class Linear(NamedTuple):
    """What one march tells of a view: images, their derivative, and what is left of weights."""

    image: Float[Tensor, "m pixels"]
    jacobian: Float[Tensor, "m pixels n"]
    left: Float[Tensor, "m pixels"]

    def rows(self, rows: Int[Tensor, " r"]) -> "Linear":
        """Some of them."""
        return Linear(*(x[rows.to(x.device)] for x in self))


class Objective:
    """Mean loss over the views of rows of parameters, and how many images it took.

    Args:
        sights: The views.
        loss: A loss of `similarity.LOSSES`, or one of its signature. Second-order steps do not
            look at it: see `Sight.grey`.

    Attributes:
        renders: Images of each view rendered so far.
    """

    def __init__(self, sights: Sequence[Sight], loss: Loss = zncc_loss):
        self.sights, self.loss = tuple(sights), loss
        self._count = [0]  # shared with `rows`

    @property
    def renders(self) -> float:
        """Images that were rendered so far."""
        return self._count[0]

    def count(self, images: float) -> None:
        """Count images that were rendered for this elsewhere."""
        self._count[0] += images

    def rows(self, rows: Int[Tensor, " r"]) -> "Objective":
        """The same for some of the images, which may repeat; its renders count here, too."""
        return self.with_sights([s.rows(rows) for s in self.sights])

    def with_sights(self, sights: Sequence[Sight]) -> "Objective":
        """The same loss of views with other weights or images; renders count here, too."""
        other = Objective(sights, self.loss)
        other._count = self._count
        return other

    def images(self, parameters: Float[Tensor, "m n"]) -> list[Float[Tensor, "m pixels"]]:
        """What each view shows."""
        self._count[0] += len(parameters)
        return [sight.render(parameters).flatten(1) for sight in self.sights]

    def value(self, parameters: Float[Tensor, "m n"]) -> Float[Tensor, " m"]:
        """Losses, float64, where the parameters are."""
        self._count[0] += len(parameters)
        total = 0.0
        for sight in self.sights:
            image = sight.render(parameters)
            part = sight.compare(self.loss, image, sight.left(parameters, image))
            total = total + part.detach().double()
        return (total / len(self.sights)).to(parameters.device)

    def slope(
        self, parameters: Float[Tensor, "m n"]
    ) -> tuple[Float[Tensor, " m"], Float[Tensor, "m n"]]:
        """Losses and their gradients, float64, where the parameters are.

        The loss is differentiated by autograd as far as the image; from there on the sums of the
        march and the derivatives of the frames, both in closed form, take over.
        """
        self._count[0] += len(parameters)
        total, slope = 0.0, 0.0
        for sight in self.sights:
            march = sight.march(parameters)
            with torch.enable_grad():
                image = march.image.detach().requires_grad_()
                part = sight.compare(self.loss, image, sight.left(parameters, march.image))
                part = part / len(self.sights)
                (grad,) = torch.autograd.grad(part.sum(), image)
            pulled = march.pull(grad).to(parameters.device)
            moved = sight.slopes(parameters).to(pulled)
            total = total + part.detach().double().to(parameters.device)
            slope = slope + torch.einsum("mnkq,mkq->mn", moved, pulled)
        return total, slope

    def finite_slope(
        self, parameters: Float[Tensor, "m 6"]
    ) -> tuple[Float[Tensor, " m"], Float[Tensor, "m 6"]]:
        """As `slope`, by central differences: twelve images more."""
        size = parameters.new_tensor(FINITE_STEPS)
        move = torch.cat([torch.zeros(1, 6).to(size), torch.diag(size), -torch.diag(size)])
        rows = (parameters + move[:, None]).reshape(-1, 6)  # [13 m, 6]
        owner = torch.arange(len(parameters)).repeat(len(move))
        value = self.rows(owner).value(rows).reshape(len(move), -1)
        return value[0], ((value[1:7] - value[7:]) / (2 * size[:, None])).T

    def linearize(self, parameters: Float[Tensor, "m n"]) -> list[Linear]:
        """Image and derivative of each view, from one march."""
        self._count[0] += len(parameters)
        found = []
        for sight in self.sights:
            march = sight.march(parameters)
            jacobian = march.jacobian(sight.slopes(parameters))
            image, left = march.image.flatten(1), sight.left(parameters, march.image)
            left = image.new_ones(1) if left is None else left.flatten(1)
            found.append(Linear(image, jacobian.flatten(1, 3), left.expand_as(image)))
        return found
