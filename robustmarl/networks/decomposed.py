"""Critics of every action an agent could take, and their weighted sum."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustmarl._checks import check_int
from robustmarl.networks.agents import check_widths, feed_forward

__all__ = ["ActionCritic", "WeightedMixer"]


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
        check_widths("ActionCritic.hidden", hidden)
        for name, size in {
            "state_size": state_size,
            "obs_size": obs_size,
            "num_agents": num_agents,
            "num_actions": num_actions,
        }.items():
            check_int(f"ActionCritic.{name}", size, 1)
        self.num_actions, self.others, self.dueling = num_actions, others, dueling
        width = hidden[0]
        self.state_norm = nn.LayerNorm(state_size) if normalize_state else nn.Identity()
        self.of_state = nn.Linear(state_size, width)
        self.of_obs = nn.Linear(obs_size, width, bias=False)
        self.id_table = nn.Parameter(torch.zeros(num_agents, width))
        shape = (num_agents * num_actions, width)
        self.act_table = nn.Parameter(torch.zeros(shape)) if others else None
        if self.act_table is not None:
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
        x = self.of_state(self.state_norm(state)).unsqueeze(-2)
        x = x + self.of_obs(obs) + self.id_table
        if self.act_table is not None:
            assert act is not None  # COMA passes it
            rows = nn.functional.embedding(act + self.offsets, self.act_table)
            x = x + (rows.sum(-2, keepdim=True) - rows)
        out = self.rest(x)
        return out[..., 1:] + out[..., :1] if self.dueling else out


class WeightedMixer(nn.Module):
    r"""The linear mixer of DOP [Wang2021]_: :math:`Q_{tot} = \sum_i k_i(s) Q_i`.

    .. math:: k(s) = \frac{|W_1(s)|\,|w_2(s)|}{\sum_i (|W_1(s)|\,|w_2(s)|)_i}

    so weights are not negative and sum to 1; there is no bias.

    Args:
        state_size: S.
        num_agents: N.
        embed: width between the two products.
        normalize_state: LayerNorm on the state.
    """

    def __init__(
        self, state_size: int, num_agents: int, *, embed: int = 32, normalize_state: bool = True
    ) -> None:
        super().__init__()
        check_int("WeightedMixer.embed", embed, 1)
        self.num_agents = num_agents
        self.normalize = nn.LayerNorm(state_size) if normalize_state else nn.Identity()
        self.w1 = nn.Linear(state_size, num_agents * embed)
        self.w2 = nn.Linear(state_size, embed)

    def weights(self, state: Tensor) -> Tensor:
        """Return k, (..., N), of ``state`` (..., S)."""
        state = self.normalize(state)
        w1 = self.w1(state).abs().unflatten(-1, (self.num_agents, -1))
        raw = (w1 * self.w2(state).abs().unsqueeze(-2)).sum(-1)
        return raw / (raw.sum(-1, keepdim=True) + 1e-10)

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        """Return Q_tot (...,) from ``q`` (..., N) and ``state`` (..., S)."""
        return (self.weights(state) * q).sum(-1)
