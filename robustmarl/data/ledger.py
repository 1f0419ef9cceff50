"""Which environments play which episode, since when, and which of them have ended.

The same is kept in two ways: in numpy, where the host knows it at every tick, and in tensors on
an accelerator, where the host reads it once in a few ticks and never waits in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustmarl._seeding import episode_keys
from robustmarl.data.staging import Ended, Piece
from robustmarl.joint import VectorEngine

__all__ = ["TICKS_PER_READING", "Begun", "DeviceLedger", "HostLedger", "Ledger", "Plan"]

# Ours. A collection goes on for at most one tick less than this after its last episode has ended,
# and the ring of ticks is that much longer than an episode; a wait costs about as much as a tick.
TICKS_PER_READING = 8

_SEED_BITS = 0x7FFFFFFF  # 31: what every library takes as a seed, signed 32-bit ones too


@dataclass(frozen=True)
class Plan:
    """What to collect.

    Attributes:
        seed: of the episodes.
        first: number of the first episode.
        episodes: to begin at most; None if there is no bound.
        steps: after which no more are begun; None for as many episodes as there may be.
    """

    seed: int
    first: int
    episodes: int | None
    steps: int | None


class Begun(NamedTuple):
    """Where episodes begin: ``mask``, bool (E,), and there the environments' ``seeds``."""

    mask: Tensor
    seeds: Tensor


class Ledger(Protocol):
    """What all environments are doing.

    Attributes:
        live: which have an episode, its last observation included, bool (E,).
        terminal: which show their episode's last observation, bool (E,).
        keys: the episodes' random keys, int64 (E,).
        played: steps taken since :meth:`open`, as far as known.
        begun: episodes begun since :meth:`open`, as far as known.
        over: whether all episodes are known to have ended.
    """

    live: Tensor
    terminal: Tensor
    keys: Tensor
    played: int
    begun: int
    over: bool

    def forget(self) -> None:
        """Leave all episodes as they are: no environment has one any more."""

    def open(self, plan: Plan) -> None:
        """Begin a collection, in which episodes that are under way go on."""

    def admit(self, now: int) -> Begun | None:
        """Give episodes that begin with tick ``now`` to free environments; None for none."""

    def steps(self) -> Tensor:
        """Return steps since each episode began, int64 (E,), which do not change any more."""

    def settle(self, last: bool = False) -> Ended | None:
        """Free the environments that show an end; return which are known to have done so.

        None where that was not looked up, which it is in a segment's ``last`` tick, or none has.
        """

    def cut(self) -> Piece:
        """Return what episodes under way have played since they began, or were cut last.

        That may be no step yet. It follows a :meth:`settle` of the last tick.
        """

    def any_playing(self) -> bool:
        """Return whether, for all that is known, an environment is to be stepped."""

    def count_step(self, horizon: int) -> Tensor:
        """Count a step of all that play.

        Return which go on, bool (E,), although they have taken ``horizon`` steps.
        """


class HostLedger:
    """Kept in numpy, on the CPU, of which ``live`` and ``terminal`` are views.

    Args:
        engine: what is played; may be on another device.
    """

    def __init__(self, engine: VectorEngine) -> None:
        size = len(engine)
        self.played, self.begun, self.over = 0, 0, True
        self._plan, self._size, self._busy = Plan(0, 0, 0, None), size, 0  # how many are live
        self._live = np.zeros(size, np.bool_)
        self._terminal = np.zeros(size, np.bool_)
        self._steps, self._first = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self._handed = np.zeros(size, np.int64)  # of the steps, those that were cut off
        self._numbers, self._keys = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self.live, self.terminal = torch.from_numpy(self._live), torch.from_numpy(self._terminal)
        self.keys = torch.from_numpy(self._keys)
        self._engine = engine
        terminated, truncated = engine.tensors["terminated"], engine.tensors["truncated"]
        self._views: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None
        if terminated.device.type == "cpu":
            self._views = terminated.numpy(), truncated.numpy()  # taken once, on the CPU

    def forget(self) -> None:
        """See :class:`Ledger`."""
        self._live[:] = self._terminal[:] = False
        self._busy = 0

    def open(self, plan: Plan) -> None:
        """See :class:`Ledger`."""
        self._plan, self.played, self.begun, self.over = plan, 0, 0, False

    def admit(self, now: int) -> Begun | None:
        """See :class:`Ledger`."""
        if self._busy == self._size:  # in most ticks
            return None
        free, plan = (~self._live).nonzero()[0], self._plan
        wanted = len(free) if plan.steps is None or self.played < plan.steps else 0
        if plan.episodes is not None:
            wanted = min(wanted, plan.episodes - self.begun)
        if wanted <= 0:
            self.over = self._busy == 0
            return None
        rows = free[:wanted]
        self._numbers[rows] = plan.first + self.begun + np.arange(wanted)
        self.begun += wanted
        self._busy += wanted
        mask = np.zeros(self._size, np.bool_)
        mask[rows] = True
        seeds = _reset_seeds(plan.seed, torch.from_numpy(self._numbers))
        np.copyto(self._keys, _keys_of_first(seeds).numpy(), where=mask)
        self._steps[rows], self._handed[rows], self._first[rows] = 0, 0, now
        self._live[rows] = True
        return Begun(torch.from_numpy(mask), seeds)

    def steps(self) -> Tensor:
        """See :class:`Ledger`."""
        return torch.from_numpy(self._steps.copy())

    def settle(self, last: bool = False) -> Ended | None:
        """See :class:`Ledger`."""
        rows = self._terminal.nonzero()[0]
        if not len(rows):
            return None
        terminated, truncated = self._ends()
        metrics = self._engine.tensors["metrics"].cpu().numpy()
        self._live[rows] = self._terminal[rows] = False
        self._busy -= len(rows)
        return Ended(
            rows=rows,
            first=self._first[rows],
            steps=np.zeros_like(rows),
            lengths=self._steps[rows],
            terminated=terminated[rows],
            truncated=truncated[rows],
            numbers=self._numbers[rows],
            handed=self._handed[rows],
            metrics=metrics[rows],
        )

    def cut(self) -> Piece:
        """See :class:`Ledger`."""
        rows = self._live.nonzero()[0]
        piece = _cut(rows, self._first[rows], self._steps[rows], self._handed[rows])
        self._handed[rows] = self._steps[rows]
        return piece

    def any_playing(self) -> bool:
        """See :class:`Ledger`."""
        return self._busy > 0

    def count_step(self, horizon: int) -> Tensor:
        """See :class:`Ledger`."""
        terminated, truncated = self._ends()
        playing, done = self._live, terminated | truncated
        self._steps += playing
        self.played += self._busy
        np.logical_and(playing, done, out=self._terminal)
        return torch.from_numpy((self._steps >= horizon) & (playing > done))

    def _ends(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which environments the engine says are terminated, and truncated."""
        if self._views is not None:
            return self._views
        tensors = self._engine.tensors
        return tensors["terminated"].cpu().numpy(), tensors["truncated"].cpu().numpy()


class DeviceLedger:
    """Kept in tensors on the engine's device; read once in ``TICKS_PER_READING`` ticks.

    Args:
        engine: what is played.
    """

    def __init__(self, engine: VectorEngine) -> None:
        size, device = len(engine), engine.tensors["obs"].device
        self.played, self.begun, self.over = 0, 0, True
        self._plan, self._size, self._tensors = Plan(0, 0, 0, None), size, engine.tensors

        def numbers(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        self.live = torch.zeros(size, dtype=torch.bool, device=device)
        self.terminal = torch.zeros_like(self.live)
        self.keys, self._steps = numbers(size), numbers(size)
        self._first, self._numbers, self._handed = numbers(size), numbers(size), numbers(size)
        self._played, self._begun = numbers(), numbers()  # scalars that only the device knows
        # what is to be read: one entry per tick
        self._noted, ticks = 0, TICKS_PER_READING
        self._log_ended = torch.zeros(ticks, size, dtype=torch.bool, device=device)
        self._log_numbers = numbers(ticks, 4, size)  # see `settle`
        self._log_ends = {
            key: values.new_zeros(ticks, *values.shape)
            for key, values in engine.tensors.items()
            if key in ("terminated", "truncated", "metrics")
        }

    def forget(self) -> None:
        """See :class:`Ledger`."""
        self.live.zero_()
        self.terminal.zero_()

    def open(self, plan: Plan) -> None:
        """See :class:`Ledger`."""
        self._plan, self.played, self.begun, self.over = plan, 0, 0, False
        self._noted = 0
        self._played.zero_()
        self._begun.zero_()

    def admit(self, now: int) -> Begun | None:
        """See :class:`Ledger`."""
        if self.over:
            return None
        plan, free = self._plan, ~self.live
        rank = free.cumsum(0)  # 1 for the first free environment
        mask = free
        if plan.steps is not None:
            mask = mask & (self._played < plan.steps)
        if plan.episodes is not None:
            mask = mask & (rank + self._begun <= plan.episodes)
        numbers = rank + (self._begun + (plan.first - 1))
        self._numbers = torch.where(mask, numbers, self._numbers)
        self._begun += mask.sum()
        seeds = _reset_seeds(plan.seed, numbers)
        self.keys = torch.where(mask, _keys_of_first(seeds), self.keys)
        self._steps = self._steps.masked_fill(mask, 0)
        self._handed = self._handed.masked_fill(mask, 0)
        self._first = self._first.masked_fill(mask, now)
        self.live |= mask
        return Begun(mask, seeds)

    def steps(self) -> Tensor:
        """See :class:`Ledger`."""
        return self._steps  # replaced, never written into

    def settle(self, last: bool = False) -> Ended | None:
        """See :class:`Ledger`."""
        tick = self._noted
        self._log_ended[tick] = self.terminal
        known = [self._first, self._steps, self._numbers, self._handed]
        self._log_numbers[tick] = torch.stack(known)
        for key, log in self._log_ends.items():
            log[tick] = self._tensors[key]
        self.live &= ~self.terminal
        self.terminal.zero_()
        self._noted += 1
        return self._read() if last or self._noted == TICKS_PER_READING else None

    def cut(self) -> Piece:
        """See :class:`Ledger`."""
        known = torch.stack([self.live.long(), self._first, self._steps, self._handed])
        live, first, steps, handed = known.cpu().numpy()
        rows = live.nonzero()[0]
        self._handed = self._steps
        return _cut(rows, first[rows], steps[rows], handed[rows])

    def any_playing(self) -> bool:
        """See :class:`Ledger`."""
        return not self.over

    def count_step(self, horizon: int) -> Tensor:
        """See :class:`Ledger`."""
        self._steps = self._steps + self.live
        self._played += self.live.sum()
        done = self._tensors["terminated"] | self._tensors["truncated"]
        self.terminal.copy_(self.live & done)
        return (self._steps >= horizon) & self.live & ~done

    def _read(self) -> Ended:
        """Wait for the device, and return what ended since the last time."""
        plan, noted, self._noted = self._plan, self._noted, 0
        counts = torch.stack([self._played, self._begun, self.live.sum()])
        self.played, self.begun, living = counts.tolist()
        more = plan.steps is None or self.played < plan.steps
        more = more and (plan.episodes is None or self.begun < plan.episodes)
        self.over = living == 0 and not more
        ticks, rows = self._log_ended[:noted].cpu().numpy().nonzero()
        first, lengths, numbers, handed = self._log_numbers.cpu().numpy()[ticks, :, rows].T
        ends = {key: log.cpu().numpy()[ticks, rows] for key, log in self._log_ends.items()}
        return Ended(
            rows=rows,
            first=first,
            steps=np.zeros_like(rows),
            lengths=lengths,
            numbers=numbers,
            handed=handed,
            **ends,
        )


def _cut(
    rows: NDArray[np.int64],
    first: NDArray[np.int64],
    steps: NDArray[np.int64],
    handed: NDArray[np.int64],
) -> Piece:
    """Return what of episodes under way, (K,), was not handed over yet."""
    return Piece(
        rows=rows,
        first=first + handed,
        steps=handed,
        lengths=steps - handed,
        terminated=np.zeros(len(rows), np.bool_),
        truncated=np.ones(len(rows), np.bool_),
    )


def _reset_seeds(seed: int, numbers: Tensor) -> Tensor:
    """Return the seeds with which environments are reset for the episodes ``numbers``, (E,)."""
    return episode_keys(seed, numbers) & _SEED_BITS


def _keys_of_first(seeds: Tensor) -> Tensor:
    """Return the keys of a wrapper's first episodes after resets with these seeds, int64 (E,).

    A collector resets for each episode: every one of its episodes is the first of its seed.
    """
    return episode_keys(seeds, 0)
