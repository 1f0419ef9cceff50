"""Playing whole episodes in E environments at once, with hooks around every step."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from tianshou.data import ReplayBuffer
from tianshou.data.collector import BaseCollector
from tianshou.utils.torch_utils import torch_train_mode
from torch import Tensor, nn

from robustmarl._checks import check, check_int
from robustmarl._seeding import Draws, episode_key, stream_id
from robustmarl.attacks.base import ObsAttack
from robustmarl.data.buffer import EpisodeBuffer
from robustmarl.data.controllers import Controller
from robustmarl.data.opponents import Opponent, Pick, whole, with_rows
from robustmarl.data.stats import TeamCollectStats
from robustmarl.joint import MASKED, StepContext, VectorEngine
from robustmarl.perturbers.base import Perturber
from robustmarl.perturbers.stack import PerturberStack

__all__ = ["JointCollector"]

_SELECT = stream_id("select")

_OPPONENT = stream_id("opponent")


class JointCollector(BaseCollector[TeamCollectStats]):
    """Collects whole episodes of one team into an :class:`EpisodeBuffer`.

    In a step: perturbers' ``on_obs`` and ``shown`` -> policy -> ``on_logits`` -> sample and
    explore -> ``on_act`` -> environment. Terminal observations pass ``on_obs`` too. Episode k is
    a function of (seed, k) and the policy, however many environments play side by side, and
    every episode begun is finished and counted, so short ones are not favoured.

    Args:
        policy: plays ``team``; a robustmarl algorithm or policy, or any controller.
        env: the vector environment, or a natively batched engine.
        buffer: where episodes go; None keeps none (evaluation).
        team: the team to learn from; may be None where there is only one.
        opponents: a controller for every other team.
        perturb: attacks (on all agents) or perturbers, applied in this order to what the agents
            see, and in the reverse order to what they do.
        seed: of the episodes and of everything drawn while collecting.

    Raises:
        ValueError: if the policy does not fit the team, or a team has no controller.
    """

    _hidden: Tensor | None

    def __init__(
        self,
        policy: Any,
        env: VectorEngine,
        buffer: EpisodeBuffer | None = None,
        *,
        team: str | None = None,
        opponents: Mapping[str, Controller] | None = None,
        perturb: Sequence[ObsAttack | Perturber] = (),
        seed: int = 0,
    ) -> None:
        self.controller = _controller(policy)
        rows = env.spec.team_indices(team)
        self.spec = env.spec.of_team(team)
        self.team = next(name for name, r in env.spec.teams.items() if r == rows)
        super().__init__(
            policy=cast(Any, self.controller),
            env=cast(Any, env),
            buffer=buffer if buffer is not None else ReplayBuffer(size=1),
            collect_stats_class=TeamCollectStats,
            raise_on_nan_in_buffer=False,
        )
        self.engine, self.episodes_begun = env, 0
        self.seed = check_int("JointCollector.seed", seed, 0)
        self._store = buffer
        self.device = self.controller.device
        self.controller.check_spec(self.spec)
        if buffer is not None and (diff := buffer.spec.describe_difference(self.spec)):
            raise ValueError(f"JointCollector.buffer must be for this team, got {diff}.")
        self._slice = self._index(rows)
        self._opponents = self._bind_opponents(dict(opponents or {}))
        self.stack = PerturberStack(perturb)
        victim = self.controller.victim()
        self.stack.bind(self.spec, victim)
        self._allocate()

    def _allocate(self) -> None:
        size, device = len(self.engine), self.device
        self._keys = torch.zeros(size, dtype=torch.int64, device=device)
        self._steps = np.zeros(size, dtype=np.int64)
        self._live = np.zeros(size, dtype=np.bool_)
        self._terminal = np.zeros(size, dtype=np.bool_)
        self._flags = torch.from_numpy(self._live), torch.from_numpy(self._terminal)
        self._number = np.zeros(size, dtype=np.int64)
        self._lived = torch.zeros(size, self.spec.num_agents, dtype=torch.bool, device=device)
        self._last_act = self.spec.empty(size, device=device)["act"]
        width = self.controller.hidden_size
        shape = (size, self.spec.num_agents, width)
        self._hidden = torch.zeros(shape, device=device) if width else None
        self._staging: dict[str, Any] = {}  # (T+1, E, ...), a ring of ticks
        self._now, self._ring = 0, self.spec.horizon + 1
        self._first = np.zeros(size, dtype=np.int64)
        self._finished: list[int] = []
        self._returns: list[float] = []
        self._lens: list[int] = []
        self._metrics: list[list[float]] = []
        self._training = False
        # Between two steps of an engine a call finds nothing of its code in the caches: numpy's
        # then take a few microseconds, torch's fifty. On the CPU, views do most of the work.
        tensors = self.engine.tensors
        self._cpu, self._cpu_engine = device.type == "cpu", tensors["obs"].device.type == "cpu"
        self._shown = {k: v.numpy() for k, v in tensors.items()} if self._cpu_engine else {}
        self._direct = self._cpu and self._cpu_engine and self._slice is whole

    def _validate_buffer(self) -> None:
        """Accept any :class:`EpisodeBuffer`: it has no sub-buffer per environment."""

    def _validate_n_step_n_episode(self, n_episode: int | None, n_step: int | None) -> None:
        """Take one of the two; steps need be no multiple of E, since episodes are whole."""
        one = (n_step is None) != (n_episode is None)
        rule = "given either n_step or n_episode"
        check(one, "JointCollector.collect", rule, {"n_step": n_step, "n_episode": n_episode})
        name = "n_episode" if n_step is None else "n_step"
        check_int(f"JointCollector.collect.{name}", n_episode if n_step is None else n_step, 1)

    def reset(
        self,
        reset_buffer: bool = True,
        reset_stats: bool = True,
        gym_reset_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Any, Any]:
        """Forget the buffer if asked; episodes always begin anew in :meth:`collect`."""
        if reset_buffer:
            self.reset_buffer()
        if reset_stats:
            self.reset_stat()
        return np.empty(0), np.empty(0)

    def close(self) -> None:
        """Close the environments."""
        self.engine.close()
        self._is_closed = True

    @torch.no_grad()
    def collect(
        self,
        n_step: int | None = None,
        n_episode: int | None = None,
        random: bool = False,
        render: float | None = None,
        reset_before_collect: bool = False,
        gym_reset_kwargs: dict[str, Any] | None = None,
    ) -> TeamCollectStats:
        """Play ``n_episode`` episodes, or whole episodes until ``n_step`` steps are played.

        Args:
            n_step: environment steps, >= 1; mutually exclusive with ``n_episode``. No more
                episodes than the buffer holds are begun.
            n_episode: episodes, >= 1.
            random: refused; use :class:`RandomController`.
            render: refused; use ``evaluation.rollout``.
            reset_before_collect: without effect, episodes always begin anew.
            gym_reset_kwargs: refused; seeds come from ``seed``.
        """
        self._validate_n_step_n_episode(n_episode, n_step)
        unused = {"random": random or None, "render": render, "gym_reset_kwargs": gym_reset_kwargs}
        for name, value in unused.items():
            check(value is None, f"JointCollector.collect.{name}", "left out", value)
        begun = time.time()
        if isinstance(self.controller, nn.Module):
            with torch_train_mode(self.controller, enabled=False):
                stats = self._collect(n_step, n_episode)
        else:
            stats = self._collect(n_step, n_episode)
        stats.set_collect_time(max(time.time() - begun, 1e-9))
        stats.refresh_all_sequence_stats()
        return stats

    def _collect(
        self,
        n_step: int | None = None,
        n_episode: int | None = None,
        random: bool = False,
        render: float | None = None,
        gym_reset_kwargs: dict[str, Any] | None = None,
    ) -> TeamCollectStats:
        self._training = bool(getattr(self.controller, "is_within_training_step", False))
        self._live[:] = self._terminal[:] = False
        for kept in (self._finished, self._returns, self._lens, self._metrics):
            kept.clear()
        begun, played = 0, 0
        while True:
            free = (~self._live).nonzero()[0]
            if len(free):
                if n_episode is not None:
                    wanted = min(n_episode - begun, len(free))
                else:
                    wanted = len(free) if played < cast(int, n_step) else 0
                    if self._store is not None:  # none of them may push out another
                        wanted = min(wanted, self._store.capacity - begun)
                if wanted > 0:
                    self._begin(free[:wanted])
                    begun += wanted
                elif len(free) == len(self._live):
                    break
            played += self._tick()
        self._count_progress(played, begun)
        order = np.argsort(self._finished)  # as begun, so that comparisons are paired
        stats = TeamCollectStats.with_autogenerated_stats(
            returns=np.asarray(self._returns, dtype=np.float64)[order],
            lens=np.asarray(self._lens, dtype=np.int64)[order],
            n_collected_episodes=begun,
            n_collected_steps=played,
        )
        metrics = np.asarray(self._metrics, dtype=np.float64).reshape(begun, -1)[order]
        stats.metrics = {name: metrics[:, i] for i, name in enumerate(self.spec.metrics)}
        stats.counters = self.stack.counters()
        self.collect_step += played
        self.collect_episode += begun
        return stats

    def state_dict(self) -> dict[str, int]:
        """Return what resuming needs: the episode counter."""
        return {"episodes_begun": self.episodes_begun, "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.episodes_begun, self.seed = state["episodes_begun"], state["seed"]

    def _begin(self, rows: NDArray[np.int64]) -> None:
        numbers = range(self.episodes_begun, self.episodes_begun + len(rows))
        seeds = [episode_key(self.seed, number) & 0x7FFFFFFF for number in numbers]
        keys = [episode_key(seed, 0) for seed in seeds]  # as a wrapper reset with that seed
        self._number[rows] = numbers
        self.episodes_begun += len(rows)
        if self._cpu:
            self._keys.numpy()[rows] = keys
        else:
            self._keys[rows] = torch.tensor(keys, device=self.device)
        self._steps[rows] = 0
        self._first[rows] = self._now
        self._last_act = with_rows(self._last_act, rows, 0 if self.spec.continuous else -1)
        if self._hidden is not None:
            self._hidden[rows] = 0.0
        for opponent in self._opponents:
            opponent.begin(rows)
        self._live[rows] = True
        self.engine.begin(rows, seeds)

    def _tick(self) -> int:
        """Advance all live environments by a step; return the number of steps taken."""
        context = self._context(self._slice, self._last_act, self._hidden)
        if len(self.stack):
            context.observed = self._observed(context)
        self.stack.show(context)
        playing = (self._live & ~self._terminal).nonzero()[0]
        ended = self._terminal.nonzero()[0]
        if self._store is not None:
            self._stage(self._staging_obs(context))
        if len(ended):
            self._finish(ended)
        if len(playing):
            self._play(context, playing)
            self._terminal[self._ended(playing)] = True
        self._now = (self._now + 1) % self._ring
        return len(playing)

    def _play(self, context: StepContext, playing: NDArray[np.int64]) -> None:
        output, hidden = self.controller.infer(context)
        self._check_finite(output, context)
        if not self.spec.continuous:
            self._check_mask(context)
            output = self._masked(output, context.mask)
        clean = output
        output = self.stack.on_logits(context, output)
        draws = Draws(self._keys).at(context.step, _SELECT)
        act, logp = self.controller.select(output, context.mask, draws, self._training)
        executed = self.stack.on_act(context, act)
        told = act
        if self.stack.told_executed:
            told = executed
            if logp is not None and (output is not clean or executed is not act):
                logp = cast(Any, self.controller).log_prob(clean, told)
        joint = executed
        if self._opponents:
            joint = self._joint_act(executed)
        if self._cpu_engine and not self._cpu:
            joint = joint.cpu()
        self.engine.advance(joint, playing)
        arrays: dict[str, Any] = {"rew_agents": self._own("rew_agents")}
        if self._store is not None:
            arrays["act"] = told
            if logp is not None:
                arrays["logp"] = logp
            if self.stack.acts_differ:
                arrays["act_intended"], arrays["act_exec"] = act, executed
            arrays |= {f"policy/{key}": kept for key, kept in self.controller.record().items()}
            arrays |= self.stack.records()
        self._stage(arrays)
        self._last_act = told
        self._hidden = hidden if self._hidden is not None else None
        self._steps[playing] += 1

    def _finish(self, rows: NDArray[np.int64]) -> None:
        first, lengths, each = self._first[rows], self._steps[rows], np.arange(len(rows))
        ticks = (first[:, None] + np.arange(lengths.max())) % self._ring
        earned = self._staging["rew_agents"][ticks, rows[:, None]]  # (K, T, N)
        if isinstance(earned, Tensor):
            earned = earned.cpu().numpy()
        rew = earned.sum(axis=-1)
        if self.spec.team_reward == "mean":
            rew /= earned.shape[-1]
        if self._store is not None:
            whole = {"rew": rew}
            for key in ("terminated", "truncated"):
                whole[key] = np.zeros(rew.shape, np.bool_)
                whole[key][each, lengths - 1] = self._told(key)[rows]
            self._store.add_episodes(self._staging, rows, first, lengths, whole)
        self._returns += rew.cumsum(axis=1, dtype=np.float64)[each, lengths - 1].tolist()
        self._finished += self._number[rows].tolist()
        self._lens += lengths.tolist()
        self._metrics += self._told("metrics")[rows].tolist()
        self._live[rows] = self._terminal[rows] = False

    def _ended(self, playing: NDArray[np.int64]) -> NDArray[np.int64]:
        horizon = self.spec.horizon
        done = (self._told("terminated") | self._told("truncated"))[playing]
        if (steps := self._steps[playing]).max() >= horizon and (steps[~done] >= horizon).any():
            raise ValueError(
                f"environment {playing[~done & (steps >= horizon)][0]} must end within its stated "
                f"horizon of {horizon} steps. "
                "State the right one: envs.describe(env, horizon=...)."
            )
        return playing[done]

    def _told(self, key: str) -> NDArray[Any]:
        """Return what the engine says of all environments, in numpy."""
        return self._shown[key] if self._cpu_engine else self.engine.tensors[key].cpu().numpy()

    def _own(self, key: str) -> Any:
        """Return what the engine says of this team where the policy is; a view if it can be."""
        if self._direct:
            return self._shown[key]
        return self._slice(self.engine.tensors[key]).to(self.device)

    def _context(self, pick: Any, last_act: Tensor, hidden: Tensor | None) -> StepContext:
        shown, flags = self.engine.tensors, self._flags
        step = torch.from_numpy(self._steps.copy())
        if not self._direct:
            state = shown["state"]
            if state.dim() == 3 and isinstance(pick, Pick):
                state = state[:, pick.rows.to(state.device)]
            shown = {key: pick(shown[key]).to(self.device) for key in ("obs", "mask", "alive")}
            shown["state"], step = state.to(self.device), step.to(self.device)
            flags = flags[0].to(self.device), flags[1].to(self.device)
        return StepContext(
            obs=shown["obs"],
            seen=shown["obs"],
            mask=shown["mask"],
            state=shown["state"],
            alive=shown["alive"],
            observed=shown["alive"],
            last_act=last_act,
            hidden=hidden,
            step=step,
            keys=self._keys,
            live=flags[0],
            terminal=flags[1],
        )

    def _observed(self, context: StepContext) -> Tensor:
        """Return who has an observation: at an episode's end, who lived until then."""
        observed = context.alive
        if self._terminal.any():
            observed = observed | (context.terminal[:, None] & self._lived)
        self._lived = context.alive.clone()  # the engine overwrites its own
        return observed

    def _joint_act(self, own: Tensor) -> Tensor:
        joint = torch.zeros(
            (len(self._live), *self.engine.spec.action_shape()), dtype=own.dtype, device=own.device
        )
        self._put(joint, self._rows, own)
        for opponent in self._opponents:
            context = self._context(opponent.pick, opponent.last_act, opponent.hidden)
            output, hidden = opponent.controller.infer(context)
            if not self.spec.continuous:
                output = self._masked(output, context.mask)
            draws = Draws(self._keys).at(context.step, _OPPONENT + opponent.number)
            act, _ = opponent.controller.select(output, context.mask, draws, training=False)
            opponent.last_act = act
            opponent.hidden = hidden if opponent.hidden is not None else None
            self._put(joint, opponent.rows, act)
        return joint

    @staticmethod
    def _put(joint: Tensor, rows: Tensor, act: Tensor) -> None:
        if joint.dim() == 3:
            joint[:, rows, : act.shape[-1]] = act
        else:
            joint[:, rows] = act

    def _staging_obs(self, context: StepContext) -> dict[str, Any]:
        arrays: dict[str, Any] = {
            "obs": context.obs,
            "mask": context.mask,
            "state": context.state,
            "alive": context.alive,
        }
        if self._direct:
            arrays = {key: self._shown[key] for key in arrays}
        if len(self.stack):
            arrays["seen"] = context.seen
        return arrays

    def _stage(self, arrays: dict[str, Any]) -> None:
        """Keep what this tick brought, for all environments at once."""
        for key, values in arrays.items():
            new: Any = values.numpy() if self._cpu and isinstance(values, Tensor) else values
            if key not in self._staging:
                zeros = np.zeros if self._cpu else new.new_zeros
                self._staging[key] = zeros((self._ring, *new.shape), dtype=new.dtype)
            self._staging[key][self._now] = new

    def _masked(self, output: Tensor, mask: Tensor) -> Tensor:
        if self._cpu:
            return torch.from_numpy(np.where(mask.numpy(), output.numpy(), MASKED))
        return torch.where(mask, output, MASKED)

    def _check_mask(self, context: StepContext) -> None:
        mask = context.mask
        if self._cpu and mask.numpy().any(axis=-1).all():
            return
        bad = ~mask.any(dim=-1) & context.live[:, None]
        if bool(bad.any()):
            e, i = bad.nonzero()[0].tolist()
            raise ValueError(
                f"action mask must leave an action, got none in environment {e}, agent "
                f"{self.spec.agents[i]!r}, step {int(self._steps[e])}."
            )

    def _check_finite(self, output: Tensor, context: StepContext) -> None:
        total = output.numpy().sum() if self._cpu else float(output.sum())
        if math.isfinite(total):
            return
        bad = (~torch.isfinite(output)).flatten(2).any(-1) & context.live[:, None]
        if not bool(bad.any()):
            return
        e, i = bad.nonzero()[0].tolist()
        raise ValueError(
            f"logits must be finite, got {output[e, i].tolist()} in environment {e}, agent "
            f"{self.spec.agents[i]!r}, step {int(self._steps[e])}. Has training diverged?"
        )

    def _count_progress(self, steps: int, episodes: int) -> None:
        count = getattr(self.controller, "count", None)
        if self._training and count is not None:
            count("env_steps", steps)
            count("episodes", episodes)

    def _index(self, rows: tuple[int, ...]) -> Any:
        if len(rows) == self.engine.spec.num_agents:
            return whole
        self._rows = torch.tensor(rows)
        return Pick(self._rows, self.spec.obs_size, self.spec.num_actions)

    def _bind_opponents(self, controllers: dict[str, Controller]) -> list[Opponent]:
        spec = self.engine.spec
        missing = sorted(set(spec.teams) - set(controllers) - {self.team})
        rule = f"a controller for each of the other teams {sorted(set(spec.teams) - {self.team})}"
        given = sorted(controllers)
        good = not missing and set(controllers) <= set(spec.teams) - {self.team}
        check(good, "JointCollector.opponents", rule, given)
        return [
            Opponent(number, spec, team, _controller(controller), len(self.engine))
            for number, (team, controller) in enumerate(controllers.items())
        ]


def _controller(policy: Any) -> Controller:
    if not hasattr(policy, "infer"):
        policy = getattr(policy, "policy", policy)
    needed = ("infer", "select", "record", "victim", "check_spec")
    missing = [name for name in needed if not hasattr(policy, name)]
    if missing:
        raise TypeError(
            "JointCollector.policy must be a robustmarl algorithm, policy or controller, got "
            f"{type(policy).__name__} without {missing}. Tianshou's own algorithms keep "
            "Tianshou's collector; here they are victims."
        )
    return cast(Controller, policy)
