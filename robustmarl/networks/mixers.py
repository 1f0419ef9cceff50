"""From agents' Q-values to the team's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustmarl._checks import check_flag, check_number, sizes_of
from robustmarl.joint import MASKED, at_actions

__all__ = ["AgentValues", "Mixer", "QMIXMixer", "VDNMixer", "WeightedMixer"]

# Keeps DOP's weights finite where all are 0, and is lost in rounding elsewhere.
_TINY = 1e-10


@dataclass(frozen=True)
class AgentValues:
    """What the agents know of a joint action: all that a mixer may make the team's value of.

    Args:
        q: each agent's values of all its actions, (..., N, A).
        mask: available actions, bool (..., N, A).
        act: the joint action, int64 (..., N).

    Example:
        >>> values = AgentValues(
        ...     q=torch.tensor([[[1.0, 2.0], [0.5, 0.0]]]),
        ...     mask=torch.ones(1, 2, 2).bool(),
        ...     act=torch.tensor([[0, 0]]),
        ... )
        >>> values.taken, values.best
        (tensor([[1.0000, 0.5000]]), tensor([[2.0000, 0.5000]]))
    """

    q: Tensor
    mask: Tensor
    act: Tensor

    @cached_property
    def taken(self) -> Tensor:
        """Each agent's value of its part of the joint action, (..., N)."""
        return at_actions(self.q, self.act)

    @cached_property
    def best(self) -> Tensor:
        """Each agent's highest value of an available action, (..., N)."""
        highest = self.q.masked_fill(~self.mask, MASKED).amax(dim=-1)
        # Padded steps have no available action; the filler would make their gradients NaN.
        return torch.where(self.mask.any(dim=-1), highest, self.taken)


class Mixer(nn.Module, ABC):
    """Q_tot of a joint action from the agents' values and the state; implement :meth:`forward`."""

    @abstractmethod
    def forward(self, values: AgentValues, state: Tensor) -> Tensor:
        """Return Q_tot (...,) of ``values`` (..., N) in ``state`` (..., S)."""

    if TYPE_CHECKING:  # torch types the call of a module as (*Any) -> Any

        def __call__(self, values: AgentValues, state: Tensor) -> Tensor:
            """Return what :meth:`forward` does."""


class VDNMixer(Mixer):
    r""":math:`Q_{tot} = \sum_i Q_i` [Sunehag2018]_.

    Example:
        >>> values = AgentValues(
        ...     q=torch.tensor([[[1.0, 2.0], [0.5, 0.0]]]),
        ...     mask=torch.ones(1, 2, 2).bool(),
        ...     act=torch.tensor([[1, 0]]),
        ... )
        >>> VDNMixer()(values, torch.zeros(1, 4))
        tensor([2.5000])
    """

    def forward(self, values: AgentValues, state: Tensor) -> Tensor:
        """Return the sum of the taken values, (...,); the state is not used."""
        return values.taken.sum(dim=-1)


class QMIXMixer(Mixer):
    r"""The monotone mixing network of QMIX [Rashid2018]_.

    .. math:: Q_{tot} = |H_2(s)|^\top \mathrm{elu}(|H_1(s)|^\top q + b_1(s)) + v(s)

    with two-layer hypernetworks H1, H2 and v, and a linear b1.

    Args:
        state_size: S.
        num_agents: N.
        embed: width of the mixing layer.
        hyper_hidden: width of the hypernetworks' hidden layer.
        normalize_state: LayerNorm on the state; without it states of large scale diverge.
        init_gain: factor on the hypernetworks' last layers at the start; 1 is torch's draw.

    Example:
        >>> q = torch.tensor([[[1.0, 2.0], [0.5, 0.0]]])
        >>> low, high = (
        ...     AgentValues(q=q, mask=torch.ones(1, 2, 2).bool(), act=torch.tensor([act]))
        ...     for act in ([0, 1], [1, 0])
        ... )
        >>> mixer, state = QMIXMixer(state_size=4, num_agents=2), torch.zeros(1, 4)
        >>> bool(mixer(low, state) <= mixer(high, state))  # monotone in every agent's value
        True
    """

    def __init__(
        self,
        state_size: int,
        num_agents: int,
        *,
        embed: int = 32,
        hyper_hidden: int = 64,
        normalize_state: bool = True,
        init_gain: float = 1.0,
    ) -> None:
        super().__init__()
        state_size, num_agents, embed, hyper_hidden = sizes_of(
            "QMIXMixer",
            state_size=state_size,
            num_agents=num_agents,
            embed=embed,
            hyper_hidden=hyper_hidden,
        )
        init_gain = check_number("QMIXMixer.init_gain", init_gain, 0.0, open_low=True)
        normalize_state = check_flag("QMIXMixer.normalize_state", normalize_state)
        self.num_agents, self.embed, self.hyper_hidden = num_agents, embed, hyper_hidden
        self.normalize = nn.LayerNorm(state_size) if normalize_state else nn.Identity()
        # One product gives the first layers of H1, H2, v and all of b1.
        self.first = nn.Linear(state_size, 2 * hyper_hidden + 2 * embed)
        self.w1 = nn.Linear(hyper_hidden, num_agents * embed)
        self.w2 = nn.Linear(hyper_hidden, embed)
        self.v = nn.Linear(embed, 1)
        with torch.no_grad():
            for layer in (self.w1, self.w2):
                layer.weight.mul_(init_gain)
                layer.bias.mul_(init_gain)

    def forward(self, values: AgentValues, state: Tensor) -> Tensor:
        """Return Q_tot (...,) of the taken ``values`` (..., N) in ``state`` (..., S)."""
        return self.mix(values.taken, state)

    def mix(self, q: Tensor, state: Tensor) -> Tensor:
        """Return Q_tot (...,) of values ``q`` (..., N) in ``state`` (..., S)."""
        hyper, embed = self.hyper_hidden, self.embed
        sizes = (hyper, hyper, embed, embed)
        of_w1, of_w2, of_v, b1 = self.first(self.normalize(state)).split(sizes, dim=-1)
        w1 = self.w1(of_w1.relu()).abs().unflatten(-1, (self.num_agents, embed))
        w2 = self.w2(of_w2.relu()).abs()
        mixed = F.elu((q.unsqueeze(-1) * w1).sum(dim=-2) + b1)
        return (mixed * w2).sum(dim=-1) + self.v(of_v.relu()).squeeze(-1)


class WeightedMixer(nn.Module):
    r"""The linear mixer of DOP [Wang2021]_: :math:`Q_{tot} = \sum_i k_i(s) Q_i`.

    .. math:: k(s) = \frac{|W_1(s)|\,|w_2(s)|}{\sum_i (|W_1(s)|\,|w_2(s)|)_i}

    so weights are not negative and sum to 1; there is no bias.

    Args:
        state_size: S.
        num_agents: N.
        embed: width between the two products.
        normalize_state: LayerNorm on the state.

    Example:
        >>> mixer = WeightedMixer(state_size=4, num_agents=2)
        >>> round(mixer(torch.tensor([3.0, 3.0]), torch.zeros(4)).item(), 4)  # weights sum to 1
        3.0
    """

    def __init__(
        self, state_size: int, num_agents: int, *, embed: int = 32, normalize_state: bool = True
    ) -> None:
        super().__init__()
        state_size, num_agents, embed = sizes_of(
            "WeightedMixer", state_size=state_size, num_agents=num_agents, embed=embed
        )
        normalize_state = check_flag("WeightedMixer.normalize_state", normalize_state)
        self.num_agents = num_agents
        self.normalize = nn.LayerNorm(state_size) if normalize_state else nn.Identity()
        self.w1 = nn.Linear(state_size, num_agents * embed)
        self.w2 = nn.Linear(state_size, embed)

    def weights(self, state: Tensor) -> Tensor:
        """Return k, (..., N), of ``state`` (..., S)."""
        state = self.normalize(state)
        w1 = self.w1(state).abs().unflatten(-1, (self.num_agents, -1))
        raw = (w1 * self.w2(state).abs().unsqueeze(-2)).sum(-1)
        return raw / (raw.sum(-1, keepdim=True) + _TINY)

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        """Return Q_tot (...,) from ``q`` (..., N) and ``state`` (..., S)."""
        return (self.weights(state) * q).sum(-1)
