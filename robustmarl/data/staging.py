"""The last ticks of all environments, from which what was played is copied into a buffer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustmarl._checks import all_finite
from robustmarl.data.buffer import EpisodeBuffer
from robustmarl.joint import TeamSpec

__all__ = ["Ended", "HostStaging", "Piece", "Staging", "TensorStaging", "Values", "flush", "store"]

Values: TypeAlias = "Tensor | NDArray[np.generic]"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Steps in a row of K episodes, in arrays on the host.

    Attributes:
        rows: the environments that played them, (K,).
        first: the ticks at which they began, of which the ring keeps the remainder, (K,).
        steps: how many of their episodes came before, (K,).
        lengths: their numbers, (K,).
        terminated: whether with them the episode ended for good, (K,).
        truncated: whether it was cut off, by a time limit or where a segment ends, (K,).
    """

    rows: NDArray[np.int64]
    first: NDArray[np.int64]
    steps: NDArray[np.int64]
    lengths: NDArray[np.int64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]

    @property
    def some(self) -> Piece:
        """Those of at least one step."""
        where = self.lengths > 0
        return Piece(**{part.name: getattr(self, part.name)[where] for part in fields(Piece)})


@dataclass(frozen=True, kw_only=True)
class Ended(Piece):
    """Episodes that ended, K of them, as a whole.

    Attributes:
        numbers: how many episodes the collector had begun before each, (K,).
        handed: how many of their steps went into the buffer before, (K,).
        metrics: the environment's figures, (K, len(spec.metrics)).
    """

    numbers: NDArray[np.int64]
    handed: NDArray[np.int64]
    metrics: NDArray[np.float32]

    @property
    def rest(self) -> Piece:
        """What did not go into the buffer before."""
        if not self.handed.any():
            return self
        return Piece(
            rows=self.rows,
            first=self.first + self.handed,
            steps=self.handed,
            lengths=self.lengths - self.handed,
            terminated=self.terminated,
            truncated=self.truncated,
        )


BeforeOf: TypeAlias = Callable[[Piece], Mapping[str, Tensor]]
"""Returns what was brought along from before these K pieces, (K, ...) by names of the buffer."""


class Staging(Protocol):
    """A ring of ticks, (ticks, E, ...) by key; it holds whole episodes, last observations too."""

    now: int
    """The tick that is being written."""

    ticks: int
    """How many it holds."""

    @property
    def ring(self) -> Mapping[str, Values]:
        """The arrays."""

    def put(self, arrays: Mapping[str, Values]) -> None:
        """Keep what this tick brought, (E, ...) by key, for all environments at once."""

    def turn(self) -> None:
        """Go on to the next tick."""

    def rewards(self, piece: Piece) -> NDArray[np.float32]:
        """Return what agents earned in these steps, (K, T, N); further on than they go, too."""


class HostStaging:
    """A ring in numpy: on the CPU its calls cost a fraction of torch's.

    Args:
        ticks: that it holds.
    """

    def __init__(self, ticks: int) -> None:
        self.now, self.ticks = 0, ticks
        self.ring: dict[str, NDArray[np.generic]] = {}

    def put(self, arrays: Mapping[str, Values]) -> None:
        """See :class:`Staging`."""
        for key, values in arrays.items():
            array = values.numpy() if isinstance(values, Tensor) else values
            if key not in self.ring:
                self.ring[key] = np.zeros((self.ticks, *array.shape), array.dtype)
            self.ring[key][self.now] = array

    def turn(self) -> None:
        """See :class:`Staging`."""
        self.now = (self.now + 1) % self.ticks

    def rewards(self, piece: Piece) -> NDArray[np.float32]:
        """See :class:`Staging`."""
        return self.ring["rew_agents"][_ticks_and_rows(piece, self.ticks)].astype(
            np.float32, copy=False
        )


class TensorStaging:
    """A ring of tensors on the policy's device.

    Args:
        ticks: that it holds.
    """

    def __init__(self, ticks: int) -> None:
        self.now, self.ticks = 0, ticks
        self.ring: dict[str, Tensor] = {}

    def put(self, arrays: Mapping[str, Values]) -> None:
        """See :class:`Staging`."""
        for key, values in arrays.items():
            tensor = torch.as_tensor(values)
            if key not in self.ring:
                self.ring[key] = tensor.new_zeros((self.ticks, *tensor.shape))
            self.ring[key][self.now] = tensor

    def turn(self) -> None:
        """See :class:`Staging`."""
        self.now = (self.now + 1) % self.ticks

    def rewards(self, piece: Piece) -> NDArray[np.float32]:
        """See :class:`Staging`."""
        rewards, places = self.ring["rew_agents"], _ticks_and_rows(piece, self.ticks)
        ticks, rows = (torch.from_numpy(index).to(rewards.device) for index in places)
        earned: NDArray[np.float32] = rewards[ticks, rows].cpu().numpy()
        return earned


def _ticks_and_rows(piece: Piece, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the ticks (K, T) and rows (K, 1) of these steps in a ring of ``size``."""
    ticks = (piece.first[:, None] + np.arange(piece.lengths.max())) % size
    return ticks, piece.rows[:, None]


def flush(
    staging: Staging,
    ended: Ended,
    spec: TeamSpec,
    buffer: EpisodeBuffer | None,
    before: BeforeOf | None = None,
) -> NDArray[np.float64]:
    """Copy what is new of episodes that ended into the buffer, if any.

    Args:
        staging: where they are.
        ended: the episodes.
        spec: the team's.
        buffer: where they go.
        before: as of :func:`store`.

    Returns:
        What each of them earned, from its first step to its last, (K,).
    """
    rew, returns = _earned(staging, ended, spec)
    if buffer is not None:
        rest = ended.rest
        if rest is not ended:  # the same rewards, from where it begins
            later = ended.handed[:, None] + np.arange(rest.lengths.max())
            rew = np.take_along_axis(rew, np.minimum(later, rew.shape[1] - 1), axis=1)
        _add(staging, rest, rew, buffer, before)
    return returns


def store(
    staging: Staging,
    piece: Piece,
    spec: TeamSpec,
    buffer: EpisodeBuffer,
    before: BeforeOf | None = None,
) -> None:
    """Copy steps of episodes that are under way into the buffer.

    Args:
        staging: where they are.
        piece: the steps, of which there may be none.
        spec: the team's.
        buffer: where they go.
        before: returns what the policy brought along to the first steps of pieces.
    """
    some = piece.some
    if len(some.rows):
        _add(staging, some, _earned(staging, some, spec)[0], buffer, before)


def _earned(
    staging: Staging, piece: Piece, spec: TeamSpec
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return what the team earned in each step, (K, T), and in these together, (K,)."""
    earned, last = staging.rewards(piece), piece.lengths - 1
    with np.errstate(over="ignore", invalid="ignore"):
        rew = earned.sum(axis=-1)
        if spec.team_reward == "mean":
            rew /= earned.shape[-1]
        sums = rew.cumsum(axis=1, dtype=np.float64)
        together: NDArray[np.float64] = sums[np.arange(len(last)), last]
    if not all_finite(together):
        bad = int((~np.isfinite(together)).argmax())
        step = int((~np.isfinite(rew[bad])).argmax())
        raise ValueError(
            f"reward of the team must be finite, got {rew[bad, step]} in environment "
            f"{piece.rows[bad]}, step {piece.steps[bad] + step + 1}: its agents "
            f"{list(spec.agents)} earned {earned[bad, step].tolist()}. Scale the rewards down."
        )
    return rew, together


def _add(
    staging: Staging,
    piece: Piece,
    rew: NDArray[np.float32],
    buffer: EpisodeBuffer,
    before: BeforeOf | None,
) -> None:
    of_steps: dict[str, NDArray[np.generic]] = {"rew": rew}
    for key, flags in (("terminated", piece.terminated), ("truncated", piece.truncated)):
        at_the_end = np.zeros(rew.shape, np.bool_)
        at_the_end[np.arange(len(rew)), piece.lengths - 1] = flags
        of_steps[key] = at_the_end
    first = piece.first % staging.ticks
    brought = before(piece) if before is not None else None
    buffer.add_episodes(staging.ring, piece.rows, first, piece.lengths, of_steps, brought)
