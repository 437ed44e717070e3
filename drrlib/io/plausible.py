"""Whether voxel values look like Hounsfield units of a patient in air."""

import warnings

import numpy as np

AIRY = -300.0  # [HU] nothing of a body but lungs and bowel gas is below


class NotHounsfieldWarning(UserWarning):
    """Voxel values do not look like Hounsfield units."""


def warn_of_air(hu: np.ndarray, stacklevel: int) -> None:
    """Warns where nothing is near air, or where the borders are one value that is not air."""
    if float(hu.min()) > AIRY:
        warnings.warn(
            f"nothing is near air: the lowest value is {hu.min():g} HU, expected about -1000; is "
            "the intercept missing, or what lies outside the patient filled with another value?",
            NotHounsfieldWarning,
            stacklevel=stacklevel,
        )
        return
    faces = [hu[k].ravel() for k in (0, -1)] + [hu[:, k].ravel() for k in (0, -1)]
    faces = np.concatenate(faces)
    usual = float(np.median(faces))
    if usual > AIRY and (faces == usual).mean() > 0.5:
        warnings.warn(
            f"what lies around the patient has {usual:g} HU, expected about -1000: it would "
            "attenuate; set it to -1000 where a segmentation or a mask cut the patient out",
            NotHounsfieldWarning,
            stacklevel=stacklevel,
        )
