"""ROMANCE's archive: attackers that are strong and unlike, and how unlike policies are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustmarl._checks import check_int, check_kind
from robustmarl.perturbers.attackers import Attackers

__all__ = ["Archive", "jensen_shannon"]

_SELECTION = 5.0  # returns by which an attacker has to be better to be drawn e times as often


def jensen_shannon(policies: Tensor) -> Tensor:
    r"""Return :math:`H(\bar\pi) - \overline{H(\pi_j)}`, (...,), in nats: how unlike policies are.

    It is 0 where all are the same, and log J where no two have anything in common.

    Args:
        policies: probabilities, (J, ..., A).
    """
    return _entropy(policies.mean(dim=0)) - _entropy(policies).mean(dim=0)


def _entropy(policy: Tensor) -> Tensor:
    return -(policy * _above_zero(policy).log()).sum(dim=-1)


def _above_zero(policy: Tensor) -> Tensor:
    """Return probabilities whose logarithm is finite, and has a gradient."""
    return policy.clamp(min=torch.finfo(policy.dtype).tiny)


class Archive(nn.Module):
    """The attackers that were kept, how good they were, and the points at which they attacked.

    Args:
        attackers: like those that it is to keep.
        size: how many it holds, >= 1.
        points: of each one's attacks, how many it remembers, >= 1.
    """

    born: Tensor
    returns: Tensor
    points: Tensor
    counts: Tensor
    added: Tensor

    def __init__(self, attackers: Attackers, size: int = 15, points: int = 64) -> None:
        super().__init__()
        name = type(self).__name__
        check_kind(f"{name}.attackers", attackers, Attackers, "Attackers")
        self.size, self.most = check_int(f"{name}.size", size), check_int(f"{name}.points", points)
        kept = Attackers(
            attackers.spec,
            number=self.size,
            budget=attackers.budget,
            agents=attackers.agents,
            hidden=attackers.sizes[1:-1],
            rate=attackers.rate,
            soft=attackers.soft,
            floor=attackers.floor,
        )
        self.kept = kept.requires_grad_(False)
        features = attackers.features
        self.register_buffer("born", torch.full((self.size,), -1))  # -1 where there is nobody
        self.register_buffer("returns", torch.zeros(self.size))
        self.register_buffer("points", torch.zeros(self.size, self.most, features))
        self.register_buffer("counts", torch.zeros(self.size, dtype=torch.int64))
        self.register_buffer("added", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        return int((self.born >= 0).sum())

    @torch.no_grad()
    def distances(self, attackers: Attackers, index: int, points: Tensor) -> Tensor:
        """Return how far an attacker is from each of those kept, (len,), in nats.

        It is the mean divergence of its policy from theirs where either of the two attacked; large
        but finite where they never do what it does.

        Args:
            attackers: it is one of them.
            index: which.
            points: where it attacked, (P, F).
        """
        found = []
        for other in range(len(self)):
            seen = torch.cat([points, self.points[other, : self.counts[other]]])
            if len(seen) == 0:
                found.append(points.new_zeros(()))
                continue
            able = seen.new_ones(len(seen), attackers.sizes[-1], dtype=torch.bool)
            new, old = (
                whose.policies(whose(seen), able, explore=True)[who]
                for whose, who in ((attackers, index), (self.kept, other))
            )
            ratio = _above_zero(new) / _above_zero(old)
            found.append((new * ratio.log()).sum(dim=-1).mean())
        return torch.stack(found) if found else points.new_zeros(0)

    @torch.no_grad()
    def add(
        self,
        attackers: Attackers,
        index: int,
        *,
        points: Tensor,
        returned: float,
        tolerance: float,
        chance: float,
    ) -> bool:
        """Keep an attacker if it is new, or in place of its like; return whether it is kept.

        It is new if the nearest of those kept is farther than ``1 - tolerance`` of the mean
        distance: then it is added, for the oldest where the archive is full. Else it takes the
        place of the nearest with probability :math:`R_{near} / (R_{new} + R_{near})`, R the
        team's returns; where one of these is not positive, if the team earned less.

        Args:
            attackers: it is one of them.
            index: which.
            points: where it attacked, (P, F).
            returned: the team's mean return under it.
            tolerance: in [0, 1].
            chance: uniform in [0, 1).
        """
        points = points[-self.most :]
        distances = self.distances(attackers, index, points)
        place = len(self)
        if place > 0:
            near = int(distances.argmin())
            new = bool(distances[near] > (1.0 - tolerance) * distances.mean())
            others = float(self.returns[near])
            probability = float(returned < others)
            if returned > 0.0 and others > 0.0:
                probability = others / (returned + others)
            if not new and chance >= probability:
                return False
            if not new:
                place = near
            elif place == self.size:
                place = int(self.born.argmin())
        self.kept.take(place, attackers, index)
        self.born[place] = self.added
        self.added += 1
        self.returns[place] = returned
        self.points[place, : len(points)] = points
        self.counts[place] = len(points)
        return True

    def draw(self, number: int, draws: torch.Generator) -> list[int]:
        """Return whom of those kept to play with, drawn by how little the team earned.

        All different, if there are enough.

        Args:
            number: how many.
            draws: random numbers, on the CPU.
        """
        chances = (-self.returns[: len(self)].cpu() / _SELECTION).softmax(dim=0)
        chances = chances.clamp(min=1e-6)  # so that so many can be drawn
        again = number > len(self)
        return torch.multinomial(chances, number, replacement=again, generator=draws).tolist()
