"""Which episodes are worth watching."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace

from robustmarl import evaluation
from robustmarl.cli.teams import Team
from robustmarl.evaluation import CrossTable, Recording
from robustmarl.evaluation.recordings import RecordedEpisode
from robustmarl.training import Attacks

__all__ = ["films", "worst_of"]

SHOWN = 3
"""Episodes in a report."""

SEARCHED = 20
"""Episodes among which one is sought that tells the clean from the attacked team."""


def worst_of(table: CrossTable, team: str, attacks: Mapping[str, Attacks]) -> str:
    """Return the attack that leaves least of a team."""
    return min(attacks, key=lambda name: table.mean(team, name))


def films(
    team: Team,
    table: CrossTable,
    column: str,
    attack: Attacks,
    *,
    seed: int,
    under: str = "",
) -> list[Recording]:
    """Return a team's episodes without attack and under one, none where nothing can be seen.

    First comes the one that the attack costs most: won clean and lost under attack if there is one
    among the first.

    Args:
        team: plays.
        table: of these episodes without attack, under ``none``, and under attack.
        column: of the attack in the table.
        attack: what is filmed.
        seed: of the episodes.
        under: the attack's name; empty is that of the column.
    """
    clean, attacked = (
        next(iter(table.cell(team.name, name).scores.values())) for name in ("none", column)
    )
    episodes = min(len(clean), max(SHOWN, int((clean - attacked)[:SEARCHED].argmax()) + 1))
    try:
        recordings = [
            evaluation.record(
                team.learner,
                team.world.make_env,
                perturb=perturb,
                episodes=episodes,
                seed=seed,
                title=f"{team.name}, {name}",
                **team.world.playing,
            )
            for name, perturb in (("no attack", None), (under or column, attack))
        ]
    except ValueError as error:
        if not str(error).startswith("record.make_env"):
            raise
        sys.stderr.write(
            "The report shows no episodes: the environment neither tells where things are "
            "(stage(), see the documentation) nor draws (render_mode='rgb_array').\n"
        )
        return []
    before, after = (
        [_figure(one, team.world.metric) for one in recording.episodes] for recording in recordings
    )
    order = sorted(range(episodes), key=lambda i: after[i] - before[i])
    first = order[0]
    kept = [first, *(i for i in range(episodes) if i != first)][:SHOWN]
    return [replace(one, episodes=tuple(one.episodes[i] for i in kept)) for one in recordings]


def _figure(episode: RecordedEpisode, metric: str) -> float:
    """Return an episode's score."""
    if metric in episode.figures:
        return episode.figures[metric]
    return sum(step.reward for step in episode.steps)
