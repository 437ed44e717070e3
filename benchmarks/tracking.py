"""What a time step costs when a body is tracked, and how far off it ends.

    python benchmarks/tracking.py --case plastic pelvis skull
    python benchmarks/tracking.py --case knee --views 2

Films are DRRs on a detector of 200 x 200 pixels over 400 mm, with scatter and quantum noise, of a
body that swings smoothly. `ratio` is the processor time of a time step that needed no search, in
the median, over that of one `register` call with a start, measured in turn in the same process;
`render_ratio` likewise. `knee` are the given time steps of a real prosthesis, far apart: there a
fresh search does the work.

A line for each case is appended to --out (JSON lines).
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path

import record
import torch

from drrlib import CArm, View, Volume, eta, register, track
from drrlib.lab import datasets, phantoms
from drrlib.lab.studies import fluoroscopy, motion
from drrlib.registration import Preset

PIXELS, EXTENT, SDD, SOD = 200, 400.0, 1020.0, 510.0
CTS = {"plastic": "plastic_skull", "pelvis": "pelvis"}
OFF = torch.tensor([0.2, -0.2, 0.2, 20.0, -20.0, 20.0], dtype=torch.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cases = ("skull", *CTS, "knee")
    parser.add_argument("--case", nargs="+", choices=cases, default=list(cases))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--presets", nargs="+", default=["robust", "xray"])
    parser.add_argument("--views", type=int, choices=(1, 2), default=2, help="of the knee")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    given = parser.parse_args()
    shared = record.circumstances(torch.get_num_threads()) | {"versions": record.versions()}
    for case in given.case:
        if case == "knee":
            rows = [knee(given.views)]
        else:
            rows = [filmed(case, preset, given.steps) for preset in given.presets]
        for row in rows:
            with given.out.open("a") as file:
                file.write(json.dumps(shared | row) + "\n")
            print(json.dumps(row), flush=True)


def volume_of(case: str) -> Volume:
    if case in CTS:
        return datasets.volume(CTS[case])
    phantom = phantoms.skull(2.0)
    return Volume.from_hu(phantom.hu, phantom.affine)


def filmed(case: str, preset: str, steps: int) -> dict:
    """A film of a CT: cost of a time step against `register`, and errors."""
    volume, carm = volume_of(case), CArm.square(SDD, SOD, PIXELS, EXTENT)
    base = eta(theta=5, phi=20, gamma=-3, b=(3, -5, 7), degrees=True).double()
    path = motion.smooth_path(base, steps, math.radians(8), 15.0)
    blank = View(torch.arange(PIXELS**2).reshape(PIXELS, PIXELS), carm)
    frames = motion.film([volume], [path], [blank], torch.Generator().manual_seed(0))
    start = path[0] + OFF
    register(frames[0], volume, start, preset=preset)  # compiles
    alone, renders = [], []
    for k in range(0, steps, max(1, steps // 3)):
        began = time.process_time()
        renders.append(register(frames[k], volume, path[k] + OFF, preset=preset).renders)
        alone.append(time.process_time() - began)
    began = time.process_time()
    first = track(frames[:1], volume, start, preset=preset)
    middle = time.process_time()
    found = track(frames, volume, start, preset=preset)
    each = (time.process_time() - middle - (middle - began)) / (steps - 1)
    short = [one for one in found.results if one.attempts == 0]
    table = motion.tracked_errors(found, path)
    once = statistics.median(alone)
    return {
        "case": case,
        "views": 1,
        "preset": preset,
        "pixels": PIXELS,
        "steps": steps,
        "moved_mm": float(motion.steps_between(path, volume, carm).median()),
        "trusted": int(found.converged.sum()),
        "searched": steps - len(short),
        "mtre_median_mm": float(table["mtre_mm"].median()),
        "mtre_max_mm": float(table["mtre_mm"].max()),
        "across_max_mm": float(table["across_mm"].max()),
        "stated_median_mm": float(table["target_sd_mm"].median()),
        "within_2_sd": int((table["mtre_mm"] < 2 * table["target_sd_mm"]).sum()),
        "register_cpu_s": once,
        "step_cpu_s": each,
        "ratio": each / once,
        "render_ratio": statistics.median(x.renders for x in short) / statistics.median(renders),
        "first_renders": first[0].renders,
    }


def knee(views: int) -> dict:
    """The real prosthesis at its given time steps, from a start that is off."""
    frames, body, path = motion.knee_steps(views=views)
    plan, far = Preset(**fluoroscopy.LIGHT), (math.radians(45.0), 110.0)
    off = torch.tensor([0.2, -0.2, 0.2, 20.0, -20.0, 20.0], dtype=torch.float64)
    search = (math.radians(20.0), 40.0)
    how = dict(preset=plan, search=search, reach=far, only=True)
    found = track(frames, body, path[0] + off, **how)
    table = motion.tracked_errors(found, path)
    carm = frames[0][0].carm
    return {
        "case": "knee",
        "views": views,
        "preset": "light",
        "pixels": carm.width,
        "steps": len(frames),
        "moved_mm": motion.steps_between(path, body, carm).round(decimals=1).tolist(),
        "trusted": int(found.converged.sum()),
        "searched": sum(one.attempts > 0 for one in found.results),
        "mtre_mm": table["mtre_mm"].round(3).tolist(),
        "across_mm": table["across_mm"].round(3).tolist(),
        "depth_mm": table["depth_mm"].round(3).tolist(),
        "stated_mm": table["target_sd_mm"].round(3).tolist(),
        "reasons": table["reason"].tolist(),
        "seconds": table["seconds"].round(1).tolist(),
    }


if __name__ == "__main__":
    main()
