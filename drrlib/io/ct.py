"""One door for CT files of every format."""

import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

from drrlib.errors import ConfigError, DicomError, VolumeError
from drrlib.io.dicom_series import read_ct_series
from drrlib.io.metaimage_nrrd import read_metaimage_nrrd
from drrlib.io.nifti import read_nifti
from drrlib.volume import MU_WATER, Volume

# What a file of one volume is read by.
READERS = {
    **dict.fromkeys((".nii", ".nii.gz", ".hdr", ".img", ".img.gz"), read_nifti),
    **dict.fromkeys((".mha", ".mhd", ".nrrd", ".nhdr"), read_metaimage_nrrd),
}
# What does not tell what its values are, and who asks for it.
OTHERS = {
    **dict.fromkeys((".tif", ".tiff", ".npy"), "read_tiff_stack(path, spacing, ...)"),
    **dict.fromkeys((".stl", ".obj", ".ply"), "read_mesh(path, mu)"),
}
PACKED = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar", ".bz2", ".xz")


def read_volume(
    path_or_paths: str | os.PathLike | Iterable,
    *,
    series: int | None = None,
    part: str | None = None,
    resample: float | None = None,
    mu_water: float = MU_WATER,
) -> Volume:
    """Volume of a DICOM CT series (folder, file list, enhanced CT) or a file of one volume.

    Args:
        path_or_paths: What to read: DICOM, see `read_ct_series`; NIfTI (.nii, .nii.gz, .hdr with
            .img), see `read_nifti`; MetaImage and NRRD (.mha, .mhd, .nrrd, .nhdr), see
            `read_metaimage_nrrd`.
        series, part, resample: For DICOM; see `read_ct_series`.
        mu_water: Attenuation of water [1/mm]; see `hu_to_mu`.

    Raises:
        DicomError, VolumeError: the files cannot be used.
        ConfigError: `series`, `part` or `resample` was given for a file of one volume.
    """
    choice = dict(series=series, part=part, resample=resample)
    given = {name: value for name, value in choice.items() if value is not None}
    if isinstance(path_or_paths, (str, os.PathLike)):
        path = Path(path_or_paths)
        if suffix(path) in OTHERS:
            raise ConfigError(
                f"{path.name!r} does not tell what its values are; use {OTHERS[suffix(path)]}"
            )
        reader = READERS.get(suffix(path))
        if reader and not path.is_dir():
            if given:
                raise ConfigError(
                    f"{', '.join(given)} given for a file of one volume; expected it for DICOM only"
                )
            return Volume.from_hu(*reader(path), mu_water=mu_water)
        _check_container(path)
    found = read_ct_series(path_or_paths, **given)
    return Volume.from_hu(found.hu, found.affine, mu_water=mu_water)


def suffix(path: Path) -> str:
    """What tells the kind of a file, such as .nii.gz."""
    name = path.name.lower()
    return next((s for s in (*READERS, *PACKED) if name.endswith(s)), path.suffix.lower())


def _check_container(path: Path) -> None:
    """Raises DicomError or VolumeError where the path holds a CT in another way than as files."""
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        volumes = [p for p in files if suffix(p) in READERS]
        if volumes and len(volumes) == len(files):
            raise VolumeError(
                f"the folder holds {len(volumes)} files of one volume each, first "
                f"{volumes[0].name!r}; expected one: pass its path"
            )
    elif path.is_file() and path.name.upper() == "DICOMDIR":
        raise DicomError("a DICOMDIR is an index without images; pass the folder that it lies in")
    elif path.is_file() and (suffix(path) in PACKED or zipfile.is_zipfile(path)):
        raise DicomError("the file is an archive; unpack it and pass the folder")
