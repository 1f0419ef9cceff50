"""PA-AD's actor for stochastic victims: move a policy along a direction that a director names."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn

from robustmarl._checks import check, check_int, check_kind, check_tensor
from robustmarl._seeding import Draws
from robustmarl.attacks.gradient import GradientAttack
from robustmarl.budgets import Coordinates
from robustmarl.joint import MASKED
from robustmarl.perturbers.learned import GaussianActor
from robustmarl.victims import VictimView

__all__ = ["DirectionActor", "PolicyDirection", "completed"]


def completed(numbers: Tensor) -> Tensor:
    r"""Return directions whose entries sum to 0, (..., A), of numbers (..., A-1) in [-1, 1].

    The last one is minus the sum of the others [Sun2022]_. It may leave [-1, 1], which does not
    matter: of a direction the length is not used.
    """
    return torch.cat([numbers, -numbers.sum(dim=-1, keepdim=True)], dim=-1)


class PolicyDirection:
    r"""How far a policy moved along a direction, and how far at all: PA-AD's actor [Sun2022]_.

    .. math:: \cos(\pi(\hat o) - \pi(o),\ d) + \|\pi(\hat o) - \pi(o)\|_2

    Where the policy has not moved, the gradient is that along d, :math:`J_\pi^\top d` up to a
    positive factor, its limit as the policy moves that way.

    Args:
        clean: logits on the clean observations, (M, A), ``MASKED`` where unavailable.
        direction: d, (M, A); what of it lies on unavailable actions is left out.
    """

    def __init__(self, clean: Tensor, direction: Tensor) -> None:
        check_tensor("PolicyDirection.clean", clean)
        check_tensor("PolicyDirection.direction", direction, clean)
        self._clean = clean.softmax(dim=-1)
        able = clean > MASKED / 2
        kept = torch.where(able, direction, 0.0)
        mean = kept.sum(dim=-1, keepdim=True) / able.sum(dim=-1, keepdim=True)
        self._unit = nn.functional.normalize(torch.where(able, kept - mean, 0.0), dim=-1)

    def __call__(self, output: Tensor) -> Tensor:
        """Return one loss per row, (M,), of logits (M, A)."""
        change, size = self._change(output)
        along = (change * self._unit).sum(dim=-1)
        return along / size.squeeze(-1) + size.squeeze(-1)

    def gradient(self, output: Tensor) -> Tensor:
        """Return the direction of d loss / d logits, (M, A)."""
        change, size = self._change(output)
        towards = change / size
        along = (towards * self._unit).sum(dim=-1, keepdim=True)
        # Where nothing has moved yet, `towards` is 0, and this is along d.
        of_policy = (self._unit - along * towards) / size + towards
        policy = output.softmax(dim=-1)
        return policy * (of_policy - (policy * of_policy).sum(dim=-1, keepdim=True))

    def _change(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return how the policy changed, (M, A), and by how much, (M, 1), never 0."""
        change = output.softmax(dim=-1) - self._clean
        return change, change.norm(dim=-1, keepdim=True).clamp(min=_NOWHERE)


_NOWHERE = 1e-6  # of a policy's change: below, float32 knows no direction of it


class DirectionActor(GaussianActor):
    r"""PA-AD's director and actor against stochastic victims [Sun2022]_.

    The director draws A - 1 numbers from a Gaussian given the clean observation. They are cut to
    [-1, 1] and :func:`completed`, and the generator moves the observation so that the victim's
    policy moves along them: it raises :class:`PolicyDirection`. One director is shared by all
    attacked agents. As an attack it acts by its mean.

    Args:
        generator: a gradient attack, ``perturbers.stor(ball)``; its loss and target are replaced.
        obs_size: D.
        num_actions: A, of the victim; >= 2.
        hidden: widths of the director's hidden layers.
        seed: of the initial weights.

    Raises:
        ValueError: when called, for a victim of continuous actions, which has no such policy.

    Example:
        >>> from robustmarl import budgets, perturbers, victims
        >>> actor = DirectionActor(perturbers.stor(budgets.LinfBall(epsilon=0.25)), 3, 2)
        >>> view = victims.FunctionVictim(lambda obs: obs[:, :2]).at()
        >>> actor(view, torch.zeros(1, 3)).abs()
        tensor([[0.2500, 0.2500, 0.0000]])
    """

    def __init__(
        self,
        generator: GradientAttack,
        obs_size: int,
        num_actions: int,
        *,
        hidden: tuple[int, ...] = (64, 64),
        seed: int = 0,
    ) -> None:
        name, remedy = type(self).__name__, "Write perturbers.stor(ball)."
        check_kind(f"{name}.generator", generator, GradientAttack, "a GradientAttack", remedy)
        number = check_int(f"{name}.num_actions", num_actions, 2)
        super().__init__(obs_size, number - 1, hidden, None, seed)
        generator.ball.check_size(name, self.obs_size)
        self.generator, self.ball, self.num_actions = generator, generator.ball, number

    def with_epsilon(self, epsilon: Coordinates) -> Self:
        """Return the same networks, shared, at another radius."""
        twin = self._twin()
        twin.generator = self.generator.with_epsilon(epsilon)
        twin.ball, twin.num_actions = twin.generator.ball, self.num_actions
        return twin

    def moved(
        self,
        obs: Tensor,
        u: Tensor,
        view: VictimView | None = None,
        draws: Draws | None = None,
    ) -> Tensor:
        """Return observations (M, D) that move the victim's policy along ``u``, (M, A-1)."""
        assert view is not None  # whoever plays it gives one
        where, rule = f"{type(self).__name__}.victim", "of discrete actions"
        check(not view.continuous, where, rule, "one of continuous actions")
        loss = PolicyDirection(view.logits(obs), completed(u.clamp(-1.0, 1.0)))
        attack = replace(self.generator, loss=loss, target=None, clean_if_own=False)
        return attack(view, obs, draws)
