"""FOP's mixing of soft values: the joint value of actions from each agent's advantage."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustmarl._checks import check_choice, check_flag, sizes_of

__all__ = ["FOPMixer"]

_TINY = 1e-10  # keeps weights positive where all keys are 0
_SOFTENING = 1e-3  # of FOP's later release


class FOPMixer(nn.Module):
    r"""The mixer of FOP [ZhangT2021]_.

    .. math:: Q_{tot} = \sum_i \lambda^i(s, a)\,[Q^i(a^i) - V^i] + \sum_i V^i + v(s), \qquad
              \lambda^i = \sum_j |k_j(s)|\, \sigma(f_{ji}(s))\, \sigma(g_{ji}(s, a)) > 0

    With ``attention`` each agent's part weighs as much as the state attends to it, as in Qatten
    [Yang2020]_ and FOP's later release, here by logits that are linear in the state:

    .. math:: Q_{tot} = \sum_i w^i(s)\,\bigl(\lambda^i(s, a)\,[Q^i(a^i) - V^i] + V^i\bigr) + v(s),
              \qquad w^i = \sum_j \mathrm{softmax}_i\, e_{ji}(s)

    Args:
        state_size: S.
        num_agents: N.
        num_actions: A, of actions or of their coordinates.
        heads: number of terms j, >= 1.
        hidden: width of v's hidden layer, >= 1.
        gradient: ``"fop"``: each :math:`Q^i` gets gradient 1 (:math:`w^i` with attention, which
            learns by these alone), :math:`V^i` none, and the weights learn from advantages as they
            are, which is what releases do; ``"exact"``: that of the equation.
        normalize_state: LayerNorm on the state.
        attention: see above; its learner adds :meth:`penalty` to the loss.

    Example:
        >>> import torch
        >>> mixer = FOPMixer(state_size=4, num_agents=2, num_actions=3)
        >>> weights = mixer.weights(torch.tensor([[0, 2]]), torch.zeros(1, 4))
        >>> weights.shape, bool((weights > 0).all())
        (torch.Size([1, 2]), True)
    """

    def __init__(
        self,
        state_size: int,
        num_agents: int,
        num_actions: int,
        *,
        heads: int = 4,
        hidden: int = 32,
        gradient: Literal["fop", "exact"] = "fop",
        normalize_state: bool = True,
        attention: bool = False,
    ) -> None:
        super().__init__()
        state_size, num_agents, num_actions, heads, hidden = sizes_of(
            "FOPMixer",
            state_size=state_size,
            num_agents=num_agents,
            num_actions=num_actions,
            heads=heads,
            hidden=hidden,
        )
        normalize_state = check_flag("FOPMixer.normalize_state", normalize_state)
        check_choice("FOPMixer.gradient", gradient, ("fop", "exact"))
        self.num_actions, self.gradient = num_actions, gradient
        self.attention = check_flag("FOPMixer.attention", attention)
        self._shape = (heads, num_agents)
        self.normalize = nn.LayerNorm(state_size) if normalize_state else nn.Identity()
        self.key = nn.Linear(state_size, heads)
        self.of_state = nn.Linear(state_size, heads * num_agents)
        self.of_act = nn.Linear(state_size + num_agents * num_actions, heads * num_agents)
        self.v = nn.Sequential(nn.Linear(state_size, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self.attend = nn.Linear(state_size, heads * num_agents) if attention else None

    def weights(self, act: Tensor, state: Tensor) -> Tensor:
        """Return lambda, (..., N), of joint actions in states (..., S); see :meth:`forward`."""
        return self._weights(act, self.normalize(state))

    def forward(self, q: Tensor, value: Tensor, act: Tensor, state: Tensor) -> Tensor:
        """Return Q_tot, (...,).

        Args:
            q: each agent's value of its part of the joint action, (..., N).
            value: each agent's soft value, (..., N).
            act: the joint action, int64 (..., N), or vectors (..., N, A).
            state: (..., S).
        """
        state = self.normalize(state)
        weights, bias = self._weights(act, state), self.v(state).squeeze(-1)
        gain = q - value
        if self.attend is not None:
            attention = self.attend(state).unflatten(-1, self._shape).softmax(dim=-1).sum(dim=-2)
            q, value, gain = attention * q, attention * value, attention * gain
        if self.gradient == "exact":
            return (weights * gain + value).sum(dim=-1) + bias
        return (q + (weights - 1.0) * gain.detach()).sum(dim=-1) + bias

    def penalty(self, state: Tensor) -> Tensor:
        """Return what keeps attention soft, (...,): .001 of its squared logits, summed over heads.

        Of agents it is the mean, as in FOP's later release.
        """
        if self.attend is None:
            return torch.zeros_like(state[..., 0])
        logits = self.attend(self.normalize(state)).unflatten(-1, self._shape)
        return _SOFTENING * logits.square().mean(dim=-1).sum(dim=-1)

    def _weights(self, act: Tensor, state: Tensor) -> Tensor:
        vectors = act if act.is_floating_point() else F.one_hot(act, self.num_actions)
        of_team = vectors.to(state.dtype).flatten(-2)
        key = self.key(state).abs() + _TINY
        of_state = self.of_state(state).unflatten(-1, self._shape).sigmoid()
        of_act = self.of_act(torch.cat([state, of_team], dim=-1)).unflatten(-1, self._shape)
        return (key.unsqueeze(-1) * of_state * of_act.sigmoid()).sum(dim=-2)
