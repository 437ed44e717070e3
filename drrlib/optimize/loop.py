"""2D/3D registration: render, compare, step, until the moving image fits the fixed one."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d

from drrlib.checks import check_image, check_starts
from drrlib.drr import DRR
from drrlib.errors import ConfigError, ShapeError
from drrlib.geometry.localizer import Geometry
from drrlib.optimize.gradient_free import GRADIENT_FREE, GradientFree
from drrlib.optimize.graphs import Iteration
from drrlib.optimize.rules import get_optimizer
from drrlib.optimize.search import LOST, RAN_OUT, Search
from drrlib.progress import progress_bar
from drrlib.similarity.correlation import get_loss
from drrlib.volume import Volume

# Where no levels are given: detector binnings and steps at each, as far as the detector allows.
_DEFAULT_LEVELS = ((8, 80), (4, 80), (2, 80), (1, 80))
_SMALLEST = 24  # pixels across the coarsest level
# Central differences move each angle and each translation by this much either way.
_FINITE_STEPS = (math.radians(0.5),) * 3 + (0.5,) * 3


@dataclass(frozen=True)
class DescentResult:
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


def descend(
    fixed: Float[Tensor, "*image"],
    volume: Volume,
    carm: Geometry,
    start: Float[Tensor, "*n 6"],
    *,
    loss: str | Callable = "zncc",
    optimizer: object = "adam",
    derivative: str = "exact",
    levels: Sequence[tuple[int, int]] | None = None,
    schedule: str = "cosine",
    threshold: float = 1e-6,
    patience: int = 25,
    method: str = "siddon",
    backend: str = "auto",
    graph: bool = False,
    progress: bool = True,
) -> DescentResult:
    """Find the pose whose DRR fits the fixed image (Alfiansyah et al. 2024, Fig. 4).

    Args:
        fixed: X-ray image as line integrals, [height, width] or [1, 1, height, width]. Or
            [n, 1, height, width], an image for each start: then every start is a registration of
            its own, to be read from `final_eta` and `final_loss`.
        volume: CT as attenuation.
        carm: Intrinsics of the X-ray image, or the ScanProjection of a CT localizer.
        start: Pose parameters eta to start from, [6] or [n, 6]; n starts run side by side.
        loss: A name of `drrlib.similarity.correlation.LOSSES`, or a function (fixed, moving) -> [n].
        optimizer: "gd", "gdm", "gddm", "adam" or an object of `drrlib.optimize.rules`; without
            gradients "nelder-mead", "powell", "cma-es" or an object of
            `drrlib.optimize.gradient_free`, where a step is one render and starts run one after
            the other.
        derivative: "exact" takes the gradient from the render's own march; "finite" from central
            differences over +-0.5 degrees and +-0.5 mm, twelve renders more in each step.
        levels: (binning, most steps) pairs, coarse first; binning joins detector pixels by
            averaging. Default: coarse to fine as far as the detector allows. The paper's own
            run is ((1, 250),) with schedule="constant".
        schedule: "cosine" lets the rates fall to 2 % within each level; "constant" keeps them.
            A finer level starts with rates (without gradients: first steps) that are smaller by
            its binning, since it only has to correct what the level before could not see.
        threshold: A start stops when its loss falls below this at the finest level.
        patience: A start leaves a level when its loss has not improved by 0.1 % for so many
            steps.
        method, backend: As in `DRR`.
        graph: Record each level's iteration as a CUDA graph and replay it, which spares the time
            that Python takes to start its kernels; see `graphs.Iteration`. The lengths of `carm`
            must then be numbers, or on the GPU. Starts that stopped are rendered on with the
            others; the renders that warm a graph up are not counted.
        progress: Show a bar with the time left, where the output is a terminal or notebook.

    Returns:
        The best pose with traces of all starts. Without a graph, a start that stopped costs
        nothing more.

    Raises:
        ShapeError: image, start or detector disagree.
        ConfigError: an unknown option, a binning that does not divide the detector, or a fixed
            image that is constant or not finite.
        BackendError: a graph without a CUDA device.
    """
    began = time.perf_counter()
    start = check_starts(start)
    fixed, _ = check_image(fixed, carm)
    if len(fixed) not in (1, len(start)):
        raise ShapeError(
            f"fixed has {len(fixed)} images for {len(start)} starts; expected one image for all, "
            f"or [{len(start)}, 1, height, width], one for each start"
        )
    for name, given, known in (
        ("schedule", schedule, ("cosine", "constant")),
        ("derivative", derivative, ("exact", "finite")),
    ):
        if given not in known:
            raise ConfigError(f"{name} is {given!r}; choose {known[0]} or {known[1]}")
    levels = _check_levels(levels, carm)
    loss_of, optimizer = get_loss(loss), _get_method(optimizer)
    if graph and (derivative != "exact" or isinstance(optimizer, GradientFree)):
        raise ConfigError("a graph records steps along the exact gradient: leave graph=False")
    full = DRR(volume, carm, method=method, backend=backend)
    search = Search(start, threshold, patience)
    bar = progress_bar(sum(steps for _, steps in levels), "step", progress)
    renders: dict[int, int] = {}
    for index, (binning, steps) in enumerate(levels):
        image = avg_pool2d(fixed, binning).to(full.grid.mu.device, full.grid.dtype)
        objective = _Objective(full.with_carm(carm.downsample(binning)), image, loss_of)
        search.enter(binning, last=index == len(levels) - 1)
        scale, fall = binning / levels[0][0], schedule == "cosine"
        if isinstance(optimizer, GradientFree):
            _search_one_by_one(search, objective, optimizer, steps, scale)
            bar.update(steps)
        elif graph:
            _descend_recorded(search, objective, optimizer, steps, scale, fall, bar)
        else:
            slope_of = objective.slope if derivative == "exact" else objective.finite_slope
            _descend(search, slope_of, optimizer, steps, scale, fall, bar)
        search.leave()
        renders[binning] = renders.get(binning, 0) + objective.renders
    bar.close()
    best = int(torch.nan_to_num(search.best_loss, nan=torch.inf).argmin())
    eta = search.best_eta[best]
    return DescentResult(
        eta=eta,
        pose=carm.pose(eta, volume.center).detach(),
        loss=float(search.best_loss[best]),
        best=best,
        final_eta=search.best_eta,
        final_loss=search.best_loss,
        converged=torch.tensor([r not in (RAN_OUT, LOST) for r in search.reason]),
        reason=tuple(search.reason),
        trace_eta=torch.stack(search.trace_eta),
        trace_loss=torch.stack(search.trace_loss),
        level=torch.tensor(search.level),
        renders=renders,
        seconds=time.perf_counter() - began,
    )


class _Objective:
    """The loss of poses at one level, its slope, and how many images it took.

    Args:
        drr: Renderer of the level.
        image: Fixed image [1, 1, h, w], or one for each start.
        loss_of: (fixed, moving) -> [n].
    """

    def __init__(self, drr: DRR, image: Tensor, loss_of: Callable):
        self.drr, self.image, self.loss_of = drr, image, loss_of
        self.renders = 0

    def value(self, eta: Float[Tensor, "m 6"], active: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        self.renders += len(eta)
        image = self.image[active] if len(self.image) > 1 else self.image
        return self.loss_of(image, self.drr(self.drr.pose(eta)))

    def slope(self, eta: Float[Tensor, "m 6"], active: Int[Tensor, " m"]):
        """Loss [m] and gradient [m, 6] from the same march."""
        eta = eta.detach().requires_grad_()
        # Starts stay on the CPU, images where the volume is.
        value = self.value(eta, active)
        (slope,) = torch.autograd.grad(value.sum(), eta)
        return value.detach().double().cpu(), slope

    @torch.no_grad()
    def finite_slope(self, eta: Float[Tensor, "m 6"], active: Int[Tensor, " m"]):
        """Loss [m] and gradient [m, 6] by central differences."""
        size = eta.new_tensor(_FINITE_STEPS)
        move = torch.cat([torch.zeros(1, 6).to(eta), torch.diag(size), -torch.diag(size)])
        rows = (eta + move[:, None]).reshape(-1, 6)  # [13 m, 6]
        value = self.value(rows, active.repeat(len(move))).double().cpu().reshape(len(move), -1)
        return value[0], ((value[1:7] - value[7:]) / (2 * size[:, None])).T


def _descend(search, slope_of, optimizer, steps: int, scale: float, fall: bool, bar) -> None:
    """Up to `steps` steps of all starts side by side."""
    state = optimizer.init(search.eta)
    for step in range(steps):
        active = search.active
        if len(active) == 0:
            bar.update(steps - step)
            return
        eta = search.eta[active]
        value, slope = slope_of(eta, active)
        keep = search.record(active, value, slope)
        rate = scale * (_rate(step, steps) if fall else 1.0)
        eta, state = optimizer.step(eta[keep], slope[keep], state.select(keep), rate)
        search.eta[active[keep]] = eta
        bar.update()


def _descend_recorded(
    search, objective: _Objective, optimizer, steps: int, scale: float, fall: bool, bar
) -> None:
    """The same, where one recorded iteration moves all starts; those that stopped go unheard."""
    if len(search.active) == 0:
        bar.update(steps)
        return
    iteration = Iteration(
        objective.drr, objective.image, search.eta, loss=objective.loss_of, optimizer=optimizer,
        graph=True,
    )  # fmt: skip
    for step in range(steps):
        active = search.active
        if len(active) == 0:
            bar.update(steps - step)
            return
        value = iteration(scale * (_rate(step, steps) if fall else 1.0)).cpu()
        objective.renders += len(search.eta)
        keep = search.record(active, value[active], iteration.slope.cpu()[active])
        going = active[keep]
        search.eta[going] = iteration.eta.cpu()[going]
        bar.update()


@torch.no_grad()
def _search_one_by_one(
    search, objective: _Objective, method: GradientFree, steps: int, scale: float
) -> None:
    """Up to `steps` renders of each start, one start after the other."""
    runs = {}
    for i in search.active:
        runs[int(i)] = method.search(
            lambda eta, i=i: objective.value(eta, i.expand(len(eta))).double().cpu(),
            search.eta[i], steps, search.threshold, scale,
        )  # fmt: skip
    if runs:
        search.record_runs(runs)


def _rate(step: int, steps: int) -> float:
    """Cosine from 1 to 0.02."""
    fraction = torch.tensor(torch.pi * step / max(steps - 1, 1))
    return float(0.02 + 0.98 * 0.5 * (1 + torch.cos(fraction)))


def _get_method(optimizer: object) -> object:
    if isinstance(optimizer, str) and optimizer.lower() in GRADIENT_FREE:
        return GRADIENT_FREE[optimizer.lower()]()
    return optimizer if isinstance(optimizer, GradientFree) else get_optimizer(optimizer)


def _check_levels(levels, carm: Geometry) -> list[tuple[int, int]]:
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
