"""Which CT series lie in a set of DICOM files, and where their slices are: headers only."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from drrlib.errors import DicomError
from drrlib.io.dicom_tags import GEOMETRY, Header, read_header

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
    """

    number: int | None
    modality: str
    kind: str
    n_files: int
    size: tuple[int, int] | None
    usable: bool
    reason: str
    paths: tuple[Path, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """Such as "series 201 (CT, slices, 28 files)"."""
        number = "without number" if self.number is None else str(self.number)
        files = "1 file" if self.n_files == 1 else f"{self.n_files} files"
        return f"series {number} ({self.modality or 'no modality'}, {self.kind}, {files})"

    def __str__(self) -> str:
        return f"{self.name}: {'usable' if self.usable else self.reason}"


@dataclass(frozen=True)
class Series:
    """A usable or unusable series: `headers` and `affine` [4, 4] are set where it is usable."""

    info: SeriesInfo
    headers: tuple[Header, ...] = ()  # sorted along the normal
    affine: np.ndarray | None = None


def _files(path_or_paths) -> list[Path]:
    one = isinstance(path_or_paths, (str, os.PathLike))
    given = [Path(p) for p in ([path_or_paths] if one else path_or_paths)]
    for path in given:
        if not path.exists():
            raise DicomError(f"{str(path)!r} does not exist; expected a DICOM folder or files")
    found = [q for p in given for q in (sorted(p.rglob("*")) if p.is_dir() else [p])]
    return [p for p in dict.fromkeys(found) if p.is_file()]


def scan(path_or_paths: str | os.PathLike | Iterable) -> tuple[list[Series], int]:
    """All series of a folder (with sub-folders), a file or a list of them, and the number of
    files that are not DICOM images. A series of several kinds of images counts as several.

    Raises:
        DicomError: a path does not exist.
    """
    groups: dict[tuple[str, str, str], list[Header]] = {}
    ignored = 0
    for path in _files(path_or_paths):
        header = read_header(path)
        if header is None:
            ignored += 1
        else:
            key = (header.uid, header.modality, header.kind)
            groups.setdefault(key, []).append(header)
    found = [_series(headers) for headers in groups.values()]
    return sorted(found, key=lambda s: (s.info.number is None, s.info.number or 0)), ignored


REFUSED = {
    "localizer": "a localizer is a projection, not slices; choose the axial series",
    "secondary capture": "a screen shot or report, not slices; choose the axial series",
    "multi-frame": "one file per slice is expected; convert it to single-frame CT, and if it "
    "is a perfusion or other computed map, use the CT it was made from",
    "map": "its values are no Hounsfield units (computed map, colour or other units); use the CT "
    "that it was made from",
}


def _series(headers: list[Header]) -> Series:
    first = headers[0]
    reason, affine = REFUSED.get(first.kind, ""), None
    if first.kind == "other":
        expected = "expected Modality CT" if first.modality != "CT" else "expected CT Image Storage"
        reason = f"not a CT slice series; {expected}: choose the CT"
    if not reason:
        try:
            headers, affine = _locate(headers)
        except DicomError as error:
            reason = str(error)
    sizes = {(h.columns, h.rows) for h in headers}
    size = sizes.pop() if len(sizes) == 1 else (None, None)
    info = SeriesInfo(
        number=first.number,
        modality=first.modality,
        kind=first.kind,
        n_files=len(headers),
        size=None if None in size else size,
        usable=not reason,
        reason=reason,
        paths=tuple(h.path for h in headers),
    )
    return Series(info, tuple(headers) if affine is not None else (), affine)


def _same(headers: list[Header], what: str, tag: str, tolerance: float) -> None:
    values = np.array([getattr(h, what) for h in headers], dtype=np.float64)
    values = values.reshape(len(headers), -1)
    bad = np.flatnonzero(np.abs(values - np.median(values, axis=0)).max(axis=1) > tolerance)
    if len(bad):
        raise DicomError(
            f"{len(bad)} of {len(headers)} slices have another {tag}; expected one for all: "
            "pass the files of one stack only"
        )


def _locate(headers: list[Header]) -> tuple[list[Header], np.ndarray]:
    """Headers sorted along the normal, and world_from_voxel of [column, row, slice]."""
    fields = ["position", "orientation", "spacing", "rows", "columns", "rescale"]
    names = [*GEOMETRY, "RescaleSlope or RescaleIntercept"]
    lacking = Counter(
        tag for h in headers for f, tag in zip(fields, names, strict=True) if getattr(h, f) is None
    )
    if lacking:
        what = ", ".join(f"{tag} in {n} of {len(headers)} files" for tag, n in lacking.items())
        raise DicomError(f"missing or unreadable tags: {what}; export the original series again")
    _same(headers, "rows", "Rows", 0)
    _same(headers, "columns", "Columns", 0)
    _same(headers, "spacing", "PixelSpacing", 1e-4)
    _same(headers, "orientation", "ImageOrientationPatient", 1e-3)
    first = headers[0]
    if min(first.rows, first.columns) < 1 or first.rows * first.columns * len(headers) > MAX_VOXELS:
        raise DicomError(
            f"{first.columns} x {first.rows} x {len(headers)} voxels; expected at least one and at "
            f"most {MAX_VOXELS}: the header is damaged, or pass fewer files"
        )
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
    normal = np.cross(along_row, along_column)
    headers = sorted(headers, key=lambda h: float(h.position @ normal))
    origin, step = _line(np.array([h.position for h in headers]), normal)
    affine = np.eye(4)
    # PixelSpacing is [between rows, between columns].
    affine[:3, 0] = along_row / lengths[0] * first.spacing[1]
    affine[:3, 1] = along_column / lengths[1] * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = step, origin
    return headers, affine


def _line(positions: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares first position and step of sorted, evenly spaced positions.

    The step is a full vector: with a tilted gantry it is not along the normal.
    """
    depth = positions @ normal
    gaps = np.diff(depth)
    usual = float(np.median(gaps))

    def where(k: int) -> str:
        return f"slices {k} and {k + 1} at {depth[k]:.3f} and {depth[k + 1]:.3f} mm"

    if usual < 1e-3 or gaps.min() < 0.1 * usual:
        n = int((gaps < max(0.1 * usual, 1e-3)).sum())
        raise DicomError(
            f"duplicate slice positions ({n}), first {where(int(gaps.argmin()))}; expected one "
            "slice at each: pass the files of one stack, phase or reconstruction only"
        )
    if gaps.max() > 1.5 * usual:
        n = int((gaps > 1.5 * usual).sum())
        raise DicomError(
            f"missing slices or non-uniform spacing: {n} gaps, the largest between "
            f"{where(int(gaps.argmax()))}; expected {usual:.3f} mm between neighbours: copy the "
            "missing files or resample the series evenly"
        )
    k = np.arange(len(positions)) - (len(positions) - 1) / 2
    step = k @ positions / (k @ k)
    origin = positions.mean(axis=0) + k[0] * step
    off = np.linalg.norm(origin + np.outer(k - k[0], step) - positions, axis=1)
    length = float(np.linalg.norm(step))
    if off.max() > max(0.02 * length, 0.05):
        worst = int(off.argmax())
        raise DicomError(
            f"non-uniform slice positions: slice {worst} at {depth[worst]:.3f} mm is "
            f"{off[worst]:.3f} mm away from an even spacing of {length:.3f} mm; expected at most "
            f"{max(0.02 * length, 0.05):.3f} mm: resample the series evenly"
        )
    if step @ normal < 0.5 * length * np.linalg.norm(normal):
        raise DicomError(
            "the slices are shifted along their plane by more than 60 degrees against the normal; "
            "expected a stack: the positions or orientations are damaged"
        )
    return origin, step
