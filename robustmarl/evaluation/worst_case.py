"""The worst that a fixed suite of attacks does to each team: what robustness can be believed."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from robustmarl._checks import check, check_choice, check_int, speaking_for
from robustmarl._seeding import stream_seed
from robustmarl.budgets import LinfBall
from robustmarl.data import AnyPolicy, Controller
from robustmarl.envs.vector import EnvMaker
from robustmarl.evaluation.cells import Cell
from robustmarl.evaluation.crossplay import crossplay
from robustmarl.evaluation.findings import ZEROED, Measured, WorstCase
from robustmarl.evaluation.meter import Meter, Reading
from robustmarl.evaluation.rollouts import rollout
from robustmarl.evaluation.statistics import limits_of
from robustmarl.evaluation.suite import Case, Suite, quick, standard
from robustmarl.evaluation.tables import CrossTable
from robustmarl.evaluation.teams import (
    Victim,
    Victims,
    by_seed,
    check_play,
    draws_actions,
    playing,
    team_spec,
)
from robustmarl.evaluation.threats import worst_agents
from robustmarl.evaluation.validity import findings_of
from robustmarl.joint import TeamSpec
from robustmarl.perturbers import (
    ObsPerturber,
    Perturber,
    SparingPerturber,
    ZeroedObs,
)
from robustmarl.training.progress import progress_bar
from robustmarl.typing import RobustnessWarning

__all__ = ["worst_case"]

Scores: TypeAlias = NDArray[np.float64]

NONE, WORST = "none", "worst"

RESERVED = (NONE, WORST, ZEROED)
"""Columns and lines that are no attack."""

SAMPLES = 8
"""How often a victim that answers at random is asked for each answer."""


def worst_case(
    victims: Mapping[str, Victims],
    make_env: EnvMaker,
    ball: LinfBall,
    *,
    suite: Suite | str = "standard",
    agents: int | None = None,
    steps: int | None = None,
    episodes: int = 200,
    choice_episodes: int = 100,
    metric: str | None = None,
    num_envs: int = 50,
    seed: int = 0,
    team: str | None = None,
    opponents: Mapping[str, AnyPolicy] | None = None,
    sources: Sequence[Victim] = (),
    trained_blind: Victims | None = None,
    title: str = "",
    progress: bool | str = False,
) -> WorstCase:
    """Return how each team does under the worst attack of a suite, and under every one of it.

    The worst is one attack for all episodes of a team. It is chosen by its mean on episodes of
    its own, and reported on those that all others play, so that choosing the lowest of many
    figures does not make it too low. Beside it stand the team without attack, without eyes
    (observations zeroed, and those of another episode), untrained, and a random one.

    Scores are taken to be better if higher.

    Args:
        victims: name to a trained algorithm or policy, or to one per training seed; as of
            :func:`~robustmarl.evaluation.crossplay`. Each is attacked on its own; attacks that
            learn do so against it, frozen. Attacks are transferred from another training seed,
            or from another victim if there is none, the first one that has a gradient.
        make_env: builds one environment.
        ball: what attacks may change.
        suite: ``"standard"``, ``"quick"``, or one of your own.
        agents: attack so many only, the worst of each team: found by a cheap attack on the episodes
            of the choice, all subsets if they are at most twelve, else one agent after the other;
            None attacks all.
        steps: attack in so many steps of an episode at most, those that cost the team most by its
            own reckoning (:class:`~robustmarl.perturbers.SparingPerturber`); None attacks in all.
        episodes: per attack and training seed, >= 1.
        choice_episodes: others, on which the worst attack is chosen, >= 1.
        metric: ``"return"`` or one of the environment's metrics; None takes its first metric, or
            the return if it has none.
        num_envs: environments side by side, >= 1.
        seed: of the episodes and of what learns, >= 0.
        team: name of the team that the victims play, where there are several.
        opponents: what plays the other teams, the same throughout.
        sources: further teams on which attacks are made and transferred; they are taken first.
        trained_blind: a team that learned without eyes, or one per training seed: a baseline; see
            :func:`~robustmarl.evaluation.train_blind`.
        title: printed above the table.
        progress: show a bar over the attacks; a text names it.

    Raises:
        TypeError: for victims without names or of another kind.
        ValueError: for no victim, an unknown suite or metric, bad numbers, or a victim that does
            not fit the team.

    Warns:
        RobustnessWarning: where figures do not mean what they seem to: see
            :class:`~robustmarl.evaluation.Finding`.

    Example:
        >>> from robustmarl import budgets, envs
        >>> def as_shown(obs):  # plays the signal that it sees
        ...     return obs
        >>> teams, ball = {"as shown": as_shown}, budgets.LinfBall(epsilon=0.6)
        >>> few = {"suite": "quick", "episodes": 5, "choice_episodes": 5}
        >>> found = worst_case(teams, envs.SignalMatching, ball, **few)
        >>> [found.table.mean("as shown", attack) for attack in ("none", "PGD-10", "worst")]
        [10.0, 0.0, 0.0]
    """
    episodes, num_envs, seed, title = check_play(
        "worst_case",
        victims,
        episodes=episodes,
        num_envs=num_envs,
        seed=seed,
        title=title,
        progress=progress,
    )
    choice_episodes = check_int("worst_case.choice_episodes", choice_episodes, 1)
    if steps is not None:
        check_int("worst_case.steps", steps, 1)
    if not isinstance(ball, LinfBall):
        raise TypeError(
            f"worst_case.ball must be a LinfBall, got {ball!r}. Write LinfBall(epsilon=0.1)."
        )
    check(not ball.is_zero, "worst_case.ball", "larger than nothing", ball)
    suite = _suite(suite)
    given = {n: by_seed(f"worst_case.victims[{n!r}]", v) for n, v in victims.items()}
    with warnings.catch_warnings():
        # That a blind team keeps its score is among the findings below.
        warnings.filterwarnings("ignore", message=".*hardly needs", category=RobustnessWarning)
        with speaking_for("worst_case", crossplay):
            base = crossplay(
                victims,
                {NONE: None},
                make_env,
                episodes=episodes,
                metric=metric,
                num_envs=num_envs,
                seed=seed,
                team=team,
                opponents=opponents,
                blind=True,
                trained_blind=trained_blind,
            )
    spec = team_spec(given, make_env, team)
    teams = playing("worst_case.victims", given, spec)
    if not isinstance(sources, Sequence):
        kind = type(sources).__name__
        raise TypeError(f"worst_case.sources must be a sequence of teams, got {kind}.")
    further = playing("worst_case", {"sources": dict(enumerate(sources))}, spec)["sources"]
    if agents is not None:
        check_int("worst_case.agents", agents, 1, spec.num_agents)
    trial = _Trial(
        spec=spec,
        make_env=make_env,
        ball=ball,
        suite=suite,
        agents=agents,
        steps=steps,
        metric=base.metric,
        episodes=episodes,
        choice_episodes=choice_episodes,
        num_envs=num_envs,
        seed=seed,
        team=team,
        opponents=opponents,
        sources=tuple(further.values()),
    )
    total = len(suite.entries) * sum(len(seeds) for seeds in teams.values())
    name = progress if isinstance(progress, str) else "worst case"
    with progress_bar(total=total, desc=name, unit="entry", disable=not progress) as bar:
        for victim, seeds in teams.items():
            for training_seed in seeds:
                for _ in trial.play(victim, training_seed, teams):
                    bar.update()
    return trial.report(base, title)


@dataclass(kw_only=True)
class _Trial:
    """Everything about one call, and what has been played of it.

    Attributes:
        played: (victim, attack) to training seed to scores, of the episodes reported.
        choices: the same of the episodes on which the worst attack is chosen.
        readings: (victim, attack) to training seed to what the attack did to decisions.
        seconds: (victim, attack) to CPU seconds, all training seeds together.
        families: attack to what it is.
        longer: attacks that only show whether others had enough steps.
        attacked: victim to training seed to the names of the attacked agents.
        attacks: (victim, attack) to training seed to the attack itself.
    """

    spec: TeamSpec
    make_env: EnvMaker
    ball: LinfBall
    suite: Suite
    agents: int | None
    steps: int | None
    metric: str
    episodes: int
    choice_episodes: int
    num_envs: int
    seed: int
    team: str | None
    opponents: Mapping[str, AnyPolicy] | None
    sources: tuple[Controller, ...]
    played: dict[tuple[str, str], dict[int, Scores]] = field(default_factory=dict)
    choices: dict[tuple[str, str], dict[int, Scores]] = field(default_factory=dict)
    readings: dict[tuple[str, str], dict[int, Reading]] = field(default_factory=dict)
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    families: dict[str, str] = field(default_factory=dict)
    longer: list[str] = field(default_factory=list)
    attacked: dict[str, dict[int, tuple[str, ...]]] = field(default_factory=dict)
    attacks: dict[tuple[str, str], dict[int, ObsPerturber]] = field(default_factory=dict)

    def play(
        self, victim: str, training_seed: int, teams: Mapping[str, Mapping[int, Controller]]
    ) -> Iterator[None]:
        """Play one team under every attack of the suite, yielding after each entry."""
        case = self._case(victim, training_seed, teams)
        at = victim, training_seed
        clean = self._measure(at, NONE, case.policy, None)
        blind = Meter(drawn=draws_actions(case.policy))
        self._chosen_on(case.policy, [ZeroedObs(), blind])
        if (unseeing := blind.reading()) is not None:
            self.readings.setdefault((victim, ZEROED), {})[training_seed] = unseeing
        if clean is not None:
            samples = SAMPLES if clean.random else 1
            case = replace(case, gradients=clean.vanished is not None, samples=samples)
        case = self._narrowed(case)
        self.attacked.setdefault(victim, {})[training_seed] = case.agents or self.spec.agents
        for entry in self.suite.entries:
            begun = time.process_time()
            attacks = entry.build(case)
            building = time.process_time() - begun
            for name, attack in attacks.items():
                check(name not in RESERVED, "Entry.build", f"named unlike {RESERVED}", name)
                known = self.families.setdefault(name, entry.family)
                check(known == entry.family, "Entry.build", f"of one family, {known}", name)
                if entry.longer and name not in self.longer:
                    self.longer.append(name)
                with self._timed(victim, name, building / len(attacks)):
                    kept = self._kept(case, attack)
                    self._measure(at, name, case.policy, kept)
                self.attacks.setdefault((victim, name), {})[training_seed] = kept
            yield
        played = any(training_seed in self.choices.get((victim, n), {}) for n in self.families)
        rule = f"a suite with an attack that applies to {victim!r}, training seed {training_seed}"
        check(played, "worst_case.suite", rule, self.suite.title)

    def report(self, base: CrossTable, title: str) -> WorstCase:
        """Return what was found, given the table of clean and blind play."""
        limits = limits_of(self.metric, None)
        names, teams = tuple(self.families), tuple(dict.fromkeys(v for v, _ in self.readings))
        chosen = {victim: self._chosen(victim, base.cell(victim, NONE).scores) for victim in teams}
        cells = {row: dict(base.cells[row]) for row in base.victims}
        for victim, choice in chosen.items():
            scores = {n: self.played[victim, n] for n in names if (victim, n) in self.played}
            scores[WORST] = {seed: scores[name][seed] for seed, name in choice.items()}
            cells[victim] |= {name: Cell(given, limits=limits) for name, given in scores.items()}
        tried: dict[str, dict[str, Cell]] = {}
        for (victim, name), by_training_seed in self.choices.items():
            tried.setdefault(victim, {})[name] = Cell(by_training_seed, limits=limits)
        measured: dict[str, dict[str, Measured]] = {}
        for at, readings in self.readings.items():
            victim, name = at
            measured.setdefault(victim, {})[name] = Measured.of(readings, self.seconds.get(at))
        result = WorstCase(
            suite=self.suite.title,
            threat=self._threat(),
            table=CrossTable(
                cells=cells, baselines=base.baselines, metric=self.metric, title=title
            ),
            choices=CrossTable(cells=tried, metric=self.metric, title=title),
            chosen=chosen,
            families=dict(self.families),
            measured=measured,
            longer=tuple(self.longer),
            attacked=self.attacked,
            attacks={
                victim: {seed: self.attacks[victim, name][seed] for seed, name in choice.items()}
                for victim, choice in chosen.items()
            },
        )
        result = replace(result, findings=findings_of(result))
        for finding in result.findings:
            warnings.warn(str(finding), RobustnessWarning, stacklevel=3)
        return result

    def _threat(self) -> str:
        who = f"the worst {self.agents} of {self.spec.num_agents} agents"
        if self.agents is None:
            who = "all agents"
        several = "step" if self.steps == 1 else "steps"
        when = "every step" if self.steps is None else f"{self.steps} {several} of an episode"
        return f"{self.ball!r}, {who} at {when}"

    def _chosen(self, victim: str, training_seeds: Iterable[int]) -> dict[int, str]:
        """Return the attack that leaves the least of each team, on the episodes of the choice."""
        chosen = {}
        for seed in training_seeds:
            left = {
                name: float(self.choices[victim, name][seed].mean())
                for name in self.families
                if seed in self.choices.get((victim, name), {})
            }
            chosen[seed] = min(left, key=left.__getitem__)
        return chosen

    def _case(
        self, victim: str, training_seed: int, teams: Mapping[str, Mapping[int, Controller]]
    ) -> Case:
        kin = [one for seed, one in teams[victim].items() if seed != training_seed]
        strangers = [one for n, seeds in teams.items() if n != victim for one in seeds.values()]
        return Case(
            policy=teams[victim][training_seed],
            spec=self.spec,
            make_env=self.make_env,
            ball=self.ball,
            others=(*self.sources, *kin, *strangers),
            seed=stream_seed(self.seed, f"attacks on {victim} {training_seed}") >> 1,
            team=self.team,
            opponents=self.opponents,
        )

    def _narrowed(self, case: Case) -> Case:
        """Return the case with the agents that are worst to lose."""
        if self.agents is None:
            return case

        def score(attack: ObsPerturber) -> float:
            return float(self._chosen_on(case.policy, [attack]).mean())

        return replace(case, agents=worst_agents(case, self.agents, score))

    def _kept(self, case: Case, attack: ObsPerturber) -> ObsPerturber:
        """Return an attack that keeps to its budget of steps."""
        if self.steps is None:
            return attack
        trial = SparingPerturber(attack, steps=0)
        episodes = len(self._chosen_on(case.policy, [trial]))
        met = torch.cat(trial.met)
        share = min(1.0, self.steps * episodes / len(met))
        threshold = float(met.quantile(1.0 - share))
        return SparingPerturber(attack, steps=self.steps, threshold=threshold)

    def _measure(
        self, at: tuple[str, int], name: str, policy: Controller, attack: Perturber | None
    ) -> Reading | None:
        """Play a team under an attack, on both sets of episodes, and keep what came of it."""
        victim, training_seed = at
        reading = None
        for reported, kept in ((False, self.choices), (True, self.played)):
            meter = Meter(gradients=attack is None, drawn=draws_actions(policy))
            perturb = [meter] if attack is None else [attack, meter]
            scores = (
                self._reported(policy, perturb) if reported else self._chosen_on(policy, perturb)
            )
            kept.setdefault((victim, name), {})[training_seed] = scores
            reading = meter.reading()
        self.readings.setdefault((victim, name), {})
        if reading is not None:
            self.readings[victim, name][training_seed] = reading
        return reading

    def _chosen_on(self, policy: Controller, perturb: Sequence[Perturber]) -> Scores:
        """Return scores of the episodes on which things are chosen."""
        seed = stream_seed(self.seed, "choice") >> 1
        return self._scores(policy, perturb, self.choice_episodes, seed)

    def _reported(self, policy: Controller, perturb: Sequence[Perturber]) -> Scores:
        """Return scores of the episodes that are reported."""
        return self._scores(policy, perturb, self.episodes, self.seed)

    def _scores(
        self, policy: Controller, perturb: Sequence[Perturber], episodes: int, seed: int
    ) -> Scores:
        with warnings.catch_warnings():
            # Idle attacks are among the findings: every suite has some.
            warnings.filterwarnings("ignore", message=".*changed none of")
            rollouts = rollout(
                policy,
                self.make_env,
                episodes=episodes,
                perturb=perturb,
                num_envs=self.num_envs,
                seed=seed,
                team=self.team,
                opponents=self.opponents,
            )
        return rollouts.figure(self.metric)

    @contextmanager
    def _timed(self, victim: str, name: str, before: float) -> Iterator[None]:
        begun = time.process_time()
        yield
        spent = self.seconds.get((victim, name), 0.0) + before
        self.seconds[victim, name] = spent + time.process_time() - begun


def _suite(suite: Suite | str) -> Suite:
    if isinstance(suite, Suite):
        return suite
    known = {"standard": standard, "quick": quick}
    check_choice("worst_case.suite", suite, [*known, "a Suite"])
    return known[suite]()
