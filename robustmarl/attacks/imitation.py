"""Observation attacks that make a victim act as an adversary would."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from robustmarl._checks import check, check_kind, speaking_for
from robustmarl.attacks.gradient import GradientAttack, Walk
from robustmarl.budgets import LinfBall, check_coordinates
from robustmarl.victims import VictimView

__all__ = ["AdversaryOutputs", "ByzantineOutputs", "Imitation", "toward_adversary"]


class ByzantineOutputs(Protocol):
    """An adversary that can be asked what it would do, like ``policies.ByzantinePolicy``."""

    def outputs(self, obs: Tensor, agents: Tensor, act: Tensor | None) -> Tensor:
        """Return logits or means (M, A), given observations, agents' indices and the team's act."""


@dataclass(frozen=True, eq=False)
class AdversaryOutputs:
    """A target for gradient attacks: what an adversary would do on the clean observation.

    Args:
        adversary: with ``outputs(obs, agents, act)``, like ``policies.ByzantinePolicy``.
    """

    adversary: ByzantineOutputs

    def __post_init__(self) -> None:
        kind = type(self.adversary).__name__
        if not callable(getattr(self.adversary, "outputs", None)):
            raise TypeError(
                f"{type(self).__name__}.adversary must be a ByzantinePolicy, got {kind}. Take the "
                "`policy` of a trained adversaries.ByzantineAttacker."
            )

    @torch.no_grad()
    def __call__(self, view: VictimView, obs: Tensor) -> Tensor:
        """Return the adversary's logits or means (M, A) for observations (M, D)."""
        agents = view.agents
        check(agents is not None, f"{type(self).__name__}.view", "told its rows' agents", agents)
        return self.adversary.outputs(obs, cast(Tensor, agents), None)


@dataclass(frozen=True, kw_only=True)
class Imitation(GradientAttack):
    """The attack that :func:`toward_adversary` makes: steps of a third of the radius."""

    def step_length(self, walk: Walk) -> float | Tensor:
        """Return a third of the radius [Li2024]_, one number or (D,), however many steps."""
        radius = self.ball.epsilon
        return self.ball.radius(walk.clean) / 3 if isinstance(radius, tuple) else radius / 3


def toward_adversary(
    adversary: ByzantineOutputs, ball: LinfBall | float, *, steps: int = 5
) -> Imitation:
    r"""Return the observation attack that makes a victim act like a trained adversary [Li2024]_.

    .. math:: \hat o_{u+1} = \Pi_{B_\epsilon(o)}\bigl(\hat o_u - \tfrac{\epsilon}{3}\,
              \mathrm{sgn} \nabla \lVert \pi(\hat o_u) - \hat\pi(o) \rVert^2\bigr)

    on logits of available actions, or on means. The victim keeps its own policy; use it on one
    agent by ``ObsPerturber(attack, agents=[name])``. Type slots that are no part of the
    observation stay; where they are, a ball with epsilon 0 for their coordinates keeps them.

    Args:
        adversary: a ``ByzantinePolicy``, trained against this team as a rule.
        ball: what may change, or its radius, in observation units.
        steps: gradient steps of a third of the radius, >= 1.

    Example:
        >>> from robustmarl.victims import FunctionVictim, Rows
        >>> class Fifth:  # would have every agent's mean action be 0.2
        ...     def outputs(self, obs, agents, act):
        ...         return torch.full((len(obs), 1), 0.2)
        >>> victim = FunctionVictim(lambda obs: obs, continuous=True)
        >>> view = victim.at(Rows(agents=torch.tensor([0])))
        >>> toward_adversary(Fifth(), 0.1)(view, torch.zeros(1, 1))
        tensor([[0.1000]])
    """
    where = "toward_adversary"
    if isinstance(ball, int | float | np.number):
        ball = LinfBall(epsilon=check_coordinates(f"{where}.ball", ball, 0.0))
    check_kind(f"{where}.ball", ball, LinfBall, "a LinfBall or a radius")
    with speaking_for(where, AdversaryOutputs), speaking_for(where, Imitation):
        return Imitation(ball=ball, steps=steps, loss="mse", target=AdversaryOutputs(adversary))
