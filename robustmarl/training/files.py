"""Files that are whole or not there, and folders that one process at a time writes to."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from robustmarl._checks import writing

__all__ = ["LOCK", "locked", "whole"]

LOCK = "run.lock"
"""The file that says who writes to a run's folder: process id and host."""

_HELD: set[Path] = set()  # by this process, whose id alone does not tell one that it follows


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

    Raises:
        ValueError: if another run writes to it. The lock of a process that is dead is taken over.
    """
    path = (folder / LOCK).resolve()
    with writing(where, folder):
        folder.mkdir(parents=True, exist_ok=True)
        created = _created(path)
    while not created and not _created(path):
        text = path.read_text("utf-8") if path.exists() else ""
        if _alive(path, text):
            raise ValueError(
                f"{where} must be a folder that no other run writes to, got one locked by "
                f"{_owner(text)}. Wait for it, take another logdir, or, if it is dead, remove "
                f"{str(path)!r}."
            )
        path.unlink(missing_ok=True)
    _HELD.add(path)
    try:
        for name in names:
            for part in folder.glob(f"{name}*.part"):
                part.unlink(missing_ok=True)
        yield
    finally:
        _HELD.discard(path)
        path.unlink(missing_ok=True)


def _created(path: Path) -> bool:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {socket.gethostname()}\n")
    except FileExistsError:
        return False
    return True


def _alive(path: Path, text: str) -> bool:
    """Return whether the process that wrote ``text`` may be running; in doubt it may."""
    pid, _, host = text.strip().partition(" ")
    if not pid.isdigit() or host != socket.gethostname():
        return path.exists()  # just being written, or another machine's
    if int(pid) == os.getpid():
        return path in _HELD  # else of an earlier process with our id, as in containers
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


def _owner(text: str) -> str:
    pid, _, host = text.strip().partition(" ")
    return f"process {pid} on {host}" if host else "an unknown process"
