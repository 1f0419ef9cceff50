"""The action loss of RoMFAC: act on a perturbed observation as on the clean one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from robustmarl._checks import check, check_kind
from robustmarl._seeding import Draws
from robustmarl.attacks.base import ObsAttack
from robustmarl.losses.attack_term import AttackTerm, attacked
from robustmarl.losses.mixin import LossMixin, check_term
from robustmarl.victims import LossRows, Victim

__all__ = ["ActionLoss", "ActionLossRegularizer", "action_loss"]


def action_loss(
    victim: Victim, rows: LossRows, attack: ObsAttack, draws: Draws | None = None
) -> Tensor:
    r"""Return the mean over rows of the action loss.

    .. math:: \max_{\hat o \in B_\epsilon(o)} -\log \pi(z \mid \hat o)

    where z is the greedy available action on the clean observation: RoMFAC, Eq. (10)
    [Zhou2022]_. The ``attack`` finds the maximum; gradients flow through
    :math:`\pi(\cdot \mid \hat o)` only.

    Example:
        >>> import torch
        >>> from robustmarl.attacks import PGD
        >>> from robustmarl.budgets import LinfBall
        >>> from robustmarl.victims import FunctionVictim, LossRows
        >>> rows, victim = LossRows(obs=torch.tensor([[1.0, 0.0]])), FunctionVictim(lambda obs: obs)
        >>> action_loss(victim, rows, PGD(ball=LinfBall(epsilon=0.5)))  # equal logits: log 2
        tensor(0.6931)
    """
    check_term("action_loss", victim, rows, attack)
    view = rows.view(victim)
    with torch.no_grad():
        greedy = view.logits(rows.obs).argmax(dim=-1)
    adversarial = attacked(attack, view, rows.obs, draws)
    return cross_entropy(view.logits(adversarial), greedy)


@dataclass(frozen=True, kw_only=True)
class ActionLoss(AttackTerm):
    r"""Settings of RoMFAC's action loss.

    Args:
        attack: finds the adversarial observations; the paper uses PGD with 10 steps.
        weight: :math:`\mu(m)` >= 0, a number or a schedule: ``schedules.Repetitive`` in the paper.
        max_rows: estimate the term on at most so many rows, >= 1; None takes all.
        epsilon: the attack's radius >= 0, a number or a schedule; None is the attack's own. While
            it is 0 the term is off: at the clean observation it would only sharpen the policy.

    Example:
        >>> from robustmarl import attacks, budgets, schedules
        >>> pgd = attacks.PGD(ball=budgets.LinfBall(epsilon=0.1), steps=10)
        >>> loss = ActionLoss(attack=pgd, weight=schedules.Repetitive(0.5, warmup=100, period=50))
        >>> loss.weight(140)
        0.5
    """

    def loss(self, victim: Victim, rows: LossRows, draws: Draws) -> Tensor:
        """Return :func:`action_loss` of the rows."""
        return action_loss(victim, rows, self.attack, draws)


class ActionLossRegularizer(LossMixin):
    r"""Mixin that minimises :math:`-J(\theta) + \mu(m) L_{act}(\theta)`: RoMFAC, Eq. (12).

    Write it left of an algorithm: ``class RobustQMIX(ActionLossRegularizer, QMIX): ...``.

    Args:
        action_loss: its settings.
        kwargs: passed on to the algorithm.

    Raises:
        ValueError: on continuous actions, which have no greedy action.

    Example:
        >>> from robustmarl import algorithms, attacks, budgets, envs, losses, training
        >>> class RobustQMIX(ActionLossRegularizer, algorithms.QMIX): ...
        >>> pgd = attacks.PGD(ball=budgets.LinfBall(epsilon=0.1), steps=2)
        >>> loss = losses.ActionLoss(attack=pgd, weight=0.5)
        >>> team = RobustQMIX.for_env(envs.climbing(), action_loss=loss, seed=0)
        >>> quiet = training.Log(progress=False)
        >>> training.run(team, envs.climbing, env_steps=100, log=quiet).episodes
        100
    """

    def __init__(self, *, action_loss: ActionLoss, **kwargs: Any) -> None:
        check_kind(f"{type(self).__name__}.action_loss", action_loss, ActionLoss, "an ActionLoss")
        super().__init__(**kwargs)
        discrete = self.policy.action_type == "discrete"
        remedy = "Use PolicyRegularizer(policy_loss=PolicyLoss(form='mse', ...))."
        name = f"{type(self).__name__}.policy"
        check(discrete, name, "of discrete actions", self.policy.action_type, remedy)
        self.add_term("action_loss", action_loss)
