"""What a wrapper knows of its episode, as one row of the collector's context."""

from __future__ import annotations

import secrets
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from robustmarl._checks import check_index
from robustmarl._seeding import episode_key
from robustmarl.joint import StepContext, TeamSpec, check_parallel, describe, spec_of, split_obs
from robustmarl.joint.masks import has_nan
from robustmarl.perturbers import Place, places
from robustmarl.typing import Actions, Env, Infos, Obs, Values, Wrapper

__all__ = ["Episode", "PerturbingWrapper", "begun", "sizes_of"]


class PerturbingWrapper(Wrapper):
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
        check_parallel(f"{type(self).__name__}.env", env)
        super().__init__(env)
        kinds = [kind]
        below: object = env
        while below is not None:
            if isinstance(below, PerturbingWrapper):
                kinds.insert(0, below.kind)
            # PettingZoo's own conversions, which SuperSuit uses, hold an "aec_env" instead. Asked
            # by vars, as wrappers hand on attributes that they do not have.
            below = vars(below).get("env") or vars(below).get("aec_env")
        self.kind, self.place = kind, places(kinds)[-1]


def sizes_of(env: Env) -> TeamSpec:
    """Return the spec of ``env``; of sizes only, where reward or horizon are not stated."""
    try:
        return spec_of(env)
    except ValueError:
        return spec_of(describe(env, team_reward="sum", horizon=1))


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

    def encode(self, actions: Actions) -> Tensor:
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
        obs: Obs,
        infos: Infos,
        *,
        living: Collection[str],
        hidden: Tensor | None = None,
    ) -> StepContext:
        """Return what the collector's context of this step would be.

        Args:
            env: tells the state, and whether anybody is left.
            obs: as the wrapped environment returned them.
            infos: likewise; with ``action_mask`` where observations have none, ``clean_obs``
                where they were perturbed, ``types`` where some are Byzantine, and ``alive`` False
                of the dead that stay.
            living: names of who is alive unless the infos know better.
            hidden: the victim's state, (1, N, H).
        """
        arrays = self._arrays(obs, infos, living)
        terminal = not env.agents
        alive, observed = arrays["alive"], arrays["alive"].copy()
        if terminal:  # the last observation is of those that lived until then
            observed |= self._lived & np.array([agent in obs for agent in self._spec.agents])
        self._lived = alive.copy()
        arrays |= {"state": self._state(env, arrays["obs"]), "observed": observed}
        types = next((info["types"] for info in infos.values() if "types" in info), None)
        if types is not None:
            arrays["types"] = np.asarray(types)
        one = torch.ones(1, dtype=torch.bool, device=self._device)
        return StepContext(
            **{name: torch.from_numpy(row[None]).to(self._device) for name, row in arrays.items()},
            last_act=self.last_act,
            hidden=hidden,
            step=torch.tensor([self.step], device=self._device),
            keys=torch.tensor([episode_key(self._seed, self._number)], device=self._device),
            live=one,
            terminal=torch.full_like(one, terminal),
        )

    def _arrays(self, obs: Obs, infos: Infos, living: Collection[str]) -> dict[str, Values]:
        """Return ``obs seen mask alive`` of all N agents, zeros where they have none."""
        spec = self._spec
        empty = spec.empty(1)
        clean, mask, alive = (empty[name][0].numpy() for name in ("obs", "mask", "alive"))
        seen = np.zeros_like(clean)
        mask[:, 0] = True  # no-op, all that the absent may do
        for i, agent in enumerate(spec.agents):
            info, size = infos.get(agent, {}), spec.obs_sizes[i]
            alive[i] = agent in living and info.get("alive", True)
            if agent not in obs:
                continue
            row, available = split_obs(obs[agent])
            seen[i, :size] = row
            truth = np.asarray(info.get("clean_obs", row))
            same = truth.shape == (size,)  # a wrapper between may stack frames
            clean[i, :size] = truth if same else row
            if alive[i]:
                available = info.get("action_mask") if available is None else available
                if available is not None and has_nan(available):
                    at = f"step {self.step}"
                    raise ValueError(f"action_mask of {agent!r} must be flags, got NaN at {at}.")
                mask[i, : spec.action_sizes[i]] = True if available is None else available
        return {"obs": clean, "seen": seen, "mask": mask, "alive": alive}

    def _state(self, env: Env, clean: Values) -> Values:
        if self._spec.state_layout == "concatenated":
            return np.concatenate([clean[i, :size] for i, size in enumerate(self._spec.obs_sizes)])
        return np.asarray(env.state(), dtype=np.float32)

    def _no_act(self) -> Tensor:
        act = self._spec.empty(1, device=self._device)["act"]
        return act if self._spec.continuous else act - 1
