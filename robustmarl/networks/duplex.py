"""Duplex dueling: a mixer that can make any team value whose best action is each agent's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustmarl._checks import check_flag, sizes_of
from robustmarl.networks.mixers import AgentValues, Mixer

__all__ = ["QPLEXMixer"]

_POSITIVE = 1e-10  # added to absolute values, so that no weight is zero and no advantage forgotten


class QPLEXMixer(Mixer):
    r"""The mixing network of QPLEX [WangJ2021]_.

    With the best value and the advantage of each agent's action, both transformed by
    :math:`w_i(s) > 0` and :math:`b_i(s)`,

    .. math:: V_i = w_i \max_{a'} Q_i(a') + b_i, \qquad
              A_i = w_i \bigl(Q_i(a_i) - \max_{a'} Q_i(a')\bigr) \le 0, \qquad
              Q_{tot} = \sum_i V_i + \sum_i \lambda_i(s, a) A_i

    where the importance weights come from K heads of attention, all factors positive:

    .. math:: \lambda_i(s, a) = \sum_{k=1}^K \upsilon_k(s)\, \varphi_{ik}(s)\, \lambda_{ik}(s, a)

    As :math:`\lambda_i > 0`, Q_tot is highest where all advantages are 0: at every agent's own best
    action. As :math:`\lambda` knows the joint action, nothing else is ruled out, while QMIX is held
    to functions that rise in each value. With :math:`w = \lambda = 1` and b = 0 it is VDN.

    Args:
        state_size: S.
        num_agents: N.
        num_actions: A.
        heads: K, >= 1.
        hyper_hidden: width of the hypernetworks' hidden layers, >= 1.
        normalize_state: LayerNorm on the state, which states of unknown scale need.
    """

    offsets: Tensor

    def __init__(
        self,
        state_size: int,
        num_agents: int,
        num_actions: int,
        *,
        heads: int = 4,
        hyper_hidden: int = 64,
        normalize_state: bool = True,
    ) -> None:
        super().__init__()
        state_size, num_agents, num_actions, heads, hyper_hidden = sizes_of(
            "QPLEXMixer",
            state_size=state_size,
            num_agents=num_agents,
            num_actions=num_actions,
            heads=heads,
            hyper_hidden=hyper_hidden,
        )
        normalize_state = check_flag("QPLEXMixer.normalize_state", normalize_state)
        self.num_agents, self.heads, self.hyper_hidden = num_agents, heads, hyper_hidden
        self.normalize = nn.LayerNorm(state_size) if normalize_state else nn.Identity()
        # One product gives the hidden layers of w, b, upsilon and phi, and the state's part of that
        # of lambda_k; one-hot actions enter the latter as rows of a table, the same linear map.
        self.first = nn.Linear(state_size, 5 * hyper_hidden)
        self.act_table = nn.Parameter(torch.empty(num_agents * num_actions, hyper_hidden))
        nn.init.uniform_(self.act_table, -(state_size**-0.5), state_size**-0.5)
        self.scale = nn.Linear(hyper_hidden, num_agents)
        self.shift = nn.Linear(hyper_hidden, num_agents)
        self.head_weight = nn.Linear(hyper_hidden, heads)
        self.agent_weight = nn.Linear(hyper_hidden, heads * num_agents)
        self.action_weight = nn.Linear(hyper_hidden, heads * num_agents)
        self.register_buffer("offsets", torch.arange(num_agents) * num_actions, persistent=False)

    def forward(self, values: AgentValues, state: Tensor) -> Tensor:
        """Return Q_tot (...,) of ``values`` (..., N) in ``state`` (..., S)."""
        hidden = self.first(self.normalize(state)).split(self.hyper_hidden, dim=-1)
        scale = self.scale(hidden[0].relu()).abs() + _POSITIVE
        shift = self.shift(hidden[1].relu())
        importance = self._importance(hidden[2], hidden[3], hidden[4], values.act)
        # The same sum, ordered as the paper learns it: no gradient passes through the advantages,
        # whose maximum would make it jump, so each Q_i learns by the first sum, lambda by both.
        advantage = (scale * (values.taken - values.best)).detach()
        transformed = scale * values.taken + shift
        return transformed.sum(dim=-1) + ((importance - 1.0) * advantage).sum(dim=-1)

    def _importance(self, of_head: Tensor, of_agent: Tensor, of_act: Tensor, act: Tensor) -> Tensor:
        """Return lambda (..., N) from hidden layers (..., H) and the joint action (..., N)."""
        rows = nn.functional.embedding(act + self.offsets, self.act_table)
        per_agent = (self.heads, self.num_agents)
        head = self.head_weight(of_head.relu()).abs() + _POSITIVE
        agent = self.agent_weight(of_agent.relu()).unflatten(-1, per_agent).sigmoid()
        action = self.action_weight((of_act + rows.sum(dim=-2)).relu())
        action = action.unflatten(-1, per_agent).sigmoid()
        return (head.unsqueeze(-1) * agent * action).sum(dim=-2)
