"""Whether the figures of a worst case mean what they seem to."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from numpy.typing import NDArray

from robustmarl.evaluation.blind import kept_blind
from robustmarl.evaluation.findings import ZEROED, Finding, Measured, WorstCase
from robustmarl.evaluation.statistics import side_by_side

__all__ = ["findings_of"]

FEW_FLIPS = 0.01
"""Of attacked agent-steps: fewer changed actions can hardly change an episode."""

MANY_VANISHED = 0.5

CLEARLY = 2.0
"""Standard errors of the paired difference between two attacks, over all episodes."""

WITHSTOOD = 0.1
"""Of what a team gains over a random one: who keeps less has withstood nothing, blind or not."""

FEWEST = 5
"""Episodes below which no difference is beyond chance: their spread is hardly known."""


def findings_of(result: WorstCase) -> tuple[Finding, ...]:
    """Return what is to be doubted of each team's figures."""
    return tuple(finding for team in result.teams for finding in _findings(result, team))


def _findings(result: WorstCase, team: str) -> Iterator[Finding]:
    table, measured = result.table, result.measured[team]
    attacks = [name for name in table.cells[team] if name in result.families]

    def of(*families: str) -> list[str]:
        return [name for name in attacks if result.families[name] in families]

    following = of("gradient", "targeted", "learned")
    flips = [share for share in map(_flips, (measured[n] for n in attacks)) if share is not None]
    if flips and max(flips) < FEW_FLIPS:
        yield Finding(
            victim=team,
            check="no flips",
            text=f"no attack changed more than {max(flips):.3f} of the actions that it could: a "
            "budget too small to be felt, or attacks that do not find the way.",
        )
    vanished = measured["none"].vanished
    if measured["none"].flipped is not None and (vanished is None or vanished > MANY_VANISHED):
        share = (
            "it has no gradient" if vanished is None else f"{vanished:.2f} of its gradients are 0"
        )
        yield Finding(
            victim=team,
            check="no gradient",
            text=f"{share}: attacks that follow gradients find nothing, whatever there is. Believe "
            "search, transfer and what learns; attack a smooth copy of it.",
        )
    best = _lowest(result, team, [n for n in following if n not in result.longer])
    plain = _lowest(result, team, [n for n in of("gradient") if n not in result.longer])
    search = _lowest(result, team, of("black box", "transfer"))
    for others, which, meaning in (
        (best, "that follows gradients", "gradients are masked, or steps too few"),
        (plain, "gradient attack without a target", "figures of such attacks say little"),
    ):
        if search is None or others is None or not _clearly_lower(result, team, search, others):
            continue
        yield Finding(
            victim=team,
            check="black box",
            text=f"{search} left {table.mean(team, search):.2f}, {others}, the best {which}, "
            f"{table.mean(team, others):.2f}: {meaning}.",
        )
        break  # masked gradients explain the other, too
    noise, gradient = _lowest(result, team, of("noise")), _lowest(result, team, of("gradient"))
    if noise is not None and gradient is not None:
        hurts = _clearly_lower(result, team, noise, "none")
        if hurts and not _clearly_lower(result, team, gradient, noise):
            yield Finding(
                victim=team,
                check="noise",
                text=f"noise leaves {table.mean(team, noise):.2f}, and no gradient attack less "
                f"({table.mean(team, gradient):.2f} under {gradient}).",
            )
    longer = _lowest(result, team, result.longer)
    shorter = _lowest(result, team, [n for n in of("gradient") if n not in result.longer])
    if longer is not None and shorter is not None and _clearly_lower(result, team, longer, shorter):
        yield Finding(
            victim=team,
            check="steps",
            text=f"{longer} left {table.mean(team, longer):.2f}, {shorter} "
            f"{table.mean(team, shorter):.2f}: more steps or restarts still help.",
        )
    zeroed = measured.get(ZEROED, Measured()).flipped
    if zeroed is not None and zeroed < FEW_FLIPS:
        yield Finding(
            victim=team,
            check="ignores",
            text=f"with observations zeroed its action is another in {zeroed:.3f} of its "
            "steps: it does not look at what is attacked.",
        )
    clean, floor = table.mean(team, "none"), table.mean("random", "none")
    helping = max(attacks, key=lambda name: result.choices.mean(team, name), default=None)
    if helping is not None and _clearly_lower(result, team, "none", helping):
        yield Finding(
            victim=team,
            check="helps",
            text=f"{helping} leaves {table.mean(team, helping):.2f}, more than the {clean:.2f} "
            "without attack: whatever moves it off its actions helps it. Train it for longer.",
        )
    if clean <= floor and len(_scores(result, team, "none")) >= FEWEST:
        yield Finding(
            victim=team,
            check="unlearned",
            text=f"without attack it has {table.metric} {clean:.2f}, a random team {floor:.2f}: "
            "there is nothing that an attack could take.",
        )
    if table.mean(team, "worst") - floor > WITHSTOOD * (clean - floor):
        for text in kept_blind(table, team, "none"):
            yield Finding(victim=team, check="blind", text=text)


def _flips(measured: Measured) -> float | None:
    """Return the share of changed actions where observations were changed."""
    if measured.changed is None or measured.flipped is None:
        return None
    return measured.flipped / measured.changed if measured.changed else 0.0


def _scores(result: WorstCase, team: str, name: str) -> NDArray[np.float64]:
    """Return the scores of all training seeds."""
    return np.concatenate([*result.table.cell(team, name).scores.values()])


def _lowest(result: WorstCase, team: str, names: Collection[str]) -> str | None:
    """Return the attack that leaves the least where the worst is chosen, None of none."""
    there = [name for name in names if name in result.choices.cells[team]]
    return min(there, key=lambda name: result.choices.mean(team, name), default=None)


def _clearly_lower(result: WorstCase, team: str, one: str, other: str) -> bool:
    """Return whether ``one`` leaves less than ``other``, on the same episodes, beyond chance."""
    cells = [result.table.cell(team, name).scores for name in (one, other)]
    seeds = cells[0].keys() & cells[1].keys()
    by_seed = [cells[1][s] - cells[0][s] for s in sorted(seeds)]
    less = np.concatenate([np.empty(0), *by_seed])
    if len(less) < FEWEST:
        return False
    error = less.std(ddof=1) / np.sqrt(len(less))
    if (together := side_by_side(by_seed)) is not None:  # episodes that all seeds have in common
        of_episodes = together.mean(axis=0)
        error = max(error, of_episodes.std(ddof=1) / np.sqrt(len(of_episodes)))
    return bool(less.mean() > CLEARLY * error)
