"""ERNIE's inner ascent: the point of the ball where the policy moves most."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from robustmarl._checks import check, check_number, keep
from robustmarl._seeding import Draws
from robustmarl.attacks.gradient import GradientAttack
from robustmarl.attacks.losses import SquaredError
from robustmarl.victims import OutputLoss, VictimView

__all__ = ["LipschitzAttack"]


@dataclass(frozen=True, kw_only=True)
class LipschitzAttack(GradientAttack):
    r"""Ascent on how far the victim's outputs move, whatever action they name [Bukharin2023]_.

    .. math:: \max_{\hat o \in B_\epsilon(o)} \lVert f(\hat o) - f(o) \rVert_2

    over logits of available actions, Q-values, or means. It starts a little beside the clean
    observation, where the distance has a gradient.

    Args:
        start_radius: of the uniform draw of the start, observation units, > 0; the release draws
            normally with a deviation of this size. Further ones: ``GradientAttack``.

    Example:
        >>> import torch
        >>> from robustmarl.budgets import LinfBall
        >>> from robustmarl.victims import FunctionVictim
        >>> view = FunctionVictim(lambda obs: obs * torch.tensor([1.0, 5.0])).at()
        >>> LipschitzAttack(ball=LinfBall(epsilon=0.5), steps=5)(view, torch.zeros(1, 2)).abs()
        tensor([[0.5000, 0.5000]])
    """

    # One step across the whole ball, as the release's K = 1; more divide the way among them.
    reach: ClassVar[float] = 1.0
    steps: int = 1
    random_start: bool = True
    start_radius: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        check(self.random_start, f"{name}.random_start", "True: else there is no gradient", False)
        for field, value in (("loss", self.loss), ("target", self.target)):
            check(value is None, f"{name}.{field}", "left out: it raises the distance", value)
        radius = check_number(
            f"{name}.start_radius", self.start_radius, 0.0, open_low=True, unit="observation units"
        )
        keep(self, start_radius=radius)

    def output_loss(self, view: VictimView, obs: Tensor) -> OutputLoss:
        """Return the squared distance from the clean output, one per row, (M,)."""
        return SquaredError(view.output(obs), mask=view.mask)

    def start(self, view: VictimView, obs: Tensor, draws: Draws | None) -> Tensor:
        """Return observations (M, D) moved by up to ``start_radius``, inside the ball."""
        assert draws is not None  # the start is random
        noise = draws.uniform(obs.shape[-1]).to(obs.dtype) * 2.0 - 1.0
        return self.ball.project(obs + self.start_radius * noise, obs)
