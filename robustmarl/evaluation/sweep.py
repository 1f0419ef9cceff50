"""One attack at several sizes: how much it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from robustmarl._checks import check, check_each, check_flag, check_number, speaking_for
from robustmarl.attacks.base import ObsAttack
from robustmarl.data import AnyPolicy, Controller, RandomController
from robustmarl.envs.vector import EnvMaker
from robustmarl.evaluation.blind import FOLDS, blindfolds, check_unlike_blind, warn_of_blind
from robustmarl.evaluation.cells import Cell
from robustmarl.evaluation.curves import Curve, feature_bars, size_curves
from robustmarl.evaluation.meter import Meter
from robustmarl.evaluation.rollouts import rollout
from robustmarl.evaluation.statistics import Limits, check_limits, limits_of
from robustmarl.evaluation.tables import CrossTable
from robustmarl.evaluation.teams import (
    Victims,
    by_seed,
    check_play,
    draws_actions,
    playing,
    team_spec,
)
from robustmarl.joint import StepContext, TeamSpec
from robustmarl.perturbers import Perturber, Place
from robustmarl.training import Attacks
from robustmarl.training.progress import progress_bar
from robustmarl.training.settings import listed
from robustmarl.victims import Victim

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Sweep", "checked_sizes", "sweep"]

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """How victims do under one attack of several sizes.

    Attributes:
        epsilons: the sizes, (P,), increasing.
        scores: victims against sizes, ``"0.05"``; the random team among them, if asked for.
        flips: likewise, in which share of an episode's steps the action was another than
            on the true observation (see :class:`~robustmarl.evaluation.Reading`); without victims
            that cannot be asked.
        moved: victim to the mean change of each coordinate, observation units, (P, N, D): over
            all steps of living agents and over training seeds.
    """

    epsilons: tuple[float, ...]
    scores: CrossTable
    flips: CrossTable | None
    moved: Mapping[str, Floats]

    def plot(self, path: str | Path | None = None, *, xlabel: str = "epsilon") -> Figure:
        """Return curves of score and flips over the sizes, with intervals over training seeds.

        Args:
            path: where to write it; the ending chooses the format (png, pdf, svg).
            xlabel: what the size is.
        """
        return size_curves(self.panels(), path, xlabel=xlabel, title=self.scores.title)

    def panels(self) -> dict[str, dict[str, Curve]]:
        """Return what :meth:`plot` draws: what y is, to victim and curve."""
        panels = {self.scores.metric: self._curves(self.scores)}
        if self.flips is not None:
            panels["share of actions changed"] = self._curves(self.flips)
        return panels

    def plot_features(
        self,
        path: str | Path | None = None,
        *,
        epsilon: float | None = None,
        names: Sequence[str] | None = None,
    ) -> Figure:
        """Return bars of how far each coordinate was moved, as a share of epsilon.

        Args:
            path: where to write it; the ending chooses the format (png, pdf, svg).
            epsilon: which size; None is the largest.
            names: of the coordinates, (D,); None numbers them.

        Raises:
            ValueError: for a size that was not tried or is zero, or another number of names.
        """
        size = self.epsilons[-1] if epsilon is None else epsilon
        check(size in self.epsilons, "Sweep.plot_features.epsilon", f"in {self.epsilons}", size)
        check(size > 0.0, "Sweep.plot_features.epsilon", "> 0", size)
        index = self.epsilons.index(size)
        shares = {victim: moved[index].mean(axis=0) / size for victim, moved in self.moved.items()}
        title = f"{self.scores.title}: epsilon {size:g}" if self.scores.title else ""
        return feature_bars(shares, path, names=names, title=title)

    def _curves(self, table: CrossTable) -> dict[str, Curve]:
        return {
            victim: Curve(
                x=self.epsilons,
                estimates=[row[_name(epsilon)].estimate for epsilon in self.epsilons],
                baseline=table.is_baseline(victim),
            )
            for victim, row in table.cells.items()
        }


def sweep(
    victims: Mapping[str, Victims],
    attack: ObsAttack | Callable[[float], Attacks],
    epsilons: Sequence[float],
    make_env: EnvMaker,
    *,
    episodes: int = 200,
    metric: str | None = None,
    num_envs: int = 10,
    seed: int = 0,
    team: str | None = None,
    opponents: Mapping[str, AnyPolicy] | None = None,
    baselines: bool = True,
    blind: bool = False,
    limits: Limits | None = None,
    title: str = "",
    progress: bool | str = False,
) -> Sweep:
    """Return how every victim does under an attack of several sizes.

    All sizes play the same episodes. Nothing is trained anew, so that of a learned adversary only
    the bound changes.

    Args:
        victims: as of :func:`~robustmarl.evaluation.crossplay`.
        attack: an attack, which is given each size by ``with_epsilon``; or a function from the
            size to what :func:`~robustmarl.evaluation.rollout` takes as ``perturb``.
        epsilons: the sizes, observation units, >= 0, increasing; 0 is without attack.
        make_env: builds one environment.
        episodes: per size and training seed, >= 1.
        metric: ``"return"`` or one of the environment's metrics; None takes its first metric, or
            the return if it has none.
        num_envs: environments side by side, >= 1.
        seed: of the episodes, >= 0.
        team: name of the team that the victims play, where there are several.
        opponents: what plays the other teams, the same throughout.
        baselines: add the random team, which looks at nothing.
        blind: add each victim with zeros and with another episode for observations, as
            :func:`~robustmarl.evaluation.crossplay` does; attacks on observations take nothing
            from them, so that they play once. Where 0 is among the sizes, a warning says of a
            team that does nearly as well so.
        limits: the range of the metric; see :func:`~robustmarl.evaluation.interval`.
        title: printed above tables and figures.
        progress: show a bar over sizes and seeds; a text names it.

    Raises:
        TypeError: for an attack without ``with_epsilon`` that is no function either, and as
            :func:`~robustmarl.evaluation.crossplay`.
        ValueError: for sizes that do not increase, and as there.

    Example:
        >>> from robustmarl import attacks, budgets, envs
        >>> def as_shown(obs):  # plays the signal that it sees
        ...     return obs
        >>> pgd = attacks.PGD(ball=budgets.LinfBall(epsilon=0.1))
        >>> sizes = [0.0, 0.4, 0.6]
        >>> found = sweep({"as shown": as_shown}, pgd, sizes, envs.SignalMatching, episodes=5)
        >>> [found.scores.mean("as shown", size) for size in found.scores.attacks]
        [10.0, 10.0, 0.0]
    """
    sizes = checked_sizes("sweep.epsilons", epsilons)
    episodes, num_envs, seed, title = check_play(
        "sweep",
        victims,
        episodes=episodes,
        num_envs=num_envs,
        seed=seed,
        title=title,
        progress=progress,
    )
    if not callable(attack):
        raise TypeError(
            f"sweep.attack must be an attack or a function of epsilon, got {attack!r}. "
            "Of a perturber write the function that makes it of a size."
        )
    baselines = check_flag("sweep.baselines", baselines)
    blind = check_flag("sweep.blind", blind)
    limits = check_limits("sweep.limits", limits)
    free = not baselines or "random" not in victims
    remedy = "Rename it, or pass baselines=False."
    check(free, "sweep.victims", "named unlike the baseline", "random", remedy)
    if blind:
        check_unlike_blind("sweep.victims", victims)
    given = {name: by_seed(f"sweep.victims[{name!r}]", one) for name, one in victims.items()}
    spec = team_spec(given, make_env, team)
    teams = playing("sweep.victims", given, spec)
    known = ("return", *spec.metrics)
    figure = metric or (*spec.metrics, "return")[0]
    check(figure in known, "sweep.metric", f"one of {list(known)}", metric)
    limits = limits_of(figure, limits)

    def play(policy: Controller, perturb: Sequence[Perturber | ObsAttack], seed: int) -> Floats:
        with speaking_for("sweep", rollout):
            played = rollout(
                policy,
                make_env,
                episodes=episodes,
                perturb=perturb,
                num_envs=num_envs,
                seed=seed,
                team=team,
                opponents=opponents,
            )
        return played.figure(figure)

    cells: dict[str, dict[str, Cell]] = {}
    if baselines:
        model = next(iter(next(iter(teams.values())).values()))
        random, first = RandomController(spec, model.device), next(iter(given.values()))
        # Other episodes stand for another training seed, which it does not have.
        clean = Cell({s: play(random, [], seed + i) for i, s in enumerate(first)}, limits=limits)
        cells["random"] = {_name(epsilon): clean for epsilon in sizes}
    flips: dict[str, dict[str, Cell]] = {}
    moved: dict[str, Floats] = {}
    trained = sum(len(seeds) for seeds in teams.values())
    total = (len(sizes) + (len(FOLDS) if blind else 0)) * trained
    desc = progress if isinstance(progress, str) else "sweep"
    with progress_bar(total=total, desc=desc, unit="size", disable=not progress) as bar:

        def unseeing(policy: Controller, fold: Perturber) -> Floats:
            scores = play(policy, [fold], seed)
            bar.update()
            return scores

        for victim, seeds in teams.items() if blind else ():
            folds = {
                training_seed: blindfolds(
                    policy, make_env, spec, num_envs=num_envs, team=team, opponents=opponents
                )
                for training_seed, policy in seeds.items()
            }
            for fold in FOLDS:
                hidden = Cell(
                    {s: unseeing(one, folds[s][fold]) for s, one in seeds.items()}, limits=limits
                )
                cells[f"{victim}, {fold}"] = {_name(epsilon): hidden for epsilon in sizes}
        for victim, seeds in teams.items():
            found: list[_AtSize] = []
            for epsilon in sizes:
                at_size = _AtSize()
                for training_seed, policy in seeds.items():
                    meter, distance = Meter(drawn=draws_actions(policy)), _Distance()
                    perturb = [*listed("sweep.attack", _of_size(attack, epsilon)), meter, distance]
                    at_size.scores[training_seed] = play(policy, perturb, seed)
                    at_size.moved.append(distance.mean())
                    if (flipped := meter.flips()) is not None:
                        at_size.flips[training_seed] = flipped
                    bar.update()
                found.append(at_size)
            by_size = dict(zip(map(_name, sizes), found, strict=True))
            cells[victim] = {name: Cell(one.scores, limits=limits) for name, one in by_size.items()}
            moved[victim] = np.stack([np.mean(one.moved, axis=0) for one in found])
            if all(one.flips for one in found):
                flips[victim] = {
                    name: Cell(one.flips, limits=(0.0, 1.0)) for name, one in by_size.items()
                }
    flagged = [name for name in cells if name not in teams]
    scores = CrossTable(cells=cells, metric=figure, baselines=flagged, title=title)
    if baselines and blind and sizes[0] == 0.0:
        warn_of_blind(scores, [*teams], _name(0.0))
    return Sweep(
        epsilons=sizes,
        scores=scores,
        flips=CrossTable(cells=flips, metric="actions changed", title=title) if flips else None,
        moved=moved,
    )


@dataclass
class _AtSize:
    """What was measured at one size, by training seed."""

    scores: dict[int, Floats] = field(default_factory=dict)
    flips: dict[int, Floats] = field(default_factory=dict)
    moved: list[Floats] = field(default_factory=list)


def checked_sizes(where: str, epsilons: Sequence[float]) -> tuple[float, ...]:
    """Return sizes as floats, increasing and different when printed."""
    one = partial(check_number, low=0.0, unit="observation units")
    sizes = check_each(where, epsilons, one, "several numbers, increasing, observation units")
    check(len(sizes) > 0, where, "at least one size", epsilons)
    rising = all(size < other for size, other in pairwise(sizes))
    check(rising, where, "increasing", epsilons)
    names = {_name(size) for size in sizes}
    check(len(names) == len(sizes), where, "different in six digits", epsilons)
    return sizes


def _name(epsilon: float) -> str:
    return f"{epsilon:g}"


def _of_size(attack: ObsAttack | Callable[[float], Attacks], epsilon: float) -> Attacks:
    if epsilon == 0.0:
        return None
    return attack.with_epsilon(epsilon) if isinstance(attack, ObsAttack) else attack(epsilon)


class _Distance(Perturber):
    """Adds up how far each coordinate of what is shown lies from the truth; changes nothing."""

    kind = "distance"

    def bind(self, spec: TeamSpec, policy: Victim | None, place: Place) -> None:
        super().bind(spec, policy, place)
        self._sum = torch.zeros(spec.num_agents, spec.obs_size, dtype=torch.float64)
        self._steps = torch.zeros(spec.num_agents, 1, dtype=torch.float64)

    def shown(self, context: StepContext) -> None:
        playing = context.alive & (context.live & ~context.terminal)[:, None]
        far = (context.seen - context.obs).abs() * playing[..., None]
        self._sum = self._sum.to(far.device) + far.sum(dim=0)
        self._steps = self._steps.to(far.device) + playing.sum(dim=0)[:, None]

    def mean(self) -> Floats:
        """Return the mean over steps of living agents, (N, D)."""
        mean: Floats = (self._sum / self._steps.clamp(min=1.0)).cpu().numpy()
        return mean
