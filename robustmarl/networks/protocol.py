"""What policies and victims need of a team's network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from robustmarl.networks.calculus.plan import Plan

__all__ = ["Extra", "TeamNetwork"]


class Extra(NamedTuple):
    """What rows bring to a network besides their observations.

    Worked out once; it stays as it is while observations are perturbed.

    Attributes:
        added: what is added to the first layer's output, (..., H), or None.
        agents: whose rows they are, int64 (...,); None is agent 0.
    """

    added: Tensor | None = None
    agents: Tensor | None = None

    def plus(self, part: Tensor) -> Extra:
        """Return this with ``part`` (..., H) added to the first layer, too."""
        return self._replace(added=part if self.added is None else self.added + part)


class TeamNetwork(Protocol):
    """The agents of a team, acting row by row."""

    @property
    def obs_size(self) -> int:
        """D."""

    @property
    def num_actions(self) -> int:
        """A, the number of actions or of action coordinates."""

    @property
    def hidden_size(self) -> int:
        """H, 0 without memory."""

    def extra(
        self,
        agents: Tensor | None,
        last_act: Tensor | None,
        side: Mapping[str, Tensor] | None = None,
    ) -> Extra:
        """Return what rows bring besides their observations.

        Args:
            agents: indices, int64 (...,); None is agent 0.
            last_act: last actions, int64 (...,) with -1 for none, or float (..., A); None leaves
                them out.
            side: further inputs by name, (..., size) each.
        """

    def step(
        self, obs: Tensor, extra: Extra | None, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return (outputs (..., A), memory after (..., H) or None) of one step.

        Args:
            obs: (..., D).
            extra: of :meth:`extra`; None where the network needs none.
            hidden: the memory before, (..., H); None is empty.
        """

    def plan(self) -> Plan | None:
        """Return the layers that every row goes through, None if rows differ in them."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the weights."""
