"""What no attack in a ball can change, along the episodes that a team plays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustmarl import certify
from robustmarl._checks import check, check_kind, speaking_for
from robustmarl._seeding import Draws
from robustmarl.attacks import UniformNoise
from robustmarl.attacks.base import ObsAttack, check_attack
from robustmarl.budgets import LinfBall
from robustmarl.data import AnyPolicy, Controller
from robustmarl.envs.vector import EnvMaker
from robustmarl.evaluation.cells import Cell
from robustmarl.evaluation.curves import Curve, size_curves
from robustmarl.evaluation.episodes import EpisodeCounts
from robustmarl.evaluation.rollouts import rollout
from robustmarl.evaluation.statistics import limits_of
from robustmarl.evaluation.sweep import checked_sizes
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
from robustmarl.perturbers import ObsPerturber, Place
from robustmarl.perturbers._rows import ChosenRows
from robustmarl.victims import FunctionVictim, LossRows, NetworkVictim, Victim

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Certificates", "certified"]

Floats: TypeAlias = NDArray[np.float64]

WON = "certified win"


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """Shares of decisions that are proven not to change, and of those that an attack left.

    A decision is a living agent's step with more than one action to choose from. Scores are per
    episode: its share of decisions.

    Attributes:
        epsilons: sizes of the ball, (P,), increasing.
        proven: victims against sizes; what no attack in the ball changes.
        kept: likewise, what the attack tried did not change, at the same observations: never
            below ``proven``, up to the attack's draws. None if none was tried.
        won: likewise, episodes that are won and of which every decision is proven, so that no
            attack in the ball changes anything: a proof where the environment draws nothing that
            depends on actions. None where episodes are not lost or won, or the team draws its
            actions.
    """

    epsilons: tuple[float, ...]
    proven: CrossTable
    kept: CrossTable | None
    won: CrossTable | None

    def plot(self, path: str | Path | None = None) -> Figure:
        """Return curves of the shares over the sizes; truth lies between proven and kept.

        Args:
            path: where to write it; the ending chooses the format (png, pdf, svg).
        """
        return size_curves(self.panels(), path, title=self.proven.title)

    def panels(self) -> dict[str, dict[str, Curve]]:
        """Return what :meth:`plot` draws: what y is, to label and curve."""
        decisions = self._curves(self.proven, "proven")
        if self.kept is not None:
            decisions |= self._curves(self.kept, "under attack", like="proven")
        panels = {"share of decisions unchanged": decisions}
        if self.won is not None:
            panels["episodes won, every decision proven"] = self._curves(self.won, "proven")
        return panels

    def _curves(self, table: CrossTable, what: str, like: str = "") -> dict[str, Curve]:
        return {
            f"{victim}, {what}": Curve(
                x=self.epsilons,
                estimates=[row[f"{epsilon:g}"].estimate for epsilon in self.epsilons],
                dashed=bool(like),
                like=f"{victim}, {like}" if like else None,
            )
            for victim, row in table.cells.items()
        }


def certified(
    victims: Mapping[str, Victims],
    make_env: EnvMaker,
    ball: LinfBall,
    epsilons: Sequence[float],
    *,
    attack: ObsAttack | None = None,
    episodes: int = 50,
    num_envs: int = 10,
    seed: int = 0,
    team: str | None = None,
    opponents: Mapping[str, AnyPolicy] | None = None,
    title: str = "",
) -> Certificates:
    """Return which decisions no attack can change, along episodes without attack.

    At each observation the greedy action's lead is bounded over the ball
    (:func:`robustmarl.certify.margin_bounds`) and, beside it, an attack is tried. The bounds speak
    of what is seen in this one step. They say what becomes of a team only while all its decisions
    are proven: then it acts as it does unattacked, sees the same next, and so on. A team with
    memory is refused, since an attack could change what it remembers and leave its action.

    Args:
        victims: name to an algorithm or policy of this package, or to one per training seed.
        make_env: builds one environment.
        ball: what may change; its own radius is not used.
        epsilons: radii, observation units, >= 0, increasing.
        attack: tried beside the proof; its ball has to be ``ball`` at some radius. None tries none.
        episodes: per training seed, >= 1.
        num_envs: environments side by side, >= 1.
        seed: of the episodes, >= 0: those of :func:`~robustmarl.evaluation.rollout`.
        team: name of the team that the victims play, where there are several.
        opponents: what plays the other teams.
        title: printed above tables and figures.

    Raises:
        TypeError: for a victim that is no team of this package.
        ValueError: for a team with memory or continuous actions, layers that bounds are not known
            of, another ball than the attack's, radii that do not increase, or bad numbers.

    Example:
        >>> from robustmarl import algorithms, budgets, envs
        >>> team = algorithms.VDN.for_env(envs.climbing(), seed=0)
        >>> ball = budgets.LinfBall(epsilon=0.1)
        >>> found = certified({"VDN": team}, envs.climbing, ball, [0.0, 10.0], episodes=5)
        >>> found.proven.mean("VDN", "0"), found.proven.mean("VDN", "10")
        (1.0, 0.0)
    """
    sizes = checked_sizes("certified.epsilons", epsilons)
    episodes, num_envs, seed, title = check_play(
        "certified", victims, episodes=episodes, num_envs=num_envs, seed=seed, title=title
    )
    check_kind("certified.ball", ball, LinfBall, "a LinfBall")
    if attack is not None:
        check_attack("certified.attack", attack)
        same = attack.ball.with_epsilon(0.0) == ball.with_epsilon(0.0)
        check(same, "certified.attack.ball", f"{ball!r} but for its radius", attack.ball)
    given = {name: by_seed(f"certified.victims[{name!r}]", one) for name, one in victims.items()}
    spec = team_spec(given, make_env, team)
    teams = playing("certified.victims", given, spec)
    for name, seeds in teams.items():
        for policy in seeds.values():
            _check_provable(f"certified.victims[{name!r}]", policy)
    drawn = any(draws_actions(policy) for seeds in teams.values() for policy in seeds.values())
    metric = (*spec.metrics, "return")[0]
    tables: dict[str, dict[str, dict[str, Cell]]] = {"proven": {}, "kept": {}, WON: {}}
    lost_or_won = True
    for name, seeds in teams.items():
        scores: dict[str, list[dict[int, Floats]]] = {what: [{} for _ in sizes] for what in tables}
        for training_seed, policy in seeds.items():
            prover = _Prover(ball, sizes, attack)
            with speaking_for("certified", rollout):
                played = rollout(
                    policy,
                    make_env,
                    episodes=episodes,
                    perturb=prover,
                    num_envs=num_envs,
                    seed=seed,
                    team=team,
                    opponents=opponents,
                )
            outcome = played.figure(metric)
            lost_or_won = lost_or_won and bool(np.isin(outcome, (0.0, 1.0)).all())
            proven, kept = prover.shares()
            for index in range(len(sizes)):
                scores["proven"][index][training_seed] = proven[:, index]
                if attack is not None:
                    scores["kept"][index][training_seed] = kept[:, index]
                scores[WON][index][training_seed] = outcome * (proven[:, index] == 1.0)
        if attack is None:
            del scores["kept"]
        for what, by_size in scores.items():
            limits = limits_of(metric, None) if what == WON else (0.0, 1.0)
            tables[what][name] = {
                f"{epsilon:g}": Cell(of_size, limits=limits)
                for epsilon, of_size in zip(sizes, by_size, strict=True)
            }

    def table(what: str, metric: str) -> CrossTable:
        return CrossTable(cells=tables[what], metric=metric, title=title)

    return Certificates(
        epsilons=sizes,
        proven=table("proven", "decisions proven unchanged"),
        kept=None if attack is None else table("kept", "decisions unchanged by the attack"),
        won=table(WON, WON) if lost_or_won and not drawn else None,
    )


def _check_provable(where: str, policy: Controller) -> None:
    victim = policy.victim()
    if not isinstance(victim, NetworkVictim):
        given = victim.function if isinstance(victim, FunctionVictim) else victim or policy
        raise TypeError(
            f"{where} must be a team of this package, whose layers are known, got "
            f"{type(given).__name__}. Put its weights into networks.AgentNetwork."
        )
    rule = (
        "without memory: bounds hold for one step from a memory that is known, and under attack "
        "it is not"
    )
    remedy = "Train it with recurrent=False."
    size = policy.hidden_size or victim.hidden_size
    check(size == 0, where, rule, f"hidden_size={size}", remedy)
    check(not victim.continuous, where, "of discrete actions", "continuous ones")


class _Prover(ObsPerturber):
    """Counts, in every step, whose greedy action is proven and whose the attack leaves.

    It changes nothing: what is seen is what is there.
    """

    kind = "prover"

    def __init__(self, ball: LinfBall, sizes: Sequence[float], attack: ObsAttack | None) -> None:
        super().__init__(UniformNoise(ball=LinfBall(epsilon=1.0)))  # never called
        self._balls = [ball.with_epsilon(size) for size in sizes]
        self._attacks = [] if attack is None else [attack.with_epsilon(size) for size in sizes]
        self._counts = EpisodeCounts(1 + len(self._balls) + len(self._attacks))

    def bind(self, spec: TeamSpec, policy: Victim | None, place: Place) -> None:
        """Take the acting policy, which is asked."""
        super().bind(spec, policy, place)
        assert policy is not None  # a team of this package: see _check_provable
        self._ask_acting(policy, spec)

    def on_obs(self, context: StepContext) -> Tensor:
        """Return observations as they are."""
        return context.seen

    @torch.no_grad()
    def shown(self, context: StepContext) -> None:
        """Bound and attack the decisions of this step, and add them to their episodes'."""
        deciding = context.alive & (context.live & ~context.terminal)[:, None]
        deciding = deciding & (context.mask.sum(dim=-1) > 1)
        self._move(context.seen.device)
        rows = ChosenRows(deciding)
        obs = self._fit.cut(rows.pick(context.obs))
        bound = self._bound(context, context.hidden, rows)
        assert isinstance(self._victim, NetworkVictim)
        view = self._victim.at(bound)
        greedy = view.logits(obs).argmax(dim=-1)
        found = LossRows(obs=obs, rows=bound)
        proven = [certify.certified(self._victim, found, ball) for ball in self._balls]
        flags = [torch.ones_like(greedy, dtype=torch.bool), *proven]
        draws, real = self._own_draws(context, rows), self._fit.real_rows(rows.agents)
        for attack in self._attacks:
            moved = attack.ball.project(attack(view, obs.clone(), draws), obs)
            moved = moved if real is None else torch.where(real, moved, obs)
            flags.append(view.logits(moved).argmax(dim=-1) == greedy)
        by_row = torch.stack(flags, dim=1).double()
        none = by_row.new_zeros(*deciding.shape, by_row.shape[1])
        self._counts.add(context, rows.spread(by_row, none).sum(dim=1))

    def shares(self) -> tuple[Floats, Floats]:
        """Return the shares of decisions that are proven, and that the attack leaves.

        (episodes, P) each; without an attack the second is (episodes, 0). An episode without a
        decision has nothing that could be changed.
        """
        counts = self._counts.sums()
        decisions = counts[:, :1]
        shares = np.where(decisions > 0.0, counts[:, 1:] / np.maximum(decisions, 1.0), 1.0)
        proven, kept = np.split(shares, [len(self._balls)], axis=1)
        return proven, kept

    def _own_draws(self, context: StepContext, rows: ChosenRows) -> Draws:
        keys = Draws(context.keys).at(context.step, self._stream).split(self._fit.team_size).keys
        by_agent = keys.view(len(context.keys), -1)
        if self._fit.numbers is not None:
            by_agent = by_agent[:, self._fit.numbers]
        return Draws(rows.pick(by_agent))
