"""Predators and prey: mpe2's simple_tag, and FACMAC's task of predators alone [Peng2021]_."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, cast

from typing_extensions import override

from robustmarl._checks import check_choice, check_flag, check_int, check_number
from robustmarl.envs._extras import require
from robustmarl.envs._mpe2 import NEIGHBORS, RawEnv, made_of, prepare_display
from robustmarl.envs._worlds import WorldRules, worlds_of
from robustmarl.envs.mpe import Action, MPEParallelEnv
from robustmarl.joint import VectorEngine, spec_of
from robustmarl.typing import Env

__all__ = ["ChaseEnv", "predator_prey", "tag"]

CAUGHT = "caught"  # the metric


class ChaseEnv(MPEParallelEnv):
    """A chase in mpe2's world; see :func:`tag` and :func:`predator_prey`.

    The infos say ``caught``: 1.0 if a predator has touched prey in this episode, else 0.0.

    Args:
        raw: ``mpe2.simple_tag_v3.raw_env``, or that of :func:`predator_prey`.
        name: what ``metadata["name"]`` shall say.
        teams: team name to its agents; None where there is one team.
        rules: ``"tag"`` or ``"predator_prey"``, played without further options, of which a batch
            can be compiled; None steps one environment after another.
    """

    _field = (-1.5, -1.5, 1.5, 1.5)
    _own: int | None = 2  # behind the velocity

    def __init__(
        self,
        raw: RawEnv,
        *,
        name: str,
        teams: Mapping[str, tuple[str, ...]] | None = None,
        rules: str | None = None,
    ) -> None:
        check_choice("ChaseEnv.rules", rules, (None, "tag", "predator_prey"))
        super().__init__(raw, name=name, team_reward="mean")
        self.metadata |= {"episode_metrics": (CAUGHT,)} | ({"teams": dict(teams)} if teams else {})
        self._caught, self._rules = False, rules
        if any(getattr(raw.scenario, few, None) for few in NEIGHBORS):
            self._own = None  # observations do not tell whose places they hold

    def make_engine(self, num_envs: int) -> VectorEngine:
        """Return ``num_envs`` environments like this one, stepped together; training uses it."""
        rules = self._rules and WorldRules(
            task=self._rules,
            spec=spec_of(self),
            world=self.raw.world,
            bounds=self._field,
            landmarks=0.9,
            sight=getattr(self.raw.scenario, "sight", math.inf),
            implicit=getattr(self.raw, "implicit", False),
        )
        return worlds_of(rules or None, self, num_envs)

    @override
    def _begin(self) -> None:
        self._caught = False

    @override
    def _advance(self, actions: list[Action]) -> dict[str, float]:
        rewards = super()._advance(actions)
        self._caught |= rewards[self.possible_agents[0]] > 0.0  # the first predator's
        return rewards

    @override
    def _infos(self) -> dict[str, dict[str, object]]:
        caught = {CAUGHT: float(self._caught)}
        return {agent: info | caught for agent, info in super()._infos().items()}


def tag(
    predators: int = 3,
    prey: int = 1,
    obstacles: int = 2,
    *,
    max_cycles: int = 25,
    continuous_actions: bool = False,
    render_mode: str | None = None,
    **options: object,
) -> Env:
    """Return mpe2's simple_tag, in which two teams learn: ``"predators"`` and ``"prey"``.

    Every contact earns each predator 10 and costs the prey that is touched 10; prey that leaves
    the square of edge 2 pays for how far it went. A team's reward is its agents' mean.

    Args:
        predators: ``adversary_0`` and so on, slower and larger, >= 1.
        prey: ``agent_0`` and so on, >= 1.
        obstacles: discs that nobody can pass, >= 0.
        max_cycles: the horizon, steps, at which an episode is truncated.
        continuous_actions: five motor values in [0, 1] in place of five indices.
        render_mode: ``"rgb_array"``, ``"human"`` or None.
        options: passed on to ``mpe2.simple_tag_v3.raw_env``.

    Raises:
        ImportError: if mpe2 is not installed.
        TypeError: for an argument of a wrong kind, or an unknown option.
        ValueError: for a value out of range.

    Example:
        >>> env = tag(predators=2, obstacles=1)
        >>> env.metadata["teams"]
        {'predators': ('adversary_0', 'adversary_1'), 'prey': ('agent_0',)}
    """
    predators, prey, obstacles, horizon, continuous_actions = _checked(
        "tag", predators, prey, obstacles, max_cycles, continuous_actions, render_mode, "max_cycles"
    )
    own = {
        "num_good": prey,
        "num_adversaries": predators,
        "num_obstacles": obstacles,
        "max_cycles": horizon,
        "continuous_actions": continuous_actions,
        "render_mode": render_mode,
    }
    raw = made_of("tag", require("mpe2.simple_tag_v3", "mpe").raw_env, own, options)
    agents = tuple(raw.possible_agents)
    teams = {"predators": agents[:predators], "prey": agents[predators:]}
    plain = not any(value for key, value in options.items() if key != "dynamic_rescaling")
    return ChaseEnv(raw, name="simple_tag_v3", teams=teams, rules="tag" if plain else None)


def predator_prey(
    predators: int = 3,
    prey: int = 1,
    obstacles: int = 2,
    *,
    sight: float | None = 1.5,
    prey_accel: float = 1.0,
    horizon: int = 25,
    integrator: Literal["explicit", "semi-implicit"] = "explicit",
    continuous_actions: bool = True,
    render_mode: str | None = None,
) -> Env:
    r"""Return FACMAC's predator-prey [Peng2021]_: predators that learn, prey that flees by a rule.

    The world is that of mpe2's simple_tag. Every contact of a predator and prey earns every
    predator 10, which is the team's reward. A predator observes its velocity and place, then where
    obstacles, other predators and prey are from it, then the prey's velocity; what is farther off
    than it sees is zero.

    Prey draws 100 points uniformly from the unit disc around it and makes for the one that is
    farthest from the predator that is nearest now, leaving out those where a predator would touch
    it; where all would, it does nothing.

    Args:
        predators: ``predator_0`` and so on, >= 1.
        prey: how many, >= 1.
        obstacles: discs that nobody can pass, >= 0.
        sight: how far predators see, > 0, in units of half the square's edge; None is everything.
        prey_accel: prey's acceleration, >= 0; predators' is 3. The release states 4, as mpe2 does,
            and does not apply it; with it prey outruns everybody.
        horizon: steps, at which an episode is truncated.
        integrator: ``"explicit"`` moves bodies by the velocity they had, as mpe2 does;
            ``"semi-implicit"`` by the one they have now, as the release does. Under the first
            every contact throws bodies apart faster than they met, and teams come to a third to
            three fifths of the returns that are published.
        continuous_actions: two motors in [-1, 1] in place of five indices.
        render_mode: ``"rgb_array"``, ``"human"`` or None.

    Raises:
        ImportError: if mpe2 is not installed.
        TypeError: for an argument of a wrong kind.
        ValueError: for a value out of range.

    Example:
        >>> from robustmarl.joint import spec_of
        >>> spec = spec_of(predator_prey())
        >>> spec.agents, spec.obs_size, spec.continuous, spec.metrics
        (('predator_0', 'predator_1', 'predator_2'), 16, True, ('caught',))
    """
    name = "predator_prey"
    predators, prey, obstacles, horizon, continuous_actions = _checked(
        name, predators, prey, obstacles, horizon, continuous_actions, render_mode, "horizon"
    )
    far = math.inf if sight is None else check_number(f"{name}.sight", sight, 0.0, open_low=True)
    prey_accel = check_number(f"{name}.prey_accel", prey_accel, 0.0)
    check_choice(f"{name}.integrator", integrator, ("explicit", "semi-implicit"))
    prepare_display()
    require("mpe2.simple_tag.simple_tag", "mpe")
    from robustmarl.envs._chase_world import PredatorPreyRawEnv

    raw = PredatorPreyRawEnv(
        predators=predators,
        prey=prey,
        obstacles=obstacles,
        sight=far,
        prey_accel=prey_accel,
        horizon=horizon,
        continuous_actions=continuous_actions,
        implicit=integrator == "semi-implicit",
        render_mode=render_mode,
    )
    return ChaseEnv(cast(RawEnv, raw), name=name, rules=name)


def _checked(
    name: str,
    predators: int,
    prey: int,
    obstacles: int,
    horizon: int,
    continuous_actions: bool,
    render_mode: str | None,
    called: str,
) -> tuple[int, int, int, int, bool]:
    """Return what both tasks take; ``called`` is what the horizon is there."""
    check_choice(f"{name}.render_mode", render_mode, (None, "rgb_array", "human"))
    return (
        check_int(f"{name}.predators", predators, 1),
        check_int(f"{name}.prey", prey, 1),
        check_int(f"{name}.obstacles", obstacles, 0),
        check_int(f"{name}.{called}", horizon, 1),
        check_flag(f"{name}.continuous_actions", continuous_actions),
    )
