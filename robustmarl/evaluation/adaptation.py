"""A trained team is attacked at deployment: frozen, learning on, and after the attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustmarl._checks import check_choice, check_int
from robustmarl.attacks.base import ObsAttack
from robustmarl.perturbers.base import Perturber
from robustmarl.training import run

__all__ = ["Adaptation", "adaptation"]

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


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
    team: Any,
    make_env: Callable[[], Any],
    attack: Callable[[Any], ObsAttack | Perturber],
    *,
    env_steps: int,
    recovery_steps: int = 0,
    metric: str = "return",
    seed: int = 0,
    logdir: str | Path | None = None,
    **settings: Any,
) -> Adaptation:
    """Attack a trained team and let it learn on, as the first figure of TRAM does [Wu2022]_.

    Args:
        team: a trained algorithm; changed in place.
        make_env: builds one environment.
        attack: makes, of the team, a new attack or perturber: it is called twice, for what is
            learned from and for the tests. One that acts in training only has to be told
            ``when="always"``, or tests will not see it.
        env_steps: to learn under attack, >= 1.
        recovery_steps: to learn after it stopped, >= 0.
        metric: ``"return"`` or one of the environment's metrics.
        seed: of episodes and sampling, >= 0.
        logdir: where :func:`~robustmarl.training.run` keeps ``attack`` and ``recovery``.
        settings: for :func:`~robustmarl.training.run`, both times.

    Raises:
        TypeError: if ``attack`` is an attack, not a function that makes one; for ``perturb`` or
            ``tests`` in the settings.
        ValueError: for a number out of range, or an unknown metric.
    """
    check_int("adaptation.env_steps", env_steps, 1)
    check_int("adaptation.recovery_steps", recovery_steps, 0)
    spec = getattr(getattr(team, "team", team), "spec", None)
    if spec is not None:  # else run refuses the team
        check_choice("adaptation.metric", metric, ("return", *spec.metrics))
    if isinstance(attack, ObsAttack | Perturber) or not callable(attack):
        raise TypeError(
            "adaptation.attack must be a function of the team that makes an attack, "
            f"got {attack!r}. Write lambda team: ..."
        )
    own = sorted({"perturb", "tests"} & settings.keys())
    if own:
        raise TypeError(f"adaptation.settings must be without what it sets itself, got {own}.")
    history = run(
        team,
        make_env,
        env_steps=env_steps,
        perturb=[attack(team)],
        tests={"attack": [attack(team)], "none": ()},
        seed=seed,
        logdir=None if logdir is None else Path(logdir) / "attack",
        **settings,
    )
    steps, adapting = history.curve(f"attack/{metric}")
    without = history.curve(f"none/{metric}")
    stopped = int(steps[-1])
    if recovery_steps:
        after = run(
            team,
            make_env,
            env_steps=recovery_steps,
            tests={"none": ()},
            seed=seed + 1,
            logdir=None if logdir is None else Path(logdir) / "recovery",
            **settings,
        )
        later, values = after.curve(f"none/{metric}")
        # Its test before the first step repeats the last one.
        without = (
            np.append(without[0], stopped + later[1:]),
            np.append(without[1], values[1:]),
        )
    frozen = (steps, np.full(len(steps), adapting[0]))
    return Adaptation(frozen=frozen, adapting=(steps, adapting), without=without, stopped=stopped)
