"""Perturb what agents observe."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

import gymnasium
import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from robustmarl._checks import check, check_names, speaking_for
from robustmarl.attacks.base import ObsAttack
from robustmarl.joint import StepContext, describe, spec_of, split_obs
from robustmarl.perturbers.obs import ObsPerturber
from robustmarl.typing import Env, ResetResult, RobustnessWarning, StepResult
from robustmarl.victims import as_victim
from robustmarl.wrappers._episode import Episode, PerturbingWrapper

__all__ = ["ObsAdversaryWrapper"]


class ObsAdversaryWrapper(PerturbingWrapper):
    r"""Show attacked agents :math:`\hat o^i \in B_\epsilon(o^i)` in place of :math:`o^i`.

    The OD-POMDP of ATSA, Sec. 2.2 [Zhou2025]_: spaces, states, rewards and terminations are those
    of ``env``. Observations are perturbed up to and including an episode's last; of Dict
    observations only ``"observation"`` is. Agents without an observation are not attacked. With
    zero budget every observation keeps its bits.

    What is added to ``infos[agent]`` of attacked agents: ``clean_obs``, a copy of the
    observation before the attack; ``perturbation``, the largest change of a coordinate; and
    ``unchanged_steps``, how often in this episode this wrapper's attack was called and changed
    nothing. Where wrappers are stacked directly, ``clean_obs`` is what the innermost one got and
    ``perturbation`` the distance from it.

    Args:
        env: a parallel environment with flat floating-point ``Box`` observations, or Dict ones
            with ``"observation"`` and ``"action_mask"``. Masks may be in the infos instead.
        attack: called once per step on all attacked observations, (M, D).
        victim: the live policy under attack, or an algorithm; asked anew each step, never
            copied. None only for attacks that ask none, such as noise.
        agents: names of the attacked agents, None for all; stack a wrapper per policy if several.
        every: attack at steps 0, every, 2 * every, ... of an episode, >= 1.
        probability: of attacking at such a step, in [0, 1].
        episodes: share of the episodes in which it attacks at all, in [0, 1].

    Raises:
        ValueError: for unknown agents, numbers out of range, a ball that does not fit the
            observations, or spaces that are not as above (with the wrapper that helps); from
            ``reset`` and ``step`` for observations that are not finite.
        TypeError: if ``env``, ``attack`` or ``victim`` is of the wrong kind; when pickled.

    Note:
        ``reset(seed=s)`` starts the attack's own random numbers afresh; they depend on ``s``, the
        number of episodes since, the step and the depth in the stack, and are neither the
        environment's nor torch's.
    """

    def __init__(
        self,
        env: Env,
        attack: ObsAttack,
        *,
        victim: Any = None,
        agents: Collection[str] | None = None,
        every: int = 1,
        probability: float = 1.0,
        episodes: float = 1.0,
    ) -> None:
        name = type(self).__name__
        super().__init__(env, ObsPerturber.kind)
        with speaking_for(self, ObsPerturber):
            perturber = ObsPerturber(
                attack,
                victim=None if victim is None else as_victim(f"{name}.victim", victim),
                agents=agents,
                every=every,
                probability=probability,
                episodes=episodes,
            )
        self._perturber = perturber
        self._spec = spec_of(describe(env, team_reward="sum", horizon=1))  # of sizes only
        names = self._spec.agents if agents is None else agents
        self.attacked = check_names(f"{name}.agents", names, self._spec.agents)
        for agent in self.attacked:
            dtype = _box(env, agent).dtype
            remedy = "Convert it, e.g. with supersuit.dtype_v0(env, np.float32)."
            where = f"{name}.env.observation_space({agent!r}).dtype"
            check(np.issubdtype(dtype, np.floating), where, "floating", str(dtype), remedy)
        if perturber.victim is None and getattr(attack, "needs_victim", True):
            raise ValueError(
                f"{name}.victim must be given for {type(attack).__name__}, got None. "
                "Write algorithm.victim()."
            )
        self._outermost = True
        with speaking_for(self, ObsPerturber):
            perturber.bind(self._spec, None, self.place)
        self._below = env if isinstance(env, ObsAdversaryWrapper) else None
        if self._below is not None:
            self._below._outermost = False
        self._device = torch.device("cpu") if perturber.victim is None else perturber.victim.device
        self._idle = attack.ball.is_zero or perturber.probability == 0.0
        self._episode = Episode(self._spec, self._device)
        self._unchanged = dict.fromkeys(self.attacked, 0)
        self._context: StepContext | None = None
        self._episode_start = self._perturber.counters()
        self._warned = False

    @property
    def attack(self) -> ObsAttack:
        """The attack's settings."""
        return self._perturber.attack

    @override
    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> ResetResult:
        obs, infos = self.env.reset(seed=seed, options=options)
        self._episode.begin(seed)
        self._unchanged = dict.fromkeys(self.attacked, 0)
        self._episode_start = self._perturber.counters()
        return self._perturb(obs, infos)

    @override
    def step(self, actions: dict[str, Any]) -> StepResult:
        obs, rewards, terminations, truncations, infos = self.env.step(actions)
        self._episode.advance(self._episode.encode(actions))
        terminal = not self.env.agents
        obs, infos = self._perturb(obs, infos)
        if terminal:
            self._warn_if_in_vain(self._episode_start, "this episode")
        return obs, rewards, terminations, truncations, infos

    @override
    def close(self) -> None:
        self.env.close()
        self._warn_if_in_vain({"attacked": 0.0, "unchanged": 0.0}, "its life")

    def counters(self) -> dict[str, float]:
        """Return ``attacked`` and ``unchanged``: agent-steps since construction."""
        return self._perturber.counters()

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be pickled or copied: a worker process refuses a live "
            "victim, whose weights would go stale there. Step the environments in this process, "
            "or pass the attack to the collector (perturb=[...])."
        )

    def _perturb(self, obs: dict[str, Any], infos: dict[str, dict[str, Any]]) -> ResetResult:
        clean = {agent: np.asarray(split_obs(row)[0]) for agent, row in obs.items()}
        for agent, row in clean.items():
            if not np.isfinite(row).all():
                raise ValueError(
                    f"{type(self).__name__}: observations must be finite, got {row!r} for agent "
                    f"{agent!r} at step {self._episode.step}. Check the environment."
                )
        shown, attempted = dict(clean), frozenset[str]()
        self._context = None
        if not self._idle and any(agent in clean for agent in self.attacked):
            shown, attempted = self._attack(clean, obs, infos)
        obs, infos = dict(obs), dict(infos)
        for agent in self.attacked:
            if agent not in clean:
                continue
            truth = clean[agent]
            if agent in attempted:
                self._unchanged[agent] += bool((shown[agent] == truth).all())
                raw = obs[agent]
                inside = isinstance(raw, Mapping)
                obs[agent] = {**raw, "observation": shown[agent]} if inside else shown[agent]
            info = infos.get(agent, {})
            if self._below is not None and agent in self._below.attacked:
                truth = info["clean_obs"]
            size = float(np.abs(shown[agent] - truth).max(initial=0.0))
            infos[agent] = {
                **info,
                "clean_obs": np.array(truth),
                "perturbation": size,
                "unchanged_steps": self._unchanged[agent],
            }
        return obs, infos

    def _attack(
        self,
        clean: dict[str, Any],
        obs: dict[str, Any],
        infos: dict[str, dict[str, Any]],
    ) -> tuple[dict[str, Any], frozenset[str]]:
        """Return what agents see, and the agents for which the attack was called."""
        context = self._context = self._episode.context(self.env, obs, infos, living=obs)
        context.seen = self._perturber.on_obs(context)
        if self._outermost:
            self._show(context.seen)
        rows = self._perturber.attacked_index[1].tolist()
        attempted = frozenset(self._spec.agents[row] for row in rows) & clean.keys()
        seen = context.seen[0].cpu()
        shown = dict(clean)
        for agent in attempted:
            index, truth = self._spec.agents.index(agent), clean[agent]
            found = seen[index, : truth.size].numpy()
            moved = found != truth.astype(np.float32)
            if truth.dtype != np.float32:  # rounding must not leave the ball
                found = self._projected(found, truth)
            shown[agent] = np.where(moved, found, truth)
        return shown, attempted

    def _projected(self, found: Any, truth: Any) -> Any:
        size = self._spec.obs_size - truth.size
        wide = [torch.from_numpy(np.pad(x.astype(np.float64), (0, size))) for x in (found, truth)]
        legal = self.attack.ball.project(*wide).numpy()[: truth.size]
        return legal.astype(truth.dtype)

    def _show(self, seen: Tensor) -> None:
        """Let recurrent victims of this wrapper and those directly below remember ``seen``."""
        wrapper: ObsAdversaryWrapper | None = self
        while wrapper is not None:
            if wrapper._context is not None:
                wrapper._context.seen = seen
                wrapper._perturber.shown(wrapper._context)
            wrapper = wrapper._below

    def _warn_if_in_vain(self, since: dict[str, float], when: str) -> None:
        now = self._perturber.counters()
        attacked, unchanged = (now[key] - since[key] for key in ("attacked", "unchanged"))
        if attacked > 0 and attacked == unchanged and not self._warned:
            self._warned = True
            warnings.warn(
                f"{type(self).__name__}: {self.attack!r} changed none of {attacked:.0f} "
                f"observations in {when}: zero gradient, a saturated victim, or a single "
                "available action.",
                RobustnessWarning,
                stacklevel=3,
            )


def _box(env: Env, agent: str) -> Any:
    space = env.observation_space(agent)
    return space["observation"] if isinstance(space, gymnasium.spaces.Dict) else space
