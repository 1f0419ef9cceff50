"""Policy regularisation: keep the policy where an attack would move it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from robustmarl._checks import (
    check,
    check_choice,
    check_int,
    check_kind,
    check_number,
    check_tensor,
    keep,
    speaking_for,
)
from robustmarl._seeding import Draws
from robustmarl.attacks.base import ObsAttack
from robustmarl.joint import MASKED
from robustmarl.losses.attack_term import AttackTerm, attacked
from robustmarl.losses.mixin import LossMixin
from robustmarl.schedules import Repetitive, Schedule
from robustmarl.typing import Unit
from robustmarl.victims import LossRows, Victim

__all__ = ["Form", "PolicyLoss", "PolicyRegularizer", "policy_loss"]

Form = Literal["hinge", "kl", "tv", "ce", "mse"]


def policy_loss(
    clean: Tensor,
    perturbed: Tensor,
    form: Form = "hinge",
    margin: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Return how far outputs moved, one value per row, (M,).

    With :math:`u = \arg\max Q(o)` on the clean observation (no gradient):

    * ``hinge``: :math:`\max(\max_{a \neq u} Q(\hat o)_a - Q(\hat o)_u,\ -c)`, SA-DQN's surrogate,
    * ``kl``: :math:`KL(\mathrm{softmax}\,Q(o) \,\|\, \mathrm{softmax}\,Q(\hat o))`,
    * ``tv``: half the L1 distance of the two softmax distributions,
    * ``ce``: :math:`-\log \mathrm{softmax}(Q(\hat o))_u`,
    * ``mse``: the mean squared distance over an agent's action coordinates, for means.

    Only ``kl``, ``tv`` and ``mse`` are 0 for a policy that ignores its observation.

    Args:
        clean: logits or means on clean observations (M, A), ``MASKED`` where unavailable.
        perturbed: the same on perturbed observations.
        form: one of the above.
        margin: c of the hinge, > 0.
        mask: the action coordinates that exist, bool (M, A), for ``mse``; None is all.

    Example:
        >>> clean, perturbed = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> policy_loss(clean, perturbed)  # the other action leads by 1
        tensor([1.])
    """
    check_choice("policy_loss.form", form, get_args(Form))
    check_tensor("policy_loss.clean", clean)
    check_tensor("policy_loss.perturbed", perturbed, clean)
    margin = check_number("policy_loss.margin", margin, 0.0, open_low=True, unit="Q units")
    if form == "mse":
        square = (perturbed - clean).square()
        if mask is None:
            return square.mean(dim=-1)
        return torch.where(mask, square, 0.0).sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)
    if form in ("hinge", "ce"):
        label = clean.argmax(dim=-1, keepdim=True)
        if form == "ce":
            return -torch.log_softmax(perturbed, dim=-1).gather(-1, label).squeeze(-1)
        others = perturbed.scatter(-1, label, 2.0 * MASKED).amax(dim=-1)
        return (others - perturbed.gather(-1, label).squeeze(-1)).clamp(min=-margin)
    log_p, log_q = torch.log_softmax(clean, dim=-1), torch.log_softmax(perturbed, dim=-1)
    if form == "kl":
        return (log_p.exp() * (log_p - log_q)).sum(dim=-1)
    return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(dim=-1)


@dataclass(frozen=True, kw_only=True)
class PolicyLoss(AttackTerm):
    r"""Settings of policy regularisation.

    Args:
        attack: finds the perturbed observations with the present network: FGSM in the group's
            release, PGD with the margin loss in SA-DQN.
        weight: :math:`\kappa` >= 0, a number or a schedule; ramp it, the paper reports instability.
        form: see :func:`policy_loss`; ``mse`` for continuous actions only.
        margin: c of the hinge, > 0, in units of Q.
        max_rows: estimate the term on at most so many rows, >= 1; None takes all.
        epsilon: the attack's radius >= 0, a number or a schedule, as SA-MDP ramps it; None is the
            attack's own. While it is 0 the term is off.

    Example:
        >>> from robustmarl import attacks, budgets, schedules
        >>> ramp = schedules.Linear(0.0, 0.2, over=1000)
        >>> loss = PolicyLoss(attack=attacks.PGD.fgsm(budgets.LinfBall(epsilon=0.1)), weight=ramp)
        >>> loss.weight(500)
        0.1
    """

    weight: float | Schedule = 0.1
    form: Form = "hinge"
    margin: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("PolicyLoss.form", self.form, get_args(Form))
        where = "PolicyLoss.margin"
        keep(self, margin=check_number(where, self.margin, 0.0, open_low=True, unit="Q units"))

    @classmethod
    def repetitive(
        cls,
        attack: ObsAttack,
        total: int,
        *,
        peak: float = 0.1,
        loops: int = 3,
        unit: Unit = "env_steps",
        form: Form = "hinge",
        margin: float = 1.0,
        max_rows: int | None = 256,
    ) -> Self:
        r"""Return PR-REP of ATSA's tables [Zhou2025]_: the weight rises several times, not once.

        It is RoMFAC's schedule, :class:`~robustmarl.schedules.Repetitive`, over a training: the
        first 40 % without the term, then loops of the same length in which the weight rises from
        0 in the first 80 % and stays at its peak in the rest. Peak and loops are the paper's; it
        does not say when loops begin or how they rise, so that these shares are ours.

        Args:
            attack: as of the class.
            total: length of the training, in units, >= 5.
            peak: the weight to which each loop rises, >= 0.
            loops: how many, >= 1.
            unit: what ``total`` counts.
            form: as of the class.
            margin: likewise.
            max_rows: likewise.
        """
        total = check_int("PolicyLoss.total", total, 5)
        loops = check_int("PolicyLoss.loops", loops)
        warmup = 2 * total // 5
        period = (total - warmup) // loops
        rule = f"at most {total - warmup}, the units that are left for them"
        check(period > 0, "PolicyLoss.loops", rule, loops)
        with speaking_for(cls.__name__, Repetitive):
            weight = Repetitive(peak, warmup, period, loops, ramp=0.8, unit=unit)
        return cls(attack=attack, weight=weight, form=form, margin=margin, max_rows=max_rows)

    def loss(self, victim: Victim, rows: LossRows, draws: Draws) -> Tensor:
        """Return the mean of :func:`policy_loss` over rows with a choice to make."""
        if rows.rows.mask is not None and not victim.continuous:
            choice = rows.rows.mask.sum(dim=-1) > 1
            rows, draws = rows.select(choice), Draws(draws.keys[choice])
        if len(rows) == 0:
            return rows.obs.new_zeros(())
        view = rows.view(victim)
        adversarial = attacked(self.attack, view, rows.obs, draws)
        with torch.set_grad_enabled(self.form in ("kl", "tv", "mse")):
            clean = view.output(rows.obs)  # a label has no gradient
        perturbed = view.output(adversarial)
        return policy_loss(clean, perturbed, self.form, self.margin, view.mask).mean()


class PolicyRegularizer(LossMixin):
    r"""Mixin that minimises :math:`L_{TD} + \kappa L_{reg}`: robust QMIX's PR [Guo2024]_.

    Acts and learns on clean observations; the perturbed ones are made inside the loss with the
    present network. Write it left of an algorithm.

    Args:
        policy_loss: its settings.
        kwargs: passed on to the algorithm.

    Raises:
        ValueError: for a form that does not fit the kind of actions.

    Example:
        >>> from robustmarl import algorithms, attacks, budgets, envs, losses, training
        >>> class RobustQMIX(PolicyRegularizer, algorithms.QMIX): ...
        >>> pgd = attacks.PGD.fgsm(budgets.LinfBall(epsilon=0.1))
        >>> loss = losses.PolicyLoss(attack=pgd, weight=0.2)
        >>> team = RobustQMIX.for_env(envs.climbing(), policy_loss=loss, seed=0)
        >>> quiet = training.Log(progress=False)
        >>> training.run(team, envs.climbing, env_steps=100, log=quiet).episodes
        100
    """

    def __init__(self, *, policy_loss: PolicyLoss, **kwargs: Any) -> None:
        check_kind(f"{type(self).__name__}.policy_loss", policy_loss, PolicyLoss, "a PolicyLoss")
        super().__init__(**kwargs)
        self.add_term("policy_loss", policy_loss)
        continuous = self.policy.action_type == "continuous"
        rule = "'mse' for continuous actions, any other form for discrete ones"
        check((policy_loss.form == "mse") == continuous, "PolicyLoss.form", rule, policy_loss.form)
