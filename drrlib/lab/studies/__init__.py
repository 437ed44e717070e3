"""Studies of many trials: what a trial is, and where and how they run."""

from drrlib.lab.studies import command, fluoroscopy, localizer, motion
from drrlib.lab.studies.landmarks import STARTS, landmark_trials, landmarks_of, on_detector
from drrlib.lab.studies.looks import look_trials, middle_of, photograph, stated_against_true
from drrlib.lab.studies.pipeline import METHODS, pipeline_trials
from drrlib.lab.studies.protocol import Protocol, load_volume
from drrlib.lab.studies.registration import (
    ETA_COLUMNS,
    eta_of,
    pose_columns,
    rate_trials,
    registration_trials,
    run_trials,
)
from drrlib.lab.studies.runner import (
    finished_trials,
    run_study,
    shard_log,
    trial_generator,
)
from drrlib.lab.studies.similarity import (
    CONDITIONS,
    best_by_condition,
    similarity_trials,
    success_by_condition,
)
from drrlib.lab.studies.workers import workers

__all__ = [
    "CONDITIONS",
    "ETA_COLUMNS",
    "METHODS",
    "STARTS",
    "Protocol",
    "best_by_condition",
    "command",
    "eta_of",
    "finished_trials",
    "fluoroscopy",
    "landmark_trials",
    "landmarks_of",
    "load_volume",
    "localizer",
    "look_trials",
    "middle_of",
    "motion",
    "on_detector",
    "photograph",
    "pipeline_trials",
    "pose_columns",
    "rate_trials",
    "registration_trials",
    "run_study",
    "run_trials",
    "shard_log",
    "similarity_trials",
    "stated_against_true",
    "success_by_condition",
    "trial_generator",
    "workers",
]
