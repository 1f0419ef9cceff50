"""Centralised critics: values of states, and of states with joint actions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustmarl._checks import check_choice, check_int
from robustmarl.networks.agents import Activation, check_widths, feed_forward

__all__ = ["Critic", "JointCritic"]


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


class JointCritic(nn.Module):
    r"""Q(s, a_1, ..., a_N) with actions as vectors, in which it is differentiable.

    Args:
        state_size: S.
        num_agents: N.
        num_actions: A, the number of actions (one-hot) or of action coordinates.
        hidden: widths of the hidden layers.
        normalize_state: LayerNorm on the state, which states of unknown scale need.
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
        check_widths("JointCritic.hidden", hidden)
        sizes = {"state_size": state_size, "num_agents": num_agents, "num_actions": num_actions}
        for name, size in sizes.items():
            check_int(f"JointCritic.{name}", size, 1)
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
