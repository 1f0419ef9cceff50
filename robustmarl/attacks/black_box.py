"""Attacks without gradients: they see what the victim answers, and nothing else of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robustmarl._checks import check_int, check_number, keep
from robustmarl._seeding import Draws
from robustmarl.attacks.aimed import AimedAttack
from robustmarl.victims import OutputLoss, VictimView

__all__ = ["RandomSearch", "SquareSearch"]


@dataclass(frozen=True, kw_only=True)
class RandomSearch(AimedAttack):
    """The best of random points: uniform in the ball, and its corners in turn.

    A victim whose gradient is hidden cannot hide from it, and it knows nothing else: an attack
    that follows a gradient and does worse has not been given one.

    Args:
        queries: random points, >= 1. Further ones: :class:`AimedAttack`.
    """

    queries: int = 100

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
    """

    queries: int = 100
    share: float = 0.8

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


def _better(
    view: VictimView, loss: OutputLoss, tried: Tensor, best: Tensor, highest: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the better one of each row's points, and its loss."""
    value = loss(view.output(tried))
    better = value > highest
    best = torch.where(better.unsqueeze(-1), tried, best)
    return best, torch.where(better, value, highest)
