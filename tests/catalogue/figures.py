"""Robustness figures: worst cases, sweeps, proofs, films; statistics over seeds and tasks."""

import math

import numpy as np
from catalogue.evaluation import LEVEL, OPPONENTS, SCORES, cell, small
from catalogue.kinds import Domain, Pair, Subject, choice, flag, integer, seed, text
from catalogue.things import ATTACK, BALL, game

from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.evaluation import (
    CrossTable,
    Entry,
    Suite,
    certified,
    interval,
    performance_profile,
    probability_of_improvement,
    quick,
    standard,
    sweep,
    task_iqm,
    worst_case,
)
from robustmarl.evaluation.exports import marl_eval

VICTIMS = Domain((3, None, [1], {"IQL": 3}), ({}, {"IQL": []}))
MAKER = Domain((3, None))
TEAM = Domain((), ("nobody",))
SIZES = Domain(("0.1", None, ["0.1"], 0.1), ([], [-1.0], [0.2, 0.1], [math.nan], [0.1, 0.1]))
LIMITS = Domain((3, "unit", (0.0, "1")), ((1.0, 0.0), (0.0, 0.5, 1.0), (math.nan, 1.0)))
TASKS = Domain((3, None, [[1.0]], {"3m": 1.0}), ({}, {"3m": []}, {"3m": [[math.nan], [1.0]]}))
TABLES = {"3m": CrossTable(cells={"QMIX": {"none": cell()}})}


def tasks():
    return {"3m": [[1.0, 0.0], [1.0]], "8m": [[0.5], [0.0]]}


def played():
    """Return what evaluations of a small team share."""
    return {"victims": {"IQL": small()}, "make_env": game, "episodes": 2, "num_envs": 1}


def playing():
    """Return what they refuse of it."""
    return {
        "victims": VICTIMS,
        "make_env": MAKER,
        "episodes": integer(2),
        "num_envs": integer(1),
        "seed": seed(),
        "team": TEAM,
        "opponents": OPPONENTS,
        "title": text(),
    }


def one():
    return Suite(name="own", version=1, entries=quick().entries[:1])


SUBJECTS = (
    Subject(
        interval,
        lambda: {"scores": [[1.0, 0.0], [1.0, 1.0]]},
        {"scores": SCORES, "level": LEVEL, "limits": LIMITS | Domain((), ((0.0, 0.5),))},
    ),
    Subject(
        probability_of_improvement,
        lambda: {"first": tasks(), "second": tasks()},
        {"first": TASKS, "second": TASKS | Domain((), ({"3m": [[1.0]]},)), "level": LEVEL},
    ),
    Subject(
        task_iqm,
        lambda: {"scores": tasks(), "resamples": 10},
        {
            "scores": TASKS | Domain((), ({"3m": [[1.0]]},)),
            "level": LEVEL,
            "resamples": integer(10),
            "seed": seed(),
        },
    ),
    Subject(
        performance_profile,
        lambda: {"scores": tasks(), "thresholds": [0.0, 0.5]},
        {
            "scores": TASKS,
            "thresholds": Domain(
                ("high", None), ([], 0.5, [math.nan]), (Pair((0, 1), [0.0, 1.0]),)
            ),
            "of": choice(),
            "level": LEVEL,
        },
    ),
    Subject(
        marl_eval,
        lambda: {"environment": "battles", "tables": TABLES},
        {
            "environment": text(),
            "tables": Domain((3, None, [1], {"3m": 3}), ({},)),
            "env_steps": integer(5, 0),
        },
    ),
    Subject(
        Suite,
        lambda: {"name": "own", "version": 1, "entries": quick().entries},
        {
            "name": text(),
            "version": integer(2),
            "entries": Domain((3, None, (3,)), ((),), (Pair([*one().entries], one().entries),)),
        },
    ),
    Subject(
        Entry,
        lambda: {"family": "noise", "build": dict},
        {"family": choice(), "build": Domain((3, None, "noise")), "longer": flag()},
    ),
    Subject(standard, dict, {"learning_steps": integer(5)}),
    Subject(
        worst_case,
        lambda: played() | {"ball": LinfBall(epsilon=3.0), "suite": one(), "choice_episodes": 1},
        playing()
        | {
            "ball": Domain((3, None, ATTACK), (LinfBall(epsilon=0.0),)),
            "suite": Domain((), ("slow", 3, None)),
            "agents": integer(1, optional=True) | Domain((), (9,)),
            "steps": integer(2, optional=True),
            "choice_episodes": integer(1),
            "metric": Domain((), ("won",)),
            "sources": Domain((3, None, [3])),
            "progress": Domain((3, None)),
        },
    ),
    Subject(
        sweep,
        lambda: played() | {"attack": ATTACK, "epsilons": [0.0, 0.1]},
        playing()
        | {
            "attack": Domain((3, None, "pgd", BALL)),
            "epsilons": SIZES | Domain((), (), (Pair((0, np.float64(0.5)), [0.0, 0.5]),)),
            "metric": Domain((), ("won",)),
            "baselines": flag(),
            "limits": LIMITS,
            "progress": Domain((3, None)),
        },
    ),
    Subject(
        certified,
        lambda: played() | {"ball": BALL, "epsilons": [0.0, 0.1]},
        playing()
        | {
            "ball": Domain((3, None, ATTACK)),
            "epsilons": SIZES,
            "attack": Domain((3, "pgd", BALL), (PGD(ball=LinfBall(epsilon=1.0, low=0.0)),)),
        },
    ),
)
