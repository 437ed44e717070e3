"""2D/3D registration: render, compare, step, until the moving image fits the fixed one."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d
from tqdm.auto import tqdm

from drrlib.carm import CArm
from drrlib.drr import DRR
from drrlib.errors import ConfigError, ShapeError
from drrlib.losses import get_loss
from drrlib.optimizers import get_optimizer
from drrlib.volume import Volume

# Where no levels are given: detector binnings and steps at each, as far as the detector allows.
_DEFAULT_LEVELS = ((8, 80), (4, 80), (2, 80), (1, 80))
_SMALLEST = 24  # pixels across the coarsest level


@dataclass(frozen=True)
class RegistrationResult:
    """What a registration found, with the whole way there.

    Attributes:
        eta: Best pose parameters [6] (rad, mm).
        pose: The same as world_from_camera [4, 4].
        loss: Loss of `eta` at the finest level.
        best: Index of the start that led there.
        final_eta, final_loss: Best parameters [n, 6] and loss [n] of each start.
        converged: [n] whether a start met a stopping rule before its steps ran out.
        reason: Why each start stopped.
        trace_eta, trace_loss: [steps, n, 6] and [steps, n]; NaN once a start has stopped.
        level: [steps] detector binning of each step.
        renders: Images rendered at each binning.
        seconds: Wall time.
    """

    eta: Float[Tensor, "6"]
    pose: Float[Tensor, "4 4"]
    loss: float
    best: int
    final_eta: Float[Tensor, "n 6"]
    final_loss: Float[Tensor, " n"]
    converged: Bool[Tensor, " n"]
    reason: tuple[str, ...]
    trace_eta: Float[Tensor, "steps n 6"]
    trace_loss: Float[Tensor, "steps n"]
    level: Int[Tensor, " steps"]
    renders: dict[int, int]
    seconds: float

    def __str__(self) -> str:
        angles = ", ".join(f"{a:+.2f}" for a in torch.rad2deg(self.eta[:3]).tolist())
        shift = ", ".join(f"{b:+.2f}" for b in self.eta[3:].tolist())
        return (
            f"loss {self.loss:.3g} ({self.reason[self.best]}); theta, phi, gamma = {angles} deg; "
            f"b = {shift} mm; {sum(self.renders.values())} renders in {self.seconds:.1f} s"
        )


def register(
    fixed: Float[Tensor, "*image"],
    volume: Volume,
    carm: CArm,
    start: Float[Tensor, "*n 6"],
    *,
    loss: str | Callable = "zncc",
    optimizer: object = "adam",
    levels: Sequence[tuple[int, int]] | None = None,
    schedule: str = "cosine",
    threshold: float = 1e-6,
    patience: int = 25,
    method: str = "siddon",
    backend: str = "auto",
    progress: bool = True,
) -> RegistrationResult:
    """Find the pose whose DRR fits the fixed image (Alfiansyah et al. 2024, Fig. 4).

    Args:
        fixed: X-ray image as line integrals, [height, width] or [1, 1, height, width].
        volume: CT as attenuation.
        carm: Intrinsics of the X-ray image.
        start: Pose parameters eta to start from, [6] or [n, 6]; n starts run side by side.
        loss: "zncc", "ncc", "l2" or a function (fixed, moving) -> [n].
        optimizer: "gd", "gdm", "gddm", "adam" or an object of `drrlib.optimizers`.
        levels: (binning, most steps) pairs, coarse first; binning joins detector pixels by
            averaging. Default: coarse to fine as far as the detector allows. The paper's own
            run is ((1, 250),) with schedule="constant".
        schedule: "cosine" lets the rates fall to 2 % within each level; "constant" keeps them.
            A finer level starts with rates that are smaller by its binning, since it only has to
            correct what the level before could not see.
        threshold: A start stops when its loss falls below this at the finest level.
        patience: A start leaves a level when its loss has not improved by 0.1 % for so many
            steps.
        method, backend: As in `DRR`.
        progress: Show a bar with the time left, where the output is a terminal or notebook.

    Returns:
        The best pose with traces of all starts. A start that stopped costs nothing more.

    Raises:
        ShapeError: image, start or detector disagree.
        ConfigError: an unknown option, a binning that does not divide the detector, or a fixed
            image that is constant or not finite.
    """
    began = time.perf_counter()
    fixed = _check_fixed(fixed, carm)
    if start.ndim not in (1, 2) or start.shape[-1] != 6:
        raise ShapeError(f"start has shape {tuple(start.shape)}; expected [6] or [n, 6]")
    if schedule not in ("cosine", "constant"):
        raise ConfigError(f"schedule is {schedule!r}; choose cosine or constant")
    levels = _check_levels(levels, carm)
    loss_of, optimizer = get_loss(loss), get_optimizer(optimizer)
    full = DRR(volume, carm, method=method, backend=backend)
    search = _Search(start.detach().to("cpu", torch.float64).reshape(-1, 6).clone())
    bar = tqdm(
        total=sum(steps for _, steps in levels), disable=not progress or _hidden(), unit="step"
    )
    renders: dict[int, int] = {}
    for index, (binning, steps) in enumerate(levels):
        drr = full.with_carm(carm.downsample(binning))
        image = avg_pool2d(fixed, binning).to(full.grid.mu.device, full.grid.dtype)
        last = index == len(levels) - 1
        search.enter(binning)
        state = optimizer.init(search.eta)
        for step in range(steps):
            active = search.active
            if len(active) == 0:
                bar.update(steps - step)
                break
            eta = search.eta[active].requires_grad_()
            value = loss_of(image, drr(drr.pose(eta)))
            (slope,) = torch.autograd.grad(value.sum(), eta)
            renders[binning] = renders.get(binning, 0) + len(active)
            value = value.detach().to(eta)  # starts stay on the CPU, images where the volume is
            keep = search.record(active, value, slope, last, threshold, patience)
            scale = binning / levels[0][0] * (_rate(step, steps) if schedule == "cosine" else 1.0)
            eta, state = optimizer.step(eta.detach()[keep], slope[keep], state.select(keep), scale)
            search.eta[active[keep]] = eta
            bar.update()
        search.leave()
    bar.close()
    best = int(torch.nan_to_num(search.best_loss, nan=torch.inf).argmin())
    eta = search.best_eta[best]
    return RegistrationResult(
        eta=eta,
        pose=carm.pose(eta, volume.center).detach(),
        loss=float(search.best_loss[best]),
        best=best,
        final_eta=search.best_eta,
        final_loss=search.best_loss,
        converged=torch.tensor([r != _RAN_OUT and r != _LOST for r in search.reason]),
        reason=tuple(search.reason),
        trace_eta=torch.stack(search.trace_eta),
        trace_loss=torch.stack(search.trace_loss),
        level=torch.tensor(search.level),
        renders=renders,
        seconds=time.perf_counter() - began,
    )


_RAN_OUT, _LOST = "steps ran out", "loss or gradient not finite"
_BELOW, _SETTLED = "loss below threshold", "loss settled"


class _Search:
    """State of all starts: where each is, the best it has seen at this level, who still runs."""

    def __init__(self, eta: Tensor):
        self.eta = eta
        self.best_eta = eta.clone()
        self.best_loss = eta.new_full((len(eta),), torch.inf)
        self.reason = [_RAN_OUT] * len(eta)
        self.trace_eta, self.trace_loss, self.level = [], [], []

    def enter(self, binning: int) -> None:
        """Begin a level: its losses are not comparable with those of the level before."""
        self.binning = binning
        self.best_loss = torch.full_like(self.best_loss, torch.inf)
        self.mark = self.best_loss.clone()
        self.waited = torch.zeros(len(self.eta), dtype=torch.long)
        self.reason = [r if r == _LOST else _RAN_OUT for r in self.reason]
        self.running = torch.tensor([r != _LOST for r in self.reason])

    @property
    def active(self) -> Tensor:
        return torch.nonzero(self.running).flatten()

    def record(self, active, value, slope, last, threshold, patience) -> Tensor:
        """Store one step; returns which of the active starts go on."""
        everyone = self.eta.new_full((len(self.eta),), torch.nan)
        everyone[active] = value
        where = torch.full_like(self.eta, torch.nan)
        where[active] = self.eta[active]
        self.trace_loss.append(everyone)
        self.trace_eta.append(where)
        self.level.append(self.binning)
        better = active[value < self.best_loss[active]]
        self.best_loss[better] = everyone[better]
        self.best_eta[better] = self.eta[better]
        # Progress counts from the last mark, so that many small steps add up.
        moved = self.best_loss[active] < 0.999 * self.mark[active]
        self.mark[active[moved]] = self.best_loss[active[moved]]
        self.waited[active] += 1
        self.waited[active[moved]] = 0
        sound = torch.isfinite(value) & torch.isfinite(slope).all(dim=1)
        below = (value < threshold) & sound
        settled = (self.waited[active] >= patience) & ~below
        for mask, reason in ((~sound, _LOST), (below, _BELOW), (settled & sound, _SETTLED)):
            if reason == _BELOW and not last:
                continue
            for i in active[mask].tolist():
                self.reason[i] = reason
        keep = sound & ~below & ~settled
        self.running[active[~keep]] = False
        return keep

    def leave(self) -> None:
        """End a level: the next one goes on from the best pose of this one."""
        self.eta = self.best_eta.clone()


def _rate(step: int, steps: int) -> float:
    """Cosine from 1 to 0.02."""
    fraction = torch.tensor(torch.pi * step / max(steps - 1, 1))
    return float(0.02 + 0.98 * 0.5 * (1 + torch.cos(fraction)))


def _check_fixed(fixed: Tensor, carm: CArm) -> Float[Tensor, "1 1 height width"]:
    size = (carm.height, carm.width)
    if tuple(fixed.shape[-2:]) != size or fixed.numel() != carm.height * carm.width:
        raise ShapeError(
            f"fixed has shape {tuple(fixed.shape)}; the C-arm has a detector of {size} pixels: "
            "expected one image [height, width] of that size"
        )
    fixed = fixed.detach().double().reshape(1, 1, *size)
    if not bool(torch.isfinite(fixed).all()):
        raise ConfigError("fixed has NaN or infinite pixels; mask or replace them first")
    if bool(fixed.max() == fixed.min()):
        raise ConfigError("fixed is constant; nothing can be registered to it")
    return fixed


def _check_levels(levels, carm: CArm) -> list[tuple[int, int]]:
    if levels is None:
        fits = [
            (b, n)
            for b, n in _DEFAULT_LEVELS
            if carm.height % b == 0
            and carm.width % b == 0
            and min(carm.height, carm.width) // b >= _SMALLEST
        ]
        return fits or [_DEFAULT_LEVELS[-1]]
    levels = [(int(b), int(n)) for b, n in levels]
    if not levels or any(n < 1 for _, n in levels):
        raise ConfigError(f"levels is {levels}; expected (binning, steps) pairs with steps >= 1")
    for binning, _ in levels:
        carm.downsample(binning)  # raises for a binning that does not divide
    return levels


def _hidden() -> bool:
    """No bar where nobody watches: neither a terminal nor a notebook."""
    return not (sys.stderr.isatty() or "ipykernel" in sys.modules)
