"""Networks of teams: one shared by all agents, told apart by their ids, or one for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypedDict, Unpack, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustmarl._checks import (
    check,
    check_choice,
    check_each,
    check_index,
    check_number,
    flags_of,
    sizes_of,
    speaking_for,
)
from robustmarl.networks.calculus.plan import Input, OneHot, Plan, Vector
from robustmarl.networks.layers import Activation, activation_of, check_widths, feed_forward
from robustmarl.networks.protocol import Extra

__all__ = [
    "AgentNetwork",
    "AgentSettings",
    "Agents",
    "SeparateAgents",
]

Index = Tensor | tuple[slice | int, ...]
"""Picks rows: where a bool tensor (...,) holds, or at one place of the axis of agents."""

Memory = Callable[[nn.GRU, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""Maps a GRU, its input and the memory before it to its output, and to what is kept of it."""


class AgentSettings(TypedDict, total=False):
    """Keywords of :class:`AgentNetwork`."""

    hidden: tuple[int, ...]
    recurrent: bool
    agent_id: bool
    last_action: bool
    mean_action: bool
    continuous: bool
    squash: bool
    activation: Activation
    layer_norm: bool
    output_gain: float | None
    columns: tuple[int, ...] | None


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
        mean_action: whether their neighbours' mean action, (..., A), is a side input ``mean_act``.
        continuous: whether outputs are means of actions in [-1, 1]; adds ``log_std``.
        squash: bound outputs by tanh, without ``log_std``: a deterministic continuous actor.
        activation: ``"relu"`` or ``"tanh"``.
        layer_norm: normalise before each activation.
        output_gain: the last layer is drawn orthogonal with this gain > 0; None keeps torch's draw.
        columns: the observation's coordinates that it reads; None is all.

    Attributes:
        team: the indices of all agents, in order.

    Example:
        >>> network = AgentNetwork(obs_size=5, num_agents=3, num_actions=2, recurrent=True)
        >>> episodes = torch.zeros(7, 10, 3, 5)  # episodes, steps, agents, observations
        >>> output, hidden = network.unroll(episodes, last_act=None)
        >>> output.shape, hidden.shape
        (torch.Size([7, 10, 3, 2]), torch.Size([7, 10, 3, 64]))
    """

    team: Tensor

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
        mean_action: bool = False,
        continuous: bool = False,
        squash: bool = False,
        activation: Activation = "relu",
        layer_norm: bool = False,
        output_gain: float | None = None,
        columns: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        obs_size, num_agents, num_actions = sizes_of(
            name, obs_size=obs_size, num_agents=num_agents, num_actions=num_actions
        )
        recurrent, agent_id, last_action, mean_action, layer_norm = flags_of(
            name,
            recurrent=recurrent,
            agent_id=agent_id,
            last_action=last_action,
            mean_action=mean_action,
            layer_norm=layer_norm,
        )
        continuous, squash = flags_of(name, continuous=continuous, squash=squash)
        if columns is not None:
            columns = check_each(f"{name}.columns", columns, check_index, "a tuple of indices")
            good = len(columns) > 0 and all(0 <= column < obs_size for column in columns)
            check(good, f"{name}.columns", f"at least one index below {obs_size}", columns)
        self.obs_size, self.columns = obs_size, None if columns is None else list(columns)
        read_size = obs_size if columns is None else len(columns)
        check(continuous or not squash, f"{name}.squash", "False for logits", squash)
        check_choice(f"{name}.activation", activation, get_args(Activation))
        hidden = check_widths(f"{name}.hidden", hidden)
        if output_gain is not None:
            output_gain = check_number(f"{name}.output_gain", output_gain, 0.0, open_low=True)
        self.num_agents, self.num_actions = num_agents, num_actions
        self.register_buffer("team", torch.arange(num_agents), persistent=False)
        self.continuous, self.recurrent = continuous, recurrent
        width = hidden[0]
        self.hidden_size = width if recurrent else 0
        fan_in = read_size + agent_id * num_agents + (last_action + mean_action) * num_actions
        self.first = nn.Linear(read_size, width)
        self.id_table = nn.Parameter(torch.empty(num_agents, width)) if agent_id else None
        self.last_table = nn.Parameter(torch.empty(num_actions, width)) if last_action else None
        self.mean_table = nn.Parameter(torch.empty(num_actions, width)) if mean_action else None
        # torch's own draw of a linear layer whose input is the concatenation of all blocks.
        bound = fan_in**-0.5
        tables = self.id_table, self.last_table, self.mean_table
        for weight in (self.first.weight, self.first.bias, *tables):
            if weight is not None:
                nn.init.uniform_(weight, -bound, bound)
        output_layer: nn.Module
        bend: list[nn.Module] = [nn.LayerNorm(width)] if layer_norm else []
        bend.append(activation_of(activation))
        if recurrent:
            self.gru = nn.GRU(width, width)
            self.rest = nn.Sequential(*bend)
            self.head: nn.Module = nn.Linear(width, num_actions)
            output_layer = self.head
        else:
            body = feed_forward((*hidden, num_actions), activation, layer_norm)
            self.rest = nn.Sequential(*bend, *body)
            self.head = nn.Identity()
            output_layer = body[-1]
        if output_gain is not None:
            assert isinstance(output_layer, nn.Linear)  # built above
            nn.init.orthogonal_(output_layer.weight, output_gain)
            nn.init.zeros_(output_layer.bias)
        if squash and recurrent:
            self.head = nn.Sequential(self.head, nn.Tanh())
        elif squash:
            self.rest.append(nn.Tanh())
        is_gaussian = continuous and not squash
        self.log_std = nn.Parameter(torch.zeros(num_actions)) if is_gaussian else None

    def inputs(self) -> tuple[Input, ...]:
        """Return the blocks of the first layer's input besides the observation."""
        found: list[Input] = []
        if (table := self.id_table) is not None:
            found.append(OneHot("agents", table))
        if (table := self.last_table) is not None:
            vectors = self.continuous
            found.append(Vector("last_act", table) if vectors else OneHot("last_act", table, True))
        if (table := self.mean_table) is not None:
            found.append(Vector("mean_act", table))
        return tuple(found)

    def plan(self) -> Plan | None:
        """Return the network's layers as they are now, None if one of them is not known."""
        return Plan.of(self.first, *self._after_first(), inputs=self.inputs(), columns=self.columns)

    def _after_first(self) -> tuple[nn.Module, ...]:
        """Return what follows the first layer, in order: what is run, and what is read."""
        return (self.rest, self.gru, self.head) if self.recurrent else (self.rest,)

    def extra(
        self,
        agents: Tensor | None,
        last_act: Tensor | None,
        side: Mapping[str, Tensor] | None = None,
    ) -> Extra:
        """Return what ids, last actions and side inputs add to the first layer.

        Args:
            agents: indices, int64, any shape; None is agent 0.
            last_act: last actions, int64 like ``agents`` with -1 for none, or float (..., A).
            side: further inputs by name, (..., size) each; those that :meth:`inputs` names.

        Raises:
            ValueError: for a side input that this network does not have.
        """
        if agents is None and self.id_table is not None:
            agents = torch.zeros((), dtype=torch.int64)
        given = {"agents": agents, "last_act": last_act}
        if side:
            unknown = set(side).difference(block.name for block in self.inputs())
            rule = f"among the inputs of this {type(self).__name__}"
            check(not unknown, "extra.side", rule, sorted(unknown))
            given |= side
        return self.with_inputs(Extra(None, agents), given)

    def with_inputs(self, extra: Extra, given: Mapping[str, Tensor | None]) -> Extra:
        """Return ``extra`` with the inputs in ``given``, by their names, added to it."""
        added = extra.added
        for block in self.inputs():
            values = given.get(block.name)
            if values is not None:
                # everybody in order: the table as it is, without looking up its rows
                part = block.table if values is self.team else block.added(values)
                added = part if added is None else added + part
        return Extra(added, extra.agents)

    def step(
        self, obs: Tensor, extra: Extra | None, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return (output (..., A), hidden (..., H) or None) of one step; obs (..., D)."""
        return self._run(obs, extra, _next_state, hidden)

    def unroll(
        self,
        obs: Tensor,
        last_act: Tensor | None,
        side: Mapping[str, Tensor] | None = None,
        hidden: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return outputs (B, T, N, A) and, if recurrent, states before each step (B, T, N, H).

        Args:
            obs: (B, T, N, D), N in the team's order.
            last_act: actions before each step, (B, T, N) int64 or (B, T, N, A) float.
            side: further inputs by name, (B, T, N, size) each.
            hidden: memory before the first step, (B, N, H); None is empty.
        """
        return self._run(obs, self.extra(self.team, last_act, side), _all_states, hidden)

    def _run(
        self, obs: Tensor, extra: Extra | None, remember: Memory, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        # Modules are called, not their plan's layers: hooks and layers put in later count.
        output = self.first(obs if self.columns is None else obs[..., self.columns])
        added = None if extra is None else extra.added
        if added is not None:
            output = output + added
        kept = None
        for layer in self._after_first():
            if isinstance(layer, nn.GRU):
                output, kept = remember(layer, output, hidden)
            else:
                output = layer(output)
        return output, kept


def _next_state(gru: nn.GRU, given: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return memory after one step, (..., H), as output and as what is kept."""
    rows = given.reshape(-1, gru.input_size)
    before = torch.zeros_like(rows) if hidden is None else hidden.reshape(rows.shape)
    # The cell alone: a GRU module wants an axis of time, which costs more than the step.
    after = torch.gru_cell(rows, before, *gru.all_weights[0]).view(given.shape)
    return after, after


def _all_states(gru: nn.GRU, given: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return memory after each of the steps (B, T, N, H), and memory before them."""
    batch, steps, agents, width = given.shape
    start = None if hidden is None else hidden.reshape(1, batch * agents, width).contiguous()
    states, _ = gru(given.transpose(0, 1).reshape(steps, batch * agents, width), start)
    states = states.view(steps, batch, agents, width).transpose(0, 1)
    # One step later. Detached: who starts from a state takes it as given.
    before = F.pad(states[:, :-1], (0, 0, 0, 0, 1, 0)).detach()
    if hidden is not None:
        before[:, 0] = hidden
    return states, before


class SeparateAgents(nn.Module):
    """A network of its own for every agent, used like one :class:`AgentNetwork`.

    Args:
        obs_size: D.
        num_agents: N.
        num_actions: A.
        settings: of every :class:`AgentNetwork`; there are no agent ids.

    Attributes:
        team: the indices of all agents, in order.

    Example:
        >>> network = SeparateAgents(obs_size=5, num_agents=3, num_actions=2)
        >>> output, _ = network.unroll(torch.zeros(7, 10, 3, 5), last_act=None)
        >>> output.shape, network.of(0) is network.of(1)
        (torch.Size([7, 10, 3, 2]), False)
    """

    team: Tensor

    def __init__(
        self,
        obs_size: int,
        num_agents: int,
        num_actions: int,
        **settings: Unpack[AgentSettings],
    ) -> None:
        super().__init__()
        settings["agent_id"] = False
        obs_size, num_agents, num_actions = sizes = sizes_of(
            "SeparateAgents", obs_size=obs_size, num_agents=num_agents, num_actions=num_actions
        )
        with speaking_for(self, AgentNetwork):
            self.nets = nn.ModuleList(AgentNetwork(*sizes, **settings) for _ in range(num_agents))
        self.obs_size = obs_size
        self.num_agents, self.num_actions = num_agents, num_actions
        self.register_buffer("team", torch.arange(num_agents), persistent=False)
        shape = self._first_net
        self.continuous, self.recurrent = shape.continuous, shape.recurrent
        self.hidden_size = shape.hidden_size

    def of(self, agent: int) -> AgentNetwork:
        """Return the network of the agent with this index."""
        return cast(AgentNetwork, self.nets[agent])

    @property
    def _first_net(self) -> AgentNetwork:
        """The first agent's network; all others have its shape."""
        return self.of(0)

    @property
    def first(self) -> nn.Linear:
        """The first agent's first layer."""
        return self._first_net.first

    @property
    def last_table(self) -> nn.Parameter | None:
        """The first agent's; None if agents do not see their last actions."""
        return self._first_net.last_table

    @property
    def mean_table(self) -> nn.Parameter | None:
        """The first agent's; None if agents do not see their neighbours' mean action."""
        return self._first_net.mean_table

    @property
    def log_std(self) -> Tensor | None:
        """The agents' log standard deviations, (N, A), or None."""
        each = [self.of(i).log_std for i in range(self.num_agents)]
        return None if each[0] is None else torch.stack(cast("list[Tensor]", each))

    def plan(self) -> None:
        """Return None: rows go through several networks; see :meth:`of` for one of them."""

    def extra(
        self,
        agents: Tensor | None,
        last_act: Tensor | None,
        side: Mapping[str, Tensor] | None = None,
    ) -> Extra:
        """Return what last actions and side inputs add to the first layers, and whose rows.

        Args:
            agents: indices, int64, any shape; None is agent 0.
            last_act: last actions, int64 like ``agents`` with -1 for none, or float (..., A).
            side: further inputs by name, (..., size) each.
        """
        agents = torch.zeros((), dtype=torch.int64) if agents is None else agents
        agents = agents.to(self.first.weight.device)
        if (self.last_table is None or last_act is None) and not side:
            return Extra(None, agents)
        # Every agent's table is looked up here, not at each of the steps that share the result.
        of_rows = [] if last_act is None else [last_act[..., 0] if self.continuous else last_act]
        of_rows += [values[..., 0] for values in (side or {}).values()]
        agents = torch.broadcast_tensors(agents, *of_rows)[0]
        added = self.first.weight.new_empty(*agents.shape, self.first.out_features)
        for net, rows in self._parts(agents):
            last = None if last_act is None else last_act[rows]
            part = {name: values[rows] for name, values in (side or {}).items()}
            added[rows] = cast(Tensor, net.extra(None, last, part).added)
        return Extra(added, agents)

    def step(
        self, obs: Tensor, extra: Extra | None, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return (output (..., A), hidden (..., H) or None) of one step; obs (..., D).

        Without ``extra`` rows are in the team's order, (..., N, D).
        """
        shape = obs.shape[:-1]
        extra = Extra(None, self.team) if extra is None else extra
        agents = torch.zeros((), dtype=torch.int64) if extra.agents is None else extra.agents
        agents = agents.to(obs.device).expand(shape)
        added = None if extra.added is None else extra.added.expand(*shape, -1)
        output = obs.new_zeros(*shape, self.num_actions)
        after = obs.new_zeros(*shape, self.hidden_size) if self.recurrent else None
        for net, rows in self._parts(agents):
            brought = Extra(None if added is None else added[rows])
            before = None if hidden is None else hidden[rows]
            output[rows], state = net.step(obs[rows], brought, before)
            if after is not None and state is not None:
                after[rows] = state
        return output, after

    def _parts(self, agents: Tensor) -> Iterator[tuple[AgentNetwork, Index]]:
        """Return every agent's network and where its rows are among those of ``agents`` (...,)."""
        alike = agents.shape[-1:] == self.team.shape  # then they may be in the team's order
        in_order = agents is self.team or (alike and bool((agents == self.team).all()))
        every = (slice(None),) * (agents.dim() - 1)
        for i in range(self.num_agents):
            # A slice, where rows are in the team's order, is a view; a mask has to be searched.
            yield self.of(i), (*every, i) if in_order else agents == i

    def unroll(
        self,
        obs: Tensor,
        last_act: Tensor | None,
        side: Mapping[str, Tensor] | None = None,
        hidden: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return what :meth:`AgentNetwork.unroll` does."""
        outputs, states = [], []
        for i in range(self.num_agents):
            one = slice(i, i + 1)
            last = None if last_act is None else last_act[:, :, one]
            part = {name: values[:, :, one] for name, values in (side or {}).items()}
            start = None if hidden is None else hidden[:, one]
            output, before = self.of(i).unroll(obs[:, :, one], last, part, start)
            outputs.append(output)
            if before is not None:
                states.append(before)
        return torch.cat(outputs, dim=2), torch.cat(states, dim=2) if states else None


Agents = AgentNetwork | SeparateAgents
"""The agents of a team, sharing a network or not."""
