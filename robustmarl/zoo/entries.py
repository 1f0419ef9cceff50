"""How the zoo's teams are trained: what stands behind each name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from robustmarl import adversaries, algorithms, attacks, envs
from robustmarl.algorithms.romfac import romfac_loss
from robustmarl.budgets import LinfBall
from robustmarl.evaluation import Defence, Recipe
from robustmarl.learning import adam
from robustmarl.learning.settings import OpenSettings
from robustmarl.losses import PolicyLoss, PolicyRegularizer
from robustmarl.perturbers import ObsPerturber, stor
from robustmarl.schedules import Linear
from robustmarl.training import OffPolicy, OnPolicy
from robustmarl.zoo.worlds import WORLDS

__all__ = ["ATTACKED", "ENTRIES", "SEEDS", "Entry", "entry_for"]

SEEDS = (0, 1, 2)
"""Training seeds that names end with; files of the first one come with the package."""

ATTACKED = 0.5
"""Half of the episodes clean: teams that are attacked in all lose where nobody attacks."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A team of the zoo.

    Attributes:
        world: the name of what it plays.
        method: how it was trained, in a word.
        seed: of its training.
        about: the same in a sentence.
        recipe: the team, and how it is trained.
        defence: what is added to that.
    """

    world: str
    method: str
    seed: int
    about: str
    recipe: Recipe
    defence: Defence

    @property
    def name(self) -> str:
        """World, method and seed."""
        return f"{self.world}/{self.method}/{self.seed}"


Trained = tuple[str, Recipe, Defence]
"""What a method is, in a sentence, and as data."""


def _qmix(
    ball: LinfBall, steps: int = 100_000, fading: int = 30_000
) -> Iterator[tuple[str, Trained]]:
    """Yield QMIX's teams, trained as in the quick preset of ``examples/atsa.py``."""
    fades = Linear(1.0, 0.05, over=fading, unit="env_steps")
    shared: OpenSettings = {
        "optim": adam(1e-3),
        "gamma": 0.97,
        "target_update": 50,
        "target_unit": "updates",
    }
    learning: OpenSettings = {"td_lambda": 0.8, "exploration": fades}
    recipe = Recipe(
        algorithm=algorithms.QMIX,
        env_steps=steps,
        num_envs=16,
        learn=OffPolicy(batch_size=16, learning_starts=16, buffer_episodes=1_000),
        settings=shared | learning,
    )
    generator = stor(ball)
    paad = partial(
        adversaries.PAAD.for_env,
        generator=generator,
        episodes=ATTACKED,
        hidden=(64, 64),
        recurrent=False,
        last_action=False,
        **shared,
        **learning,
    )
    atsa = partial(
        adversaries.ATSA.for_env,
        generator=generator,
        alpha=Linear(0.5, 0.05, over=40_000, unit="env_steps"),
        kappa=0.005,
        critic_optim=adam(1e-3),
        episodes=ATTACKED,
        hidden=(64, 64),
        recurrent=False,
        last_action=False,
        **shared,
    )
    yield "qmix-plain", ("QMIX, trained without attack", recipe, Defence())
    fgsm = Defence(perturb=ObsPerturber(attacks.PGD.fgsm(ball), episodes=ATTACKED))
    yield "qmix-fgsm", ("QMIX, trained under FGSM in half of its episodes", recipe, fgsm)
    text = "QMIX, trained under a director that learns on the reward turned, PA-AD"
    yield "qmix-paad", (text, recipe, Defence(adversary=paad))
    text = "QMIX, trained under a stochastic director, ATSA"
    yield "qmix-atsa", (text, recipe, Defence(adversary=atsa))


def _mappo(ball: LinfBall, steps: int = 150_000) -> Iterator[tuple[str, Trained]]:
    """Yield MAPPO's teams, trained as in ``benchmarks/skirmish_learning.py``."""
    recipe = Recipe(
        algorithm=algorithms.MAPPO,
        env_steps=steps,
        num_envs=32,
        learn=OnPolicy(steps_per_round=2_000, batch_size=500, epochs=5),
        settings={"optim": adam(1e-3, 1e-5), "entropy_coef": 0.003},
    )
    yield "mappo-plain", ("MAPPO, trained without attack", recipe, Defence())
    fgsm = Defence(perturb=ObsPerturber(attacks.PGD.fgsm(ball), episodes=ATTACKED))
    yield "mappo-fgsm", ("MAPPO, trained under FGSM in half of its episodes", recipe, fgsm)
    directions = partial(adversaries.DirectionPAAD.for_env, generator=stor(ball))
    text = "MAPPO, trained under a director that names directions of policies, PA-AD"
    yield "mappo-paad", (text, recipe, Defence(adversary=directions))
    atsa = partial(
        adversaries.ATSA.for_env,
        generator=stor(ball),
        alpha=Linear(0.5, 0.05, over=60_000, unit="env_steps"),
        kappa=0.005,
        optim=adam(1e-3),
        critic_optim=adam(1e-3),
        episodes=ATTACKED,
        hidden=(64, 64),
        recurrent=False,
        last_action=False,
    )
    text = "MAPPO, trained under a stochastic director, ATSA"
    yield "mappo-atsa", (text, recipe, Defence(adversary=atsa))


def _foraging(ball: LinfBall) -> Iterator[tuple[str, Trained]]:
    """Yield the teams of ``examples/quickstart.py``."""
    steps, learn = 200_000, OnPolicy(steps_per_round=500, batch_size=250)
    recipe = Recipe(algorithm=algorithms.MAPPO, env_steps=steps, num_envs=10, learn=learn)
    yield "mappo-plain", ("MAPPO, trained without attack", recipe, Defence())
    attack, rounds = attacks.PGD(ball=ball, steps=3), steps // 500
    rising = Linear(0.0, 0.5, over=3 * rounds // 8, begin=rounds // 4)
    growing = Linear(0.0, 0.25, over=3 * steps // 8, begin=steps // 4, unit="env_steps")
    held = Defence(
        perturb=ObsPerturber(attack, episodes=ATTACKED, epsilon=growing),
        mixins=(PolicyRegularizer,),
        settings={"policy_loss": PolicyLoss(attack=attack, form="kl", weight=rising)},
    )
    yield "mappo-held", ("MAPPO, held to the same policy under PGD, which grows", recipe, held)


def _battle(ball: LinfBall) -> Iterator[tuple[str, Trained]]:
    """Yield the teams of ``examples/romfac.py`` at its quick size."""
    rounds, games, horizon, team_size = 300, 4, 200, 12
    recipe = Recipe(
        algorithm=algorithms.MFAC,
        env_steps=rounds * games * horizon,
        num_envs=games,
        learn=OnPolicy(epochs=3, batch_size=1_024 // team_size, rounds=rounds),
        settings={"optim": adam(5e-4), "critic_optim": adam(5e-4), "tau": 0.05},
    )
    yield "mfac", ("mean-field actor-critic", recipe, Defence())
    warmup = 180
    loss = romfac_loss(ball=ball, peak=0.2, warmup=warmup, period=(rounds - warmup) // 3, steps=5)
    robust = replace(recipe, algorithm=algorithms.RoMFAC)
    text = "mean-field actor-critic with an action loss in three loops, RoMFAC"
    yield "romfac", (text, robust, Defence(settings={"action_loss": loss}))


FAST = {
    "p": 0.5,
    "adversary_clip": 0.5,
    "adversary_epochs": 4,
}
"""Of the adversaries that learn beside typed teams; see ``examples/byzantine.py``."""


def _toy() -> Iterator[tuple[str, Trained]]:
    """Yield the teams of ``examples/byzantine.py`` on the toy game."""
    steps, episodes = 300_000, 20
    rounds = steps // (episodes * envs.ToyGame().metadata["horizon"])
    ppo = {"clip": 0.1, "entropy_coef": 0.05, "optim": adam(2e-3, 1e-5), "columns": (0, 1)}
    plain = Recipe(
        algorithm=algorithms.MAPPO,
        env_steps=steps,
        num_envs=episodes,
        learn=OnPolicy(episodes_per_round=episodes, epochs=5),
        settings=ppo,
    )
    typed = {
        **FAST,
        "adversary_entropy_coef": 0.3,
        "adversary_optim": adam(5e-3, 1e-5),
        "teacher_forcing": Linear(1.0, 0.0, over=round(0.7 * rounds)),
    }
    yield from _against_traitors(plain, typed)


def _four_marines() -> Iterator[tuple[str, Trained]]:
    """Yield the teams of ``examples/byzantine.py`` on 4m_vs_3m."""
    steps, each = 80_000, 2_000
    plain = Recipe(
        algorithm=algorithms.MAPPO,
        env_steps=steps,
        num_envs=32,
        learn=OnPolicy(steps_per_round=each, epochs=5),
        settings={"optim": adam(1e-3, 1e-5)},
    )
    typed = {
        **FAST,
        "adversary_entropy_coef": 0.03,
        "adversary_optim": adam(2e-3, 1e-5),
        "teacher_forcing": Linear(1.0, 0.0, over=steps // each // 2),
    }
    yield from _against_traitors(plain, typed)


def _against_traitors(plain: Recipe, typed: Mapping[str, object]) -> Iterator[tuple[str, Trained]]:
    yield "mappo-plain", ("MAPPO, trained without traitors", plain, Defence())
    settings = {
        "preset": None,
        "hidden": (64, 64),
        **plain.settings,
        **typed,
        "belief_optim": adam(2e-3, 1e-5),
    }
    robust = replace(plain, algorithm=algorithms.EIRMAPPO, settings=settings)
    yield "eir-mappo", ("EIR-MAPPO, which believes in types of its agents", robust, Defence())


_BY_BALL: Mapping[str, tuple[Callable[[LinfBall], Iterator[tuple[str, Trained]]], ...]] = {
    "3s_vs_3z": (_qmix, _mappo),
    "2m_vs_1z": (partial(_qmix, steps=150_000, fading=60_000), partial(_mappo, steps=300_000)),
    "3m": (_qmix, _mappo),
    "foraging": (_foraging,),
    "battle": (_battle,),
}
_BY_TRAITOR = {"toy": _toy, "4m_vs_3m": _four_marines}


def _entries(name: str, ball: LinfBall | None) -> Iterator[Entry]:
    """Yield the teams of a world, whose attackers are held to ``ball``."""
    methods: list[tuple[str, Trained]] = []
    if ball is not None:
        for family in _BY_BALL[name]:
            methods += family(ball)
    else:
        methods += _BY_TRAITOR[name]()
    for method, (about, recipe, defence) in methods:
        for seed in SEEDS:
            yield Entry(
                world=name,
                method=method,
                seed=seed,
                about=about,
                recipe=recipe,
                defence=defence,
            )


def entry_for(
    world: str, algorithm: str, under: str | None, ball: LinfBall | None = None
) -> Entry | None:
    """Return how the zoo trains an algorithm under something, None if it does not.

    Args:
        world: any name.
        algorithm: the name of its class.
        under: ``"fgsm"``, ``"paad"``, ...; None is without attack.
        ball: what attackers may change, None as in the world.
    """
    if world not in WORLDS:
        return None
    attacked = ball if ball is not None and world in _BY_BALL else WORLDS[world].ball
    kind = algorithm.lower()
    sought = (f"{kind}-{under}",) if under else (f"{kind}-plain", kind)
    for entry in _entries(world, attacked):
        same = entry.recipe.algorithm.__name__ == algorithm
        if same and entry.method.replace("eir-mappo", "eirmappo") in sought:
            return entry
    return None


ENTRIES: Mapping[str, Entry] = {
    entry.name: entry for name, world in WORLDS.items() for entry in _entries(name, world.ball)
}
"""Name to team, world by world."""
