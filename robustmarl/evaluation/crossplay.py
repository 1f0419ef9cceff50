"""Victims against attacks: the table that every robustness claim needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

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
from robustmarl.envs.vector import EnvMaker
from robustmarl.evaluation.blind import (
    FOLDS,
    TRAINED_BLIND,
    blindfolds,
    check_unlike_blind,
    warn_of_blind,
)
from robustmarl.evaluation.cells import Cell
from robustmarl.evaluation.rollouts import rollout
from robustmarl.evaluation.statistics import Limits, check_limits, limits_of
from robustmarl.evaluation.tables import CrossTable
from robustmarl.evaluation.teams import Victims, by_seed, playing, team_spec
from robustmarl.learning import TeamAlgorithm
from robustmarl.perturbers import Perturber, ZeroedObs
from robustmarl.perturbers.stack import listed
from robustmarl.training import Attacks
from robustmarl.training.progress import progress_bar

__all__ = ["changing_actions", "crossplay"]


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
    blind: bool = False,
    trained_blind: Victims | None = None,
    limits: Limits | None = None,
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
        blind: add each victim without its eyes, as baselines: with observations ``zeroed``, and
            with ``another's``, those of another episode.
        trained_blind: a team that learned without eyes, or one per training seed, a baseline that
            is shown zeros whatever the attack; see :func:`~robustmarl.evaluation.train_blind`.
        limits: the range of the metric; see :func:`~robustmarl.evaluation.interval`.
        title: printed above the table.
        progress: show a bar over the cells' seeds; a text names it.

    Raises:
        TypeError: for victims or attacks without names, or of another kind.
        ValueError: for no victim or attack, an unknown metric, bad numbers, a victim that does
            not fit the team, or one without a gradient under an attack that follows it.

    Warns:
        RobustnessWarning: if an attack changed no observation of a victim, or if blind it keeps,
            or a team trained blind has, most of what it gains over the random team without attack.

    Example:
        >>> from robustmarl import attacks, budgets, envs
        >>> def as_shown(obs):  # plays the signal that it sees
        ...     return obs
        >>> tried = {"none": None, "PGD": attacks.PGD(ball=budgets.LinfBall(epsilon=0.6))}
        >>> table = crossplay({"as shown": as_shown}, tried, envs.SignalMatching)
        >>> table.mean("as shown", "none"), table.mean("as shown", "PGD")
        (10.0, 0.0)
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
    if trained_blind is not None:
        rule = f"named unlike {TRAINED_BLIND!r}, which is a baseline"
        check(TRAINED_BLIND not in victims, "crossplay.victims", rule, list(victims))
    if blind:
        check_unlike_blind("crossplay.victims", victims)
    by_name = {n: by_seed(f"crossplay.victims[{n!r}]", v) for n, v in victims.items()}
    first = next(iter(by_name.values()))
    spec = team_spec(by_name, make_env, team)
    played = playing("crossplay.victims", by_name, spec)
    known = ("return", *spec.metrics)
    figure = metric or (*spec.metrics, "return")[0]
    check(figure in known, "crossplay.metric", f"one of {list(known)}", metric)
    limits = limits_of(figure, check_limits("crossplay.limits", limits))

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

    rows, trained = {**played}, [*played]
    never_saw: dict[int, Controller] = {}
    if trained_blind is not None:
        where = "crossplay.trained_blind"
        never_saw = {
            s: as_controller(where, cast(AnyPolicy, one), spec)
            for s, one in by_seed(where, trained_blind).items()
        }
    if baselines:
        learners = {s: one for s, one in first.items() if isinstance(one, TeamAlgorithm)}
        if len(learners) == len(first):
            fresh = {s: one.untrained(seed=s) for s, one in learners.items()}
            rows = {**playing("crossplay.victims", {"untrained": fresh}, spec), **rows}
    acting = {name: changing_actions(attack) for name, attack in attacks.items()}
    unseeing = 1 + sum(map(bool, acting.values()))
    total = len(attacks) * sum(len(seeds) for seeds in rows.values())
    if baselines:
        total += unseeing * len(first)
    if blind:
        total += 2 * unseeing * sum(len(seeds) for seeds in played.values())
    total += unseeing * len(never_saw)
    cells: dict[str, dict[str, Cell]] = {}
    desc = progress if isinstance(progress, str) else "crossplay"
    with progress_bar(total=total, desc=desc, unit="cell", disable=not progress) as bar:

        def scores_of(victim: Controller, attack: Attacks, seed: int) -> NDArray[np.float64]:
            scores = play(victim, attack, seed)
            bar.update()
            return scores

        def without_eyes(cell: Callable[[Sequence[Perturber]], Cell]) -> dict[str, Cell]:
            """Return a row in which only what changes actions makes a difference."""
            clean = cell(())
            return {name: cell(those) if those else clean for name, those in acting.items()}

        def blind_row(
            seeds: Mapping[int, Controller], folds: Mapping[int, Perturber]
        ) -> dict[str, Cell]:
            return without_eyes(
                lambda those: Cell(
                    {s: scores_of(one, [*those, folds[s]], seed) for s, one in seeds.items()},
                    limits=limits,
                )
            )

        if baselines:
            model = next(iter(next(iter(rows.values())).values()))
            random = RandomController(spec, model.device)
            # A random team has no training seeds: other episodes stand for another seed.
            cells["random"] = without_eyes(
                lambda those: Cell(
                    {s: scores_of(random, [*those], seed + i) for i, s in enumerate(first)},
                    limits=limits,
                )
            )
        if blind:
            for name, seeds in played.items():
                folded = {
                    s: blindfolds(
                        one, make_env, spec, num_envs=num_envs, team=team, opponents=opponents
                    )
                    for s, one in seeds.items()
                }
                for fold in FOLDS:
                    folds = {s: made[fold] for s, made in folded.items()}
                    cells[f"{name}, {fold}"] = blind_row(seeds, folds)
        if never_saw:
            cells[TRAINED_BLIND] = blind_row(never_saw, {s: ZeroedObs() for s in never_saw})
        for name, seeds in rows.items():
            cells[name] = {
                attack_name: Cell(
                    {s: scores_of(one, attack, seed) for s, one in seeds.items()}, limits=limits
                )
                for attack_name, attack in attacks.items()
            }
    flagged = tuple(name for name in cells if name not in trained)
    table = CrossTable(cells=cells, metric=figure, baselines=flagged, title=title)
    clean = next((name for name, attack in attacks.items() if attack is None), None)
    if baselines and clean is not None:
        warn_of_blind(table, trained, clean)
    return table


def changing_actions(attack: Attacks) -> list[Perturber]:
    """Return those of an attack's perturbers that change actions, whatever a team observes."""
    perturbers = (one for one in listed("crossplay.attacks", attack) if isinstance(one, Perturber))
    return [perturber for perturber in perturbers if perturber.changes_actions]
