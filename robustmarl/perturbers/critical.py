"""Which steps an attack is worth: those in which the victim says that its action matters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from robustmarl._checks import check, check_choice, check_number, keep
from robustmarl.joint import MASKED
from robustmarl.victims import VictimView

__all__ = ["CriticalSteps", "Measure"]

Measure = Literal["range", "certainty", "gap"]


@dataclass(frozen=True, kw_only=True)
class CriticalSteps:
    r"""Attack an agent only in steps that its own policy calls critical.

    With z the victim's logits or values of its available actions, before the attack, and
    :math:`p = \mathrm{softmax}(z / T)`, an agent's step is critical from ``threshold`` on of

    ============= =============================================== ==================================
    measure       is                                              in
    ============= =============================================== ==================================
    ``range``     :math:`\max_a p_a - \min_a p_a`                 [0, 1]: the strategically timed
                                                                  attack of [Lin2017]_
    ``certainty`` :math:`1 - H(p) / \ln |A|`, A what is available [0, 1]: 0 for an even policy
    ``gap``       :math:`\max_a z_a - \min_a z_a`                 units of z: of values, how much
                                                                  the worst action would cost
    ============= =============================================== ==================================

    Where only one action is available all of them are 0, and no step is critical. What is a good
    threshold depends on the team: ``attacked`` and ``spared`` among the perturber's counters tell
    what share of its agent-steps one leaves.

    Args:
        measure: by which.
        threshold: from which on, > 0, and at most 1 but for ``gap``.
        temperature: T > 0; [Lin2017]_ turns values into probabilities by it.

    Raises:
        ValueError: for an unknown measure, or numbers out of range.

    Example:
        >>> outputs, mask = torch.tensor([[0.0, 2.0], [1.0, 1.0]]), torch.ones(2, 2).bool()
        >>> CriticalSteps(measure="gap", threshold=1.0).critical(outputs, mask)
        tensor([ True, False])
    """

    measure: Measure = "range"
    threshold: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_choice("CriticalSteps.measure", self.measure, get_args(Measure))
        where, most = "CriticalSteps.threshold", torch.inf if self.measure == "gap" else 1.0
        threshold = check_number(where, self.threshold, 0.0, most, open_low=True)
        where = "CriticalSteps.temperature"
        temperature = check_number(where, self.temperature, 0.0, open_low=True)
        keep(self, threshold=threshold, temperature=temperature)

    def size(self, outputs: Tensor, mask: Tensor) -> Tensor:
        """Return the measure, (M,), of outputs (M, A) where ``mask``, bool (M, A), has actions."""
        if self.measure == "gap":
            best = outputs.masked_fill(~mask, -torch.inf).amax(dim=-1)
            return best - outputs.masked_fill(~mask, torch.inf).amin(dim=-1)
        logits = (outputs / self.temperature).masked_fill(~mask, MASKED)
        logp = torch.log_softmax(logits, dim=-1)
        p = logp.exp()
        if self.measure == "range":
            return p.amax(dim=-1) - p.masked_fill(~mask, torch.inf).amin(dim=-1)
        most = mask.sum(dim=-1).to(p.dtype).log()
        entropy = -(p * logp).sum(dim=-1)
        return torch.where(most > 0.0, 1.0 - entropy / most.clamp(min=1e-6), 0.0)

    def critical(self, outputs: Tensor, mask: Tensor) -> Tensor:
        """Return which rows of outputs (M, A) are critical, bool (M,); see :meth:`size`."""
        return self.size(outputs, mask) >= self.threshold

    @torch.no_grad()
    def of_view(self, view: VictimView, obs: Tensor) -> Tensor:
        """Return in which of a victim's rows ``obs``, (M, D), it is critical, bool (M,).

        Raises:
            ValueError: for a victim of continuous actions, which are not compared.
        """
        rule = "None for continuous actions, which have no gap and no probability"
        check(not view.continuous, "ObsPerturber.when", rule, self)
        outputs = view.output(obs)
        mask = torch.ones_like(outputs, dtype=torch.bool) if view.mask is None else view.mask
        return self.critical(outputs, mask)
