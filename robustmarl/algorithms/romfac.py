"""RoMFAC: mean-field actor-critic with an action loss that comes and goes."""

from __future__ import annotations

from typing import Literal, Self, Unpack, get_args

from robustmarl._checks import check_choice, check_flag, check_int, check_number, speaking_for
from robustmarl.algorithms.mfac import MFAC, MFACSettings
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.joint import TeamSpec
from robustmarl.losses import ActionLoss, ActionLossRegularizer
from robustmarl.schedules import Repetitive
from robustmarl.typing import Env

__all__ = ["RoMFAC", "RoMFACSettings", "RoMFACVariant", "romfac_loss"]

RoMFACVariant = Literal["RoMFAC", "RoMFAC1", "SA-MFAC", "SA-MFAC3"]

_LOOPS: dict[RoMFACVariant, int] = {"RoMFAC": 3, "RoMFAC1": 1, "SA-MFAC": 1, "SA-MFAC3": 3}


def romfac_loss(
    variant: RoMFACVariant = "RoMFAC",
    *,
    ball: LinfBall | None = None,
    peak: float = 1.0,
    warmup: int = 1000,
    period: int = 300,
    ramp: float = 0.8,
    steps: int = 10,
    max_rows: int | None = None,
    equal_rounds: bool = True,
) -> ActionLoss:
    r"""Return the action loss of one of the methods that RoMFAC's tables compare [Zhou2022]_.

    ======== ================== ====================== =====
    variant  weight             radius                 loops
    ======== ================== ====================== =====
    RoMFAC   ramps to the peak  constant               3
    RoMFAC1  ramps to the peak  constant               1
    SA-MFAC  constant, the peak ramps to the ball's    1
    SA-MFAC3 constant, the peak ramps to the ball's    3
    ======== ================== ====================== =====

    Ramps are :class:`~robustmarl.schedules.Repetitive` and count updates: a round of the paper is
    one update. While the radius is zero the term is off.

    Args:
        variant: its name in the table.
        ball: of the attack; None has the paper's radius of .075, without limits. For SA-MFAC and
            SA-MFAC3 its radius must be one number.
        peak: :math:`\bar\mu` >= 0. The paper names none; 0.2 fits small teams.
        warmup: :math:`M_{norm}`, rounds before the first loop, >= 0. The paper names none.
        period: :math:`M_{adv}`, rounds per loop of three, >= 1. The paper names none.
        ramp: :math:`\omega`, share of a loop spent rising, in (0, 1].
        steps: of PGD, >= 1.
        max_rows: estimate the loss on at most so many rows; None takes all, as the paper.
        equal_rounds: give variants of one loop a loop as long as three, so that all train for
            ``warmup + 3 * period`` rounds; False is as printed, ``warmup + period``.

    Raises:
        ValueError: for an unknown variant, or a number out of range.
        TypeError: for a radius per coordinate where it ramps.

    Example:
        >>> loss = romfac_loss("RoMFAC1", warmup=10, period=10, peak=0.5)
        >>> [loss.weight(rounds) for rounds in (0, 22, 39, 40)]
        [0.0, 0.25, 0.5, 0.0]
    """
    where = "romfac_loss"
    check_choice(f"{where}.variant", variant, get_args(RoMFACVariant))
    period = check_int(f"{where}.period", period, 1)
    equal_rounds = check_flag(f"{where}.equal_rounds", equal_rounds)
    ball = LinfBall(epsilon=0.075) if ball is None else ball
    loops = _LOOPS[variant]
    if equal_rounds:
        period = period * 3 // loops

    def ramped(top: float) -> Repetitive:
        return Repetitive(top, warmup, period, loops, ramp, unit="updates")

    with speaking_for(where, PGD), speaking_for(where, Repetitive), speaking_for(where, ActionLoss):
        weight, attack = ramped(peak), PGD(ball=ball, steps=steps)
        if variant in ("RoMFAC", "RoMFAC1"):
            return ActionLoss(attack=attack, weight=weight, max_rows=max_rows)
        # Not one per coordinate.
        radius = check_number(f"{where}.ball.epsilon", ball.epsilon, 0.0)
        return ActionLoss(attack=attack, weight=peak, max_rows=max_rows, epsilon=ramped(radius))


class RoMFACSettings(MFACSettings, total=False):
    """Keywords of ``RoMFAC.for_env``."""

    action_loss: ActionLoss


class RoMFAC(ActionLossRegularizer, MFAC):
    r"""Robust mean-field actor-critic [Zhou2022]_: :class:`MFAC` with the action loss.

    .. math:: L = L_\pi + \mu(m)\, \overline{\max_{\hat o \in B_\epsilon(o)}
                  -\log\pi(z \mid \hat o, \bar a)}, \qquad z = \arg\max_a \pi(a \mid o, \bar a)

    on clean rollouts, with the weight :math:`\mu` of Eq. (13) ramped up from zero in three loops.
    Attacks leave mean actions as they are. At weight 0 it is MFAC, bit for bit.

    ``for_env`` takes what MFAC's does, and ``action_loss``: by default
    :func:`~robustmarl.algorithms.romfac.romfac_loss`, which has the other variants, too.

    Example:
        >>> from robustmarl import attacks, budgets, envs, losses, training
        >>> pgd = attacks.PGD(ball=budgets.LinfBall(epsilon=0.1))
        >>> loss = losses.ActionLoss(attack=pgd, weight=1.0)
        >>> team = RoMFAC.for_env(envs.ToyGame(horizon=5), action_loss=loss, seed=0)
        >>> quiet = training.Log(progress=False)
        >>> history = training.run(team, lambda: envs.ToyGame(horizon=5), env_steps=100, log=quiet)
        >>> history.episodes, history.env_steps[-1]
        (20, 100)
    """

    @classmethod  # the mixin's, of which it is one, takes any keyword
    def for_env(  # type: ignore[override]
        cls, env: Env | TeamSpec, **settings: Unpack[RoMFACSettings]
    ) -> Self:
        """Return RoMFAC for ``env``; see :meth:`TeamAlgorithm.for_env`."""
        settings.setdefault("action_loss", romfac_loss())
        return cls._make(env, settings)
