"""Attacks with a budget of steps: spent where the team's choice matters most."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from robustmarl._checks import check_int, check_number
from robustmarl.attacks import UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.joint import MASKED, StepContext, TeamSpec
from robustmarl.perturbers._rows import ChosenRows
from robustmarl.perturbers.base import Perturber, Place
from robustmarl.perturbers.drawn import AttackedAgents
from robustmarl.perturbers.obs import ObsPerturber
from robustmarl.victims import Victim

__all__ = ["SparingPerturber", "UrgencyMeter"]


class UrgencyMeter(ObsPerturber):
    r"""Says how much a step matters to the team; changes nothing.

    .. math:: \overline{\max_a z_a - \min_a z_a}

    the mean over agents, z the available actions' logits or values, after the strategically timed
    attack of [Lin2017]_, which takes probabilities; of continuous actions the largest coordinate.

    Args:
        agents: whose choice counts; None is all, and so are those that are drawn from.
    """

    kind = "urgency"

    def __init__(self, *, agents: AttackedAgents = None) -> None:
        super().__init__(UniformNoise(ball=LinfBall(epsilon=1.0)), agents=agents)  # never called

    def bind(self, spec: TeamSpec, policy: Victim | None, place: Place) -> None:
        """Take the acting policy, which is asked."""
        super().bind(spec, policy, place)
        self._asked, self._victim = policy is not None, policy or self._victim
        self.met: list[Tensor] = []

    def on_obs(self, context: StepContext) -> Tensor:
        """Return observations as they are, and keep how urgent the playing steps are."""
        playing = context.live & ~context.terminal
        self.met.append(self.urgency(context)[playing])
        return context.seen

    @torch.no_grad()
    def urgency(self, context: StepContext) -> Tensor:
        """Return how much each environment's step matters, (E,); 0 for who cannot be asked."""
        self._move(context.seen.device)
        shape = context.alive.shape
        if not self._asked:
            return context.seen.new_zeros(shape[0])
        rows = ChosenRows(torch.ones_like(context.alive))
        view = self._view(context, context.hidden, rows)
        output = view.output(self._fit.cut(rows.pick(context.obs)))
        if view.continuous:
            each = output.abs().amax(dim=-1)
        else:
            lowest = torch.where(output > MASKED / 2, output, torch.inf).amin(dim=-1)
            each = output.amax(dim=-1) - lowest
        counted = (context.alive & self._fit.attacked).to(each.dtype)
        return (each.view(shape) * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1.0)

    def counters(self) -> dict[str, float]:
        """Return nothing: ``met`` has it."""
        return {}


class SparingPerturber(Perturber):
    """Lets an attack act in the most urgent steps only, so many per episode at most.

    What is still to come is not known, so that steps are taken as they come once they are as
    urgent as ``threshold``: a quantile of what :class:`UrgencyMeter` met in other episodes.

    Args:
        attack: what acts; it is called in every step, and undone in the others.
        steps: of an episode in which it acts, >= 0.
        threshold: the least urgency of those, >= 0, in the units of the team's logits.

    Raises:
        ValueError: for numbers out of range.
        TypeError: for an attack of another kind.
    """

    kind = "sparing"

    def __init__(self, attack: ObsPerturber, *, steps: int, threshold: float = 0.0) -> None:
        name = type(self).__name__
        if not isinstance(attack, ObsPerturber):
            raise TypeError(f"{name}.attack must be an ObsPerturber, got {attack!r}.")
        self.attack, self.steps = attack, check_int(f"{name}.steps", steps, 0)
        self.threshold = check_number(f"{name}.threshold", threshold, 0.0)
        self._meter = UrgencyMeter(agents=attack.agents)

    def bind(self, spec: TeamSpec, policy: Victim | None, place: Place) -> None:
        """Bind the attack in its own place."""
        super().bind(spec, policy, place)
        self.attack.bind(spec, policy, place)
        self._meter.bind(spec, policy, place)
        self._spent: Tensor | None = None
        self._acted = torch.zeros((), dtype=torch.int64)

    def on_obs(self, context: StepContext) -> Tensor:
        """Return what the attack makes of urgent steps, (E, N, D), while it has steps left."""
        if self._spent is None or self._spent.shape != context.step.shape:
            self._spent = torch.zeros_like(context.step)
        spent = torch.where(context.step == 0, 0, self._spent)
        urgent = self._meter.urgency(context) >= self.threshold
        acts = urgent & (spent < self.steps) & context.live & ~context.terminal
        self._spent = spent + acts
        self._acted = self._acted.to(acts.device) + acts.sum()
        found = self.attack.on_obs(context)
        return torch.where(acts[:, None, None], found, context.seen)

    def shown(self, context: StepContext) -> None:
        """Let the attack take note of what was shown."""
        self.attack.shown(context)

    def record(self) -> Mapping[str, Tensor]:
        """Return what the attack recorded."""
        return self.attack.record()

    def counters(self) -> dict[str, float]:
        """Return ``steps`` in which it acted, all environments together."""
        return {"steps": float(self._acted)}
