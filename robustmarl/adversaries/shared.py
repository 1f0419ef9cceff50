"""Adversaries that learn from the team's own advantages, turned: they need no critic."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping

import torch
from tianshou.algorithm.optim import OptimizerFactory
from torch import Tensor, nn

from robustmarl._checks import (
    check,
    check_function,
    check_int,
    check_kind,
    check_number,
    speaking_for,
)
from robustmarl.adversaries.base import Adversary, Sample
from robustmarl.adversaries.deployed import deployed_actor, deployed_policy
from robustmarl.adversaries.ppo import (
    Played,
    attacked_rows,
    byzantine_rows,
    played_as_byzantine,
    played_on_obs,
    ppo_steps,
)
from robustmarl.joint import JointBatch
from robustmarl.learning.optim import adam
from robustmarl.perturbers.byzantine import ByzantinePerturber
from robustmarl.perturbers.learned import GaussianObsAdversary, LearnedObsPerturber
from robustmarl.perturbers.types import TypeDistribution
from robustmarl.policies import ByzantinePolicy

__all__ = ["SharedAdvantage", "SharedByzantine", "SharedObsAdversary"]


class SharedAdvantage(Adversary):
    r"""PPO with :math:`\hat A = -A`, the team's advantage; see ``adversaries.ppo``.

    Args:
        learned: the actor.
        optim: its optimizer factory; None is Adam at 5e-4, eps 1e-5.
        clip: PPO's clip, > 0.
        entropy_coef: >= 0.
        epochs: its steps per pass of the team, >= 1.
        max_grad_norm: global norm at which gradients are clipped, > 0, or None.
    """

    needs = frozenset({"fresh", "advantage"})

    def __init__(
        self,
        learned: nn.Module,
        *,
        optim: OptimizerFactory | None,
        clip: float,
        entropy_coef: float,
        epochs: int,
        max_grad_norm: float | None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.clip = check_number(f"{name}.clip", clip, 0.0, open_low=True)
        self.entropy_coef = check_number(f"{name}.entropy_coef", entropy_coef, 0.0)
        self.epochs = check_int(f"{name}.epochs", epochs, 1)
        if max_grad_norm is not None:
            max_grad_norm = check_number(f"{name}.max_grad_norm", max_grad_norm, 0.0, open_low=True)
        self.optim = self.create_optimizer(learned, optim or adam(5e-4, 1e-5), max_grad_norm)

    @abstractmethod
    def rows(self, batch: JointBatch) -> Tensor:
        """Return the agent-steps that it played, bool (B, T, N)."""

    @abstractmethod
    def played(self, batch: JointBatch, rows: Tensor) -> Played:
        """Return what it did in ``rows``, bool (B, T, N)."""

    def learn(self, sample: Sample) -> Mapping[str, float]:
        """Learn from the newest episodes and the team's advantages over them."""
        batch, advantage = sample.fresh, sample.advantage
        if batch is None:
            return {}
        rule = "with the team's advantages, which a team trained by PPO has"
        where = f"{type(self).__name__}.learn.sample"
        check(advantage is not None, where, rule, advantage)
        assert advantage is not None
        rows, figures = self.rows(batch), {}
        if bool(rows.any()):
            figures = ppo_steps(
                self.played(batch, rows),
                -advantage[rows],
                steps=sample.epochs * self.epochs,
                clip=self.clip,
                entropy_coef=self.entropy_coef,
                step=self.optim.step,
            )
        self.step_schedulers()
        return figures


class SharedObsAdversary(SharedAdvantage):
    """RMAAC's noise actor [He2023]_: it perturbs what agents see.

    Args:
        actor: the attack it trains.
        agents: names of the attacked agents; None is all.
        optim: optimizer factory; None is Adam at 5e-4, eps 1e-5.
        clip: PPO's clip, > 0.
        entropy_coef: >= 0.
        epochs: its steps per pass of the team, >= 1.
        max_grad_norm: global norm at which gradients are clipped, > 0, or None.
    """

    takes_segments = True

    def __init__(
        self,
        actor: GaussianObsAdversary,
        *,
        agents: Collection[str] | None = None,
        optim: OptimizerFactory | None = None,
        clip: float = 0.2,
        entropy_coef: float = 0.01,
        epochs: int = 1,
        max_grad_norm: float | None = 10.0,
    ) -> None:
        where, rule = f"{type(self).__name__}.actor", "a GaussianObsAdversary"
        check_kind(where, actor, GaussianObsAdversary, rule)
        super().__init__(
            actor,
            optim=optim,
            clip=clip,
            entropy_coef=entropy_coef,
            epochs=epochs,
            max_grad_norm=max_grad_norm,
        )
        self.actor = actor
        with speaking_for(self, LearnedObsPerturber):
            self._perturber = LearnedObsPerturber(actor, agents=agents)

    def perturber(self) -> LearnedObsPerturber:
        """Return what plays while it learns: the sampling actor."""
        return self._perturber

    def deployed(self, greedy: bool | None = None) -> LearnedObsPerturber:
        """Return a copy of the actor at work: by its mean, or sampling if not ``greedy``."""
        return deployed_actor(self.actor, self._perturber.agents, greedy)

    def rows(self, batch: JointBatch) -> Tensor:
        """Return the agent-steps whose observation it attacked, bool (B, T, N)."""
        return attacked_rows(batch, self.recorded(batch))

    def played(self, batch: JointBatch, rows: Tensor) -> Played:
        """Return what it did in ``rows``, bool (B, T, N)."""
        return played_on_obs(self._perturber, batch, self.recorded(batch), rows)


class SharedByzantine(SharedAdvantage):
    """EIR-MAPPO's adversary [Li2024]_: it plays for Byzantine members of the team.

    Args:
        policy: what plays for them.
        types: who is Byzantine, and how often; ``"adaptive"`` begins with the returns that it is
            given, and uses those of the latest episodes that it learned from, which it remembers.
        p: the present probability of Byzantine agents in an episode; None is that of ``types``.
        optim: optimizer factory; None is Adam at 5e-4, eps 1e-5.
        clip: PPO's clip, > 0.
        entropy_coef: >= 0.
        epochs: its steps per pass of the team, >= 1.
        max_grad_norm: global norm at which gradients are clipped, > 0, or None.
    """

    type_returns: Tensor

    def __init__(
        self,
        policy: ByzantinePolicy,
        types: TypeDistribution,
        *,
        p: Callable[[], float] | None = None,
        optim: OptimizerFactory | None = None,
        clip: float = 0.2,
        entropy_coef: float = 0.01,
        epochs: int = 1,
        max_grad_norm: float | None = 10.0,
    ) -> None:
        name = type(self).__name__
        check_kind(f"{name}.policy", policy, ByzantinePolicy, "a ByzantinePolicy")
        check_kind(f"{name}.types", types, TypeDistribution, "a TypeDistribution")
        if p is not None:
            check_function(f"{name}.p", p, "a function that returns a probability, or None")
        super().__init__(
            policy,
            optim=optim,
            clip=clip,
            entropy_coef=entropy_coef,
            epochs=epochs,
            max_grad_norm=max_grad_norm,
        )
        self.policy, self.types, self._p = policy, copy.copy(types), p
        # infinite where none is known: a NaN would pass for a training that has diverged
        self.register_buffer("type_returns", types.known(policy.spec).clone())
        self._perturber = ByzantinePerturber(policy, types=self.present_types)

    def present_types(self) -> TypeDistribution:
        """Return who is Byzantine in the episodes that begin now."""
        p = self.types.p if self._p is None else self._p()
        return self.types.present(p, self.type_returns)

    def perturber(self) -> ByzantinePerturber:
        """Return what plays while it learns."""
        return self._perturber

    def deployed(self, greedy: bool | None = None) -> ByzantinePerturber:
        """Return a copy at work, by draws unless ``greedy``, with the types of training."""
        types = self.types.present(self.types.p, self.type_returns.clone())
        return deployed_policy(self.policy, types, greedy)

    def rows(self, batch: JointBatch) -> Tensor:
        """Return the agent-steps that it played, bool (B, T, N)."""
        return byzantine_rows(batch, self.recorded(batch))

    def played(self, batch: JointBatch, rows: Tensor) -> Played:
        """Return what it did in ``rows``, bool (B, T, N)."""
        return played_as_byzantine(self.policy, batch, self.recorded(batch), rows)

    def types_in(self, batch: JointBatch) -> Tensor:
        """Return who was Byzantine, bool (B, T, N); nobody where it did not play."""
        types = self.recorded(batch).get("types")
        return torch.zeros_like(batch.obs.alive[:, :-1]) if types is None else types

    def learn(self, sample: Sample) -> Mapping[str, float]:
        """Learn from the newest episodes, and remember what they returned."""
        figures = super().learn(sample)
        if sample.fresh is not None:
            self._note_returns(sample.fresh)
        return figures

    def _note_returns(self, batch: JointBatch) -> None:
        """Remember the team's return while each agent was Byzantine, where it was."""
        total = torch.where(batch.valid, batch.rew, 0.0).sum(dim=1)
        was = self.types_in(batch)[:, 0].to(total.dtype)
        mean = (was * total.unsqueeze(-1)).sum(dim=0) / was.sum(dim=0).clamp(min=1)
        self.type_returns.copy_(torch.where(was.sum(dim=0) > 0, mean, self.type_returns))
