"""One network shared by all agents of a team, told apart by their ids."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustmarl._checks import check, check_choice, check_int
from robustmarl.networks.calculus.vjp import PlainMLP

__all__ = ["AgentNetwork", "Agents", "SeparateAgents", "check_widths", "feed_forward"]

Activation = Literal["relu", "tanh"]
_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


def check_widths(where: str, hidden: Any) -> None:
    """Raise unless ``hidden`` is one width or more of hidden layers, each >= 1."""
    if not isinstance(hidden, tuple | list):
        raise TypeError(f"{where} must be a tuple of ints, got {hidden!r}.")
    check(len(hidden) > 0, where, "at least one width", hidden)
    for width in hidden:
        check_int(where, width, 1)


def feed_forward(
    sizes: tuple[int, ...], activation: Activation = "relu", layer_norm: bool = False
) -> nn.Sequential:
    """Return linear layers ``sizes[0] -> ... -> sizes[-1]`` with activations between them."""
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(fan_in, fan_out))
        if i < len(sizes) - 2:
            layers += [nn.LayerNorm(fan_out)] if layer_norm else []
            layers.append(_ACTIVATIONS[activation]())
    return nn.Sequential(*layers)


class AgentNetwork(nn.Module):
    r"""Logits, Q-values or mean actions of every agent from its own observation.

    The input is observation, one-hot agent id and one-hot last action, as in PyMARL; the two
    one-hot blocks are rows of a table added to the first layer, which is the same linear map
    without building the vectors. Shared parameters treat all N agents as one batch axis.

    Args:
        obs_size: D.
        num_agents: N.
        num_actions: A, the number of actions or of action coordinates.
        hidden: widths of the hidden layers; a recurrent network uses the first only.
        recurrent: Linear, activation, GRU, Linear instead of an MLP.
        agent_id: whether agents know their index.
        last_action: whether agents see their last action.
        continuous: whether outputs are means of actions in [-1, 1]; adds ``log_std``.
        squash: bound outputs by tanh, without ``log_std``: a deterministic continuous actor.
        activation: ``"relu"`` or ``"tanh"``.
        layer_norm: normalise before each activation.
        output_gain: the last layer is drawn orthogonal with this gain; None keeps torch's draw.
        columns: the observation's coordinates that it reads; None is all.
    """

    def __init__(
        self,
        obs_size: int,
        num_agents: int,
        num_actions: int,
        *,
        hidden: tuple[int, ...] = (64, 64),
        recurrent: bool = False,
        agent_id: bool = True,
        last_action: bool = False,
        continuous: bool = False,
        squash: bool = False,
        activation: Activation = "relu",
        layer_norm: bool = False,
        output_gain: float | None = None,
        columns: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        if columns is not None:
            good = len(columns) > 0 and all(0 <= c < obs_size for c in columns)
            rule = f"at least one index below {obs_size}"
            check(good, "AgentNetwork.columns", rule, columns)
        self.obs_size, self.columns = obs_size, None if columns is None else list(columns)
        read = obs_size if columns is None else len(columns)
        check(continuous or not squash, "AgentNetwork.squash", "False for logits", squash)
        check_choice("AgentNetwork.activation", activation, tuple(_ACTIVATIONS))
        check_widths("AgentNetwork.hidden", hidden)
        self.num_agents, self.num_actions = num_agents, num_actions
        self.continuous, self.recurrent = continuous, recurrent
        width = hidden[0]
        self.hidden_size = width if recurrent else 0
        fan_in = read + agent_id * num_agents + last_action * num_actions
        self.first = nn.Linear(read, width)
        self.id_table = nn.Parameter(torch.empty(num_agents, width)) if agent_id else None
        self.last_table = nn.Parameter(torch.empty(num_actions, width)) if last_action else None
        bound = fan_in**-0.5  # of the whole one-hot input, as if concatenated
        for weight in (self.first.weight, self.first.bias, self.id_table, self.last_table):
            if weight is not None:
                nn.init.uniform_(weight, -bound, bound)
        last: nn.Module
        start: list[nn.Module] = [nn.LayerNorm(width)] if layer_norm else []
        start.append(_ACTIVATIONS[activation]())
        if recurrent:
            self.gru = nn.GRU(width, width)
            self.rest = nn.Sequential(*start)
            self.head: nn.Module = nn.Linear(width, num_actions)
            last = self.head
        else:
            body = feed_forward((*hidden, num_actions), activation, layer_norm)
            self.rest = nn.Sequential(*start, *body)
            self.head = nn.Identity()
            last = body[-1]
        if output_gain is not None:
            assert isinstance(last, nn.Linear)  # built above
            nn.init.orthogonal_(last.weight, output_gain)
            nn.init.zeros_(last.bias)
        if squash and recurrent:
            self.head = nn.Sequential(self.head, nn.Tanh())
        elif squash:
            self.rest.append(nn.Tanh())
        spread = continuous and not squash
        self.log_std = nn.Parameter(torch.zeros(num_actions)) if spread else None

    def extra(
        self,
        agents: Tensor | None,
        last_act: Tensor | None,
        side: Mapping[str, Tensor] | None = None,
    ) -> Tensor | None:
        """Return what ids, last actions and side inputs add to the first layer, (..., H) or None.

        Args:
            agents: indices, int64, any shape; None is agent 0.
            last_act: last actions, int64 like ``agents`` with -1 for none, or float (..., A).
            side: further inputs by name; this network knows none.
        """
        extra = None
        if self.id_table is not None:
            agents = torch.zeros((), dtype=torch.int64) if agents is None else agents
            extra = F.embedding(agents.to(self.id_table.device), self.id_table)
        if self.last_table is not None and last_act is not None:
            if self.continuous:
                last = last_act @ self.last_table
            else:
                last = F.embedding(last_act.clamp(min=0), self.last_table)
                last = last * (last_act >= 0).unsqueeze(-1)
            extra = last if extra is None else extra + last
        return extra

    def step(
        self, obs: Tensor, extra: Tensor | None, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return (output (..., A), hidden (..., H) or None) of one step; obs (..., D)."""
        x = self.first(obs if self.columns is None else obs[..., self.columns])
        if extra is not None:
            x = x + extra
        x = self.rest(x)
        if not self.recurrent:
            return x, None
        flat = x.reshape(-1, self.hidden_size)
        before = torch.zeros_like(flat) if hidden is None else hidden.reshape(flat.shape)
        after = torch.gru_cell(flat, before, *self.gru.all_weights[0]).view(x.shape)
        return self.head(after), after

    def unroll(
        self,
        obs: Tensor,
        last_act: Tensor | None,
        side: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return outputs (B, T, N, A) and, if recurrent, states before each step (B, T, N, H).

        Args:
            obs: (B, T, N, D), N in the team's order; memory is empty before the first step.
            last_act: actions before each step, (B, T, N) int64 or (B, T, N, A) float.
            side: further inputs by name, (B, T, N, ...) each.
        """
        agents = torch.arange(self.num_agents, device=obs.device)
        extra = self.extra(agents, last_act, side)
        if not self.recurrent:
            return self.step(obs, extra, None)[0], None
        x = self.first(obs if self.columns is None else obs[..., self.columns])
        if extra is not None:
            x = x + extra
        x = self.rest(x)
        batch, steps, agents_n, width = x.shape
        states, _ = self.gru(x.transpose(0, 1).reshape(steps, batch * agents_n, width))
        states = states.view(steps, batch, agents_n, width).transpose(0, 1)
        before = F.pad(states[:, :-1], (0, 0, 0, 0, 1, 0)).detach()
        return self.head(states), before

    def plain(self) -> PlainMLP | None:
        """Return this network as a :class:`PlainMLP` if it is one (ids enter as ``extra``)."""
        if self.recurrent or self.columns is not None:
            return None
        return PlainMLP.of(nn.Sequential(self.first, self.rest))


class SeparateAgents(nn.Module):
    """A network of its own for every agent, used like one :class:`AgentNetwork`.

    Args:
        obs_size: D.
        num_agents: N.
        num_actions: A.
        settings: of every :class:`AgentNetwork`; there are no agent ids.
    """

    id_table = None

    def __init__(self, obs_size: int, num_agents: int, num_actions: int, **settings: Any) -> None:
        super().__init__()
        own = settings | {"agent_id": False}
        self.nets = nn.ModuleList(
            AgentNetwork(obs_size, num_agents, num_actions, **own) for _ in range(num_agents)
        )
        one = self._one
        self.obs_size = obs_size
        self.num_agents, self.num_actions = num_agents, num_actions
        self.continuous, self.recurrent = one.continuous, one.recurrent
        self.hidden_size = one.hidden_size

    def of(self, agent: int) -> AgentNetwork:
        """Return the network of the agent with this index."""
        return cast(AgentNetwork, self.nets[agent])

    @property
    def _one(self) -> AgentNetwork:
        return self.of(0)

    @property
    def first(self) -> nn.Linear:
        """The first agent's first layer."""
        return self._one.first

    @property
    def last_table(self) -> nn.Parameter | None:
        """The first agent's; None if agents do not see their last actions."""
        return self._one.last_table

    @property
    def log_std(self) -> Tensor | None:
        """The agents' log standard deviations, (N, A), or None."""
        each = [cast(AgentNetwork, net).log_std for net in self.nets]
        return None if each[0] is None else torch.stack(cast("list[Tensor]", each))

    def extra(
        self,
        agents: Tensor | None,
        last_act: Tensor | None,
        side: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return the agents' indices and last actions as columns, which :meth:`step` takes."""
        ids = torch.zeros((), dtype=torch.int64) if agents is None else agents
        column = ids.to(self.first.weight).unsqueeze(-1)
        if self.last_table is None or last_act is None:
            return column
        last = last_act if self.continuous else last_act.unsqueeze(-1)
        last = last.to(column.dtype)
        return torch.cat([column.expand(*last.shape[:-1], 1), last], dim=-1)

    def step(
        self, obs: Tensor, extra: Tensor | None, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return (output (..., A), hidden (..., H) or None) of one step; obs (..., D).

        Without ``extra`` rows are in the team's order, (..., N, D).
        """
        n = self.num_agents
        order = torch.arange(n, device=obs.device)
        extra = self.extra(order, None) if extra is None else extra
        extra = extra.expand(*obs.shape[:-1], extra.shape[-1])
        ids = extra[..., 0].long()
        if ids.shape[-1:] == (n,) and bool((ids == order).all()):
            parts = [self._part(i, (..., i, slice(None)), obs, extra, hidden) for i in range(n)]
            states = [after for _, after in parts if after is not None]
            output = torch.stack([out for out, _ in parts], dim=-2)
            return output, torch.stack(states, dim=-2) if states else None
        output = obs.new_zeros(*obs.shape[:-1], self.num_actions)
        after = obs.new_zeros(*obs.shape[:-1], self.hidden_size) if self.recurrent else None
        for i in range(n):
            rows = ids == i
            output[rows], own = self._part(i, rows, obs, extra, hidden)
            if after is not None:
                after[rows] = cast(Tensor, own)
        return output, after

    def _part(
        self, i: int, rows: Any, obs: Tensor, extra: Tensor, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        net = self.of(i)
        last = extra[rows][..., 1:] if extra.shape[-1] > 1 else None
        if last is not None and not self.continuous:
            last = last.squeeze(-1).long()
        before = None if hidden is None else hidden[rows]
        return net.step(obs[rows], net.extra(None, last), before)

    def unroll(
        self,
        obs: Tensor,
        last_act: Tensor | None,
        side: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return what :meth:`AgentNetwork.unroll` does."""
        parts = [
            cast(AgentNetwork, net).unroll(
                obs[:, :, i : i + 1], None if last_act is None else last_act[:, :, i : i + 1]
            )
            for i, net in enumerate(self.nets)
        ]
        states = [before for _, before in parts if before is not None]
        output = torch.cat([out for out, _ in parts], dim=2)
        return output, torch.cat(states, dim=2) if states else None

    def plain(self) -> None:
        """Return None: rows of several networks are no :class:`PlainMLP`."""


Agents = AgentNetwork | SeparateAgents
"""The agents of a team, sharing a network or not."""
