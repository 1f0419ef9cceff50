"""The last ticks of all environments, from which whole episodes are copied out when they end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustmarl._checks import all_finite
from robustmarl.data.buffer import EpisodeBuffer
from robustmarl.joint import TeamSpec

__all__ = ["Ended", "HostStaging", "Staging", "TensorStaging", "Values", "flush"]

Values: TypeAlias = "Tensor | NDArray[np.generic]"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """Episodes that ended, K of them, in arrays on the host.

    Attributes:
        rows: the environments that played them, (K,).
        first: the ticks of the ring at which they began, (K,).
        lengths: their numbers of steps, (K,).
        numbers: how many episodes the collector had begun before each, (K,).
        terminated: whether they ended for good, (K,).
        truncated: whether they were cut off, (K,).
        metrics: the environment's figures, (K, len(spec.metrics)).
    """

    rows: NDArray[np.int64]
    first: NDArray[np.int64]
    lengths: NDArray[np.int64]
    numbers: NDArray[np.int64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    metrics: NDArray[np.float32]


class Staging(Protocol):
    """A ring of ticks, (ticks, E, ...) by key; it holds whole episodes, last observations too."""

    now: int
    """The tick that is being written."""

    @property
    def ring(self) -> Mapping[str, Values]:
        """The arrays."""

    def put(self, arrays: Mapping[str, Values]) -> None:
        """Keep what this tick brought, (E, ...) by key, for all environments at once."""

    def turn(self) -> None:
        """Go on to the next tick."""

    def rewards(self, ended: Ended) -> NDArray[np.float32]:
        """Return what agents earned in these episodes, (K, T, N); further on than they go, too."""


class HostStaging:
    """A ring in numpy: on the CPU its calls cost a fraction of torch's.

    Args:
        ticks: that it holds.
    """

    def __init__(self, ticks: int) -> None:
        self.now, self._ticks = 0, ticks
        self.ring: dict[str, NDArray[np.generic]] = {}

    def put(self, arrays: Mapping[str, Values]) -> None:
        """See :class:`Staging`."""
        for key, values in arrays.items():
            array = values.numpy() if isinstance(values, Tensor) else values
            if key not in self.ring:
                self.ring[key] = np.zeros((self._ticks, *array.shape), array.dtype)
            self.ring[key][self.now] = array

    def turn(self) -> None:
        """See :class:`Staging`."""
        self.now = (self.now + 1) % self._ticks

    def rewards(self, ended: Ended) -> NDArray[np.float32]:
        """See :class:`Staging`."""
        return self.ring["rew_agents"][_ticks_and_rows(ended, self._ticks)].astype(
            np.float32, copy=False
        )


class TensorStaging:
    """A ring of tensors on the policy's device.

    Args:
        ticks: that it holds.
    """

    def __init__(self, ticks: int) -> None:
        self.now, self._ticks = 0, ticks
        self.ring: dict[str, Tensor] = {}

    def put(self, arrays: Mapping[str, Values]) -> None:
        """See :class:`Staging`."""
        for key, values in arrays.items():
            tensor = torch.as_tensor(values)
            if key not in self.ring:
                self.ring[key] = tensor.new_zeros((self._ticks, *tensor.shape))
            self.ring[key][self.now] = tensor

    def turn(self) -> None:
        """See :class:`Staging`."""
        self.now = (self.now + 1) % self._ticks

    def rewards(self, ended: Ended) -> NDArray[np.float32]:
        """See :class:`Staging`."""
        rewards, places = self.ring["rew_agents"], _ticks_and_rows(ended, self._ticks)
        ticks, rows = (torch.from_numpy(index).to(rewards.device) for index in places)
        earned: NDArray[np.float32] = rewards[ticks, rows].cpu().numpy()
        return earned


def _ticks_and_rows(ended: Ended, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the ticks (K, T) and rows (K, 1) of these episodes in a ring of ``size``."""
    ticks = (ended.first[:, None] + np.arange(ended.lengths.max())) % size
    return ticks, ended.rows[:, None]


def flush(
    staging: Staging, ended: Ended, spec: TeamSpec, store: EpisodeBuffer | None
) -> NDArray[np.float64]:
    """Copy episodes that ended into the buffer, if any; return what each of them earned, (K,)."""
    earned, episodes = staging.rewards(ended), np.arange(len(ended.rows))
    with np.errstate(over="ignore", invalid="ignore"):
        rew = earned.sum(axis=-1)
        if spec.team_reward == "mean":
            rew /= earned.shape[-1]
        last = ended.lengths - 1
        returns: NDArray[np.float64] = rew.cumsum(axis=1, dtype=np.float64)[episodes, last]
    if not all_finite(returns):
        bad = int((~np.isfinite(returns)).argmax())
        step = int((~np.isfinite(rew[bad])).argmax())
        raise ValueError(
            f"reward of the team must be finite, got {rew[bad, step]} in environment "
            f"{ended.rows[bad]}, step {step + 1}: its agents {list(spec.agents)} earned "
            f"{earned[bad, step].tolist()}. Scale the rewards down."
        )
    if store is not None:
        whole: dict[str, NDArray[np.generic]] = {"rew": rew}
        for key, flags in (("terminated", ended.terminated), ("truncated", ended.truncated)):
            at_the_end = np.zeros(rew.shape, np.bool_)
            at_the_end[episodes, last] = flags
            whole[key] = at_the_end
        store.add_episodes(staging.ring, ended.rows, ended.first, ended.lengths, whole)
    return returns
