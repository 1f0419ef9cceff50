"""What Tianshou's policies do with an observation, differentiable: their scores or mean actions.

Policies choose actions in ``forward``, in numpy and partly at random. A :class:`Reading` is the
part of it before the choice: logits whose largest is the greedy action and, for policies with a
distribution, whose softmax is that distribution; or the mean action in [-1, 1].
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import gymnasium
import torch
from tianshou.algorithm.imitation.discrete_bcq import DiscreteBCQPolicy
from tianshou.algorithm.modelfree.bdqn import BDQNPolicy
from tianshou.algorithm.modelfree.ddpg import ContinuousDeterministicPolicy
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.modelfree.fqf import FQFPolicy
from tianshou.algorithm.modelfree.iqn import IQNPolicy
from tianshou.algorithm.modelfree.redq import REDQPolicy
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.modelfree.sac import SACPolicy
from tianshou.utils.net.common import Recurrent
from tianshou.utils.net.continuous import RecurrentActorProb
from tianshou.utils.net.discrete import DiscreteActor, dist_fn_categorical_from_logits
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution

from robustmarl.joint import MASKED
from robustmarl.joint.boxes import to_unit

__all__ = ["Memory", "Reading", "reading_of"]

State = dict[str, Tensor]
"""Memory as Tianshou's recurrent networks take it: ``hidden`` and ``cell``, (M, layers, H)."""


class Memory(NamedTuple):
    """How an LSTM's state lies in the rows' hidden state: hidden, then cell.

    Attributes:
        layers: how many.
        width: of one layer.
    """

    layers: int
    width: int

    @property
    def size(self) -> int:
        """The size of a row's hidden state."""
        return 2 * self.layers * self.width

    def unpacked(self, hidden: Tensor | None) -> State | None:
        """Return the state that the network takes of (M, size); None is an episode's beginning."""
        if hidden is None:
            return None
        both = hidden.view(len(hidden), 2, self.layers, self.width)
        return {"hidden": both[:, 0], "cell": both[:, 1]}

    def packed(self, state: Any) -> Tensor:
        """Return hidden states (M, size) of what the network returned."""
        both = torch.stack([state["hidden"], state["cell"]], dim=1)
        return both.reshape(len(both), self.size)


class Reading:
    """What a policy does with observations before it chooses: its network's output.

    Args:
        policy: a Tianshou policy, or what looks like one.
        network: the one that reads observations.
    """

    def __init__(self, policy: Any, network: nn.Module) -> None:
        self.policy, self.network = policy, network
        self.memory = _lstm_memory(type(policy).__name__, network)
        self.continuous = policy.action_type == "continuous"
        space = getattr(policy, "action_space", None)
        self.num_actions: int | None = None
        if isinstance(space, gymnasium.spaces.Discrete):
            self.num_actions = int(space.n)
        elif isinstance(space, gymnasium.spaces.Box):
            self.num_actions = math.prod(space.shape)
        shape = getattr(getattr(policy, "observation_space", None), "shape", None)
        self.obs_size = shape[0] if shape is not None and len(shape) == 1 else None

    def __call__(self, obs: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return logits or means (M, A) and, with a memory, the next hidden state."""
        state = None if self.memory is None else self.memory.unpacked(hidden)
        output, after = self.output(obs, state)
        return output, None if self.memory is None else self.memory.packed(after)

    def output(self, obs: Tensor, state: State | None) -> tuple[Tensor, Any]:
        """Return logits or means (M, A) and the network's state."""
        output, state = self.raw(obs, state)
        while isinstance(output, tuple):  # (mean, sigma) if continuous
            output = output[0]
        return cast(Tensor, output), state

    def raw(self, obs: Tensor, state: State | None) -> tuple[Any, Any]:
        """Return what the network returns, (M, ...) of its own form, and its state."""
        if self.memory is not None and obs.is_cuda:  # cuDNN goes back in training mode only
            with torch.backends.cudnn.flags(enabled=False):
                remembered: tuple[Any, Any] = self.network(obs, state=state)
                return remembered
        given = self.network(obs) if state is None else self.network(obs, state=state)
        return given if isinstance(given, tuple) else (given, None)


class QValues(Reading):
    """Q-values, of distributional networks the expectation over their atoms or quantiles."""

    def output(self, obs: Tensor, state: State | None) -> tuple[Tensor, Any]:
        values, state = self.raw(obs, state)
        return self.policy.compute_q_value(values, None), state


class FractionValues(Reading):
    """Q-values of a fully parameterised quantile function: quantiles weighted by its fractions."""

    def raw(self, obs: Tensor, state: State | None) -> tuple[Any, Any]:
        proposal = self.policy.fraction_model
        given: tuple[Any, Any] = self.network(obs, propose_model=proposal, state=state)
        return given

    def output(self, obs: Tensor, state: State | None) -> tuple[Tensor, Any]:
        (quantiles, fractions, _), state = self.raw(obs, state)
        weights = fractions.taus[:, 1:] - fractions.taus[:, :-1]
        return (weights.unsqueeze(1) * quantiles).sum(dim=2), state


class LikelyValues(Reading):
    """Q-values of the actions that an imitator holds to be likely, ``MASKED`` elsewhere."""

    def output(self, obs: Tensor, state: State | None) -> tuple[Tensor, Any]:
        values, state = self.raw(obs, state)
        imitated, _ = self.policy.imitator(obs)
        ratio = imitated - imitated.max(dim=-1, keepdim=True).values
        return values.masked_fill(ratio < self.policy._log_tau, MASKED), state


class LogProbabilities(Reading):
    """Log-probabilities of the policy's own distribution over actions."""

    def __init__(self, policy: Any, network: nn.Module) -> None:
        super().__init__(policy, network)
        name = type(policy).__name__
        assert self.num_actions is not None  # of a Discrete space
        weight = next(network.parameters())
        flat = weight.new_full((1, self.num_actions), 1.0 / self.num_actions)
        found = policy.dist_fn(flat)
        if not isinstance(found, Categorical):
            raise TypeError(
                f"PolicyVictim.policy must be a policy with a Categorical distribution, got {name} "
                f"with {type(found).__name__}. Write victims.FunctionVictim of its logits."
            )
        # Where probabilities saturate their logarithm has no gradient; what the actor puts
        # through the softmax still has one.
        sure = weight.new_zeros(1, self.num_actions)
        sure[0, 0] = 1.0
        as_given = torch.allclose(policy.dist_fn(sure).probs, sure)
        plain = type(network).forward is DiscreteActor.forward
        self._before_softmax = as_given and plain and cast(DiscreteActor, network).softmax_output

    def output(self, obs: Tensor, state: State | None) -> tuple[Tensor, Any]:
        if self._before_softmax:
            actor = cast(DiscreteActor, self.network)
            features, state = actor.preprocess(obs, state)
            return torch.log_softmax(actor.last(features), dim=-1), state
        given, state = self.raw(obs, state)
        return cast(Tensor, self.policy.dist_fn(given).logits), state


class Means(Reading):
    """Mean actions, bounded and scaled as the policy does it, in [-1, 1].

    A policy that does not scale acts in its action space; here actions are in [-1, 1].
    """

    squashed = False

    def __init__(self, policy: Any, network: nn.Module) -> None:
        super().__init__(policy, network)
        space = getattr(policy, "action_space", None)
        self._box: tuple[Tensor, Tensor] | None = None
        if isinstance(space, gymnasium.spaces.Box) and not policy.action_scaling:
            low, high = (torch.as_tensor(end).flatten() for end in (space.low, space.high))
            if bool(((low != -1) | (high != 1)).any()):
                self._box = low, high

    def output(self, obs: Tensor, state: State | None) -> tuple[Tensor, Any]:
        location, _, state = self.distribution(obs, state)
        return self.bounded(location), state

    def distribution(self, obs: Tensor, state: State | None) -> tuple[Tensor, Tensor | None, Any]:
        """Return mean and standard deviation (M, A) before bounds, and the network's state."""
        given, state = self.raw(obs, state)
        if isinstance(given, tuple):
            return given[0], given[1], state
        return given, None, state

    def bounded(self, act: Tensor) -> Tensor:
        """Return raw actions (M, A) as this package has them, in [-1, 1] before clipping."""
        if self.squashed or self.policy.action_bound_method == "tanh":
            act = torch.tanh(act)
        if self._box is None:
            return act
        if self.policy.action_bound_method == "clip":
            act = act.clamp(-1.0, 1.0)
        return to_unit(act, *(end.to(act) for end in self._box))


class SquashedMeans(Means):
    """Means of policies that put them through tanh themselves: SAC and REDQ."""

    squashed = True


class DistributionMeans(Means):
    """Means of the policy's own distribution over action vectors."""

    def distribution(self, obs: Tensor, state: State | None) -> tuple[Tensor, Tensor | None, Any]:
        given, state = self.raw(obs, state)
        found: Distribution = self.policy.dist_fn(given)
        return found.mean, found.stddev, state


_REMEDY = "Write victims.FunctionVictim of what it scores actions by."


def reading_of(policy: Any) -> Reading:
    """Return the reading of a Tianshou policy, or of what has a ``model`` or ``actor`` like one.

    Raises:
        TypeError: naming its class, if it cannot be read.
    """
    name = type(policy).__name__
    network = getattr(policy, "model", None)
    network = getattr(policy, "actor", None) if network is None else network
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"PolicyVictim.policy must be a policy with `model` or `actor`, got {name}. {_REMEDY}"
        )
    space = getattr(policy, "action_space", None)
    if isinstance(policy, BDQNPolicy) or not (
        space is None or isinstance(space, gymnasium.spaces.Discrete | gymnasium.spaces.Box)
    ):
        raise TypeError(
            "PolicyVictim.policy must be a policy with one action or one action vector, got "
            f"{name}, which chooses several. {_REMEDY}"
        )
    if isinstance(policy, IQNPolicy):
        raise TypeError(
            "PolicyVictim.policy must be a policy whose values are the same whenever it is asked, "
            f"got {name}, which draws quantiles anew. Fix them: "
            "victims.FunctionVictim(lambda obs: ...) of the mean over quantiles of your choice."
        )
    return _reading_class(policy)(policy, network)


def _reading_class(policy: Any) -> type[Reading]:
    """Return how outputs of this kind of policy are read, its subclasses included."""
    match policy:
        case FQFPolicy():
            return FractionValues
        case DiscreteBCQPolicy():
            return LikelyValues
        case DiscreteQLearningPolicy():
            return QValues
        case SACPolicy() | REDQPolicy():
            return SquashedMeans
        case ProbabilisticActorPolicy(action_type="continuous"):
            return DistributionMeans
        case ProbabilisticActorPolicy(dist_fn=made) if made is dist_fn_categorical_from_logits:
            return Reading  # its output are logits as it is
        case ProbabilisticActorPolicy():
            return LogProbabilities
        case ContinuousDeterministicPolicy():
            return Means
    bounded = hasattr(policy, "action_bound_method") and policy.action_type == "continuous"
    return Means if bounded else Reading


def _lstm_memory(name: str, network: nn.Module) -> Memory | None:
    """Return the memory of a network, None if it has none.

    Raises:
        TypeError: for one that is not handed on from call to call as an LSTM's is.
    """
    cells = [part for part in network.modules() if isinstance(part, nn.RNNBase | nn.RNNCellBase)]
    if not cells:
        return None
    inner = network.preprocess if isinstance(network, DiscreteActor) else network
    (cell, *others) = cells
    known = isinstance(inner, Recurrent | RecurrentActorProb) and not others
    if not known or not isinstance(cell, nn.LSTM):
        raise TypeError(
            f"PolicyVictim.policy must be a policy whose memory is Tianshou's Recurrent or "
            f"RecurrentActorProb, got {name} with {type(network).__name__}. Write a Victim of your "
            "own: `hidden_size`, and views whose `advance` returns the memory."
        )
    return Memory(cell.num_layers, cell.hidden_size)
