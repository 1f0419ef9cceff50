"""What a worst case is taken over: fixed sets of attacks with a version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor

from robustmarl._checks import (
    check,
    check_choice,
    check_each,
    check_flag,
    check_function,
    check_int,
    check_kind,
    check_text,
    keep,
)
from robustmarl.adversaries import Adversary
from robustmarl.attacks import (
    APGD,
    PGD,
    AimedAttack,
    ObsAttack,
    RandomSearch,
    SquareSearch,
    UniformNoise,
)
from robustmarl.budgets import LinfBall
from robustmarl.data import AnyPolicy, Controller, EpisodeBuffer
from robustmarl.envs.vector import EnvMaker
from robustmarl.evaluation.directors import director, gaussian
from robustmarl.evaluation.meter import Meter
from robustmarl.evaluation.rollouts import rollout
from robustmarl.joint import MASKED, TeamSpec
from robustmarl.perturbers import ObsPerturber
from robustmarl.policies import TeamPolicy
from robustmarl.training import AdversarialTraining, Log, OffPolicy, OnPolicy, run
from robustmarl.victims import Victim, VictimView

__all__ = ["Case", "Entry", "Family", "Suite", "quick", "standard"]

Family: TypeAlias = Literal["noise", "gradient", "targeted", "black box", "learned", "transfer"]
"""What an attack knows, or does: checks of validity compare families."""

LEARNING_ENVS = 16  # of adversaries' training: a round is short, and its batch is not small
_LEARNING_BATCH = 16  # episodes of each of their updates
_LEARNING_BYTES = 2**30  # of episodes to learn from again


@dataclass(frozen=True, kw_only=True)
class Case:
    """One trained team under test, and what an attack on it may need.

    Attributes:
        policy: what plays.
        spec: the team's.
        make_env: builds one environment.
        ball: what attacks may change.
        agents: names of those whose observations are attacked, None for all.
        others: what plays the same team after other training, nearest relation first; for transfer.
        gradients: whether the policy has gradients that an attack can follow.
        samples: how often it is to be asked for each answer: more than once if they are random.
        seed: of what attacks learn.
        team: name of the team that it plays, where there are several.
        opponents: what plays the other teams.
    """

    policy: Controller
    spec: TeamSpec
    make_env: EnvMaker
    ball: LinfBall
    agents: tuple[str, ...] | None = None
    others: tuple[Controller, ...] = ()
    gradients: bool = True
    samples: int = 1
    seed: int = 0
    team: str | None = None
    opponents: Mapping[str, AnyPolicy] | None = None

    @property
    def asked(self) -> bool:
        """Whether the policy has a view that attacks can ask."""
        return self.policy.victim() is not None

    def on(self, attack: ObsAttack) -> ObsPerturber:
        """Return an attack on the attacked agents, which asks often enough."""
        if isinstance(attack, AimedAttack) and self.samples > 1:
            attack = replace(attack, samples=self.samples)
        return ObsPerturber(attack, agents=self.agents)

    def trained(
        self, adversary: Adversary, env_steps: int, *, progress: bool | str = False
    ) -> ObsPerturber:
        """Return an adversary as deployed, after so many steps against the frozen team.

        Args:
            adversary: perturbs observations; it learns.
            env_steps: >= 1.
            progress: show a bar; a text names it.

        Raises:
            TypeError: if the team's policy is not one of this package, or the adversary none on
                observations.
        """
        # of any other policy it says so itself
        training = AdversarialTraining(cast(TeamPolicy, self.policy), adversary, team_every=None)
        kept = _LEARNING_BYTES // EpisodeBuffer.bytes_per_episode(self.spec)
        off_policy = OffPolicy(
            batch_size=_LEARNING_BATCH,
            learning_starts=_LEARNING_BATCH,
            # of long games with many agents fewer, which a short training hardly misses
            buffer_episodes=max(_LEARNING_BATCH, min(1_000, kept)),
        )
        run(
            training,
            self.make_env,
            env_steps=env_steps,
            num_envs=LEARNING_ENVS,
            seed=self.seed,
            team=self.team,
            # what the collector adapts, as everywhere
            opponents=cast("Mapping[str, Controller] | None", self.opponents),
            learn=off_policy if training.off_policy else OnPolicy(),
            log=Log(progress=progress),
        )
        deployed = adversary.deployed()
        if not isinstance(deployed, ObsPerturber):
            kind = type(adversary).__name__
            raise TypeError(f"Case.trained.adversary must be one on observations, got {kind}.")
        return deployed


Build: TypeAlias = Callable[[Case], Mapping[str, ObsPerturber]]
"""Makes attacks by name for one team; none where they do not apply to it."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a suite, or several of a kind.

    Attributes:
        family: what they are.
        build: makes them for one team: name to perturber, empty where they do not apply.
        longer: whether it only shows that others had enough steps: it counts like them, and a
            warning says where it did better.

    Example:
        >>> from robustmarl import attacks, perturbers
        >>> def build(case):
        ...     return {"mine": perturbers.as_perturber(attacks.UniformNoise(ball=case.ball))}
        >>> mine = Suite(name="mine", version=1, entries=(Entry(family="noise", build=build),))
        >>> mine.title
        'mine-1'
    """

    family: Family
    build: Build
    longer: bool = False

    def __post_init__(self) -> None:
        check_choice("Entry.family", self.family, get_args(Family))
        check_function("Entry.build", self.build, "a function of a Case")
        keep(self, longer=check_flag("Entry.longer", self.longer))


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Attacks over which a worst case is taken.

    Figures of one version compare; whatever changes a figure makes a new version.

    Attributes:
        name: of the suite.
        version: >= 1.
        entries: what is tried.

    Example:
        >>> quick().title
        'quick-1'
    """

    name: str
    version: int
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        rule = "a tuple of entries"
        keep(
            self,
            name=check_text("Suite.name", self.name),
            version=check_int("Suite.version", self.version),
            entries=check_each("Suite.entries", self.entries, _entry, rule),
        )
        check(len(self.entries) > 0, "Suite.entries", "non-empty", self.entries)

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name}-{self.version}"

    def extended(self, *entries: Entry, name: str) -> Suite:
        """Return the suite with further entries, under another name.

        Args:
            entries: what is tried, too.
            name: of the new suite, of which it is version 1.
        """
        check(name != self.name, "Suite.extended.name", "a new name", name)
        return replace(self, name=name, version=1, entries=(*self.entries, *entries))


def _entry(where: str, given: object) -> Entry:
    check_kind(where, given, Entry, "a tuple of entries")
    return cast(Entry, given)


def quick() -> Suite:
    """Return a suite of seconds, without learning: noise, APGD, every target, square search.

    Example:
        >>> [entry.family for entry in quick().entries]
        ['noise', 'gradient', 'targeted', 'black box']
    """
    entries = (
        Entry(family="noise", build=_noise),
        Entry(family="gradient", build=_gradient),
        Entry(family="targeted", build=partial(_targeted, steps=10)),
        Entry(family="black box", build=partial(_black_box, queries=30)),
    )
    return Suite(name="quick", version=1, entries=entries)


def standard(*, learning_steps: int = 25_000) -> Suite:
    """Return the suite to report.

    ==============  =====================================================================
    family          attacks
    ==============  =====================================================================
    noise           uniform
    gradient        PGD-10; APGD-20 on the cross entropy, the scale-free margin (two
                    restarts), KL and expected change; the scale-free margin with 60
                    steps, to see whether 20 are enough
    targeted        APGD-20 towards every action, held over the episode, and towards the
                    victim's least liked one, anew in each step
    black box       100 queries of random and of square search
    learned         a best-response director (:class:`~robustmarl.adversaries.PAAD` with a
                    ten-step generator), and ATLA's Gaussian
    transfer        APGD on another team of the same kind, the first that has a gradient
    ==============  =====================================================================

    Of continuous actions: APGD on the squared error, towards both ends of all coordinates, a
    director that names vectors (:class:`~robustmarl.adversaries.TeamPAAD`, which learns as FACMAC
    does), and those of the rest that have no need of named actions. That director is what version 2
    has and version 1 had not: figures of discrete actions are the same in both.

    Args:
        learning_steps: environment steps of each learned attack against the frozen team, >= 1;
            other than 25,000 it is another suite, whose name says so.

    Example:
        >>> standard(learning_steps=10_000).title
        'standard/10000-2'
    """
    learning_steps = check_int("standard.learning_steps", learning_steps)
    learned = (_director, _gaussian)
    entries = (
        Entry(family="noise", build=_noise),
        Entry(family="gradient", build=_gradient),
        Entry(family="gradient", build=_more_gradient),
        Entry(family="gradient", build=_longer, longer=True),
        Entry(family="targeted", build=partial(_targeted, steps=20)),
        Entry(family="black box", build=partial(_black_box, queries=100)),
        *(Entry(family="learned", build=partial(one, steps=learning_steps)) for one in learned),
        Entry(family="transfer", build=_transfer),
    )
    name = "standard" if learning_steps == 25_000 else f"standard/{learning_steps}"
    return Suite(name=name, version=2, entries=entries)


def _noise(case: Case) -> dict[str, ObsPerturber]:
    return {"noise": case.on(UniformNoise(ball=case.ball))}


def _gradient(case: Case) -> dict[str, ObsPerturber]:
    if not (case.asked and case.gradients):
        return {}
    if case.spec.continuous:
        return {"APGD mse": case.on(APGD(ball=case.ball, random_start=True, restarts=2))}
    return {
        "PGD-10": case.on(PGD(ball=case.ball)),
        "APGD ce": case.on(APGD(ball=case.ball)),
        "APGD dlr": case.on(_margin_attack(case.ball)),
    }


def _more_gradient(case: Case) -> dict[str, ObsPerturber]:
    if not (case.asked and case.gradients) or case.spec.continuous:
        return {}
    return {
        "APGD kl": case.on(APGD(ball=case.ball, loss="kl", random_start=True)),
        "APGD expected": case.on(APGD(ball=case.ball, loss="expected", random_start=True)),
    }


def _longer(case: Case) -> dict[str, ObsPerturber]:
    if not (case.asked and case.gradients):
        return {}
    if case.spec.continuous:
        long = APGD(ball=case.ball, random_start=True, restarts=3, steps=60)
        return {"APGD mse, 60 steps": case.on(long)}
    return {"APGD dlr, 60 steps": case.on(replace(_margin_attack(case.ball), steps=60, restarts=3))}


def _margin_attack(ball: LinfBall) -> APGD:
    return APGD(ball=ball, loss="dlr", restarts=2)


def _targeted(case: Case, *, steps: int) -> dict[str, ObsPerturber]:
    if not (case.asked and case.gradients):
        return {}
    if case.spec.continuous:
        ends = {"low": -1.0, "high": 1.0}
        size = case.spec.num_actions
        return {
            f"target {name}": case.on(APGD(ball=case.ball, steps=steps, target=(end,) * size))
            for name, end in ends.items()
        }
    base = APGD(ball=case.ball, loss="margin", steps=steps)
    held = {f"target {a}": replace(base, target=a) for a in range(case.spec.num_actions)}
    tried = held | {"target least": replace(base, target=_least)}
    return {name: case.on(attack) for name, attack in tried.items()}


def _least(view: VictimView, obs: Tensor) -> Tensor:
    """Return the available action that the victim likes least, (M,)."""
    logits = view.logits(obs)
    return torch.where(logits > MASKED / 2, logits, torch.inf).argmin(dim=-1)


def _black_box(case: Case, *, queries: int) -> dict[str, ObsPerturber]:
    if not case.asked:
        return {}
    loss: Literal["margin"] | None = None if case.spec.continuous else "margin"
    return {
        "random search": case.on(RandomSearch(ball=case.ball, queries=queries, loss=loss)),
        "square search": case.on(SquareSearch(ball=case.ball, queries=queries, loss=loss)),
    }


def _director(case: Case, *, steps: int) -> dict[str, ObsPerturber]:
    policy = case.policy
    if not isinstance(policy, TeamPolicy) or not case.gradients:
        return {}
    adversary = director(
        case.spec,
        case.ball,
        steps=steps,
        seed=case.seed,
        agents=case.agents,
        device=policy.device,
    )
    return {"director": case.trained(adversary, steps)}


def _gaussian(case: Case, *, steps: int) -> dict[str, ObsPerturber]:
    policy = case.policy
    if not isinstance(policy, TeamPolicy):
        return {}
    adversary = gaussian(
        case.spec, case.ball, seed=case.seed, agents=case.agents, device=policy.device
    )
    return {"ATLA": case.trained(adversary, steps)}


def _source(case: Case, other: Controller) -> Victim | None:
    """Return the view of a team on which attacks can be made; None of one without a gradient."""
    victim, meter = other.victim(), Meter(gradients=True)
    if victim is None or victim.acting_only:
        return None
    rollout(
        other,
        case.make_env,
        episodes=1,
        perturb=meter,
        num_envs=1,
        seed=case.seed,
        team=case.team,
        opponents=case.opponents,
    )
    reading = meter.reading()
    followed = reading is not None and reading.vanished is not None and reading.vanished < 1.0
    return victim if followed else None


def _transfer(case: Case) -> dict[str, ObsPerturber]:
    source = next((v for one in case.others if (v := _source(case, one)) is not None), None)
    if source is None:
        return {}
    attack = (
        APGD(ball=case.ball, random_start=True)
        if case.spec.continuous
        else _margin_attack(case.ball)
    )
    return {"transfer": ObsPerturber(attack, victim=source, agents=case.agents)}
