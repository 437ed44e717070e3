"""What a detector and the clinic make of line integrals.

Spectrum, scatter, blur, noise, metal, saturation; then what is done to an image before a person
looks at it. For tests and studies: simple models that keep what matters to a similarity measure.
Images are line integrals -log(I / I0), [batch, 1, height, width], and functions may be chained in
the order of physics: `polychromatic`, `instrument` (added), `join`, `add_scatter`, `blur`,
`quantum_noise`, `saturate`, `present`, `collimate`, `write_letters`. `acquire` does so.
"""

from drrlib.lab.detector.clinic import collimate, equalise, present, screw, wire, write_letters
from drrlib.lab.detector.looks import LOOKS, Effects, acquire, save_picture
from drrlib.lab.detector.materials import Spectrum, attenuation, polychromatic, two_materials
from drrlib.lab.detector.physics import (
    add_scatter,
    blur,
    instrument,
    join,
    quantum_noise,
    saturate,
)

__all__ = [
    "LOOKS",
    "Effects",
    "Spectrum",
    "acquire",
    "add_scatter",
    "attenuation",
    "blur",
    "collimate",
    "equalise",
    "instrument",
    "join",
    "polychromatic",
    "present",
    "quantum_noise",
    "saturate",
    "save_picture",
    "screw",
    "two_materials",
    "wire",
    "write_letters",
]
