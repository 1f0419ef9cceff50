"""What a wrapper knows of its episode, as one row of the collector's context."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from pettingzoo.utils import BaseParallelWrapper
from torch import Tensor

from robustmarl._checks import check_index
from robustmarl._seeding import episode_key
from robustmarl.joint import StepContext, TeamSpec, split_obs
from robustmarl.perturbers import Place, places
from robustmarl.typing import Env

__all__ = ["Episode", "PerturbingWrapper", "begun"]


class PerturbingWrapper(BaseParallelWrapper[str, Any, Any]):
    """A wrapper that perturbs, at its place among those in one stack.

    Args:
        env: a parallel environment.
        kind: of its perturber.

    Attributes:
        place: its depth and name, as a collector's stack of the same perturbers has them.
    """

    kind: str
    place: Place

    def __init__(self, env: Env, kind: str) -> None:
        super().__init__(env)
        kinds = [kind]
        below: Any = env
        while below is not None:
            if isinstance(below, PerturbingWrapper):
                kinds.insert(0, below.kind)
            below = vars(below).get("env") or vars(below).get("aec_env")
        self.kind, self.place = kind, places(kinds)[-1]


def begun(where: str, context: StepContext | None) -> StepContext:
    """Return ``context``, which a wrapper has from its first reset on.

    Raises:
        RuntimeError: before it.
    """
    if context is None:
        raise RuntimeError(f"{where} must come after a reset, got none yet. Call reset() first.")
    return context


class Episode:
    """Counts episodes and steps, remembers actions, and makes contexts, E = 1.

    An episode reset with the seed of the collector's has the same key, hence the same draws.

    Args:
        spec: of the environment; sizes only.
        device: of the tensors.

    Attributes:
        step: steps since the reset.
        last_act: last actions, (1, N) or (1, N, A); -1 or zeros before the first.
    """

    def __init__(self, spec: TeamSpec, device: torch.device) -> None:
        self._spec, self._device = spec, device
        self._seed, self._number, self.step = secrets.randbits(63), -1, 0
        self._lived = np.zeros(spec.num_agents, dtype=np.bool_)
        self.last_act = self._no_act()

    def begin(self, seed: int | None) -> None:
        """Start the next episode, or the first one of ``seed``."""
        if seed is not None:
            self._seed, self._number = seed, -1
        self._number, self.step = self._number + 1, 0
        self.last_act = self._no_act()

    def advance(self, act: Tensor) -> None:
        """Note that a joint action, as :meth:`encode` returns them, was played."""
        self.step, self.last_act = self.step + 1, act

    def encode(self, actions: Mapping[str, Any]) -> Tensor:
        """Return actions as victims have them, (1, N) or in [-1, 1], (1, N, A); 0 if missing."""
        spec = self._spec
        joint = spec.empty(1)["act"].numpy()
        for agent, action in actions.items():
            i = spec.agents.index(agent)
            if spec.continuous:
                low, high = np.array(spec.action_low[i]), np.array(spec.action_high[i])
                span = np.where(high > low, high - low, 1.0)
                joint[0, i, : spec.action_sizes[i]] = 2.0 * (np.asarray(action) - low) / span - 1.0
            else:
                joint[0, i] = check_index(f"step.actions[{agent!r}]", action)
        return torch.from_numpy(joint).to(self._device)

    def context(
        self,
        env: Env,
        obs: Mapping[str, Any],
        infos: Mapping[str, Mapping[str, Any]],
        *,
        living: Collection[str],
        hidden: Tensor | None = None,
    ) -> StepContext:
        """Return what the collector's context of this step would be.

        Args:
            env: tells the state, and whether anybody is left.
            obs: as the wrapped environment returned them.
            infos: likewise; with ``action_mask`` where observations have none, ``clean_obs``
                where they were perturbed, and ``alive`` False of the dead that stay.
            living: names of who is alive unless the infos know better.
            hidden: the victim's state, (1, N, H).
        """
        spec = self._spec
        arrays = {key: array[0].numpy() for key, array in spec.empty(1).items()}
        clean, mask, alive = arrays["obs"], arrays["mask"], arrays["alive"]
        seen = np.zeros_like(clean)
        mask[:, 0] = True
        for i, agent in enumerate(spec.agents):
            info = infos.get(agent, {})
            alive[i] = agent in living and info.get("alive", True)
            if agent not in obs:
                continue
            row, available = split_obs(obs[agent])
            seen[i, : spec.obs_sizes[i]] = row
            truth = np.asarray(info.get("clean_obs", row))
            same = truth.shape == (spec.obs_sizes[i],)  # a wrapper between may stack frames
            clean[i, : spec.obs_sizes[i]] = truth if same else row
            if alive[i]:
                available = info.get("action_mask") if available is None else available
                mask[i, : spec.action_sizes[i]] = True if available is None else available
        if spec.state_layout == "concatenated":
            state = np.concatenate([clean[i, :size] for i, size in enumerate(spec.obs_sizes)])
        else:
            state = np.asarray(env.state(), dtype=np.float32)
        terminal = not env.agents
        observed = alive.copy()
        if terminal:
            shown = np.array([agent in obs for agent in spec.agents])
            observed |= self._lived & shown
        self._lived = alive.copy()
        one = torch.ones(1, dtype=torch.bool, device=self._device)
        arrays |= {"seen": seen, "state": state, "observed": observed}
        tensors = {
            key: torch.from_numpy(array[None]).to(self._device) for key, array in arrays.items()
        }
        return StepContext(
            obs=tensors["obs"],
            seen=tensors["seen"],
            mask=tensors["mask"],
            state=tensors["state"],
            alive=tensors["alive"],
            observed=tensors["observed"],
            last_act=self.last_act,
            hidden=hidden,
            step=torch.tensor([self.step], device=self._device),
            keys=torch.tensor([episode_key(self._seed, self._number)], device=self._device),
            live=one,
            terminal=torch.full_like(one, terminal),
        )

    def _no_act(self) -> Tensor:
        act = self._spec.empty(1, device=self._device)["act"]
        return act if self._spec.continuous else act - 1
