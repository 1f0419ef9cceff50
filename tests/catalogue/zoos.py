"""The zoo: the rows of its catalogue."""

import functools
import tempfile
from pathlib import Path

from catalogue.evaluation import contract, reached
from catalogue.kinds import Domain, Subject, choice, flag, instance, integer, seed, text

from robustmarl import zoo
from robustmarl.algorithms import MAPPO
from robustmarl.envs import ToyGame

FOLDER = tempfile.TemporaryDirectory()
HERE = Path(FOLDER.name)
NAME = Domain((3, None), ("nobody", "3m/qmix-plain"))
PLACE = Domain((3, ["folder"]))
HOME = {"name": "3s_vs_3z/qmix-plain/0", "folder": HERE}


class Found(MAPPO):
    """Is found good, and then asked for its spec."""

    @property
    def spec(self):
        return reached()


@functools.cache
def team():
    """Return a team that tells when it is about to be measured."""
    made = MAPPO.for_env(ToyGame(), hidden=(4,))
    made.__class__ = Found
    return made


SUBJECTS = (
    Subject(zoo.names, dict, {"shipped": flag()}),
    Subject(zoo.world, lambda: {"name": "8m"}, {"name": NAME}),
    Subject(zoo.load, lambda: dict(HOME), {"name": NAME, "folder": PLACE | Domain((None,))}),
    Subject(
        zoo.load_adversary,
        lambda: {"name": "3s_vs_3z/qmix-paad/0"},
        {"name": NAME | Domain((), ("3s_vs_3z/qmix-plain/0",)), "folder": PLACE},
    ),
    Subject(zoo.card, lambda: dict(HOME), {"name": NAME, "folder": PLACE}),
    Subject(
        lambda folder: list(zoo.cards(folder=folder)),
        lambda: {"folder": HERE},
        {"folder": PLACE},
        "cards",
        zoo.cards,
    ),
    Subject(
        zoo.leaderboard,
        lambda: {"cards": tuple(zoo.cards()), "world": "3s_vs_3z"},
        {"world": choice()},
    ),
    contract(
        zoo.measure,
        lambda: {"learner": team(), "world": "toy"},
        {
            "learner": instance(),
            "world": choice(),
            "name": text(),
            "episodes": integer(4, optional=True),
            "num_envs": integer(4),
            "seed": seed(),
            "about": text(),
            "command": text(),
        },
    ),
)
