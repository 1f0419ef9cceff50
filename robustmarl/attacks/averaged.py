"""Expectation over a victim's own chance: a view that asks several times."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from robustmarl.victims import OutputLoss, VictimView

__all__ = ["AveragedView"]


class AveragedView:
    """A victim that answers at random, asked several times for each answer [Athalye2018]_.

    Outputs are averaged, and gradients, each brought to norm 1 per row as their lengths are not
    known.

    Args:
        view: the victim, bound to M rows.
        samples: how often it is asked, >= 1.

    Example:
        >>> from robustmarl.victims import FunctionVictim
        >>> view = FunctionVictim(lambda obs: obs + torch.randn_like(obs)).at()  # answers at random
        >>> bool(AveragedView(view, samples=10_000).logits(torch.zeros(1, 2)).abs().max() < 0.1)
        True
    """

    def __init__(self, view: VictimView, samples: int) -> None:
        self.view, self.samples = view, samples
        self.continuous, self.mask, self.agents = view.continuous, view.mask, view.agents

    def logits(self, obs: Tensor) -> Tensor:
        """Return mean logits (M, A)."""
        return self._averaged(self.view.logits, obs)

    def mean(self, obs: Tensor) -> Tensor:
        """Return the mean of mean actions (M, A)."""
        return self._averaged(self.view.mean, obs)

    def output(self, obs: Tensor) -> Tensor:
        """Return ``mean(obs)`` if continuous, else ``logits(obs)``."""
        return self._averaged(self.view.output, obs)

    def input_gradient(self, obs: Tensor, loss: OutputLoss) -> Tensor:
        """Return the mean direction of d loss / d obs, (M, D)."""
        asked = [self.view.input_gradient(obs, loss) for _ in range(self.samples)]
        return torch.stack([normalize(one, dim=-1) for one in asked]).mean(dim=0)

    def advance(self, obs: Tensor) -> Tensor | None:
        """Return the hidden state of one answer."""
        return self.view.advance(obs)

    def _averaged(self, ask: Callable[[Tensor], Tensor], obs: Tensor) -> Tensor:
        return torch.stack([ask(obs) for _ in range(self.samples)]).mean(dim=0)
