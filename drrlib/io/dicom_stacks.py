"""The stacks of a series: which slices belong together, and where they lie along one line."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from drrlib.errors import DicomError
from drrlib.io.dicom_tags import MARKS, TIME, Header

_MOST = 10**6  # slices
_SAME = 0.01  # [mm] places of slices that lie on each other
_ROUNDED = 0.09  # [mm] how far three coordinates rounded to 0.1 mm can take a point


def split(headers: list[Header]) -> list[tuple[str, list[Header]]]:
    """The acquisitions, phases or reconstructions of a series that lie in one another.

    A tag tells them apart where the slices of its values overlap in place: blocks of a scan that
    follow one another stay one stack. Where no other tag does, the time of acquisition tells
    passes over the same places apart.

    Returns:
        What tells each apart, such as "AcquisitionNumber 2", and its slices; empty for a whole.
    """
    if any(h.position is None or h.orientation is None for h in headers):
        return [("", headers)]
    for tag in MARKS:
        groups: dict[str | float, list[Header]] = {}
        for h in headers:
            groups.setdefault(h.marks.get(tag, ""), []).append(h)
        if len(groups) < 2 or min(map(len, groups.values())) < 2 or not _overlap(groups.values()):
            continue
        found = []
        for k, key in enumerate(sorted(groups, key=lambda x: (isinstance(x, str), x))):
            name = f"{tag} {key:g}" if isinstance(key, float) else f"{tag} no. {k + 1}"
            for more, part in split(groups[key]):
                found.append((f"{name}, {more}" if more else name, part))
        return found
    return _passes(headers)


def _passes(headers: list[Header]) -> list[tuple[str, list[Header]]]:
    """Passes over the same places, told apart by the clock alone: each is over before the next."""
    normal = np.cross(*headers[0].orientation.reshape(2, 3))
    places: dict[int, list[Header]] = {}
    for h in headers:
        places.setdefault(round(float(h.position @ normal) / _SAME), []).append(h)
    times = [h.marks.get(TIME) for h in headers]
    count = len(headers) // len(places)
    known = all(isinstance(time, float) for time in times)
    if count < 2 or not known or any(len(at) != count for at in places.values()):
        return [("", headers)]
    inorder = [sorted(at, key=lambda h: h.marks[TIME]) for at in places.values()]
    passes = list(zip(*inorder, strict=True))
    for one, two in pairwise(passes):
        if max(h.marks[TIME] for h in one) >= min(h.marks[TIME] for h in two):
            return [("", headers)]
    return [(f"{TIME} no. {k + 1}", list(one)) for k, one in enumerate(passes)]


def _overlap(groups) -> bool:
    first = next(iter(groups))[0].orientation.reshape(2, 3)
    normal = np.cross(*first)
    spans = sorted((min(d), max(d)) for d in ([h.position @ normal for h in g] for g in groups))
    return any(b[0] < a[1] - 1e-3 for a, b in pairwise(spans))


def name_of(header: Header) -> str:
    """The file, and the frame in it."""
    return repr(header.path.name) + ("" if header.frame is None else f", frame {header.frame + 1}")


def check_duplicates(headers: Sequence[Header], depth: np.ndarray) -> None:
    """Raises DicomError where two of the sorted slices are at one place."""
    gaps = np.diff(depth)
    limit = max(0.1 * float(np.median(gaps)), 1e-3)
    if gaps.min() >= limit:
        return
    k, n = int(gaps.argmin()), int((gaps < limit).sum())
    one, two = headers[k], headers[k + 1]
    copies = one.instance and one.instance == two.instance
    cure = (
        "they are copies of each other: remove one"
        if copies
        else "pass the files of one stack, phase or reconstruction only"
    )
    raise DicomError(
        f"duplicate slice positions ({n}), first slices {k} and {k + 1} at {depth[k]:.3f} and "
        f"{depth[k + 1]:.3f} mm ({name_of(one)} and {name_of(two)}); expected one slice at each: "
        f"{cure}"
    )


def even_line(positions: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares first position and step of sorted, evenly spaced positions.

    The step is a full vector: with a tilted gantry it is not along the normal.
    """
    gaps = np.diff(depth)
    usual = float(np.median(gaps))
    cure = "or pass resample=<mm> to interpolate between the slices"
    if gaps.max() > 1.5 * usual:
        k, n = int(gaps.argmax()), int((gaps > 1.5 * usual).sum())
        raise DicomError(
            f"missing slices or non-uniform spacing: {n} gaps, the largest between slices {k} and "
            f"{k + 1} at {depth[k]:.3f} and {depth[k + 1]:.3f} mm; expected {usual:.3f} mm between "
            f"neighbours: copy the missing files, {cure}"
        )
    k = np.arange(len(positions)) - (len(positions) - 1) / 2
    step = k @ positions / (k @ k)
    origin = positions.mean(axis=0) + k[0] * step
    off = np.linalg.norm(origin + np.outer(k - k[0], step) - positions, axis=1)
    length = float(np.linalg.norm(step))
    limit = _limit(positions, length)
    if off.max() > limit:
        worst = int(off.argmax())
        raise DicomError(
            f"non-uniform slice positions: slice {worst} at {depth[worst]:.3f} mm is "
            f"{off[worst]:.3f} mm away from an even spacing of {length:.3f} mm; expected at most "
            f"{limit:.3f} mm: export the series again, {cure}"
        )
    return origin, step


def resampled_line(
    positions: np.ndarray, depth: np.ndarray, step: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `even_line`, at every `step` mm along any straight line of slices; and where each new
    slice lies among the old ones, such as 3.25 for a quarter of the way from 3 to 4."""
    a = np.stack([np.ones_like(depth), depth - depth[0]], axis=1)
    line = np.linalg.lstsq(a, positions, rcond=None)[0]
    off = np.linalg.norm(a @ line - positions, axis=1).max()
    limit = _limit(positions, float(np.median(np.diff(depth))))
    if off > limit:
        raise DicomError(
            f"the slices are up to {off:.3f} mm away from a straight line; expected at most "
            f"{limit:.3f} mm: pass the files of one stack only"
        )
    count = int(min((depth[-1] - depth[0]) / step + 1e-6, _MOST)) + 1
    if count < 2 or count > _MOST:
        raise DicomError(
            f"resample is {step:g} mm for slices over {depth[-1] - depth[0]:.3f} mm; expected a "
            "distance that gives two slices or more, and not millions"
        )
    new = depth[0] + step * np.arange(count)
    return line[0], line[1] * step, np.interp(new, depth, np.arange(len(depth)))


def _limit(positions: np.ndarray, step: float) -> float:
    """How far a slice may be from its place: what rounding and a scanner's table explain."""
    tenths = np.abs(positions * 10 - np.round(positions * 10)).max() < 1e-6
    return max(0.02 * step, _ROUNDED if tenths else 0.05)
