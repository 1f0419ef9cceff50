"""Attacks that learn, with the settings under which worst cases are taken."""

from __future__ import annotations

from collections.abc import Collection

import torch

from robustmarl.adversaries import PAAD, ObsAdversaryPPO, TeamPAAD
from robustmarl.algorithms import FACMAC
from robustmarl.budgets import LinfBall
from robustmarl.joint import TeamSpec
from robustmarl.learning.optim import adam
from robustmarl.perturbers import stor
from robustmarl.schedules import Linear

__all__ = ["director", "gaussian"]


def director(
    spec: TeamSpec,
    ball: LinfBall,
    *,
    steps: int,
    seed: int = 0,
    agents: Collection[str] | None = None,
    episodes: float = 1.0,
    device: torch.device | str = "cpu",
) -> PAAD | TeamPAAD:
    """Return the untrained director of the suite ``standard``.

    Args:
        spec: the team's; of continuous actions the director names vectors.
        ball: what it may change.
        steps: of its training, in half of which it stops to explore.
        seed: of its weights.
        agents: whom it attacks, None for all.
        episodes: the share of episodes in which it does, in [0, 1].
        device: where it learns.
    """
    half, generator = max(1, steps // 2), stor(ball, steps=10)
    if spec.continuous:
        optim = adam(1e-2, eps=1e-2)
        return TeamPAAD.for_env(
            spec,
            generator,
            kind=FACMAC,  # whatever the victim is: of those there are it learned to harm most
            exploration=Linear(1.0, 0.1, over=half, unit="env_steps"),
            seed=seed,
            agents=agents,
            episodes=episodes,
            optim=optim,
            critic_optim=optim,
            gamma=0.9,
            device=device,
        )
    return PAAD.for_env(
        spec,
        generator,
        exploration=Linear(1.0, 0.05, over=half, unit="env_steps"),
        seed=seed,
        agents=agents,
        episodes=episodes,
        optim=adam(1e-3),
        gamma=0.97,
        td_lambda=0.8,
        target_update=50,
        target_unit="updates",
        device=device,
    )


def gaussian(
    spec: TeamSpec,
    ball: LinfBall,
    *,
    seed: int = 0,
    agents: Collection[str] | None = None,
    device: torch.device | str = "cpu",
) -> ObsAdversaryPPO:
    """Return the untrained Gaussian of the same suite; arguments as of :func:`director`."""
    return ObsAdversaryPPO.for_env(
        spec,
        ball,
        seed=seed,
        agents=agents,
        optim=adam(1e-3),
        device=device,
    )
