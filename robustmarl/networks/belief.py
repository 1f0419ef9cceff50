"""Beliefs about teammates' types, and networks that act on them."""

from __future__ import annotations

from itertools import pairwise
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustmarl._checks import check, check_int, check_kind, sizes_of
from robustmarl._seeding import seeded
from robustmarl.joint import TeamSpec
from robustmarl.networks.agents import AgentNetwork, AgentSettings
from robustmarl.networks.calculus.plan import Input, Vector
from robustmarl.networks.critics import Critic, CriticSettings
from robustmarl.networks.layers import check_widths

__all__ = ["BeliefNetwork", "TypedAgentNetwork", "TypedCritic"]

# PPO's usual gain of an output layer, here so that all beliefs start near one half.
_OUTPUT_GAIN = 0.01


class BeliefNetwork(nn.Module):
    r"""Every agent's belief that each agent is Byzantine, from its own observations so far.

    .. math:: b_t^i = \sigma(f(o_{\le t}^i)) \in (0, 1)^N

    LayerNorm, then linear layers with ReLU and LayerNorm, a GRU, LayerNorm and a linear layer
    [Li2024]_. Agents share it; their ids enter the first layer. Trained by cross-entropy against
    the types, it approaches the posterior under the prior it is trained with.

    Args:
        spec: the team's.
        hidden: widths of the layers before the GRU.
        memory: H, the GRU's size.
        seed: of the initial weights; torch's global generator is left as it was.

    Example:
        >>> import torch
        >>> from robustmarl import envs, joint
        >>> belief = BeliefNetwork(joint.spec_of(envs.ToyGame()))
        >>> belief.unroll(torch.zeros(7, 100, 2, 5))[0].shape
        torch.Size([7, 100, 2, 2])
    """

    def __init__(
        self,
        spec: TeamSpec,
        *,
        hidden: tuple[int, ...] = (128, 128, 128),
        memory: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_kind("BeliefNetwork.spec", spec, TeamSpec, "a TeamSpec", "Write spec_of(env).")
        hidden = check_widths("BeliefNetwork.hidden", hidden)
        seed = check_int("BeliefNetwork.seed", seed, 0)
        self.hidden_size = memory = check_int("BeliefNetwork.memory", memory, 1)
        self.hidden, self.memory = hidden, memory
        self.obs_size, self.num_agents = spec.obs_size, spec.num_agents
        with seeded(seed, "belief"):
            self.normalize = nn.LayerNorm(spec.obs_size)
            self.first = nn.Linear(spec.obs_size, hidden[0])
            self.id_table = nn.Parameter(torch.empty(spec.num_agents, hidden[0]))
            nn.init.orthogonal_(self.id_table)
            layers: list[nn.Module] = [nn.ReLU(), nn.LayerNorm(hidden[0])]
            for fan_in, fan_out in pairwise(hidden):
                layers += [nn.Linear(fan_in, fan_out), nn.ReLU(), nn.LayerNorm(fan_out)]
            self.rest = nn.Sequential(*layers)
            self.gru = nn.GRU(hidden[-1], memory)
            self.last_norm = nn.LayerNorm(memory)
            self.head = nn.Linear(memory, spec.num_agents)
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    gain = _OUTPUT_GAIN if module is self.head else nn.init.calculate_gain("relu")
                    nn.init.orthogonal_(module.weight, gain)
                    nn.init.zeros_(module.bias)
            for weight in self.gru.parameters():
                nn.init.zeros_(weight) if weight.dim() == 1 else nn.init.orthogonal_(weight)

    def check_spec(self, spec: TeamSpec) -> None:
        """Raise ``ValueError`` unless it was made for a team of these sizes."""
        made_for, asked = (self.obs_size, self.num_agents), (spec.obs_size, spec.num_agents)
        rule = f"made for this team: observation size and number of agents {asked}"
        check(made_for == asked, "BeliefNetwork", rule, made_for)

    def step(self, obs: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return beliefs (..., N, N), ``[..., i, j]`` i's about j, and memory (..., N, H).

        Args:
            obs: (..., N, D), N in the team's order.
            hidden: memory before, (..., N, H); None is empty.
        """
        return self._step(obs, self.id_table, hidden)

    def step_rows(
        self, obs: Tensor, agents: Tensor | None, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return beliefs (..., N) and memory (..., H) of single agents' observations (..., D)."""
        agents = torch.zeros((), dtype=torch.int64) if agents is None else agents
        return self._step(obs, F.embedding(agents.to(obs.device), self.id_table), hidden)

    def _step(self, obs: Tensor, ids: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        encoded = self._encode(obs, ids)
        rows = encoded.reshape(-1, encoded.shape[-1])
        size = (len(rows), self.hidden_size)
        before = rows.new_zeros(size) if hidden is None else hidden.reshape(size)
        # The cell alone: a GRU module wants an axis of time, which costs more than the step.
        after = torch.gru_cell(rows, before, *self.gru.all_weights[0])
        after = after.view(*encoded.shape[:-1], self.hidden_size)
        return torch.sigmoid(self.head(self.last_norm(after))), after

    def unroll(self, obs: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return logits (B, T, N, N) and the memory after each step, (B, T, N, H).

        Args:
            obs: (B, T, N, D).
            hidden: memory before the first step, (B, N, H); None is empty.
        """
        encoded = self._encode(obs, self.id_table)
        batch, steps, agents, width = encoded.shape
        start = None if hidden is None else hidden.reshape(1, batch * agents, -1).contiguous()
        rows = encoded.transpose(0, 1).reshape(steps, batch * agents, width)
        states, _ = self.gru(rows, start)
        states = states.view(steps, batch, agents, -1).transpose(0, 1)
        return self.head(self.last_norm(states)), states

    def _encode(self, obs: Tensor, ids: Tensor) -> Tensor:
        """Return the GRU's input (..., F) of ``obs`` (..., D) and rows of the id table."""
        encoded: Tensor = self.rest(self.first(self.normalize(obs)) + ids)
        return encoded


class TypedAgentNetwork(AgentNetwork):
    """An actor that N type slots enter beside the observation, as ``side["slots"]``.

    Slots, (..., N), are a block of the first layer's input, a table like that of ids: without
    slots, or with zeros, it is an :class:`AgentNetwork` (without, bit for bit).

    Args:
        obs_size: D.
        num_agents: N.
        num_actions: A.
        settings: of :class:`AgentNetwork`.

    Example:
        >>> import torch
        >>> network = TypedAgentNetwork(obs_size=5, num_agents=3, num_actions=2)
        >>> slots = torch.ones(7, 10, 3, 3)  # what each agent believes of each
        >>> network.unroll(torch.zeros(7, 10, 3, 5), None, {"slots": slots})[0].shape
        torch.Size([7, 10, 3, 2])
    """

    def __init__(
        self,
        obs_size: int,
        num_agents: int,
        num_actions: int,
        **settings: Unpack[AgentSettings],
    ) -> None:
        super().__init__(obs_size, num_agents, num_actions, **settings)
        rule = "without memory: the belief network has it"
        check(not self.recurrent, "TypedAgentNetwork.recurrent", rule, True)
        self.slot_table = nn.Parameter(torch.zeros(num_agents, self.first.out_features))

    def draw_slots(self, generator: torch.Generator) -> None:
        """Draw the slots' weights; apart, so that the other draws are those without slots."""
        bound = self.first.in_features**-0.5  # torch's own draw of a linear layer
        nn.init.uniform_(self.slot_table, -bound, bound, generator=generator)

    def inputs(self) -> tuple[Input, ...]:
        """Return the blocks of the first layer's input besides the observation."""
        return (*super().inputs(), Vector("slots", self.slot_table))


class TypedCritic(Critic):
    """A critic that N type slots enter beside the state; see :class:`TypedAgentNetwork`.

    Args:
        size: S; slots are not normalised.
        slots: N.
        settings: of :class:`Critic`.

    Example:
        >>> import torch
        >>> TypedCritic(size=4, slots=2)(torch.zeros(7, 4), torch.ones(7, 2)).shape
        torch.Size([7])
    """

    def __init__(self, size: int, slots: int, **settings: Unpack[CriticSettings]) -> None:
        super().__init__(size, **settings)
        (slots,) = sizes_of(type(self).__name__, slots=slots)
        self.slot_table = nn.Parameter(torch.zeros(slots, self.first.out_features))

    def draw_slots(self, generator: torch.Generator) -> None:
        """Draw the slots' weights."""
        bound = self.first.in_features**-0.5  # torch's own draw of a linear layer
        nn.init.uniform_(self.slot_table, -bound, bound, generator=generator)

    def forward(self, x: Tensor, slots: Tensor | None = None) -> Tensor:
        """Return values as :class:`Critic` does, of inputs (..., S) and slots (..., N)."""
        if slots is None:
            return super().forward(x)
        x = x.expand(*slots.shape[:-1], x.shape[-1])  # a team's one state is valued per agent
        features = self.first(self.normalize(x)) + slots @ self.slot_table
        if self.id_table is not None:
            features = features + self.id_table
        value: Tensor = self.rest(features).squeeze(-1)
        return value
