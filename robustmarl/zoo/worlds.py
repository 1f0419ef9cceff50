"""What the zoo's teams play, and what attacks may do to them there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from robustmarl import envs
from robustmarl._checks import check_known, check_text
from robustmarl.budgets import LinfBall
from robustmarl.data import AnyPolicy
from robustmarl.envs.magent import Charge
from robustmarl.envs.skirmish import MAPS
from robustmarl.learning import adam
from robustmarl.learning.settings import OpenSettings
from robustmarl.training import OnPolicy
from robustmarl.typing import Env

__all__ = ["WORLDS", "Traitor", "World", "world"]


@dataclass(frozen=True, kw_only=True)
class Traitor:
    """How an agent learns to act against a team that stands still [Li2024]_.

    Attributes:
        make_env: builds the game in which it learns.
        env_steps: of its learning, for each agent that may be the traitor.
        num_envs: environments side by side.
        learn: how it learns.
        settings: of ``ByzantineAttacker.against``.
    """

    make_env: Callable[[], Env]
    env_steps: int
    num_envs: int
    learn: OnPolicy
    settings: OpenSettings


@dataclass(frozen=True, kw_only=True)
class World:
    """An environment, and the threat that its teams are measured under.

    Attributes:
        make_env: builds the environment.
        metric: what teams are measured by: ``"return"``, or one of the environment's own.
        ball: what attacks on observations may change; None where an agent may turn traitor.
        traitor: how the traitor learns, where one may turn; None elsewhere.
        team: whom the zoo's teams play, where there are several.
        opponents: what plays the other teams.
        episodes: behind the figures of a card: fewer where teams are large, and slow to attack.

    Example:
        >>> from robustmarl import budgets, envs
        >>> ball = budgets.LinfBall(epsilon=0.6)
        >>> signals = World(make_env=envs.SignalMatching, metric="return", ball=ball)
        >>> signals.make_env().possible_agents
        ['agent_0', 'agent_1']
    """

    make_env: Callable[[], Env]
    metric: str
    ball: LinfBall | None = None
    traitor: Traitor | None = None
    team: str | None = None
    opponents: Mapping[str, AnyPolicy] | None = None
    episodes: int = 200

    @property
    def threat(self) -> str:
        """What attacks may do, in words."""
        if self.ball is None:
            return "one agent acts against the team"
        size, low, high = self.ball.epsilon, self.ball.low, self.ball.high
        if isinstance(size, tuple) or isinstance(low, tuple) or isinstance(high, tuple):
            return f"observations change by {self.ball!r}"
        within = f", within [{low:g}, {high:g}]" if high - low < math.inf else ""
        return f"observations change by up to {size:g}{within}"

    @property
    def playing(self) -> OpenSettings:
        """Whom a team plays, and against whom: keywords of ``rollout``, ``run`` and others."""
        return {"team": self.team, "opponents": self.opponents}


def _signed(epsilon: float) -> LinfBall:
    return LinfBall(epsilon=epsilon, low=-1.0, high=1.0)


# Small maps first that a team without eyes cannot win; sizes as in the tables of the papers, or
# where those leave nothing standing the largest at which defences differ.
WORLDS: Mapping[str, World] = {
    "3s_vs_3z": World(
        make_env=partial(envs.skirmish, "3s_vs_3z"), metric="battle_won", ball=_signed(0.1)
    ),
    "2m_vs_1z": World(
        make_env=partial(envs.skirmish, "2m_vs_1z"), metric="battle_won", ball=_signed(0.1)
    ),
    "3m": World(make_env=partial(envs.skirmish, "3m"), metric="battle_won", ball=_signed(0.25)),
    "foraging": World(
        # Without its mask, which tells even the blind where food and walls are, and too short to
        # come upon food by chance.
        make_env=partial(
            envs.foraging_from_id, "Foraging-5x5-2p-1f-coop-v3", mask=False, horizon=20
        ),
        metric="success",
        ball=LinfBall(epsilon=0.25),
    ),
    "battle": World(
        make_env=partial(envs.battle, 20, horizon=200),
        metric="red_won",
        ball=LinfBall(epsilon=0.075, low=0.0, high=2.0),
        team="red",
        opponents={"blue": Charge(team="blue", random=0.7)},
        episodes=48,
    ),
    "toy": World(
        make_env=envs.ToyGame,
        metric="return",
        traitor=Traitor(
            make_env=envs.ToyGame,
            env_steps=40_000,
            num_envs=20,
            learn=OnPolicy(episodes_per_round=20, epochs=10),
            settings={"hidden": (64, 64), "clip": 0.2, "optim": adam(2e-3, 1e-5)},
        ),
    ),
    "4m_vs_3m": World(
        make_env=partial(envs.skirmish, "4m_vs_3m"),
        metric="battle_won",
        traitor=Traitor(
            make_env=partial(envs.skirmish, "4m_vs_3m", reward="signed"),
            env_steps=60_000,
            num_envs=32,
            learn=OnPolicy(steps_per_round=2_000, epochs=10),
            settings={"hidden": (64, 64), "clip": 0.2, "optim": adam(1e-3, 1e-5)},
        ),
    ),
}
"""Name to world, as in the names of teams."""


def world(name: str) -> World:
    """Return a world of the zoo, or that of any of skirmish's maps, or of another task here.

    What is not the zoo's has attacks of .1 on observations, on skirmish's maps within [-1, 1].
    ``merge`` and ``predator_prey``, in the world of FACMAC's release, have ATSA's: .05, within
    [-1, 1].

    Raises:
        ValueError: for another name, with those that are known.

    Example:
        >>> world("3s_vs_3z").metric, world("3s_vs_3z").ball.epsilon
        ('battle_won', 0.1)
    """
    chase = partial(envs.predator_prey, integrator="semi-implicit")
    others: dict[str, tuple[Callable[[], Env], str, LinfBall]] = {
        "spread": (envs.spread, "return", LinfBall(epsilon=0.1)),
        "merge": (envs.merge, "return", _signed(0.05)),
        "predator_prey": (chase, "return", _signed(0.05)),
    }
    others |= {one: (partial(envs.skirmish, one), "battle_won", _signed(0.1)) for one in MAPS}
    check_known("world.name", check_text("world.name", name), [*WORLDS, *(others.keys() - WORLDS)])
    if name in WORLDS:
        return WORLDS[name]
    make_env, metric, ball = others[name]
    return World(make_env=make_env, metric=metric, ball=ball)
