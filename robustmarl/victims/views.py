"""Networks, functions and policies of other libraries as victims."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.multiagent.marl import MultiAgentPolicy
from torch import Tensor, nn

from robustmarl._checks import (
    check,
    check_flag,
    check_function,
    check_has,
    check_kind,
    check_names,
    check_usable,
)
from robustmarl.joint import MASKED, StepContext
from robustmarl.networks import SeparateAgents, TeamNetwork
from robustmarl.networks.calculus import InputGradient, Plan, SignSteps
from robustmarl.typing import Unit
from robustmarl.victims._modes import EvaluationMode
from robustmarl.victims._view import View
from robustmarl.victims.baselines import BaselinesReading, is_baselines
from robustmarl.victims.protocol import UNBOUND, Rows, Victim, VictimLike, VictimView
from robustmarl.victims.readings import Reading, reading_of

__all__ = ["FunctionVictim", "MembersVictim", "NetworkVictim", "PolicyVictim", "as_victim"]


class FunctionVictim:
    """A victim from any function of observations, shared by all agents.

    A module answers in evaluation mode whatever mode it is in, and is shown observations in the
    dtype of its weights.

    Args:
        function: maps (M, D) to logits or means (M, A); an ``nn.Module`` or a callable.
        continuous: whether its outputs are means.
        device: where it expects its input; None is where a module's weights are, else the CPU.

    Example:
        >>> view = FunctionVictim(lambda obs: 2.0 * obs).at()
        >>> view.logits(torch.tensor([[1.0, 3.0]]))
        tensor([[2., 6.]])
    """

    hidden_size = 0
    agents: tuple[str, ...] | None = None
    obs_size: int | None = None
    num_actions: int | None = None
    acting_only = False

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        *,
        continuous: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        check_function("FunctionVictim.function", function, "a function of observations (M, D)")
        self.function = function
        self.continuous = check_flag("FunctionVictim.continuous", continuous)
        module = function if isinstance(function, nn.Module) else None
        first = None if module is None else next(module.parameters(), None)
        if device is None:
            device = "cpu" if first is None else first.device
        self.device = check_usable("FunctionVictim.device", device)
        plan = None if module is None else Plan.of(module)
        self._plain, self._steps = InputGradient.of(plan), SignSteps.of(plan)
        self._mode = EvaluationMode(module) if module is not None and plan is None else None

    def side(self, context: StepContext) -> Mapping[str, Tensor]:
        """Return nothing: a function has no further inputs."""
        return {}

    def at(self, rows: Rows = UNBOUND) -> VictimView:
        """Return the view of M rows; only their masks matter here."""
        return View(
            self.function,
            rows,
            continuous=self.continuous,
            name=getattr(self.function, "__name__", type(self.function).__name__),
            plain=self._plain,
            steps=self._steps,
            mode=self._mode,
            dtype=_weights_dtype(self.function),
        )


class NetworkVictim:
    """A team's agent network as a victim: ids, last actions and memory included.

    Args:
        network: its agents, such as ``networks.AgentNetwork``.
        continuous: whether its outputs are means.
        agents: names of its agents in its own order, None where it does not know them.
        side: its further inputs in a tick, as its policy works them out; None is none.
        acting_only: whether ``side`` needs the memory of the policy that acts.
        counted: how many updates, episodes or steps the policy was trained on so far; None where
            nobody counts.

    Example:
        >>> import torch
        >>> from robustmarl.networks import AgentNetwork
        >>> victim = NetworkVictim(AgentNetwork(3, 4, 2), continuous=False)
        >>> victim.at(Rows(agents=torch.tensor([0, 1]))).logits(torch.zeros(2, 3)).shape
        torch.Size([2, 2])
    """

    def __init__(
        self,
        network: TeamNetwork,
        *,
        continuous: bool,
        agents: tuple[str, ...] | None = None,
        side: Callable[[StepContext], Mapping[str, Tensor]] | None = None,
        acting_only: bool = False,
        counted: Callable[[Unit], int] | None = None,
    ) -> None:
        rule = "a team's network, such as networks.AgentNetwork"
        check_has("NetworkVictim.network", network, ("plan", "extra", "step", "parameters"), rule)
        if side is not None:
            check_function("NetworkVictim.side", side, "a function of a StepContext, or None")
        if agents is not None:
            agents = check_names("NetworkVictim.agents", agents, agents)
            check(len(agents) > 0, "NetworkVictim.agents", "at least one name, or None", agents)
        self.network, self.agents, self.counted = network, agents, counted
        self.continuous = check_flag("NetworkVictim.continuous", continuous)
        self.acting_only = check_flag("NetworkVictim.acting_only", acting_only)
        plan = network.plan()
        self._plain, self._side = InputGradient.of(plan), side
        self._steps = SignSteps.of(*_plans_of(network, plan))
        # what a plan can tell of does not depend on its mode
        module = network if plan is None and isinstance(network, nn.Module) else None
        self._mode = None if module is None else EvaluationMode(module)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    @property
    def hidden_size(self) -> int:
        """H, 0 without memory."""
        return self.network.hidden_size

    @property
    def obs_size(self) -> int:
        """D, the size of the observations it acts on."""
        return self.network.obs_size

    @property
    def num_actions(self) -> int:
        """A, the size of its outputs."""
        return self.network.num_actions

    def side(self, context: StepContext) -> Mapping[str, Tensor]:
        """Return its policy's further inputs, (E, N, ...) each."""
        return {} if self._side is None else self._side(context)

    def at(self, rows: Rows = UNBOUND) -> VictimView:
        """Return the view of M rows."""
        extra = self.network.extra(rows.agents, rows.last_act, rows.side)

        def output(obs: Tensor) -> Tensor:
            return self.network.step(obs, extra, rows.hidden)[0]

        def advance(obs: Tensor) -> Tensor | None:
            return self.network.step(obs, extra, rows.hidden)[1]

        return View(
            output,
            rows,
            continuous=self.continuous,
            name=type(self.network).__name__,
            plain=self._plain,
            steps=self._steps,
            extra=None if extra.added is None else extra.added.detach(),
            advance=advance if self.hidden_size else None,
            mode=self._mode,
        )


class PolicyVictim:
    """A Tianshou policy or algorithm, or a Stable-Baselines3 model, shared by all agents.

    Logits are Q-values (expectations, if distributional) or log-probabilities of the policy's own
    distribution; means are bounded and scaled as the policy does it. Recurrent policies remember
    what was shown. It answers in evaluation mode, without exploration: noisy networks by their
    means.

    Args:
        policy: a policy with ``model`` (Q-learning) or ``actor`` (actor-critic), an algorithm that
            holds one, or a model with ``predict`` and ``policy``.

    Raises:
        TypeError: if it is neither, or cannot be differentiated; the text names it.

    Example:
        >>> from gymnasium.spaces import Discrete
        >>> from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
        >>> from tianshou.utils.net.common import Net
        >>> network = Net(state_shape=3, action_shape=2)
        >>> policy = DiscreteQLearningPolicy(model=network, action_space=Discrete(2))
        >>> PolicyVictim(policy).at().logits(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """

    agents: tuple[str, ...] | None = None
    acting_only = False

    def __init__(self, policy: Any) -> None:
        self.reading: Reading | BaselinesReading
        if is_baselines(policy):
            self.policy, self.reading = policy, BaselinesReading(policy)
        else:
            self.policy = getattr(policy, "policy", policy)
            self.reading = reading_of(self.policy)
        self.continuous = self.reading.continuous
        self.obs_size, self.num_actions = self.reading.obs_size, self.reading.num_actions
        self.hidden_size = 0 if self.reading.memory is None else self.reading.memory.size
        self._mode = EvaluationMode(self.reading.network)

    @property
    def has_distribution(self) -> bool:
        """Whether it is an actor of discrete actions, whose logits are of its distribution."""
        return not self.continuous and isinstance(self.policy, ProbabilisticActorPolicy)

    @property
    def stochastic(self) -> bool:
        """Whether it draws from its distribution over discrete actions even in evaluation."""
        return not self.continuous and not getattr(self.policy, "deterministic_eval", True)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.reading.network.parameters()).device

    def side(self, context: StepContext) -> Mapping[str, Tensor]:
        """Return nothing: it has no further inputs."""
        return {}

    def at(self, rows: Rows = UNBOUND) -> VictimView:
        """Return the view of M rows; only masks and memory matter here."""
        reading, hidden = self.reading, rows.hidden

        def output(obs: Tensor) -> Tensor:
            return reading(obs, hidden)[0]

        def advance(obs: Tensor) -> Tensor | None:
            return reading(obs, hidden)[1]

        return View(
            output,
            rows,
            continuous=self.continuous,
            name=type(self.policy).__name__,
            advance=advance if self.hidden_size else None,
            mode=self._mode,
            dtype=_weights_dtype(reading.network),
        )


class MembersVictim:
    """Several policies as one victim, one per agent: Tianshou's ``MultiAgentPolicy``.

    Args:
        policies: name of an agent to whatever :func:`as_victim` takes. Those that state their
            observation and action space are shown as much of a row.

    Raises:
        ValueError: if there are none, or some are continuous and others are not.

    Example:
        >>> import torch
        >>> from robustmarl.victims import Rows
        >>> team = MembersVictim({"first": lambda obs: obs, "second": lambda obs: -obs})
        >>> team.at(Rows(agents=torch.tensor([0, 1]))).logits(torch.ones(2, 2))
        tensor([[ 1.,  1.],
                [-1., -1.]])
    """

    acting_only = False
    obs_size: int | None = None

    def __init__(self, policies: Mapping[Any, Any]) -> None:
        check_kind("MembersVictim.policies", policies, Mapping, "a mapping from agents")
        check(len(policies) > 0, "MembersVictim.policies", "one per agent", policies)
        self.agents: tuple[str, ...] | None = tuple(str(name) for name in policies)
        self.members = [
            as_victim(f"MembersVictim.policies[{name!r}]", policy)
            for name, policy in policies.items()
        ]
        self.continuous = self.members[0].continuous
        alike = all(member.continuous == self.continuous for member in self.members)
        rule = "all discrete or all continuous"
        check(alike, "MembersVictim.policies", rule, list(policies))
        self.hidden_size = max(member.hidden_size for member in self.members)
        sizes = [member.num_actions for member in self.members]
        known = [size for size in sizes if size is not None]
        self.num_actions = max(known) if len(known) == len(sizes) else None

    @property
    def device(self) -> torch.device:
        """Where the first member's weights are."""
        return self.members[0].device

    def side(self, context: StepContext) -> Mapping[str, Tensor]:
        """Return nothing: members have no further inputs."""
        return {}

    def at(self, rows: Rows = UNBOUND) -> VictimView:
        """Return the view of M rows, each answered by the member of its agent; None is agent 0."""

        def output(obs: Tensor) -> Tensor:
            fill = 0.0 if self.continuous else MASKED
            return self._joined(rows, obs, lambda view, shown: view.output(shown), fill)

        def advance(obs: Tensor) -> Tensor | None:
            def after(view: VictimView, shown: Tensor) -> Tensor:
                hidden = view.advance(shown)
                return shown.new_zeros(len(shown), 0) if hidden is None else hidden

            return self._joined(rows, obs, after, 0.0, self.hidden_size)

        return View(
            output,
            rows,
            continuous=self.continuous,
            name="MultiAgentPolicy",
            advance=advance if self.hidden_size else None,
        )

    def _joined(
        self,
        rows: Rows,
        obs: Tensor,
        ask: Callable[[VictimView, Tensor], Tensor],
        fill: float,
        width: int | None = None,
    ) -> Tensor:
        """Return what members answer about their own rows, (M, width), filled where they end."""
        agents = rows.agents
        if agents is None:
            agents = torch.zeros(len(obs), dtype=torch.int64, device=obs.device)
        answers, places = [], []
        for number, member in enumerate(self.members):
            members_rows = (agents == number).nonzero()[:, 0]
            if len(members_rows) == 0:
                continue
            hidden = None
            if rows.hidden is not None and member.hidden_size:
                hidden = rows.hidden[members_rows, : member.hidden_size]
            view = member.at(Rows(hidden=hidden))
            answers.append(ask(view, obs[members_rows, : member.obs_size]))
            places.append(members_rows)
        if width is None:
            # Functions do not tell how wide they are, and the widest may not be asked.
            least = 0 if rows.mask is None else rows.mask.shape[-1]
            widest = max((answer.shape[-1] for answer in answers), default=0)
            width = self.num_actions or max(least, widest)
        padded = [
            nn.functional.pad(answer, (0, width - answer.shape[-1]), value=fill)
            for answer in answers
        ]
        if not padded:
            return obs.new_zeros(0, width)
        order = torch.cat(places).argsort()
        return torch.cat(padded)[order]


def as_victim(where: str, victim: VictimLike, *, continuous: bool = False) -> Victim:
    """Return ``victim`` as a :class:`Victim`: algorithms, policies and modules are adapted.

    Args:
        where: what errors call it.
        victim: a victim, what knows one (``victim()``), a policy or algorithm of Tianshou, a
            Stable-Baselines3 model, or a module or other function of observations.
        continuous: whether outputs of a module or function are means.

    Raises:
        TypeError: if it is none of them, or has nothing to query.

    Example:
        >>> weights = torch.nn.Linear(3, 2)
        >>> view = as_victim("victim", weights).at()
        >>> view.logits(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """
    if isinstance(victim, type):
        raise TypeError(f"{where} must be made first, got the class {victim.__name__}.")
    if hasattr(victim, "at") and hasattr(victim, "hidden_size"):
        return cast(Victim, victim)
    victim_of = getattr(victim, "victim", None)
    if callable(victim_of):
        known = victim_of()
        if known is None:
            raise TypeError(
                f"{where} must have outputs with a gradient, got {type(victim).__name__}, "
                f"which has none. {_TRANSFER_REMEDY}"
            )
        return cast(Victim, known)
    if is_baselines(victim):
        return PolicyVictim(victim)
    inner = getattr(victim, "policy", victim)
    if isinstance(inner, MultiAgentPolicy):
        return MembersVictim(inner.policies)
    if hasattr(inner, "action_type"):
        return PolicyVictim(inner)
    if inner is victim and callable(victim):
        return FunctionVictim(victim, continuous=continuous)
    remedy = "Write algorithm.victim() or victims.FunctionVictim(module)."
    if isinstance(victim, str | Path):
        remedy = "Load it first: training.load(path).learner, or zoo.load(name).learner."
    elif hasattr(victim, "learner"):
        remedy = "Give its learner."
    raise TypeError(
        f"{where} must be a Victim, a robustmarl or Tianshou algorithm or a policy, a "
        "Stable-Baselines3 model, or a module or function of observations, "
        f"got {type(victim).__name__}. {remedy}"
    )


def _plans_of(network: TeamNetwork, plan: Plan | None) -> list[Plan | None]:
    """Return what rows go through, each agent's in their order, or the one of all, ``plan``."""
    if not isinstance(network, SeparateAgents):
        return [plan]
    return [network.of(agent).plan() for agent in range(network.num_agents)]


_TRANSFER_REMEDY = (
    "Attack it through another policy, or with an attack that asks none, such as noise."
)


def _weights_dtype(function: object) -> torch.dtype | None:
    """Return what a module calculates in, None where it does not tell."""
    if not isinstance(function, nn.Module):
        return None
    first = next(function.parameters(), None)
    return first.dtype if first is not None and first.is_floating_point() else None
