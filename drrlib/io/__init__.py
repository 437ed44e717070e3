"""Files in and out: CT volumes from DICOM and NIfTI, X-ray headers, DICOM series written."""

from drrlib.io.carm_header import carm_from_dicom, start_from_dicom
from drrlib.io.ct import read_volume
from drrlib.io.dicom_headers import SeriesInfo
from drrlib.io.dicom_series import CTSeries, list_series, read_ct_series
from drrlib.io.dicom_write import write_ct_series
from drrlib.io.localizer_header import localizer_from_dicom
from drrlib.io.nifti import read_nifti

__all__ = [
    "CTSeries",
    "SeriesInfo",
    "carm_from_dicom",
    "list_series",
    "localizer_from_dicom",
    "read_ct_series",
    "read_nifti",
    "read_volume",
    "start_from_dicom",
    "write_ct_series",
]
