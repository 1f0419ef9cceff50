"""Runs, their files and settings; rollouts, tables, statistics; contracts."""

import functools
import json
import math
import tempfile
from pathlib import Path

import numpy as np
from catalogue.kinds import (
    Domain,
    Made,
    Pair,
    Reached,
    Subject,
    briefly,
    choice,
    flag,
    function,
    instance,
    integer,
    number,
    seed,
    text,
)
from catalogue.things import ATTACK, BALL, game, network, noise, traitor
from report_doubles import Drawn

from robustmarl.adversaries import SharedObsAdversary
from robustmarl.algorithms import IQL, VDN
from robustmarl.evaluation import (
    Cell,
    CrossTable,
    adaptation,
    bootstrap,
    byzantine_attacks,
    clopper_pearson,
    crossplay,
    curve_panels,
    heatmap,
    iqm,
    learning_curves,
    record,
    report,
    rollout,
    signed_rank,
    train_blind,
    wilson,
)
from robustmarl.perturbers import ObsPerturber
from robustmarl.testing import (
    check_adversary,
    check_algorithm,
    check_attack,
    check_engine,
    check_env,
    check_loss,
    check_perturber,
    check_wrapper,
)
from robustmarl.training import (
    Log,
    OffPolicy,
    OnPolicy,
    Tests,
    load,
    load_checkpoint,
    load_weights,
    run,
    save_weights,
)
from robustmarl.training.checkpoints import check_finite, save_checkpoint
from robustmarl.training.trainers import check_trainable

FOLDER = tempfile.TemporaryDirectory()
HERE = Path(FOLDER.name)
AT_ONCE = OffPolicy(batch_size=1, learning_starts=1)
ROUNDS = {"episodes_per_round": integer(2, optional=True)}
SCORES = Domain(
    (3.0, None, "high", [1.0, 2.0], {0: ["a"]}),
    ([], [[]], {0: [math.nan]}),
    (Pair(((1.0, 0.0), (1.0,)), [[1.0, 0.0], [1.0]]), Pair({0: (1, 0)}, {0: [1.0, 0.0]})),
)
LEVEL = Domain(("0.9", True, None), (0.0, 1.0, math.nan), (Pair(np.float32(0.5), 0.5),))
SAMPLE = Domain(("high", None, ["a", "b"]), ([], [1.0, math.nan]), (Pair((2, 4), [2.0, 4.0]),))
ATTACKS = Domain(
    (3, "pgd", [3], Made(lambda: SharedObsAdversary(noise()), "adversary"), [BALL]),
    (),
    (Pair(ATTACK, [ATTACK]), Pair((ATTACK,), [ATTACK])),
)
OPPONENTS = Domain((3, "random"), ({"nobody": 3},))
PLACE = Domain((3, ["folder"]), ("/dev/null/file", "/proc/file"))
CURVE = Domain(
    (3, None, "curve"),
    ({}, {"QMIX": []}, {"QMIX": [([0.0, 0.0], [1.0, 2.0])]}),
)


@functools.cache
def small():
    """Return a learner of a game of two steps."""
    return IQL.for_env(game(), hidden=(4,), seed=1)


@functools.cache
def saved():
    """Return the weights of VDN, written."""
    path = HERE / "vdn.pt"
    save_weights(VDN.for_env(game(), hidden=(4,)), path)
    return path


def garbled():
    """Return a file that holds something else."""
    path = HERE / "garbled.pt"
    path.write_bytes(b"something else")
    return path


def occupied():
    """Return a folder's name that a file has."""
    path = HERE / "a file"
    path.touch()
    return path


def cell():
    return Cell({0: [1.0, 0.0], 1: [1.0, 1.0]})


def table():
    return CrossTable(cells={"QMIX": {"none": cell(), "PGD": cell()}})


def training():
    return {
        "algorithm": IQL.for_env(game(), hidden=(4,), seed=1),
        "make_env": game,
        "env_steps": 4,
        "num_envs": 1,
        "learn": AT_ONCE,
        "log": Log(progress=False),
    }


def contract(call, good, domains):
    """Return the subject of a contract, which takes long: whether it begins is enough."""
    bad = {name: Domain(domain.kinds, domain.values) for name, domain in domains.items()}
    return Subject(call, good, bad)


def reached(*args, **kwargs):
    """Stand for what a contract asks for first."""
    raise Reached


SUBJECTS = (
    Subject(
        OffPolicy,
        dict,
        {
            "updates_per_episode": number(0.5, 0.0, open_low=True),
            "batch_size": integer(4),
            "buffer_episodes": integer(64),
            "buffer_bytes": integer(4, optional=True),
            "learning_starts": integer(4) | Domain((), (10**4,)),
        }
        | ROUNDS,
    ),
    Subject(
        OnPolicy,
        dict,
        {
            "epochs": integer(2),
            "batch_size": integer(4, optional=True),
            "steps_per_round": integer(4, optional=True),
            "segment_length": integer(4, optional=True),
            "rounds": integer(4, optional=True),
        }
        | ROUNDS,
    ),
    Subject(
        Tests,
        dict,
        {
            "attacks": Domain((3, None, "clean", [ATTACK], {1: None}, {"pgd": "pgd"}, {"x": [3]})),
            "episodes": integer(4),
        },
    ),
    Subject(
        Log,
        lambda: {"logdir": HERE / "log"},
        {
            "logdir": Domain((3, ["folder"], True)),
            "resume": flag(),
            "progress": Domain((3, None), (), (Pair(np.bool_(False), False),)),
            "bar_position": integer(2, 0),
            "logger": Domain(("tensorboard", 3)),
        },
    ),
    Subject(
        run,
        training,
        {
            "algorithm": instance(network(), IQL),
            "make_env": Domain((3, None, "3m", Made(game, "an environment"))),
            "env_steps": integer(4),
            "num_envs": Domain(("2", 1.5, True), (0,), (Pair(np.int64(1), 1),)),
            "seed": Domain(("0", 1.5, True), (-1,), (Pair(np.int64(3), 3),)),
            "team": Domain((), ("nobody", 3)),
            "opponents": OPPONENTS,
            "perturb": ATTACKS,
            "interval": Domain(("2", 1.5, True), (0,), (Pair(np.int64(2), 2),)),
            "learn": Domain((3, "off-policy", OnPolicy())),
            "tests": Domain((3, "clean", [ATTACK], {"pgd": BALL})),
            "log": Domain((3, "runs/1")),
            "callback": function(optional=True),
        },
    ),
    Subject(
        lambda logdir: run(**{**training(), "log": Log(logdir, progress=False)}),
        lambda: {"logdir": tempfile.mkdtemp(dir=HERE)},
        {"logdir": Domain((), (Made(occupied, "a file"), "/dev/null/run", "/proc/run"))},
        "Log",
    ),
    Subject(
        lambda algorithm: check_trainable("check_trainable.algorithm", algorithm),
        lambda: {"algorithm": small()},
        {"algorithm": instance(network(), IQL)},
        "check_trainable",
        check_trainable,
    ),
    Subject(
        lambda algorithm: check_finite("check_finite.algorithm", algorithm),
        lambda: {"algorithm": small()},
        {},
        "check_finite",
        check_finite,
    ),
    Subject(
        save_weights,
        lambda: {"algorithm": small(), "path": HERE / "small.pt"},
        {
            "algorithm": instance(),
            "path": PLACE | Domain((None,)),
            "make_env": Domain((3, "skirmish", lambda: game())),
            "about": Domain((3, ["a"])),
            "optimizers": flag(),
        },
    ),
    Subject(
        load,
        lambda: {"path": saved()},
        {
            "path": Domain(
                (3, None),
                (Made(garbled, "garbled"), Made(lambda: HERE, "folder")),
                (Pair(Made(lambda: str(saved()), "text"), Made(saved, "path")),),
            ),
            "kind": Domain((3, None, "VDN", int)),
            "device": Domain((3.5, None), ("cud",)),
        },
    ),
    Subject(
        load_weights,
        lambda: {"algorithm": VDN.for_env(game(), hidden=(4,)), "path": saved()},
        {
            "algorithm": instance() | Domain((), (Made(small, "IQL"),)),
            "path": Domain(
                (3, None),
                (Made(garbled, "garbled"),),
                (Pair(Made(lambda: str(saved()), "text"), Made(saved, "path")),),
            ),
        },
    ),
    Subject(
        load_checkpoint,
        lambda: {"path": saved()},
        {
            "path": Domain((3, None), (Made(garbled, "garbled"), Made(lambda: HERE, "folder"))),
            "device": Domain((3.5, None), ("cud",)),
        },
    ),
    Subject(
        save_checkpoint,
        lambda: {"path": HERE / "content.pt", "content": {"one": 1}},
        {"path": PLACE | Domain((None,)), "content": Domain((3, None, {"one": object()}))},
    ),
    Subject(
        rollout,
        lambda: {"policy": small(), "make_env": game, "episodes": 2, "num_envs": 1},
        {
            "policy": Domain((3, None, "random")),
            "make_env": Domain((3, None, "3m", Made(game, "an environment"))),
            "episodes": integer(2),
            "num_envs": integer(1),
            "perturb": ATTACKS,
            "seed": seed(),
            "team": Domain((), ("nobody", 3)),
            "opponents": OPPONENTS,
        },
    ),
    Subject(
        record,
        lambda: {
            "policy": IQL.for_env(Drawn(), hidden=(4,), seed=1),
            "make_env": Drawn,
            "episodes": 1,
        },
        {
            "policy": Domain((3, None, "random")),
            "make_env": Domain((3, None, "3m")),
            "episodes": integer(1),
            "perturb": ATTACKS,
            "seed": seed(),
            "team": Domain((), ("nobody", 3)),
            "opponents": OPPONENTS,
            "title": text(),
        },
    ),
    Subject(
        report,
        lambda: {"findings": table(), "path": HERE / "report.html"},
        {
            "findings": Domain((3, None, {"a": 3}, [3]), ([],)),
            "path": PLACE | Domain((), ("report.pdf",)),
            "curves": Domain((3, "curve", {"a": 3}), ({}, {"a": []})),
            "sweeps": Domain((3, None, [3])),
            "recordings": Domain((3, None, [3])),
            "title": text(),
            "command": Domain((3, None, ["python"])),
        },
    ),
    Subject(
        crossplay,
        lambda: {
            "victims": {"IQL": small()},
            "attacks": {"none": None},
            "make_env": game,
            "episodes": 2,
            "num_envs": 1,
        },
        {
            "victims": Domain((3, None, [1], {"IQL": 3}), ({}, {"IQL": []})),
            "attacks": Domain((3, None, [ATTACK], {"pgd": 3}, {"pgd": BALL}), ({},)),
            "make_env": Domain((3, None)),
            "episodes": integer(2),
            "metric": Domain((), ("won",)),
            "num_envs": integer(1),
            "seed": seed(),
            "team": Domain((), ("nobody",)),
            "opponents": OPPONENTS,
            "baselines": flag(),
            "trained_blind": Domain((3, "blind", {0: 3}), ({}, [])),
            "title": text(),
            "progress": Domain((3, None)),
        },
    ),
    Subject(
        train_blind,
        lambda: {
            "teams": small(),
            "make_env": game,
            "env_steps": 4,
            "num_envs": 1,
            "learn": AT_ONCE,
            "log": Log(progress=False),
        },
        {
            "teams": Domain((3, None, [3], {0: "IQL"}), ([], {})),
            "make_env": Domain((3, None)),
            "env_steps": integer(4),
            "num_envs": integer(1),
            "team": Domain((), ("nobody", 3)),
            "opponents": OPPONENTS,
            "learn": Domain((3, OnPolicy())),
            "log": Domain((3, "runs/1")),
        },
    ),
    Subject(
        adaptation,
        lambda: training() | {"attack": lambda algorithm: ObsPerturber(ATTACK), "test_episodes": 1},
        briefly(
            {
                "algorithm": instance(network()),
                "make_env": Domain((3, None)),
                "attack": Domain((ATTACK, 3)),
                "env_steps": Domain(("2", True), (0,)),
                "recovery_steps": Domain(("2", True), (-1,)),
                "metric": Domain((), ("won", 3)),
                "test_episodes": Domain(("2", True), (0,)),
                "num_envs": Domain(("2", True), (0,)),
                "seed": Domain(("2", True), (-1,)),
                "interval": Domain(("2", True), (0,)),
                "learn": Domain((OnPolicy(), 3)),
                "log": Domain(("runs", 3)),
            }
        ),
    ),
    Subject(
        byzantine_attacks,
        lambda: {
            "target": "one",
            "adversaries": {"one": {"unit_0": traitor()}},
            "agent": "unit_0",
        },
        {
            "target": Domain((), ("two", 3)),
            "adversaries": Domain((3, None, [1], {"one": [1]}), ({},)),
            "agent": Domain((3, None), ("unit_9",)),
            "epsilons": Domain(
                (3, None, "0.1", ("a",)), ((-0.1,), (0.1, 0.1), (math.nan,)), (Pair([0.5], (0.5,)),)
            ),
        },
    ),
    Subject(
        bootstrap,
        lambda: {"scores": [[1.0, 0.0], [1.0, 1.0]], "resamples": 9},
        {
            "scores": SCORES,
            "level": LEVEL,
            "resamples": integer(9),
            "seed": seed(),
            "statistic": choice(),
        },
    ),
    *(
        Subject(
            share,
            lambda: {"successes": 3, "n": 5},
            {
                "successes": Domain(("3", 2.5, None, True), (-1, 6), (Pair(np.int64(2), 2),)),
                "n": Domain(("5", 5.5, None, True), (0,), (Pair(np.int64(5), 5),)),
                "level": LEVEL,
            },
        )
        for share in (clopper_pearson, wilson)
    ),
    Subject(
        iqm,
        lambda: {"x": [1.0, 2.0, 3.0, 4.0]},
        {
            "x": Domain(("high", None, ["a"]), ([],), (Pair((1, 2), [1.0, 2.0]),)),
            "axis": Domain(("0", 0.5, None), (3, -2), (Pair(np.int64(0), 0),)),
        },
    ),
    Subject(
        signed_rank,
        lambda: {"a": [2.0, 4.0], "b": [1.0, 2.0]},
        {"a": SAMPLE, "b": SAMPLE | Domain((), ([1.0, 2.0, 3.0],))},
    ),
    Subject(
        Cell,
        lambda: {"scores": {0: [1.0, 0.0]}},
        {
            "scores": Domain(
                (3, None, [1.0], {"one": [1.0]}, {0: "high"}, {0: 3.0}),
                ({}, {0: []}, {0: [math.nan]}),
                (Pair({np.int64(0): (1, 0)}, {0: [1.0, 0.0]}),),
            ),
            "level": LEVEL,
        },
    ),
    Subject(
        CrossTable,
        lambda: {"cells": {"QMIX": {"none": cell()}}},
        {
            "cells": Domain((3, None, [1], {"QMIX": [1]}, {"QMIX": {"none": 1.0}}), ({},)),
            "metric": text(),
            "baselines": Domain(("QMIX", 3), (("random",),)),
            "title": text(),
        },
    ),
    Subject(
        CrossTable.from_json,
        lambda: {"source": table().to_json()},
        {
            "source": Domain(
                (3, None, ["{}"]),
                (
                    "{}",
                    "{broken",
                    json.dumps({"metric": "return", "cells": {"QMIX": {"none": {}}}}),
                    json.dumps({"metric": "return", "cells": 3, "title": "", "baselines": []}),
                    "missing.json",
                    Made(garbled, "garbled"),
                ),
            )
        },
    ),
    Subject(
        heatmap,
        lambda: {"table": table()},
        {"table": instance(), "path": PLACE | Domain((), ("table.doc",))},
    ),
    Subject(
        learning_curves,
        lambda: {"curves": {"QMIX": [([0.0, 1.0], [1.0, 2.0])]}},
        {"curves": CURVE, "path": Domain((3,), ("curves.doc",)), "title": text()},
    ),
    contract(
        curve_panels,
        lambda: {"panels": {"3m": {"QMIX": [([0.0, 1.0], [1.0, 2.0])]}}},
        {
            "panels": Domain((3, None, "3m", {"3m": 3}), ({}, {"3m": {}})),
            "columns": integer(1),
        },
    ),
    contract(
        check_adversary,
        lambda: {
            "make_adversary": reached,
            "make_team": reached,
            "make_env": reached,
        },
        {
            "make_adversary": function(),
            "make_team": function(),
            "make_env": function(),
            "episodes": integer(2),
            "num_envs": integer(2),
            "seed": seed(),
        },
    ),
    contract(
        check_algorithm,
        lambda: {"make_algorithm": reached, "make_env": reached},
        {
            "make_algorithm": function(),
            "make_env": function(),
            "env_steps": integer(2),
            "num_envs": integer(2),
            "seed": seed(),
        },
    ),
    contract(
        check_attack,
        lambda: {"make_attack": reached},
        {
            "make_attack": function(),
            "victim": Domain((3, "vdn")),
            "obs_size": integer(2),
            "num_actions": integer(2),
            "rows": integer(2),
        },
    ),
    contract(
        check_engine,
        lambda: {"make_engine": reached},
        {
            "make_engine": function(),
            "num_envs": integer(2, 2),
            "episodes": integer(4, 4),
            "seed": seed(),
            "stochastic": flag(),
        },
    ),
    contract(
        check_env,
        lambda: {"make_env": reached},
        {
            "make_env": function(),
            "episodes": integer(2),
            "seed": seed(),
            "stochastic": flag(),
            "time_limit": flag(),
        },
    ),
    contract(
        check_loss,
        lambda: {"make_term": reached},
        {
            "make_term": function(),
            "continuous": flag(),
            "zero_without_budget": flag(),
            "obs_size": integer(2, 2),
            "num_actions": integer(2, 2),
            "rows": integer(2, 2),
        },
    ),
    contract(
        check_perturber,
        lambda: {"make_perturber": reached},
        {
            "make_perturber": function(),
            "wrap": function(optional=True),
            "make_team": function(optional=True),
            "make_env": function(optional=True),
            "episodes": integer(2),
            "num_envs": integer(2, 2),
            "seed": seed(),
        },
    ),
    contract(
        check_wrapper,
        lambda: {"wrap": reached, "make_env": reached},
        {
            "wrap": function(),
            "make_env": function(),
            "observations_only": flag(),
            "identity": flag(),
            "steps": integer(2),
            "seed": seed(),
        },
    ),
)
