"""TRAM's particle tasks [Wu2022]_: where bodies lie at first, and what their places are worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Array64",
    "Task",
    "clip_cells",
    "draw_places",
    "formation_reward",
    "gather_reward",
    "lengths",
    "tram_spread_reward",
]

Array64: TypeAlias = NDArray[np.float64]
"""mpe2 computes in double precision."""

EDGE = 5  # of the square: the paper's five by five, whose middle is the origin
HALF = EDGE / 2
_LAST_CELL = (EDGE - 1) / 2  # middle of the outermost cells
SPREAD_RADIUS = 0.15  # of agents in mpe2's simple_spread
SMALL_RADIUS = 0.05  # of mpe2's entities unless a scenario says otherwise


def lengths(vectors: Array64) -> Array64:
    """Return the lengths (...) of vectors (..., 2)."""
    return np.asarray(np.sqrt(np.square(vectors[..., 0]) + np.square(vectors[..., 1])))


def _distances(ones: Array64, others: Array64) -> Array64:
    """Return the distances (E, A, B) between positions (E, A, 2) and (E, B, 2)."""
    return lengths(ones[:, :, None] - others[:, None])


def tram_spread_reward(agents: Array64, landmarks: Array64) -> Array64:
    r"""Return :math:`-\sum_l \min_i \|x_i - y_l\|` minus the pairs of agents that overlap, (E,).

    Bodies of radius 0.15 overlap closer than 0.3.

    Args:
        agents: positions, (E, N, 2).
        landmarks: positions, (E, L, 2).
    """
    to_nearest = _distances(agents, landmarks).min(axis=1)
    overlap = _distances(agents, agents) < 2.0 * SPREAD_RADIUS
    pairs = (overlap.sum(axis=(1, 2)) - agents.shape[1]) // 2  # all but each with itself, once
    return np.asarray(-to_nearest.sum(axis=1) - pairs)


def gather_reward(agents: Array64, landmarks: Array64) -> Array64:
    r"""Return :math:`-\sum_i \|x_i - y\|`, (E,), of positions (E, N, 2) and (E, 1, 2)."""
    return np.asarray(-_distances(agents, landmarks)[:, :, 0].sum(axis=1))


def formation_reward(agents: Array64, landmarks: Array64) -> Array64:
    r"""Return how far N agents are from a regular polygon around the landmark, (E,).

    .. math:: -\sum_i |\beta_i - \bar\beta| + |d_i - \bar d|, \qquad
              \beta_i = \alpha_i - 2 \pi i / N

    with distances d and sorted angles :math:`\alpha` in :math:`[0, 2\pi)` seen from the landmark.

    Args:
        agents: positions, (E, N, 2).
        landmarks: positions, (E, 1, 2).
    """
    n = agents.shape[1]
    arm = agents - landmarks
    angle = np.sort(np.mod(np.arctan2(arm[..., 1], arm[..., 0]), 2.0 * np.pi), axis=1)
    beta = angle - np.arange(n) * (2.0 * np.pi / n)
    distance = _distances(agents, landmarks)[:, :, 0]
    deviations = [np.abs(v - v.mean(axis=1, keepdims=True)) for v in (beta, distance)]
    return np.asarray(-np.asarray(sum(deviations)).sum(axis=1))


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is played.

    Attributes:
        name: of the environment.
        agents: N.
        landmarks: L.
        radius: of an agent's body.
        reward: the team's, (E,), of positions (E, N, 2) and (E, L, 2).
    """

    name: str
    agents: int
    landmarks: int
    radius: float
    reward: Callable[[Array64, Array64], Array64]


def draw_places(rng: np.random.Generator, task: Task, grid: bool) -> Array64:
    """Return first positions of the agents, then of the landmarks, (N + L, 2).

    In cells, no two agents share one, nor do two landmarks.
    """
    if not grid:
        return rng.uniform(-HALF, HALF, (task.agents + task.landmarks, 2))
    cells = [rng.choice(EDGE * EDGE, k, replace=False) for k in (task.agents, task.landmarks)]
    return np.stack(np.divmod(np.concatenate(cells), EDGE), axis=-1) - _LAST_CELL


def clip_cells(places: Array64) -> Array64:
    """Return the nearest cells of the grid."""
    return np.clip(places, -_LAST_CELL, _LAST_CELL)
