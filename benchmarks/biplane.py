"""A real wrist in two X-ray views: the radius among other bones, from starts around its place.

    python benchmarks/biplane.py --starts 10 --views 2

Reads `wrist_biplane` in DRRLIB_DATA: images, MayaCam calibrations and the bone's TIFF stack of the
sample data of Autoscoper (BrownBiomechanics/Autoscoper), and a reference pose that was found from
both views by another measure, so not independent of grey values. A line for each start is appended
to --out.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import trials

import drrlib
from drrlib.io import read_mayacam, read_tiff_stack, with_common_isocenter

PIXELS = 440  # across, of 1760
TURN, SHIFT = 20.0, 40.0  # of the starts [deg, mm]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="number of the first start")
    parser.add_argument("--views", type=int, choices=(1, 2), default=2)
    parser.add_argument("--out", type=Path, default=Path("biplane.jsonl"))
    given = parser.parse_args()
    folder = Path(os.environ["DRRLIB_DATA"]) / "wrist_biplane"
    pair = with_common_isocenter(
        [read_mayacam(folder / f"calibration/xr_calib_wrist_cam0{k}.txt") for k in (1, 2)]
    )
    views = [
        drrlib.read_xray(folder / f"images/xr_rad_uln_cam0{k}_UND.0099.tif", carm=one)
        for k, one in enumerate(pair, 1)
    ]
    views = [view.resize(PIXELS, PIXELS) for view in views][: given.views]
    spacing = (0.39625, 0.39625, 0.625)
    bone = read_tiff_stack(folder / "models/rad_dcm_cropped.tif", spacing, mu_per_value=2e-5)
    placed = json.loads((folder / "reference.json").read_text())["radius"]["0099"]
    placed = torch.tensor(placed, dtype=torch.float64) @ bone.affine
    bone = drrlib.Volume(bone.mu, placed)
    true = views[0].carm.eta(views[0].pose, bone.center)
    search = (math.radians(TURN), SHIFT)
    for i in range(given.first, given.first + given.starts):
        rng = np.random.default_rng([9, i])
        off = np.concatenate(
            [np.radians(rng.uniform(-TURN, TURN, 3)), rng.uniform(-SHIFT, SHIFT, 3)]
        )
        began = time.perf_counter()
        found = drrlib.register(views, bone, true + torch.tensor(off), search=search, only=True)
        seconds = time.perf_counter() - began
        row = trials.row(found, views[0].pose, seconds, start=i, views=given.views)
        trials.append(given.out, row)
        print(f"start {i}: {row['mtre']:.2f} mm, {found.reason}", flush=True)


if __name__ == "__main__":
    main()
