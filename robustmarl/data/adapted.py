"""Policies from elsewhere play a team: modules, functions, Tianshou's, Stable-Baselines3's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeAlias, cast

import torch
from torch import Tensor

from robustmarl.data.controllers import (
    Controller,
    ScriptedController,
    found_controller,
)
from robustmarl.joint import StepContext, TeamSpec
from robustmarl.perturbers.foreign import PolicyController
from robustmarl.victims import VictimLike, as_victim

__all__ = ["AnyPolicy", "PolicyController", "Script", "as_controller"]

Script: TypeAlias = Callable[[StepContext], Tensor]
"""Maps what a team sees to its actions."""

AnyPolicy: TypeAlias = Controller | VictimLike | Script
"""Whatever can play a team."""


def as_controller(where: str, policy: AnyPolicy, spec: TeamSpec) -> Controller:
    """Return what plays the team ``spec``: the one place where policies from elsewhere come in.

    ===============================================  ============================================
    given                                            plays
    ===============================================  ============================================
    a controller, or what has one as ``policy``      itself
    a function whose first argument is ``context``   its actions: :class:`ScriptedController`
    or annotated as ``StepContext``
    a module or another function of observations     its best logit, or its mean
    a policy or algorithm of Tianshou                as in Tianshou's evaluation, by its mean if
                                                     continuous
    a ``MultiAgentPolicy``                           each member its agent
    a model of Stable-Baselines3                     ``predict(obs, deterministic=True)``
    ===============================================  ============================================

    Args:
        where: what errors call it.
        policy: any of these.
        spec: the team's.

    Raises:
        TypeError: if it is none of them.
        ValueError: if it does not fit the team.

    Example:
        >>> from robustmarl import envs, joint
        >>> def script(context):
        ...     return context.seen[..., 0].long()
        >>> controller = as_controller("policy", script, joint.spec_of(envs.ToyGame()))
        >>> type(controller).__name__
        'ScriptedController'
    """
    controller = found_controller(policy)
    if controller is not None:
        return controller
    if _is_script(policy):
        return ScriptedController(spec, cast(Script, policy))
    victim = as_victim(where, cast(VictimLike, policy), continuous=spec.continuous)
    return PolicyController(victim, spec, where)


def _is_script(policy: object) -> bool:
    """Return whether ``policy`` is a function of a whole step, by its first argument."""
    if not callable(policy) or isinstance(policy, type | torch.nn.Module):
        return False
    try:
        parameters = inspect.signature(policy).parameters.values()
    except (TypeError, ValueError):  # compiled, and tells nothing
        return False
    first = next(iter(parameters), None)
    if first is None:
        return False
    return first.name == "context" or first.annotation in (StepContext, "StepContext")
