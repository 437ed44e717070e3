"""Real fluoroscopy in two views: a bone of a wrist among others, or a knee implant.

    python benchmarks/biplane.py --case radius --starts 10
    python benchmarks/biplane.py --case implant_0 --views 1 --light

Takes the data sets wrist_biplane and knee_implant_biplane of `drrlib.lab.datasets`; starts are off
by up to 20 degrees and 40 mm around a reference pose. That of the radius was found from both views
by another measure, so it is not independent of grey values; that of the implant is the study's own
tracking. A line for each start is appended to --out. --light tries a third of what `only=True`
takes, and does not try again where it is not sure, as notebook 14 does.

Lines without "case" are of the radius, by the sweep before it looked at the second view.
"""

import argparse
import json
from pathlib import Path

from drrlib.lab.studies import fluoroscopy

PIXELS = {fluoroscopy.WRIST: 440, fluoroscopy.KNEE: 512}  # across, of 1760 and 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cases = {n: data for data in PIXELS for n in fluoroscopy.case_names(data)}
    parser.add_argument("--case", choices=cases, default="radius")
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="number of the first start")
    parser.add_argument("--views", type=int, choices=(1, 2), default=2)
    parser.add_argument("--light", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("biplane.jsonl"))
    given = parser.parse_args()
    data = cases[given.case]
    protocol = fluoroscopy.BiplaneProtocol(
        data=data,
        case=given.case,
        views=given.views,
        pixels=PIXELS[data],
        plan=fluoroscopy.LIGHT if given.light else None,
    )
    for i in range(given.first, given.first + given.starts):
        table = fluoroscopy.biplane_trials(protocol.config(), [i]).drop(columns="path")
        row = json.loads(table.to_json(orient="records"))[0] | {"light": given.light}
        with given.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"start {i}: {row['mtre_mm']} mm, {row['reason']}", flush=True)


if __name__ == "__main__":
    main()
