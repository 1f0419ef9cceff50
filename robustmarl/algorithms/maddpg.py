"""MADDPG, and M3DDPG, which expects the worst of the other agents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from robustmarl._checks import check_choice, check_number
from robustmarl.algorithms.action_gradients import ActionGradients, ActionGradientSettings
from robustmarl.joint import TeamSpec, joint_state
from robustmarl.learning.settings import OpenSettings
from robustmarl.learning.values import CriticInput
from robustmarl.networks import JointCritic
from robustmarl.typing import Env

__all__ = ["M3DDPG", "MADDPG", "M3DDPGSettings", "MADDPGSettings"]


class MADDPGSettings(ActionGradientSettings, total=False):
    """Keywords of ``MADDPG.for_env``."""

    critic_input: CriticInput


class M3DDPGSettings(MADDPGSettings, total=False):
    """Keywords of ``M3DDPG.for_env``."""

    epsilon: float


class MADDPG(ActionGradients):
    r"""Multi-agent deterministic policy gradients [Lowe2017]_ with one critic of the team.

    .. math:: L_\mu = -\overline{Q(s, a_1, .., \mu^i(o^i), .., a_N)} + c_o \overline{l^2}

    with the other agents' actions as played, an average over living agents, too; for the rest see
    :class:`~robustmarl.algorithms.action_gradients.ActionGradients`, whose defaults of ``gamma``,
    ``tau`` and ``output_coef`` are the authors'.

    Args:
        critic_input: ``"state"``, or ``"seen"`` for all agents' observations.
        settings: of :class:`~robustmarl.algorithms.action_gradients.ActionGradients`; ``critic``
            is a :class:`~robustmarl.networks.JointCritic`.

    Example:
        >>> from functools import partial
        >>> from robustmarl import envs, evaluation
        >>> make = partial(envs.spread, agents=2, continuous_actions=True)
        >>> team = MADDPG.for_env(make(), seed=0)
        >>> evaluation.rollout(team, make, episodes=2).lengths
        array([25, 25])
    """

    kind_of_critic = JointCritic

    def __init__(self, *, critic_input: CriticInput = "state", **settings: Any) -> None:
        super().__init__(**settings)
        check_choice(f"{type(self).__name__}.critic_input", critic_input, ("seen", "state"))
        self.critic_input = critic_input

    @classmethod
    def for_env(cls, env: Env | TeamSpec, **settings: Unpack[MADDPGSettings]) -> Self:
        """Return MADDPG for ``env``; see :meth:`TeamAlgorithm.for_env`."""
        return cls._make(env, settings)

    @classmethod
    def _critic(
        cls, spec: TeamSpec, hidden: tuple[int, ...], settings: OpenSettings
    ) -> JointCritic:
        reads = settings.get("critic_input", "state")
        check_choice(f"{cls.__name__}.critic_input", reads, ("seen", "state"))
        reads_state = reads == "state"
        size = spec.joint_state_size if reads_state else spec.num_agents * spec.obs_size
        return JointCritic(size, spec.num_agents, spec.num_actions, hidden=hidden)

    def _reading(self, seen: Tensor, state: Tensor) -> Tensor:
        return seen.flatten(-2) if self.critic_input == "seen" else joint_state(state, self.spec)

    def _judged(self, chosen: Tensor, taken: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
        agents = self.spec.num_agents
        chooses = torch.eye(agents, dtype=torch.bool, device=chosen.device).unsqueeze(-1)
        return torch.where(chooses, chosen.unsqueeze(-3), taken.unsqueeze(-3)), alive


class M3DDPG(MADDPG):
    r"""Minimax MADDPG [Li2019]_: every agent learns for others that turn against it a little.

    .. math:: \hat a_j = a_j - \epsilon \frac{g_j}{\lVert g_j \rVert_2} \quad (j \ne i), \qquad
              g_j = \nabla_{a_j} Q(s, a)

    both in agent i's loss, on the online critic, and in N targets, on the target critic; the
    critic learns their mean. Own actions and those of the dead stay. The shifted vectors are no
    longer one-hot. With ``epsilon=0`` it is :class:`MADDPG`, bit for bit.

    Args:
        epsilon: length of the shift >= 0, in units of actions (one-hot, or half of the box); 1e-3
            is the authors' for opponents.
        settings: of :class:`MADDPG`.

    Example:
        >>> from functools import partial
        >>> from robustmarl import envs, evaluation
        >>> make = partial(envs.spread, agents=2, continuous_actions=True)
        >>> team = M3DDPG.for_env(make(), seed=0)
        >>> evaluation.rollout(team, make, episodes=2).lengths
        array([25, 25])
    """

    def __init__(self, *, epsilon: float = 1e-3, **settings: Any) -> None:
        super().__init__(**settings)
        self.epsilon = check_number(f"{type(self).__name__}.epsilon", epsilon, 0.0)

    @classmethod
    def for_env(cls, env: Env | TeamSpec, **settings: Unpack[M3DDPGSettings]) -> Self:
        """Return M3DDPG for ``env``; see :meth:`TeamAlgorithm.for_env`."""
        return cls._make(env, settings)

    def facing(
        self,
        critic: Callable[[Tensor, Tensor], Tensor],
        state: Tensor,
        joint: Tensor,
        alive: Tensor,
    ) -> Tensor:
        """Return them with the others' actions shifted, (..., N, N, A); see :class:`MADDPG`."""
        if self.epsilon == 0.0:
            return joint
        point = joint.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(critic(state, point).sum(), point)
        gradient = self.policy.without_padding(gradient)
        oneself = torch.eye(joint.shape[-2], dtype=torch.bool, device=joint.device)
        moved = ~oneself & alive.unsqueeze(-2)
        shift = self.epsilon * F.normalize(gradient, dim=-1)
        return joint - shift * moved.unsqueeze(-1)
