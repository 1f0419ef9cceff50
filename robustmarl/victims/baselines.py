"""What models of Stable-Baselines3 do with an observation, differentiable."""

from __future__ import annotations

import math
from typing import Any, cast

import gymnasium
import torch
from torch import Tensor, nn

from robustmarl.joint.boxes import to_unit

__all__ = ["BaselinesReading", "is_baselines"]


def is_baselines(model: object) -> bool:
    """Return whether ``model`` has ``predict`` and, in ``policy``, networks."""
    inner = getattr(model, "policy", None)
    return callable(getattr(model, "predict", None)) and isinstance(inner, nn.Module)


class BaselinesReading:
    """The part of a model's ``predict`` before the choice; see :class:`.readings.Reading`.

    The package is not imported: a model is known by what it has. Logits are Q-values (``q_net``)
    or those of its distribution (``get_distribution``); means are its deterministic actions.

    Args:
        model: with ``predict``, ``policy`` and ``action_space``.

    Raises:
        TypeError: naming its class, for what remembers or chooses several actions.
    """

    memory = None

    def __init__(self, model: Any) -> None:
        self.policy = self.network = model.policy
        name = type(model).__name__
        space = getattr(model, "action_space", None) or self.policy.action_space
        self.continuous = isinstance(space, gymnasium.spaces.Box)
        if not self.continuous and not isinstance(space, gymnasium.spaces.Discrete):
            raise TypeError(
                "PolicyVictim.policy must be a model with one action or one action vector, got "
                f"{name} with {space}. Write victims.FunctionVictim of its logits."
            )
        if any(isinstance(part, nn.RNNBase) for part in self.policy.modules()):
            raise TypeError(
                f"PolicyVictim.policy must be a model without memory, got {name} with "
                f"{type(self.policy).__name__}. Write a Victim of your own: `hidden_size`, and "
                "views whose `advance` returns the memory."
            )
        asked = ["_predict"] if self.continuous else ["q_net", "get_distribution"]
        if not any(hasattr(self.policy, attribute) for attribute in asked):
            raise TypeError(
                f"PolicyVictim.policy must have policy.{' or policy.'.join(asked)}, got {name}, "
                "whose scores cannot be read. Write victims.FunctionVictim of its logits."
            )
        shape = getattr(getattr(model, "observation_space", None), "shape", None)
        self.obs_size = shape[0] if shape is not None and len(shape) == 1 else None
        self._box: tuple[Tensor, Tensor] | None = None
        if isinstance(space, gymnasium.spaces.Box):
            self.num_actions = math.prod(space.shape)
            # a policy that squashes acts in [-1, 1] already, the others in their action space
            if not getattr(self.policy, "squash_output", False):
                low, high = (torch.as_tensor(end).flatten() for end in (space.low, space.high))
                self._box = low, high
        else:
            self.num_actions = int(cast(gymnasium.spaces.Discrete, space).n)

    def __call__(self, obs: Tensor, hidden: Tensor | None) -> tuple[Tensor, None]:
        """Return logits or means (M, A); it remembers nothing."""
        if not self.continuous:
            if hasattr(self.policy, "q_net"):
                return self.policy.q_net(obs), None
            logits: Tensor = self.policy.get_distribution(obs).distribution.logits
            return logits, None
        act: Tensor = self.policy._predict(obs, deterministic=True)
        act = act.view(len(obs), self.num_actions)
        if self._box is None:
            return act, None
        return to_unit(act, *(end.to(act) for end in self._box)), None
