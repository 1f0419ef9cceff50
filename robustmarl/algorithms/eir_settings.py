"""What ``EIRMAPPO.for_env`` takes, and its presets."""

from __future__ import annotations

from tianshou.algorithm.optim import OptimizerFactory

from robustmarl.learning.optim import adam
from robustmarl.learning.settings import OpenSettings, PPOSettings
from robustmarl.perturbers.types import TypeDistribution
from robustmarl.policies.typed import BeliefReads
from robustmarl.schedules import Schedule

__all__ = ["PRESETS", "EIRMAPPOSettings"]


class EIRMAPPOSettings(PPOSettings, total=False):
    """Keywords of ``EIRMAPPO.for_env``."""

    preset: str | None
    p: float | None
    types: TypeDistribution | None
    teacher_forcing: float | Schedule
    hard_belief: bool
    belief_reads: BeliefReads
    belief_hidden: tuple[int, ...]
    belief_memory: int
    belief_optim: OptimizerFactory | None
    belief_epochs: int
    belief_minibatches: int
    belief_chunk: int | None
    sees_actions: bool
    adversary_hidden: tuple[int, ...]
    adversary_optim: OptimizerFactory | None
    adversary_epochs: int
    adversary_clip: float | None
    adversary_entropy_coef: float | None
    victim_interval: int


_RELEASED: OpenSettings = {
    "hidden": (128, 128, 128),
    "layer_norm": True,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip": 0.05,
    "entropy_coef": 0.01,
    "value_coef": 1.0,
    "max_grad_norm": 10.0,
    "optim": adam(5e-4, 1e-5),
    "adversary_optim": adam(5e-4, 1e-5),
    "adversary_epochs": 1,
    "victim_interval": 1,
}

PRESETS: dict[str, OpenSettings] = {
    "released": _RELEASED,
    "two_timescale": _RELEASED | {"optim": adam(1e-4, 1e-5), "adversary_epochs": 2},
}
"""Settings of ``for_env(preset=...)``: the released ones, and a team slower than its adversary."""
