"""FACMAC: a monotone mixture of agents' critics, and the gradient of the whole of it."""

from __future__ import annotations

from typing import Self, Unpack

import torch
from torch import Tensor

from robustmarl.algorithms.action_gradients import ActionGradients, ActionGradientSettings
from robustmarl.algorithms.qmix import QMIXMixerSettings
from robustmarl.joint import TeamSpec, joint_state
from robustmarl.learning.q_learning import MIXER_GAIN
from robustmarl.learning.settings import OpenSettings, take
from robustmarl.networks import FactoredCritic, QMIXMixer
from robustmarl.typing import Env

__all__ = ["FACMAC", "FACMACSettings"]


class FACMACSettings(ActionGradientSettings, QMIXMixerSettings, total=False):
    """Keywords of ``FACMAC.for_env``."""


class FACMAC(ActionGradients):
    r"""Factored multi-agent centralised policy gradients [Peng2021]_.

    .. math:: Q_{tot}(s, a) = g_s\bigl(Q_1(o^1, a_1), .., Q_N(o^N, a_N)\bigr), \qquad
              L_\mu = -\overline{Q_{tot}(s, \mu^1(o^1), .., \mu^N(o^N))} + c_o \overline{l^2}

    with g the mixer of QMIX, and all agents' actions the present ones: where
    :class:`~robustmarl.algorithms.MADDPG` moves one agent at a time among actions of the buffer,
    here the gradient of each depends on what the others would do now. For the rest see
    :class:`~robustmarl.algorithms.action_gradients.ActionGradients`.

    ``for_env`` also takes ``embed`` (width of the mixing layer, 32), ``hyper_hidden`` (64),
    ``normalize_state`` (True) and ``init_gain`` (0.1) of :class:`~robustmarl.networks.QMIXMixer`.

    Args:
        settings: of :class:`~robustmarl.algorithms.action_gradients.ActionGradients`; ``critic``
            is a :class:`~robustmarl.networks.FactoredCritic`.

    Example:
        >>> from functools import partial
        >>> from robustmarl import envs, evaluation
        >>> make = partial(envs.spread, agents=2, continuous_actions=True)
        >>> team = FACMAC.for_env(make(), seed=0)
        >>> evaluation.rollout(team, make, episodes=2).lengths
        array([25, 25])
    """

    kind_of_critic = FactoredCritic

    @classmethod
    def for_env(cls, env: Env | TeamSpec, **settings: Unpack[FACMACSettings]) -> Self:
        """Return FACMAC for ``env``; see :meth:`TeamAlgorithm.for_env`."""
        return cls._make(env, settings)

    @classmethod
    def _critic(
        cls, spec: TeamSpec, hidden: tuple[int, ...], settings: OpenSettings
    ) -> FactoredCritic:
        mixing = QMIXMixerSettings(init_gain=MIXER_GAIN) | take(settings, QMIXMixerSettings)
        mixer = QMIXMixer(spec.joint_state_size, spec.num_agents, **mixing)
        return FactoredCritic(
            spec.obs_size, spec.num_agents, spec.num_actions, mixer, hidden=hidden
        )

    def _reading(self, seen: Tensor, state: Tensor) -> Tensor:
        return torch.cat([seen.flatten(-2), joint_state(state, self.spec)], dim=-1)

    def _judged(self, chosen: Tensor, taken: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
        if self.spec.continuous:
            chosen = chosen * alive.unsqueeze(-1)
        return chosen.unsqueeze(-3), alive.new_ones(len(alive), 1)
