"""Whole episodes, or pieces of them, in preallocated tensors."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from tianshou.data import ReplayBuffer
from torch import Tensor

from robustmarl._checks import check, check_flag, check_int, check_kind, check_usable
from robustmarl._seeding import stream_seed
from robustmarl.joint import JointBatch, JointObs, TeamSpec

__all__ = ["BEFORE_KEYS", "OBS_KEYS", "EpisodeBuffer"]

OBS_KEYS = ("obs", "seen", "mask", "state", "alive")
"""Keys with T+1 entries per episode: the terminal observation is kept."""

BEFORE_KEYS = ("hidden_before", "act_before")
"""Keys with one entry per piece of an episode: what was brought along from before it."""

_SAME_AS = {"seen": "obs", "act_intended": "act", "act_exec": "act"}
"""What these keys are in an episode in which nothing changed what agents see or do."""


class EpisodeBuffer(ReplayBuffer):
    """A ring of episodes of one team, or of pieces of them, (capacity, T or T+1, ...) per key.

    ``seen`` aliases ``obs`` until an episode comes in which something perturbed observations.
    Other keys that not all episodes have are there since the first that has them, of those that it
    holds: ``act_exec`` and ``act_intended`` are ``act`` where nothing changed it, records of
    perturbers are 0 where they did not play, and ``logp`` is left out unless all have it.

    Args:
        spec: the team's.
        episodes: capacity in episodes or pieces, >= 1; 5000 is what PyMARL keeps.
        steps: of the longest, >= 1; None is the horizon, so that it holds whole episodes.
        max_bytes: capacity in bytes instead; None uses ``episodes``.
        grows: take more memory when it is full, so that no episode pushes out another: for rounds
            of which it is not known before how many episodes they have.
        device: where the tensors live.
        seed: of the sampling stream.

    Raises:
        ValueError: if the capacity does not hold an episode, or memory does not hold the
            capacity; both with the figures.

    Example:
        >>> from robustmarl import envs, joint
        >>> buffer = EpisodeBuffer(joint.spec_of(envs.ToyGame()), episodes=10)
        >>> buffer.num_episodes, EpisodeBuffer.bytes_per_episode(joint.spec_of(envs.ToyGame()))
        (0, 15958)
    """

    def __init__(
        self,
        spec: TeamSpec,
        episodes: int = 5000,
        *,
        steps: int | None = None,
        max_bytes: int | None = None,
        grows: bool = False,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        check_kind("EpisodeBuffer.spec", spec, TeamSpec, "a TeamSpec", "Write spec_of(env).")
        seed = check_int("EpisodeBuffer.seed", seed, 0)
        self.grows = check_flag("EpisodeBuffer.grows", grows)
        self.spec, self.device = spec, check_usable("EpisodeBuffer.device", device)
        self.steps = spec.horizon if steps is None else check_int("EpisodeBuffer.steps", steps, 1)
        episode_bytes = self.bytes_per_episode(spec, self.steps)
        if max_bytes is not None:
            max_bytes = check_int("EpisodeBuffer.max_bytes", max_bytes, 1)
            rule = f">= {episode_bytes}, one episode of {self.steps} steps"
            check(max_bytes >= episode_bytes, "EpisodeBuffer.max_bytes", rule, max_bytes)
            episodes = max_bytes // episode_bytes
        self.capacity = episodes = check_int("EpisodeBuffer.episodes", episodes, 1)
        self._check_memory(episodes, "Give fewer episodes, or max_bytes.")
        super().__init__(size=episodes)
        self._rng = np.random.default_rng(stream_seed(seed, "buffer"))
        self.data: dict[str, Tensor] = {}
        self.lengths = torch.zeros(episodes, dtype=torch.int64, device=self.device)
        self._next = 0
        self._count = 0
        self._used: set[str] = set()  # keys of the data that episodes here have; memory is kept

    @staticmethod
    def bytes_per_episode(spec: TeamSpec, steps: int | None = None) -> int:
        """Return what one episode takes, attacked and on-policy, of ``steps`` or the horizon."""
        steps = spec.horizon if steps is None else steps
        step = spec.empty(1)
        seen, logp = step["obs"].nbytes, step["rew_agents"].nbytes  # of the same sizes
        return (sum(values.nbytes for values in step.values()) + seen + logp) * (steps + 1)

    def __len__(self) -> int:
        return self._count

    @property
    def room(self) -> int | None:
        """How many episodes one collection may add, none of which pushes out another; None: any."""
        return None if self.grows else self.capacity

    @property
    def num_episodes(self) -> int:
        """How many episodes it holds."""
        return self._count

    def hasnull(self) -> bool:
        """Return False: the environments' values are checked when they are made."""
        return False

    def reset(self, keep_statistics: bool = False) -> None:
        """Forget all episodes; memory is kept."""
        self._next = self._count = 0
        self._used.clear()

    def add_episodes(
        self,
        ring: Mapping[str, NDArray[np.generic] | Tensor],
        rows: NDArray[np.int64],
        first: NDArray[np.int64],
        lengths: NDArray[np.int64],
        whole: Mapping[str, NDArray[np.generic]] | None = None,
        before: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Copy episodes of ticks in a ring of R, (R, E, ...), that holds a whole one: R > T.

        Args:
            ring: arrays by key, numpy's (the fastest on the CPU) or tensors; ``seen`` only if
                observations were perturbed.
            rows: which of the E environments, (K,).
            first: the ticks at which these episodes began, in [0, R), (K,).
            lengths: their numbers of steps, (K,).
            whole: further arrays of these episodes alone, (K, L, ...), L at most T+1.
            before: where they are pieces of episodes, what was brought along from before them,
                (K, ...), by names of ``BEFORE_KEYS``.
        """
        if self.grows and self._count + len(rows) > self.capacity:
            self._grow(self._count + len(rows))
        skip = max(0, len(rows) - self.capacity)
        rows, first, lengths = rows[skip:], first[skip:], lengths[skip:]
        slots = (np.arange(len(rows)) + self._next) % self.capacity
        given = {**ring, **(whole or {}), **(before or {})}
        self._make_room(given)
        on_cpu = self.device.type == "cpu"
        places = list(
            zip(slots.tolist(), rows.tolist(), first.tolist(), lengths.tolist(), strict=True)
        )
        for key, values in ring.items():
            if key not in self._used:
                continue
            last = int(key in OBS_KEYS)  # one entry more than steps
            if on_cpu and isinstance(values, np.ndarray):  # slices cost a fraction of index lists
                held = self.data[key].numpy()
                for slot, row, begin, length in places:
                    entries = length + last
                    unbroken = min(entries, len(values) - begin)  # to the end of the ring
                    held[slot, :unbroken] = values[begin : begin + unbroken, row]
                    if unbroken < entries:
                        held[slot, unbroken:entries] = values[: entries - unbroken, row]
            else:
                entries = int(lengths.max()) + last
                ticks = (first[:, None] + np.arange(entries)) % len(values)
                episodes = torch.as_tensor(values[ticks, rows[:, None]])
                self.data[key][slots, :entries] = episodes.to(self.device)
        for key, array in (whole or {}).items():
            if on_cpu:
                self.data[key].numpy()[slots, : array.shape[1]] = array[skip:]
            else:
                episodes = torch.from_numpy(array[skip:]).to(self.device)
                self.data[key][slots, : array.shape[1]] = episodes
        for key, brought in (before or {}).items():
            self.data[key][slots] = brought[skip:].to(self.device)
        for key in self._used - given.keys():
            self._leave_out(key, torch.from_numpy(slots).to(self.device))
        if on_cpu:
            self.lengths.numpy()[slots] = lengths
        else:
            self.lengths[slots] = torch.from_numpy(lengths).to(self.device)
        self._next = (self._next + len(rows)) % self.capacity
        self._count = min(self._count + len(rows), self.capacity)

    def sample_indices(self, batch_size: int | None) -> NDArray[np.int64]:
        """Return slots: ``batch_size`` drawn uniformly without repetition, 0 or None for all.

        Fewer are returned while the buffer holds fewer.
        """
        order = (np.arange(self._count) + (self._next - self._count)) % self.capacity
        if not batch_size or batch_size >= self._count:
            return order.astype(np.int64)
        drawn = self._rng.choice(self._count, batch_size, replace=False, shuffle=False)
        return order[drawn].astype(np.int64)

    def sample(  # type: ignore[override]
        self, batch_size: int | None
    ) -> tuple[JointBatch, NDArray[np.int64]]:
        """Return (batch, slots); see :meth:`sample_indices` and :meth:`get`."""
        indices = self.sample_indices(batch_size)
        return self.get_episodes(indices), indices

    def latest(self, episodes: int) -> JointBatch:
        """Return the batch of the ``episodes`` newest, oldest first; fewer if it holds fewer."""
        check_int("EpisodeBuffer.latest.episodes", episodes, 1)
        count = min(episodes, self._count)
        return self.get_episodes((np.arange(count) + (self._next - count)) % self.capacity)

    def get_episodes(self, slots: NDArray[np.int64]) -> JointBatch:
        """Return the episodes in these slots, cut to the longest of them."""
        check(len(slots) > 0, "EpisodeBuffer", "filled before sampling", f"{self._count} episodes")
        index = torch.as_tensor(slots, device=self.device)
        lengths = self.lengths[index]
        steps = int(lengths.max())
        obs: dict[str, Tensor] = {}
        others: dict[str, Tensor] = {}
        records: dict[str, dict[str, Tensor]] = {}
        for key, values in self.data.items():
            if key not in self._used:
                continue
            perturber, slash, name = key.rpartition("/")
            if key in OBS_KEYS:
                obs[key] = values[:, : steps + 1][index]
            elif key in BEFORE_KEYS:
                others[key] = values[index]
            elif slash:
                records.setdefault(perturber, {})[name] = values[:, :steps][index]
            else:
                others[key] = values[:, :steps][index]
        obs.setdefault("seen", obs["obs"])
        valid = torch.arange(steps, device=self.device) < lengths[:, None]
        return JointBatch(obs=JointObs(**obs), valid=valid, records=records, **others)

    def state_dict(self) -> dict[str, Any]:
        """Return the held episodes, oldest first, and the sampling stream."""
        order = torch.as_tensor(self.sample_indices(0), device=self.device)
        used = self._used if self._count else set()
        data = {key: values[order] for key, values in self.data.items() if key in used}
        return {
            "data": data,
            "lengths": self.lengths[order],
            "perturbed": "seen" in used,
            "next": self._next,
            "rng": _integers_as_text(self._rng.bit_generator.state),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; capacity and spec must be the same."""
        count = len(state["lengths"])
        if self.grows and count > self.capacity:
            self._grow(count)
        check(count <= self.capacity, "EpisodeBuffer.capacity", f">= {count}", self.capacity)
        # one that grows begins at slot 0, whichever of them the oldest episode had
        self._next, self._count = count if self.grows else int(state["next"]), count
        slots = (torch.arange(count) + (self._next - count)) % self.capacity
        self.data = {}
        for key, values in state["data"].items():
            self.data[key] = self._allocate(key, values)
            self.data[key][slots] = values.to(self.device)
        self._used = set(self.data) if state["perturbed"] else set(self.data) - {"seen"}
        self.lengths[slots] = state["lengths"].to(self.device)
        self._rng.bit_generator.state = cast("dict[str, Any]", _text_as_integers(state["rng"]))

    def _grow(self, episodes: int) -> None:
        """Hold so many episodes and half as many more; it was never full, and begins at slot 0."""
        capacity = episodes + episodes // 2
        self._check_memory(capacity, "Let rounds be shorter.")
        more = capacity - self.capacity
        for key, values in self.data.items():
            self.data[key] = torch.cat([values, values.new_zeros(more, *values.shape[1:])])
        self.lengths = torch.cat([self.lengths, self.lengths.new_zeros(more)])
        self.capacity = self.maxsize = capacity
        self._next = self._count

    def _check_memory(self, episodes: int, remedy: str) -> None:
        """Raise ``ValueError`` if so many episodes take more memory than is free."""
        each, free = self.bytes_per_episode(self.spec, self.steps), _free_bytes(self.device)
        check(
            each * episodes <= free,
            "EpisodeBuffer.episodes",
            f"at most {free // each} here: an episode takes {each / 2**10:.1f} KiB and "
            f"{free / 2**30:.1f} GiB are free on {self.device}",
            episodes,
            remedy,
        )

    def _make_room(self, given: Mapping[str, NDArray[np.generic] | Tensor]) -> None:
        """Take in keys that episodes to be added have, and those that it holds do not."""
        for key, values in given.items():
            if key in self._used or (key == "logp" and self._count):
                continue
            if key not in self.data:
                self.data[key] = self._allocate(key, values)
            self._used.add(key)
            if self._count:
                self._leave_out(key, slice(None))

    def _leave_out(self, key: str, slots: Tensor | slice) -> None:
        """Write what a key is in the episodes of these slots, (K,), that came without it."""
        if key == "logp":  # there is none that would be right
            self._used.discard(key)
        elif key in _SAME_AS:
            self.data[key][slots] = self.data[_SAME_AS[key]][slots]
        else:
            no_act = key == "act_before" and not self.spec.continuous
            self.data[key][slots] = torch.full_like(self.data[key][:1], -1 if no_act else 0)

    def _allocate(self, key: str, like: NDArray[np.generic] | Tensor) -> Tensor:
        """Return zeros (capacity, T+1, ...) for values of which ``like`` are some, (K, T, ...).

        Of what is brought along from before a piece they are (capacity, ...) for (K, ...).
        """
        one = like.shape[1:] if key in BEFORE_KEYS else (self.steps + 1, *like.shape[2:])
        shape = (self.capacity, *one)
        return torch.zeros(shape, dtype=torch.as_tensor(like).dtype, device=self.device)


def _free_bytes(device: torch.device) -> int:
    """Return how much memory may be taken on ``device``, bytes; a guess where nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")  # "available" counts the cache that the system gives back
    if meminfo.exists():
        figures = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        if "MemAvailable" in figures:
            return int(figures["MemAvailable"].split()[0]) * 1024
    if hasattr(os, "sysconf"):
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return sys.maxsize


def _integers_as_text(state: object) -> object:
    """Return generator state with its 128-bit integers as text, which weights_only loads."""
    if isinstance(state, dict):
        return {key: _integers_as_text(value) for key, value in state.items()}
    return str(state) if isinstance(state, int) else state


def _text_as_integers(state: object) -> object:
    """Return generator state as it was before :func:`_integers_as_text`."""
    if isinstance(state, dict):
        return {key: _text_as_integers(value) for key, value in state.items()}
    return int(state) if isinstance(state, str) and state.isdigit() else state
