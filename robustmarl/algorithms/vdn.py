"""VDN: the team's value is the sum of individual Q-values."""

from __future__ import annotations

from robustmarl.algorithms.value_based import ValueBased
from robustmarl.joint import TeamSpec
from robustmarl.learning.settings import OpenSettings
from robustmarl.networks import VDNMixer

__all__ = ["VDN"]


class VDN(ValueBased):
    """VDN [Sunehag2018]_ with double-Q targets; see :class:`ValueBased` for the loss.

    Example:
        >>> from robustmarl import envs, evaluation, training
        >>> def make():
        ...     return envs.MatrixGame([[0.0, 0.0], [0.0, 1.0]])
        >>> team = VDN.for_env(make(), seed=0)
        >>> _ = training.run(team, make, env_steps=300, log=training.Log(progress=False))
        >>> evaluation.rollout(team, make, episodes=1).returns
        array([1.])
    """

    @classmethod
    def _mixer(cls, spec: TeamSpec, settings: OpenSettings) -> VDNMixer:
        return VDNMixer()
