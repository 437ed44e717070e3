"""One small file of every format that is read, and what reads it."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import SimpleITK as sitk
import torch
import trimesh
from PIL import Image

import drrlib
from drrlib.geometry import CArm
from drrlib.io import (
    list_series,
    read_mayacam,
    read_mesh,
    read_rtk_geometry,
    read_tiff_stack,
    read_volume,
    read_xray,
)
from drrlib.registration import RegistrationResult
from fuzzing import samples
from fuzzing.judge import SECRET

CARM = CArm(1020.0, 510.0, 16, 20, 9.0, 9.0)


class Format(NamedTuple):
    """Files by name, which of them may be damaged, and how all are read: texts of what was read.

    `first` is the file whose path the reader takes; None for the folder.
    """

    files: dict[str, bytes]
    damaged: tuple[str, ...]
    first: str | None
    reader: Callable[[Path], list[str]]


def volume_of(path: Path) -> list[str]:
    listed = [str(x) for x in list_series(path)] if path.is_dir() else []
    return [*listed, repr(read_volume(path))]


def picture_of(path: Path) -> list[str]:
    view = read_xray(path, carm=CARM)
    return [repr(view), *view.notes]


def xray_of(path: Path) -> list[str]:
    view = read_xray(path)
    return [repr(view), *view.notes]


def stack_of(path: Path) -> list[str]:
    return [repr(read_tiff_stack(path, (1.0, 1.0, 2.0), mu_per_value=2e-5))]


def mesh_of(path: Path) -> list[str]:
    return [repr(read_mesh(path, 0.5, voxel=2.0))]


def result_of(path: Path) -> list[str]:
    found = RegistrationResult.load(path)
    return [repr(found.best), repr(found.compare(torch.zeros(6)))]


def mayacam_of(path: Path) -> list[str]:
    return [repr(read_mayacam(path))]


def rtk_of(path: Path) -> list[str]:
    return [repr(read_rtk_geometry(path, (16, 20), (1.0, 1.0)))]


def formats(folder: Path) -> dict[str, Format]:
    """All of them, made in `folder`."""
    found = _dicom(folder / "dicom") | _volumes(folder / "volumes") | _pictures(folder / "pictures")
    return found | _meshes(folder / "meshes") | _texts(folder / "texts")


def _one(name: str, data: bytes, reader) -> Format:
    return Format({name: data}, (name,), name, reader)


def _dicom(folder: Path) -> dict[str, Format]:
    cts = samples.cts(folder)
    found = {}
    for name in ("plain", "rle", "j2k", "deflated"):
        files = {f"{k}.dcm": x.written() for k, x in enumerate(cts[name])}
        found[f"ct {name}"] = Format(files, tuple(files), None, volume_of)
    found["ct enhanced"] = _one("e.dcm", cts["enhanced"][0].written(), volume_of)
    for name, file in samples.xrays().items():
        found[f"xray {name}"] = _one("x.dcm", file.written(), xray_of)
    return found


def _volumes(folder: Path) -> dict[str, Format]:
    folder.mkdir(parents=True)
    hu = np.random.default_rng(0).integers(-1000, 1500, (6, 5, 4)).astype(np.int16)
    nifti = nibabel.Nifti1Image(hu, np.diag([1.0, 1.2, 2.0, 1.0]))
    nifti.header["descrip"], nifti.header["db_name"] = SECRET, SECRET
    image = sitk.GetImageFromArray(hu.transpose(2, 1, 0))
    image.SetSpacing((1.0, 1.2, 2.0))
    for key in ("PatientName", "Comment", "ITK_InputFilterName"):
        image.SetMetaData(key, SECRET)
    found = {}
    for first, others in {
        **{"a.nii": (), "a.nii.gz": (), "a.hdr": ("a.img",), "a.mha": (), "z.mha": ()},
        **{"a.mhd": ("a.raw",), "a.nrrd": (), "z.nrrd": (), "a.nhdr": ("a.raw",)},
    }.items():
        if first.endswith((".nii", ".gz", ".hdr")):
            nibabel.save(nifti, str(folder / first).replace(".hdr", ".img"))
        else:
            sitk.WriteImage(image, str(folder / first), useCompression=first.startswith("z"))
        names = (first, *others)
        if first == "a.nhdr":
            names = (first, *(p.name for p in folder.glob("a.raw*")))[:2]
        files = {name: (folder / name).read_bytes() for name in names}
        found[first] = Format(files, tuple(files), first, volume_of)
        for name in names:
            (folder / name).unlink()
    text = "NRRD0004\n# " + SECRET + "\ntype: short\ndimension: 3\nsizes: 2 2 2\nencoding: ascii\n"
    text += "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,2)\n"
    text += "space origin: (0,0,0)\n\n1 2 3 4 5 6 7 8\n"
    return found | {"ascii.nrrd": _one("t.nrrd", text.encode(), volume_of)}


def _pictures(folder: Path) -> dict[str, Format]:
    folder.mkdir(parents=True)
    deep = np.random.default_rng(1).integers(200, 4000, (3, 16, 20)).astype(np.uint16)
    found = {}
    for name, values in {
        "g.png": deep[0],
        "g8.png": (deep[0] // 16).astype(np.uint8),
        "g.jpg": (deep[0] // 16).astype(np.uint8),
        "g.tif": deep[0],
        "rgb.png": np.repeat((deep[0] // 16).astype(np.uint8)[..., None], 3, axis=2),
        "f.tif": deep[0].astype(np.float32),
    }.items():
        Image.fromarray(values).save(folder / name)
        found[name] = _one(name, (folder / name).read_bytes(), picture_of)
    for name, packing in (("s.tif", None), ("lzw.tif", "tiff_lzw"), ("zip.tif", "tiff_deflate")):
        pages = [Image.fromarray(x) for x in deep]
        pages[0].save(
            folder / name, save_all=True, append_images=pages[1:], compression=packing,
            description=SECRET,
        )  # fmt: skip
        found[f"stack {name}"] = _one(name, (folder / name).read_bytes(), stack_of)
    for name, values in {"u.npy": deep, "f.npy": deep.astype(np.float32)}.items():
        np.save(folder / name, values)
        data = (folder / name).read_bytes()
        found[f"stack {name}"] = _one(name, data, stack_of)
        found[name] = _one(name, data, picture_of)
    return found


def _meshes(folder: Path) -> dict[str, Format]:
    box = trimesh.creation.box((10.0, 12.0, 8.0))
    comment = f"comment {SECRET}\n".encode()
    made = {
        "b.stl": box.export(file_type="stl"),
        "a.stl": box.export(file_type="stl_ascii").encode(),
        "m.obj": b"# " + comment + box.export(file_type="obj").encode(),
        "b.ply": box.export(file_type="ply"),
        "a.ply": box.export(file_type="ply", encoding="ascii"),
        "m.off": box.export(file_type="off").encode(),
    }
    return {name: _one(name, data, mesh_of) for name, data in made.items()}


def _texts(folder: Path) -> dict[str, Format]:
    folder.mkdir(parents=True)
    volume = drrlib.Volume(torch.rand(5, 6, 4) * 0.02, torch.diag(torch.tensor([9.0, 9, 9, 1])))
    drr = drrlib.DRR(volume, CARM)
    found = drrlib.descend(drr.at(torch.zeros(6))[0], drr, torch.full((2, 6), 0.01))
    found.save(folder / "r.json")
    for name, result in {"all": found, "best": found.best}.items():
        result.save(folder / f"{name}.json")
    results = {n: (folder / f"{n}.json").read_bytes() for n in ("all", "best")}
    foreign = {"format": "drrlib registration 1", "patient": SECRET, SECRET: {SECRET: SECRET}}
    maya = (
        "image size\n20,16\n\ncamera matrix\n2000,0,10\n0,2000,8\n0,0,1\n\nrotation\n"
        "1,0,0\n0,1,0\n0,0,1\n\ntranslation\n1,2,700\n"
    )
    rtk = '<?xml version="1.0"?>\n<!DOCTYPE RTKGEOMETRY>\n<RTKThreeDCircularGeometry version="3">\n'
    rtk += f"<!-- {SECRET} -->\n<SourceToIsocenterDistance>700</SourceToIsocenterDistance>\n"
    rtk += "<SourceToDetectorDistance>1100</SourceToDetectorDistance>\n<Projection>\n"
    rtk += "<GantryAngle>30</GantryAngle>\n<SourceOffsetX>1.5</SourceOffsetX>\n</Projection>\n"
    rtk += "</RTKThreeDCircularGeometry>\n"
    return {
        **{f"{n}.json": _one("r.json", data, result_of) for n, data in results.items()},
        "foreign.json": _one("r.json", json.dumps(foreign).encode(), result_of),
        "mayacam": _one("c.txt", maya.encode(), mayacam_of),
        "rtk": _one("g.xml", rtk.encode(), rtk_of),
    }


def another(draw: random.Random, all_formats: dict[str, Format]) -> bytes:
    """The bytes of some file of some format."""
    files = all_formats[draw.choice(sorted(all_formats))].files
    return files[draw.choice(sorted(files))]
