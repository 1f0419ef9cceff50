"""ERNIE: a policy that moves little where its observation does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustmarl._checks import check_kind
from robustmarl._seeding import Draws
from robustmarl.attacks.base import ObsAttack
from robustmarl.losses.attack_term import AttackTerm, attacked
from robustmarl.losses.mixin import LossMixin, check_term
from robustmarl.schedules import Schedule
from robustmarl.victims import LossRows, Victim

__all__ = ["LipschitzLoss", "LipschitzRegularizer", "lipschitz_loss"]


def lipschitz_loss(
    victim: Victim, rows: LossRows, attack: ObsAttack, draws: Draws | None = None
) -> Tensor:
    r"""Return the mean over rows of how far outputs move.

    .. math:: \max_{\hat o \in B_\epsilon(o)} \lVert f(\hat o) - f(o) \rVert_2

    with f the logits or Q-values of available actions, or means [Bukharin2023]_. The ``attack``
    finds the maximum; gradients flow through :math:`f(\hat o)` and :math:`f(o)`, not through
    :math:`\hat o`.

    Example:
        >>> import torch
        >>> from robustmarl.attacks import LipschitzAttack
        >>> from robustmarl.budgets import LinfBall
        >>> from robustmarl.victims import FunctionVictim, LossRows
        >>> rows, victim = LossRows(obs=torch.zeros(1, 4)), FunctionVictim(lambda obs: obs)
        >>> lipschitz_loss(victim, rows, LipschitzAttack(ball=LinfBall(epsilon=0.5), steps=5))
        tensor(1.)
    """
    check_term("lipschitz_loss", victim, rows, attack)
    view = rows.view(victim)
    moved = attacked(attack, view, rows.obs, draws)
    change = view.output(moved) - view.output(rows.obs)
    if view.mask is not None:  # unavailable actions, and coordinates that an agent does not have
        change = torch.where(view.mask, change, 0.0)
    return torch.linalg.vector_norm(change, dim=-1).mean()


@dataclass(frozen=True, kw_only=True)
class LipschitzLoss(AttackTerm):
    r"""Settings of ERNIE's regulariser.

    Args:
        attack: finds where outputs move most: ``attacks.LipschitzAttack`` in ERNIE.
        weight: :math:`\lambda_R` >= 0, a number or a schedule; the release has 0.5.
        max_rows: estimate the term on at most so many rows, >= 1; None takes all.
        epsilon: the attack's radius >= 0, a number or a schedule; None is the attack's own. While
            it is 0 the term is off.

    Example:
        >>> from robustmarl import attacks, budgets
        >>> loss = LipschitzLoss(attack=attacks.LipschitzAttack(ball=budgets.LinfBall(epsilon=0.1)))
        >>> loss.weight(0)
        0.5
    """

    weight: float | Schedule = 0.5

    def loss(self, victim: Victim, rows: LossRows, draws: Draws) -> Tensor:
        """Return :func:`lipschitz_loss` of the rows."""
        return lipschitz_loss(victim, rows, self.attack, draws)


class LipschitzRegularizer(LossMixin):
    r"""Mixin that minimises :math:`L + \lambda_R L_{Lip}`: ERNIE [Bukharin2023]_.

    Acts and learns on clean observations. Write it left of an algorithm; it fits discrete and
    continuous actions.

    Args:
        lipschitz_loss: its settings.
        kwargs: passed on to the algorithm.

    Example:
        >>> from robustmarl import algorithms, attacks, budgets, envs, losses, training
        >>> class RobustQMIX(LipschitzRegularizer, algorithms.QMIX): ...
        >>> move = attacks.LipschitzAttack(ball=budgets.LinfBall(epsilon=0.1))
        >>> loss = losses.LipschitzLoss(attack=move)
        >>> team = RobustQMIX.for_env(envs.climbing(), lipschitz_loss=loss, seed=0)
        >>> quiet = training.Log(progress=False)
        >>> training.run(team, envs.climbing, env_steps=100, log=quiet).episodes
        100
    """

    def __init__(self, *, lipschitz_loss: LipschitzLoss, **kwargs: Any) -> None:
        where = f"{type(self).__name__}.lipschitz_loss"
        check_kind(where, lipschitz_loss, LipschitzLoss, "a LipschitzLoss")
        super().__init__(**kwargs)
        self.add_term("lipschitz_loss", lipschitz_loss)
