"""Files in and out.

| what | read as | refused, with the reason |
|---|---|---|
| CT slices, one file each | `read_ct_series` | uneven without `resample=`; missing, double, cut |
| ... their values | HU by slope and intercept | damaged, overlay bits, signed as unsigned |
| several stacks in one series | listed; `part=` picks one | never mixed; tags or the clock tell |
| enhanced and legacy converted CT | `read_ct_series` | frames without a place |
| CT maps, secondary captures | not | no Hounsfield units |
| NIfTI (.nii, .nii.gz, .hdr with .img) | `read_nifti` | 4D, colour, no sform or qform |
| MetaImage, NRRD (extra "formats") | `read_metaimage_nrrd` | 4D, several values per voxel |
| CT localizer | `read_localizer` | tilted gantry, lengths or angles that are missing |
| X-ray image: XA, RF, DX, CR, enhanced | `read_xray` | lengths missing, colour, constant |
| X-ray picture: PNG, TIFF, JPEG, .npy | `read_xray(carm=)` | colour, no `carm`, NaN, negative |
| run of frames, pages of a stack | `read_xray_run` | as each frame; all of them constant |
| X-ray header, functional groups too | `carm_from_dicom`, `start_...` | lacking tags, by name |
| TIFF stack; mesh (extra "mesh") | `read_tiff_stack`, `read_mesh` | no spacing; not closed |
| calibration | `read_mayacam`, `read_rtk_geometry` | other files, matrices that are none |
| K with R and t; 3x4 of any sign | `calibration_from_krt`, `..._from_matrix` | skew, rank below 3 |
| compressed pixels | with pylibjpeg | no decoder, or another size than announced |
| written: CT, X-ray | `write_ct_series`, `write_xray`, `write_drr` | what a format cannot hold |
| archives, DICOMDIR, folders of volumes | not | the message says what to pass |
| MR, PET, ultrasound, RT objects, colour | not | no Hounsfield units |

Where nothing is near air (-1000 HU), or the borders are one other value, a warning says so. No
message shows data of a patient; files are named by their names.
"""

from drrlib.io.calibration import (
    Calibration,
    calibration_from_krt,
    calibration_from_matrix,
    read_mayacam,
    with_common_isocenter,
)
from drrlib.io.carm_header import carm_from_dicom, start_from_dicom
from drrlib.io.ct import read_volume
from drrlib.io.dicom_headers import SeriesInfo
from drrlib.io.dicom_series import CTSeries, list_series, read_ct_series
from drrlib.io.dicom_write import write_ct_series
from drrlib.io.distortion import Distortion
from drrlib.io.drr_write import DRR_SUFFIXES, write_drr
from drrlib.io.labels import read_labels
from drrlib.io.localizer_file import is_localizer, read_localizer
from drrlib.io.localizer_header import localizer_from_dicom
from drrlib.io.mesh import read_mesh
from drrlib.io.metaimage_nrrd import read_metaimage_nrrd
from drrlib.io.nifti import read_nifti
from drrlib.io.rtk import read_rtk_geometry
from drrlib.io.tiff_stack import read_tiff_stack
from drrlib.io.xray import read_xray, read_xray_run
from drrlib.io.xray_write import write_xray

__all__ = [
    "DRR_SUFFIXES",
    "CTSeries",
    "Calibration",
    "Distortion",
    "SeriesInfo",
    "calibration_from_krt",
    "calibration_from_matrix",
    "carm_from_dicom",
    "is_localizer",
    "list_series",
    "localizer_from_dicom",
    "read_ct_series",
    "read_labels",
    "read_localizer",
    "read_mayacam",
    "read_mesh",
    "read_metaimage_nrrd",
    "read_nifti",
    "read_rtk_geometry",
    "read_tiff_stack",
    "read_volume",
    "read_xray",
    "read_xray_run",
    "start_from_dicom",
    "with_common_isocenter",
    "write_ct_series",
    "write_drr",
    "write_xray",
]
