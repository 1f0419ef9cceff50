"""The contract of perturbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import cast

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor
from typing_extensions import override

from robustmarl._checks import check_function, check_int
from robustmarl._seeding import episode_key
from robustmarl.algorithms import IPPO, MADDPG
from robustmarl.data import EpisodeBuffer, JointCollector
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import (
    MASKED,
    JointBatch,
    StepContext,
    TeamSpec,
    at_actions,
    spec_of,
    split_obs,
)
from robustmarl.joint.boxes import in_box
from robustmarl.learning import TeamAlgorithm
from robustmarl.perturbers import ObsPerturber, Perturber, Place
from robustmarl.testing._error import requirement
from robustmarl.testing._game import UnevenGame
from robustmarl.typing import Actions, Env, StepResult, Values, Wrapper
from robustmarl.victims import Victim

__all__ = ["check_perturber"]

_require = requirement("A perturber")


def check_perturber(
    make_perturber: Callable[[TeamAlgorithm], Perturber],
    *,
    wrap: Callable[[Env, TeamAlgorithm], Env] | None = None,
    make_team: Callable[[Env], TeamAlgorithm] | None = None,
    make_env: Callable[[], Env] | None = None,
    episodes: int = 6,
    num_envs: int = 3,
    seed: int = 0,
) -> None:
    """Check a perturber against everything that collectors, buffers and wrappers rely on.

    Hooks keep shapes, dtypes and devices and leave the step as it was; who does not live, or has
    no observation, and padding are left alone; unavailable actions stay so. An observation attack
    keeps to its ball, a poisoned policy to its budget of KL. Records have the same names and
    shapes in every step, counters are finite, begin at 0 and do not lose names. An episode is the
    same however many environments play beside it, and when played again. With ``wrap``, the
    wrapper around the environment shows and executes what the perturber does in a collector.

    Args:
        make_perturber: from the team that plays to the perturber, new each time.
        wrap: from an environment and that team to the environment in the perturber's wrapper.
        make_team: from an environment to the team, whose actions must lie in their boxes; None is
            a small ``IPPO``, or ``MADDPG`` where actions are continuous.
        make_env: builds one environment, with one team; None is a small game with agents of
            different sizes, one of which comes late.
        episodes: played, >= 1.
        num_envs: side by side, >= 2.
        seed: of the episodes, >= 0.

    Raises:
        ContractError: naming the first promise that is broken.
        TypeError: if an argument is of a wrong kind.
        ValueError: if a number is out of range.

    Example:
        >>> from robustmarl import attacks, budgets, perturbers
        >>> noise = attacks.UniformNoise(ball=budgets.LinfBall(epsilon=0.1))
        >>> check_perturber(lambda team: perturbers.ObsPerturber(noise))
    """
    check_function("check_perturber.make_perturber", make_perturber, "callable")
    for name, given in {"wrap": wrap, "make_team": make_team, "make_env": make_env}.items():
        if given is not None:
            check_function(f"check_perturber.{name}", given, "callable")
    episodes = check_int("check_perturber.episodes", episodes, 1)
    num_envs = check_int("check_perturber.num_envs", num_envs, 2)
    seed = check_int("check_perturber.seed", seed, 0)
    make_env = UnevenGame if make_env is None else make_env
    make_team = _small_team if make_team is None else make_team
    team = make_team(make_env())

    def played(size: int) -> tuple[_Watched, dict[int, dict[str, Tensor]]]:
        watched = _Watched(make_perturber(team))
        return watched, _episodes(watched, team, make_env, episodes, size, seed)

    (one, alone), (_, again), (several, together) = played(1), played(1), played(num_envs)
    _require(_same(alone, again), "repeat an episode when it is played again")
    _require(
        _same(alone, together, exact=False), "play an episode the same however many play beside it"
    )
    counted = (one.perturber.counters(), several.perturber.counters())
    near = all(np.isclose(counted[0][name], counted[1][name]) for name in counted[0])
    _require(near, "count the same however many environments play")
    if wrap is not None:
        _check_wrapper(wrap, team, make_env, alone, seed)


def _small_team(env: Env) -> TeamAlgorithm:
    kind = MADDPG if spec_of(env).continuous else IPPO
    return kind.for_env(env, hidden=(8,))


class _Watched(Perturber):
    """Stands before a perturber and holds it to its promises; records the episode's key."""

    def __init__(self, perturber: Perturber) -> None:
        _require(isinstance(perturber, Perturber), f"be a Perturber, got {perturber!r}")
        self.perturber = perturber
        self.kind = perturber.kind  # type: ignore[misc]  # each double's own
        self.act_told = perturber.act_told
        self._form: dict[str, tuple[object, ...]] | None = None

    def bind(self, spec: TeamSpec, policy: Victim | None, place: Place) -> None:
        super().bind(spec, policy, place)
        self.perturber.bind(spec, policy, place)
        self._spec = spec
        self._names = set(self.perturber.counters())
        begun = any(self.perturber.counters().values())
        _require(not begun, "begin to count at 0 when it is bound")

    def on_obs(self, context: StepContext) -> Tensor:
        self._keys = context.keys.clone()
        given = context.seen.clone()
        with _unchanged(context, "on_obs", besides=("types",)):
            seen = self.perturber.on_obs(context)
        _require_form(seen, given, "on_obs")
        absent = ~context.observed | ~context.live[:, None]
        kept = torch.equal(seen[absent], given[absent])
        _require(kept, "leave alone what agents without an observation see")
        real = self._spec.obs_mask(seen.device)
        if real is not None:
            padding = (~real).expand(seen.shape)
            kept = torch.equal(seen[padding], given[padding])
            _require(kept, "leave coordinates alone that do not exist")
        if isinstance(self.perturber, ObsPerturber):
            size = self.perturber.obs_size
            ball = self.perturber.attack.ball
            inside = ball.contains(seen[..., :size], given[..., :size])
            rest = torch.equal(seen[..., size:], given[..., size:])
            _require(inside and rest, "keep observations in its ball")
        return seen

    def shown(self, context: StepContext) -> None:
        with _unchanged(context, "shown"):
            self.perturber.shown(context)

    def on_logits(self, context: StepContext, logits: Tensor) -> Tensor:
        given = logits.clone()
        with _unchanged(context, "on_logits"):
            found = self.perturber.on_logits(context, logits)
        _require_form(found, given, "on_logits")
        _require(bool(found.isfinite().all()), "return finite logits")
        _require(torch.equal(logits, given), "leave the logits that it is given as they are")
        idle = self._idle(context)
        _require(
            torch.equal(found[idle], given[idle]), "leave logits alone of those that do not act"
        )
        if not self._spec.continuous:
            blocked = ~context.mask
            kept = bool((found[blocked] <= MASKED / 2).all())
            _require(kept, "leave unavailable actions unavailable")
        return found

    def on_act(self, context: StepContext, act: Tensor) -> Tensor:
        given = act.clone()
        with _unchanged(context, "on_act"):
            executed = self.perturber.on_act(context, act)
        _require_form(executed, given, "on_act")
        _require(torch.equal(act, given), "leave the actions that it is given as they are")
        idle = self._idle(context)
        kept = torch.equal(executed[idle], given[idle])
        _require(kept, "leave actions alone of those that do not act")
        if self._spec.continuous:
            real = self._spec.action_mask(act.device)
            if real is not None:
                zero = bool((executed[(~real).expand(executed.shape)] == 0).all())
                _require(zero, "leave action coordinates at 0 that do not exist")
        else:
            chosen = at_actions(context.mask, executed)
            _require(bool(chosen[~idle].all()), "execute available actions")
        return executed

    def record(self) -> Mapping[str, Tensor]:
        record = self.perturber.record()
        form = {name: (*values.shape, values.dtype) for name, values in record.items()}
        self._form = form if self._form is None else self._form
        _require(form == self._form, "record the same names, shapes and dtypes in every step")
        size = len(self._keys)
        whole = all(len(values) == size for values in record.values())
        _require(whole, "record one row per environment")
        budget = getattr(self.perturber, "kl_budget", None)
        if budget is not None and "kl" in record:
            kept = bool((record["kl"] <= budget * (1.0 + 1e-6)).all())  # found by bisection
            _require(kept, "keep to its budget of KL")
        return {**record, _KEY: self._keys}

    def counters(self) -> dict[str, float]:
        counted = self.perturber.counters()
        _require(set(counted) == self._names, "keep the names of its counters")
        _require(bool(np.isfinite(list(counted.values())).all()), "count finite figures")
        return counted

    @staticmethod
    def _idle(context: StepContext) -> Tensor:
        """Return who does not act in this step, bool (E, N)."""
        return ~context.acting


_KEY = "episode_key"


class _unchanged:  # noqa: N801 - a context manager
    """Demands that a hook leaves its step alone, but for ``seen``, which the stack sets."""

    def __init__(self, context: StepContext, hook: str, besides: tuple[str, ...] = ()) -> None:
        self._context, self._hook = context, hook
        self._names = [field.name for field in fields(context) if field.name not in besides]

    def __enter__(self) -> None:
        self._before = {name: self._copy(name) for name in self._names}

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None:
            return
        for name, before in self._before.items():
            after = self._copy(name)
            same = (
                before is after if before is None or after is None else torch.equal(before, after)
            )
            _require(same, f"leave context.{name} alone in {self._hook}")

    def _copy(self, name: str) -> Tensor | None:
        values: Tensor | None = getattr(self._context, name)
        return None if values is None else values.clone()


def _require_form(found: Tensor, given: Tensor, hook: str) -> None:
    same = (found.shape, found.dtype, found.device) == (given.shape, given.dtype, given.device)
    _require(same, f"keep shape, dtype and device in {hook}")


def _episodes(
    watched: _Watched,
    team: TeamAlgorithm,
    make_env: Callable[[], Env],
    episodes: int,
    num_envs: int,
    seed: int,
) -> dict[int, dict[str, Tensor]]:
    """Return what happened in each episode, by its key."""
    buffer = EpisodeBuffer(team.spec, episodes, device=team.device)
    engine = JointVectorEnv(make_env, num_envs)
    collector = JointCollector(team, engine, buffer, perturb=[watched], seed=seed)
    collector.collect(n_episode=episodes)
    collector.close()
    batch = buffer.latest(episodes)
    keys = batch.record(watched.kind)[_KEY]
    return {int(keys[k, 0]): _episode(batch, k) for k in range(episodes)}


def _episode(batch: JointBatch, k: int) -> dict[str, Tensor]:
    """Return the steps that were played in one episode, the last observation included."""
    steps = int(batch.valid[k].sum())
    length = {name: steps + name.startswith("obs.") for name in batch.flat()}
    return {name: values[k, : length[name]] for name, values in batch.flat().items()}


def _same(
    one: dict[int, dict[str, Tensor]], other: dict[int, dict[str, Tensor]], *, exact: bool = True
) -> bool:
    """Return whether episodes are the same, bit for bit or up to the rounding of batches."""

    def near(a: Tensor, b: Tensor) -> bool:
        if exact or a.shape != b.shape or not a.is_floating_point():
            return torch.equal(a, b)
        return torch.allclose(a, b, rtol=1e-4, atol=1e-5)

    return one.keys() == other.keys() and all(
        one[key].keys() == other[key].keys()
        and all(near(values, other[key][name]) for name, values in one[key].items())
        for key in one
    )


class _Executed(Wrapper):
    """Keeps the actions that the environment was given."""

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self.given: Actions = {}

    @override
    def step(self, actions: Actions) -> StepResult:
        self.given = dict(actions)
        return self.env.step(actions)


def _check_wrapper(
    wrap: Callable[[Env, TeamAlgorithm], Env],
    team: TeamAlgorithm,
    make_env: Callable[[], Env],
    collected: dict[int, dict[str, Tensor]],
    seed: int,
) -> None:
    """Play the collector's episodes around a wrapped environment."""
    bare = _Executed(make_env())
    env = wrap(bare, team)
    for number in range(len(collected)):
        reset_seed = episode_key(seed, number) & 0x7FFFFFFF  # as the collector's
        episode = collected[episode_key(reset_seed, 0)]
        obs, _ = env.reset(seed=reset_seed)
        for step in range(len(episode["act"])):
            _compare_obs(team.spec, obs, episode, step)
            actions = {
                agent: _to_env(env, team.spec, agent, episode["act_intended"][step])
                for agent in env.agents
            }
            obs, *_ = env.step(actions)
            for agent, action in bare.given.items():
                expected = _to_env(env, team.spec, agent, episode["act_exec"][step])
                same = np.allclose(action, expected, atol=1e-5)
                _require(same, "execute in its wrapper what it executes in a collector")


def _compare_obs(
    spec: TeamSpec, obs: Mapping[str, object], episode: dict[str, Tensor], step: int
) -> None:
    for i, agent in enumerate(spec.agents):
        if not episode["obs.alive"][step, i]:
            continue
        size = spec.obs_sizes[i]  # a wrapper may append to it
        row = np.asarray(split_obs(obs[agent])[0])[:size]
        # Boxes go to the environment's units and back, which rounds.
        seen = episode["obs.seen"][step, i, :size].cpu().numpy()
        same = np.allclose(row, seen, atol=1e-5) if spec.continuous else np.array_equal(row, seen)
        _require(same, "show in its wrapper what it shows in a collector")


def _to_env(env: Env, spec: TeamSpec, agent: str, act: Tensor) -> int | Values:
    """Return the action of ``agent`` in the joint action (N,) or (N, A), as its space has it."""
    i = spec.agents.index(agent)
    if not spec.continuous:
        return int(act[i])
    unit = act[i, : spec.action_sizes[i]].cpu().numpy()
    return in_box(unit, cast(Box, env.action_space(agent)))
