"""Victims against attacks: the table that every robustness claim needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from robustmarl._checks import (
    check,
    check_flag,
    check_int,
    check_kind,
    check_text,
    sizes_of,
    speaking_for,
)
from robustmarl.data import AnyPolicy, Controller, RandomController, as_controller
from robustmarl.envs.vector import EnvMaker, vector_env
from robustmarl.evaluation.rollouts import rollout
from robustmarl.evaluation.tables import Cell, CrossTable
from robustmarl.joint import TeamSpec
from robustmarl.learning import TeamAlgorithm
from robustmarl.perturbers import Perturber
from robustmarl.perturbers.stack import listed
from robustmarl.training import Attacks, Trainable
from robustmarl.training.progress import progress_bar

__all__ = ["TeamController", "crossplay"]


@runtime_checkable
class TeamController(Controller, Protocol):
    """A controller that says which team it plays: a policy, or a random team."""

    @property
    def spec(self) -> TeamSpec:
        """The team's."""


Victim: TypeAlias = Trainable | AnyPolicy
"""What is attacked: an algorithm, or whatever can play the team."""

Victims: TypeAlias = Victim | Sequence[Victim] | Mapping[int, Victim]
"""One, or one per training seed."""


def crossplay(
    victims: Mapping[str, Victims],
    attacks: Mapping[str, Attacks],
    make_env: EnvMaker,
    *,
    episodes: int = 200,
    metric: str | None = None,
    num_envs: int = 10,
    seed: int = 0,
    team: str | None = None,
    opponents: Mapping[str, AnyPolicy] | None = None,
    baselines: bool = True,
    title: str = "",
    progress: bool | str = False,
) -> CrossTable:
    """Return how every victim does under every attack.

    All cells play the same episodes, so differences between them are paired. Gradient attacks
    query the victim that they attack; for a transfer attack give
    ``ObsPerturber(attack, victim=other)``.

    Args:
        victims: name to a trained algorithm, or to one per training seed: a mapping from seed,
            or a sequence. Intervals are over training seeds; with one, over its episodes only. A
            policy from elsewhere is one, too: see :func:`~robustmarl.data.as_controller`.
        attacks: name to an attack, perturber, several in order, or None for clean episodes.
        make_env: builds one environment.
        episodes: per cell and training seed, >= 1.
        metric: ``"return"`` or one of the environment's metrics; None takes its first metric,
            or the return if it has none.
        num_envs: environments side by side, >= 1.
        seed: of the episodes, >= 0.
        team: name of the team that the victims play, where there are several.
        opponents: what plays the other teams, the same in all cells.
        baselines: add the random team, and an untrained one of the first victim's kind.
        title: printed above the table.
        progress: show a bar over the cells' seeds; a text names it.

    Raises:
        TypeError: for victims or attacks without names, or of another kind.
        ValueError: for no victim or attack, an unknown metric, bad numbers, a victim that does
            not fit the team, or one without a gradient under an attack that follows it.

    Warns:
        RobustnessWarning: if an attack changed no observation of a victim.
    """
    for where, given in (("victims", victims), ("attacks", attacks)):
        if not isinstance(given, Mapping):
            kind, rule = type(given).__name__, "a mapping from names"
            raise TypeError(f"crossplay.{where} must be {rule}, got {kind}. Write {{'name': ...}}.")
    check(len(victims) > 0, "crossplay.victims", "non-empty", victims)
    check(len(attacks) > 0, "crossplay.attacks", "non-empty", attacks)
    for name, attack in attacks.items():
        listed(f"crossplay.attacks[{name!r}]", attack)
    episodes, num_envs = sizes_of("crossplay", episodes=episodes, num_envs=num_envs)
    seed = check_int("crossplay.seed", seed, 0)
    baselines = check_flag("crossplay.baselines", baselines)
    title = check_text("crossplay.title", title)
    kinds = bool | np.bool_ | str
    check_kind("crossplay.progress", progress, kinds, "a bool, or the bar's name")
    if metric is not None:
        metric = check_text("crossplay.metric", metric)
    if baselines:
        taken = sorted({"random", "untrained"}.intersection(victims))
        remedy = "Rename it, or pass baselines=False."
        check(not taken, "crossplay.victims", "named unlike the baselines", taken, remedy)
    by_name = {name: _by_seed(name, given) for name, given in victims.items()}
    first = next(iter(by_name.values()))
    spec = _team_spec(by_name, make_env, team)
    played = {
        name: {s: _playing(name, victim, spec) for s, victim in by_seed.items()}
        for name, by_seed in by_name.items()
    }
    known = ("return", *spec.metrics)
    figure = metric or (*spec.metrics, "return")[0]
    check(figure in known, "crossplay.metric", f"one of {list(known)}", metric)

    def play(victim: Controller, attack: Attacks, seed: int) -> NDArray[np.float64]:
        with speaking_for("crossplay", rollout):
            rollouts = rollout(
                victim,
                make_env,
                episodes=episodes,
                perturb=attack,
                num_envs=num_envs,
                seed=seed,
                team=team,
                opponents=opponents,
            )
        return rollouts.figure(figure)

    flagged: list[str] = []
    on_random: dict[str, list[Perturber]] = {}
    if baselines:
        on_random = {name: _on_actions(attack) for name, attack in attacks.items()}
        flagged.append("random")
        learners = {s: one for s, one in first.items() if isinstance(one, TeamAlgorithm)}
        if len(learners) == len(first):
            fresh = {s: one.untrained(seed=s) for s, one in learners.items()}
            playing = {s: _playing("untrained", one, spec) for s, one in fresh.items()}
            played = {"untrained": playing, **played}
            flagged.append("untrained")
    cells: dict[str, dict[str, Cell]] = {}
    total = len(attacks) * sum(len(by_seed) for by_seed in played.values())
    total += len(first) * (bool(on_random) + sum(map(bool, on_random.values())))
    desc = progress if isinstance(progress, str) else "crossplay"
    with progress_bar(total=total, desc=desc, unit="cell", disable=not progress) as bar:

        def scores_of(victim: Controller, attack: Attacks, seed: int) -> NDArray[np.float64]:
            scores = play(victim, attack, seed)
            bar.update()
            return scores

        if baselines:
            model = next(iter(next(iter(played.values())).values()))
            random = RandomController(spec, model.device)

            def random_cell(attack: Attacks) -> Cell:
                # A random team has no training seeds: other episodes stand for another seed.
                return Cell({s: scores_of(random, attack, seed + i) for i, s in enumerate(first)})

            # It does not look at observations: only what changes its actions changes its play.
            clean = random_cell(None)
            cells["random"] = {
                name: random_cell(acting) if acting else clean for name, acting in on_random.items()
            }
        for name, by_seed in played.items():
            cells[name] = {
                attack_name: Cell({s: scores_of(one, attack, seed) for s, one in by_seed.items()})
                for attack_name, attack in attacks.items()
            }
    return CrossTable(cells=cells, metric=figure, baselines=tuple(flagged), title=title)


def _on_actions(attack: Attacks) -> list[Perturber]:
    """Return those of an attack's perturbers that change actions, whatever a team observes."""
    perturbers = (one for one in listed("crossplay.attacks", attack) if isinstance(one, Perturber))
    return [perturber for perturber in perturbers if perturber.changes_actions]


def _by_seed(name: str, given: Victims) -> Mapping[int, Victim]:
    if isinstance(given, Mapping):
        by_seed = {int(seed): victim for seed, victim in given.items()}
    elif isinstance(given, Sequence):
        by_seed = dict(enumerate(given))
    else:
        by_seed = {0: given}
    check(len(by_seed) > 0, f"crossplay.victims[{name!r}]", "at least one algorithm", given)
    return by_seed


def _team_spec(
    by_name: Mapping[str, Mapping[int, Victim]], make_env: EnvMaker, team: str | None
) -> TeamSpec:
    """Return the team's spec, which policies of this package know; else the environment's."""
    for by_seed in by_name.values():
        for victim in by_seed.values():
            if isinstance(victim, Trainable | TeamController):
                return victim.spec
    with speaking_for("crossplay", vector_env):
        env = vector_env(make_env, 1)
    try:
        with speaking_for("crossplay", TeamSpec):
            return env.spec.of_team(team)
    finally:
        env.close()


def _playing(name: str, victim: Victim, spec: TeamSpec) -> Controller:
    return as_controller(f"crossplay.victims[{name!r}]", cast(AnyPolicy, victim), spec)
