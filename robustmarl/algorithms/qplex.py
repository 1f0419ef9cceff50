"""QPLEX: duplex dueling, every team value that greedy agents can act on."""

from __future__ import annotations

from typing import Self, TypedDict, Unpack

from robustmarl.algorithms.value_based import ValueBased
from robustmarl.joint import TeamSpec
from robustmarl.learning.settings import OpenSettings, ValueBasedSettings, take
from robustmarl.networks.duplex import QPLEXMixer
from robustmarl.typing import Env

__all__ = ["QPLEX", "QPLEXMixerSettings", "QPLEXSettings"]


class QPLEXMixerSettings(TypedDict, total=False):
    """Keywords of :class:`~robustmarl.networks.duplex.QPLEXMixer`."""

    heads: int
    hyper_hidden: int
    normalize_state: bool


class QPLEXSettings(ValueBasedSettings, QPLEXMixerSettings, total=False):
    """Keywords of ``QPLEX.for_env``."""


class QPLEX(ValueBased):
    """QPLEX [WangJ2021]_ with double-Q targets; see :class:`ValueBased` for the loss.

    ``for_env`` also takes ``heads`` (4), ``hyper_hidden`` (64) and ``normalize_state`` (True) of
    :class:`~robustmarl.networks.duplex.QPLEXMixer`.

    Example:
        >>> from robustmarl import envs, evaluation, training
        >>> def make():
        ...     return envs.MatrixGame([[0.0, 0.0], [0.0, 1.0]])
        >>> team = QPLEX.for_env(make(), seed=0)
        >>> _ = training.run(team, make, env_steps=300, log=training.Log(progress=False))
        >>> evaluation.rollout(team, make, episodes=1).returns
        array([1.])
    """

    @classmethod
    def for_env(cls, env: Env | TeamSpec, **settings: Unpack[QPLEXSettings]) -> Self:
        """Return QPLEX for ``env``; see :meth:`TeamAlgorithm.for_env`."""
        return cls._make(env, settings)

    @classmethod
    def _mixer(cls, spec: TeamSpec, settings: OpenSettings) -> QPLEXMixer:
        sizes = spec.joint_state_size, spec.num_agents, spec.num_actions
        return QPLEXMixer(*sizes, **take(settings, QPLEXMixerSettings))
