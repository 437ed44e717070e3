"""Registration of X-ray images that drrlib did not render.

    python benchmarks/xrays.py --images 20 --looks mono hard cut shown clinic
    python benchmarks/xrays.py --volumes skull --looks clinic --images 200 --workers 2

The projector is RTK's (`pip install itk-rtk`), on pixels three times as fine as the detector's;
what the clinic makes of its line integrals is in `xray_looks.py`. The C-arm is written out here and
not taken from drrlib. For the looks cut, shown and clinic the CT is the middle of what was
projected. Real CTs are read from DRRLIB_DATA; without it, the procedural skull alone.

A line for each trial is appended to --out (JSON lines), and a table is printed at the end.
"""

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import trials

SDD, SOD, PIXELS, EXTENT = 1020.0, 700.0, 200, 380.0
TURN, SHIFT = 45.0, 60.0  # of the starts [deg, mm]
VOLUMES = {  # file in DRRLIB_DATA, and what is cut off at each end [mm]
    "skull": (None, 50),
    "plastic": ("head_phantom_philips/ct_0deg_1mm.nii.gz", 30),
    "thorax": ("thorax_lidc0001/ct.nii.gz", 60),
    "pelvis": ("totalsegmentator/pelvis_3mm.nii.gz", 60),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volumes", nargs="+", choices=VOLUMES, default=list(VOLUMES))
    parser.add_argument("--looks", nargs="+", default=["mono", "hard", "cut", "shown", "clinic"])
    parser.add_argument("--images", type=int, default=20, help="of each volume and look")
    parser.add_argument("--first", type=int, default=0, help="number of the first image")
    parser.add_argument("--preset", default="xray")
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--out", type=Path, default=Path("xrays.jsonl"))
    given = parser.parse_args()
    os.environ.update(NUMBA_NUM_THREADS="1", OMP_NUM_THREADS="1")
    jobs = [
        (name, look, i, given.preset)
        for name in given.volumes
        for look in given.looks
        for i in range(given.first, given.first + given.images)
    ]
    rows = []
    with ProcessPoolExecutor(given.workers, get_context("spawn")) as pool:
        for row in pool.map(trial, *zip(*jobs, strict=True)):
            rows.append(row)
            trials.append(given.out, row)
            print(f"{row['volume']} {row['look']} {row['image']}: {row['mtre']:.2f} mm", flush=True)
    table(rows)


def trial(name: str, look: str, i: int, preset: str) -> dict:
    """One image, registered."""
    import torch
    import xray_looks

    import drrlib

    torch.set_num_threads(1)
    hu, affine, middle = volume(name)
    center = affine[:3, :3] @ ((np.array(hu.shape) - 1) / 2) + affine[:3, 3]
    rng = np.random.default_rng([77, i])
    true = np.concatenate([rng.uniform(-20, 20, 3), rng.uniform(-10, 10, 3)])
    true[1] += 90 * (i % 2)  # around AP and lateral in turn
    start = true + np.concatenate([rng.uniform(-TURN, TURN, 3), rng.uniform(-SHIFT, SHIFT, 3)])
    lines = projected(hu, affine, *source_and_axes(true, center))
    rng = np.random.default_rng([0, i, 5])
    image = xray_looks.acquire(lines, look, rng, EXTENT, negative=i % 4 >= 2)
    weights = xray_looks.blank_border(image) if look == "clinic" else None

    if look in ("cut", "shown", "clinic"):
        first, last = middle
        affine = affine.copy()
        hu, affine[:3, 3] = hu[:, :, first:last], affine[:3, 3] + first * affine[:3, 2]
    ct = drrlib.Volume.from_hu(hu, affine)
    carm = drrlib.CArm.square(SDD, SOD, PIXELS, EXTENT)
    poses = []
    for eta in (true, start):
        source, rotation = source_and_axes(eta, center)
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3, :3], pose[:3, 3] = torch.tensor(rotation), torch.tensor(source)
        poses.append(pose)
    began = time.perf_counter()
    view = drrlib.View(image, carm, weights)
    found = drrlib.register(view, ct, carm.eta(poses[1], ct.center), preset=preset)
    seconds = time.perf_counter() - began
    case = dict(volume=name, look=look, image=i, preset=preset)
    return trials.row(found, poses[0], seconds, **case)


def volume(name: str) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """HU on a grid along the axes, its affine, and the slices of its middle part."""
    file, cut = VOLUMES[name]
    if file is None:
        from drrlib.lab import phantoms

        phantom = phantoms.skull(1.0)
        hu, affine = phantom.hu, np.array(phantom.affine, float)
    else:
        import nibabel

        image = nibabel.load(Path(os.environ["DRRLIB_DATA"]) / file)
        image = nibabel.as_closest_canonical(image)
        hu = np.asarray(image.dataobj, np.float32)[::-1, ::-1]  # RAS to LPS: both ways turn
        affine = np.diag([-1.0, -1, 1, 1]) @ image.affine
        affine[:3, 3] += affine[:3, :2] @ (np.array(hu.shape[:2]) - 1)
        affine[:3, :2] *= -1
    hu = np.clip(np.asarray(hu, np.float32), -1000, 3000)
    if not np.allclose(affine[:3, :3], np.diag(np.diag(affine)[:3]), atol=1e-4):
        raise SystemExit(f"{name} is not along the axes; this bench has no oblique volumes")
    filled = np.flatnonzero((hu > -500).mean(axis=(0, 1)) > 0.002)
    first, last = filled[0], filled[-1] + 1
    affine[:3, 3] += first * affine[:3, 2]
    hu, off = hu[:, :, first:last], round(cut / affine[2, 2])
    return hu, affine, (off, hu.shape[2] - off)


def source_and_axes(eta: np.ndarray, center: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Source [mm] and camera axes (columns: right, down, to the detector) of the six parameters."""
    (theta, phi, gamma), b = np.radians(eta[:3]), eta[3:]
    (ct, st), (cp, sp), (cg, sg) = ((np.cos(a), np.sin(a)) for a in (theta, phi, gamma))
    view = np.array([[cp, -sp * st, sp * ct], [sp, cp * st, -cp * ct], [0, ct, st]])
    rotation = view @ np.array([[cg, -sg, 0], [sg, cg, 0], [0, 0, 1]])
    return center + b - SOD * rotation[:, 2], rotation


def projected(hu, affine, source, rotation) -> dict[str, np.ndarray]:
    """RTK's line integrals on a finer detector: mu [-], soft tissue and bone [g/cm2]."""
    import itk
    from itk import RTK as rtk
    from xray_looks import FINER

    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(1)
    density = np.clip(1 + hu / 1000, 0, None)
    density[hu <= -1000] = 0
    bony = np.clip((hu - 100) / 1400, 0, 1)
    volumes = {
        "mu": 0.02059 * density,
        "soft": 0.1 * density * (1 - bony),
        "bone": 0.1 * density * bony,
    }
    geometry = rtk.ThreeDCircularProjectionGeometry.New()
    point, vector = itk.Point[itk.D, 3], itk.Vector[itk.D, 3]
    detector = source + SDD * rotation[:, 2]
    geometry.AddProjection(
        point(source.tolist()),
        point(detector.tolist()),
        vector(rotation[:, 0].tolist()),
        vector((-rotation[:, 1]).tolist()),
    )
    n = PIXELS * FINER
    found = {}
    for name, values in volumes.items():
        image = itk.image_from_array(np.ascontiguousarray(values.transpose(2, 1, 0), np.float32))
        image.SetSpacing(np.diag(affine)[:3].tolist())
        image.SetOrigin(affine[:3, 3].tolist())
        kind = type(image)
        blank = rtk.ConstantImageSource[kind].New()
        blank.SetSize([n, n, 1])
        blank.SetSpacing([EXTENT / n, EXTENT / n, 1.0])
        corner = 0.5 * EXTENT * (1 / n - 1)
        blank.SetOrigin([corner, corner, 0.0])
        blank.SetConstant(0.0)
        blank.Update()
        project = rtk.JosephForwardProjectionImageFilter[kind, kind].New()
        project.SetGeometry(geometry)
        project.SetInput(0, blank.GetOutput())
        project.SetInput(1, image)
        project.Update()
        found[name] = itk.array_from_image(project.GetOutput())[0].astype(np.float64)
    return found


def table(rows: list[dict]) -> None:
    """Found, sure of a wrong pose, and how honest the stated deviation is, by look."""
    print("\nlook    trials  < 1 mm  median  wrong by 2 mm, converged  converged  within 1, 2 sd")
    for look in dict.fromkeys(row["look"] for row in rows):
        mine = [row for row in rows if row["look"] == look]
        error, sd = (np.array([row[key] for row in mine]) for key in ("mtre", "sd"))
        sure = np.array([row["converged"] for row in mine])
        print(
            f"{look:8s}{len(mine):6d}{100 * np.mean(error < 1):7.1f} %{np.median(error):8.2f}"
            f"{int((sure & (error > 2)).sum()):26d}{100 * np.mean(sure):9.1f} %"
            f"{100 * np.mean(error < sd):9.0f}, {100 * np.mean(error < 2 * sd):.0f} %"
        )


if __name__ == "__main__":
    main()
