"""Q-learning of agents that a mixer binds together: what teams and directors share."""

from __future__ import annotations

from torch import Tensor, nn

from robustmarl.joint import MASKED
from robustmarl.networks import Agents, AgentValues, Mixer
from robustmarl.schedules import Linear

__all__ = ["EXPLORATION", "MIXER_GAIN", "Mixed", "following_values"]

EXPLORATION = Linear(1.0, 0.05, over=50_000, unit="env_steps")
"""How Q-learners explore unless they are told: the defaults of PyMARL [Samvelyan2019]_."""

MIXER_GAIN = 0.1
"""``init_gain`` of QMIX's mixer unless told; it is ours: at torch's own draw first values are
large, and diverge."""


class Mixed(nn.Module):
    """Agents and mixer as one module, so that one copy makes the target."""

    def __init__(self, agents: Agents, mixer: Mixer | None) -> None:
        super().__init__()
        self.agents, self.mixer = agents, mixer

    def forward(self, values: AgentValues, state: Tensor) -> Tensor:
        """Return the team's value (...,) in ``state`` (..., S); without a mixer the agents' own."""
        return values.taken if self.mixer is None else self.mixer(values, state)


def following_values(
    online: Tensor, lagged: Tensor, mask: Tensor, *, double_q: bool = True
) -> AgentValues:
    """Return the lagged values of the joint actions that are greedy after each step.

    Args:
        online: the present network's values after each step, (B, T, N, A).
        lagged: the target network's, likewise.
        mask: available actions, bool (B, T, N, A).
        double_q: choose by the online values.
    """
    # Double Q-learning: who values an action must not be who found it best, else chance
    # errors in its favour add up.
    chooser = online if double_q else lagged
    greedy = chooser.masked_fill(~mask, MASKED).argmax(dim=-1)
    return AgentValues(lagged, mask, greedy)
