"""`drrlib render`: a CT as an X-ray image, into a file."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from drrlib.cli.common import DONE, add_ct, check_outputs, parser, read_ct, run, say, sizes
from drrlib.drr import DRR
from drrlib.errors import ConfigError
from drrlib.geometry import CArm, eta
from drrlib.io import DRR_SUFFIXES, write_drr
from drrlib.projectors import BACKENDS, METHODS
from drrlib.registration import RegistrationResult

_EXAMPLES = """
  drrlib render ct/ -o frontal.png
  drrlib render ct.nii.gz --phi 90 -o lateral.png -o lateral.dcm
  drrlib render ct/ --theta 20 --phi -30 --bz 40 --sdd 1100 --sod 750 --size 300 -o x.nii.gz
  drrlib render ct/ --pose pose.json -o found.png      as `drrlib register` found it
  drrlib render bone.tif --spacing 0.4 0.4 0.6 --mu-per-value 2e-5 -o bone.png

.png has 16 bits and bright bone; .nii and .npy have line integrals, .nii in the detector's place
about the CT; .dcm is an X-ray angiogram with lengths and angles in its header.
"""
_ANGLES = {
    "theta": "cranial (+) or caudal (-) angle [deg]",
    "phi": "LAO (+) or RAO (-) angle [deg]; 0 frontal, 90 lateral",
    "gamma": "turn of the detector about the viewing direction [deg]",
}
_SHIFTS = {"bx": "to the patient's left", "by": "to the back", "bz": "to the head"}
_OF_A_POSE = (*_ANGLES, *_SHIFTS, "sdd", "sod", "size", "pixels", "flipped")


def command() -> argparse.ArgumentParser:
    made = parser(
        "render",
        "Renders a CT as an X-ray image (a DRR) and writes it.",
        _EXAMPLES,
        "CT -o FILE [-o FILE ...] [options]",
    )
    add_ct(made)
    made.add_argument(
        "-o",
        "--output",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help=f"{', '.join(DRR_SUFFIXES)}; may be given several times",
    )
    view = made.add_argument_group("the view")
    for name, text in _ANGLES.items():
        view.add_argument(f"--{name}", type=float, help=f"{text}; default: 0")
    for name, text in _SHIFTS.items():
        what = f"isocentre off the CT's middle, {text} [mm]; default: 0"
        view.add_argument(f"--{name}", type=float, help=what)
    view.add_argument(
        "--pose", type=Path, metavar="FILE", help="view and C-arm of a saved pose.json"
    )
    carm = made.add_argument_group("the C-arm")
    carm.add_argument("--sdd", type=float, help="source to detector [mm]; default: 1020")
    carm.add_argument("--sod", type=float, help="source to isocentre [mm]; default: sdd / 2")
    carm.add_argument("--size", type=float, help="edge of the square detector [mm]; default: 400")
    carm.add_argument("--pixels", type=int, help="along each edge; default: 512")
    carm.add_argument("--flipped", action="store_true", default=None, help="seen from the source")
    how = made.add_argument_group("how")
    how.add_argument("--method", choices=METHODS, default="siddon", help="default: siddon, exact")
    how.add_argument("--backend", choices=BACKENDS, default="auto", help="default: auto")
    how.add_argument("--quiet", action="store_true", help="say nothing but errors")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 written, 1 failed, 2 refused input."""
    options = command().parse_args(argv)
    return run("render", options, lambda: _render(options))


def _render(options: argparse.Namespace) -> int:
    check_outputs(options.output, DRR_SUFFIXES)
    carm, at = _view(options)
    volume = read_ct(options)
    say("render", f"CT: {sizes(volume)}", options.quiet)
    if at.shape[-2:] == (4, 4):  # of another CT's centre, if need be
        at = carm.eta(at, volume.center)
    with torch.no_grad():
        drr = DRR(
            _on_device(volume, options.backend),
            carm,
            method=options.method,
            backend=options.backend,
        )
        image = drr.at(at)[0].cpu()
    if not float(image.max()) > 0:
        raise ConfigError(
            "no ray meets the CT in this view: the picture would be empty; look at --bx, --by, --bz"
            " and --sod, --sdd"
        )
    for path in options.output:
        write_drr(path, image, carm, at, volume.center)
        text = f"line integrals {image.min():.3g} to {image.max():.3g}"
        print(f"{path}: {carm.width} x {carm.height} pixels, {text}")
    return DONE


def _on_device(volume, backend: str):
    return volume.to("cuda") if backend == "cuda" and torch.cuda.is_available() else volume


def _view(options: argparse.Namespace) -> tuple[CArm, Tensor]:
    """The C-arm, and eta [6], or world_from_camera [4, 4] of a saved pose."""
    given = {n: getattr(options, n) for n in _OF_A_POSE if getattr(options, n) is not None}
    if options.pose is None:
        sdd = given.get("sdd", 1020.0)
        carm = CArm.square(
            sdd=sdd,
            sod=given.get("sod", sdd / 2),
            pixels=given.get("pixels", 512),
            extent=given.get("size", 400.0),
            flipped=given.get("flipped", False),
        )
        angles = {n: given.get(n, 0.0) for n in _ANGLES}
        return carm, eta(**angles, b=[given.get(n, 0.0) for n in _SHIFTS], degrees=True)
    if set(given) - {"pixels"}:
        names = ", ".join(f"--{n}" for n in given if n != "pixels")
        raise ConfigError(f"{names} and --pose are both given; a saved pose has a view and a C-arm")
    found = RegistrationResult.load(options.pose).best
    carm = found.carm
    if "pixels" in given:
        carm = carm.resize(round(carm.height * given["pixels"] / carm.width), given["pixels"])
    if not isinstance(carm, CArm):
        raise ConfigError(f"{options.pose.name!r} is of a {type(carm).__name__}; expected a C-arm")
    return dataclasses.replace(carm), found.pose
