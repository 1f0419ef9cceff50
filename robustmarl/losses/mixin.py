"""How loss terms join an algorithm's optimizer step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, Self, cast, runtime_checkable

import torch
from tianshou.algorithm.algorithm_base import Algorithm, TrainingStats, TrainingStatsWrapper
from tianshou.algorithm.multiagent.marl import MultiAgentPolicy
from tianshou.algorithm.optim import OptimizerFactory
from tianshou.data import Batch
from tianshou.data.types import RolloutBatchProtocol
from torch import Tensor, nn

from robustmarl._checks import check, check_has, check_kind
from robustmarl._seeding import Draws, generator, mix, stream_id
from robustmarl._signatures import check_left
from robustmarl.attacks.base import check_attack
from robustmarl.joint import TeamSpec
from robustmarl.policies import TeamPolicy
from robustmarl.schedules import Schedule, as_schedule
from robustmarl.typing import AnyAlgorithm, Env, Unit
from robustmarl.victims import LossRows, Rows, Victim, as_victim

__all__ = ["LossMixin", "RampedTerm", "Term"]


class Term(Protocol):
    """A configured penalty on the rows being learned from."""

    @property
    def weight(self) -> float | Schedule:
        """Its weight, a number or over time; at 0 the term is not computed at all."""

    @property
    def max_rows(self) -> int | None:
        """It is estimated on at most so many rows, drawn at random; None takes all."""

    def loss(self, victim: Victim, rows: LossRows, draws: Draws) -> Tensor:
        """Return the unweighted penalty, a scalar that carries gradients.

        Args:
            victim: the live policy.
            rows: M >= 1 agent-steps that it learns from; its mean is taken over them.
            draws: M rows of random numbers, for the attack.
        """


@runtime_checkable
class RampedTerm(Term, Protocol):
    """A term whose attack may have a radius over time; at radius 0 it is not computed at all."""

    @property
    def epsilon(self) -> float | Schedule | None:
        """The attack's radius, a number or over time; None is the attack's own."""

    def with_epsilon(self, epsilon: float) -> Term:
        """Return the term whose attack has this radius."""


def check_term(name: str, victim: object, rows: object, attack: object) -> None:
    """Raise ``TypeError`` unless the term ``name`` can be computed of these."""
    rule = "a Victim, as algorithm.victim() returns"
    check_has(f"{name}.victim", victim, ("at",), rule)
    check_kind(f"{name}.rows", rows, LossRows, "LossRows")
    check_attack(f"{name}.attack", attack)


class _TermStats(TrainingStatsWrapper):
    """Tianshou's statistics of an update with one figure per term."""

    def __init__(self, wrapped: TrainingStats, terms: dict[str, float]) -> None:
        for name, value in terms.items():
            object.__setattr__(self, name.replace("/", "_"), value)
        super().__init__(wrapped)


class _PenalisedOptimizer:
    """Minimises the algorithm's loss plus the penalty in the algorithm's own step."""

    def __init__(self, inner: Algorithm.Optimizer, penalty: Callable[[], Tensor | None]) -> None:
        self._inner, self._penalty = inner, penalty

    def step(self, loss: Tensor, **kwargs: bool) -> None:
        penalty = self._penalty()
        self._inner.step(loss if penalty is None else loss + penalty, **kwargs)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


class LossMixin(AnyAlgorithm):
    r"""Adds terms to the loss of any Tianshou algorithm: :math:`L + \sum_k \mu_k(m) L_k`.

    Mixins are written left of the algorithm, each with its own keyword; all terms join the
    algorithm's one optimizer step, since in a step of its own a term would lose its weight:
    Adam rescales any loss to the same step. A term of weight 0 is skipped, so the run is
    bit-identical to one without the mixin.

    Robustmarl's algorithms supply the rows of their own unroll: a recurrent network's terms
    perturb the current observation only, with the hidden state of the clean history. Tianshou's
    algorithms supply the batch's observations, and their policies answer as
    :class:`~robustmarl.victims.PolicyVictim` says: in evaluation mode, without noise.

    Raises:
        TypeError: at construction, for an algorithm whose policy has no such step (TRPO), and for
            Tianshou's with a memory or a policy that is no victim.
        ValueError: for a schedule that counts what the algorithm does not.

    Example:
        >>> from robustmarl import algorithms, attacks, budgets, envs, losses, training
        >>> class Twice(losses.PolicyRegularizer, losses.LipschitzRegularizer, algorithms.QMIX): ...
        >>> fgsm = attacks.PGD.fgsm(budgets.LinfBall(epsilon=0.1))
        >>> move = attacks.LipschitzAttack(ball=budgets.LinfBall(epsilon=0.1))
        >>> terms = {
        ...     "policy_loss": losses.PolicyLoss(attack=fgsm, weight=0.2),
        ...     "lipschitz_loss": losses.LipschitzLoss(attack=move, weight=0.5),
        ... }
        >>> team = Twice.for_env(envs.climbing(), **terms, seed=0)
        >>> quiet = training.Log(progress=False)
        >>> training.run(team, envs.climbing, env_steps=100, log=quiet).episodes
        100
    """

    _terms: dict[str, Term]
    _weights: dict[str, Schedule]
    _stock: Victim
    _radii: dict[str, Schedule]
    _penalised = False
    _figures: dict[str, list[Tensor]] | None = None
    """What its terms were in the present update, which tells of them; None in none."""

    penalty_steps: Tensor
    penalty_updates: Tensor

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for base in cls.__bases__:
            if LossMixin in base.__mro__:  # see check_left
                check_left(cls, base)

    @classmethod
    def for_env(cls, env: Env | TeamSpec, **settings: Any) -> Self:
        """Return the algorithm for ``env``, as ``for_env`` of what it is mixed into does.

        Type checkers know no sum of two classes' keywords, so that these are Any; names are
        checked at the call as ever, the mixins' own among them.

        Raises:
            TypeError: for Tianshou's algorithms, which are constructed without it.
        """
        make = getattr(super(), "for_env", None)
        if make is None:
            raise TypeError(
                f"{cls.__name__}.for_env must be of a robustmarl algorithm. Construct it."
            )
        made: Self = make(env, **settings)
        return made

    def add_term(self, name: str, term: Term) -> None:
        """Register a term; a mixin calls this after ``super().__init__``."""
        if "_terms" not in self.__dict__:
            self._terms, self._weights, self._radii = {}, {}, {}
            self.register_buffer("penalty_steps", torch.zeros((), dtype=torch.int64))
            self.register_buffer("penalty_updates", torch.zeros((), dtype=torch.int64))
        if not (self._steps_by_door() or self._penalised):
            remedy = "Use DQN, PPO or a robustmarl algorithm."
            if isinstance(self.policy, MultiAgentPolicy):
                remedy = "Mix it into the algorithms of its members."
            raise TypeError(
                f"{type(self).__name__} must take gradient steps on its policy through an "
                f"optimizer for a loss mixin to join them. {remedy}"
            )
        missing = [key for key in ("weight", "max_rows", "loss") if not hasattr(term, key)]
        if missing:
            raise TypeError(
                f"{type(self).__name__}.{name} must be a loss term with `weight`, `max_rows` and "
                f"`loss`, got {term!r} without {missing}."
            )
        if not isinstance(self.policy, TeamPolicy):  # Tianshou's own
            self._stock = as_victim(type(self).__name__, self)
            if self._stock.hidden_size:
                raise TypeError(
                    f"{type(self).__name__}.policy must be a policy without memory, as Tianshou's "
                    f"batches do not keep it, got {type(self.policy).__name__} with a recurrent "
                    "network. Use a robustmarl algorithm with recurrent=True."
                )
        check(name not in self._terms, name, "one term of its kind", term)
        weight = self._schedule(f"{name}.weight", term.weight)
        if isinstance(term, RampedTerm) and term.epsilon is not None:
            self._radii[name] = self._schedule(f"{name}.epsilon", term.epsilon)
        self._terms[name], self._weights[name] = term, weight

    def _schedule(self, where: str, value: float | Schedule) -> Schedule:
        schedule = as_schedule(where, value)
        counts = isinstance(self.policy, TeamPolicy)
        rule = "counting 'updates' with Tianshou's own algorithms"
        check(counts or schedule.unit == "updates", where, rule, schedule)
        return schedule

    def _at_present_radius(self, name: str) -> Term | None:
        """Return the term at the present radius, None where it is zero."""
        term, schedule = self._terms[name], self._radii.get(name)
        if schedule is None or not isinstance(term, RampedTerm):
            return term
        epsilon = schedule(self._counted(schedule.unit))
        return None if epsilon == 0.0 else term.with_epsilon(epsilon)

    def _create_optimizer(
        self, module: nn.Module, factory: OptimizerFactory, max_grad_norm: float | None = None
    ) -> Algorithm.Optimizer:
        inner = super()._create_optimizer(module, factory, max_grad_norm)
        for scheduler in self.lr_schedulers:
            rate = getattr(scheduler, "schedule", None)
            if rate is not None and hasattr(rate, "unit"):  # of learning.adam
                self._schedule(f"{type(self).__name__}.optim.lr", rate)
        policy = {id(weight) for weight in self.policy.parameters()}
        is_critics = policy.isdisjoint(id(weight) for weight in module.parameters())
        if is_critics or self._steps_by_door():
            return inner
        self._penalised = True
        penalised = _PenalisedOptimizer(inner, lambda: self._penalty(self._stock_rows))
        return cast(Algorithm.Optimizer, penalised)  # it hands on all but `step`

    def _update_with_batch(
        self, batch: RolloutBatchProtocol, *args: object, **kwargs: object
    ) -> Any:  # the statistics of whatever algorithm it is mixed into
        self._batch = batch
        kept: dict[str, list[Tensor]] = {name: [] for name in self._terms}
        self._figures = kept
        stats: TrainingStats
        stats = super()._update_with_batch(batch, *args, **kwargs)  # type: ignore[misc]
        del self._batch
        self._figures = None
        self.penalty_updates += 1
        figures = {
            f"{name}/{what}": float(torch.stack(values)[:, column].mean())
            for name, values in kept.items()
            if values
            for column, what in enumerate(("loss", "weight"))
        }
        metrics: dict[str, float] | None = getattr(stats, "metrics", None)
        if metrics is not None:
            metrics.update(figures)
            return stats
        return _TermStats(stats, figures) if figures else stats

    @classmethod
    def _steps_by_door(cls) -> bool:
        """Return whether the algorithm takes its policy's steps by ``step_policy``, as ours do."""
        others = (base for base in cls.__mro__ if not issubclass(base, LossMixin))
        return any("step_policy" in vars(base) for base in others)

    def step_policy(self, loss: Tensor, rows: Callable[[], LossRows]) -> None:
        """Add the terms to the loss of the step."""
        penalty = self._penalty(rows)
        total = loss if penalty is None else loss + penalty
        super().step_policy(total, rows)  # type: ignore[misc]

    def _penalty(self, make_rows: Callable[[], LossRows]) -> Tensor | None:
        total: Tensor | None = None
        step = int(self.penalty_steps)
        self.penalty_steps += 1
        for name, schedule in self._weights.items():
            weight = schedule(self._counted(schedule.unit))
            if weight == 0.0 or (term := self._at_present_radius(name)) is None:
                continue
            rows = make_rows()
            if len(rows) == 0:  # nobody in this minibatch learns; a mean of nothing is no number
                continue
            value = self._value(term, rows, name, step)
            if self._figures is not None:  # not where `learn` is called by itself
                figures = torch.stack([value.detach(), value.new_tensor(weight)])
                self._figures[name].append(figures)
            total = weight * value if total is None else total + weight * value
        return total

    def _value(self, term: Term, rows: LossRows, name: str, step: int) -> Tensor:
        """Return the term on its share of the rows; name and step decide all that is random."""
        if term.max_rows is not None and len(rows) > term.max_rows:
            order = torch.randperm(len(rows), generator=generator(name, step))
            rows = rows.select(order[: term.max_rows].to(rows.obs.device))
        key = mix(stream_id(name), step)
        keys = torch.full((1,), key, dtype=torch.int64, device=rows.obs.device)
        return term.loss(self._victim(), rows, Draws(keys).split(len(rows)))

    def _victim(self) -> Victim:
        """Return the policy as the rows of its learner ask it."""
        policy: object = self.policy
        return policy.loss_victim() if isinstance(policy, TeamPolicy) else self._stock

    def _stock_rows(self) -> LossRows:
        """Return the rows of a batch of Tianshou's own."""
        device = self._stock.device
        obs = self._batch.obs
        mask = None
        if isinstance(obs, Batch):
            obs, mask = obs.obs, obs.get("mask")
        obs = torch.as_tensor(obs, dtype=torch.float32, device=device)
        rule = "flat, (batch, obs): a term perturbs one observation, not a stack of them"
        check(obs.dim() == 2, f"{type(self).__name__}: observations", rule, tuple(obs.shape))
        if mask is not None:
            mask = torch.as_tensor(mask, dtype=torch.bool, device=device)
        return LossRows(obs=obs, rows=Rows(mask=mask))

    def _counted(self, unit: Unit) -> int:
        policy: object = self.policy
        return policy.counted(unit) if isinstance(policy, TeamPolicy) else int(self.penalty_updates)
