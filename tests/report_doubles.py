"""Findings of which reports are made in tests: small, and some of everything."""

import functools

import numpy as np

from robustmarl import envs
from robustmarl.algorithms import VDN
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.data import RandomController
from robustmarl.evaluation import (
    Cell,
    Certificates,
    CrossTable,
    Sweep,
    record,
    report,
)
from robustmarl.joint import spec_of
from robustmarl.training import History

WON = [1.0, 1.0, 1.0, 0.0]
LOST = [0.0, 0.0, 0.0, 1.0]


def table():
    """Return two teams and a random one against three attacks; one cell is missing."""

    def cell(scores):
        return Cell({0: scores, 1: scores[::-1], 2: scores[1:]}, limits=(0.0, 1.0))

    cells = {
        "random": {"none": cell(LOST), "PGD": cell(LOST)},
        "QMIX": {"none": cell(WON), "PGD": cell(LOST), "worst": cell(LOST)},
        "<b>QMIX</b>": {"none": cell(WON), "PGD": cell(WON), "worst": cell(WON)},
    }
    return CrossTable(cells=cells, metric="battle_won", baselines=["random"], title="3m: wins")


def swept():
    """Return a sweep and certificates, over two sizes."""
    won, lost = Cell({0: WON}, limits=(0.0, 1.0)), Cell({0: LOST}, limits=(0.0, 1.0))
    row = {"0": won, "0.1": lost}
    scores = CrossTable(
        cells={"random": {"0": lost, "0.1": lost}, "QMIX": row},
        metric="battle_won",
        baselines=["random"],
        title="3m",
    )
    kept = CrossTable(cells={"QMIX": row}, metric="decisions", title="3m")
    sweep = Sweep(epsilons=(0.0, 0.1), scores=scores, flips=kept, moved={})
    certificates = Certificates(epsilons=(0.0, 0.1), proven=kept, kept=kept, won=None)
    return sweep, certificates


@functools.cache
def recordings():
    """Return two battles of an untrained team, clean and attacked."""

    def battle():
        return envs.skirmish("3m")

    team = VDN.for_env(battle(), hidden=(8,), seed=1)
    attack = PGD(ball=LinfBall(epsilon=0.5), steps=2)
    return [
        record(team, battle, episodes=2, title="clean"),
        record(team, battle, perturb=attack, episodes=2, title="attacked"),
    ]


class Drawn(envs.SignalMatching):
    """An environment that draws itself and tells nothing."""

    render_mode = "rgb_array"

    def render(self):
        return np.full((4, 6, 3), 7, np.uint8)


def pictures():
    """Return an episode of which there are pictures only."""
    return record(RandomController(spec_of(Drawn())), Drawn, episodes=1, title="pictures")


def histories():
    """Return learning curves of two labels."""

    def history(shift):
        steps = list(range(0, 1000, 50))
        won = [min(1.0, step / 1000 + shift) for step in steps]
        return History(env_steps=steps, train={"return": [20 * x for x in won], "won": won})

    return {"clean": [history(0.0), history(0.1)], "defended": history(0.05)}


def full_report(path):
    """Write a report of all there is, and return its path."""
    sweep, certificates = swept()
    return report(
        table(),
        path,
        curves=histories(),
        sweeps=[sweep, certificates],
        recordings=recordings(),
        title="A report",
        command="python try.py --epsilon 0.1",
    )
