"""`drrlib register`: X-ray images and a CT in; pose, verdict and report out."""

import argparse
import importlib.util
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from drrlib.cli.common import (
    DONE,
    DOUBTFUL,
    add_ct,
    check_outputs,
    parser,
    read_ct,
    run,
    say,
    sizes,
)
from drrlib.cli.xrays import add_xrays, levelled, read_xrays
from drrlib.errors import ConfigError
from drrlib.geometry import CArm, eta, to_degrees, write_matrix
from drrlib.projectors import BACKENDS
from drrlib.registration import PRESETS, RANGE, REPORTS, RegistrationResult, register
from drrlib.versions import installed_version
from drrlib.view import View
from drrlib.volume import Volume

POSES = (".json", ".tfm", ".txt")
_SIX = ("THETA", "PHI", "GAMMA", "BX", "BY", "BZ")
_EXAMPLES = """
  drrlib register ct/ xray.dcm -o pose.json --report report.html
  drrlib register ct/ xray.png --sdd 1020 --sod 510 --pixel 0.4 --phi 90 -o pose.json
  drrlib register ct/ xray.dcm --start 0 -30 0 10 0 -40 --search 15 30 -o pose.tfm -o matrix.txt
  drrlib register ct/ ap.dcm lateral.dcm --one-isocenter --report report.html
  drrlib register ct/ scout.dcm --search 10 20 --report report.html
  drrlib register radius.tif cam1.tif cam2.tif --calibration cam1.txt cam2.txt --only \\
      --spacing 0.4 0.4 0.6 --mu-per-value 2e-5 --start 0 90 0 0 0 0 -o pose.json

-o by suffix: .json everything, which RegistrationResult.load reads; .tfm for 3D Slicer; .txt the
3x4 projection matrix. Exit status: 0 the pose can be trusted, 3 it is doubtful (and why), 2 refused
input, 1 failed. What happens is told on stderr, the result on stdout.
"""


def command() -> argparse.ArgumentParser:
    made = parser(
        "register",
        "Finds where an X-ray image was taken: the pose of the C-arm about a CT.",
        _EXAMPLES,
        "CT XRAY [XRAY ...] [-o FILE ...] [--report FILE] [options]",
    )
    add_ct(made)
    add_xrays(made)
    out = made.add_argument_group("what comes out")
    out.add_argument(
        "-o",
        "--output",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help=f"the pose: {', '.join(POSES)}; may be given several times",
    )
    kinds = ", ".join(REPORTS)
    out.add_argument("--report", type=Path, metavar="FILE", help=f"a page to look at: {kinds}")
    out.add_argument("--no-names", action="store_true", help="no file names in the report")
    out.add_argument("--json", action="store_true", help="the result on stdout as JSON")
    out.add_argument("--quiet", action="store_true", help="say nothing but the result and errors")
    how = made.add_argument_group("how to look")
    how.add_argument(
        "--start",
        type=float,
        nargs=6,
        metavar=_SIX,
        help="around here [deg, mm]; else the header's angles, isocentre at the CT's middle; else "
        "from everywhere",
    )
    how.add_argument(
        "--search",
        type=float,
        nargs=2,
        metavar=("DEG", "MM"),
        help=f"how far from there; default: {math.degrees(RANGE[0]):.0f} {RANGE[1]:.0f}",
    )
    how.add_argument("--preset", choices=(*PRESETS, "paper"), help="default: by the image")
    how.add_argument("--only", action="store_true", help="the CT is one bone among others")
    how.add_argument("--free", action="append", default=[], help="also find this length: sdd, ...")
    how.add_argument("--backend", choices=BACKENDS, default="auto", help="default: auto")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 converged, 3 doubtful, 1 failed, 2 refused input."""
    options = command().parse_args(argv)
    return run("register", options, lambda: _register(options))


def _register(options: argparse.Namespace) -> int:
    _check(options)
    views = read_xrays(options)
    volume = read_ct(options)
    say("register", f"CT: {sizes(volume)}", options.quiet)
    views = [levelled(view, volume) for view in views]
    if options.backend == "cuda" and torch.cuda.is_available():
        volume = volume.to("cuda")
    how = dict(preset=options.preset, only=options.only, free=tuple(options.free))
    if options.search:
        how["search"] = (math.radians(options.search[0]), options.search[1])
    start = _start(options, views)
    found = register(views, volume, start, backend=options.backend, **how)
    written = _write(options, found, views, volume)
    if options.json:
        print(json.dumps(as_json(found, written), indent=1, allow_nan=False))
    else:
        print(found)
    for path in written:
        say("register", f"wrote {path}", options.quiet)
    return DONE if found.converged else DOUBTFUL


def _check(options: argparse.Namespace) -> None:
    """What can be refused before anything is read."""
    check_outputs(options.output, POSES)
    check_outputs([options.report] if options.report else [], REPORTS)
    if options.report and importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            'a report needs matplotlib, which is not installed; run pip install "drrlib[lab]", or '
            "leave out --report"
        )


def _start(options: argparse.Namespace, views: list[View]):
    """Where to look, None for what the first view knows."""
    if options.start:
        return eta(*options.start[:3], options.start[3:], degrees=True)
    if views[0].start is None and views[0].pose is None:
        say(
            "register",
            f"{options.xrays[0].name} tells no angles: looking from everywhere; --phi 0 for a "
            "frontal and --phi 90 for a lateral view is quicker and surer",
            options.quiet,
        )
    return None


def _write(options, found: RegistrationResult, views, volume: Volume) -> list[Path]:
    if ".txt" in {p.suffix.lower() for p in options.output} and not isinstance(found.carm, CArm):
        raise ConfigError("only a C-arm has a 3x4 matrix; write .json or .tfm")
    for path in options.output:
        if path.suffix.lower() == ".json":
            found.save(path)
        elif path.suffix.lower() == ".tfm":
            found.to_slicer(path)
        else:
            write_matrix(path, found.carm.projection_matrix(found.pose))
    written = list(options.output)
    if options.report:
        names = () if options.no_names else [p.name for p in (options.ct, *options.xrays)]
        found.report(options.report, views, volume, names=names)
        written.append(options.report)
    return written


def as_json(found: RegistrationResult, written: Sequence[Path] = ()) -> dict:
    """The result in plain numbers, angles in degrees; what is not finite or not known is None."""
    degrees = to_degrees(found.eta).tolist()
    numbers = dict(zip(("theta_deg", "phi_deg", "gamma_deg"), degrees[:3], strict=True))
    measures = dict(
        target_sd_mm=found.target_sd,
        across_sd_mm=found.across_sd,
        depth_sd_mm=found.depth_sd,
        loss=found.loss,
        kept=found.kept,
        gap=found.gap,
        agreement=found.agreement,
        renders=found.renders,
        seconds=found.seconds,
    )
    carm = {n: float(getattr(found.carm, n)) for n in ("sdd", "sod", "delx", "dely", "x0", "y0")}
    return {
        "converged": found.converged,
        "reason": found.reason,
        **numbers,
        "b_mm": degrees[3:],
        "world_from_camera": found.pose.tolist(),
        **{k: x if x is not None and math.isfinite(x) else None for k, x in measures.items()},
        "inverted": found.inverted,
        "carm": carm,
        "preset": found.preset,
        "drrlib": installed_version("drrlib"),
        "written": [str(path) for path in written],
    }
