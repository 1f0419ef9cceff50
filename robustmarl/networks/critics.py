"""Centralised critics: values of states, and of states with joint actions."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor, nn

from robustmarl._checks import (
    check,
    check_choice,
    check_flag,
    check_int,
    check_kind,
    flags_of,
    sizes_of,
)
from robustmarl.networks.layers import Activation, activation_of, check_widths, feed_forward
from robustmarl.networks.mixers import QMIXMixer

__all__ = ["ActionCritic", "Critic", "CriticSettings", "FactoredCritic", "JointCritic"]


class CriticSettings(TypedDict, total=False):
    """Keywords of :class:`Critic`."""

    num_agents: int
    hidden: tuple[int, ...]
    activation: Activation
    layer_norm: bool


class Critic(nn.Module):
    """V(x) or V(x, agent id) from a state or an observation.

    Args:
        size: size of the input.
        num_agents: N for one value per agent (ids enter the first layer), 0 for one value.
        hidden: widths of the hidden layers.
        activation: ``"relu"`` or ``"tanh"``.
        layer_norm: normalise the input, which states of unknown scale need.

    Example:
        >>> state, obs = torch.zeros(7, 4), torch.zeros(7, 3, 4)
        >>> Critic(size=4)(state).shape, Critic(size=4, num_agents=3)(obs).shape
        (torch.Size([7]), torch.Size([7, 3]))
    """

    def __init__(
        self,
        size: int,
        num_agents: int = 0,
        *,
        hidden: tuple[int, ...] = (64, 64),
        activation: Activation = "relu",
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        (size,) = sizes_of(name, size=size)
        num_agents = check_int(f"{name}.num_agents", num_agents, 0)
        hidden = check_widths(f"{name}.hidden", hidden)
        check_choice(f"{name}.activation", activation, ("relu", "tanh"))
        layer_norm = check_flag(f"{name}.layer_norm", layer_norm)
        self.normalize = nn.LayerNorm(size) if layer_norm else nn.Identity()
        self.first = nn.Linear(size, hidden[0])
        self.id_table = nn.Parameter(torch.zeros(num_agents, hidden[0])) if num_agents else None
        body = feed_forward((*hidden, 1), activation)
        self.rest = nn.Sequential(activation_of(activation), *body)

    def forward(self, x: Tensor) -> Tensor:
        """Return values: (...,) of (..., size), or (..., N) of (..., N, size) with ids."""
        features = self.first(self.normalize(x))
        if self.id_table is not None:
            features = features + self.id_table
        return self.rest(features).squeeze(-1)


class JointCritic(nn.Module):
    r"""Q(s, a_1, ..., a_N) with actions as vectors, in which it is differentiable.

    Args:
        state_size: S.
        num_agents: N.
        num_actions: A, the number of actions (one-hot) or of action coordinates.
        hidden: widths of the hidden layers.
        normalize_state: LayerNorm on the state, which states of unknown scale need.

    Example:
        >>> critic = JointCritic(state_size=4, num_agents=3, num_actions=2)
        >>> critic(torch.zeros(7, 4), torch.zeros(7, 3, 2)).shape
        torch.Size([7])
    """

    def __init__(
        self,
        state_size: int,
        num_agents: int,
        num_actions: int,
        *,
        hidden: tuple[int, ...] = (64, 64),
        normalize_state: bool = True,
    ) -> None:
        super().__init__()
        hidden = check_widths("JointCritic.hidden", hidden)
        state_size, num_agents, num_actions = sizes_of(
            "JointCritic", state_size=state_size, num_agents=num_agents, num_actions=num_actions
        )
        normalize_state = check_flag("JointCritic.normalize_state", normalize_state)
        self.state_norm = nn.LayerNorm(state_size) if normalize_state else nn.Identity()
        self.of_state = nn.Linear(state_size, hidden[0])
        self.of_act = nn.Linear(num_agents * num_actions, hidden[0], bias=False)
        self.rest = nn.Sequential(nn.ReLU(), *feed_forward((*hidden, 1)))

    def forward(self, state: Tensor, act: Tensor) -> Tensor:
        """Return values (...,), or (..., K) of K joint actions per state.

        Args:
            state: (..., S).
            act: (..., N, A) or (..., K, N, A).
        """
        of_act, of_state = self.of_act(act.flatten(-2)), self.of_state(self.state_norm(state))
        if of_act.dim() > of_state.dim():
            of_state = of_state.unsqueeze(-2)
        return self.rest(of_state + of_act).squeeze(-1)


class FactoredCritic(nn.Module):
    r"""FACMAC's critic [Peng2021]_: :math:`Q_{tot}(s, a) = g_s(Q_1(o^1, a_1), .., Q_N(o^N, a_N))`.

    Actions are vectors, in which it is differentiable. The agents' critics are one network, whose
    first layer knows which agent it is asked about.

    Args:
        obs_size: D.
        num_agents: N.
        num_actions: A, the number of actions (one-hot) or of action coordinates.
        mixer: g, monotone in the agents' values.
        hidden: widths of the hidden layers of the agents' critics.

    Example:
        >>> from robustmarl.networks import QMIXMixer
        >>> critic = FactoredCritic(4, 2, 1, QMIXMixer(3, 2))
        >>> critic(torch.zeros(5, 2 * 4 + 3), torch.zeros(5, 2, 1)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        obs_size: int,
        num_agents: int,
        num_actions: int,
        mixer: QMIXMixer,
        *,
        hidden: tuple[int, ...] = (64, 64),
    ) -> None:
        super().__init__()
        hidden = check_widths("FactoredCritic.hidden", hidden)
        obs_size, num_agents, num_actions = sizes_of(
            "FactoredCritic", obs_size=obs_size, num_agents=num_agents, num_actions=num_actions
        )
        check_kind("FactoredCritic.mixer", mixer, QMIXMixer, "a QMIXMixer")
        fits = mixer.num_agents == num_agents
        check(fits, "FactoredCritic.mixer", f"of {num_agents} agents", mixer.num_agents)
        self.num_agents, self.obs_size = num_agents, obs_size
        self.of_obs = nn.Linear(obs_size, hidden[0])
        self.of_act = nn.Linear(num_actions, hidden[0], bias=False)
        self.id_table = nn.Parameter(torch.zeros(num_agents, hidden[0]))
        self.rest = nn.Sequential(nn.ReLU(), *feed_forward((*hidden, 1)))
        self.mixer = mixer

    def values(self, obs: Tensor, act: Tensor) -> Tensor:
        """Return each agent's own value of its own action, (..., N), or (..., K, N).

        Args:
            obs: (..., N, D).
            act: (..., N, A), or (..., K, N, A) for K joint actions each.
        """
        of_act, of_obs = self.of_act(act), self.of_obs(obs) + self.id_table
        if of_act.dim() > of_obs.dim():
            of_obs = of_obs.unsqueeze(-3)
        return self.rest(of_obs + of_act).squeeze(-1)

    def forward(self, reading: Tensor, act: Tensor) -> Tensor:
        """Return values (...,), or (..., K) of K joint actions per state.

        Args:
            reading: all observations, then the state, (..., N D + S).
            act: (..., N, A) or (..., K, N, A).
        """
        seen = self.num_agents * self.obs_size
        obs = reading[..., :seen].unflatten(-1, (self.num_agents, self.obs_size))
        q, state = self.values(obs, act), reading[..., seen:]
        return self.mixer.mix(q, state.unsqueeze(-2) if q.dim() > state.dim() else state)


class ActionCritic(nn.Module):
    r"""Values of all actions of every agent: Q(s, o_i, i, a) or, jointly, Q(s, o_i, i, a_{-i}, a).

    One network shared by all agents; ids and the others' actions enter the first layer as rows of
    tables, which is the linear map of their one-hot vectors.

    Args:
        state_size: S.
        obs_size: D.
        num_agents: N.
        num_actions: A.
        hidden: widths of the hidden layers.
        others: whether the others' actions are an input, as COMA's critic has them.
        dueling: add a value head to the heads of actions, as DOP's critic does.
        normalize_state: LayerNorm on the state, which states of unknown scale need.

    Example:
        >>> critic = ActionCritic(state_size=4, obs_size=5, num_agents=3, num_actions=2)
        >>> critic(torch.zeros(7, 4), torch.zeros(7, 3, 5)).shape
        torch.Size([7, 3, 2])
    """

    def __init__(
        self,
        state_size: int,
        obs_size: int,
        num_agents: int,
        num_actions: int,
        *,
        hidden: tuple[int, ...] = (128, 128),
        others: bool = False,
        dueling: bool = False,
        normalize_state: bool = True,
    ) -> None:
        super().__init__()
        hidden = check_widths("ActionCritic.hidden", hidden)
        state_size, obs_size, num_agents, num_actions = sizes_of(
            "ActionCritic",
            state_size=state_size,
            obs_size=obs_size,
            num_agents=num_agents,
            num_actions=num_actions,
        )
        others, dueling, normalize_state = flags_of(
            "ActionCritic", others=others, dueling=dueling, normalize_state=normalize_state
        )
        self.num_actions, self.others, self.dueling = num_actions, others, dueling
        width = hidden[0]
        self.state_norm = nn.LayerNorm(state_size) if normalize_state else nn.Identity()
        self.of_state = nn.Linear(state_size, width)
        self.of_obs = nn.Linear(obs_size, width, bias=False)
        self.id_table = nn.Parameter(torch.zeros(num_agents, width))
        shape = (num_agents * num_actions, width)
        self.act_table = nn.Parameter(torch.zeros(shape)) if others else None
        if self.act_table is not None:
            # The bound of a linear layer of ``width`` inputs, whatever the size of the team.
            nn.init.uniform_(self.act_table, -(width**-0.5), width**-0.5)
        outputs = num_actions + dueling
        self.rest = nn.Sequential(nn.ReLU(), *feed_forward((*hidden, outputs)))
        self.register_buffer("offsets", torch.arange(num_agents) * num_actions, persistent=False)

    offsets: Tensor

    def forward(self, state: Tensor, obs: Tensor, act: Tensor | None = None) -> Tensor:
        """Return values (..., N, A).

        Args:
            state: (..., S).
            obs: (..., N, D).
            act: joint actions, int64 (..., N); an agent's own is not looked at. Further leading
                axes than the state's may be given.
        """
        features = self.of_state(self.state_norm(state)).unsqueeze(-2)
        features = features + self.of_obs(obs) + self.id_table
        if self.act_table is not None:
            assert act is not None  # COMA passes it
            rows = nn.functional.embedding(act + self.offsets, self.act_table)
            features = features + (rows.sum(-2, keepdim=True) - rows)  # the others' alone
        heads = self.rest(features)
        return heads[..., 1:] + heads[..., :1] if self.dueling else heads
