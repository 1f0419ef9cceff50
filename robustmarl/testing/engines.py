"""What the collector expects of a batched engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from robustmarl._checks import check_flag, check_function, check_int
from robustmarl.joint import TeamSpec, VectorEngine
from robustmarl.testing._error import ContractError

__all__ = ["check_engine"]

_NOTHING = 1_000_003  # in places that mean nothing: no action, and no seed that is used
_PAUSE = 0.3  # how often an environment that could play is left out of a step


def check_engine(
    make_engine: Callable[[int], VectorEngine],
    *,
    num_envs: int = 3,
    episodes: int = 8,
    seed: int = 0,
    stochastic: bool = True,
) -> None:
    """Check an engine against :class:`~robustmarl.joint.VectorEngine`, as the collector uses it.

    The tensors are those of the spec, on one device, finite where an episode is under way, and
    always the same ones; ``begin`` and ``advance`` change the rows that they were told and no
    others, ended ones excepted, and nothing that they were given; a mask leaves every agent an
    action, and padding none; an episode is neither terminated nor truncated until it ends as one of
    the two, within the horizon, with finite metrics; and it follows from its seed and the actions,
    bit for bit, alone or beside others, in any row, in an engine that was used before.

    Args:
        make_engine: builds an engine of as many environments as it is given.
        num_envs: of the engine that plays many, >= 2.
        episodes: that it plays, of half as many seeds, >= 4.
        seed: the first of them, >= 0.
        stochastic: whether different seeds must lead to different episodes.

    Raises:
        ContractError: naming the first promise that is broken.
        TypeError: if an argument is of a wrong kind.
        ValueError: if a number is too small.

    Example:
        >>> from robustmarl import envs
        >>> check_engine(envs.ToyEngine)
    """
    check_function("check_engine.make_engine", make_engine, "callable")
    num_envs = check_int("check_engine.num_envs", num_envs, 2)
    episodes = check_int("check_engine.episodes", episodes, 4)
    seed = check_int("check_engine.seed", seed, 0)
    stochastic = check_flag("check_engine.stochastic", stochastic)
    seeds = [seed + k for k in range(episodes // 2)]
    alone = _Driver(make_engine(1), 1)
    first = {each: trace for each in seeds for trace in alone.play([each])}
    for each, trace in zip(seeds, alone.play(seeds), strict=True):
        _demand_same(first[each], trace, f"seed {each} in an engine that was used before")
    if stochastic and not any(_differ(first[seeds[0]], first[each]) for each in seeds[1:]):
        raise ContractError(
            f"episodes of the seeds {seeds[0]} to {seeds[-1]} are identical: are the seeds "
            "ignored? Pass stochastic=False if nothing is random."
        )
    many = _Driver(make_engine(num_envs), num_envs)
    queue = [*seeds, *seeds[::-1]]  # the second time a seed falls to another row, as a rule
    for each, trace in zip(queue, many.play(queue, pauses=seed), strict=True):
        _demand_same(first[each], trace, f"seed {each} beside others")
    alone.engine.close()
    many.engine.close()


_Shown = dict[str, Tensor]
_Trace = list[_Shown]


class _Driver:
    """Plays an engine as a collector does, and looks at everything after every call."""

    def __init__(self, engine: VectorEngine, size: int) -> None:
        self.engine, self.size = engine, size
        if len(engine) != size:
            raise ContractError(f"make_engine({size}) returns an engine of {len(engine)}.")
        self.spec = engine.spec
        self.device = _check_tensors(engine, size)
        self._places = {key: values.data_ptr() for key, values in engine.tensors.items()}
        obs, actions = self.spec.obs_mask(), self.spec.action_mask()
        self._no_obs = None if obs is None else ~obs
        self._no_action = None if actions is None else ~actions

    def play(self, seeds: list[int], pauses: int | None = None) -> list[_Trace]:
        """Play an episode of each seed, and return what they showed, in this order.

        Args:
            seeds: given to rows as they become free.
            pauses: seeds who is left out of which step; None leaves nobody out.
        """
        waiting = deque(enumerate(seeds))
        traces: list[_Trace] = [[] for _ in seeds]
        playing: dict[int, int] = {}  # row to number
        rng = np.random.default_rng(pauses)
        ended = torch.zeros(self.size, dtype=torch.bool)
        while waiting or playing:
            # at most one begins per step, so that rows are at different steps of their episodes
            free = [row for row in range(self.size) if row not in playing]
            if waiting and free:
                number, seed = waiting.popleft()
                row = int(rng.choice(free))
                playing[row], ended[row] = number, False
                self._begin(row, seed, unseen=ended)
                traces[number].append(self._look(row, 0))
            active = [row for row in playing if pauses is None or rng.random() >= _PAUSE]
            steps = {row: len(traces[playing[row]]) for row in active}
            self._advance(steps, unseen=ended)
            for row in active:
                shown = self._look(row, steps[row])
                traces[playing[row]].append(shown)
                if bool(shown["terminated"] | shown["truncated"]):
                    ended[row] = True
                    del playing[row]
        return traces

    def _begin(self, row: int, seed: int, unseen: Tensor) -> None:
        mask = torch.zeros(self.size, dtype=torch.bool)
        mask[row] = True
        seeds = torch.where(mask, seed, _NOTHING)
        given = mask.clone().to(self.device), seeds.clone().to(self.device)
        before = self._snapshot()
        self.engine.begin(*given)
        self._check_change("begin", before, mask | unseen)
        _demand_unchanged("begin", given, (mask, seeds))

    def _advance(self, steps: Mapping[int, int], unseen: Tensor) -> None:
        """Step rows with legal actions that follow from the numbers of their steps."""
        active = torch.zeros(self.size, dtype=torch.bool)
        shape = (self.size, *self.spec.action_shape())
        act = torch.full(shape, float("nan")) if self.spec.continuous else torch.zeros(shape).long()
        if not self.spec.continuous:
            act += _NOTHING
        for row, step in steps.items():
            active[row] = True
            act[row] = self._action(row, np.random.default_rng(step))
        given = act.clone().to(self.device), active.clone().to(self.device)
        before = self._snapshot()
        self.engine.advance(*given)
        self._check_change("advance", before, active | unseen)
        _demand_unchanged("advance", given, (act, active))

    def _action(self, row: int, rng: np.random.Generator) -> Tensor:
        if self.spec.continuous:
            drawn = rng.uniform(-1.0, 1.0, self.spec.action_shape())
            return torch.from_numpy(drawn.astype(np.float32))
        mask = self.engine.tensors["mask"][row].cpu().numpy()
        return torch.from_numpy((rng.random(mask.shape) * mask).argmax(-1))

    def _snapshot(self) -> _Shown:
        return {key: values.cpu().clone() for key, values in self.engine.tensors.items()}

    def _check_change(self, method: str, before: _Shown, may: Tensor) -> None:
        for key, values in self.engine.tensors.items():
            if values.data_ptr() != self._places[key]:
                raise ContractError(f"{method} replaces tensors[{key!r}]: write into it instead.")
            now, then = values.cpu(), before[key]
            changed = (now != then) & ~((now != now) & (then != then))
            bad = changed.flatten(1).any(1) & ~may if changed.dim() > 1 else changed & ~may
            if bool(bad.any()):
                row = int(bad.nonzero()[0])
                raise ContractError(
                    f"{method} changes tensors[{key!r}] of environment {row}, which was not asked."
                )

    def _look(self, row: int, step: int) -> _Shown:
        """Return what a row shows after ``step`` steps, of which everything must be in order."""
        shown = {key: values[row].cpu().clone() for key, values in self.engine.tensors.items()}
        where = f"environment {row}, step {step}"
        over = bool(shown["terminated"]) or bool(shown["truncated"])
        for key in ("obs", "state", "rew_agents", *(["metrics"] if over else [])):
            bad = ~torch.isfinite(shown[key])
            if bool(bad.any()):
                value = float(shown[key][bad][0])
                raise ContractError(f"tensors[{key!r}] must be finite, got {value} in {where}.")
        if self._no_obs is not None and bool(shown["obs"][self._no_obs].any()):
            raise ContractError(f"padding of observations must be 0, is not in {where}.")
        if not self.spec.continuous and not bool(shown["mask"].any(-1).all()):
            raise ContractError(f"tensors['mask'] must leave every agent an action in {where}.")
        if self._no_action is not None and bool(shown["mask"][self._no_action].any()):
            raise ContractError(f"actions that an agent does not have are available in {where}.")
        if bool(shown["terminated"]) and bool(shown["truncated"]):
            raise ContractError(f"an episode is both terminated and truncated in {where}.")
        if over and step == 0:
            raise ContractError(f"an episode has ended when it begins, in environment {row}.")
        if not over and step >= self.spec.horizon:
            raise ContractError(
                f"an episode goes on after {step} steps in environment {row}: the horizon of the "
                f"spec is {self.spec.horizon}."
            )
        if not over:  # before the end they mean nothing
            shown["metrics"] = torch.zeros(0)
        if step == 0:
            shown["rew_agents"] = torch.zeros(0)
        return shown


def _check_tensors(engine: VectorEngine, size: int) -> torch.device:
    """Return the device of the tensors, which must be as the spec says."""
    spec = engine.spec
    if not isinstance(spec, TeamSpec):
        raise ContractError(f"engine.spec must be a TeamSpec, got {spec!r}.")
    want = {key: values for key, values in spec.empty(size).items() if key != "act"}
    want |= {key: torch.zeros(size, dtype=torch.bool) for key in ("terminated", "truncated")}
    want["metrics"] = torch.zeros(size, len(spec.metrics))
    if missing := sorted(want.keys() - engine.tensors.keys()):
        raise ContractError(f"engine.tensors must have {sorted(want)}, lacks {missing}.")
    for key, like in want.items():
        values = engine.tensors[key]
        if (values.shape, values.dtype) != (like.shape, like.dtype):
            raise ContractError(
                f"tensors[{key!r}] must be {like.dtype} of shape {tuple(like.shape)}, got "
                f"{values.dtype} of shape {tuple(values.shape)}."
            )
    devices = {str(values.device) for values in engine.tensors.values()}
    if len(devices) > 1:
        raise ContractError(f"engine.tensors must be on one device, got {sorted(devices)}.")
    return engine.tensors["obs"].device


def _demand_unchanged(
    method: str, given: tuple[Tensor, Tensor], before: tuple[Tensor, Tensor]
) -> None:
    for now, then in zip(given, before, strict=True):
        if not torch.equal(now.cpu().nan_to_num(), then.nan_to_num()):
            raise ContractError(f"{method} writes into a tensor that it was given.")


def _differ(one: _Trace, other: _Trace) -> str | None:
    """Return what differs first between two episodes, None if nothing does."""
    for step, (left, right) in enumerate(zip(one, other, strict=False)):
        for key, values in left.items():
            if not torch.equal(values, right[key]):
                return f"tensors[{key!r}] after {step} steps"
    return None if len(one) == len(other) else f"the length, {len(one) - 1} and {len(other) - 1}"


def _demand_same(one: _Trace, other: _Trace, which: str) -> None:
    if what := _differ(one, other):
        raise ContractError(
            f"the episode of {which} is another than alone in a new engine: {what} differ."
        )
