"""The X-ray images of the command line, with what their files do not tell."""

import argparse
import dataclasses
import math
from pathlib import Path

import torch

from drrlib.cli.common import as_options, say
from drrlib.errors import ConfigError
from drrlib.geometry import CArm, ScanProjection
from drrlib.io import is_localizer, read_localizer, read_mayacam, read_xray, with_common_isocenter
from drrlib.view import View
from drrlib.volume import Volume

# Options that mean nothing for a CT localizer, whose header tells all but the lengths.
_NOT_OF_A_SCAN = ("pixel", "theta", "phi", "gamma", "flipped", "calibration", "one_isocenter")
_NOT_OF_A_SCAN += ("frame", "values", "bone", "open_field", "no_mask")
_KINDS = ("auto", "counts", "logged", "display", "line integrals")


def add_xrays(made: argparse.ArgumentParser) -> None:
    """Which images, their C-arm, and how their grey values are to be read."""
    made.add_argument(
        "xrays",
        metavar="XRAY",
        type=Path,
        nargs="+",
        help="DICOM, PNG, TIFF, JPEG or .npy, or a CT localizer; several of one patient position",
    )
    carm = made.add_argument_group("the C-arm, where no header tells it, or not rightly")
    carm.add_argument("--sdd", type=float, help="source to detector [mm]")
    carm.add_argument("--sod", type=float, help="source to isocentre [mm]")
    carm.add_argument(
        "--pixel", type=float, nargs="+", metavar="MM", help="pixel at the detector; or DX DY"
    )
    carm.add_argument("--theta", type=float, help="cranial (+), caudal (-) angle [deg]")
    carm.add_argument("--phi", type=float, help="LAO (+), RAO (-) [deg]; 0 frontal, 90 lateral")
    carm.add_argument("--gamma", type=float, help="turn of the detector [deg]; 180: head below")
    carm.add_argument("--flipped", action="store_true", default=None, help="seen from the source")
    carm.add_argument(
        "--calibration",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="MayaCam 2.0 files, one for each XRAY, in place of all that",
    )
    carm.add_argument(
        "--one-isocenter",
        action="store_true",
        help="several XRAYs: the C-arm turned about its isocentre, the table did not move, and the "
        "angles tell how the views lie to each other",
    )
    grey = made.add_argument_group("its pixels")
    grey.add_argument("--frame", help="of a run, from 0; or max")
    grey.add_argument("--values", choices=_KINDS, help="what grey values mean; default: auto")
    grey.add_argument("--bone", choices=("auto", "bright", "dark"), help="default: auto")
    grey.add_argument("--open-field", type=float, help="grey value where nothing attenuates")
    grey.add_argument("--shrink", type=int, metavar="N", help="average N x N pixels, against grain")
    grey.add_argument("--no-mask", action="store_true", help="every pixel is image")


def read_xrays(options: argparse.Namespace) -> list[View]:
    """One view for each image.

    Raises:
        DrrlibError: an image cannot be read, or lacks something; tells the option that gives it.
    """
    if len(options.xrays) == 1 and is_localizer(options.xrays[0]):
        return [_localizer(options)]
    cameras = _calibrations(options) or [None] * len(options.xrays)
    views = []
    for path, carm in zip(options.xrays, cameras, strict=True):
        given = _pixels(options) | ({"carm": carm} if carm else _geometry(options))
        view = read_xray(path, **given)
        say("register", f"X-ray {path.name}: {_told(view)}", options.quiet)
        for note in view.notes:
            say("register", f"  {as_options(note)}", options.quiet)
        views.append(_shrunk(view, options.shrink))
    if len(views) > 1 and not options.calibration:
        views = _about_one_isocenter(views, options)
    return views


def _localizer(options: argparse.Namespace) -> View:
    """A CT localizer, whose header tells its pose.

    Raises:
        ConfigError: an option that a localizer has no use for, or a matrix asked for.
    """
    for name in _NOT_OF_A_SCAN:
        if getattr(options, name):
            raise ConfigError(
                f"--{name.replace('_', '-')} is for images of a C-arm; "
                f"{options.xrays[0].name} is a CT localizer: leave it out"
            )
    given = {n: getattr(options, n) for n in ("sdd", "sod") if getattr(options, n) is not None}
    view = read_localizer(options.xrays[0], **given)
    say("register", f"localizer {options.xrays[0].name}: {_told(view)}", options.quiet)
    return _shrunk(view, options.shrink)


def levelled(view: View, volume: Volume) -> View:
    """A localizer with its isocentre beside the CT's middle; other views as they are."""
    if not isinstance(view.carm, ScanProjection):
        return view
    carm, pose = view.carm.level_with(view.pose[None], volume.center)
    return dataclasses.replace(view, carm=carm, pose=pose[0])


def _shrunk(view: View, factor: int | None) -> View:
    if factor is None:
        return view
    if not 1 <= factor <= min(view.carm.height, view.carm.width) // 16:
        raise ConfigError(f"--shrink is {factor}; expected 1 or more, with 16 pixels left at least")
    return view.resize(view.carm.height // factor, view.carm.width // factor)


def _told(view: View) -> str:
    carm = view.carm
    text = f"{carm.width} x {carm.height} pixels of {float(carm.delx):.4g} mm"
    text += f", source to detector {float(carm.sdd):.5g} mm, to isocentre {float(carm.sod):.5g} mm"
    if view.weights is not None:
        text += f", {100 * float((view.weights <= 0).double().mean()):.2g} % masked"
    return text


def _calibrations(options: argparse.Namespace):
    """One for each image, with one isocentre where there are several; None without any."""
    if not options.calibration:
        return None
    names = ("sdd", "sod", "pixel", "theta", "phi", "gamma", "flipped")
    both = [n for n in names if getattr(options, n) is not None]
    if both or len(options.calibration) != len(options.xrays):
        raise ConfigError(
            f"got {len(options.calibration)} calibrations for {len(options.xrays)} images"
            f"{' and --' + ', --'.join(both) if both else ''}; expected one for each image, and "
            "nothing beside it"
        )
    found = [read_mayacam(path) for path in options.calibration]
    return with_common_isocenter(found) if len(found) > 1 else found


def _geometry(options: argparse.Namespace) -> dict:
    given = {n: getattr(options, n) for n in ("sdd", "sod", "flipped")}
    for name in ("theta", "phi", "gamma"):
        angle = getattr(options, name)
        given[name] = None if angle is None else math.radians(angle)
    if options.pixel is not None:
        if len(options.pixel) > 2:
            raise ConfigError(f"--pixel has {len(options.pixel)} numbers; expected DX, or DX DY")
        given["delx"], given["dely"] = options.pixel[0], options.pixel[-1]
    return {name: value for name, value in given.items() if value is not None}


def _pixels(options: argparse.Namespace) -> dict:
    names = ("values", "bone", "open_field")
    given = {n: getattr(options, n) for n in names if getattr(options, n) is not None}
    if options.frame is not None:
        if options.frame != "max" and not options.frame.isdecimal():
            raise ConfigError(f"--frame is {options.frame!r}; expected a number from 0, or max")
        given["frame"] = options.frame if options.frame == "max" else int(options.frame)
    return given | ({"mask": False} if options.no_mask else {})


def _about_one_isocenter(views: list[View], options: argparse.Namespace) -> list[View]:
    """Views with a pose in a frame whose origin is the isocentre."""
    if not options.one_isocenter:
        raise ConfigError(
            f"got {len(views)} images without their places to each other; pass --calibration FILE "
            "FILE ..., or --one-isocenter if the C-arm turned about its isocentre while the table "
            "stood still; or register each alone"
        )
    lacking = [p.name for p, v in zip(options.xrays, views, strict=True) if v.start is None]
    if lacking:
        raise ConfigError(f"{', '.join(lacking)}: --one-isocenter needs the angles of each header")
    middle = torch.zeros(3, dtype=torch.float64)
    placed = []
    for view in views:
        if not isinstance(view.carm, CArm):
            raise ConfigError("--one-isocenter is for images of a C-arm")
        angles = torch.cat([view.start[:3], middle])
        placed.append(dataclasses.replace(view, pose=view.carm.pose(angles, middle)))
    return placed
