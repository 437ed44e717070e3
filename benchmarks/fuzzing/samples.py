"""Small data sets that are right: CTs, a localizer and X-ray images of several kinds."""

import copy
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

from drrlib.io import write_ct_series
from fuzzing.judge import SECRET
from fuzzing.tree import SPECIES, File, file_of


def ct_slices(folder: Path, size: tuple[int, int, int] = (5, 4, 4)) -> list[FileDataset]:
    """A series as `write_ct_series` writes it, with a patient's data."""
    hu = np.random.default_rng(0).integers(-1000, 1500, size).astype(np.float32)
    write_ct_series(folder, hu, np.diag([0.8, 1.1, 2.5, 1.0]), description=SECRET)
    found = [pydicom.dcmread(p) for p in sorted(folder.iterdir())]
    for ds in found:
        ds.PatientName, ds.PatientID, ds.InstitutionName = SECRET, SECRET, SECRET
        ds.AcquisitionTime, ds.AcquisitionNumber, ds.KVP = "101500.25", 1, 120
        ds.ConvolutionKernel, ds.SliceThickness = "B30f", 2.5
    return found


def cts(folder: Path) -> dict[str, list[File]]:
    """CT files by what they are."""
    plain = ct_slices(folder / "plain")[:3]
    phases = ct_slices(folder / "phases")
    for k, ds in enumerate(phases):
        ds.AcquisitionNumber, ds.TriggerTime = 1 + k // 2, 400 * (k // 2)
        ds.ImagePositionPatient = plain[k % 2].ImagePositionPatient
    padded = copy.deepcopy(plain)
    for ds in padded:
        ds.PixelPaddingValue, ds.PixelPaddingRangeLimit = -1000, -900
        ds.ImagePositionPatient = [*ds.ImagePositionPatient[:1], ds.ImagePositionPatient[2] * 0.2,
                                   ds.ImagePositionPatient[2]]  # fmt: skip
    packed = {"rle": copy.deepcopy(plain), "j2k": ct_slices(folder / "wide", (32, 32, 2))}
    for name, syntax in (("rle", pydicom.uid.RLELossless), ("j2k", pydicom.uid.JPEG2000Lossless)):
        for ds in packed[name]:
            ds.compress(syntax, generate_instance_uid=False)
    made = {"plain": plain, "phases": phases, "padded": padded, "enhanced": [enhanced(plain)]}
    found = {name: [file_of(ds) for ds in some] for name, some in made.items()}
    for name, some in packed.items():
        found[name] = [file_of(ds, ds.file_meta.TransferSyntaxUID) for ds in some]
    for name, syntax in zip(("implicit", "big", "deflated"), SPECIES[1:], strict=True):
        found[name] = [file_of(ds, syntax) for ds in plain]
    return found


def _item(**tags) -> Dataset:
    found = Dataset()
    for keyword, value in tags.items():
        setattr(found, keyword, value)
    return found


def enhanced(slices: list[FileDataset]) -> FileDataset:
    """One file with all slices as frames, whose places are in functional groups."""
    ds = copy.deepcopy(slices[0])
    sop = "1.2.840.10008.5.1.4.1.1.2.1"
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop
    ds.NumberOfFrames = len(slices)
    ds.PixelData = b"".join(x.PixelData for x in slices)
    frames = []
    for k, x in enumerate(slices):
        place = _item(ImagePositionPatient=x.ImagePositionPatient)
        content = _item(StackID="1", TemporalPositionIndex=1, FrameAcquisitionNumber=1 + k)
        frames.append(_item(PlanePositionSequence=[place], FrameContentSequence=[content]))
    first = slices[0]
    ds.SharedFunctionalGroupsSequence = [
        _item(
            PlaneOrientationSequence=[_item(ImageOrientationPatient=first.ImageOrientationPatient)],
            PixelMeasuresSequence=[_item(PixelSpacing=first.PixelSpacing, SliceThickness=2.5)],
            PixelValueTransformationSequence=[
                _item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")
            ],
            CTImageFrameTypeSequence=[_item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])],
        )
    ]
    ds.PerFrameFunctionalGroupsSequence = frames
    places = "ImagePositionPatient ImageOrientationPatient PixelSpacing RescaleSlope".split()
    for keyword in (*places, "RescaleIntercept", "RescaleType"):
        if keyword in ds:
            delattr(ds, keyword)
    return ds


def localizer(plain: FileDataset) -> FileDataset:
    ds = copy.deepcopy(plain)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, -5, 60], [0, 1, 0, 0, 0, -1]
    ds.DistanceSourceToDetector, ds.DistanceSourceToPatient = 1000, 600
    ds.TubeAngle, ds.AngularPosition, ds.PatientPosition = 90.0, 90, "HFS"
    ds.GantryDetectorTilt = 0
    return ds


def _image(sop: str, modality: str, frames: int) -> FileDataset:
    """An X-ray image without geometry, of a patient."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop, "1.2.3"
    ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = sop, "1.2.3", modality
    ds.PatientName = ds.PatientID = ds.InstitutionName = ds.SeriesDescription = SECRET
    ds.Rows, ds.Columns, ds.SamplesPerPixel = 16, 20, 1
    if frames > 1:
        ds.NumberOfFrames = frames
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PhotometricInterpretation = "MONOCHROME2"
    values = np.random.default_rng(1).integers(200, 4000, (frames, 16, 20), dtype=np.uint16)
    ds.PixelData = values.tobytes()
    return ds


GEOMETRY = {
    "XRayGeometrySequence": dict(DistanceSourceToDetector=1100.0),
    "PositionerPositionSequence": dict(PositionerPrimaryAngle=10.0, PositionerSecondaryAngle=5.0),
    "FramePixelDataPropertiesSequence": dict(
        ImagerPixelSpacing=[0.4, 0.3], PixelIntensityRelationship="LIN"
    ),
    "FieldOfViewSequence": dict(FieldOfViewRotation=0, FieldOfViewHorizontalFlip="NO"),
}


def angiogram() -> FileDataset:
    """An X-ray run of two frames, with its tags at the top."""
    ds = _image("1.2.840.10008.5.1.4.1.1.12.1", "XA", 2)
    for tags in GEOMETRY.values():
        for keyword, value in tags.items():
            setattr(ds, keyword, value)
    ds.DistanceSourceToPatient = 700.0
    ds.PositionerMotion, ds.PositionerPrimaryAngleIncrement = "DYNAMIC", [0.0, 0.02]
    ds.ShutterShape, ds.CenterOfCircularShutter = ["RECTANGULAR", "CIRCULAR"], [8, 10]
    ds.RadiusOfCircularShutter = 9
    ds.ShutterLeftVerticalEdge, ds.ShutterRightVerticalEdge = 1, 19
    ds.ShutterUpperHorizontalEdge, ds.ShutterLowerHorizontalEdge = 1, 15
    return ds


def enhanced_angiogram() -> FileDataset:
    """The same with its tags in functional groups."""
    ds = _image("1.2.840.10008.5.1.4.1.1.12.1.1", "XA", 2)
    groups = {name: dict(tags) for name, tags in GEOMETRY.items()}
    groups["XRayGeometrySequence"]["DistanceSourceToIsocenter"] = 700.0
    groups["TablePositionSequence"] = dict(TableTopVerticalPosition=1.0)
    items = {name: _item(**tags) for name, tags in groups.items()}
    each = _item(PositionerPositionSequence=[items.pop("PositionerPositionSequence")])
    ds.SharedFunctionalGroupsSequence = [_item(**{n: [x] for n, x in items.items()})]
    ds.PerFrameFunctionalGroupsSequence = [each, copy.deepcopy(each)]
    return ds


def radiograph() -> FileDataset:
    """A DX image for presentation: tables, a collimator, an orientation."""
    ds = _image("1.2.840.10008.5.1.4.1.1.1.1", "DX", 1)
    for tags in GEOMETRY.values():
        for keyword, value in tags.items():
            setattr(ds, keyword, value)
    ds.DistanceSourceToPatient, ds.PatientOrientation = 700.0, ["L", "F"]
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
    ds.PresentationIntentType, ds.RescaleSlope, ds.RescaleIntercept = "FOR PRESENTATION", 1, 0
    table = _item(
        LUTDescriptor=[16, 200, 12], LUTData=np.arange(0, 4096, 256, dtype="<u2").tobytes()
    )
    ds.VOILUTSequence = [table]
    ds.CollimatorShape = "POLYGONAL"
    ds.VerticesOfThePolygonalCollimator = [1, 1, 1, 19, 15, 19, 15, 1]
    ds.FieldOfViewShape, ds.FieldOfViewDimensions = "RECTANGLE", [6, 6]
    return ds


def xrays() -> dict[str, File]:
    made = {"plain": angiogram(), "grouped": enhanced_angiogram(), "display": radiograph()}
    found = {name: file_of(ds) for name, ds in made.items()}
    found["implicit"] = file_of(made["plain"], SPECIES[1])
    found["big"] = file_of(made["grouped"], SPECIES[2])
    packed = copy.deepcopy(made["display"])
    packed.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    found["rle"] = file_of(packed, pydicom.uid.RLELossless)
    return found
