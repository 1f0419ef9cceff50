"""Networks, functions and Tianshou policies as victims."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from robustmarl._checks import check
from robustmarl.joint import MASKED
from robustmarl.networks.calculus.vjp import PlainMLP
from robustmarl.victims.protocol import OutputLoss, Victim, VictimView

__all__ = ["FunctionVictim", "NetworkVictim", "PolicyVictim", "as_victim"]


class _View:
    """A view made of a function from observations to outputs."""

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        *,
        continuous: bool,
        mask: Tensor | None = None,
        plain: PlainMLP | None = None,
        extra: Tensor | None = None,
        advance: Callable[[Tensor], Tensor | None] | None = None,
        agents: Tensor | None = None,
    ) -> None:
        self.continuous, self.mask, self.agents = continuous, mask, agents
        self._blocked = None if mask is None else ~mask
        self._function, self._plain, self._extra, self._advance = function, plain, extra, advance

    def logits(self, obs: Tensor) -> Tensor:
        check(not self.continuous, "victim", "discrete to have logits", "a continuous victim")
        return self._masked(self._function(obs))

    def mean(self, obs: Tensor) -> Tensor:
        check(self.continuous, "victim", "continuous to have a mean", "a discrete victim")
        return self._function(obs)

    def output(self, obs: Tensor) -> Tensor:
        return self._function(obs) if self.continuous else self._masked(self._function(obs))

    def input_gradient(self, obs: Tensor, loss: OutputLoss) -> Tensor:
        def cotangent(output: Tensor) -> Tensor:
            if self.continuous:
                return loss.gradient(output)
            gradient = loss.gradient(self._masked(output))
            return gradient if self._blocked is None else gradient.masked_fill(self._blocked, 0.0)

        if self._plain is not None:
            return self._plain.vjp(obs, cotangent, self._extra)
        x = obs.detach().requires_grad_()
        with torch.enable_grad():  # callers may act under no_grad
            output = self._function(x)
        (gradient,) = torch.autograd.grad(output, x, cotangent(output.detach()))
        return gradient

    def advance(self, obs: Tensor) -> Tensor | None:
        return None if self._advance is None else self._advance(obs)

    def _masked(self, output: Tensor) -> Tensor:
        return output if self._blocked is None else output.masked_fill(self._blocked, MASKED)


class FunctionVictim:
    """A victim from any function of observations, shared by all agents.

    Args:
        function: maps (M, D) to logits or means (M, A); an ``nn.Module`` or a callable.
        continuous: whether its outputs are means.
        device: where it expects its input.
    """

    hidden_size = 0

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        *,
        continuous: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.function, self.continuous = function, continuous
        self.device = torch.device(device)
        self._plain = PlainMLP.of(function) if isinstance(function, nn.Module) else None

    def at(
        self,
        mask: Tensor | None = None,
        hidden: Tensor | None = None,
        last_act: Tensor | None = None,
        agents: Tensor | None = None,
        state: Tensor | None = None,
    ) -> VictimView:
        """Return the view of M rows; only ``mask`` matters here."""
        return _View(
            self.function, continuous=self.continuous, mask=mask, plain=self._plain, agents=agents
        )


class NetworkVictim:
    """A team's agent network as a victim: ids, last actions and memory included.

    Args:
        network: offers ``extra(agents, last_act)``, ``step(obs, extra, hidden)`` returning
            (output, hidden), ``plain()``, ``obs_size`` and ``hidden_size``, like
            ``networks.AgentNetwork``.
        continuous: whether its outputs are means.
    """

    def __init__(self, network: Any, *, continuous: bool) -> None:
        self.network, self.continuous = network, continuous
        self._plain = network.plain()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return cast(torch.device, next(self.network.parameters()).device)

    @property
    def hidden_size(self) -> int:
        """H, 0 without memory."""
        return int(self.network.hidden_size)

    @property
    def obs_size(self) -> int:
        """D, the size of the observations it acts on."""
        return int(self.network.obs_size)

    def at(
        self,
        mask: Tensor | None = None,
        hidden: Tensor | None = None,
        last_act: Tensor | None = None,
        agents: Tensor | None = None,
        state: Tensor | None = None,
    ) -> VictimView:
        """Return the view of M rows."""
        extra = self.network.extra(agents, last_act)

        def output(obs: Tensor) -> Tensor:
            return cast(Tensor, self.network.step(obs, extra, hidden)[0])

        def advance(obs: Tensor) -> Tensor | None:
            return cast("Tensor | None", self.network.step(obs, extra, hidden)[1])

        return _View(
            output,
            continuous=self.continuous,
            mask=mask,
            plain=self._plain,
            extra=None if extra is None else extra.detach(),
            advance=advance,
            agents=agents,
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


def as_victim(where: str, victim: Any) -> Victim:
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
