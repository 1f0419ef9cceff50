"""A trained team is attacked at deployment: frozen, learning on, and after the attack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from robustmarl._checks import check_choice, check_int, check_kind, sizes_of, speaking_for
from robustmarl.attacks.base import ObsAttack
from robustmarl.data import Controller
from robustmarl.envs.vector import EnvMaker
from robustmarl.perturbers.base import Perturber
from robustmarl.training import Attacks, History, Log, OffPolicy, OnPolicy, Tests, Trainable, run
from robustmarl.training.trainers import check_trainable

__all__ = ["Adaptation", "adaptation"]

Curve = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Environment steps since the attack began, and values."""

_Learner = TypeVar("_Learner", bound=Trainable)


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """What became of a team; curves are (environment steps since the attack began, values).

    Attributes:
        frozen: of the team as it was, under attack: the same value all along, since every test
            plays the same episodes.
        adapting: of the team that goes on learning under attack, tested under it.
        without: of the same team, tested without attack, to the end.
        stopped: the step at which the attack stopped and learning went on without it.
    """

    frozen: Curve
    adapting: Curve
    without: Curve
    stopped: int


def adaptation(
    algorithm: _Learner,
    make_env: EnvMaker,
    attack: Callable[[_Learner], Attacks],
    *,
    env_steps: int,
    recovery_steps: int = 0,
    metric: str = "return",
    test_episodes: int = 32,
    num_envs: int = 10,
    seed: int = 0,
    team: str | None = None,
    opponents: Mapping[str, Controller] | None = None,
    interval: int | None = None,
    learn: OffPolicy | OnPolicy | None = None,
    log: Log | None = None,
) -> Adaptation:
    """Attack a trained team and let it learn on, as the first figure of TRAM does [Wu2022]_.

    Args:
        algorithm: trained; changed in place.
        make_env: builds one environment.
        attack: makes, of the algorithm, new attacks or perturbers: it is called twice, for what
            is learned from and for the tests. One that acts in training only has to be told
            ``when="always"``, or tests will not see it.
        env_steps: to learn under attack, >= 1.
        recovery_steps: to learn after it stopped, >= 0.
        metric: ``"return"`` or one of the environment's metrics.
        test_episodes: episodes per test, >= 1.
        num_envs: environments side by side, >= 1.
        seed: of episodes and sampling, >= 0.
        team: name of the attacked team, where there are several.
        opponents: controllers of the other teams.
        interval: steps between tests and checkpoints, >= 1; None is a twentieth of each run.
        learn: how it learns on; see :func:`~robustmarl.training.run`.
        log: where :func:`~robustmarl.training.run` keeps the two runs: in the folders ``attack``
            and ``recovery`` of ``logdir``.

    Raises:
        TypeError: if ``attack`` is an attack, not a function that makes one.
        ValueError: for a number out of range, or an unknown metric.

    Example:
        >>> from robustmarl import algorithms, attacks, envs, perturbers, training
        >>> team = algorithms.COMA.for_env(envs.climbing(), seed=0)
        >>> def poison(team):
        ...     random = attacks.RandomAttack()
        ...     return perturbers.ActionPoisonPerturber(random, learner=team, agent="agent_0")
        >>> quiet = training.Log(progress=False)
        >>> found = adaptation(
        ...     team, envs.climbing, poison, env_steps=100, test_episodes=2, log=quiet
        ... )
        >>> found.stopped, len(found.adapting[1]) == len(found.frozen[1])
        (100, True)
    """
    check_trainable("adaptation.algorithm", algorithm)
    env_steps, num_envs, test_episodes = sizes_of(
        "adaptation", env_steps=env_steps, num_envs=num_envs, test_episodes=test_episodes
    )
    recovery_steps = check_int("adaptation.recovery_steps", recovery_steps, 0)
    if log is not None:
        check_kind("adaptation.log", log, Log, "Log(...), or None")
    seed = check_int("adaptation.seed", seed, 0)
    check_choice("adaptation.metric", metric, ("return", *algorithm.spec.metrics))
    if isinstance(attack, ObsAttack | Perturber) or not callable(attack):
        raise TypeError(
            "adaptation.attack must be a function of the algorithm that makes an attack, "
            f"got {attack!r}. Write lambda algorithm: ..."
        )

    def learn_on(name: str, steps: int, seed: int, perturb: Attacks, tests: Tests) -> History:
        folder = None if log is None else log.folder
        with speaking_for("adaptation", run):
            return run(
                algorithm,
                make_env,
                env_steps=steps,
                num_envs=num_envs,
                seed=seed,
                team=team,
                opponents=opponents,
                perturb=perturb,
                interval=interval,
                learn=learn,
                tests=tests,
                log=log if log is None or folder is None else replace(log, logdir=folder / name),
            )

    perturb, tested = attack(algorithm), attack(algorithm)
    tests = Tests({"attack": tested, "none": None}, episodes=test_episodes)
    history = learn_on("attack", env_steps, seed, perturb, tests)
    steps, adapting = history.curve(f"attack/{metric}")
    without = history.curve(f"none/{metric}")
    stopped = int(steps[-1])
    if recovery_steps:
        # Other episodes than those that it has just learned from.
        tests = Tests({"none": None}, episodes=test_episodes)
        after = learn_on("recovery", recovery_steps, seed + 1, None, tests)
        later, values = after.curve(f"none/{metric}")
        # Its test before the first step repeats the last one.
        without = (
            np.append(without[0], stopped + later[1:]),
            np.append(without[1], values[1:]),
        )
    frozen = (steps, np.full(len(steps), adapting[0]))
    return Adaptation(frozen=frozen, adapting=(steps, adapting), without=without, stopped=stopped)
