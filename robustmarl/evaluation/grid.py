"""A study declared once: victims x defences x attacks x environments x training seeds."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path

from robustmarl._checks import (
    check,
    check_each,
    check_flag,
    check_function,
    check_int,
    check_kind,
    check_known,
    check_text,
    keep,
    sizes_of,
)
from robustmarl.envs.vector import EnvMaker, offers_batch
from robustmarl.evaluation.executors import Executor, Kept, Told, Workplace
from robustmarl.evaluation.grid_cells import Episodes, play, play_random, train
from robustmarl.evaluation.grid_tables import RANDOM, UNTRAINED, GridKey, read_tables
from robustmarl.evaluation.grid_yaml import read_declaration
from robustmarl.evaluation.jobs import Job, run_cells
from robustmarl.evaluation.recipes import Defence, Learned, Recipe
from robustmarl.evaluation.tables import CrossTable
from robustmarl.perturbers.stack import listed
from robustmarl.training import Attacks
from robustmarl.training.fingerprint import Fingerprint, fingerprint

__all__ = ["Grid"]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Victims x defences x attacks x environments x training seeds: every cell of it is played.

    A team is trained for each environment, victim, defence and seed, and plays the same episodes
    under each attack. All is kept in one folder, cell by cell: see
    :func:`~robustmarl.evaluation.run_cells`. Names may be added to a study that has been run;
    what a name means may not change.

    Args:
        victims: name to how it is trained.
        attacks: name to an attack, perturber, several in order, None for clean episodes, or
            :class:`Learned`.
        environments: name to what builds one environment, or a batched engine; a function of a
            module or a ``partial`` of one, as other processes must be able to import it.
        defences: name to what is added to the training; by default nothing.
        seeds: of training, each >= 0.
        episodes: per cell, >= 1.
        num_envs: environments side by side in tests, >= 1.
        episode_seed: of the test episodes, >= 0.
        baselines: add the random team, on episodes of its own for each seed, and an untrained one
            of the first victim's kind, which is to stay the first.

    Raises:
        TypeError: for arguments of a wrong kind.
        ValueError: for nothing to do, a number out of range, a seed given twice, or a name that
            no file can have.

    Example:
        >>> from robustmarl import algorithms, envs, evaluation
        >>> study = Grid(
        ...     victims={"VDN": evaluation.Recipe(algorithm=algorithms.VDN, env_steps=40)},
        ...     attacks={"none": None},
        ...     environments={"climbing": envs.climbing},
        ...     seeds=(0, 1),
        ...     episodes=5,
        ... )
        >>> tables = study.run("study", executor="serial", progress=False)
        >>> sorted(tables["climbing"].cells)
        ['VDN', 'random', 'untrained']
    """

    victims: Mapping[str, Recipe]
    attacks: Mapping[str, Attacks | Learned]
    environments: Mapping[str, EnvMaker]
    defences: Mapping[str, Defence] = field(default_factory=lambda: {"none": Defence()})
    seeds: Sequence[int] = (0,)
    episodes: int = 100
    num_envs: int = 10
    episode_seed: int = 0
    baselines: bool = True

    def __post_init__(self) -> None:
        for part, kind in (("victims", Recipe), ("defences", Defence)):
            for name, value in self._named(part).items():
                where = f"Grid.{part}[{name!r}]"
                check_kind(where, value, kind, f"a {kind.__name__}")
        for name, attack in self._named("attacks").items():
            if not isinstance(attack, Learned):
                listed(f"Grid.attacks[{name!r}]", attack)
        for name, make in self._named("environments").items():
            if not offers_batch(make):
                where = f"Grid.environments[{name!r}]"
                check_function(where, make, "what builds an environment")
        rule = "a sequence of ints"
        seeds = check_each("Grid.seeds", self.seeds, lambda w, s: check_int(w, s, 0), rule)
        check(0 < len(seeds) == len(set(seeds)), "Grid.seeds", "different, at least one", seeds)
        sizes = sizes_of("Grid", episodes=self.episodes, num_envs=self.num_envs)
        keep(
            self,
            seeds=seeds,
            episodes=sizes[0],
            num_envs=sizes[1],
            episode_seed=check_int("Grid.episode_seed", self.episode_seed, 0),
            baselines=check_flag("Grid.baselines", self.baselines),
        )
        taken = sorted({RANDOM, UNTRAINED} & self.victims.keys()) if self.baselines else []
        remedy = "Rename it, or pass baselines=False."
        check(not taken, "Grid.victims", "named unlike the baselines", taken, remedy)
        rows = Counter(
            GridKey("", victim, defence).row for victim in self.victims for defence in self.defences
        )
        several = [row for row, number in rows.items() if number > 1]
        rule = "named unlike other victims with their defences, which share rows"
        check(not several, "Grid.victims", rule, several, "Rename a victim or a defence.")

    def _named(self, part: str) -> Told:
        where, found = f"Grid.{part}", getattr(self, part)
        check_kind(where, found, Mapping, "a mapping from names")
        check(len(found) > 0, where, "non-empty", found)
        for name in found:
            text = check_text(where, name)
            good = re.fullmatch(r"[^/\\:*?\"<>|\x00-\x1f.][^/\\:*?\"<>|\x00-\x1f]*", text)
            check(good is not None, where, "named as files can be", name)
        return found

    @classmethod
    def from_yaml(cls, source: str | Path) -> Grid:
        """Return the grid that a YAML file declares: keys as of the constructor.

        A tag makes an object of this package: ``!PGD {ball: !LinfBall {epsilon: 0.1}}``. It may
        name what ``attacks``, ``budgets``, ``losses``, ``perturbers``, ``schedules``, ``envs`` and
        ``adversaries`` have, a way to make it (``!PGD.fgsm``), ``OffPolicy``, ``OnPolicy``,
        ``Learned`` and ``adam``. Environments and adversaries are made where they are needed.
        Algorithms and mixins go by their names alone. Nothing else is ever imported or called.

        Args:
            source: a path, or the text itself (a string of several lines).

        Raises:
            ValueError: for what is no YAML, a name that is not known or there twice, and settings
                that are refused, with the line.
            TypeError: for what the constructor refuses.
        """
        declared = read_declaration(source)
        known = [one.name for one in fields(cls)]
        for name in declared:
            check_known("Grid.from_yaml.source", str(name), known)
        for part in ("victims", "attacks", "environments"):
            check(part in declared, "Grid.from_yaml.source", f"given {part}", list(declared))
        return cls(**declared)

    def cells(self) -> list[Job[GridKey]]:
        """Return the cells, trainings before the tests that need them."""
        trainings: list[Job[GridKey]] = []
        tests: list[Job[GridKey]] = []
        for seed in self.seeds:
            for environment in self.environments:
                for victim in self.victims:
                    for defence in self.defences:
                        team = GridKey(environment, victim, defence, seed=seed)
                        trainings.append(self._training(team))
                        tests += self._tests(team)
                if self.baselines:
                    tests += self._tests(GridKey(environment, UNTRAINED, seed=seed))
                    # It has no training seeds: other episodes stand for another one, by the seed
                    # itself, so that none is played twice however a study grows.
                    episodes = self._episodes(seed)
                    tests += [
                        self._job(
                            GridKey(environment, RANDOM, attack=attack, seed=seed),
                            partial(play_random, self.environments[environment], one, episodes),
                            episodes_from=episodes.seed,
                        )
                        for attack, one in self.attacks.items()
                    ]
        return [*trainings, *tests]

    def run(
        self,
        folder: str | Path,
        *,
        jobs: int = 1,
        executor: Executor = "processes",
        retries: int = 2,
        progress: bool | str = True,
    ) -> dict[str, CrossTable]:
        """Run what ``folder`` does not have, and return a table per environment.

        Args:
            folder: of the study, or an empty one.
            jobs: cells at a time, as all that follows of
                :func:`~robustmarl.evaluation.run_cells`.
            executor: ``"processes"``, ``"ray"`` or ``"serial"``.
            retries: how often a cell is begun again after its worker died.
            progress: show a bar; a text names it.

        Raises:
            CellsError: if cells failed; all others are done.
            ValueError: for a folder of another study, or one that another run writes to.
            TypeError: for what other processes cannot import.
        """
        run_cells(
            self.cells(),
            folder,
            jobs=jobs,
            executor=executor,
            retries=retries,
            settings=self.settings(),
            progress=progress,
        )
        return read_tables(folder)

    def _training(self, team: GridKey) -> Job[GridKey]:
        make, defence = self.environments[team.environment], self.defences[team.defence]
        recipe = self.victims[team.victim]
        return self._job(team, partial(train, make, recipe, defence, team))

    def _tests(self, team: GridKey) -> list[Job[GridKey]]:
        """Return the tests of a trained team, or of the untrained one."""
        make, weights = self.environments[team.environment], None
        recipe, defence = next(iter(self.victims.values())), Defence()
        if team.victim != UNTRAINED:
            recipe, defence = self.victims[team.victim], self.defences[team.defence]
            weights = team.name
        play_it = partial(play, make, recipe, defence, weights, self._episodes())
        return [
            self._job(replace(team, attack=name), partial(play_it, attack, team))
            for name, attack in self.attacks.items()
        ]

    def _job(self, key: GridKey, work: Callable[[Workplace], Kept], **more: int) -> Job[GridKey]:
        """Return a cell, after the training of the team that it tests; ``more`` are settings."""
        is_test = key.attack and key.defence
        after = [replace(key, attack="")] if is_test else []
        return Job(key=key, name=key.name, work=work, settings=asdict(key) | more, after=after)

    def _episodes(self, shift: int = 0) -> Episodes:
        return Episodes(self.episodes, self.num_envs, self.episode_seed + shift)

    def settings(self) -> Kept:
        """Return what a study's folder keeps of its declaration: what each name means."""
        parts = ("environments", "victims", "defences", "attacks")
        found: Kept = {
            f"{part}.{name}": _jsonable(fingerprint(**{name: value}))
            for part in parts
            for name, value in getattr(self, part).items()
        }
        if self.baselines:
            found["untrained"] = next(iter(self.victims))
        numbers = {"episodes": self.episodes, "num_envs": self.num_envs}
        return found | numbers | {"episode_seed": self.episode_seed}


def _jsonable(settings: Fingerprint) -> Fingerprint:
    """Return settings that JSON has words for: radii and ranges may be infinite."""
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in settings.items()
    }
