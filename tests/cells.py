"""Cells of studies that other processes can import: what tests of runs and grids run."""

import os
import random
import signal
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from robustmarl.algorithms import VDN
from robustmarl.envs import SignalMatching
from robustmarl.training import OffPolicy, run


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


def train(deaths, place):
    """Train a team, killed so many times behind its second checkpoint; return what became of it."""
    tries = begun(replace(place, folder=place.folder / "tries"))
    team = VDN.for_env(SignalMatching(horizon=3), hidden=(4,), seed=3)

    def die_late(history):
        if tries <= deaths and history.env_steps[-1] >= 20:
            os.kill(os.getpid(), signal.SIGKILL)

    history = run(
        team,
        partial(SignalMatching, horizon=3),
        env_steps=48,
        num_envs=2,
        interval=10,
        learn=OffPolicy(batch_size=2, learning_starts=2),
        log=place.log("VDN"),
        callback=die_late,
    )
    weights = [one.detach().flatten() for one in team.policy.parameters()]
    return {"weights": torch.cat(weights).tolist(), "steps": history.env_steps, "tries": tries}


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
