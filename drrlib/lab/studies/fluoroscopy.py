"""Fluoroscopy in two calibrated views: one bone among others, or an implant, from many starts.

A data set is a folder as such laboratories keep it: calibrations, undistorted images, bones as TIFF
stacks, implants as meshes. A small file in JSON, beside the catalogue or in the phantom's folder,
says which images show which body, and where it lies: a reference pose, or a place near by where
there is none.
"""

import functools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from drrlib.errors import ConfigError
from drrlib.geometry import inverse, mtre, to_degrees, to_radians
from drrlib.io import read_mayacam, read_mesh, read_tiff_stack, read_xray, with_common_isocenter
from drrlib.lab import datasets, phantoms
from drrlib.lab.paper import data_folder
from drrlib.lab.studies.protocol import known_entries
from drrlib.lab.studies.registration import ETA_COLUMNS
from drrlib.lab.studies.runner import trial_generator
from drrlib.optimize import Objective, Sight
from drrlib.registration import Levels, Preset, RegistrationResult, register
from drrlib.similarity import normalise
from drrlib.view import View
from drrlib.volume import Volume

PHANTOM = "phantom"
WRIST, KNEE = "wrist_biplane", "knee_implant_biplane"
MU_PER_VALUE = 2e-5  # of bones whose scale is lost [1/mm]
# A preset of about a third of the work of "xray", once.
LIGHT = dict(
    rotations=256, kept=8, steps=30, refined=(4, 2, 1), rounds=((10,), (6,), (6,)), finest=256,
    attempts=1, window=2.5,
)  # fmt: skip
MU_METAL = 0.9  # cobalt-chromium at 60 keV, roughly [1/mm]


@dataclass(frozen=True)
class Scene:
    """One body in the views that show it.

    Attributes:
        views: With line integrals, C-arm, weights and pose in the room.
        body: Volume at its reference pose, or near its place, in the room [mm].
        known: Whether that is a reference pose.
        citation: Whom to name.
    """

    views: tuple[View, ...]
    body: Volume
    known: bool
    citation: str

    @property
    def eta(self) -> Float[Tensor, "6"]:
        """That pose as parameters of the first view [rad, mm]."""
        return self.views[0].carm.eta(self.views[0].pose, self.body.center)


@dataclass(frozen=True)
class BiplaneProtocol:
    """What all trials of a study have in common. Angles in degrees, as people state them.

    Args:
        data: "wrist_biplane", "knee_implant_biplane" or "phantom".
        case: Which body in which images; see `case_names`.
        views: 1 for the first view alone, or 2.
        pixels: Across the images that are registered.
        voxel: Of an implant [mm].
        rotation, translation: Starts are off by up to +- so much in each angle [deg] and each
            translation [mm], uniformly; the search looks as far.
        plan: Entries of a `Preset`; None for what `register` takes for one bone among others.
        backend: As in `DRR`.
        seed: Trial i draws from a generator seeded by (seed, i).
    """

    data: str = PHANTOM
    case: str = "radius"
    views: int = 2
    pixels: int = 256
    voxel: float = 0.5
    rotation: float = 20.0
    translation: float = 40.0
    plan: Mapping | None = None
    backend: str = "auto"
    seed: int = 0

    def __post_init__(self):
        if self.views not in (1, 2):
            raise ConfigError(f"views is {self.views}; expected 1 or 2")

    def config(self) -> dict:
        """A plain dictionary for `run_study`."""
        return asdict(self)

    def scene(self) -> Scene:
        """The case at these sizes. Errors as `load_scene`."""
        return load_scene(self.data, self.case, self.views, self.pixels, self.voxel)

    def start(self, index: int) -> Float[Tensor, "6"]:
        """Where trial `index` begins, as an offset from the scene's pose [rad, mm]."""
        unit = torch.rand(6, generator=trial_generator(self.seed, index), dtype=torch.float64)
        reach = [self.rotation] * 3 + [self.translation] * 3
        return (2 * unit - 1) * to_radians(torch.tensor(reach, dtype=torch.float64))

    def register(self, index: int) -> RegistrationResult:
        """The registration of one trial."""
        scene = self.scene()
        search = to_radians(torch.tensor([self.rotation] * 3 + [self.translation] * 3))
        return register(
            scene.views,
            scene.body,
            scene.eta + self.start(index),
            search=(float(search[0]), self.translation),
            preset=None if self.plan is None else Preset(**self.plan),
            backend=self.backend,
            only=True,
        )


def case_names(data: str) -> list[str]:
    """The bodies and time steps of a data set."""
    return list(_description(data)["cases"])


@functools.lru_cache(maxsize=8)
def load_scene(data: str, case: str, views: int, pixels: int, voxel: float = 0.5) -> Scene:
    """A body and its images, averaged to `pixels` across.

    Raises:
        ConfigError: an unknown data set or case.
        DatasetError: data that cannot be had here.
    """
    about = _description(data)
    if case not in about["cases"]:
        raise ConfigError(f"case is {case!r}; choose one of {', '.join(about['cases'])}")
    folder, entry = _folder(data), about["cases"][case]
    cameras = with_common_isocenter([read_mayacam(folder / f) for f in about["calibration"]])
    seen = [
        read_xray(folder / file, carm=camera).resize(pixels, pixels)
        for file, camera in zip(entry["images"], cameras, strict=True)
    ]
    model = folder / entry["model"]
    if model.suffix == ".stl":
        body = read_mesh(model, mu=MU_METAL, voxel=voxel)
        seen = [replace(view, most=plateau(view)) for view in seen]
    else:
        body = read_tiff_stack(model, tuple(about["spacing"]), mu_per_value=MU_PER_VALUE)
    place = torch.tensor(entry["place"], dtype=torch.float64)
    body = Volume(body.mu, place @ body.affine)
    cited = "made by drrlib.lab.phantoms" if data == PHANTOM else datasets.citation(data)
    return Scene(tuple(seen[:views]), body, entry["known"], cited)


def plateau(view: View) -> float:
    """What the densest hundredth of a picture begins at: the value behind metal, where there is."""
    counts = torch.ones_like(view.image) if view.weights is None else view.weights
    return float(view.image[counts > 0].quantile(0.99))


def biplane_trials(config: Mapping, indices: Sequence[int]) -> pd.DataFrame:
    """The trials of a study by their index; the work of `run_study`.

    Args:
        config: Entries of `BiplaneProtocol`.
        indices: Which trials; one after the other.

    Returns:
        A row per trial, with data, case and views: errors against the reference pose (NaN where
        there is none): mtre_mm, rotation_deg, across_mm and depth_mm; the start's start_mtre_mm;
        the verdict with loss, gap, stated deviations and attempts; the parameters found; seconds;
        and path, a list in JSON of stages with name, eta [rad, mm] and loss.
    """
    protocol = BiplaneProtocol(**known_entries(BiplaneProtocol, config))
    return pd.DataFrame([_row(protocol, index) for index in indices])


def _row(protocol: BiplaneProtocol, index: int) -> dict:
    scene, began = protocol.scene(), time.perf_counter()
    found = protocol.register(index)
    seconds = time.perf_counter() - began
    carm, true = scene.views[0].carm, scene.views[0].pose
    started = carm.pose(scene.eta + protocol.start(index), scene.body.center)
    error = found.compare(true)
    off = [error.mtre, torch.rad2deg(error.parts.rotation), error.parts.in_plane, error.parts.depth]
    names = ("mtre_mm", "rotation_deg", "across_mm", "depth_mm")
    return {
        "trial": index,
        "data": protocol.data,
        "case": protocol.case,
        "views": protocol.views,
        "start_mtre_mm": float(mtre(started[None], true[None], scene.body.targets)),
        **{n: float(x) if scene.known else float("nan") for n, x in zip(names, off, strict=True)},
        "converged": found.converged,
        "reason": found.reason,
        "loss": found.loss,
        "gap": found.gap,
        "stated_mm": found.target_sd,
        "stated_across_mm": found.across_sd,
        "stated_depth_mm": found.depth_sd,
        "attempts": found.attempts,
        **dict(zip(ETA_COLUMNS, to_degrees(found.eta).tolist(), strict=True)),
        "seconds": round(seconds, 1),
        "path": json.dumps([[n, *map(float, eta), loss] for n, eta, loss in found.path]),
    }


def apart(scene: Scene, trials: pd.DataFrame) -> Float[Tensor, "n n"]:
    """mTRE [mm] of each found pose against each other: whether starts end in one place."""
    eta = to_radians(torch.tensor(trials[list(ETA_COLUMNS)].to_numpy()))
    poses = scene.views[0].carm.pose(eta, scene.body.center)
    rows = [mtre(poses, pose.expand_as(poses), scene.body.targets) for pose in poses]
    return torch.stack(rows)


class Compared(NamedTuple):
    """What a registration compares of one view at one level, and how much each pixel counts.

    Attributes:
        fixed, moving: The X-ray image and the body's own, both normalised in windows [h, w].
        weights: 0 where nothing counts [h, w].
    """

    fixed: Float[Tensor, "h w"]
    moving: Float[Tensor, "h w"]
    weights: Float[Tensor, "h w"]


def compared(scene: Scene, eta: Float[Tensor, "6"], level: int, window: float) -> list[Compared]:
    """What each view is compared by at a pose and a level, from the coarsest, which is 0."""
    found = []
    for sight in _sights(scene, level, window):
        image = sight.render(eta[None])
        weights = sight.counted(sight.left(eta[None], image))[:, 0]
        pair = (sight.fixed[:, 0], image[:, 0])
        fixed, moving = (normalise(x.to(weights), weights, window).value[0] for x in pair)
        found.append(Compared(fixed, moving, weights[0]))
    return found


def losses_around(
    scene: Scene, parameter: int, offsets: Sequence[float], level: int, window: float
) -> Float[Tensor, " n"]:
    """The loss as one of the six parameters of the scene's pose is off [deg or mm]."""
    rows = scene.eta.repeat(len(offsets), 1)
    off = torch.tensor(list(offsets), dtype=torch.float64)
    rows[:, parameter] += torch.deg2rad(off) if parameter < 3 else off
    return Objective(_sights(scene, level, window)).value(rows)


def _sights(scene: Scene, level: int, window: float) -> list[Sight]:
    views, first = scene.views, scene.views[0]
    relatives = [inverse(first.pose) @ view.pose for view in views]
    most = [view.most for view in views]
    levels = Levels(
        scene.body, [view.carm for view in views], relatives, finest=256, only=True, most=most
    )
    images, weights = (
        [None if x is None else x[None, None] for x in (getattr(v, name) for v in views)]
        for name in ("image", "weights")
    )
    return levels.sights(min(level, levels.last), images, weights, window=window)


def _folder(data: str) -> Path:
    return phantoms.biplane_folder() if data == PHANTOM else datasets.path(data)


def _description(data: str) -> dict:
    """Calibrations, spacing of the bones, and the cases of a data set."""
    if data not in (PHANTOM, WRIST, KNEE):
        raise ConfigError(f"data is {data!r}; choose one of {WRIST}, {KNEE}, {PHANTOM}")
    if data == PHANTOM:
        return json.loads((_folder(data) / "cases.json").read_text("utf-8"))
    return json.loads((data_folder() / "sources" / f"{data}.json").read_text("utf-8"))
