"""IQL: every agent learns its own Q-values."""

from __future__ import annotations

from robustmarl.algorithms.value_based import ValueBased

__all__ = ["IQL"]


class IQL(ValueBased):
    """Independent Q-learning [Tan1993]_ with shared parameters, on team or own rewards.

    Example:
        >>> from robustmarl import envs, evaluation, training
        >>> def make():
        ...     return envs.MatrixGame([[0.0, 0.0], [0.0, 1.0]])
        >>> team = IQL.for_env(make(), seed=0)
        >>> _ = training.run(team, make, env_steps=300, log=training.Log(progress=False))
        >>> evaluation.rollout(team, make, episodes=1).returns
        array([1.])
    """
