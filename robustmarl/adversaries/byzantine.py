"""The non-oblivious attack: traitors trained against one team."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Self

import torch
from tianshou.algorithm.optim import OptimizerFactory
from torch import Tensor

from robustmarl._checks import (
    check,
    check_choice,
    check_flag,
    check_int,
    check_kind,
    check_number,
    speaking_for,
)
from robustmarl._seeding import seeded
from robustmarl.adversaries.base import Adversary, Sample
from robustmarl.adversaries.deployed import deployed_policy
from robustmarl.adversaries.ppo import byzantine_rows, played_as_byzantine, ppo_steps
from robustmarl.learning import TeamAlgorithm
from robustmarl.learning.optim import adam
from robustmarl.learning.returns import standardize
from robustmarl.learning.settings import check_settings
from robustmarl.learning.values import Reward, Valuation, state_critic
from robustmarl.networks import Critic
from robustmarl.networks.layers import check_widths
from robustmarl.networks.normalizer import ValueNormalizer
from robustmarl.perturbers.byzantine import ByzantinePerturber
from robustmarl.perturbers.types import Choice, TypeDistribution
from robustmarl.policies import ByzantinePolicy, TeamPolicy

__all__ = ["ByzantineAttacker"]


class ByzantineAttacker(Adversary):
    r"""Learns to play for Byzantine members of a team: the non-oblivious attack [Li2024]_.

    PPO with :math:`\hat A = -A` on the Byzantine agents' steps, A by a critic of its own that
    values the team's reward, standardised over these steps; see ``adversaries.ppo``. Make it by
    :meth:`against` and train it with ``AdversarialTraining(team, attacker, team_every=None)``;
    ``attacker.policy`` then plays in a :class:`~robustmarl.perturbers.ByzantinePerturber` against
    any team with the same spaces. Evaluated by draws, unless ``deployed(greedy=True)``.

    Args:
        policy: what learns.
        critic: values of the team's state.
        types: whose actions it plays.
        optim: optimizer factory of the policy; None is Adam at 5e-4, eps 1e-5.
        critic_optim: of the critic, likewise.
        gamma: discount in [0, 1].
        gae_lambda: in [0, 1].
        clip: PPO's clip, > 0.
        entropy_coef: >= 0.
        value_coef: >= 0, weight of the critic's loss.
        reward: ``"team"``, or ``"agents"``: each Byzantine agent harms itself.
        normalize_value: learn values in units of the returns' running spread.
        huber_delta: error from which on the critic's loss grows linearly, or None.
        epochs: passes over a round's episodes, >= 1; None takes as many as the team does.
        max_grad_norm: global norm at which gradients are clipped, > 0, or None.

    Example:
        >>> from robustmarl import algorithms, envs, training
        >>> team = algorithms.MAPPO.for_env(envs.ToyGame(horizon=5), seed=0)
        >>> attacker = ByzantineAttacker.against(team, ["agent_0"])
        >>> attack = training.AdversarialTraining(team, attacker, team_every=None)
        >>> quiet = training.Log(progress=False)
        >>> training.run(attack, lambda: envs.ToyGame(horizon=5), env_steps=100, log=quiet).episodes
        20
    """

    takes_segments = True

    def __init__(
        self,
        policy: ByzantinePolicy,
        critic: Critic,
        *,
        types: TypeDistribution,
        optim: OptimizerFactory | None = None,
        critic_optim: OptimizerFactory | None = None,
        gamma: float = 0.95,
        gae_lambda: float = 0.95,
        clip: float = 0.05,
        entropy_coef: float = 0.01,
        value_coef: float = 1.0,
        reward: Reward = "team",
        normalize_value: bool = True,
        huber_delta: float | None = None,
        epochs: int | None = None,
        max_grad_norm: float | None = 10.0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_kind(f"{name}.policy", policy, ByzantinePolicy, "a ByzantinePolicy")
        check_kind(f"{name}.critic", critic, Critic, "a Critic")
        check_kind(f"{name}.types", types, TypeDistribution, "a TypeDistribution")
        normalize_value = check_flag(f"{name}.normalize_value", normalize_value)
        types.check_spec(policy.spec)
        check_choice(f"{name}.reward", reward, ("team", "agents"))
        if huber_delta is not None:
            check_number(f"{name}.huber_delta", huber_delta, 0.0, open_low=True)
        self.policy, self.critic, self.types = policy, critic, types
        self.clip = check_number(f"{name}.clip", clip, 0.0, open_low=True)
        self.entropy_coef = check_number(f"{name}.entropy_coef", entropy_coef, 0.0)
        self.value_coef = check_number(f"{name}.value_coef", value_coef, 0.0)
        self.epochs = None if epochs is None else check_int(f"{name}.epochs", epochs, 1)
        self.normalizer = ValueNormalizer() if normalize_value else None
        self.valuation = Valuation(
            critic=critic,
            normalizer=self.normalizer,
            critic_input="state",
            reward=reward,
            gamma=check_number(f"{name}.gamma", gamma, 0.0, 1.0),
            gae_lambda=check_number(f"{name}.gae_lambda", gae_lambda, 0.0, 1.0),
            huber_delta=huber_delta,
        )
        self._perturber = ByzantinePerturber(policy, types=types)
        default = adam(5e-4, 1e-5)
        self.optim = self.create_optimizer(policy, optim or default, max_grad_norm)
        self.critic_optim = self.create_optimizer(critic, critic_optim or default, max_grad_norm)

    @classmethod
    def against(
        cls,
        victim: TeamAlgorithm | TeamPolicy,
        agents: Collection[str] | None = None,
        *,
        sees_actions: bool = False,
        hidden: tuple[int, ...] = (128, 128, 128),
        seed: int = 0,
        **settings: Any,
    ) -> Self:
        """Return an untrained attacker of ``victim``, a robustmarl algorithm or policy.

        Args:
            victim: the team, of which sizes and device are read.
            agents: the Byzantine agents, all of them in every episode; None draws one anew.
            sees_actions: whether it sees what the others are about to do.
            hidden: widths of policy and critic.
            seed: of the initial weights; torch's global generator is left as it was.
            settings: of the class.

        Raises:
            TypeError: if ``victim`` is no team of ours, or the seed is no int.
            ValueError: for unknown agents, or a negative seed.
        """
        name, rule = cls.__name__, "a robustmarl algorithm or policy"
        check_settings(cls, settings, method="against")
        check_kind(f"{name}.victim", victim, TeamAlgorithm | TeamPolicy, rule)
        seed = check_int(f"{name}.seed", seed, 0)
        hidden = check_widths(f"{name}.hidden", hidden)
        sees_actions = check_flag(f"{name}.sees_actions", sees_actions)
        check_choice(f"{name}.reward", settings.get("reward", "team"), ("team", "agents"))
        spec = victim.spec
        choice: Choice = "uniform" if agents is None else "fixed"
        with speaking_for(name, TypeDistribution):
            types = TypeDistribution(1.0, choice=choice, agents=agents)
            types.check_spec(spec)
        with seeded(seed, "weights"):
            critic = state_critic(spec, settings.get("reward", "team"), hidden)
        policy = ByzantinePolicy(spec, sees_actions=sees_actions, hidden=hidden, seed=seed)
        return cls(policy, critic, types=types, **settings).to(victim.device)

    def perturber(self) -> ByzantinePerturber:
        """Return what plays while it learns."""
        return self._perturber

    def deployed(self, greedy: bool | None = None) -> ByzantinePerturber:
        """Return a copy at work, by draws unless ``greedy``, for the same agents."""
        return deployed_policy(self.policy, self.types, greedy)

    def learn(self, sample: Sample) -> Mapping[str, float]:
        """Learn from the newest episodes; see the class."""
        batch = sample.fresh
        if batch is None:
            return {}
        record, where = self.recorded(batch), f"{type(self).__name__}.learn.sample"
        remedy = "Collect with the adversary's own perturber()."
        check("logp" in record, where, "of episodes that it played in", "others", remedy)
        steps = sample.epochs if self.epochs is None else self.epochs
        rows, figures = byzantine_rows(batch, record), {}
        with torch.no_grad():
            of_team, returns = self.valuation.advantages(batch)
            advantage = -standardize(of_team.expand(rows.shape), rows)[rows]
        if bool(rows.any()):
            figures = ppo_steps(
                played_as_byzantine(self.policy, batch, record, rows),
                advantage,
                steps=steps,
                clip=self.clip,
                entropy_coef=self.entropy_coef,
                step=self.optim.step,
            )
        valued = self.valuation.rows(batch, returns)
        loss = self.valuation.fit(batch, returns, valued, self._step_critic, steps)
        figures["value_loss"] = loss
        self.step_schedulers()
        return figures

    def _step_critic(self, loss: Tensor) -> None:
        self.critic_optim.step(self.value_coef * loss)
