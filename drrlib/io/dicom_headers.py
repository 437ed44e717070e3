"""Which CT series lie in a set of DICOM files, and where their slices are: headers only."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from drrlib.errors import ConfigError, DicomError
from drrlib.io.dicom_stacks import check_duplicates, even_line, resampled_line, split
from drrlib.io.dicom_tags import GEOMETRY, Header, read_headers

MAX_VOXELS = 2**30  # 2 GiB as stored with 16 bits


@dataclass(frozen=True)
class SeriesInfo:
    """One series of a folder, as far as its headers tell.

    Attributes:
        number: SeriesNumber, None where the files have none.
        modality: Such as "CT".
        kind: "slices", "localizer", "secondary capture", "multi-frame", "map" or "other".
        n_files: Number of files.
        size: Columns, rows; None where the files have none or differ.
        usable: Whether `read_ct_series` can read it, the pixels being intact.
        reason: Why it is not usable and what to do; empty where it is.
        paths: The files; `read_ct_series(info.paths)` reads just this series.
        part: What tells it from other stacks of its series, such as "AcquisitionNumber 2".
    """

    number: int | None
    modality: str
    kind: str
    n_files: int
    size: tuple[int, int] | None
    usable: bool
    reason: str
    paths: tuple[Path, ...] = field(repr=False)
    part: str = ""

    @property
    def name(self) -> str:
        """Such as "series 201 (CT, slices, 28 files)"."""
        number = "without number" if self.number is None else str(self.number)
        files = "1 file" if self.n_files == 1 else f"{self.n_files} files"
        number = f"{number}, {self.part}" if self.part else number
        return f"series {number} ({self.modality or 'no modality'}, {self.kind}, {files})"

    def __str__(self) -> str:
        return f"{self.name}: {'usable' if self.usable else self.reason}"


@dataclass(frozen=True)
class Series:
    """A usable or unusable series: what follows `info` is set where it is usable.

    Attributes:
        affine: world_from_voxel [4, 4].
        places: Where each voxel layer lies among the slices, where these are resampled.
        note: What resampling does.
    """

    info: SeriesInfo
    headers: tuple[Header, ...] = ()  # sorted along the normal
    affine: np.ndarray | None = None
    places: np.ndarray | None = None
    note: str = ""


def _files(path_or_paths) -> list[Path]:
    one = isinstance(path_or_paths, (str, os.PathLike))
    try:
        given = [Path(p) for p in ([path_or_paths] if one else path_or_paths)]
    except TypeError:
        raise ConfigError(
            f"got a {type(path_or_paths).__name__}; expected a folder, a file or a list of files"
        ) from None
    for path in given:
        if not path.exists():
            raise DicomError(f"{str(path)!r} does not exist; expected a DICOM folder or files")
    found = [q for p in given for q in (sorted(p.rglob("*")) if p.is_dir() else [p])]
    return [p for p in dict.fromkeys(found) if p.is_file()]


def scan(
    path_or_paths: str | os.PathLike | Iterable, resample: float | None = None
) -> tuple[list[Series], int]:
    """All series of a folder (with sub-folders), a file or a list of them, and the number of
    files that are not DICOM images. A series of several kinds of images counts as several, and so
    does one of several stacks.

    Raises:
        DicomError: a path does not exist, or a file is damaged.
    """
    groups: dict[tuple[str, ...], list[Header]] = {}
    files, others, damaged = _files(path_or_paths), [], []
    for path in files:
        try:
            headers = read_headers(path)
        except (DicomError, OSError):
            damaged.append(path)
            continue
        if not headers:
            others.append(path)
        for header in headers:
            key = (header.uid, header.modality, header.kind, header.unfit)
            groups.setdefault(key, []).append(header)
    alike = {(h.path.parent, _suffix(h.path)) for group in groups.values() for h in group}
    damaged += [p for p in others if (p.parent, _suffix(p)) in alike and _was_dicom(p)]
    if damaged:
        raise DicomError(
            f"{len(damaged)} of {len(files)} files are damaged, empty, cut short or may not be "
            f"read, first {damaged[0].name!r}: copy or export the series again, or remove them"
        )
    parts = [x for headers in groups.values() for x in split(headers)]
    found = [_series(headers, part, resample) for part, headers in parts]
    _explain_single_slices(found)
    return sorted(found, key=lambda s: (s.info.number is None, s.info.number or 0)), len(others)


def _suffix(path: Path) -> str:
    """The end of a name that tells its format; a UID as a name has none."""
    return "" if path.suffix[1:].isdigit() else path.suffix.lower()


def _was_dicom(path: Path) -> bool:
    """Whether a file that is not DICOM looks like what a broken copy leaves of one."""
    if path.name.startswith("."):
        return False
    with open(path, "rb") as file:
        head = file.read(132)
    return not head.strip(b"\0") or _suffix(path) in (".dcm", ".ima", ".dicom")


REFUSED = {
    "localizer": "a localizer is a projection, not slices; choose the axial series",
    "secondary capture": "a screen shot or report, not slices; choose the axial series",
    "multi-frame": "one file per slice is expected, or an enhanced CT whose functional groups say "
    "where its frames are; convert it to single-frame CT",
    "map": "its values are no Hounsfield units (perfusion or other computed map, colour, other "
    "units); use the CT that it was made from",
}


def _series(headers: list[Header], part: str, resample: float | None) -> Series:
    first = headers[0]
    reason, located = REFUSED.get(first.unfit, ""), None
    if first.unfit == "other":
        expected = "expected Modality CT" if first.modality != "CT" else "expected CT Image Storage"
        reason = f"not a CT slice series; {expected}: choose the CT"
    if not reason:
        try:
            headers, located = _locate(headers, resample)
        except DicomError as error:
            reason = str(error)
    sizes = {(h.columns, h.rows) for h in headers}
    size = sizes.pop() if len(sizes) == 1 else (None, None)
    paths = tuple(dict.fromkeys(h.path for h in headers))
    info = SeriesInfo(
        number=first.number,
        modality=first.modality,
        kind=first.kind,
        n_files=len(paths),
        size=None if None in size else size,
        usable=not reason,
        reason=reason,
        paths=paths,
        part=part,
    )
    return Series(info, tuple(headers), *located) if located else Series(info)


def _explain_single_slices(found: list[Series]) -> None:
    """Series of one slice each, with one number: an anonymiser made a UID for every file."""
    single = [s for s in found if s.info.n_files == 1 and s.info.kind == "slices"]
    alike = Counter((s.info.number, s.info.size) for s in single)
    for s in single:
        n = alike[s.info.number, s.info.size]
        if n > 1:
            reason = (
                f"only one slice; {n} files have this number and size and a SeriesInstanceUID "
                "each, as some anonymisers write: give all of a series one UID"
            )
            object.__setattr__(s.info, "reason", reason)


def _same(headers: list[Header], what: str, tag: str, tolerance: float) -> None:
    values = np.array([getattr(h, what) for h in headers], dtype=np.float64)
    values = values.reshape(len(headers), -1)
    bad = np.flatnonzero(np.abs(values - np.median(values, axis=0)).max(axis=1) > tolerance)
    if len(bad):
        raise DicomError(
            f"{len(bad)} of {len(headers)} slices have another {tag}; expected one for all: "
            "pass the files of one stack only"
        )


def _locate(headers: list[Header], resample: float | None) -> tuple[list[Header], tuple]:
    """Headers sorted along the normal; world_from_voxel of [column, row, slice], and with
    `resample` what else a `Series` has."""
    _check(headers)
    first = headers[0]
    along_row, along_column = first.orientation.reshape(2, 3)
    lengths = np.linalg.norm([along_row, along_column], axis=1)
    normal = np.cross(along_row, along_column)
    headers = sorted(headers, key=lambda h: float(h.position @ normal))
    positions = np.array([h.position for h in headers])
    depth = positions @ normal
    check_duplicates(headers, depth)
    places, note = None, ""
    if resample is None:
        origin, step = even_line(positions, depth)
    else:
        origin, step, places = resampled_line(positions, depth, resample)
        gaps = np.diff(depth)
        note = (
            f"{len(depth)} slices, {gaps.min():.3f} to {gaps.max():.3f} mm apart, were resampled "
            f"to {len(places)}, {resample:g} mm apart, by linear interpolation"
        )
    if step @ normal < 0.5 * np.linalg.norm(step) * np.linalg.norm(normal):
        raise DicomError(
            "the slices are shifted along their plane by more than 60 degrees against the normal; "
            "expected a stack: the positions or orientations are damaged"
        )
    _check_size(first, len(headers) if places is None else len(places))
    affine = np.eye(4)
    # PixelSpacing is [between rows, between columns].
    affine[:3, 0] = along_row / lengths[0] * first.spacing[1]
    affine[:3, 1] = along_column / lengths[1] * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = step, origin
    return headers, (affine, places, note)


def _check_size(first: Header, count: int) -> None:
    if min(first.rows, first.columns) < 1 or first.rows * first.columns * count > MAX_VOXELS:
        raise DicomError(
            f"{first.columns} x {first.rows} x {count} voxels; expected at least one and at "
            f"most {MAX_VOXELS}: the header is damaged, or pass fewer files"
        )


def _check(headers: list[Header]) -> None:
    fields = ["position", "orientation", "spacing", "rows", "columns", "rescale"]
    names = [*GEOMETRY, "RescaleSlope or RescaleIntercept"]
    lacking = Counter(
        tag for h in headers for f, tag in zip(fields, names, strict=True) if getattr(h, f) is None
    )
    if lacking:
        what = ", ".join(f"{tag} in {n} of {len(headers)} slices" for tag, n in lacking.items())
        raise DicomError(f"missing or unreadable tags: {what}; export the original series again")
    _same(headers, "rows", "Rows", 0)
    _same(headers, "columns", "Columns", 0)
    _same(headers, "spacing", "PixelSpacing", 1e-4)
    _same(headers, "orientation", "ImageOrientationPatient", 1e-3)
    first = headers[0]
    _check_size(first, len(headers))
    if not first.spacing.min() > 0:
        raise DicomError(f"PixelSpacing is {first.spacing.tolist()}; expected two lengths > 0 [mm]")
    if any(h.rescale[0] == 0 for h in headers):
        raise DicomError("RescaleSlope is 0; expected another value: export the series again")
    along_row, along_column = first.orientation.reshape(2, 3)
    lengths = np.linalg.norm([along_row, along_column], axis=1)
    if abs(lengths - 1).max() > 1e-2 or abs(along_row @ along_column) > 1e-2:
        raise DicomError("ImageOrientationPatient is not two perpendicular unit vectors")
    if len(headers) < 2:
        raise DicomError("only one slice; expected at least two: pass the folder of the series")
