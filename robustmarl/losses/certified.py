"""The certified loss: a proof that the greedy action stays, made part of what is learned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self, cast, get_args

import torch
from torch import Tensor

from robustmarl._checks import (
    check,
    check_choice,
    check_flag,
    check_int,
    check_kind,
    check_number,
    flags_of,
    keep,
    speaking_for,
)
from robustmarl._seeding import Draws
from robustmarl.budgets import LinfBall
from robustmarl.certify import BoundMethod, margin_bounds
from robustmarl.certify.margins import check_victim
from robustmarl.losses.mixin import LossMixin
from robustmarl.schedules import Schedule, as_schedule
from robustmarl.victims import LossRows, NetworkVictim, Victim

__all__ = ["CertifiedLoss", "CertifiedRegularizer", "certified_loss"]

_WITHOUT_MEMORY = (
    "without memory: one step is bounded from a memory that is known, while an attack changes what "
    "is remembered, too"
)
_MEMORY_REMEDY = "Use recurrent=False, or say memory_given=True to bound each step for itself."


def certified_loss(
    victim: Victim,
    rows: LossRows,
    ball: LinfBall,
    *,
    margin: float = 1.0,
    worst: bool = False,
    method: BoundMethod = "interval",
    memory_given: bool = False,
) -> Tensor:
    r"""Return the mean over rows with a choice of how much of the proven lead is missing.

    .. math:: \frac{1}{|A| - 1} \sum_{a \ne y} \max(0,\ c - \underline m_a), \qquad
              \underline m_a \le \min_{\hat o \in B_\epsilon(o)} z_y(\hat o) - z_a(\hat o)

    over the available actions A, where y is the greedy one on the clean observation, held fixed,
    and z are logits or Q-values. :math:`\underline m_a` is
    :func:`robustmarl.certify.margin_bounds`; gradients flow through it [Gowal2018]_. Where the
    loss is below c over the number of other actions, or c with ``worst``, the row's action is
    proven.

    Args:
        victim: a team's live view; discrete actions.
        rows: clean observations, (M, D), and all else that its policy acts on.
        ball: what may change.
        margin: c, the lead that is asked for, > 0, in units of logits or Q.
        worst: take the other action whose proven lead is least, not their mean.
        method: how the lead is bounded: ``"interval"`` is cheap, ``"tightest"`` a little better.
        memory_given: bound one step of a recurrent network from the memory that rows have.

    Raises:
        TypeError: for a victim that is no team's network.
        ValueError: for continuous actions, a network with memory, layers that bounds are not known
            of, or settings out of range.

    Example:
        >>> import torch
        >>> from robustmarl import algorithms, budgets, envs, victims
        >>> team = algorithms.QMIX.for_env(envs.TwoStepGame(), seed=0)
        >>> rows = victims.LossRows(obs=torch.eye(3))
        >>> bool(certified_loss(team.victim(), rows, budgets.LinfBall(epsilon=5.0)) > 1.0)
        True
    """
    margin = check_number("certified_loss.margin", margin, 0.0, open_low=True, unit="Q units")
    worst, memory_given = flags_of("certified_loss", worst=worst, memory_given=memory_given)
    check_choice("certified_loss.method", method, get_args(BoundMethod))
    with speaking_for("certified_loss", margin_bounds):
        # What is no network of a team is refused there.
        bounds = margin_bounds(cast(NetworkVictim, victim), rows, ball, method=method)
    _check_memory("certified_loss.victim", victim.hidden_size, memory_given)
    missing = (margin - bounds).clamp(min=0.0)  # 0 for the greedy action and unavailable ones
    others = (bounds != torch.inf).sum(dim=-1)
    choice = others > 0
    if not bool(choice.any()):
        return bounds.new_zeros(())
    each = missing.amax(dim=-1) if worst else missing.sum(dim=-1) / others.clamp(min=1)
    return each.sum() / choice.sum()


def _check_memory(where: str, hidden_size: int, memory_given: bool) -> None:
    good = hidden_size == 0 or memory_given
    check(good, where, _WITHOUT_MEMORY, f"hidden_size={hidden_size}", _MEMORY_REMEDY)


@dataclass(frozen=True, kw_only=True)
class CertifiedLoss:
    r"""Settings of the certified loss.

    Args:
        ball: what may change; its radius where ``epsilon`` is None.
        weight: >= 0, a number or a schedule.
        max_rows: estimate the term on at most so many rows, >= 1; None takes all.
        epsilon: the ball's radius >= 0, a number or a schedule: ramp it, since bounds of an
            untrained network are too loose to learn from. While it is 0 the term is off.
        margin: c, the lead that is asked for, > 0, in units of logits or Q.
        worst: take the other action whose proven lead is least, not their mean.
        method: how the lead is bounded, see :func:`robustmarl.certify.margin_bounds`.
        memory_given: take a recurrent network, too, and bound each step for itself, from the
            memory of the clean history; this is no proof of what becomes of an episode.

    Example:
        >>> from robustmarl import budgets, schedules
        >>> ramp = schedules.Linear(0.0, 0.1, over=1000)
        >>> loss = CertifiedLoss(ball=budgets.LinfBall(epsilon=0.1), epsilon=ramp)
        >>> loss.epsilon(500)
        0.05
    """

    ball: LinfBall
    weight: float | Schedule = 1.0
    max_rows: int | None = 256
    epsilon: float | Schedule | None = None
    margin: float = 1.0
    worst: bool = False
    method: BoundMethod = "interval"
    memory_given: bool = False

    def __post_init__(self) -> None:
        check_kind("CertifiedLoss.ball", self.ball, LinfBall, "a LinfBall")
        where = "CertifiedLoss.margin"
        keep(
            self,
            weight=as_schedule("CertifiedLoss.weight", self.weight, 0.0),
            margin=check_number(where, self.margin, 0.0, open_low=True, unit="Q units"),
            worst=check_flag("CertifiedLoss.worst", self.worst),
            memory_given=check_flag("CertifiedLoss.memory_given", self.memory_given),
        )
        check_choice("CertifiedLoss.method", self.method, get_args(BoundMethod))
        if self.max_rows is not None:
            keep(self, max_rows=check_int("CertifiedLoss.max_rows", self.max_rows, 1))
        if self.epsilon is not None:
            keep(self, epsilon=as_schedule("CertifiedLoss.epsilon", self.epsilon, 0.0))

    def with_epsilon(self, epsilon: float) -> Self:
        """Return the same with a ball of this radius, constant."""
        return replace(self, ball=self.ball.with_epsilon(epsilon), epsilon=None)

    def loss(self, victim: Victim, rows: LossRows, draws: Draws) -> Tensor:
        """Return :func:`certified_loss` of the rows; nothing is drawn."""
        return certified_loss(
            victim,
            rows,
            self.ball,
            margin=self.margin,
            worst=self.worst,
            method=self.method,
            memory_given=self.memory_given,
        )


class CertifiedRegularizer(LossMixin):
    r"""Mixin that minimises :math:`L + \mu(m) L_{cert}`: what is acted on can be proven.

    Acts and learns on clean observations. Write it left of an algorithm of discrete actions:
    ``class CertifiedQMIX(CertifiedRegularizer, QMIX): ...``.

    Args:
        certified_loss: its settings.
        kwargs: passed on to the algorithm.

    Raises:
        TypeError: for an algorithm of another library, whose layers are not known.
        ValueError: on continuous actions, for layers that bounds are not known of, and for a
            recurrent network unless ``certified_loss.memory_given``.

    Example:
        >>> from robustmarl import algorithms, budgets, envs, losses, training
        >>> class RobustQMIX(CertifiedRegularizer, algorithms.QMIX): ...
        >>> ball = budgets.LinfBall(epsilon=0.1)
        >>> loss = losses.CertifiedLoss(ball=ball, weight=0.5)
        >>> team = RobustQMIX.for_env(envs.climbing(), certified_loss=loss, seed=0)
        >>> quiet = training.Log(progress=False)
        >>> training.run(team, envs.climbing, env_steps=100, log=quiet).episodes
        100
    """

    def __init__(self, *, certified_loss: CertifiedLoss, **kwargs: Any) -> None:
        name = type(self).__name__
        where = f"{name}.certified_loss"
        check_kind(where, certified_loss, CertifiedLoss, "a CertifiedLoss")
        super().__init__(**kwargs)
        discrete = self.policy.action_type == "discrete"
        remedy = "Use PolicyRegularizer(policy_loss=PolicyLoss(form='mse', ...))."
        check(discrete, f"{name}.policy", "of discrete actions", self.policy.action_type, remedy)
        self.add_term("certified_loss", certified_loss)
        victim = self._victim()
        if not isinstance(victim, NetworkVictim):
            raise TypeError(
                f"{name} must be mixed into an algorithm of robustmarl, whose layers are known, "
                f"got {type(self.policy).__name__}. Use algorithms.VDN or algorithms.IPPO."
            )
        _check_memory(f"{name}.policy", victim.hidden_size, certified_loss.memory_given)
        check_victim(name, victim)
        certified_loss.ball.check_size(where, victim.obs_size)
