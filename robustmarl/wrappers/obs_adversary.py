"""Perturb what agents observe."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, cast

import gymnasium
import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from robustmarl._checks import all_finite, check, speaking_for
from robustmarl.attacks.base import ObsAttack, needs_victim
from robustmarl.budgets import LinfBall
from robustmarl.joint import StepContext, split_obs
from robustmarl.joint.reading import row_of
from robustmarl.perturbers.critical import CriticalSteps
from robustmarl.perturbers.drawn import AttackedAgents
from robustmarl.perturbers.obs import ObsPerturber
from robustmarl.typing import (
    Actions,
    Env,
    Infos,
    Obs,
    Options,
    ResetResult,
    StepResult,
    Values,
)
from robustmarl.victims import VictimLike
from robustmarl.wrappers._episode import Episode, PerturbingWrapper, sizes_of

__all__ = ["ObsAdversaryWrapper"]


class ObsAdversaryWrapper(PerturbingWrapper):
    r"""Show attacked agents :math:`\hat o^i \in B_\epsilon(o^i)` in place of :math:`o^i`.

    The OD-POMDP of ATSA, Sec. 2.2 [Zhou2025]_: states, rewards and terminations are those of
    ``env``, and so are spaces, but that observations of attacked agents may leave the declared
    range as far as the attack's ball does: their Box is as much wider. Give the ball ``low`` and
    ``high`` to keep them in. Observations are perturbed up to and including an episode's last; of
    Dict observations only ``"observation"`` is. Agents without an observation are not attacked.
    With zero budget every observation keeps its bits.

    What is added to ``infos[agent]`` of attacked agents: ``clean_obs``, a copy of the
    observation before the attack; ``perturbation``, the largest change of a coordinate; and
    ``unchanged_steps``, how often in this episode this wrapper's attack was called and changed
    nothing. Where only wrappers of this package lie between two of these, ``clean_obs`` is what
    the innermost one got and ``perturbation`` the distance from it.

    Args:
        env: a parallel environment with flat floating-point ``Box`` observations, or Dict ones
            with ``"observation"`` and ``"action_mask"``. Masks may be in the infos instead.
        attack: called once per step on all attacked observations, (M, D).
        victim: the live policy under attack, an algorithm, a module or function of observations,
            or a Stable-Baselines3 model; asked anew each step, never copied. None only for attacks
            that ask none, such as noise.
        agents: names of the attacked agents, None for all; stack a wrapper per policy if several.
            Or :class:`~robustmarl.perturbers.RandomAgents`, drawn anew for every episode.
        every: attack at steps 0, every, 2 * every, ... of an episode, >= 1.
        probability: of attacking at such a step, in [0, 1].
        episodes: share of the episodes in which it attacks at all, in [0, 1].
        when: attack an agent only in steps that the victim calls critical; None is in all.

    Raises:
        ValueError: for unknown agents, numbers out of range, a ball that does not fit the
            observations, or spaces that are not as above (with the wrapper that helps); from
            ``reset`` and ``step`` for observations that are not finite.
        TypeError: if ``env``, ``attack`` or ``victim`` is of the wrong kind; when pickled or copied
            with a victim.

    Note:
        ``reset(seed=s)`` starts the attack's own random numbers afresh; they depend on ``s``, the
        number of episodes since, the step and the depth in the stack, and are neither the
        environment's nor torch's.

    Example:
        >>> from robustmarl import attacks, budgets, envs
        >>> noise = attacks.UniformNoise(ball=budgets.LinfBall(epsilon=0.5))
        >>> env = ObsAdversaryWrapper(envs.ToyGame(), noise)
        >>> obs, infos = env.reset(seed=0)
        >>> infos["agent_1"]["clean_obs"].tolist()
        [1.0, 1.0, 0.0, 0.0, 0.0]
        >>> bool(abs(obs["agent_1"] - infos["agent_1"]["clean_obs"]).max() <= 0.5)
        True
    """

    perturber: ObsPerturber

    def __init__(
        self,
        env: Env,
        attack: ObsAttack,
        *,
        victim: VictimLike | None = None,
        agents: AttackedAgents = None,
        every: int = 1,
        probability: float = 1.0,
        episodes: float = 1.0,
        when: CriticalSteps | None = None,
    ) -> None:
        name = type(self).__name__
        with speaking_for(self, ObsPerturber):
            perturber = ObsPerturber(
                attack,
                victim=victim,
                agents=agents,
                every=every,
                probability=probability,
                episodes=episodes,
                when=when,
            )
        super().__init__(env, perturber)
        self._spec = sizes_of(env)
        with speaking_for(self, ObsPerturber):
            self.attacked = perturber.names(self._spec)
        self._sizes = dict(zip(self._spec.agents, self._spec.obs_sizes, strict=True))
        for agent in self.attacked:
            dtype = _box(env, agent).dtype
            remedy = "Convert it: envs.flatten_obs(env)."
            where = f"{name}.env.observation_space({agent!r}).dtype"
            check(np.issubdtype(dtype, np.floating), where, "floating", str(dtype), remedy)
        if perturber.victim is None and (needs_victim(attack) or when is not None):
            asking = type(attack).__name__ if when is None else "when="
            raise ValueError(
                f"{name}.victim must be given for {asking}, got None. Write algorithm.victim()."
            )
        self._outermost = True  # until another one is wrapped around
        with speaking_for(self, ObsPerturber):
            perturber.bind(self._spec, None, self.place)
        self._below = _attack_below(env)
        if self._below is not None:
            self._below._outermost = False
        self._device = torch.device("cpu") if perturber.victim is None else perturber.victim.device
        self._idle = attack.ball.is_zero or perturber.probability == 0.0
        self._episode = Episode(self._spec, self._device)
        self._unchanged = dict.fromkeys(self.attacked, 0)
        self._context: StepContext | None = None
        self._alive = frozenset[str]()
        self._episode_start = self.perturber.counters()
        self._warned = False
        self._spaces = {agent: _widened(env, agent, attack.ball) for agent in self.attacked}

    @override
    def observation_space(self, agent: str) -> gymnasium.Space[Any]:
        """Return what the agent may be shown: the environment's space, wider by the attack."""
        return self._spaces[agent] if agent in self._spaces else self.env.observation_space(agent)

    @property
    def attack(self) -> ObsAttack:
        """The attack's settings."""
        return self.perturber.attack

    @override
    def reset(self, seed: int | None = None, options: Options | None = None) -> ResetResult:
        obs, infos = self._reset_env(seed, options)
        self._unchanged = dict.fromkeys(self.attacked, 0)
        self._episode_start = self.perturber.counters()
        self._alive = self._roster.left
        return self._perturb(obs, infos)

    @override
    def step(self, actions: Actions) -> StepResult:
        obs, rewards, terminations, truncations, infos = self._step_env(actions, {})
        # As in a collector: at an episode's end those that were cut off are alive.
        cut_off = (agent for agent in self._roster.ended if not terminations.get(agent))
        self._alive = self._roster.left or frozenset(cut_off)
        obs, infos = self._perturb(obs, infos)
        if not self._roster.left and not self._warned:
            since, during = self._episode_start, "in this episode"
            self._warned = self.perturber.warn_if_idle(since, during, stacklevel=3)
        return obs, rewards, terminations, truncations, infos

    @override
    def close(self) -> None:
        self.env.close()
        if not self._warned:
            self._warned = self.perturber.warn_if_idle(during="in its life", stacklevel=3)

    def __getstate__(self) -> dict[str, Any]:
        if self.perturber.victim is None:
            return self.__dict__
        raise TypeError(
            f"{type(self).__name__} cannot be pickled or copied with a victim: a worker process "
            "refuses a live victim, whose weights would go stale there. Step the environments in "
            "this process, or pass the attack to training.run or evaluation.rollout (perturb=...)."
        )

    def _perturb(self, obs: Obs, infos: Infos) -> ResetResult:
        given = {agent: self._row(agent, raw) for agent, raw in obs.items()}
        # those beneath are told through the outermost what was shown, even if it attacks nobody
        skip = self._idle and self._below is None
        shown, tried = (given, frozenset[str]()) if skip else self._attack(given, obs, infos)
        obs, infos = dict(obs), dict(infos)
        for agent in self.attacked:
            if agent not in given:
                continue
            if agent in tried:
                self._unchanged[agent] += bool((shown[agent] == given[agent]).all())
                raw = obs[agent]
                inside = isinstance(raw, Mapping)
                obs[agent] = {**raw, "observation": shown[agent]} if inside else shown[agent]
            info, truth = infos.get(agent, {}), given[agent]
            if self._below is not None and agent in self._below.attacked:
                truth = np.asarray(info["clean_obs"])
            infos[agent] = {
                **info,
                "clean_obs": np.array(truth),
                "perturbation": _largest_change(shown[agent], truth),
                "unchanged_steps": self._unchanged[agent],
            }
        return obs, infos

    def _row(self, agent: str, raw: object) -> Values:
        """Return what an agent is to see, (D,), as the environment shows it."""
        rule = f"of agents among {list(self._spec.agents)}"
        check(agent in self._sizes, f"observations in {self._where()}", rule, agent)
        row = row_of(agent, split_obs(raw)[0], (self._sizes[agent],), self._where)
        if not all_finite(row):
            raise ValueError(
                f"{type(self).__name__}: observations must be finite, got {row!r} for agent "
                f"{agent!r} at step {self._episode.step}. Check the environment."
            )
        return row

    def _attack(
        self, given: dict[str, Values], obs: Obs, infos: Infos
    ) -> tuple[dict[str, Values], frozenset[str]]:
        """Return what agents see, and the agents for which the attack was called."""
        context = self._context = self._episode.context(
            self.env, obs, infos, living=obs, over=not self._roster.left
        )
        # Who has died is attacked in what it is shown last, but is nobody's neighbour any more.
        alive = torch.tensor([agent in self._alive for agent in self._spec.agents])
        context.alive = context.alive & alive.to(self._device)
        context.seen = self.perturber.on_obs(context)
        attacked = [] if self._idle else self.perturber.rows.attacked[0].tolist()
        tried = frozenset(itertools.compress(self._spec.agents, attacked)) & given.keys()
        if self._outermost:
            self._show(context.seen)
        seen = context.seen[0].cpu()
        shown = dict(given)
        for agent in tried:
            truth = given[agent]
            found = seen[self._spec.agents.index(agent), : truth.size].numpy()
            moved = found != truth.astype(np.float32)
            if truth.dtype != np.float32:  # rounding must not leave the ball
                found = self._projected(found, truth, _box(self.env, agent).dtype)
            shown[agent] = np.where(moved, found, truth.astype(found.dtype))
        return shown, tried

    def _projected(self, found: Values, truth: Values, declared: np.dtype[Any]) -> Values:
        """Return ``found``, float32, in the ball around ``truth`` in its own dtype.

        Of what a dtype can represent it is the nearest that lies in the ball, as ``truth`` does.
        What should be floating by its space but is not, integers or flags, is shown as declared.
        """
        dtype = truth.dtype
        if not np.issubdtype(dtype, np.floating):
            exact = bool((truth.astype(declared) == truth).all())
            dtype = declared if exact else np.dtype(np.float64)
        missing = self.perturber.obs_size - truth.size  # radii may be one per coordinate
        found64, truth64 = (
            torch.from_numpy(np.pad(row.astype(np.float64), (0, missing))) for row in (found, truth)
        )
        low, high = (end.numpy()[: truth.size] for end in self.attack.ball.box(truth64))
        shown = self.attack.ball.project(found64, truth64).numpy()[: truth.size].astype(dtype)
        back = truth.astype(dtype)  # a step towards it leads back into the ball
        outside = (shown.astype(np.float64) < low) | (shown.astype(np.float64) > high)
        legal: Values = np.where(outside, np.nextafter(shown, back), shown)
        return legal

    def _show(self, seen: Tensor) -> None:
        """Let recurrent victims of this wrapper and those directly below remember ``seen``.

        Between them observations may have got slots at their end, which those below do not know.
        """
        wrapper: ObsAdversaryWrapper | None = self
        while wrapper is not None:
            if wrapper._context is not None:
                wrapper._context.seen = wrapper._known(seen)
                wrapper.perturber.shown(wrapper._context)
            wrapper = wrapper._below

    def _known(self, seen: Tensor) -> Tensor:
        """Return the slots of ``seen`` (1, N, ...) that this wrapper's agents have."""
        sizes, most = self._spec.obs_sizes, self._spec.obs_size
        if min(sizes) == most:
            return seen[..., :most]
        known = seen.new_zeros(*seen.shape[:-1], most)
        for i, size in enumerate(sizes):
            known[:, i, :size] = seen[:, i, :size]
        return known


def _attack_below(env: Env) -> ObsAdversaryWrapper | None:
    """Return the next observation attack beneath, if only wrappers of ours lie between."""
    while isinstance(env, PerturbingWrapper) and not isinstance(env, ObsAdversaryWrapper):
        env = env.env
    return env if isinstance(env, ObsAdversaryWrapper) else None


def _largest_change(shown: Values, truth: Values) -> float:
    """Return the largest change of a coordinate, in single precision at least."""
    wide = np.result_type(shown.dtype, truth.dtype, np.float32)
    return float(np.abs(shown.astype(wide) - truth.astype(wide)).max(initial=0.0))


def _widened(env: Env, agent: str, ball: LinfBall) -> gymnasium.Space[Any]:
    """Return an agent's space, its Box as much wider as the ball lets observations leave it."""
    space, box = env.observation_space(agent), _box(env, agent)
    low, high = (torch.from_numpy(end.astype(np.float64)) for end in (box.low, box.high))
    least, most = ball.box(low)[0].numpy(), ball.box(high)[1].numpy()
    if (least >= box.low).all() and (most <= box.high).all():
        return space
    # Rounding may have drawn an end in: the next number out contains what is shown.
    kind = box.low.dtype
    below, above = (
        np.nextafter(least.astype(kind), -np.inf),
        np.nextafter(most.astype(kind), np.inf),
    )
    wide = gymnasium.spaces.Box(
        np.where(least < box.low, below, box.low),
        np.where(most > box.high, above, box.high),
        dtype=box.dtype.type,
    )
    if isinstance(space, gymnasium.spaces.Dict):
        return gymnasium.spaces.Dict({**space.spaces, "observation": wide})
    return wide


def _box(env: Env, agent: str) -> gymnasium.spaces.Box:
    """Return the space of observations without their mask; ``spec_of`` accepts no other."""
    space = env.observation_space(agent)
    inner = space["observation"] if isinstance(space, gymnasium.spaces.Dict) else space
    return cast(gymnasium.spaces.Box, inner)
