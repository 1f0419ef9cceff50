"""Playing episodes in E environments at once, whole or in segments, with hooks at every step."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from tianshou.algorithm.algorithm_base import Policy
from tianshou.data import ReplayBuffer
from tianshou.data.collector import BaseCollector
from tianshou.env import BaseVectorEnv
from tianshou.utils.torch_utils import torch_train_mode
from torch import Tensor, nn

from robustmarl._checks import check, check_flag, check_has, check_int, check_kind, speaking_for
from robustmarl._seeding import Draws, stream_id
from robustmarl.attacks.base import ObsAttack
from robustmarl.data.adapted import AnyPolicy, as_controller
from robustmarl.data.buffer import EpisodeBuffer
from robustmarl.data.carried import Carried
from robustmarl.data.controllers import Counting
from robustmarl.data.guards import DeviceGuards, Guards, HostGuards
from robustmarl.data.ledger import (
    TICKS_PER_READING,
    Begun,
    DeviceLedger,
    HostLedger,
    Ledger,
    Plan,
)
from robustmarl.data.opponents import Opponents, Pick, masked, restarted
from robustmarl.data.staging import HostStaging, Staging, TensorStaging, Values, flush, store
from robustmarl.data.stats import Tally, TeamCollectStats
from robustmarl.joint import StepContext, TeamSpec, VectorEngine
from robustmarl.perturbers.base import Perturber
from robustmarl.perturbers.stack import PerturberStack, listed
from robustmarl.victims import Rated

__all__ = ["JointCollector"]

_SELECT = stream_id("select")


class JointCollector(BaseCollector[TeamCollectStats]):
    """Collects episodes of one team into an :class:`EpisodeBuffer`, whole or in segments.

    In a step: perturbers' ``on_obs`` and ``shown`` -> policy -> ``on_logits`` -> sample and
    explore -> ``on_act`` -> environment. Terminal observations pass ``on_obs`` too. Episode k is
    a function of (seed, k) and the policy, however many environments play side by side, and
    every episode begun is finished and counted, so short ones are not favoured.

    With ``segments`` a collection plays all environments for the same number of ticks, and cuts
    off what is under way: the next one goes on with it, states, memory and perturbers included.
    The last observation is shown once: agents act on it in the next collection. A tick steps every
    environment but those that show their episode's last observation. Figures are of episodes that
    ended, from their first step on. What is cut off goes into the buffer as pieces, in which
    observations, ``seen`` ones too, reach one step further than actions, as at a time limit.

    Where policy and engine share an accelerator the host waits for it once in a few ticks only:
    episodes are handed to the buffer, and errors raised, that much later. Perturbers may then be
    called a few times more, with no environment ``live``.

    Args:
        policy: plays ``team``; a robustmarl algorithm or policy, or any controller.
        env: the vector environment, or a natively batched engine.
        buffer: where episodes go; None keeps none (evaluation).
        team: the team to learn from; may be None where there is only one.
        opponents: a controller for every other team.
        perturb: attacks (on all agents) or perturbers, applied in this order to what the agents
            see, and in the reverse order to what they do.
        seed: of the episodes and of everything drawn while collecting.
        segments: let episodes go on from one collection to the next; False plays whole ones.

    Raises:
        ValueError: if the policy does not fit the team, a team has no controller, or the buffer
            holds no whole episodes.

    Example:
        >>> from robustmarl import algorithms, data, envs, joint
        >>> team = algorithms.QMIX.for_env(envs.ToyGame(), seed=0)
        >>> buffer = data.EpisodeBuffer(joint.spec_of(envs.ToyGame()), episodes=10)
        >>> collector = JointCollector(team.policy, envs.ToyEngine(num_envs=2), buffer)
        >>> _ = collector.reset()
        >>> stats = collector.collect(n_episode=4)
        >>> stats.n_collected_steps, buffer.sample(batch_size=3)[0].act.shape
        (400, torch.Size([3, 100, 2]))
    """

    def __init__(
        self,
        policy: AnyPolicy,
        env: VectorEngine,
        buffer: EpisodeBuffer | None = None,
        *,
        team: str | None = None,
        opponents: Mapping[str, AnyPolicy] | None = None,
        perturb: Sequence[ObsAttack | Perturber] = (),
        seed: int = 0,
        segments: bool = False,
        _deferred: bool | None = None,  # whether to keep the books on the device; for tests
    ) -> None:
        rule, remedy = "an engine of environments", "Write envs.vector.vector_env(make_env, 8)."
        check_has("JointCollector.env", env, ("begin", "advance", "close"), rule, remedy)
        if buffer is not None:
            rule = "an EpisodeBuffer, or None"
            check_kind("JointCollector.buffer", buffer, EpisodeBuffer, rule)
        if opponents is not None:
            rule = "a mapping from teams to what plays them"
            check_kind("JointCollector.opponents", opponents, Mapping, rule)
        with speaking_for("JointCollector", TeamSpec):
            indices = env.spec.team_indices(team)
        self.team = next(name for name, members in env.spec.teams.items() if members == indices)
        self.spec = env.spec.of_team(self.team)
        self.controller = as_controller("JointCollector.policy", policy, self.spec)
        # of its environment Tianshou asks nothing here but what an action is
        asked = SimpleNamespace(action_space=env.spec.joint_action_space())
        super().__init__(
            policy=cast(Policy, self.controller),
            env=cast(BaseVectorEnv, asked),
            buffer=buffer if buffer is not None else ReplayBuffer(size=1),
            collect_stats_class=TeamCollectStats,
            raise_on_nan_in_buffer=False,
        )
        self.env = cast(BaseVectorEnv, env)
        self.engine, self.episodes_begun = env, 0
        self.seed = check_int("JointCollector.seed", seed, 0)
        self._store = buffer
        self.device = self.controller.device
        # looked up once: a protocol's isinstance asks a module for every name
        self._rated = self.controller if isinstance(self.controller, Rated) else None
        self.controller.check_spec(self.spec)
        if buffer is not None and (difference := buffer.spec.describe_difference(self.spec)):
            raise ValueError(f"JointCollector.buffer must be for this team, got {difference}.")
        segments = check_flag("JointCollector.segments", segments)
        self._carried = Carried(self.spec, len(env), segments)
        if buffer is not None and not segments:
            rule = f"of {self.spec.horizon} steps, for whole episodes"
            whole = buffer.steps >= self.spec.horizon
            check(whole, "JointCollector.buffer", rule, buffer.steps, "Leave its steps out.")
        self._engine_device = env.tensors["obs"].device
        self._pick = Pick(env.spec, self.team, self._engine_device)
        self.stack = PerturberStack(listed("JointCollector.perturb", perturb))
        self.stack.bind(self.spec, self.controller.victim())
        together = self.device == self._engine_device
        on_cpu = self.device.type == "cpu"
        self._deferred = together and not on_cpu if _deferred is None else _deferred
        self._in_numpy = on_cpu and not self._deferred
        self._unmoved = together and self._in_numpy  # asking a tensor whether it is here is dear
        self._opponents = Opponents(
            opponents or {}, env.spec, self.team, len(env), self._engine_device, self._new_guards
        )
        self._allocate()
        # Between two steps of an engine a call finds nothing of its code in the caches: numpy's
        # then take a few microseconds, torch's fifty. On the CPU, views do most of the work.
        tensors = env.tensors
        self._as_shown = together and self._pick.whole  # arrays need be neither moved nor cut
        self._views: dict[str, NDArray[np.generic]] = {}
        if self._in_numpy and self._as_shown:
            self._views = {key: values.numpy() for key, values in tensors.items()}

    def _allocate(self) -> None:
        size, device, horizon = len(self.engine), self.device, self.spec.horizon
        self._ledger: Ledger
        self._staging: Staging
        self._guards = self._new_guards(self.spec)
        if self._deferred:
            self._ledger = DeviceLedger(self.engine)
            self._staging = TensorStaging(horizon + TICKS_PER_READING)
        else:
            self._ledger = HostLedger(self.engine)
            ticks = horizon + 1  # the last observation of an episode is one more than its steps
            self._staging = HostStaging(ticks) if self._in_numpy else TensorStaging(ticks)
        self._keys = torch.zeros(size, dtype=torch.int64, device=device)
        self._lived = torch.zeros(size, self.spec.num_agents, dtype=torch.bool, device=device)
        self._last_act = self.spec.empty(size, device=device)["act"]
        shape = (size, self.spec.num_agents, self.controller.hidden_size)
        remembers = self.controller.hidden_size > 0
        self._hidden: Tensor | None = torch.zeros(shape, device=device) if remembers else None
        self._training = False

    def _new_guards(self, spec: TeamSpec) -> Guards:
        """Return what checks the steps of one team."""
        if self._deferred:
            return DeviceGuards(spec, len(self.engine), TICKS_PER_READING, self.device)
        return HostGuards(spec, self._in_numpy)

    def _validate_buffer(self) -> None:
        """Accept any :class:`EpisodeBuffer`: it has no sub-buffer per environment."""

    def _validate_n_step_n_episode(self, n_episode: int | None, n_step: int | None) -> None:
        """Take one of the two; steps need be no multiple of E where episodes are whole."""
        either = (n_step is None) != (n_episode is None)
        rule = "given either n_step or n_episode"
        check(either, "JointCollector.collect", rule, {"n_step": n_step, "n_episode": n_episode})
        name = "n_episode" if n_step is None else "n_step"
        check_int(f"JointCollector.collect.{name}", n_episode if n_step is None else n_step, 1)

    def reset(
        self,
        reset_buffer: bool = True,
        reset_stats: bool = True,
        gym_reset_kwargs: dict[str, Any] | None = None,
    ) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
        """Forget the buffer if asked; episodes begin anew in the next :meth:`collect`."""
        self._carried.context = None
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
                episodes than the buffer has room for are begun. For segments so many in all
                environments together, of which the ticks that show last observations are a part.
            n_episode: episodes, >= 1; none for segments.
            random: refused; use :class:`RandomController`.
            render: refused; use ``evaluation.rollout``.
            reset_before_collect: without effect; :meth:`reset` lets episodes begin anew.
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
        limit = n_episode
        if limit is None and self._store is not None:
            limit = self._store.room  # none of them may push out another
        ledger, self._tally, left = self._ledger, Tally(), math.inf  # ticks
        if self._carried.segments:
            left, n_step = self._carried.ticks(n_step, self._store), None
        context = self._carried.take()
        if context is None:
            ledger.forget()
            self._carried.note(self._last_act, self._hidden)
        elif limit is not None:
            limit -= len(self.engine)  # so many pieces may be under way
        ledger.open(Plan(self.seed, self.episodes_begun, limit, n_step))
        self._guards.open()
        self._opponents.open()
        while True:
            if context is None:
                begun = ledger.admit(self._staging.now)
                if begun is not None:
                    self._begin(begun)
                if ledger.over:
                    break
                context = self._show(left == 0)
            if left == 0:
                self._cut(context)
                break
            if ledger.any_playing():
                self._play(context)
            self._staging.turn()
            context, left = None, left - 1
        stats = self._tally.stats(self.spec.metrics, ledger.played)
        if self._training and isinstance(self.controller, Counting):
            self.controller.count("env_steps", ledger.played)
            self.controller.count("episodes", stats.n_collected_episodes)
        stats.counters = self.stack.counters()
        stats.earned = self._opponents.earned(stats.n_collected_episodes)
        self.episodes_begun += ledger.begun
        self.collect_step += ledger.played
        self.collect_episode += stats.n_collected_episodes
        return stats

    def state_dict(self) -> dict[str, int]:
        """Return what resuming needs: the episode counter."""
        return {"episodes_begun": self.episodes_begun, "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.episodes_begun, self.seed = state["episodes_begun"], state["seed"]

    def _begin(self, begun: Begun) -> None:
        """Forget what was, where episodes begin, and let them begin."""
        mask = begun.mask.to(self.device)
        self._keys = self._ledger.keys.to(self.device)
        self._last_act = restarted(self._last_act, mask, 0 if self.spec.continuous else -1)
        if self._hidden is not None:
            self._hidden = restarted(self._hidden, mask, 0)
        self._opponents.begin(begun.mask)
        device = self._engine_device
        self.engine.begin(begun.mask.to(device), begun.seeds.to(device))

    def _show(self, last: bool) -> StepContext:
        """Show all environments, and hand over those that have ended."""
        context = self._context(self._pick, self._last_act, self._hidden)
        if len(self.stack):
            context.observed = self._observed(context)
        self.stack.show(context)
        if self._store is not None:
            self._staging.put(self._shown(context))
        ended = self._ledger.settle(last)
        if ended is not None:
            self._guards.settle()
            self._opponents.settle()
            if len(ended.rows):
                before = self._carried.before
                returns = flush(self._staging, ended, self.spec, self._store, before)
                self._tally.add(ended, returns)
        return context

    def _cut(self, context: StepContext) -> None:
        """Hand over what is under way; where anything is, it goes on from ``context``."""
        piece = self._ledger.cut()
        if len(piece.rows):
            if self._store is not None:
                store(self._staging, piece, self.spec, self._store, self._carried.before)
            self._carried.note(self._last_act, self._hidden)
            self._carried.context = context

    def _play(self, context: StepContext) -> None:
        """Choose actions, step what is live, and keep what came of it."""
        output, hidden = self.controller.infer(context)
        self._guards.output(output, context)
        if not self.spec.continuous:
            self._guards.mask(context)
            output = masked(output, context.mask, self._in_numpy)
        unchanged = output
        output = self.stack.on_logits(context, output)
        if self.stack.changes_logits:
            self._guards.changed(output, context)
        draws = Draws(self._keys).at(context.step, _SELECT)
        act, logp = self.controller.select(output, context.mask, draws, self._training)
        executed = self.stack.on_act(context, act)
        told = self.stack.told
        differs = output is not unchanged or told is not act
        if self.stack.told_executed and differs and logp is not None and self._rated is not None:
            logp = self._rated.log_prob(unchanged, told)
        joint = executed
        if len(self._opponents):
            joint = self._opponents.joint_act(executed, self._context)
        live = self._ledger.live
        if not self._unmoved:
            joint, live = joint.to(self._engine_device), live.to(self._engine_device)
        self.engine.advance(joint, live)
        self._opponents.count(self.engine.tensors["rew_agents"], live)
        self._guards.horizon(self._ledger.count_step(self.spec.horizon))
        self._guards.turn()
        arrays: dict[str, Values] = {"rew_agents": self._rewards()}
        if self._store is not None:
            arrays["act"] = told
            if logp is not None:
                arrays["logp"] = logp
            if self.stack.acts_differ:
                arrays["act_intended"], arrays["act_exec"] = act, executed
            record = self.controller.record()
            arrays |= {f"policy/{key}": values for key, values in record.items()}
            arrays |= self.stack.records()
        self._staging.put(arrays)
        self._last_act = told
        self._hidden = hidden if self._hidden is not None else None

    def _rewards(self) -> Values:
        """Return what this team's agents earned, where the ring of ticks wants it."""
        if self._views:
            return self._views["rew_agents"]
        return self._pick(self.engine.tensors["rew_agents"]).to(self.device)

    def _context(self, pick: Pick, last_act: Tensor, hidden: Tensor | None) -> StepContext:
        """Return what is shown of all environments, cut to a team's slice."""
        tensors, ledger, device = self.engine.tensors, self._ledger, self.device
        shown = {key: tensors[key] for key in ("obs", "mask", "alive", "state")}
        step, live, terminal = ledger.steps(), ledger.live, ledger.terminal
        if not (self._as_shown and pick is self._pick):
            state = pick.state(shown.pop("state"))
            shown = {key: pick(values).to(device) for key, values in shown.items()}
            shown["state"], step = state.to(device), step.to(device)
            live, terminal = live.to(device), terminal.to(device)
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
            live=live,
            terminal=terminal,
        )

    def _observed(self, context: StepContext) -> Tensor:
        """Return who has an observation: at an episode's end, who lived until then."""
        observed = context.alive
        if self._deferred or bool(self._ledger.terminal.any()):  # asking is dear on a device
            observed = observed | (context.terminal[:, None] & self._lived)
        self._lived = context.alive.clone()  # the engine overwrites its own
        return observed

    def _shown(self, context: StepContext) -> dict[str, Values]:
        """Return what a learner is to know of this tick's observations."""
        arrays: dict[str, Values] = {
            "obs": context.obs,
            "mask": context.mask,
            "state": context.state,
            "alive": context.alive,
        }
        if self._views:
            arrays = {key: self._views[key] for key in arrays}
        if len(self.stack):
            arrays["seen"] = context.seen
        return arrays
