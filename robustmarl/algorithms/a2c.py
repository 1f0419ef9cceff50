"""A2C: independent advantage actor-critics, the opponents and prey of RoMFAC's tables."""

from __future__ import annotations

from typing import Self, Unpack

from tianshou.algorithm.optim import OptimizerFactory
from torch import Tensor

from robustmarl.algorithms.ippo import IPPO
from robustmarl.joint import TeamSpec
from robustmarl.learning.settings import TeamSettings
from robustmarl.learning.values import CriticInput, Reward
from robustmarl.networks import Critic
from robustmarl.policies.actor import ActorPolicy
from robustmarl.typing import Env

__all__ = ["A2C", "A2CSettings"]


class A2CSettings(TeamSettings, total=False):
    """Keywords of ``A2C.for_env``."""

    critic_hidden: tuple[int, ...]
    deterministic_eval: bool
    optim: OptimizerFactory | None
    gamma: float
    gae_lambda: float
    entropy_coef: float
    value_coef: float
    reward: Reward
    normalize_value: bool
    huber_delta: float | None
    max_grad_norm: float | None


class A2C(IPPO):
    r"""Advantage actor-critic [Mnih2016]_ with shared parameters; each agent's own reward.

    .. math:: L = -\overline{A \log\pi(a \mid o)} + c_v \overline{(V - G)^2} - c_e \overline{H}

    It is IPPO without the ratio of policies that PPO clips, and in the first step on fresh episodes
    its gradient is IPPO's. Advantages are standardised. Further passes over the same episodes
    (``repeat``) are no longer on-policy, and nothing corrects for it.

    Args:
        policy: the team's.
        critic: V(o, agent id).
        critic_input: what it reads.
        optim: optimizer factory for actor and critic together; None is Adam at 5e-4, eps 1e-5.
        gamma: discount in [0, 1]; this and the weights of values and entropies are those of the
            release of [Yang2018]_, whose actor-critic the opponents of the tables are.
        gae_lambda: in [0, 1]; 1 weighs actions by the returns of the whole episode.
        entropy_coef: :math:`c_e` >= 0.
        value_coef: :math:`c_v` >= 0.
        reward: ``"agents"`` for each agent's own, or ``"team"``.
        normalize_value: learn values in units of the returns' running spread.
        huber_delta: as of :class:`~robustmarl.algorithms.ppo_based.PPOBased`.
        max_grad_norm: global norm at which gradients are clipped, > 0, or None.
        seed: of the minibatches.

    Example:
        >>> from robustmarl import envs, training
        >>> team = A2C.for_env(envs.ToyGame(horizon=5), seed=0)
        >>> quiet = training.Log(progress=False)
        >>> history = training.run(team, lambda: envs.ToyGame(horizon=5), env_steps=100, log=quiet)
        >>> history.episodes, history.env_steps[-1]
        (20, 100)
    """

    def __init__(
        self,
        *,
        policy: ActorPolicy,
        critic: Critic,
        critic_input: CriticInput,
        optim: OptimizerFactory | None = None,
        gamma: float = 0.95,
        gae_lambda: float = 1.0,
        entropy_coef: float = 0.08,
        value_coef: float = 0.1,
        reward: Reward = "agents",
        normalize_value: bool = True,
        huber_delta: float | None = None,
        max_grad_norm: float | None = 5.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            policy=policy,
            critic=critic,
            critic_input=critic_input,
            optim=optim,
            gamma=gamma,
            gae_lambda=gae_lambda,
            entropy_coef=entropy_coef,
            value_coef=value_coef,
            reward=reward,
            normalize_value=normalize_value,
            huber_delta=huber_delta,
            max_grad_norm=max_grad_norm,
            seed=seed,
        )

    @classmethod
    def for_env(  # type: ignore[override]
        cls, env: Env | TeamSpec, **settings: Unpack[A2CSettings]
    ) -> Self:
        """Return A2C for ``env``; see :meth:`TeamAlgorithm.for_env`."""
        return cls._make(env, settings)

    def surrogate(self, logp: Tensor, logp_old: Tensor, advantage: Tensor) -> Tensor:
        """Return what the actor raises, per element."""
        return logp * advantage
