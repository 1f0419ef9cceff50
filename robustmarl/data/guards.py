"""What must hold in every step: finite outputs, an action to take, an end within the horizon."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from robustmarl._checks import all_finite
from robustmarl.joint import StepContext, TeamSpec

__all__ = ["DeviceGuards", "Guards", "HostGuards"]


_Refuse: TypeAlias = Callable[[TeamSpec, Tensor, int, int, int], NoReturn]
"""Raises, given the team, its agent's output (A,), environment, agent and step."""


class Guards(Protocol):
    """Checks of one step, in this order; ``ValueError`` names environment, agent and step."""

    def output(self, output: Tensor, context: StepContext) -> None:
        """Refuse outputs (E, N, A) that are not finite, in environments that play."""

    def mask(self, context: StepContext) -> None:
        """Refuse masks that leave no action."""

    def changed(self, output: Tensor, context: StepContext) -> None:
        """Refuse what perturbers made of outputs (E, N, A) if it is not finite."""

    def horizon(self, late: Tensor) -> None:
        """Refuse episodes that go on, bool (E,), after as many steps as the horizon has."""

    def turn(self) -> None:
        """Go on to the next step."""

    def open(self) -> None:
        """Forget what was noted: a collection begins."""

    def settle(self) -> None:
        """Raise what is known to be wrong by now; to be called when episodes are read."""


class HostGuards:
    """Checks at once.

    Args:
        spec: of the team.
        on_cpu: whether the arrays are where numpy can read them.
    """

    def __init__(self, spec: TeamSpec, on_cpu: bool) -> None:
        self._spec, self._on_cpu = spec, on_cpu

    def open(self) -> None:
        """Do nothing: nothing is noted."""

    def output(self, output: Tensor, context: StepContext) -> None:
        """See :class:`Guards`."""
        self._refuse(output, context, _refuse_output)

    def changed(self, output: Tensor, context: StepContext) -> None:
        """See :class:`Guards`."""
        self._refuse(output, context, _refuse_changed)

    def _refuse(self, output: Tensor, context: StepContext, refuse: _Refuse) -> None:
        in_numpy = self._on_cpu and not output.requires_grad
        if all_finite(output.numpy() if in_numpy else output):
            return
        bad = _not_finite(output, context)
        if bool(bad.any()):
            env, agent = bad.nonzero()[0].tolist()
            refuse(self._spec, output[env, agent], env, agent, int(context.step[env]))

    def mask(self, context: StepContext) -> None:
        """See :class:`Guards`."""
        if self._on_cpu and context.mask.numpy().any(axis=-1).all():
            return
        bad = _without_action(context)
        if bool(bad.any()):
            env, agent = bad.nonzero()[0].tolist()
            _refuse_mask(self._spec, env, agent, int(context.step[env]))

    def horizon(self, late: Tensor) -> None:
        """See :class:`Guards`."""
        if np.count_nonzero(late.numpy()):
            _refuse_length(self._spec, int(late.numpy().argmax()))

    def turn(self) -> None:
        """Do nothing: every step is checked when it is played."""

    def settle(self) -> None:
        """Do nothing: everything was checked."""


class DeviceGuards:
    """Notes what is wrong on the device, and raises when :meth:`settle` reads the notes.

    Args:
        spec: of the team.
        size: E.
        ticks: between two readings.
        device: where the arrays are.
    """

    def __init__(self, spec: TeamSpec, size: int, ticks: int, device: torch.device) -> None:
        self._spec, self._tick = spec, 0
        agents = (ticks, size, spec.num_agents)
        self._bad_output = torch.zeros(agents, dtype=torch.bool, device=device)
        self._bad_changed = torch.zeros(agents, dtype=torch.bool, device=device)
        self._bad_mask = torch.zeros(agents, dtype=torch.bool, device=device)
        self._late = torch.zeros(agents[:2], dtype=torch.bool, device=device)
        self._steps = torch.zeros(agents[:2], dtype=torch.int64, device=device)
        self._output = torch.zeros(*agents, spec.num_actions, device=device)
        self._changed = torch.zeros_like(self._output)

    def open(self) -> None:
        """See :class:`Guards`."""
        self._tick = 0

    def output(self, output: Tensor, context: StepContext) -> None:
        """See :class:`Guards`."""
        self._bad_output[self._tick] = _not_finite(output, context)
        self._output[self._tick] = output
        self._steps[self._tick] = context.step
        self._bad_changed[self._tick] = False

    def changed(self, output: Tensor, context: StepContext) -> None:
        """See :class:`Guards`."""
        self._bad_changed[self._tick] = _not_finite(output, context)
        self._changed[self._tick] = output

    def mask(self, context: StepContext) -> None:
        """See :class:`Guards`."""
        self._bad_mask[self._tick] = _without_action(context)

    def horizon(self, late: Tensor) -> None:
        """See :class:`Guards`."""
        self._late[self._tick] = late

    def turn(self) -> None:
        """See :class:`Guards`."""
        self._tick += 1

    def settle(self) -> None:
        """Wait for the device, and raise for the first step in which something was wrong."""
        ticks, self._tick = self._tick, 0
        noted = (self._bad_output, self._bad_mask, self._bad_changed, self._late)  # as in a step
        wrong = torch.stack([flags[:ticks].flatten(1).any(1) for flags in noted], dim=1)
        kinds = wrong.cpu().numpy() if ticks else np.zeros((0, len(noted)), np.bool_)
        if not kinds.any():
            return
        tick = int(kinds.any(1).argmax())
        flags = noted[int(kinds[tick].argmax())]
        env, *rest = flags[tick].cpu().nonzero()[0].tolist()
        if flags is self._late:
            _refuse_length(self._spec, env)
        (agent,), step = rest, int(self._steps[tick, env])
        if flags is self._bad_output:
            _refuse_output(self._spec, self._output[tick, env, agent], env, agent, step)
        if flags is self._bad_changed:
            _refuse_changed(self._spec, self._changed[tick, env, agent], env, agent, step)
        _refuse_mask(self._spec, env, agent, step)


def _not_finite(output: Tensor, context: StepContext) -> Tensor:
    """Return whose outputs are not finite in environments that play, bool (E, N)."""
    return (~torch.isfinite(output)).flatten(2).any(-1) & context.live[:, None]


def _without_action(context: StepContext) -> Tensor:
    """Return who has no available action in environments that play, bool (E, N)."""
    return ~context.mask.any(dim=-1) & context.live[:, None]


def _refuse_output(spec: TeamSpec, output: Tensor, env: int, agent: int, step: int) -> NoReturn:
    raise ValueError(
        f"logits must be finite, got {output.tolist()} in environment {env}, agent "
        f"{spec.agents[agent]!r}, step {step}. Has training diverged?"
    )


def _refuse_changed(spec: TeamSpec, output: Tensor, env: int, agent: int, step: int) -> NoReturn:
    raise ValueError(
        f"logits that perturbers return must be finite, got {output.tolist()} in environment "
        f"{env}, agent {spec.agents[agent]!r}, step {step}. Check their on_logits."
    )


def _refuse_mask(spec: TeamSpec, env: int, agent: int, step: int) -> NoReturn:
    raise ValueError(
        f"action mask must leave an action, got none in environment {env}, agent "
        f"{spec.agents[agent]!r}, step {step}."
    )


def _refuse_length(spec: TeamSpec, env: int) -> NoReturn:
    raise ValueError(
        f"environment {env} must end within its stated horizon of {spec.horizon} steps. "
        "State the right one: envs.describe(env, horizon=...)."
    )
