"""Attacks with a budget of steps: spent where the team would lose most by its own reckoning."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from robustmarl._checks import check_int, check_kind, check_number
from robustmarl.attacks import UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.joint import StepContext, TeamSpec
from robustmarl.perturbers._rows import ChosenRows
from robustmarl.perturbers.base import Place
from robustmarl.perturbers.obs import ObsPerturber
from robustmarl.victims import Victim

__all__ = ["SparingPerturber"]


class SparingPerturber(ObsPerturber):
    r"""Lets an attack act in the steps that matter most only, so many per episode at most.

    How much a step matters is how much worse, by the team's own logits or values of the true
    observation, the greedy action is that the attack brings about, as a mean over the agents that
    it attacks in this step:

    .. math:: \overline{z_y(o) - z_{\hat y}(o)}, \qquad y = \arg\max_a z_a(o),
              \quad \hat y = \arg\max_a z_a(\hat o)

    It is 0 where no action changes. Of continuous actions it is the largest coordinate's move.
    The strategically timed attack [Lin2017]_ goes by the range of the probabilities, which is
    widest where the team is surest and hardest to move. What is still to come is not known: steps
    are taken as they come if they matter at least ``threshold``, a quantile of ``met`` in other
    episodes.

    Args:
        inner: what acts; it is called in every step, and undone in those that are not taken.
        steps: of an episode in which it acts, >= 0; with 0 it only keeps ``met``.
        threshold: how much a step has to matter, >= 0, in units of the team's logits.

    Attributes:
        met: how much the steps played mattered, (steps,) per tick, since ``bind``.

    Raises:
        ValueError: for numbers out of range.
        TypeError: for an attack of another kind.

    Example:
        >>> from robustmarl import algorithms, attacks, budgets, envs, evaluation, perturbers
        >>> team = algorithms.QMIX.for_env(envs.ToyGame(), seed=0)
        >>> fgsm = attacks.PGD.fgsm(budgets.LinfBall(epsilon=0.5))
        >>> sparing = SparingPerturber(perturbers.ObsPerturber(fgsm), steps=3)
        >>> evaluation.rollout(team, envs.ToyGame, episodes=2, perturb=sparing).counters
        {'0/steps': 6.0}
    """

    kind = "sparing"
    met: list[Tensor]

    def __init__(self, inner: ObsPerturber, *, steps: int, threshold: float = 0.0) -> None:
        name = type(self).__name__
        check_kind(f"{name}.inner", inner, ObsPerturber, "an ObsPerturber")
        super().__init__(UniformNoise(ball=LinfBall(epsilon=1.0)), agents=inner.agents)
        self.inner, self.steps = inner, check_int(f"{name}.steps", steps, 0)
        self.threshold = check_number(f"{name}.threshold", threshold, 0.0)

    def bind(self, spec: TeamSpec, policy: Victim | None, place: Place) -> None:
        """Bind the attack in this place, and take the acting policy, which is asked."""
        super().bind(spec, policy, place)
        self.inner.bind(spec, policy, place)
        self._ask_acting(policy, spec)
        self._spent: Tensor | None = None
        self._acted = torch.zeros((), dtype=torch.int64)
        self.met = []

    @torch.no_grad()
    def on_obs(self, context: StepContext) -> Tensor:
        """Return what the attack makes of the steps taken, (E, N, D)."""
        self._move(context.seen.device)
        found = self.inner.on_obs(context)
        self.rows = self.inner.rows
        matters, playing = self._matters(context, found), context.live & ~context.terminal
        self.met.append(matters[playing])
        if self._spent is None or self._spent.shape != context.step.shape:
            self._spent = torch.zeros_like(context.step)
        spent = torch.where(context.step == 0, 0, self._spent)
        acts = playing & (spent < self.steps) & (matters >= self.threshold)
        if self._asked:
            acts = acts & (matters > 0.0)
        self._spent = spent + acts
        self._acted = self._acted.to(acts.device) + acts.sum()
        return torch.where(acts[:, None, None], found, context.seen)

    def shown(self, context: StepContext) -> None:
        """Let the attack take note of what was shown."""
        self.inner.shown(context)

    def record(self) -> Mapping[str, Tensor]:
        """Return what the attack recorded."""
        return self.inner.record()

    def counters(self) -> dict[str, float]:
        """Return ``steps`` in which it acted, all environments together."""
        return {"steps": float(self._acted)}

    def warn_if_idle(
        self, since: Mapping[str, float] | None = None, during: str = "", *, stacklevel: int = 2
    ) -> bool:
        """Warn if the attack changed no observation in all steps that it was tried in."""
        return self.inner.warn_if_idle(since, during, stacklevel=stacklevel + 1)

    def _matters(self, context: StepContext, found: Tensor) -> Tensor:
        """Return how much each environment's step matters, (E,); 0 where nobody can be asked."""
        shape = context.alive.shape
        if not self._asked:
            return context.seen.new_zeros(shape[0])
        rows = ChosenRows(torch.ones_like(context.alive))
        view = self._view(context, context.hidden, rows)
        before, after = (view.output(self._fit.cut(rows.pick(x))) for x in (context.seen, found))
        if view.continuous:
            lost = (after - before).abs().amax(dim=-1)
        else:
            taken = before.gather(-1, after.argmax(dim=-1, keepdim=True)).squeeze(-1)
            lost = before.amax(dim=-1) - taken
        counted = (context.alive & self.rows.attacked).to(lost.dtype)
        return (lost.view(shape) * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1.0)
