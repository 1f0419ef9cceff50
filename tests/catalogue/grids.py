"""Studies of many runs: cells, recipes, grids, and what is read from their folders."""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from catalogue.evaluation import PLACE, table
from catalogue.figures import LIMITS
from catalogue.kinds import (
    Domain,
    Made,
    Pair,
    Subject,
    choice,
    flag,
    function,
    instance,
    integer,
    seed,
    text,
)
from catalogue.things import ATTACK, BALL, game
from cells import draw

from robustmarl.algorithms import IQL
from robustmarl.evaluation import (
    Defence,
    Grid,
    Job,
    Learned,
    Recipe,
    read_cells,
    read_tables,
    read_warnings,
    report_tables,
    run_cells,
)
from robustmarl.losses import ActionLossRegularizer
from robustmarl.training import OffPolicy

FOLDER = tempfile.TemporaryDirectory()
HERE = Path(FOLDER.name)
WORK = partial(draw, 2)
AT_ONCE = OffPolicy(batch_size=1, learning_starts=1)
NAMED = Domain((3, None, [1]), ({},))
LEARN = Domain((3, "off-policy", OffPolicy))
MAKER = function() | Domain(([],))
SETTINGS = Domain((3, None, ["gamma"]))
CELLS = Domain(
    ([3], [WORK]),
    (
        [Job(key=0, name="a", work=WORK), Job(key=0, name="b", work=WORK)],
        [Job(key=0, name="a", work=WORK), Job(key=1, name="a", work=WORK)],
        [Job(key=0, name="a", work=WORK, after=[3])],
    ),
)


def recipe():
    return Recipe(algorithm=IQL, env_steps=4)


def fresh():
    """Return an empty folder."""
    return Path(tempfile.mkdtemp(dir=HERE))


def study():
    """Return the folder of a study that was run."""
    folder = fresh()
    grid = Grid(
        victims={"IQL": Recipe(algorithm=IQL, env_steps=2, num_envs=1, learn=AT_ONCE)},
        attacks={"none": None},
        environments={"game": game},
        episodes=1,
    )
    grid.run(folder, executor="serial", progress=False)
    return folder


SUBJECTS = (
    Subject(
        Job,
        lambda: {"key": 0, "name": "cell", "work": WORK},
        {
            "name": text() | Domain((), ("", "/cell", "../cell", "a//b", "a/../b")),
            "work": function(),
            "settings": SETTINGS,
        },
    ),
    Subject(
        Recipe,
        lambda: {"algorithm": IQL, "env_steps": 4},
        {
            "algorithm": Domain((3, "IQL", None, int)),
            "env_steps": integer(4),
            "num_envs": integer(2),
            "learn": LEARN,
            "settings": SETTINGS,
        },
    ),
    Subject(
        Defence,
        dict,
        {
            "perturb": Domain((3, "pgd", [3])),
            "mixins": Domain(
                (3, ActionLossRegularizer, [3], [IQL]),
                (),
                (Pair([ActionLossRegularizer], (ActionLossRegularizer,)),),
            ),
            "settings": SETTINGS,
            "adversary": function(optional=True),
        },
    ),
    Subject(
        Learned,
        lambda: {"adversary": recipe, "env_steps": 4},
        {
            "adversary": MAKER,
            "env_steps": integer(4),
            "num_envs": integer(2),
            "learn": LEARN,
        },
    ),
    Subject(
        Grid,
        lambda: {
            "victims": {"IQL": recipe()},
            "attacks": {"none": None, "PGD": ATTACK},
            "environments": {"game": game},
        },
        {
            "victims": NAMED | Domain(({"IQL": IQL}, {3: recipe()}), ({"a/b": recipe()},)),
            "attacks": NAMED | Domain(({"PGD": 3}, {"PGD": BALL}), ({"..": None},)),
            "environments": NAMED | Domain(({"game": 3},)),
            "defences": NAMED | Domain(({"PGD": ATTACK},), ({"": Defence()},)),
            "seeds": Domain(
                (3, "0", ["0"], [0.5], None), ((), (0, 0), (-1,)), (Pair([np.int64(3)], (3,)),)
            ),
            "episodes": integer(4),
            "num_envs": integer(2),
            "episode_seed": seed(),
            "baselines": flag(),
        },
    ),
    Subject(
        run_cells,
        lambda: {
            "cells": [Job(key=0, name="cell", work=WORK)],
            "folder": fresh(),
            "executor": "serial",
            "progress": False,
        },
        {
            "cells": CELLS,
            "folder": PLACE | Domain((None,)),
            "jobs": integer(2),
            "executor": choice(),
            "retries": integer(2, 0),
            "settings": Domain((3, ["episodes"], {"ball": object()})),
            "progress": Domain((3, None), (), (Pair(np.bool_(False), False),)),
        },
    ),
    Subject(
        read_cells,
        lambda: {"cells": [Job(key=0, name="cell", work=WORK)], "folder": HERE},
        {"cells": CELLS, "folder": Domain((3, None))},
    ),
    Subject(
        read_tables,
        lambda: {"folder": study()},
        {
            "folder": Domain((3, None), (Made(fresh, "an empty folder"),)),
            "metric": Domain((3,), ("won",)),
            "limits": LIMITS,
        },
    ),
    Subject(
        read_warnings,
        lambda: {"folder": HERE},
        {"folder": Domain((3, None))},
    ),
    Subject(
        report_tables,
        lambda: {"tables": {"game": table()}, "folder": fresh()},
        {"tables": instance({"game": 3}), "folder": PLACE | Domain((None,))},
    ),
)
