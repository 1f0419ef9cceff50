"""Where prey flees to: the rule of the predator-prey tasks of FACMAC [Peng2021]_."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from robustmarl._seeding import Draws, stream_id
from robustmarl.envs._particle_task import Array64, lengths

__all__ = ["DIRECTIONS", "POINTS", "STREAM", "draw_key", "flights"]

POINTS = 100
"""How many places prey thinks of in a step."""

_TURN = 2.0 * np.pi * np.arange(1024) / 1024
DIRECTIONS = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=-1)
"""Where they can lie, (1024, 2): a table, so that compiled code comes to the same bits."""

STREAM = stream_id("prey")
"""Of an episode's draws, the one of its first prey; the next prey's is one more."""


def draw_key(rng: np.random.Generator) -> int:
    """Return the key of an episode, from which all that its prey thinks of follows."""
    return int(rng.integers(2**63 - 1))


def flights(
    keys: NDArray[np.int64],
    steps: NDArray[np.int64],
    prey: Array64,
    predators: Array64,
    reach: NDArray[np.float64],
    number: int = 0,
) -> Array64:
    """Return where prey goes, in units of its acceleration, (E, 2).

    Of 100 places drawn uniformly from the unit disc around it, prey makes for the one that is
    farthest from the predator that is nearest now, among those where no predator would touch it;
    where there is none, it does nothing.

    Args:
        keys: of the episodes, (E,).
        steps: that were played of them, (E,).
        prey: its place, (E, 2).
        predators: theirs, (E, K, 2).
        reach: the distances closer than which they touch it, (K,).
        number: of this prey among several.
    """
    draws = Draws(torch.from_numpy(keys)).at(torch.from_numpy(steps), STREAM + number)
    area, turn = np.split(draws.uniform(2 * POINTS).numpy().astype(np.float64), 2, axis=1)
    way = np.sqrt(area)[..., None] * DIRECTIONS[(turn * len(DIRECTIONS)).astype(np.int64)]
    away = lengths(predators[:, None] - (way + prey[:, None])[:, :, None])  # (E, 100, K)
    nearest = lengths(prey[:, None] - predators).argmin(axis=1)
    score = np.take_along_axis(away, nearest[:, None, None], axis=2)[..., 0]
    score[(away < reach).any(axis=2)] = -1.0
    rows = np.arange(len(keys))
    best = score.argmax(axis=1)
    return np.where((score[rows, best] < 0.0)[:, None], 0.0, way[rows, best])
