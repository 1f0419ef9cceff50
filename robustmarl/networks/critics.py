"""State-value networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustmarl._checks import check_choice
from robustmarl.networks.agents import Activation, check_widths, feed_forward

__all__ = ["Critic"]


class Critic(nn.Module):
    """V(x) or V(x, agent id) from a state or an observation.

    Args:
        size: size of the input.
        num_agents: N for one value per agent (ids enter the first layer), 0 for one value.
        hidden: widths of the hidden layers.
        activation: ``"relu"`` or ``"tanh"``.
        layer_norm: normalise the input, which states of unknown scale need.
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
        check_widths("Critic.hidden", hidden)
        check_choice("Critic.activation", activation, ("relu", "tanh"))
        self.normalize = nn.LayerNorm(size) if layer_norm else nn.Identity()
        self.first = nn.Linear(size, hidden[0])
        self.id_table = nn.Parameter(torch.zeros(num_agents, hidden[0])) if num_agents else None
        body = feed_forward((*hidden, 1), activation)
        self.rest = nn.Sequential({"relu": nn.ReLU, "tanh": nn.Tanh}[activation](), *body)

    def forward(self, x: Tensor) -> Tensor:
        """Return values: (...,) of (..., size), or (..., N) of (..., N, size) with ids."""
        x = self.first(self.normalize(x))
        if self.id_table is not None:
            x = x + self.id_table
        return self.rest(x).squeeze(-1)
