"""What the cells of a grid do: train a team, or play one under an attack."""

from __future__ import annotations

import time
import warnings
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import cast

from robustmarl.adversaries import Adversary
from robustmarl.data import RandomController
from robustmarl.envs.vector import EnvMaker, vector_env
from robustmarl.evaluation.crossplay import changing_actions
from robustmarl.evaluation.executors import Kept, Workplace
from robustmarl.evaluation.grid_tables import GridKey
from robustmarl.evaluation.recipes import Defence, Learned, Recipe
from robustmarl.evaluation.rollouts import Playing, rollout
from robustmarl.joint import TeamSpec
from robustmarl.learning import TeamAlgorithm
from robustmarl.training import AdversarialTraining, Attacks, load_weights, run, save_weights
from robustmarl.training.resume import CHECKPOINT
from robustmarl.typing import RobustnessWarning

__all__ = ["Episodes", "defended", "play", "play_random", "train"]

WEIGHTS = "weights.pt"
"""What is kept of a training, in its folder."""


@dataclass(frozen=True)
class Episodes:
    """What cells play: how many episodes, how many side by side, and of which seed."""

    episodes: int
    num_envs: int
    seed: int


def defended(algorithm: type[TeamAlgorithm], defence: Defence) -> type[TeamAlgorithm]:
    """Return the class with the mixins of the defence to its left."""
    if not defence.mixins:
        return algorithm
    bases = (*defence.mixins, algorithm)
    name = "".join(one.__name__ for one in bases)
    return cast("type[TeamAlgorithm]", type(name, bases, {"__doc__": algorithm.__doc__}))


def train(
    make_env: EnvMaker, recipe: Recipe, defence: Defence, team: GridKey, place: Workplace
) -> Kept:
    """Train one team, and keep its weights in the cell's folder."""
    begun, weights = time.process_time(), place.folder / WEIGHTS
    if weights.exists():  # killed after it, and before anybody was told
        return {"cpu_seconds": None}
    defence = deepcopy(defence)  # what perturbs has a memory, which is one team's
    spec = _spec(make_env)
    learner = _built(recipe, defence, spec, team.seed)
    trained: TeamAlgorithm | AdversarialTraining = learner
    if defence.adversary is not None:
        trained = AdversarialTraining(learner, defence.adversary(spec, seed=team.seed))
    history = run(
        trained,
        make_env,
        env_steps=recipe.env_steps,
        num_envs=recipe.num_envs,
        seed=team.seed,
        perturb=defence.perturb,
        learn=recipe.learn,
        log=place.log(str(team)),
    )
    save_weights(learner, weights)
    _forget(place)
    seconds = time.process_time() - begun
    return {"cpu_seconds": None if history.resumed else round(seconds, 1)}


def play(
    make_env: EnvMaker,
    recipe: Recipe,
    defence: Defence,
    weights: str | None,
    episodes: Episodes,
    attack: Attacks | Learned,
    team: GridKey,
    place: Workplace,
) -> Kept:
    """Play a team under an attack; ``weights`` names its training, None leaves it untrained."""
    learner = _built(recipe, defence, _spec(make_env), team.seed)
    if weights is not None:
        load_weights(learner, place.study / weights / WEIGHTS)
    if not isinstance(attack, Learned):
        return _played(learner, make_env, deepcopy(attack), episodes)
    adversary: Adversary = attack.adversary(learner.spec, seed=team.seed)
    run(
        AdversarialTraining(learner, adversary, team_every=None),
        make_env,
        env_steps=attack.env_steps,
        num_envs=attack.num_envs,
        seed=team.seed,
        learn=attack.learn,
        log=place.log(str(team)),
    )
    result = _played(learner, make_env, adversary.deployed(), episodes)
    save_weights(adversary, place.folder / WEIGHTS)
    _forget(place)
    return result


def play_random(
    make_env: EnvMaker, attack: Attacks | Learned, episodes: Episodes, place: Workplace
) -> Kept:
    """Play the random team: of an attack only what changes actions matters to it."""
    perturb = () if isinstance(attack, Learned) else deepcopy(changing_actions(attack))
    return _played(RandomController(_spec(make_env)), make_env, perturb, episodes)


def _spec(make_env: EnvMaker) -> TeamSpec:
    env = vector_env(make_env, 1)
    env.close()
    return env.spec.of_team(None)


def _built(recipe: Recipe, defence: Defence, spec: TeamSpec, seed: int) -> TeamAlgorithm:
    settings: Kept = {**recipe.settings, **defence.settings, "seed": seed}
    return defended(recipe.algorithm, defence).for_env(spec, **deepcopy(settings))


def _forget(place: Workplace) -> None:
    """Remove the checkpoint of a finished training: replay buffers are large."""
    with suppress(FileNotFoundError):
        (place.folder / CHECKPOINT).unlink()


def _played(policy: Playing, make_env: EnvMaker, perturb: Attacks, episodes: Episodes) -> Kept:
    """Return raw scores, one per episode, and what the evaluation warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RobustnessWarning)
        found = rollout(
            policy,
            make_env,
            episodes=episodes.episodes,
            num_envs=episodes.num_envs,
            seed=episodes.seed,
            perturb=perturb,
        )
    told: dict[str, None] = {}
    for one in caught:
        if issubclass(one.category, RobustnessWarning):
            told[str(one.message)] = None
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    names = ("return", *found.metrics)
    scores = {name: found.figure(name).tolist() for name in names}
    return {"scores": scores, "warnings": list(told)}
