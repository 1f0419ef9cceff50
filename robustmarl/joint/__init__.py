"""The joint arrays of a team: their sizes, one tick of them, and whole episodes."""

from robustmarl.joint.batch import JointBatch, JointObs, at_actions, joint_state, last_actions
from robustmarl.joint.context import StepContext, rows_of
from robustmarl.joint.describe import Described, describe
from robustmarl.joint.engine import VectorEngine, check_act, check_flags, check_seeds, flagged
from robustmarl.joint.flatten import FlattenedObs, flatten_obs
from robustmarl.joint.masks import MASKED
from robustmarl.joint.spec import TeamSpec, check_parallel, spec_of, split_obs

__all__ = [
    "MASKED",
    "Described",
    "FlattenedObs",
    "JointBatch",
    "JointObs",
    "StepContext",
    "TeamSpec",
    "VectorEngine",
    "at_actions",
    "check_act",
    "check_flags",
    "check_parallel",
    "check_seeds",
    "describe",
    "flagged",
    "flatten_obs",
    "joint_state",
    "last_actions",
    "rows_of",
    "spec_of",
    "split_obs",
]
