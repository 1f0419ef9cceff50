"""A view made of a function from observations to outputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from robustmarl._checks import check
from robustmarl.joint import MASKED
from robustmarl.networks.calculus import Formula, InputGradient, SignSteps, Way
from robustmarl.victims._modes import EvaluationMode
from robustmarl.victims.protocol import OutputLoss, Rows, StepsAtOnce

__all__ = ["View"]


class View(StepsAtOnce):
    """A view made of a function from observations to outputs.

    Coordinates of observations that do not exist are zeros whatever an attack makes of them, and
    so is their gradient; action coordinates that do not exist are zeros in every output.

    Args:
        function: maps observations (M, D) to outputs (M, A).
        rows: what is bound.
        continuous: whether outputs are means.
        name: of whom errors speak.
        plain: the gradient worked out by hand, None to leave it to autograd.
        extra: what is added behind the first layer, for ``plain`` and ``steps``.
        steps: all steps of an attack at once, None where they are taken one by one.
        advance: maps observations to the next hidden state; None without memory.
        mode: puts networks into evaluation mode; None where none is known.
        dtype: what the network calculates in; None takes observations as they are.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        rows: Rows,
        *,
        continuous: bool,
        name: str,
        plain: InputGradient | None = None,
        extra: Tensor | None = None,
        steps: SignSteps | None = None,
        advance: Callable[[Tensor], Tensor | None] | None = None,
        mode: EvaluationMode | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.continuous, self.mask, self.agents = continuous, rows.mask, rows.agents
        self._blocked = None if rows.mask is None else ~rows.mask
        self._padding = None if rows.obs_mask is None else ~rows.obs_mask
        self._unmasked = 0.0 if continuous else MASKED
        self._function = function if mode is None else partial(mode.call, function)
        self._advance = advance
        if advance is not None and mode is not None:
            self._advance = partial(mode.call, advance)
        self._plain, self._extra, self._steps = plain, extra, steps
        self._name, self._dtype = name, dtype

    def logits(self, obs: Tensor) -> Tensor:
        check(not self.continuous, "victim", "discrete to have logits", "a continuous victim")
        return self.output(obs)

    def mean(self, obs: Tensor) -> Tensor:
        check(self.continuous, "victim", "continuous to have a mean", "a discrete victim")
        return self.output(obs)

    def output(self, obs: Tensor) -> Tensor:
        if self._dtype is None or obs.dtype == self._dtype:
            return self._masked(self._function(self._without_padding(obs)))
        return self._masked(
            self._function(self._without_padding(obs).to(self._dtype)).to(obs.dtype)
        )

    def input_gradient(self, obs: Tensor, loss: OutputLoss) -> Tensor:
        def cotangent(output: Tensor) -> Tensor:
            gradient = loss.gradient(self._masked(output))
            return gradient if self._blocked is None else gradient.masked_fill(self._blocked, 0.0)

        obs = self._without_padding(obs)
        if self._plain is not None:
            shown = obs if self._dtype is None else obs.to(self._dtype)
            return self._without_padding(
                self._plain.vjp(shown, cotangent, self._extra).to(obs.dtype)
            )
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):  # where autograd is out of reach
                return self._without_padding(self._by_autograd(obs.clone(), cotangent))
        if obs.is_inference():
            obs = obs.clone()
        return self._without_padding(self._by_autograd(obs, cotangent))

    def sign_steps(self, way: Way, formula: Formula) -> tuple[Tensor, bool] | None:
        if self._steps is None:
            return None
        return self._steps.take(
            way,
            formula,
            extra=self._extra,
            padding=self._padding,
            blocked=self._blocked,
            unmasked=self._unmasked,
            agents=self.agents,
        )

    def advance(self, obs: Tensor) -> Tensor | None:
        if self._advance is None:
            return None
        obs = self._without_padding(obs)
        return self._advance(obs if self._dtype is None else obs.to(self._dtype))

    def _by_autograd(self, obs: Tensor, cotangent: Callable[[Tensor], Tensor]) -> Tensor:
        variable = obs.detach().requires_grad_()
        try:
            with torch.enable_grad():  # callers may act under no_grad
                shown = variable if self._dtype is None else variable.to(self._dtype)
                output = self._function(shown)
        except RuntimeError as error:
            if "Inference tensors" not in str(error):
                raise
            raise ValueError(
                f"victim must be made outside torch.inference_mode, got {self._name} with weights "
                "or memory that autograd cannot use. Make it outside, or use torch.no_grad."
            ) from error
        if not output.requires_grad:
            raise ValueError(
                f"victim must answer with outputs that have a gradient, got {self._name} without "
                "one: it calculates under no_grad or inference_mode, outside torch, or detaches. "
                "Mend it, attack another policy in its place, ObsPerturber(attack, victim=other), "
                "or use an attack that needs none, such as attacks.UniformNoise."
            )
        wanted = cotangent(output.detach())
        # None where the output depends on weights only: whatever is shown, its change is zero.
        (gradient,) = torch.autograd.grad(output, variable, wanted, allow_unused=True)
        return torch.zeros_like(obs) if gradient is None else gradient

    def _masked(self, output: Tensor) -> Tensor:
        """Return outputs (M, A) as if nothing unavailable were answered."""
        blocked = self._blocked
        return output if blocked is None else output.masked_fill(blocked, self._unmasked)

    def _without_padding(self, obs: Tensor) -> Tensor:
        """Return ``obs``, or its gradient, with zeros where there is only padding."""
        return obs if self._padding is None else obs.masked_fill(self._padding, 0.0)
