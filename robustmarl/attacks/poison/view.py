"""What a white-box poisoner knows of the attacked steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from robustmarl._seeding import Draws, inverse
from robustmarl.joint import StepContext
from robustmarl.networks import Agents, SeparateAgents
from robustmarl.networks.calculus.scores import (
    ActorJacobian,
    Scope,
    SeparateJacobian,
    linearize,
)

__all__ = ["Outcomes", "PoisonView"]

AdvantageFn = Callable[[StepContext, Tensor, Tensor], Tensor]
"""Maps (context of R steps, logits (R, N, A), joint actions (K, R, N)) to (K, R, N, A)."""


@dataclass(frozen=True)
class Outcomes:
    """Joint actions of N agents: K alternatives of the others by each action of the attacked one.

    Attributes:
        joint: int64 (R, K, A, N).
        taken: every agent's advantage of its action there, (R, K, A, N).
        chance: how likely the others' alternatives are, (R, K); rows sum to 1.
    """

    joint: Tensor
    taken: Tensor
    chance: Tensor


@lru_cache(maxsize=32)
def _joint_tables(num_agents: int, size: int, agent: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return all joint actions of N agents, and how to know all values from few of them.

    An agent's values depend on what the others do. Joint actions whose indices sum to 0 modulo
    ``size`` have every choice of any N - 1 agents once, so they suffice for all N agents.

    Returns:
        joint actions (K, A, N), K alternatives of the others by each action of ``agent``; those
        that suffice, (K, N); where in their values, flat (K, N, A), each agent's is, (K, A, N);
        and where in the flat policies (N, A) the others' actions are, (K, N - 1).
    """
    agents, others = torch.arange(num_agents), [i for i in range(num_agents) if i != agent]
    place = size ** torch.arange(num_agents - 2, -1, -1)  # values of digits to base `size`
    free = torch.arange(size ** (num_agents - 1)).unsqueeze(1) // place % size
    sufficient = torch.cat([free, (-free.sum(1, keepdim=True)) % size], dim=1)
    joint = torch.empty(len(free), size, num_agents, dtype=torch.int64)
    joint[..., others] = free.unsqueeze(1)
    joint[..., agent] = torch.arange(size)
    # Agent i finds its values at the sufficient one that differs in i's own index only.
    lookup = joint.unsqueeze(-2).repeat(1, 1, num_agents, 1)
    lookup[..., agents, agents] = (joint - joint.sum(-1, keepdim=True)) % size
    row = (lookup[..., :-1] * place).sum(-1)
    entry = (row * num_agents + agents) * size + joint
    return joint, sufficient, entry, torch.tensor(others, dtype=torch.int64) * size + free


class PoisonView:
    """R attacked steps of one agent, and what a white-box adversary knows of them.

    Everything is computed when first asked for.

    Attributes:
        logits: of all N agents, (R, N, A), about -1e9 where unavailable.
        policies: their softmax.
        agent: index of the attacked one.
        mask: its available actions, bool (R, A).
        additive: whether an agent's advantages depend on its own action only.

    Args:
        network: the team's actor, or one per agent; logits are a multiple of its outputs. None is
            one that cannot be looked into.
        context: R steps.
        logits: (R, N, A).
        agent: index of the attacked one.
        draws: makes R rows of random numbers, when first asked.
        advantage: advantages, or values, of every own action given joint actions.
        additive: whether they ignore the others' actions.
        side: further inputs of the network with which it acted, (R, N, ...) each.
    """

    def __init__(
        self,
        network: Agents | None,
        context: StepContext,
        logits: Tensor,
        agent: int,
        draws: Callable[[], Draws],
        advantage: AdvantageFn | None,
        additive: bool,
        side: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.logits, self.agent, self.additive = logits, agent, additive
        self.policies = torch.softmax(logits, dim=-1)
        self.mask = context.mask[:, agent]
        self._network, self._context, self._advantage = network, context, advantage
        self._draws, self._side = draws, side or {}
        self._jacobians: dict[Scope, ActorJacobian | SeparateJacobian] = {}
        self._attacked: dict[Scope, ActorJacobian] = {}

    @property
    def policy(self) -> Tensor:
        """The attacked agent's policy, (R, A)."""
        return self.policies[:, self.agent]

    @cached_property
    def draws(self) -> Draws:
        """R rows of random numbers."""
        return self._draws()

    @property
    def others(self) -> list[int]:
        """Indices of the other agents."""
        return [i for i in range(self.logits.shape[1]) if i != self.agent]

    @property
    def shared(self) -> bool:
        """Whether agents share parameters; if not, their gradients are orthogonal."""
        return not isinstance(self._network, SeparateAgents)

    @property
    def has_gradient(self) -> bool:
        """Whether the actor was updated yet."""
        return any(weight.grad is not None for weight in self._actor().parameters())

    def advantages(self, act: Tensor) -> Tensor:
        """Return advantages of every own action, (K, R, N, A), given joint actions (K, R, N)."""
        if self._advantage is None:
            raise TypeError("PoisonView.advantages must be given by a learner, got None.")
        values = self._advantage(self._context, self.logits, act)
        # Unavailable actions have no probability, but their values might be inf or nan.
        values = values.masked_fill(~self._context.mask, 0.0)
        return values - (self.policies * values).sum(-1, keepdim=True)

    @cached_property
    def own_advantages(self) -> Tensor:
        """Advantages of all agents' own actions where they are additive, (R, N, A)."""
        anything = torch.zeros_like(self._context.alive, dtype=torch.int64)
        return self.advantages(anything.unsqueeze(0))[0]

    def jacobian(self, scope: Scope) -> ActorJacobian | SeparateJacobian:
        """Return all agents' d logits / d parameters, (R, N) rows."""
        if scope not in self._jacobians:
            self._jacobians[scope] = self._linearize(scope, slice(None))
        return self._jacobians[scope]

    def attacked_jacobian(self, scope: Scope) -> ActorJacobian:
        """Return the attacked agent's, (R, 1) rows."""
        if scope not in self._attacked:
            jacobian = self._jacobians.get(scope)
            if isinstance(jacobian, ActorJacobian):
                self._attacked[scope] = jacobian.agents((self.agent,))
            else:
                alone = self._linearize(scope, slice(self.agent, self.agent + 1))
                self._attacked[scope] = (
                    alone if isinstance(alone, ActorJacobian) else alone.parts[0]
                )
        return self._attacked[scope]

    def outcomes(self, samples: int) -> Outcomes:
        """Return what the others may do beside each action of the attacked agent.

        All of it, each once, where a critic looks at no more joint actions for that than for
        ``samples`` draws; else that many draws.
        """
        rows, num_agents, size = self.policies.shape
        if size ** (num_agents - 1) > samples * size:
            joint = self.sample_others(samples)
            values = self.advantages(joint.flatten(0, 1)).view(*joint.shape, size)
            taken = values.gather(-1, joint.unsqueeze(-1)).squeeze(-1)
            chance = taken.new_full((rows, samples), 1.0 / samples)
            return Outcomes(joint.permute(2, 0, 1, 3), taken.permute(2, 0, 1, 3), chance)
        tables = _joint_tables(num_agents, size, self.agent)
        joint, sufficient, entry, other = (table.to(self.logits.device) for table in tables)
        values = self.advantages(sufficient.unsqueeze(1).expand(-1, rows, -1))
        taken = values.transpose(0, 1).flatten(1)[:, entry]
        chance = self.policies.flatten(1)[:, other].prod(-1)
        return Outcomes(joint.expand(rows, -1, -1, -1), taken, chance)

    def sample_others(self, samples: int) -> Tensor:
        """Return joint actions (K, A, R, N): K draws of the others by each of one's actions."""
        rows, num_agents, size = self.policies.shape
        points = self.draws.uniform(samples * num_agents).view(rows, samples, num_agents)
        drawn = inverse(self.policies, points.transpose(0, 1))
        joint = drawn.unsqueeze(1).repeat(1, size, 1, 1)
        joint[..., self.agent] = torch.arange(size, device=joint.device)[:, None]
        return joint

    def _actor(self) -> Agents:
        """Return the network, if there is one to look into."""
        if self._network is None:
            raise TypeError(
                "PoisonView's gradients must be asked of a robustmarl algorithm only: networks "
                "from elsewhere are not looked into. Use its logits, policies and advantages."
            )
        return self._network

    def _linearize(self, scope: Scope, agents: slice) -> ActorJacobian | SeparateJacobian:
        """Return the Jacobian of the logits of these agents."""
        context = self._context
        seen = context.seen[:, agents]
        return linearize(
            self._actor(),
            seen,
            torch.arange(*agents.indices(self.logits.shape[1])[:2], device=seen.device),
            context.last_act[:, agents],
            None if context.hidden is None else context.hidden[:, agents],
            scope,
            {name: values[:, agents] for name, values in self._side.items()},
        )
