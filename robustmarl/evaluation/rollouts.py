"""Seeded episodes of a team, with or without attack."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray

from robustmarl._checks import check_int, sizes_of, speaking_for
from robustmarl._seeding import mix, stream_id
from robustmarl.data import AnyPolicy, JointCollector, as_controller
from robustmarl.envs.vector import EnvMaker, vector_env
from robustmarl.joint import TeamSpec
from robustmarl.perturbers.obs import ObsPerturber, as_perturber
from robustmarl.perturbers.stack import Attacks, listed
from robustmarl.policies import TeamPolicy
from robustmarl.training import Trainable, is_trainable
from robustmarl.typing import RobustnessWarning

__all__ = ["Playing", "Rollouts", "rollout"]

Playing: TypeAlias = Trainable | AnyPolicy
"""What plays a team: an algorithm or policy of this package or another, a module, a script."""


@dataclass(frozen=True)
class Rollouts:
    """Figures of played episodes, in the order in which they began.

    Attributes:
        returns: team return per episode, (episodes,).
        lengths: steps per episode, (episodes,).
        metrics: the environment's own figures per episode.
        counters: what each perturbation did.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    metrics: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    counters: dict[str, float] = field(default_factory=dict)

    def figure(self, name: str) -> NDArray[np.float64]:
        """Return ``return`` or one of the metrics, (episodes,)."""
        return self.returns if name == "return" else self.metrics[name]


@torch.inference_mode(False)  # callers may be in it, where autograd is out of an attack's reach
def rollout(
    policy: Playing,
    make_env: EnvMaker,
    *,
    episodes: int = 100,
    perturb: Attacks = None,
    num_envs: int = 10,
    seed: int = 0,
    team: str | None = None,
    opponents: Mapping[str, AnyPolicy] | None = None,
) -> Rollouts:
    """Play episodes and return their figures; learning and its random streams are untouched.

    Episode k is the same for every policy and attack of the same ``seed``: comparisons are paired.

    Args:
        policy: an algorithm, policy or controller; acts as trained (actors stay stochastic). Or
            one from elsewhere: whatever :func:`~robustmarl.data.as_controller` takes.
        make_env: builds one environment.
        episodes: how many, >= 1; all that begin are finished and counted.
        perturb: an attack, a perturber, or several in order; None is clean.
        num_envs: environments side by side, >= 1.
        seed: of the episodes, >= 0.
        team: name of the team that it plays, where there are several.
        opponents: what plays the other teams, as ``policy``.

    Raises:
        TypeError: for what cannot play.
        ValueError: for bad numbers, what does not fit the team, or an attack that follows the
            gradient of what has none.

    Warns:
        RobustnessWarning: if an attack with a budget changed no observation at all.

    Example:
        >>> from robustmarl import algorithms, envs
        >>> team = algorithms.QMIX.for_env(envs.ToyGame(), seed=0)
        >>> played = rollout(team, envs.ToyGame, episodes=3)
        >>> played.lengths, played.returns.shape
        (array([100, 100, 100]), (3,))
    """
    episodes, num_envs = sizes_of("rollout", episodes=episodes, num_envs=num_envs)
    seed = check_int("rollout.seed", seed, 0)
    perturbers = [as_perturber(one) for one in listed("rollout.perturb", perturb)]
    with speaking_for("rollout", vector_env):
        env = vector_env(make_env, min(num_envs, episodes), _home(policy))
    try:
        with speaking_for("rollout", TeamSpec):
            spec = env.spec.of_team(team)
        played = as_controller("rollout.policy", cast(AnyPolicy, policy), spec)
        with speaking_for("rollout", JointCollector):
            collector = JointCollector(
                played,
                env,
                team=team,
                opponents=opponents,
                perturb=perturbers,
                seed=mix(seed, stream_id("evaluation")) & (2**62 - 1),
            )
        with torch.no_grad():
            stats = collector.collect(n_episode=episodes)
    finally:
        env.close()
    for perturber in perturbers:
        if isinstance(perturber, ObsPerturber):
            perturber.warn_if_idle()
            if perturber.attack.ball.is_zero:
                warnings.warn(
                    f"{perturber.attack!r} has no budget: this is an evaluation without attack.",
                    RobustnessWarning,
                    stacklevel=2,
                )
    return Rollouts(stats.returns, stats.lens, stats.metrics, stats.counters)


def _home(policy: Playing) -> torch.device:
    """Return where a policy of this package lives; others are asked for actions on the CPU."""
    if is_trainable(policy):
        return policy.policy.device
    return policy.device if isinstance(policy, TeamPolicy) else torch.device("cpu")
