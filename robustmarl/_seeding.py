"""Counter-based randomness: every draw is a hash of (seed, episode, step, purpose).

Nothing is consumed, so results do not depend on how many environments run side by side,
per-env wrappers and the batched collector draw the same numbers, and a checkpoint needs
only the episode counter. The hash is SplitMix64's finaliser, in wrapping int64 arithmetic.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "HASH_CONSTANTS",
    "Draws",
    "episode_key",
    "episode_keys",
    "generator",
    "inverse",
    "mix",
    "seeded",
    "signed",
    "stream_id",
    "stream_seed",
]

Integers: TypeAlias = "Tensor | NDArray[np.int64]"
"""int64 numbers, of which the hash takes both kinds alike."""

_GOLDEN = 0x9E3779B97F4A7C15
_M1, _M2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def signed(value: int) -> int:
    """Return the int64 that is ``value`` modulo 2^64: to the hash, they are the same."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


HASH_CONSTANTS = _GOLDEN_S, _M1_S, _M2_S = signed(_GOLDEN), signed(_M1), signed(_M2)
"""What is added before, and the two factors of, the hash, for code that is compiled."""


def _finish_int(x: int) -> int:
    x &= _MASK
    x = ((x ^ (x >> 30)) * _M1) & _MASK
    x = ((x ^ (x >> 27)) * _M2) & _MASK
    return x ^ (x >> 31)


def mix(*parts: int) -> int:
    """Return a 64-bit hash of integers, order-sensitive."""
    x = 0
    for part in parts:
        x = _finish_int(x + _GOLDEN + part)
    return signed(x)


def stream_id(name: str) -> int:
    """Return a stable integer for a stream's name."""
    return zlib.crc32(name.encode())


def episode_key(seed: int, episode: int) -> int:
    """Return the key from which everything random in one episode follows."""
    return mix(seed, episode)


def episode_keys(seed: int | Tensor, episode: int | Tensor) -> Tensor:
    """Return :func:`episode_key` of every element, int64, where the tensors are.

    Args:
        seed: of the episodes; one of the two at least is a tensor, int64.
        episode: their numbers.
    """
    if isinstance(seed, int):
        assert isinstance(episode, Tensor)  # see Args
        return _tensor(_finish(_native(episode) + signed(mix(seed) + _GOLDEN)))
    number = signed(episode) if isinstance(episode, int) else _native(episode)
    return _tensor(_finish(_finish(_native(seed) + _GOLDEN_S) + _GOLDEN_S + number))


def stream_seed(*parts: int | str) -> int:
    """Return the seed, >= 0, of a library's own generator: a hash of integers and names."""
    return mix(*(stream_id(x) if isinstance(x, str) else x for x in parts)) & (2**63 - 1)


def generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator that begins at :func:`stream_seed` of ``parts``."""
    return torch.Generator(device).manual_seed(stream_seed(*parts))


@contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """Seed torch's global generator on the CPU inside, and leave it as it was.

    For networks, whose weights torch draws from nowhere else.
    """
    with torch.random.fork_rng(devices=[]):
        # of the CPU alone: torch.manual_seed would leave those of accelerators where it puts them
        torch.default_generator.manual_seed(stream_seed(seed, name))
        yield


def _native(x: Tensor) -> Integers:
    """Return numpy's view of a tensor on the CPU: on small arrays it costs a fifth of torch."""
    if not x.is_cpu:
        return x
    array: NDArray[np.int64] = x.numpy()
    return array if array.ndim else array[None]


def _arange(start: int, size: int, like: Integers) -> Integers:
    if isinstance(like, np.ndarray):
        return np.arange(start, start + size)
    return torch.arange(start, start + size, device=like.device)


def _tensor(x: Integers) -> Tensor:
    return torch.from_numpy(x) if isinstance(x, np.ndarray) else x


def _finish(x: Integers) -> Integers:
    # int64 wraps in both libraries; the masks make arithmetic shifts logical ones
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _M1_S
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _M2_S
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def inverse(chance: Tensor, point: Tensor) -> Tensor:
    """Return indices (...,) with probabilities in proportion to ``chance``, (..., A).

    Args:
        chance: >= 0, (..., A).
        point: uniform in [0, 1), (...,); its inverse of the distribution is returned.
    """
    values = _native(chance.detach() if chance.requires_grad else chance)
    if isinstance(values, np.ndarray):  # as torch does it, which sums in doubles, too
        summed = values.cumsum(axis=-1, dtype=np.float64).astype(values.dtype)
        below = summed <= point.numpy()[..., None] * summed[..., -1:]
        return torch.from_numpy(np.asarray(below.sum(axis=-1)))
    cumulative = chance.cumsum(dim=-1)
    return (cumulative <= point.unsqueeze(-1) * cumulative[..., -1:]).sum(dim=-1)


class Draws:
    """Independent random rows, one per key.

    Args:
        keys: int64, shape (R,): one per row; rows with equal keys draw equal numbers. Or what
            returns them.
    """

    def __init__(self, keys: Tensor | Callable[[], Tensor]) -> None:
        self._keys = keys
        self._calls = 0

    @property
    def keys(self) -> Tensor:
        """The rows' keys; worked out when first needed, as many steps draw nothing."""
        if not isinstance(self._keys, Tensor):
            self._keys = self._keys()
        return self._keys

    @classmethod
    def fresh(cls, rows: int, device: torch.device) -> Draws:
        """Return draws keyed by torch's global generator."""
        keys = torch.randint(-(2**63), 2**63 - 1, (rows,), dtype=torch.int64)
        return cls(keys.to(device))

    def at(self, step: Tensor, stream: int) -> Draws:
        """Return the draws of one step, shape (R,) or scalar, of one named stream."""

        def hashed() -> Tensor:
            inner = _finish(_native(step) * _GOLDEN_S + stream)
            return _tensor(_finish(_native(self.keys) ^ inner))

        return Draws(hashed)

    def split(self, parts: int) -> Draws:
        """Return draws for ``parts`` sub-rows of each row, (R * parts,) keys, row-major."""

        def hashed() -> Tensor:
            keys = _native(self.keys)
            index = _arange(1, parts, keys) * _M1_S
            return _tensor(_finish(keys[:, None] + index).reshape(-1))

        return Draws(hashed)

    def uniform(self, size: int) -> Tensor:
        """Return float32 in [0, 1), shape (R, size); 23 bits, so that it never rounds to 1."""
        self._calls += 1
        keys = _native(self.keys)
        index = _arange(self._calls << 32, size, keys) * _GOLDEN_S
        bits = (_finish(keys[:, None] + index) >> 41) & ((1 << 23) - 1)
        if isinstance(bits, np.ndarray):
            return torch.from_numpy(bits.astype(np.float32) * np.float32(2.0**-23))
        return bits.to(torch.float32).mul_(2.0**-23)

    def normal(self, size: int) -> Tensor:
        """Return standard normal float32, shape (R, size), by Box and Muller."""
        u, v = self.uniform(2 * size).split(size, dim=1)
        return (-2.0 * torch.log1p(-u)).sqrt() * torch.cos(2.0 * math.pi * v)
