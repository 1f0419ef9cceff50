"""A policy that stays as it is, whatever learns around it."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor

from robustmarl._checks import check_kind
from robustmarl._seeding import Draws
from robustmarl.joint import StepContext, TeamSpec
from robustmarl.networks import TeamNetwork
from robustmarl.policies.base import TeamPolicy
from robustmarl.victims import NetworkVictim

__all__ = ["FrozenPolicy"]


class FrozenPolicy(TeamPolicy):
    """A copy of a policy that never learns and always acts as in evaluation.

    It neither explores nor is told the truth, even within a training step; its weights need no
    gradient. Only its own counters go on, so that an adversary's training can be counted.

    Args:
        policy: what is copied; it is left as it is.

    Example:
        >>> from robustmarl import algorithms, envs
        >>> team = algorithms.QMIX.for_env(envs.ToyGame(), seed=0)
        >>> any(weight.requires_grad for weight in FrozenPolicy(team.policy).parameters())
        False
    """

    def __init__(self, policy: TeamPolicy) -> None:
        check_kind("FrozenPolicy.policy", policy, TeamPolicy, "a TeamPolicy")
        copied = copy.deepcopy(policy).requires_grad_(False).eval()
        super().__init__(copied.spec, copied.network)
        self.copied = copied

    @property
    def hidden_size(self) -> int:
        """H, 0 without memory."""
        return self.copied.hidden_size

    @property
    def whole(self) -> TeamNetwork:
        """The network from observations to outputs, all of the memory included."""
        return self.copied.whole

    def victim(self) -> NetworkVictim:
        """Return the copy's view."""
        return self.copied.victim()

    def side(self, context: StepContext) -> Mapping[str, Tensor]:
        """Return the copy's further inputs."""
        return self.copied.side(context)

    def acted_on(self, context: StepContext) -> Mapping[str, Tensor]:
        """Return the further inputs with which the copy last answered."""
        return self.copied.acted_on(context)

    def loss_victim(self) -> NetworkVictim:
        """Return the copy's view for rows that carry what :meth:`acted_on` gives."""
        return self.copied.loss_victim()

    def record(self) -> Mapping[str, Tensor]:
        """Return what the copy acted on beside observations."""
        return self.copied.record()

    def check_spec(self, spec: TeamSpec) -> None:
        """Raise ``ValueError`` unless the copy was made for such a team."""
        self.copied.check_spec(spec)

    def infer(self, context: StepContext) -> tuple[Tensor, Tensor | None]:
        """Return the copy's outputs."""
        return self.copied.infer(context)

    def select(
        self, output: Tensor, mask: Tensor, draws: Draws, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the copy's actions as in evaluation."""
        return self.copied.select(output, mask, draws, False)
