"""Made-up patients and closed-form solids: ground truth with no download and no real person.

`skull`, `thorax` and `pelvis` return a `Phantom`: HU, affine and named landmarks. `Box`,
`Ellipsoid` and `Scene` have line integrals in closed form, against which projectors are judged.
`biplane_folder` holds what two fluoroscopes saw of a wrist and of a knee prosthesis.
"""

from drrlib.lab.phantoms.biplane import biplane_folder, write_biplane
from drrlib.lab.phantoms.closed_form import Box, Ellipsoid, Scene
from drrlib.lab.phantoms.painting import Phantom
from drrlib.lab.phantoms.pelvis import pelvis
from drrlib.lab.phantoms.skull import skull
from drrlib.lab.phantoms.thorax import thorax

MAKERS = {"skull": skull, "thorax": thorax, "pelvis": pelvis}

__all__ = [
    "MAKERS",
    "Box",
    "Ellipsoid",
    "Phantom",
    "Scene",
    "biplane_folder",
    "pelvis",
    "skull",
    "thorax",
    "write_biplane",
]
