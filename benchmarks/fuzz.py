"""Calls with wrong arguments, and DICOM files with wrong bytes: drrlib's own errors alone.

python benchmarks/fuzz.py --calls 10000 --headers 100000 --files 10000 --xrays 10000 --seconds 3600

Seeded; prints each raw error once with the seed of its trial, and each trial above ten seconds.
"""

import argparse
import contextlib
import copy
import random
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import torch

import drrlib
from drrlib import geometry, regions, registration, similarity
from drrlib.errors import DrrlibError
from drrlib.io import (
    carm_from_dicom,
    list_series,
    read_volume,
    read_xray,
    start_from_dicom,
    write_ct_series,
    xray_file,
)

# Those that a CT reader looks at.
TAGS = """
ImagePositionPatient ImageOrientationPatient PixelSpacing Rows Columns SOPClassUID Modality
ImageType SeriesInstanceUID SeriesNumber RescaleSlope RescaleIntercept RescaleType
NumberOfFrames SamplesPerPixel BitsAllocated BitsStored HighBit PixelRepresentation
PlanarConfiguration PhotometricInterpretation PixelPaddingValue PixelPaddingRangeLimit
AcquisitionNumber TriggerTime SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
SOPInstanceUID KVP SliceThickness ConvolutionKernel TemporalPositionIdentifier StackID PixelData
""".split()
# And those that a reader of X-ray images looks at besides.
XRAY_TAGS = [*xray_file.TAGS, *xray_file.GROUPS, *xray_file.TABLE, "PixelData"]
XRAY_TAGS += "DistanceSourceToIsocenter FieldOfViewDimensionsInFloat LUTFunction".split()
SECRET, SLOW = "SECRET", 10.0  # what no message may repeat; seconds


def numbers(draw: random.Random):
    """Something in the place of a number."""
    odd = [0, -1, 1, 2.5, 1e30, -1e-30, float("nan"), float("inf"), None, "3", "", True, 1 + 2j]
    return draw.choice(
        [*odd, [], [1.0], {}, object(), torch.tensor(3.0), torch.ones(2), np.ones(1)]
    )


def arrays(draw: random.Random):
    """Something in the place of an array."""
    shape = draw.choice([(), (0,), (3,), (6,), (4, 4), (2, 6), (1, 4, 4), (5, 5, 5), (1, 1, 6, 6)])
    values = np.random.default_rng(draw.randrange(2**32)).normal(size=shape)
    if values.size and draw.random() < 0.4:
        values.flat[draw.randrange(values.size)] = draw.choice([np.nan, np.inf, -np.inf, 1e300])
    made = draw.choice([float, np.float32, np.float16, ">f4", int, bool, complex, str, object])
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = values.astype(made)
    if made in (str, object, ">f4") or draw.random() < 0.4:
        return draw.choice([values, values.tolist()])
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    kinds = [tensor, tensor.to("meta"), tensor.to_sparse() if tensor.ndim else tensor]
    return draw.choice([*kinds, tensor, tensor])


def from_matrix(matrix, height, width, delx, sod, ahead):
    return drrlib.CArm.from_projection_matrix(matrix, height, width, delx, sod=sod, ahead=ahead)


def doors() -> list[tuple]:
    """Public functions, each with arguments that are right."""
    mu, affine = torch.rand(5, 6, 4) * 0.02, torch.diag(torch.tensor([9.0, 9, 9, 1]).double())
    volume, carm = drrlib.Volume(mu, affine), drrlib.CArm(1020.0, 510.0, 6, 6, 9.0, 9.0)
    drr, grid, zero = drrlib.DRR(volume, carm), drrlib.Grid(mu, affine), torch.zeros(6)
    image, pose = drr.at(zero)[0], drr.pose(zero)
    points, pixels = torch.rand(8, 3).double() * 40, torch.rand(8, 2).double() * 6
    scan = drrlib.ScanProjection(1000.0, 500.0, 6, 6, 9.0, 9.0)
    frame = [torch.zeros(1, 3), torch.ones(1, 3), torch.ones(1, 3), torch.ones(1, 3)]
    view = drrlib.View(image, carm, start=zero)
    return [
        (drrlib.Volume, [mu, affine, [0.0, 0, 0]]),
        (drrlib.Volume.from_hu, [mu, affine]),
        (volume.with_mu, [mu]),
        (volume.crop_to_support, [1]),
        (volume.coarsen, [2]),
        (volume.coarsen_to, [20.0]),
        (drrlib.CArm, [1020.0, 510.0, 6, 6, 9.0, 9.0, 0.0, 0.0]),
        (drrlib.ScanProjection, [1020.0, 510.0, 6, 6, 9.0, 9.0]),
        (carm.crop, [1, 1, 3, 3]),
        (carm.resize, [3, 3]),
        (carm.downsample, [2]),
        (carm.pose, [zero, volume.center]),
        (carm.eta, [pose, volume.center]),
        (carm.project, [points, pose]),
        (carm.projection_matrix, [pose]),
        (from_matrix, [carm.projection_matrix(pose), 6, 6, 9.0, 510.0, volume.center]),
        (scan.pose, [zero, volume.center]),
        (drrlib.Grid, [mu, affine]),
        (drrlib.DRR, [volume, carm]),
        (drr, [pose]),
        (drr.pose, [zero]),
        (drr.at, [zero]),
        (drr.jacobian, [zero]),
        (drr.with_mu, [mu]),
        (drr.with_carm(carm).at, [zero[None]]),
        (drrlib.line_integrals, [grid, frame[0], frame[1]]),
        (drrlib.project, [grid, *frame, 3, 3]),
        (drrlib.eta, [0.0, 0.0, 0.0, [0.0, 0, 0]]),
        (drrlib.mtre, [pose, pose, points]),
        (geometry.pose_errors, [pose, pose, volume.center]),
        (geometry.transform_points, [pose, points]),
        (geometry.inverse, [pose]),
        (geometry.to_degrees, [zero]),
        (similarity.ncc, [image, image, torch.ones(6, 6)]),
        (similarity.zncc, [image, image, torch.ones(6, 6)]),
        (similarity.ncc_loss, [image, image]),
        (similarity.zncc_loss, [image, image]),
        (similarity.l2_loss, [image, image]),
        (similarity.get_loss, ["zncc"]),
        *((similarity.get_loss(name), [image, image]) for name in similarity.LOSSES),
        (drrlib.View, [image, carm, torch.ones(6, 6), pose, zero]),
        (view.crop, [1, 1, 4, 4]),
        (view.resize, [3, 3]),
        (regions.circle, [carm, (3.0, 3.0), 20.0]),
        (regions.polygon, [carm, [[0.0, 0.0], [6.0, 0.0], [3.0, 6.0]]]),
        (regions.rectangle, [carm, (0, 3), (0, 3)]),
        (regions.outside, [torch.ones(6, 6)]),
        (regions.collimated, [torch.rand(16, 16)]),
        (registration.arun, [points, points]),
        (registration.pnp, [points, pixels, carm]),
        (registration.register, [view, volume, zero]),
        (registration.descend, [image, drr, zero]),
        (drrlib.read_volume, ["nowhere"]),
        (drrlib.read_ct_series, ["nowhere"]),
        (drrlib.list_series, ["nowhere"]),
        (drrlib.carm_from_dicom, [pydicom.Dataset()]),
    ]


def call(draw: random.Random, known: list[tuple]) -> str | None:
    """One call with one or two wrong arguments; what went wrong, None where nothing did."""
    function, right = known[draw.randrange(len(known))]
    given = list(right)
    for _ in range(draw.choice([1, 1, 2])):
        given[draw.randrange(len(given))] = draw.choice([numbers, arrays])(draw)
    try:
        function(*given)
    except DrrlibError:
        return None
    except Exception as error:  # a raw one is what is looked for
        name = getattr(function, "__qualname__", type(function).__name__)
        lines = [x for x in traceback.extract_tb(error.__traceback__) if "drrlib" in x.filename]
        where = f"{Path(lines[-1].filename).name}:{lines[-1].lineno}" if lines else "its signature"
        return f"{name}, {where}: {type(error).__name__}: {str(error)[:160]} <- {str(given)[:200]}"
    return None


class Files:
    """A small series and NIfTI, spoilt one at a time in a folder of its own."""

    def __init__(self, folder: Path):
        hu = np.random.default_rng(0).integers(-1000, 1500, (6, 5, 4)).astype(np.float32)
        write_ct_series(folder / "good", hu, np.diag([0.8, 1.1, 2.5, 1.0]), description=SECRET)
        self.good = [pydicom.dcmread(p) for p in sorted((folder / "good").iterdir())]
        for ds in self.good:
            ds.PatientName, ds.PatientID, ds.InstitutionName = SECRET, SECRET, SECRET
            ds.save_as(folder / "good" / f"{ds.InstanceNumber}.dcm")
        nibabel.save(nibabel.Nifti1Image(hu, np.eye(4)), folder / "good.nii.gz")
        nibabel.save(nibabel.Nifti1Image(hu, np.eye(4)), folder / "good.nii")
        self.bytes = {p.name: p.read_bytes() for p in sorted((folder / "good").glob("?.dcm"))}
        self.others = {p.name: p.read_bytes() for p in folder.glob("good.nii*")}
        self.xrays = [xray(grouped) for grouped in (False, True)]
        self.folder = folder / "bad"
        self.folder.mkdir()

    def header(self, draw: random.Random) -> str | None:
        """One to three tags of one slice, or of all, become something else."""
        slices = copy.deepcopy(self.good)
        for _ in range(draw.choice([1, 1, 2, 3])):
            tag, given = draw.choice(TAGS), tag_value(draw)
            for ds in draw.choice([slices, [draw.choice(slices)]]):
                if given is None and tag in ds:
                    del ds[tag]
                elif given is not None:
                    spoil(ds, tag, given)
        for k, ds in enumerate(slices):
            with warnings.catch_warnings(), contextlib.suppress(Exception):
                warnings.simplefilter("ignore")
                ds.save_as(self.folder / f"{k}.dcm")  # what cannot be written stays as it was
        return self.read(self.folder)

    def xray(self, draw: random.Random) -> str | None:
        """One to three tags of an X-ray image, at the top or in functional groups."""
        ds, frame = copy.deepcopy(draw.choice(self.xrays)), draw.choice([0, 0, 1, "max"])
        for _ in range(draw.choice([1, 1, 2, 3])):
            places = [ds, *(x for e in ds.iterall() if e.VR == "SQ" for x in e.value)]
            tag, given, where = draw.choice(XRAY_TAGS), tag_value(draw), draw.choice(places)
            if given is None and tag in where:
                del where[tag]
            elif given is not None:
                spoil(where, tag, given)
        path = self.folder / "x.dcm"
        with warnings.catch_warnings(), contextlib.suppress(Exception):
            warnings.simplefilter("ignore")
            ds.save_as(path)
        if not path.exists():
            return None
        found = said(lambda: [repr(read_xray(path, frame=frame)), *read_xray(path).notes])
        path.unlink()
        for reader in (carm_from_dicom, start_from_dicom):  # as a user has it in memory
            found = found or said(lambda reader=reader: [repr(reader(ds))])
        return found

    def file(self, draw: random.Random) -> str | None:
        """Bits of one file are turned, or its end is cut off."""
        series = draw.random() < 0.7
        files = self.bytes if series else dict([draw.choice(sorted(self.others.items()))])
        name = draw.choice(sorted(files))
        for other, data in files.items():
            (self.folder / other).write_bytes(data)
        data = bytearray(files[name])
        for _ in range(draw.choice([0, 1, 3, 30])):
            at = draw.randrange(len(data)) if draw.random() < 0.5 else draw.randrange(600)
            data[min(at, len(data) - 1)] ^= 1 << draw.randrange(8)
        if draw.random() < 0.4:
            data = data[: draw.randrange(len(data))]
        (self.folder / name).write_bytes(data)
        found = self.read(self.folder if series else self.folder / name)
        for path in self.folder.iterdir():
            path.unlink()
        return found

    def read(self, path: Path) -> str | None:
        def texts() -> list[str]:
            listed = [str(x) for x in list_series(path)] if path.is_dir() else []
            return [*listed, repr(read_volume(path))]

        return said(texts)


def said(texts) -> str | None:
    """What is wrong with the words, warnings or error of a reader; None where nothing is."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            found = texts()
        except DrrlibError as error:
            found = [str(error), str(error.__cause__ or "")]
        except Exception as error:  # a raw one is what is looked for
            lines = traceback.extract_tb(error.__traceback__)
            line = [x for x in lines if "drrlib" in x.filename and "fuzz" not in x.filename][-1:]
            line = (line or lines[-1:])[0]
            return f"{type(error).__name__}: {str(error)[:160]} ({line.filename}:{line.lineno})"
    found += [str(w.message) for w in warned]
    return "a message repeats the header" if any(SECRET in t for t in found) else None


def xray(grouped: bool) -> pydicom.Dataset:
    """An X-ray run of two frames, plain or enhanced."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.12.1" + ".1" * grouped
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    ds = pydicom.dataset.FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = meta.MediaStorageSOPClassUID, "1.2.3", "XA"
    ds.PatientName = ds.PatientID = ds.InstitutionName = ds.SeriesDescription = SECRET
    ds.Rows, ds.Columns, ds.NumberOfFrames, ds.SamplesPerPixel = 16, 20, 2, 1
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PhotometricInterpretation = "MONOCHROME2"
    values = np.random.default_rng(1).integers(200, 4000, (2, 16, 20), dtype=np.uint16)
    ds.PixelData = values.tobytes()
    groups = {
        "XRayGeometrySequence": dict(DistanceSourceToDetector=1100.0),
        "PositionerPositionSequence": dict(
            PositionerPrimaryAngle=10.0, PositionerSecondaryAngle=5.0
        ),
        "FramePixelDataPropertiesSequence": dict(
            ImagerPixelSpacing=[0.4, 0.3], PixelIntensityRelationship="LIN"
        ),
        "FieldOfViewSequence": dict(FieldOfViewRotation=0, FieldOfViewHorizontalFlip="NO"),
    }
    sod = "DistanceSourceToIsocenter" if grouped else "DistanceSourceToPatient"
    groups["XRayGeometrySequence"][sod] = 700.0
    items = {name: pydicom.Dataset() for name in groups}
    for name, tags in groups.items():
        for keyword, value in tags.items():
            setattr(items[name] if grouped else ds, keyword, value)
    if grouped:
        shared, each = pydicom.Dataset(), pydicom.Dataset()
        for name, item in items.items():
            setattr(each if name.startswith("Positioner") else shared, name, [item])
        ds.SharedFunctionalGroupsSequence = [shared]
        ds.PerFrameFunctionalGroupsSequence = [each, copy.deepcopy(each)]
    return ds


def tag_value(draw: random.Random):
    """What a tag may become; None: it is left out."""
    odd = [None, None, "", SECRET, "1e400", "nan", "-1", "0", 0, 1, -1, 65535, b"\xff\xfe", "1\\2"]
    count = draw.choice([1, 2, 3, 6])
    odd += [[draw.choice(["0", "1", "1e9", "-3.5", "1e-30"]) for _ in range(count)]] * 4
    return draw.choice([*odd, SECRET * 20, "\x00", pydicom.uid.UID("1.2")])


def spoil(ds: pydicom.Dataset, tag: str, given) -> None:
    code = pydicom.datadict.tag_for_keyword(tag)
    vr = pydicom.datadict.dictionary_VR(code)
    for kind in (vr, "UN", "LO"):
        with warnings.catch_warnings(), contextlib.suppress(Exception):
            warnings.simplefilter("ignore")
            ds[code] = pydicom.DataElement(code, kind.split(" or ")[0], given)
            return


def run(name: str, trials: int, stop: float, seed: int, trial) -> int:
    """So many seeded trials until the time is up; prints and counts what is wrong."""
    wrong, done = {}, 0
    for k in range(trials):
        if time.monotonic() > stop:
            break
        began = time.process_time()  # not the wall's: others may use the machine
        found = trial(random.Random(f"{name} {seed} {k}"))
        if time.process_time() - began > SLOW:
            found = f"slow: {time.process_time() - began:.0f} s; {found or ''}"
        done += 1
        if done % 2000 == 0:
            print(f"{name}: {done} so far", flush=True)
        if found and wrong.setdefault(found[:60], k) == k:
            print(f"{name} {k}: {found}", flush=True)
    print(f"{name}: {done} of {trials} trials, {len(wrong)} kinds of raw errors", flush=True)
    return len(wrong)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for option in ("calls", "headers", "files", "xrays"):
        parser.add_argument(f"--{option}", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    stop = time.monotonic() + args.seconds
    with tempfile.TemporaryDirectory() as folder:
        files, known = Files(Path(folder)), doors()
        for function, right in known:  # kernels are compiled before any clock runs
            with contextlib.suppress(DrrlibError):
                function(*right)
        wrong = run("calls", args.calls, stop, args.seed, lambda draw: call(draw, known))
        wrong += run("headers", args.headers, stop, args.seed, files.header)
        wrong += run("files", args.files, stop, args.seed, files.file)
        wrong += run("xrays", args.xrays, stop, args.seed, files.xray)
    return wrong


if __name__ == "__main__":
    sys.exit(main() > 0)
