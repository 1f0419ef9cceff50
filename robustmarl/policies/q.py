"""Epsilon-greedy over Q-values."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmarl._checks import check_number
from robustmarl._seeding import Draws
from robustmarl.joint import TeamSpec
from robustmarl.networks import Agents
from robustmarl.policies.base import TeamPolicy
from robustmarl.schedules import Schedule, as_schedule

__all__ = ["QPolicy"]


class QPolicy(TeamPolicy):
    """Greedy on Q-values; in training each agent explores with probability epsilon.

    Args:
        spec: the team's; discrete actions.
        network: its agents' Q-values.
        exploration: epsilon in [0, 1] over time.

    Example:
        >>> from robustmarl import envs, joint, networks
        >>> spec = joint.spec_of(envs.ToyGame())
        >>> policy = QPolicy(spec, networks.AgentNetwork(5, 2, 2), exploration=0.1)
        >>> policy.exploration(0)
        0.1
    """

    def __init__(self, spec: TeamSpec, network: Agents, exploration: float | Schedule) -> None:
        super().__init__(spec, network)
        self.exploration = as_schedule("QPolicy.exploration", exploration, 0.0, 1.0)

    @property
    def epsilon(self) -> float:
        """The present probability of exploring."""
        value = self.exploration(self.counted(self.exploration.unit))
        return check_number("QPolicy.exploration()", value, 0.0, 1.0)

    def select(
        self, output: Tensor, mask: Tensor, draws: Draws, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return greedy or exploring actions (E, N)."""
        greedy = output.argmax(dim=-1)
        epsilon = self.epsilon if training else 0.0
        if epsilon == 0.0:
            return greedy, None
        explore, which = draws.uniform(2 * greedy.shape[1]).split(greedy.shape[1], dim=1)
        # A uniform choice among available actions: the nth of them, where the mask's sum gets to n.
        order = mask.cumsum(dim=-1)
        nth = (which * order[..., -1]).long() + 1
        uniform = ((order == nth.unsqueeze(-1)) & mask).int().argmax(dim=-1)
        return torch.where(explore < epsilon, uniform, greedy), None
