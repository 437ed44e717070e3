"""From X-ray images and a CT to a pose that is judged, once or over time; landmark starts."""

from drrlib.registration.api import register
from drrlib.registration.bodies import register_bodies
from drrlib.registration.candidates import EVERYWHERE
from drrlib.registration.descent import COARSE_TO_FINE, PAPER, Schedule, descend
from drrlib.registration.everywhere import sweep_everywhere
from drrlib.registration.evidence import gather
from drrlib.registration.landmarks import arun
from drrlib.registration.levels import Levels, join_pixels, level_sight
from drrlib.registration.picked import pnp
from drrlib.registration.pipeline import RANGE, Registration
from drrlib.registration.plan import PRESETS, Preset
from drrlib.registration.report import REPORTS
from drrlib.registration.result import Comparison, RegistrationResult
from drrlib.registration.stages import descend_together, refine
from drrlib.registration.sweep import spread, sweep
from drrlib.registration.track_result import Track
from drrlib.registration.tracking import track

__all__ = [
    "COARSE_TO_FINE",
    "EVERYWHERE",
    "PAPER",
    "PRESETS",
    "RANGE",
    "REPORTS",
    "Comparison",
    "Levels",
    "Preset",
    "Registration",
    "RegistrationResult",
    "Schedule",
    "Track",
    "arun",
    "descend",
    "descend_together",
    "gather",
    "join_pixels",
    "level_sight",
    "pnp",
    "refine",
    "register",
    "register_bodies",
    "spread",
    "sweep",
    "sweep_everywhere",
    "track",
]
