"""Where the cells of a study run: in this process, in others on this machine, on a Ray cluster."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import threading
import traceback
import zlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from typing_extensions import override

from robustmarl import training
from robustmarl.training.files import whole

__all__ = [
    "Died",
    "Ended",
    "Executor",
    "Failed",
    "Kept",
    "Order",
    "Pool",
    "SerialPool",
    "Told",
    "Workplace",
    "how",
    "pool_of",
]

Executor: TypeAlias = Literal["processes", "ray", "serial"]

Told: TypeAlias = Mapping[str, Any]
"""Settings, or raw scores, as JSON can hold them."""

Kept: TypeAlias = dict[str, Any]
"""The same as read back from JSON."""

MADE_FOR = "made_for.json"
"""What tells in a cell's folder under which settings it was made."""

PATIENCE = 5.0
"""Seconds that an idle worker has to end by itself, and a busy one to end when told to."""


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """What a cell is given to work with.

    Attributes:
        folder: its own, for checkpoints and whatever else it wants to find again when it is run
            again; made when something is written to it.
        study: the folder of all cells, where those before it have left theirs.
        position: line of its progress bar, >= 1 as the study's own is the first; None where
            nobody would see it.
    """

    folder: Path
    study: Path
    position: int | None = None

    def log(self, name: str) -> training.Log:
        """Return the ``log`` of a training that goes on where it was, with a bar of this name."""
        return training.Log(
            self.folder,
            resume=True,
            progress=name if self.position is not None else False,
            bar_position=self.position or 0,
        )

    def folder_for(self, settings: Told) -> Path:
        """Return the folder, made, with nothing in it that was made under other settings.

        A cell that is run again because its settings changed would find its old weights. Such a
        folder is moved aside, as ``name.former-1``; one that does not tell is of these settings.

        Args:
            settings: what the things in it depend on, as JSON can hold it.

        Raises:
            TypeError: for what JSON cannot hold.
        """
        told, plain = self.folder / MADE_FOR, json.dumps(settings, sort_keys=True, indent=1)
        if told.exists() and told.read_text("utf-8") != plain:
            number = 1
            while (former := self.folder.with_name(f"{self.folder.name}.former-{number}")).exists():
                number += 1
            self.folder.rename(former)
        self.folder.mkdir(parents=True, exist_ok=True)
        if not told.exists():
            with whole(told) as part:
                part.write_text(plain, "utf-8")
        return self.folder


@dataclass(frozen=True, kw_only=True)
class Order:
    """A cell that is to be run: which, what and where."""

    name: str
    work: Callable[[Workplace], Told]
    study: Path


@dataclass(frozen=True)
class Failed:
    """An exception that a cell raised, in a line and in full."""

    error: str
    traceback: str


@dataclass(frozen=True)
class Died:
    """How the worker ended that ran a cell."""

    reason: str


Ended: TypeAlias = tuple[str, str | Failed | Died]
"""An order's name, and what became of it: JSON text, an exception, or nothing."""


def perform(order: Order, position: int | None) -> str | Failed:
    """Return the raw scores of one cell as JSON text, or the exception that it raised."""
    try:
        with _seeded(order.name):
            folder = order.study / order.name
            found = order.work(Workplace(folder=folder, study=order.study, position=position))
        if not isinstance(found, Mapping):
            raise TypeError(f"Job.work must return a mapping of raw scores, got {found!r}.")
        return json.dumps(dict(found), allow_nan=False)
    except (Exception, SystemExit) as error:
        return failed(error)


@contextmanager
def _seeded(name: str) -> Iterator[None]:
    """Seed global generators by a cell's name, and leave them as they were.

    Cells seed what they draw from; what one forgets depends on nobody who worked here before.
    """
    seed, kept = zlib.crc32(name.encode()), (random.getstate(), np.random.get_state())  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])  # noqa: NPY002


def failed(error: BaseException) -> Failed:
    """Return what is kept of an exception."""
    return Failed(f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)))


class Pool(ABC):
    """Workers that take one order each at a time."""

    @property
    @abstractmethod
    def has_room(self) -> bool:
        """Whether a worker is free."""

    @property
    @abstractmethod
    def is_busy(self) -> bool:
        """Whether an order is under way, or its end was not told yet."""

    @abstractmethod
    def start(self, order: Order) -> None:
        """Give an order to a free worker."""

    @abstractmethod
    def wait(self) -> list[Ended]:
        """Return what has ended, after at least one has."""

    @abstractmethod
    def close(self, *, orderly: bool) -> None:
        """End all workers; those at work at once."""

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close(orderly=kind is None)


def pool_of(executor: Executor, jobs: int, *, bars: bool) -> Pool:
    """Return the workers; ``bars`` tells whether those on this machine show what they do."""
    if executor == "serial":
        return SerialPool(bars=bars)
    if executor == "processes":
        return ProcessPool(jobs, bars=bars)
    from robustmarl.evaluation.clusters import RayPool

    return RayPool(jobs)


class SerialPool(Pool):
    """This very process, one cell after the other: for debuggers and notebooks."""

    def __init__(self, *, bars: bool) -> None:
        self._position = 1 if bars else None
        self._ended: deque[Ended] = deque()

    @property
    @override
    def has_room(self) -> bool:
        return not self._ended

    @property
    @override
    def is_busy(self) -> bool:
        return bool(self._ended)

    @override
    def start(self, order: Order) -> None:
        self._ended.append((order.name, perform(order, self._position)))

    @override
    def wait(self) -> list[Ended]:
        return [self._ended.popleft()]

    @override
    def close(self, *, orderly: bool) -> None:
        pass


class ProcessPool(Pool):
    """Processes of this machine, each started anew (spawn) and used for cell after cell.

    The pools of the standard library do not say which task a dead process had, and one of them
    loses all of its tasks with it. Here every worker has a pipe of its own.
    """

    def __init__(self, jobs: int, *, bars: bool) -> None:
        self._bars = bars
        self._free = list(range(1, jobs + 1))[::-1]  # positions of workers without an order
        self._idle: dict[int, _Worker] = {}
        self._busy: dict[int, tuple[_Worker, Order]] = {}

    @property
    @override
    def has_room(self) -> bool:
        return bool(self._free)

    @property
    @override
    def is_busy(self) -> bool:
        return bool(self._busy)

    @override
    def start(self, order: Order) -> None:
        position = self._free.pop()
        message = pickle.dumps((order, position if self._bars else None))
        worker = self._idle.pop(position, None)
        if worker is not None:
            self._busy[position] = worker, order
            if not worker.send(message):
                worker.stop(patience=0.0)  # it died while it had nothing to do
                worker = None
        if worker is None:
            worker = _Worker()
            self._busy[position] = worker, order  # before it begins: an interrupt must find it
            worker.send(message)  # if it dies at once, wait() says so

    @override
    def wait(self) -> list[Ended]:
        watched: dict[Any, int] = {}
        for position, (worker, _) in self._busy.items():
            watched |= {worker.pipe: position, worker.process.sentinel: position}
        ended = dict.fromkeys(watched[one] for one in connection.wait(list(watched)))
        return [self._end(position) for position in ended]

    def _end(self, position: int) -> Ended:
        worker, order = self._busy.pop(position)
        self._free.append(position)
        outcome = worker.answer()
        if outcome is None:
            return order.name, Died(worker.stop())
        self._idle[position] = worker
        return order.name, outcome

    @override
    def close(self, *, orderly: bool) -> None:
        workers = [*self._idle.values(), *(worker for worker, _ in self._busy.values())]
        self._idle, self._busy = {}, {}
        for worker in workers:
            worker.pipe.close()  # an idle worker ends when it sees this
            if not orderly:
                worker.process.terminate()
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that does what comes through its pipe."""

    def __init__(self) -> None:
        spawn = get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process: BaseProcess = spawn.Process(target=_serve, args=(theirs,), daemon=False)
        self.process.start()
        theirs.close()  # else its end would not be seen when the process dies

    def send(self, message: bytes) -> bool:
        """Return whether the worker could still be told."""
        try:
            self.pipe.send_bytes(message)
        except OSError:
            return False
        return True

    def answer(self) -> str | Failed | None:
        """Return what came of an order, None if the worker died with it."""
        try:
            # A child of the worker's own may hold the pipe open that nobody will write to.
            return self.pipe.recv() if self.pipe.poll() else None
        except (EOFError, OSError):  # nothing, or a part only, was written
            return None

    def stop(self, patience: float = PATIENCE) -> str:
        """Wait until the process has ended, see to it if need be, and return how it did."""
        self.pipe.close()
        self.process.join(patience)
        for end in (self.process.terminate, self.process.kill):
            if self.process.exitcode is None:
                end()
                self.process.join(PATIENCE)
        return how(self.process.exitcode)


def how(exitcode: int | None) -> str:
    """Return how a process ended, in words."""
    if exitcode is not None and exitcode < 0:
        with suppress(ValueError):
            name = signal.Signals(-exitcode).name
            memory = ", as the system does when memory runs out" if name == "SIGKILL" else ""
            return f"it was killed by {name}{memory}"
    return f"it ended with exit code {exitcode}"


def _serve(pipe: connection.Connection) -> None:
    """Do what comes through ``pipe`` until it is closed, or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)  # side by side, more of them would only be in each other's way
    while True:
        try:
            message = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        try:
            order, position = pickle.loads(message)
        except Exception as error:
            pipe.send(failed(error))
            continue
        pipe.send(perform(order, position))


def _end_with_parent() -> None:
    """End at once when the parent does: a study that is begun again must find no other writer."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
