"""Headers of CTs and of X-ray images, in which one to three things are wrong."""

import random
import warnings
from pathlib import Path

import pydicom

from drrlib.io import (
    carm_from_dicom,
    dicom_headers,
    is_localizer,
    list_series,
    read_ct_series,
    read_localizer,
    read_volume,
    read_xray,
    start_from_dicom,
    xray_file,
)
from drrlib.io.dicom_tags import GROUPS, TAGS
from fuzzing import samples
from fuzzing.judge import said
from fuzzing.spoil import spoil
from fuzzing.tree import File, file_of, tag_of

CT_TAGS = [tag_of(x) for x in (*TAGS, *GROUPS, "PixelData", "FrameType", "FrameAcquisitionNumber")]
PLACE = "DistanceSourceToDetector DistanceSourceToPatient TubeAngle AngularPosition".split()
PLACE += "PatientPosition GantryDetectorTilt ImageType ImagePositionPatient PixelSpacing".split()
PLACE += "ImageOrientationPatient Rows Columns RescaleSlope".split()
XRAY = [*xray_file.TAGS, *xray_file.GROUPS, *xray_file.TABLE, "PixelData", "LUTDescriptor"]
XRAY += "DistanceSourceToIsocenter FieldOfViewDimensionsInFloat LUTFunction LUTData".split()
XRAY_TAGS = [tag_of(x) for x in XRAY]
LIKELY = {"plain": 6, "phases": 2, "enhanced": 3}  # others: 1


class Headers:
    """CT series; `trial(draw)` writes one with faults into `folder` and reads it."""

    def __init__(self, folder: Path):
        self.folder = folder / "headers"
        self.folder.mkdir()
        self.right = samples.cts(folder / "right")
        plain = samples.ct_slices(folder / "again")[0]
        self.right["localizer"] = [file_of(samples.localizer(plain))]
        self.bytes = {name: [f.written() for f in files] for name, files in self.right.items()}
        self.names = sorted(self.right)
        self.weights = [LIKELY.get(name, 1) for name in self.names]
        self.lies: list[bytes] = []  # what is in the folder
        dicom_headers.read_headers = Remembered(dicom_headers.read_headers)

    def trial(self, draw: random.Random) -> str | None:
        name = draw.choices(self.names, self.weights)[0]
        files: list[File | None] = [None] * len(self.right[name])
        for _ in range(draw.choice([1, 1, 2, 3])):
            # In all files alike, or in one.
            everywhere, k, seed = draw.random() < 0.5, draw.randrange(len(files)), draw.random()
            for i in range(len(files)) if everywhere else [k]:
                files[i] = files[i] or self.right[name][i].copied()
                spoil(random.Random(seed), files[i], self._tags(name))
        data = [f.written() if f else b for f, b in zip(files, self.bytes[name], strict=True)]
        self._put(data)
        return self._localizer() if name == "localizer" else self._series(draw)

    def _tags(self, name: str) -> list[int]:
        return [tag_of(x) for x in PLACE] if name == "localizer" else CT_TAGS

    def _put(self, data: list[bytes]) -> None:
        """Write the files that differ from those of the trial before."""
        for k in range(max(len(data), len(self.lies))):
            path = self.folder / f"{k}.dcm"
            if k >= len(data):
                path.unlink()
            elif k >= len(self.lies) or self.lies[k] != data[k]:
                path.write_bytes(data[k])
        self.lies = list(data)

    def _series(self, draw: random.Random) -> str | None:
        options = draw.choice([{}] * 6 + [dict(resample=1.3), dict(series=1)])
        path = self.folder / "0.dcm" if len(self.lies) == 1 else self.folder

        def listed() -> list[str]:
            found = list_series(path)
            if len(found) > 1 and found[0].part:
                read = read_ct_series(path, part=found[0].part)
                return [repr(read.info), *map(str, found)]
            return [str(x) for x in found]

        found = said(lambda: [repr(read_volume(path, **options))])
        return found or said(listed)

    def _localizer(self) -> str | None:
        path = self.folder / "0.dcm"
        found = said(lambda: [str(is_localizer(path)), *map(str, list_series(path))])
        return found or said(lambda: [repr(x) for x in (read_localizer(path),)])


class Remembered:
    """`read_headers`, which reads a file whose bytes it had in the same place only once: files
    that are right, and those of one trial, which are listed and then read."""

    def __init__(self, read):
        self.read, self.known = read, {}

    def __call__(self, path: Path) -> list:
        key = path, path.read_bytes()
        if key not in self.known:
            if len(self.known) > 2000:
                self.known.clear()
            self.known[key] = self.read(path)
        return self.known[key]


class Xrays:
    """X-ray images likewise, read from a file and from memory."""

    def __init__(self, folder: Path):
        self.folder = folder / "xrays"
        self.folder.mkdir()
        self.right = samples.xrays()
        self.names = sorted(self.right)

    def trial(self, draw: random.Random) -> str | None:
        file = self.right[draw.choice(self.names)].copied()
        for _ in range(draw.choice([1, 1, 2, 3])):
            spoil(draw, file, XRAY_TAGS)
        path, frame = self.folder / "x.dcm", draw.choice([0, 0, 1, "max"])
        path.write_bytes(file.written())
        options = draw.choice([{}] * 5 + [dict(values="counts"), dict(sod=700.0), dict(mask=False)])

        def texts() -> list[str]:
            view = read_xray(path, frame=frame, **options)
            return [repr(view), *view.notes]

        found = said(texts)
        if found is None and draw.random() < 0.5:
            found = self._memory(path, 0 if frame == "max" else frame)
        return found

    def _memory(self, path: Path, frame: int) -> str | None:
        """As a user has the header in memory; what pydicom cannot read is none."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                ds = pydicom.dcmread(path, force=True)
            except Exception:  # pydicom's own errors are not looked for
                return None
        found = said(lambda: [repr(carm_from_dicom(ds, frame=frame))])
        return found or said(lambda: [repr(start_from_dicom(ds, frame=frame))])
