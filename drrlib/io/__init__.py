"""Files in and out: CT volumes, X-ray images, calibrations, meshes; DICOM series written."""

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
from drrlib.io.localizer_header import localizer_from_dicom
from drrlib.io.mesh import read_mesh
from drrlib.io.nifti import read_nifti
from drrlib.io.rtk import read_rtk_geometry
from drrlib.io.tiff_stack import read_tiff_stack
from drrlib.io.xray import read_xray

__all__ = [
    "CTSeries",
    "Calibration",
    "Distortion",
    "SeriesInfo",
    "calibration_from_krt",
    "calibration_from_matrix",
    "carm_from_dicom",
    "list_series",
    "localizer_from_dicom",
    "read_ct_series",
    "read_mayacam",
    "read_mesh",
    "read_nifti",
    "read_rtk_geometry",
    "read_tiff_stack",
    "read_volume",
    "read_xray",
    "start_from_dicom",
    "with_common_isocenter",
    "write_ct_series",
]
