"""RMAAC's training: MAPPO beside a noise actor that learns from the same advantages."""

from __future__ import annotations

from typing import Any, Self, Unpack

import torch
from tianshou.algorithm.optim import OptimizerFactory

from robustmarl.adversaries import Sample, SharedObsAdversary
from robustmarl.algorithms.mappo import MAPPO
from robustmarl.algorithms.ppo_based import CriticParts
from robustmarl.budgets import LinfBall
from robustmarl.joint import JointBatch, TeamSpec
from robustmarl.learning.base import TeamTrainingStats
from robustmarl.learning.settings import OpenSettings, PPOSettings
from robustmarl.perturbers.base import Perturber
from robustmarl.perturbers.learned import GaussianObsAdversary
from robustmarl.typing import Env

__all__ = ["RMAAC", "RMAACSettings"]


class RMAACSettings(PPOSettings, total=False):
    """Keywords of ``RMAAC.for_env``."""

    ball: LinfBall
    noise_hidden: tuple[int, ...]
    noise_optim: OptimizerFactory | None


class _Parts(CriticParts):
    noise: GaussianObsAdversary


class RMAAC(MAPPO):
    r"""MAPPO that learns under an adversary's Gaussian noise on observations [He2023]_.

    .. math:: \hat o^i = o^i + \epsilon\,\mathrm{clip}(n^i, -1, 1), \qquad
              n^i \sim N(\mu(o^i), \sigma^2), \quad \sigma = \tfrac12 \mathrm{sigmoid}(\lambda)

    One noise actor perturbs all agents in training, by ``training.run``; in evaluation the team
    sees clean observations. Both learn by PPO from the team's advantages A, the noise actor from
    -A, so that it needs no critic. With a ball of radius 0 it is :class:`MAPPO`, bit for bit.

    ``for_env`` also takes ``ball`` (radius 0.5 without limits) and ``noise_hidden`` (the actor's
    widths).

    Args:
        noise: the noise actor.
        noise_optim: its optimizer factory; None is Adam at 5e-4, eps 1e-5.
        settings: of :class:`PPOBased`; clip and entropy weight are the noise actor's, too.

    Example:
        >>> from robustmarl import envs, training
        >>> team = RMAAC.for_env(envs.ToyGame(horizon=5), seed=0)
        >>> quiet = training.Log(progress=False)
        >>> history = training.run(team, lambda: envs.ToyGame(horizon=5), env_steps=100, log=quiet)
        >>> history.episodes, history.env_steps[-1]
        (20, 100)
    """

    def __init__(
        self,
        *,
        noise: GaussianObsAdversary,
        noise_optim: OptimizerFactory | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.adversary = SharedObsAdversary(
            noise,
            optim=noise_optim,
            clip=self.clip,
            entropy_coef=self.entropy_coef,
            max_grad_norm=self._max_grad_norm,
        )

    @classmethod
    def for_env(cls, env: Env | TeamSpec, **settings: Unpack[RMAACSettings]) -> Self:
        """Return RMAAC for ``env``; see :meth:`TeamAlgorithm.for_env`."""
        return cls._make(env, settings)

    @classmethod
    def _critic(cls, spec: TeamSpec, settings: OpenSettings, hidden: tuple[int, ...]) -> _Parts:
        critic = super()._critic(spec, settings, hidden)
        noise = GaussianObsAdversary(
            settings.pop("ball", LinfBall(epsilon=0.5)),
            spec.obs_size,
            hidden=settings.pop("noise_hidden", hidden),
            max_std=0.5,
            seed=int(torch.randint(2**31, ())),  # of for_env's stream, after MAPPO's own draws
        )
        return {**critic, "noise": noise}

    def perturbers(self) -> list[Perturber]:
        """Return what ``training.run`` adds to the perturbations: the sampling noise actor."""
        return [self.adversary.perturber()]

    def learn(self, batch: JointBatch, minibatch: int | None, epochs: int) -> TeamTrainingStats:
        """Learn from one round's episodes; see :class:`~robustmarl.learning.OnPolicyTeam`."""
        with torch.no_grad():
            raw, returns = self.advantages(batch)
            advantage = self.standardized(batch, raw)
        stats = self.learn_from(batch, raw, returns, minibatch, epochs)
        sample = Sample(fresh=batch, drawn=batch, advantage=advantage, epochs=epochs)
        figures = self.adversary.learn(sample)
        stats.metrics.update({f"adversary/{name}": value for name, value in figures.items()})
        return stats
