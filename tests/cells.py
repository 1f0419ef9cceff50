"""Cells of studies that other processes can import: what tests of runs and grids run."""

import os
import random
import signal

import numpy as np
import torch


def draw(count, place):
    """Return numbers from all global generators: nobody seeded them for this cell."""
    return {
        "python": [random.random() for _ in range(count)],
        "numpy": np.random.rand(count).tolist(),  # noqa: NPY002
        "torch": torch.rand(count).tolist(),
    }


def refuse(place):
    raise ValueError("no such thing")


def leave(place):
    raise SystemExit("enough")


def no_json(place):
    return {"score": float("nan")}


def no_mapping(place):
    return 3.0


def begun(place):
    """Return how often the cell was begun, this time included."""
    place.folder.mkdir(parents=True, exist_ok=True)
    tries = len(list(place.folder.iterdir()))
    (place.folder / str(tries)).touch()
    return tries + 1


def die(times, place):
    """Be killed so many times, then return numbers."""
    tries = begun(place)
    if tries <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(2, place) | {"tries": tries}


def end_parent(name, place):
    os.kill(os.getppid(), getattr(signal, name))
    signal.pause()


def follow(folder, place):
    """Return how many cells came before."""
    number = len(list(folder.iterdir()))
    (folder / str(number)).touch()
    return {"number": number}


def interrupted(place):
    raise KeyboardInterrupt


def where(place):
    return {"pid": os.getpid(), "folder": str(place.folder), "position": place.position}
