"""Attacks without gradients: they see what the victim answers, and nothing else of it.

They compare values of the loss, where others follow its direction. Of a victim that is sure (with a
lead of 104 in single precision, of 50 where losses are squared) the cross entropy is zero wherever
it is asked; the margin is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustmarl._checks import check_int, check_number, keep
from robustmarl._seeding import Draws
from robustmarl.attacks.aimed import AimedAttack
from robustmarl.victims import OutputLoss, VictimView

__all__ = ["SPSA", "RandomSearch", "SquareSearch"]

MEAN_DECAY, SQUARE_DECAY = 0.9, 0.999
"""Of what Adam averages: the defaults of its authors."""


@dataclass(frozen=True, kw_only=True)
class RandomSearch(AimedAttack):
    """The best of random points: uniform in the ball, and its corners in turn.

    A victim whose gradient is hidden cannot hide from it, and it knows nothing else: an attack
    that follows a gradient and does worse has not been given one.

    Args:
        queries: random points, >= 1. Further ones: :class:`AimedAttack`.

    Example:
        >>> from robustmarl.budgets import LinfBall
        >>> from robustmarl.victims import FunctionVictim
        >>> view, obs = FunctionVictim(torch.round).at(), torch.tensor([[1.0, 0.0]])  # no gradient
        >>> view.logits(RandomSearch(ball=LinfBall(epsilon=0.7))(view, obs))
        tensor([[0., 1.]])
    """

    queries: int = 100
    _usual_loss: ClassVar[str] = "margin"

    def __post_init__(self) -> None:
        super().__post_init__()
        keep(self, queries=check_int("RandomSearch.queries", self.queries))

    def climb(self, view: VictimView, obs: Tensor, loss: OutputLoss, draws: Draws | None) -> Tensor:
        """Return the best point of each row, (M, D), the clean one among them."""
        assert draws is not None  # by_chance
        low, high = self.ball.box(obs)
        best, highest = obs, loss(view.output(obs))
        for query in range(self.queries):
            if query % 2:
                tried = self.ball.sample(obs, draws)
            else:
                tried = torch.where(draws.uniform(obs.shape[-1]) < 0.5, low, high)
            best, highest = _better(view, loss, tried, best, highest)
        return best


@dataclass(frozen=True, kw_only=True)
class SquareSearch(AimedAttack):
    r"""Random search that changes ever fewer coordinates: Square Attack [Andriushchenko2020]_.

    It begins in a random corner of the ball, moves in each query a random set of coordinates to
    random ends of their intervals, and keeps what raises the loss. Of an image the set is a
    square; coordinates of an observation have no neighbours. It holds a share of them that begins
    at ``share`` and is halved at the paper's points of the way: .001, .005, .02, .05, .1, .2, .4,
    .6 and .8 of the queries.

    Args:
        queries: points tried, >= 1.
        share: of coordinates moved at first, in (0, 1]; at least one moves. The paper has .05 for
            its images. Further ones: :class:`AimedAttack`.

    Example:
        >>> from robustmarl.budgets import LinfBall
        >>> from robustmarl.victims import FunctionVictim
        >>> view, obs = FunctionVictim(torch.round).at(), torch.tensor([[1.0, 0.0]])  # no gradient
        >>> view.logits(SquareSearch(ball=LinfBall(epsilon=0.7))(view, obs))
        tensor([[0., 1.]])
    """

    queries: int = 100
    share: float = 0.8
    _usual_loss: ClassVar[str] = "margin"

    def __post_init__(self) -> None:
        super().__post_init__()
        keep(
            self,
            queries=check_int("SquareSearch.queries", self.queries),
            share=check_number("SquareSearch.share", self.share, 0.0, 1.0, open_low=True),
        )

    def climb(self, view: VictimView, obs: Tensor, loss: OutputLoss, draws: Draws | None) -> Tensor:
        """Return the best point of each row, (M, D), the clean one among them."""
        assert draws is not None  # by_chance
        low, high = self.ball.box(obs)
        size = obs.shape[-1]
        highest = loss(view.output(obs))
        corner = torch.where(draws.uniform(size) < 0.5, low, high)
        best, highest = _better(view, loss, corner, obs, highest)
        for query in range(1, self.queries):
            moved = max(1, round(self._share_at(query / self.queries) * size))
            order, ends = draws.uniform(2 * size).split(size, dim=-1)
            chosen = order.argsort(dim=-1).argsort(dim=-1) < moved
            tried = torch.where(chosen, torch.where(ends < 0.5, low, high), best)
            best, highest = _better(view, loss, tried, best, highest)
        return best

    def _share_at(self, way: float) -> float:
        halvings = sum(way > point for point in (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8))
        return math.ldexp(self.share, -halvings)


@dataclass(frozen=True, kw_only=True)
class SPSA(AimedAttack):
    r"""Ascent on a gradient estimated from outputs alone [Spall1992]_ [Uesato2018]_.

    With random signs :math:`v_k \in \{-1, 1\}^D`, the radius r and a probe c,

    .. math:: g = \frac1K \sum_{k=1}^K \frac{L(\hat o + c\,r v_k) - L(\hat o - c\,r v_k)}{2c}\,v_k

    which on a linear loss has the mean :math:`r \nabla L`, the gradient in units of the radius, and
    in coordinate i the variance :math:`\frac1K \sum_{j \ne i} (r_j \partial_j L)^2`. Adam
    ascends on it, in units of the radius, too, from the clean observation, and the best point of
    the way is returned. A probe that is wider than the steps of a victim that rounds sees its
    slope. For the same number of questions it found more than random search where observations
    are long, and less than :class:`SquareSearch`: it is another witness, not the strongest.

    Both probes of a pair are kept in the ball, so that the victim is asked about nothing that it
    could not be shown.

    Args:
        steps: of Adam, >= 1.
        pairs: K of each step, >= 1; the victim is asked :math:`(2K + 1)` times in a step.
        probe: c, in radii, in (0, 1].
        step_size: the most that a step moves at first, in radii, > 0; None is 2.5 over ``steps``,
            as of PGD. Further ones: :class:`AimedAttack`.

    Example:
        >>> from robustmarl.budgets import LinfBall
        >>> from robustmarl.victims import FunctionVictim
        >>> view, obs = FunctionVictim(torch.round).at(), torch.tensor([[1.0, 0.0]])  # no gradient
        >>> view.logits(SPSA(ball=LinfBall(epsilon=0.7), probe=1.0)(view, obs))
        tensor([[0., 1.]])
    """

    steps: int = 10
    pairs: int = 16
    probe: float = 0.3
    step_size: float | None = None
    _usual_loss: ClassVar[str] = "margin"

    def __post_init__(self) -> None:
        super().__post_init__()
        keep(
            self,
            steps=check_int("SPSA.steps", self.steps),
            pairs=check_int("SPSA.pairs", self.pairs),
            probe=check_number("SPSA.probe", self.probe, 0.0, 1.0, open_low=True),
        )
        if self.step_size is not None:
            step_size = check_number("SPSA.step_size", self.step_size, 0.0, open_low=True)
            keep(self, step_size=step_size)

    def climb(self, view: VictimView, obs: Tensor, loss: OutputLoss, draws: Draws | None) -> Tensor:
        """Return the best point of each row, (M, D), the clean one among them."""
        assert draws is not None  # by_chance
        low, high = self.ball.box(obs)
        radius, at = self.ball.radius(obs), obs
        length = 2.5 / self.steps if self.step_size is None else self.step_size
        best, highest = obs, loss(view.output(obs))
        mean, square = torch.zeros_like(obs), torch.zeros_like(obs)
        for step in range(1, self.steps + 1):
            slope = self.slope(view, obs, at, loss, draws)
            mean = MEAN_DECAY * mean + (1.0 - MEAN_DECAY) * slope
            square = SQUARE_DECAY * square + (1.0 - SQUARE_DECAY) * slope.square()
            ahead = mean / (1.0 - MEAN_DECAY**step)
            spread = (square / (1.0 - SQUARE_DECAY**step)).sqrt()
            # Losses differ in scale: no constant is added, and what never moved stays.
            ahead = torch.where(spread > 0.0, ahead / spread, 0.0)
            at = (at + length * radius * ahead).clamp(low, high)
            best, highest = _better(view, loss, at, best, highest)
        return best

    def slope(
        self, view: VictimView, obs: Tensor, at: Tensor, loss: OutputLoss, draws: Draws
    ) -> Tensor:
        """Return the estimated gradient, per radius of each coordinate, (M, D).

        Args:
            view: the victim, bound to M rows.
            obs: clean observations, (M, D).
            at: where, (M, D), in the ball around them.
            loss: what is raised.
            draws: the rows' random numbers.
        """
        low, high = self.ball.box(obs)
        reach = self.probe * self.ball.radius(obs)
        slope = torch.zeros_like(obs)
        for _ in range(self.pairs):
            sign = torch.where(draws.uniform(obs.shape[-1]) < 0.5, -1.0, 1.0).to(obs.dtype)
            ahead, behind = (
                loss(view.output((at + way * reach * sign).clamp(low, high))) for way in (1.0, -1.0)
            )
            slope += ((ahead - behind) / (2.0 * self.probe * self.pairs)).unsqueeze(-1) * sign
        return slope


def _better(
    view: VictimView, loss: OutputLoss, tried: Tensor, best: Tensor, highest: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the better one of each row's points, and its loss."""
    value = loss(view.output(tried))
    better = value > highest
    best = torch.where(better.unsqueeze(-1), tried, best)
    return best, torch.where(better, value, highest)
