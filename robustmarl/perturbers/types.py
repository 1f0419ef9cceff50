"""Who is Byzantine."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Literal, get_args

import torch
from torch import Tensor

from robustmarl._checks import (
    check,
    check_choice,
    check_int,
    check_names,
    check_number,
    check_tensor,
)
from robustmarl._seeding import Draws
from robustmarl.joint import TeamSpec

__all__ = ["Choice", "TypeDistribution"]

Choice = Literal["uniform", "fixed", "adaptive"]


class TypeDistribution:
    r"""Who is Byzantine: nobody with probability 1 - p, else 1 to k agents.

    The number is uniform in 1..k. Which agents, is drawn without replacement: uniformly, or by

    .. math:: p(j) \propto \exp(-R_j / c)

    with :math:`R_j` the last known return of the team while j was Byzantine, so that agents that
    hurt more are drawn more often; who was never Byzantine counts as the worst known, and so is
    tried. ``"fixed"`` takes all of ``agents`` at once.

    Args:
        p: probability that an episode has Byzantine agents, in [0, 1].
        choice: ``"uniform"``, ``"fixed"`` or ``"adaptive"``.
        agents: names among which is drawn; None is all.
        k: the most Byzantine agents in an episode, >= 1; ``"fixed"`` ignores it.
        scale: c > 0, in units of returns; small values come close to the arg-min.

    Raises:
        ValueError: for numbers out of range; when drawing, for unknown agents or k > N.

    Example:
        >>> from robustmarl import algorithms, envs, evaluation, perturbers
        >>> team = algorithms.QMIX.for_env(envs.ToyGame(), seed=0)
        >>> half = perturbers.ByzantinePerturber("random", types=TypeDistribution(0.5))
        >>> counters = evaluation.rollout(team, envs.ToyGame, episodes=50, perturb=half).counters
        >>> counters["0/byzantine_episodes"]
        22.0
    """

    def __init__(
        self,
        p: float = 0.5,
        *,
        choice: Choice = "uniform",
        agents: Collection[str] | None = None,
        k: int = 1,
        scale: float = 1.0,
    ) -> None:
        name = type(self).__name__
        self.p = check_number(f"{name}.p", p, 0.0, 1.0)
        check_choice(f"{name}.choice", choice, get_args(Choice))
        self.k = check_int(f"{name}.k", k, 1)
        self.scale = check_number(f"{name}.scale", scale, 0.0, open_low=True, unit="returns")
        if agents is not None:
            agents = check_names(f"{name}.agents", agents, agents)
            check(len(agents) > 0, f"{name}.agents", "at least one name, or None for all", agents)
        rule = "'uniform' or 'adaptive' without agents"
        check(choice != "fixed" or agents is not None, f"{name}.choice", rule, choice)
        self.choice, self.agents = choice, agents
        self.returns: Tensor | None = None

    def check_spec(self, spec: TeamSpec) -> tuple[int, ...]:
        """Return the indices among which is drawn.

        Raises:
            ValueError: if agents are unknown, or fewer than k.
        """
        name = type(self).__name__
        names = spec.agents if self.agents is None else self.agents
        names = check_names(f"{name}.agents", names, spec.agents)
        rule = f"at most {len(names)}, the agents to draw from"
        check(self.choice == "fixed" or self.k <= len(names), f"{name}.k", rule, self.k)
        return tuple(spec.agents.index(agent) for agent in names)

    def update(self, returns: Tensor) -> None:
        """Take the returns (N,) under an attack by each agent; NaN keeps what was known.

        Raises:
            TypeError: for what are no numbers.
            ValueError: unless there is one per agent, or as many as before; for infinite ones.
        """
        where = f"{type(self).__name__}.update.returns"
        try:
            new = torch.as_tensor(returns, dtype=torch.float32)
        except (TypeError, ValueError):
            rule = "one number per agent, (N,)"
            raise TypeError(f"{where} must be {rule}, got {returns!r}.") from None
        old = torch.full_like(new, torch.inf) if self.returns is None else self.returns
        good = new.dim() == 1 and new.shape == old.shape
        check(good, where, "one number per agent, (N,)", returns)
        check(not bool(new.isinf().any()), where, "finite, or NaN where unknown", returns)
        self.returns = torch.where(new.isnan(), old, new)

    def present(self, p: float, returns: Tensor | None) -> TypeDistribution:
        """Return the same with another probability, and with these returns (N,) known.

        Args:
            p: probability that an episode has Byzantine agents, in [0, 1].
            returns: of the team under an attack by each agent, infinite where unknown; None is
                nothing known.
        """
        twin = copy.copy(self)
        if returns is not None:
            check_tensor(f"{type(self).__name__}.returns", returns)
        twin.p, twin.returns = check_number(f"{type(self).__name__}.p", p, 0.0, 1.0), returns
        return twin

    def known(self, spec: TeamSpec) -> Tensor:
        """Return the returns under an attack by each agent, (N,), infinite where unknown.

        Raises:
            ValueError: unless there is one per agent.
        """
        if self.returns is None:
            return torch.full((spec.num_agents,), torch.inf)
        size, where = len(self.returns), f"{type(self).__name__}.returns"
        rule = f"{spec.num_agents} numbers, one per agent"
        check(size == spec.num_agents, where, rule, size)
        return self.returns

    def weights(self, spec: TeamSpec) -> Tensor:
        """Return the probability that each agent is drawn first, (N,)."""
        return torch.softmax(self._logits(spec), dim=0)

    def _logits(self, spec: TeamSpec) -> Tensor:
        """Return the logarithms of :meth:`weights` but for a constant, -inf for who never is."""
        rows = list(self.check_spec(spec))
        logits = torch.full((spec.num_agents,), -torch.inf)
        logits[rows] = 0.0
        if self.choice == "adaptive":
            returns = self.known(spec).cpu().to(logits)[rows]
            finite = returns.isfinite()
            if bool(finite.any()):
                worst = returns[finite].min()
                logits[rows] = -torch.where(finite, returns, worst) / self.scale
        return logits

    def sample(self, spec: TeamSpec, draws: Draws) -> Tensor:
        """Return types, bool (E, N), one row per key of ``draws``."""
        # Logarithms: probabilities of agents that hurt much less than another are zeros in single
        # precision, but if several are drawn, it is from them.
        log_weights = self._logits(spec).log_softmax(dim=0).to(draws.keys.device)
        eligible = log_weights > -torch.inf
        uniform = draws.uniform(2 + spec.num_agents)
        chance, number, order = uniform.split([1, 1, spec.num_agents], dim=1)
        most = int(eligible.sum()) if self.choice == "fixed" else self.k
        count = torch.full_like(number, most) if self.choice == "fixed" else 1 + number * most
        # The largest of log w - log(-log u) are a draw without replacement (Gumbel). Draws are
        # multiples of 2^-23: half of one stands for 0, whose logarithm is infinite.
        score = log_weights - (-order.clamp(min=2.0**-24).log()).log()
        rank = score.argsort(dim=1, descending=True).argsort(dim=1)
        return (rank < count.floor()) & (chance < self.p) & eligible

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(p={self.p}, choice={self.choice!r}, agents={self.agents}, "
            f"k={self.k})"
        )
