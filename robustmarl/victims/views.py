"""Networks, functions and Tianshou policies as victims."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from robustmarl._checks import check
from robustmarl.joint import MASKED, StepContext
from robustmarl.networks import TeamNetwork
from robustmarl.networks.calculus import InputGradient, Plan
from robustmarl.victims.protocol import (
    UNBOUND,
    OutputLoss,
    Rows,
    Victim,
    VictimLike,
    VictimView,
)

__all__ = ["FunctionVictim", "NetworkVictim", "PolicyVictim", "as_victim"]


class _View:
    """A view made of a function from observations to outputs.

    Coordinates of observations that do not exist are zeros whatever an attack makes of them, and
    so is their gradient; action coordinates that do not exist are zeros in every output.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        rows: Rows,
        *,
        continuous: bool,
        plain: InputGradient | None = None,
        extra: Tensor | None = None,
        advance: Callable[[Tensor], Tensor | None] | None = None,
    ) -> None:
        self.continuous, self.mask, self.agents = continuous, rows.mask, rows.agents
        self._blocked = None if rows.mask is None else ~rows.mask
        self._padding = None if rows.obs_mask is None else ~rows.obs_mask
        self._unmasked = 0.0 if continuous else MASKED
        self._function, self._plain, self._extra, self._advance = function, plain, extra, advance

    def logits(self, obs: Tensor) -> Tensor:
        check(not self.continuous, "victim", "discrete to have logits", "a continuous victim")
        return self.output(obs)

    def mean(self, obs: Tensor) -> Tensor:
        check(self.continuous, "victim", "continuous to have a mean", "a discrete victim")
        return self.output(obs)

    def output(self, obs: Tensor) -> Tensor:
        return self._masked(self._function(self._real(obs)))

    def input_gradient(self, obs: Tensor, loss: OutputLoss) -> Tensor:
        def cotangent(output: Tensor) -> Tensor:
            gradient = loss.gradient(self._masked(output))
            return gradient if self._blocked is None else gradient.masked_fill(self._blocked, 0.0)

        obs = self._real(obs)
        if self._plain is not None:
            return self._real(self._plain.vjp(obs, cotangent, self._extra))
        x = obs.detach().requires_grad_()
        with torch.enable_grad():  # callers may act under no_grad
            output = self._function(x)
        (gradient,) = torch.autograd.grad(output, x, cotangent(output.detach()))
        return self._real(gradient)

    def advance(self, obs: Tensor) -> Tensor | None:
        return None if self._advance is None else self._advance(self._real(obs))

    def _masked(self, output: Tensor) -> Tensor:
        blocked = self._blocked
        return output if blocked is None else output.masked_fill(blocked, self._unmasked)

    def _real(self, obs: Tensor) -> Tensor:
        """Return ``obs``, or its gradient, with zeros where there is only padding."""
        return obs if self._padding is None else obs.masked_fill(self._padding, 0.0)


class FunctionVictim:
    """A victim from any function of observations, shared by all agents.

    Args:
        function: maps (M, D) to logits or means (M, A); an ``nn.Module`` or a callable.
        continuous: whether its outputs are means.
        device: where it expects its input.
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
        device: torch.device | str = "cpu",
    ) -> None:
        self.function, self.continuous = function, continuous
        self.device = torch.device(device)
        plan = Plan.of(function) if isinstance(function, nn.Module) else None
        self._plain = InputGradient.of(plan)

    def side(self, context: StepContext) -> Mapping[str, Tensor]:
        """Return nothing: a function has no further inputs."""
        return {}

    def at(self, rows: Rows = UNBOUND) -> VictimView:
        """Return the view of M rows; only their masks matter here."""
        return _View(self.function, rows, continuous=self.continuous, plain=self._plain)


class NetworkVictim:
    """A team's agent network as a victim: ids, last actions and memory included.

    Args:
        network: its agents, such as ``networks.AgentNetwork``.
        continuous: whether its outputs are means.
        agents: names of its agents in its own order, None where it does not know them.
        side: its further inputs in a tick, as its policy works them out; None is none.
        acting_only: whether ``side`` needs the memory of the policy that acts.
    """

    def __init__(
        self,
        network: TeamNetwork,
        *,
        continuous: bool,
        agents: tuple[str, ...] | None = None,
        side: Callable[[StepContext], Mapping[str, Tensor]] | None = None,
        acting_only: bool = False,
    ) -> None:
        self.network, self.continuous, self.agents = network, continuous, agents
        self.acting_only = acting_only
        self._plain, self._side = InputGradient.of(network.plan()), side

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

        return _View(
            output,
            rows,
            continuous=self.continuous,
            plain=self._plain,
            extra=None if extra.added is None else extra.added.detach(),
            advance=advance,
        )


class PolicyVictim(FunctionVictim):
    """A Tianshou policy or algorithm (DQN, PPO, ...) as a victim, shared by all agents.

    Q-values are logits; a continuous actor's mean is its ``mean``.

    Args:
        policy: a policy with ``model`` (Q-learning) or ``actor`` (actor-critic), or an
            algorithm that holds one.

    Raises:
        TypeError: if there is neither.
    """

    def __init__(self, policy: Any) -> None:
        policy = getattr(policy, "policy", policy)
        network = getattr(policy, "model", None) or getattr(policy, "actor", None)
        if not isinstance(network, nn.Module):
            raise TypeError(
                "PolicyVictim.policy must be a policy with `model` or `actor`, "
                f"got {type(policy).__name__}."
            )
        self.policy = policy

        def function(obs: Tensor) -> Tensor:
            output = network(obs)
            while isinstance(output, tuple):  # (output, state), and (mean, sigma) if continuous
                output = output[0]
            return cast(Tensor, output)

        device = next(network.parameters()).device
        super().__init__(function, continuous=policy.action_type == "continuous", device=device)


def as_victim(where: str, victim: VictimLike) -> Victim:
    """Return ``victim`` as a :class:`Victim`: algorithms, policies and modules are adapted.

    Raises:
        TypeError: if it is none of them.
    """
    if hasattr(victim, "at") and hasattr(victim, "hidden_size"):
        return cast(Victim, victim)
    if callable(getattr(victim, "victim", None)):
        return cast(Victim, victim.victim())
    if hasattr(victim, "policy") or hasattr(victim, "actor") or hasattr(victim, "model"):
        return PolicyVictim(victim)
    raise TypeError(
        f"{where} must be a Victim, a robustmarl or Tianshou algorithm or a policy, "
        f"got {type(victim).__name__}. Write algorithm.victim() or victims.FunctionVictim(module)."
    )
