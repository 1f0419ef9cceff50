"""Victims against attacks: the table that every robustness claim needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from robustmarl._checks import check, check_int
from robustmarl.attacks.base import ObsAttack
from robustmarl.data import RandomController
from robustmarl.evaluation.rollouts import Rollouts, rollout
from robustmarl.evaluation.tables import Cell, CrossTable
from robustmarl.perturbers.base import Perturber
from robustmarl.typing import Env

__all__ = ["crossplay"]

Attack = ObsAttack | Perturber | Sequence[ObsAttack | Perturber] | None


def crossplay(
    victims: Mapping[str, Any],
    attacks: Mapping[str, Attack],
    make_env: Callable[[], Env],
    *,
    episodes: int = 200,
    metric: str | None = None,
    num_envs: int = 10,
    seed: int = 0,
    baselines: bool = True,
    title: str = "",
) -> CrossTable:
    """Return how every victim does under every attack.

    All cells play the same episodes, so differences between them are paired. Gradient attacks
    query the victim that they attack; for a transfer attack give
    ``ObsPerturber(attack, victim=other)``.

    Args:
        victims: name to a trained algorithm, or to one per training seed: a mapping from seed,
            or a sequence. Intervals are over training seeds; with one, over its episodes only.
        attacks: name to an attack, perturber, several in order, or None for clean episodes.
        make_env: builds one environment.
        episodes: per cell and training seed, >= 1.
        metric: ``"return"`` or one of the environment's metrics; None takes its first metric,
            or the return if it has none.
        num_envs: environments side by side, >= 1.
        seed: of the episodes, >= 0.
        baselines: add the random team, and an untrained one of the first victim's kind.
        title: printed above the table.

    Raises:
        ValueError: for no victim or attack, an unknown metric, or bad numbers.

    Warns:
        RobustnessWarning: if an attack changed no observation of a victim.
    """
    check(len(victims) > 0, "crossplay.victims", "non-empty", victims)
    check(len(attacks) > 0, "crossplay.attacks", "non-empty", attacks)
    check_int("crossplay.episodes", episodes, 1)
    if baselines:
        taken = sorted({"random", "untrained"}.intersection(victims))
        remedy = "Rename it, or pass baselines=False."
        check(not taken, "crossplay.victims", "named unlike the baselines", taken, remedy)
    teams = {name: _by_seed(name, given) for name, given in victims.items()}
    first = next(iter(teams.values()))
    spec = next(iter(first.values())).spec
    known = ("return", *spec.metrics)
    name = metric or (spec.metrics[0] if spec.metrics else "return")
    check(name in known, "crossplay.metric", f"one of {list(known)}", metric)

    def play(team: Any, attack: Attack, seed: int = seed) -> Rollouts:
        return rollout(
            team, make_env, episodes=episodes, perturb=attack, num_envs=num_envs, seed=seed
        )

    cells: dict[str, dict[str, Cell]] = {}
    flagged: list[str] = []
    if baselines:
        device = next(iter(first.values())).device
        team = RandomController(spec, device)
        scores = {s: play(team, None, seed + i).figure(name) for i, s in enumerate(first)}
        # It does not look at observations, so no attack on them changes what it does.
        cells["random"] = {attack: Cell(scores) for attack in attacks}
        flagged.append("random")
        if all(hasattr(team, "untrained") for team in first.values()):
            fresh = {s: team.untrained(seed=s) for s, team in first.items()}
            teams = {"untrained": fresh, **teams}
            flagged.append("untrained")
    for victim, by_seed in teams.items():
        cells[victim] = {
            attack_name: Cell({s: play(team, attack).figure(name) for s, team in by_seed.items()})
            for attack_name, attack in attacks.items()
        }
    return CrossTable(cells=cells, metric=name, baselines=tuple(flagged), title=title)


def _by_seed(name: str, given: Any) -> dict[int, Any]:
    if isinstance(given, Mapping):
        teams = {int(s): team for s, team in given.items()}
    elif isinstance(given, Sequence):
        teams = dict(enumerate(given))
    else:
        teams = {0: given}
    check(len(teams) > 0, f"crossplay.victims[{name!r}]", "at least one algorithm", given)
    for team in teams.values():
        if not hasattr(team, "spec"):
            raise TypeError(
                f"crossplay.victims[{name!r}] must be a robustmarl algorithm, or one per seed, "
                f"got {type(team).__name__}."
            )
    return teams
