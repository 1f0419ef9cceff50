"""QMIX: monotone mixing of individual Q-values."""

from __future__ import annotations

from typing import Self, TypedDict, Unpack

from robustmarl.algorithms.value_based import ValueBased
from robustmarl.joint import TeamSpec
from robustmarl.learning.q_learning import MIXER_GAIN
from robustmarl.learning.settings import OpenSettings, ValueBasedSettings, take
from robustmarl.networks import QMIXMixer
from robustmarl.typing import Env

__all__ = ["QMIX", "QMIXMixerSettings", "QMIXSettings"]


class QMIXMixerSettings(TypedDict, total=False):
    """Keywords of :class:`~robustmarl.networks.QMIXMixer`."""

    embed: int
    hyper_hidden: int
    normalize_state: bool
    init_gain: float


class QMIXSettings(ValueBasedSettings, QMIXMixerSettings, total=False):
    """Keywords of ``QMIX.for_env``."""


class QMIX(ValueBased):
    """QMIX [Rashid2018]_ with double-Q targets; see :class:`ValueBased` for the loss.

    ``for_env`` also takes ``embed`` (width of the mixing layer, 32), ``hyper_hidden`` (64),
    ``normalize_state`` (True) and ``init_gain`` (0.1) of :class:`~robustmarl.networks.QMIXMixer`.

    Example:
        >>> from robustmarl import envs, evaluation, training
        >>> def make():
        ...     return envs.MatrixGame([[0.0, 0.0], [0.0, 1.0]])
        >>> team = QMIX.for_env(make(), seed=0)
        >>> _ = training.run(team, make, env_steps=300, log=training.Log(progress=False))
        >>> evaluation.rollout(team, make, episodes=1).returns
        array([1.])
    """

    @classmethod
    def for_env(cls, env: Env | TeamSpec, **settings: Unpack[QMIXSettings]) -> Self:
        """Return QMIX for ``env``; see :meth:`TeamAlgorithm.for_env`."""
        return cls._make(env, settings)

    @classmethod
    def _mixer(cls, spec: TeamSpec, settings: OpenSettings) -> QMIXMixer:
        mixing = QMIXMixerSettings(init_gain=MIXER_GAIN) | take(settings, QMIXMixerSettings)
        return QMIXMixer(spec.joint_state_size, spec.num_agents, **mixing)
