"""What an attack does to the victim's decisions, counted beside the episodes' scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustmarl.attacks import FunctionLoss, Margin, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.evaluation.episodes import EpisodeCounts
from robustmarl.joint import StepContext, TeamSpec
from robustmarl.losses import policy_loss
from robustmarl.perturbers import ObsPerturber, Place
from robustmarl.perturbers._rows import ChosenRows
from robustmarl.victims import Victim, VictimView

__all__ = ["Meter", "Reading"]

MOVED = 0.1
"""How far a mean action, in [-1, 1], has to move to be another one."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Shares of living agents' steps in which there is a choice.

    Attributes:
        changed: in which the observation shown is not the true one.
        flipped: in which the action is another than on the true observation: the greedy one; of a
            team that draws actions the least chance that they differ, which is how far its
            distribution moved in total variation; a mean action moved by more than .1 in one
            coordinate.
        vanished: in which the gradient of the margin is zero in every coordinate, at the true
            observation (of a mean action: of the sum of its coordinates); None where it was not
            asked for, or the victim has none.
        random: whether the same question had two answers.
    """

    changed: float
    flipped: float
    vanished: float | None = None
    random: bool = False


class Meter(ObsPerturber):
    """Compares what the team does with what it would do on clean observations; changes nothing.

    Put it behind the attack. It asks the acting policy itself, with the memory that it has.

    Args:
        gradients: look at gradients, too, and ask twice; costs a backward pass per step.
        drawn: whether the team draws its actions.
    """

    kind = "meter"

    def __init__(self, *, gradients: bool = False, drawn: bool = False) -> None:
        super().__init__(UniformNoise(ball=LinfBall(epsilon=1.0)))  # never called
        self.gradients, self.drawn = gradients, drawn

    def bind(self, spec: TeamSpec, policy: Victim | None, place: Place) -> None:
        """Take the acting policy, which is asked."""
        super().bind(spec, policy, place)
        self._ask_acting(policy, spec)
        self._steps = self._changed = self._vanished = torch.zeros((), dtype=torch.int64)
        self._flipped = torch.zeros(())
        self._episodes = EpisodeCounts(2)
        self._followed = self.gradients and self._asked
        self._random = False

    def on_obs(self, context: StepContext) -> Tensor:
        """Return observations as they are."""
        return context.seen

    @torch.no_grad()
    def shown(self, context: StepContext) -> None:
        """Compare, once all others have changed what they change."""
        if not self._asked:
            return
        self._move(context.seen.device)
        rows = ChosenRows(torch.ones_like(context.alive))
        view = self._view(context, context.hidden, rows)
        clean, shown = (self._fit.cut(rows.pick(x)) for x in (context.obs, context.seen))
        playing = context.acting
        if not view.continuous:
            playing = playing & (context.mask.sum(dim=-1) > 1)
        counted = playing.flatten()
        changed = (clean != shown).any(dim=-1) & counted
        self._steps = self._steps + counted.sum()
        self._changed = self._changed + changed.sum()
        flipped = torch.zeros(changed.shape, device=changed.device)
        if bool(changed.any()):
            flipped = torch.where(changed, _difference(view, clean, shown, self.drawn), 0.0)
            self._flipped = self._flipped + flipped.sum()
        by_env = [flags.view(playing.shape).sum(dim=1) for flags in (counted, flipped)]
        self._episodes.add(context, torch.stack(by_env, dim=1))
        if self._followed:
            self._random = self._random or not torch.equal(view.output(clean), view.output(clean))
            self._vanished = self._vanished + (self._without_gradient(view, clean) & counted).sum()

    def reading(self) -> Reading | None:
        """Return what was counted since ``bind``; None where nothing can be asked."""
        steps = int(self._steps)
        if not self._asked or steps == 0:
            return None
        vanished = int(self._vanished) / steps if self._followed else None
        changed, flipped = int(self._changed) / steps, float(self._flipped) / steps
        return Reading(changed=changed, flipped=flipped, vanished=vanished, random=self._random)

    def flips(self) -> NDArray[np.float64] | None:
        """Return each episode's share of flips, (episodes,); None where nothing can be asked.

        Of an episode without a choice it is 0.
        """
        if not self._asked:
            return None
        steps, flipped = self._episodes.sums().T
        return flipped / np.maximum(steps, 1.0)

    def counters(self) -> dict[str, float]:
        """Return nothing: :meth:`reading` has it."""
        return {}

    def _without_gradient(self, view: VictimView, obs: Tensor) -> Tensor:
        """Return where the gradient is zero, bool (M,)."""
        loss = FunctionLoss(lambda mean: mean.sum(dim=-1)) if view.continuous else Margin()
        try:
            return (view.input_gradient(obs, loss) == 0).all(dim=-1)
        except ValueError:  # says that it has none
            self._followed = False
            return torch.zeros(len(obs), dtype=torch.bool, device=obs.device)


def _difference(view: VictimView, clean: Tensor, shown: Tensor, drawn: bool) -> Tensor:
    """Return how often the victim acts otherwise, in [0, 1], (M,)."""
    before, after = view.output(clean), view.output(shown)
    if view.continuous:
        return ((after - before).abs() > MOVED).any(dim=-1).to(torch.float32)
    if drawn:
        return policy_loss(before, after, "tv").to(torch.float32)
    return (before.argmax(dim=-1) != after.argmax(dim=-1)).to(torch.float32)
