"""Files that are whole or not there, and folders that one process at a time writes to."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TextIO

from robustmarl._checks import writing

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["LOCK", "locked", "whole"]

LOCK = "run.lock"
"""The file that says who writes to a run's folder: process id and host."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a file beside ``path`` to write, which takes its place if all went well.

    Its name is nobody else's, it is flushed to disk before it is renamed, and nothing is left of
    it after an exception.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # else the rename may reach the disk before the content does
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def locked(where: str, folder: Path, names: Sequence[str] = ()) -> Iterator[None]:
    """Hold ``folder`` for this process, and sweep up what killed ones left of files ``names``.

    The operating system holds the lock and lets go of it when the process ends, however it does:
    of several that find a dead one's file just one gets it. Where there are no such locks
    (Windows), and where another machine wrote the file, it has to be removed by hand.

    Raises:
        ValueError: if another run writes to it, or it cannot be written to.
    """
    path = (folder / LOCK).resolve()
    with writing(where, folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = _taken(where, path)
    try:
        for name in names:
            for part in folder.glob(f"{name}*.part"):
                part.unlink(missing_ok=True)
        yield
    finally:
        if fcntl is None:
            file.close()  # Windows removes no open file
        path.unlink(missing_ok=True)  # before it is let go of: afterwards it may be another's
        file.close()


def _taken(where: str, path: Path) -> TextIO:
    """Return the lock file, open, locked and signed."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            free = _grabbed(file)
            file.seek(0)
            text = file.read()
            if not free or _foreign(text):
                raise ValueError(
                    f"{where} must be a folder that no other run writes to, got one locked by "
                    f"{_owner(text)}. Wait for it, take another folder, or, if it is dead, remove "
                    f"{str(path)!r}."
                )
            if _is_at(file, path):
                file.truncate(0)
                file.write(f"{os.getpid()} {socket.gethostname()}\n")
                file.flush()
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # its holder has just removed it: what is locked is no name any more


def _grabbed(file: TextIO) -> bool:
    if fcntl is None:
        return file.tell() == 0  # it was there before
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: TextIO, path: Path) -> bool:
    """Return whether the open file is the one that has the name now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _foreign(text: str) -> bool:
    """Return whether another machine wrote this, whose locks need not be seen here."""
    host = text.strip().partition(" ")[2]
    return bool(text.strip()) and host != socket.gethostname()


def _owner(text: str) -> str:
    pid, _, host = text.strip().partition(" ")
    return f"process {pid} on {host}" if host else "an unknown process"
