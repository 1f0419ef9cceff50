"""What a wrapper knows of its episode, as one row of the collector's context."""

from __future__ import annotations

import secrets
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from robustmarl._checks import check, check_index
from robustmarl._seeding import episode_key
from robustmarl.joint import StepContext, TeamSpec, check_parallel, describe, spec_of, split_obs
from robustmarl.joint.boxes import to_unit
from robustmarl.joint.reading import Roster, Where, infos_of, kind_of, mask_of, row_of, state_of
from robustmarl.perturbers import Perturber, Place, places
from robustmarl.typing import (
    Actions,
    Env,
    Infos,
    Obs,
    Options,
    ResetResult,
    StepResult,
    Values,
    Wrapper,
)

__all__ = ["Episode", "PerturbingWrapper", "begun", "sizes_of"]


class PerturbingWrapper(Wrapper):
    """A wrapper that perturbs, at its place among those in one stack.

    Args:
        env: a parallel environment.
        perturber: what draws, shows and counts.

    Attributes:
        perturber: the same.
        place: its depth and name, as a collector's stack of the same perturbers has them.
        executed: what the environment was given in the last step, as far down as only wrappers of
            this package lie between.
    """

    perturber: Perturber
    place: Place
    executed: Actions
    _episode: Episode

    def __init__(self, env: Env, perturber: Perturber) -> None:
        check_parallel(f"{type(self).__name__}.env", env)
        super().__init__(env)
        self._roster = Roster()
        self.perturber = perturber
        self.executed = {}
        self._told_from_above: Actions | None = None
        kinds = [perturber.kind]
        below: object = env
        while below is not None:
            if isinstance(below, PerturbingWrapper):
                kinds.insert(0, below.perturber.kind)
            # PettingZoo's own conversions, which SuperSuit uses, hold an "aec_env" instead. Asked
            # by vars, as wrappers hand on attributes that they do not have.
            below = vars(below).get("env") or vars(below).get("aec_env")
        self.place = places(kinds)[-1]

    def counters(self) -> dict[str, float]:
        """Return figures since construction; see the perturber's."""
        return self.perturber.counters()

    def _reset_env(self, seed: int | None, options: Options | None) -> ResetResult:
        """Begin the next episode, here and beneath; infos are given, whatever it says."""
        obs, infos = self.env.reset(seed=seed, options=options)
        self._episode.begin(seed)
        self._roster.begin(self.env.agents, self._where)
        self._told_from_above = None
        return obs, infos_of(infos)

    def _step_env(self, actions: Actions, replaced: Actions) -> StepResult:
        """Step what is wrapped, with what this wrapper has some agents do in place of ``actions``.

        The one place that says what agents are told that they did, which recurrent victims are
        shown in the next step: what they chose, unless a perturber tells what is executed. All
        wrappers of this package that touch one another agree on it. Where another lies between,
        whose actions may be of another space, those beneath it go by what they are given.
        """
        told = actions if self._told_from_above is None else self._told_from_above
        self._told_from_above = None
        self._check_actions(actions)
        if self.perturber.act_told == "executed":
            told = {**told, **replaced}
        act = self._episode.encode(told)
        below = self.env if isinstance(self.env, PerturbingWrapper) else None
        if below is not None:
            below._told_from_above = told
        given = {**actions, **replaced}
        obs, rewards, terminations, truncations, infos = self.env.step(given)
        self.executed = given if below is None else below.executed
        self._episode.advance(act)
        self._roster.step(self.env.agents, terminations, truncations, self._where)
        return obs, rewards, terminations, truncations, infos_of(infos)

    def _check_actions(self, actions: Actions) -> None:
        """Raise ``ValueError`` unless who plays, and only while somebody does, is given one."""
        playing, name = self._roster.left, f"{type(self).__name__}.step.actions"
        if not playing and actions:
            remedy = "Nobody plays before reset, nor after an episode's end: call reset."
            check(False, name, "empty", sorted(actions), remedy)
        if not playing <= actions.keys():
            rule = f"one per living agent, {sorted(playing)}"
            check(False, name, rule, sorted(actions))

    def _where(self) -> str:
        return f"{kind_of(self.env)}, step {self._episode.step}"


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
        ends = zip(spec.action_low, spec.action_high, strict=True)
        self._boxes = [torch.tensor(pair, dtype=torch.float64) for pair in ends]  # (2, A) each
        self._seed: int | None = None
        self._number, self.step = -1, 0
        self._lived = np.zeros(spec.num_agents, dtype=np.bool_)
        self.last_act = self._no_act()

    def begin(self, seed: int | None) -> None:
        """Start the next episode, or the first one of ``seed``.

        Where none was given it is drawn here, so that copies made before differ in what they draw.
        """
        if seed is not None:
            self._seed, self._number = seed, -1
        elif self._seed is None:
            self._seed = secrets.randbits(63)
        self._number, self.step = self._number + 1, 0
        self.last_act = self._no_act()

    def advance(self, act: Tensor) -> None:
        """Note that a joint action, (1, N) or (1, N, A) as of :meth:`encode`, was played."""
        self.step, self.last_act = self.step + 1, act

    def encode(self, actions: Actions) -> Tensor:
        """Return actions as victims have them, (1, N) or in [-1, 1], (1, N, A); 0 if missing."""
        spec = self._spec
        kind = np.float32 if spec.continuous else np.int64
        joint = np.zeros((1, *spec.action_shape()), kind)
        for agent, action in actions.items():
            i = spec.agents.index(agent)
            if spec.continuous:
                own = torch.from_numpy(np.array(action, np.float64))
                joint[0, i, : spec.action_sizes[i]] = to_unit(own, *self._boxes[i]).numpy()
            else:
                where = f"step.actions[{agent!r}]"
                index, size = check_index(where, action), spec.action_sizes[i]
                check(0 <= index < size, where, f"an index below {size}", action)
                joint[0, i] = index
        return torch.from_numpy(joint).to(self._device)

    def context(
        self,
        env: Env,
        obs: Obs,
        infos: Infos,
        *,
        living: Collection[str],
        over: bool,
        hidden: Tensor | None = None,
    ) -> StepContext:
        """Return what the collector's context of this step would be.

        Args:
            env: tells the state.
            obs: as the wrapped environment returned them.
            infos: likewise; with ``action_mask`` where observations have none, ``clean_obs``
                where they were perturbed, ``types`` where some are Byzantine, and ``alive`` False
                of the dead that stay.
            living: names of who is alive unless the infos know better.
            over: whether nobody is left.
            hidden: the victim's state, (1, N, H).
        """

        def where() -> str:
            return f"{kind_of(env)}, step {self.step}"

        arrays = self._arrays(obs, infos, living, where)
        alive, observed = arrays["alive"], arrays["alive"].copy()
        if over:  # the last observation is of those that lived until then
            observed |= self._lived & np.array([agent in obs for agent in self._spec.agents])
        self._lived = alive.copy()
        arrays |= {"state": self._state(env, arrays["obs"], where), "observed": observed}
        types = next((info["types"] for info in infos.values() if "types" in info), None)
        if types is not None:
            arrays["types"] = np.asarray(types)
        one = torch.ones(1, dtype=torch.bool, device=self._device)
        return StepContext(
            **{name: torch.from_numpy(row[None]).to(self._device) for name, row in arrays.items()},
            last_act=self.last_act,
            hidden=hidden,
            step=torch.tensor([self.step], device=self._device),
            keys=torch.tensor([episode_key(self._seed or 0, self._number)], device=self._device),
            live=one,
            terminal=torch.full_like(one, over),
        )

    def _arrays(
        self, obs: Obs, infos: Infos, living: Collection[str], where: Where
    ) -> dict[str, Values]:
        """Return ``obs seen mask alive`` of all N agents, zeros where they have none."""
        spec = self._spec
        number = spec.num_agents
        clean = np.zeros((number, spec.obs_size), np.float32)
        seen, alive = np.zeros_like(clean), np.zeros(number, np.bool_)
        mask = np.zeros((number, spec.num_actions), np.bool_)
        mask[:, 0] = True  # no-op, all that the absent may do
        for i, agent in enumerate(spec.agents):
            info, size, actions = infos.get(agent, {}), spec.obs_sizes[i], spec.action_sizes[i]
            alive[i] = agent in living and info.get("alive", True)
            if agent not in obs:
                continue
            raw, available = split_obs(obs[agent])
            row = seen[i, :size] = row_of(agent, raw, (size,), where)
            truth = np.asarray(info.get("clean_obs", row))
            same = truth.shape == (size,)  # a wrapper between may stack frames
            clean[i, :size] = truth if same else row
            if alive[i]:
                available = info.get("action_mask") if available is None else available
                mask[i, :actions] = True
                if available is not None:
                    mask[i, :actions] = mask_of(agent, available, actions, where)
        return {"obs": clean, "seen": seen, "mask": mask, "alive": alive}

    def _state(self, env: Env, clean: Values, where: Where) -> Values:
        if self._spec.state_layout == "concatenated":
            return np.concatenate([clean[i, :size] for i, size in enumerate(self._spec.obs_sizes)])
        return state_of(env.state(), self._spec.state_shape, where)

    def _no_act(self) -> Tensor:
        act = self._spec.empty(1, device=self._device)["act"]
        return act if self._spec.continuous else act - 1
