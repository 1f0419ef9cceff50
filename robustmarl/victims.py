"""What attacks see of a policy: logits or means, and the gradient with respect to its input.

A victim is asked live: weights are never copied. ``victim.at(...)`` fixes what the attack does
not touch (mask, hidden state, last action, agent index, global state) for M rows, one row per
agent and environment, and returns the bound :class:`VictimView` that attacks call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from robustmarl._checks import check

__all__ = [
    "MASKED",
    "FunctionVictim",
    "NetworkVictim",
    "OutputLoss",
    "PlainMLP",
    "PolicyVictim",
    "Victim",
    "VictimRows",
    "VictimView",
    "as_victim",
]

MASKED = -1e9
"""Logit of an unavailable action: finite, so that 0 * log 0 stays 0, and softmax gives 0."""


_RELU_BACKWARD = torch.ops.aten.threshold_backward.default  # one kernel each
_NORM_BACKWARD = torch.ops.aten.native_layer_norm_backward
_TANH_BACKWARD = torch.ops.aten.tanh_backward.default


class OutputLoss(Protocol):
    """A loss on a victim's output that an attack raises."""

    def __call__(self, output: Tensor) -> Tensor:
        """Return one loss per row, (M,), of logits or means (M, A)."""

    def gradient(self, output: Tensor) -> Tensor:
        """Return d loss / d output, (M, A), up to a positive factor per row."""


@runtime_checkable
class VictimView(Protocol):
    """M bound rows of a victim; rows do not influence each other."""

    @property
    def continuous(self) -> bool:
        """Whether outputs are action means instead of logits."""

    @property
    def mask(self) -> Tensor | None:
        """Available actions (M, A), None where all are."""

    @property
    def agents(self) -> Tensor | None:
        """Index of each row's agent, int64 (M,), None where it was not told."""

    def logits(self, obs: Tensor) -> Tensor:
        """Return logits (M, A) for observations (M, D), ``MASKED`` where unavailable."""

    def mean(self, obs: Tensor) -> Tensor:
        """Return mean actions (M, A) in [-1, 1] before clipping."""

    def output(self, obs: Tensor) -> Tensor:
        """Return ``mean(obs)`` if continuous, else ``logits(obs)``."""

    def input_gradient(self, obs: Tensor, loss: OutputLoss) -> Tensor:
        """Return d loss / d obs, (M, D), up to a positive factor per row; touches no ``.grad``.

        ``loss`` is shown the output for ``obs`` and no other.
        """

    def advance(self, obs: Tensor) -> Tensor | None:
        """Return the hidden state (M, H) after ``obs`` was shown; None without memory."""


class Victim(Protocol):
    """A live policy that attacks may query."""

    @property
    def continuous(self) -> bool:
        """Whether actions are vectors."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    @property
    def hidden_size(self) -> int:
        """H, 0 for a policy without memory."""

    def at(
        self,
        mask: Tensor | None = None,
        hidden: Tensor | None = None,
        last_act: Tensor | None = None,
        agents: Tensor | None = None,
        state: Tensor | None = None,
    ) -> VictimView:
        """Return the view of M rows.

        Args:
            mask: available actions, bool (M, A); None: all.
            hidden: hidden state before the observation, (M, H); None: zeros.
            last_act: last actions, int64 (M,) or float (M, A); None: none yet. -1 is no action.
            agents: index of each row's agent, int64 (M,); None: all agent 0.
            state: global state, (M, S); only victims that act on it need it.
        """


@dataclass(frozen=True, kw_only=True)
class VictimRows:
    """M rows an algorithm learns from, with all that its policy needs to act on them.

    Attributes:
        obs: clean observations, (M, D).
        mask: available actions, bool (M, A), or None.
        hidden: hidden state before the observation, (M, H), detached, or None.
        last_act: last actions, (M,) or (M, A), or None.
        agents: index of each row's agent, int64 (M,), or None.
    """

    obs: Tensor
    mask: Tensor | None = None
    hidden: Tensor | None = None
    last_act: Tensor | None = None
    agents: Tensor | None = None

    def __len__(self) -> int:
        return len(self.obs)

    def select(self, index: Tensor) -> VictimRows:
        """Return the rows ``index``, int64 (K,) or bool (M,)."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        chosen: Any = {k: None if v is None else v[index] for k, v in values.items()}
        return VictimRows(**chosen)

    def view(self, victim: Victim) -> VictimView:
        """Return ``victim`` bound to these rows."""
        return victim.at(self.mask, self.hidden, self.last_act, self.agents)


class PlainMLP:
    """A chain of linear layers, ReLU, Tanh and LayerNorm, with a hand-derived input gradient.

    At small batches autograd's bookkeeping costs more than the arithmetic. Layers are
    referenced, never copied, so the gradient is that of the current weights.
    """

    def __init__(self, first: nn.Linear, rest: list[nn.Module]) -> None:
        self._first, self._rest = first, rest

    @classmethod
    def of(cls, module: nn.Module) -> PlainMLP | None:
        """Return the plain MLP that ``module`` is, or None if it is anything else."""
        leaves = [leaf for leaf in _leaves(module) if not isinstance(leaf, nn.Identity)]
        known = all(isinstance(x, nn.Linear | nn.ReLU | nn.Tanh | nn.LayerNorm) for x in leaves)
        norms = [x for x in leaves if isinstance(x, nn.LayerNorm)]
        if not known or any(len(x.normalized_shape) != 1 for x in norms):
            return None
        if not leaves or not isinstance(leaves[0], nn.Linear):
            return None
        bends = [isinstance(x, nn.ReLU | nn.Tanh) for x in leaves]
        if any(one and other for one, other in pairwise(bends)):
            return None  # each overwrites its input, which must not be another's kept output
        return cls(leaves[0], leaves[1:])

    @torch.no_grad()
    def vjp(
        self, x: Tensor, cotangent: Callable[[Tensor], Tensor], extra: Tensor | None = None
    ) -> Tensor:
        """Return J(x)^T cotangent(output), (M, D).

        Args:
            x: input, (M, D).
            cotangent: maps the output (M, A) to its cotangent (M, A).
            extra: added to the first layer's pre-activation, (M, H), constant in ``x``.
        """
        kept: list[Any] = []
        x = nn.functional.linear(x, self._first.weight, self._first.bias)
        if extra is not None:
            x += extra
        for layer in self._rest:
            if isinstance(layer, nn.Linear):
                kept.append(None)
                x = nn.functional.linear(x, layer.weight, layer.bias)
            elif isinstance(layer, nn.LayerNorm):
                shape = list(layer.normalized_shape)
                before = x
                x, mean, rstd = torch.native_layer_norm(
                    before, shape, layer.weight, layer.bias, layer.eps
                )
                kept.append((before, shape, mean, rstd))
            else:
                x = x.relu_() if isinstance(layer, nn.ReLU) else x.tanh_()
                kept.append(x)
        gradient = cotangent(x)
        for layer, saved in zip(reversed(self._rest), reversed(kept), strict=True):
            if isinstance(layer, nn.Linear):
                gradient = gradient @ layer.weight
            elif isinstance(layer, nn.LayerNorm):
                gradient = _NORM_BACKWARD(
                    gradient, *saved, layer.weight, layer.bias, [True, False, False]
                )[0]
            elif isinstance(layer, nn.ReLU):
                gradient = _RELU_BACKWARD(gradient, saved, 0)
            else:
                gradient = _TANH_BACKWARD(gradient, saved)
        return gradient @ self._first.weight


def _leaves(module: nn.Module) -> Iterable[nn.Module]:
    if isinstance(module, nn.Sequential):
        for child in module:
            yield from _leaves(child)
    else:
        yield module


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
