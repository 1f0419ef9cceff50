"""Many battles at once: which of them begin, which are stepped, and what is said of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustmarl._checks import check, check_choice, check_int, check_usable
from robustmarl.envs.scenes import Stage
from robustmarl.envs.skirmish._ops import Arena, Array, ops_for
from robustmarl.envs.skirmish.battles import METRICS, Battles
from robustmarl.envs.skirmish.compiled import Compiled, can_compile
from robustmarl.envs.skirmish.dynamics import Dynamics
from robustmarl.envs.skirmish.encoder import Encoder
from robustmarl.envs.skirmish.formations import Formation
from robustmarl.envs.skirmish.layout import NO_OP, STOP, Layout
from robustmarl.envs.skirmish.maps import SkirmishMap, map_of
from robustmarl.envs.skirmish.referee import Referee
from robustmarl.envs.skirmish.rules import DIFFICULTIES, FIRST_ENERGY, TICKS_TO_CALM
from robustmarl.envs.skirmish.stage import SkirmishStage
from robustmarl.envs.skirmish.tables import Tables
from robustmarl.joint import TeamSpec, check_act, check_flags, check_seeds, flagged

__all__ = ["SkirmishEngine"]

# If at least this part of the environments is to be stepped, all are, and those left out are put
# back. Measured on small maps, that costs about as much here as to copy the others out and in;
# it costs less where the ones left out have ended, and need no putting back, as is the rule while
# a collector waits for the last episodes.
_MOST = 0.6

# Steps of an environment that a process takes in numpy before it loads compiled code: what is done
# with less need not wait for it. numpy takes them in a tenth of a second to two seconds, loading
# takes about half a second, and compiling, once per installation, about ten.
_INTERPRETED = 5_000

# Batches of fewer environments come in this many sizes, each with views of its own laid out once.
_SIZES = 16


class _Batch(NamedTuple):
    """Battles that are stepped together, and what writes down what their agents see."""

    battles: Battles
    encoder: Encoder


class SkirmishEngine:
    """E battles on one map, stepped together; a ``VectorEngine`` that the collector can drive.

    Every episode follows from its seed alone, however many environments play beside it. numpy and
    numba step those that are asked for; torch steps all and undoes it in the others, so that it
    never has to wait until the device says which those are. numba compiles the rules that numpy
    goes by, and every bit comes out the same.

    Args:
        game: a map, or the name of one of ``MAPS``.
        num_envs: E, >= 1.
        difficulty: ``"easy"``, ``"normal"`` or ``"hard"``, see ``DIFFICULTIES``.
        illegal: what happens to actions that are masked or out of range: ``"replace"`` them by
            stop (no-op for the dead) and count them, or ``"refuse"`` them, for which torch waits
            for the device.
        reward: ``"positive"`` or ``"signed"``, see ``robustmarl.envs.skirmish``.
        device: where the arrays are.
        backend: ``"numba"``, ``"numpy"`` or ``"torch"``. None is torch on an accelerator, and on
            the CPU numpy for the first few thousand steps of a process, then numba if it is there.

    Attributes:
        battles: the state of all environments; after changes by hand call :meth:`encode`.
        dynamics: what steps them where nothing is compiled.
        tensors: see ``robustmarl.joint.VectorEngine``.

    Raises:
        TypeError: for an argument of a wrong kind.
        ValueError: for a value out of range, a device that torch cannot use, another backend than
            torch on another device than the CPU, or numba where it cannot compile.

    Example:
        >>> engine = SkirmishEngine("3m", num_envs=4)
        >>> engine.spec.num_agents, engine.spec.num_actions, engine.spec.horizon
        (3, 9, 60)
    """

    _interpreted: ClassVar[int] = 0  # steps of an environment that this process took in numpy

    def __init__(
        self,
        game: str | SkirmishMap,
        num_envs: int = 1,
        *,
        difficulty: str = "normal",
        illegal: str = "replace",
        reward: str = "positive",
        device: torch.device | str = "cpu",
        backend: str | None = None,
    ) -> None:
        self.game = map_of(game, "SkirmishEngine.game")
        num_envs = check_int("SkirmishEngine.num_envs", num_envs, 1)
        check_choice("SkirmishEngine.difficulty", difficulty, DIFFICULTIES)
        check_choice("SkirmishEngine.illegal", illegal, ("replace", "refuse"))
        check_choice("SkirmishEngine.reward", reward, ("positive", "signed"))
        check_choice("SkirmishEngine.backend", backend, (None, "numba", "numpy", "torch"))
        self.device = check_usable("SkirmishEngine.device", device)
        on_cpu = self.device.type == "cpu"
        fits = on_cpu or backend in (None, "torch")
        check(fits, "SkirmishEngine.backend", f"'torch' on {self.device}", backend)
        if backend == "numba":
            remedy = "It is not installed, or NUMBA_DISABLE_JIT is set."
            rule = "one that works here: 'numpy', or None for the fastest"
            check(can_compile(), "SkirmishEngine.backend", rule, backend, remedy)
        self._by_index = on_cpu and backend != "torch"
        self._waits = on_cpu  # whether to ask if a mask holds for all or for nobody
        self.layout = layout = Layout(self.game)
        self.spec = TeamSpec(
            agents=tuple(f"agent_{i}" for i in range(layout.n)),
            teams={"team": tuple(range(layout.n))},
            obs_sizes=(layout.obs_size,) * layout.n,
            action_sizes=(layout.num_actions,) * layout.n,
            continuous=False,
            state_size=layout.state_size,
            state_layout="joint",
            team_reward="mean",
            horizon=self.game.limit,
            metrics=METRICS,
        )
        self._settings: dict[str, Any] = {
            "difficulty": difficulty,
            "illegal": illegal,
            "reward": reward,
            "device": self.device,
            "backend": backend,
        }
        self._num_envs, self._refuse = num_envs, illegal == "refuse"
        self._compiles = self._by_index and backend != "numpy" and bool(find_spec("numba"))
        self._compiled: Compiled | None = None
        self.ops = ops_for("numpy" if self._by_index else "torch", self.device)
        tactics = DIFFICULTIES[difficulty]
        self._tables = Tables(self.ops, layout, tactics)
        self._formation = Formation(self.game, self.ops, self.device)
        self.dynamics = Dynamics(self.ops, layout, self._tables, tactics)
        self._referee = Referee(self.ops, layout, self._tables, signed=reward == "signed")
        self._arena = Arena(self.ops)
        self._all = self._batch(self._arena, num_envs)
        self.battles = self._all.battles
        self._first = self._first_figures()
        self._scratch: Arena | None = None
        self._batches: dict[int, _Batch] = {}
        self.tensors: dict[str, Tensor] = {
            key: self.ops.tensor(array) for key, array in self.battles.out.items()
        }
        # what is put back where a step was not asked for: environments last, then first
        self._lanes = [self.battles.packed, self.battles.target]
        self._rows = [self.battles.act, *self.battles.out.values()]
        self._saved: list[Array] = []
        everywhere = torch.ones(num_envs, dtype=torch.bool, device=self.device)
        self.begin(everywhere, torch.zeros(num_envs, dtype=torch.int64, device=self.device))

    def stage(self) -> Stage:
        """Return what tells where everybody is in the first battle."""
        return SkirmishStage(self, DIFFICULTIES[self._settings["difficulty"]])

    def __len__(self) -> int:
        return self._num_envs

    def __getstate__(self) -> dict[str, Any]:
        kept = [self.ops.host(values).copy() for values in (*self._lanes, *self._rows)]
        settings = {"game": self.game, "num_envs": self._num_envs, **self._settings}
        return {"settings": settings, "kept": kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # made anew, since most arrays are views of others, which copies would not be
        self.__init__(**state["settings"])  # type: ignore[misc]
        for values, kept in zip((*self._lanes, *self._rows), state["kept"], strict=True):
            values[...] = self.ops.bring(torch.from_numpy(kept))

    def close(self) -> None:
        """Do nothing: there is only memory to release."""

    def begin(self, mask: Tensor, seeds: Tensor) -> None:
        """Start new episodes where ``mask``, bool (E,), each from its seed, int64 (E,).

        Raises:
            TypeError: if ``mask`` or ``seeds`` are tensors of another kind.
            ValueError: if one has another shape.
        """
        check_seeds("SkirmishEngine.begin.seeds", seeds, self._num_envs)
        if not self._by_index:
            check_flags("SkirmishEngine.begin.mask", mask, self._num_envs)
            if self._waits and not bool(mask.any()):
                return
            with self._only_where(mask):
                self._set_out(self.battles, seeds)
                self.encode()
            return
        rows = flagged("SkirmishEngine.begin.mask", mask, self._num_envs)
        if not len(rows):
            return
        if self._compiled is not None:
            self._compiled.begin(rows, seeds.numpy())
            return
        (battles, encoder), index = self._take(rows, load=False)
        here = seeds if index is None else seeds[torch.from_numpy(index)]
        self._set_out(battles, here)
        encoder.write()
        self._put_back(battles, index)

    def advance(self, act: Tensor, active: Tensor) -> None:
        """Step the environments that are ``active``, bool (E,), with ``act``, int64 (E, N).

        Raises:
            TypeError: if ``act`` is not a tensor of integers, or ``active`` not of flags.
            ValueError: if one has another shape, or ``act`` holds a refused action.
        """
        check_act("SkirmishEngine.advance.act", act, self.spec, self._num_envs)
        joint = self.ops.bring(act)
        if not self._by_index:
            check_flags("SkirmishEngine.advance.active", active, self._num_envs)
            with self._only_where(active):
                self._play(self._all, joint, None, self.ops.bring(active))
            return
        rows = flagged("SkirmishEngine.advance.active", active, self._num_envs)
        if not len(rows):
            return
        if (compiled := self._when_it_pays(len(rows))) is not None:
            if self._refuse:
                self._available(joint[rows], self.ops.array(rows, "int64"), None)
            compiled.advance(rows, joint)
            return
        if self._num_envs > len(rows) >= _MOST * self._num_envs:
            self._advance_most(joint, self.ops.bring(active))
            return
        batch, index = self._take(rows, load=True)
        self._play(batch, joint if index is None else joint[index], index, None)
        self._put_back(batch.battles, index)

    def encode(self) -> None:
        """Write ``tensors`` anew, after the units of ``battles`` were changed by hand."""
        self._all.encoder.write()

    def _first_figures(self) -> Array:
        """Return what units are when an episode begins, as in ``packed``, (7 U + 2, 1)."""
        battles, tables = self.battles, self._tables
        battles.packed[...] = 0.0
        battles.health[...] = tables.health
        battles.shield[...] = tables.shield
        battles.energy[...] = FIRST_ENERGY
        battles.since_hit[...] = TICKS_TO_CALM
        return self.ops.copy(battles.packed[:, :1])

    def _set_out(self, battles: Battles, seeds: Tensor) -> None:
        """Place all units as the episodes of these seeds begin."""
        battles.packed[...] = self._first
        battles.pos[...] = self._formation.start(seeds)
        battles.target[...] = self._tables.first_target
        battles.act[...] = -1
        for key in ("rew_agents", "terminated", "truncated", "metrics"):
            battles.out[key][...] = 0

    def _when_it_pays(self, steps: int) -> Compiled | None:
        """Return compiled code, unless there is none, or not enough to do for it yet."""
        if self._compiled is None and self._compiles:
            settings = self._settings
            if settings["backend"] is None:
                if SkirmishEngine._interpreted < _INTERPRETED:
                    SkirmishEngine._interpreted += steps
                    return None
                if not can_compile():
                    self._compiles = False
                    return None
            self._compiled = Compiled(
                self.layout,
                self._tables,
                self._formation,
                DIFFICULTIES[settings["difficulty"]],
                self.battles,
                self._first,
                signed=settings["reward"] == "signed",
            )
        return self._compiled

    @contextmanager
    def _only_where(self, mask: Tensor) -> Iterator[None]:
        """Undo what happens inside, except in the environments of ``mask``, bool (E,)."""
        if self._waits and bool(mask.all()):
            yield
            return
        ops = self.ops
        if not self._saved:
            self._saved = [ops.copy(values) for values in (*self._lanes, *self._rows)]
        for saved, values in zip(self._saved, (*self._lanes, *self._rows), strict=True):
            saved[...] = values
        yield
        others = ~ops.bring(mask)
        for lane, saved in zip(self._lanes, self._saved, strict=False):
            ops.put_where(lane, saved, others)
        for row, saved in zip(self._rows, self._saved[len(self._lanes) :], strict=True):
            one_each = others.reshape(-1, *[1] * (len(row.shape) - 1))
            ops.put_where(row, saved, one_each)

    def _advance_most(self, joint: Array, active: Array) -> None:
        """Advance everything, and put back what was left out in the middle of an episode."""
        ops, battles = self.ops, self.battles
        out = battles.out
        # nobody asks an ended episode for more than it shows: that is not put back
        ended = out["terminated"] | out["truncated"]
        kept = np.flatnonzero(ops.host(~(active | ended)))
        if not len(kept):
            self._play(self._all, joint, None, active)
            return
        index = ops.array(kept, "int64")
        packed, target = battles.packed[:, index], battles.target[:, index]
        act, shown = battles.act[index], {key: values[index] for key, values in out.items()}
        self._play(self._all, joint, None, active)
        battles.packed[:, index], battles.target[:, index] = packed, target
        battles.act[index] = act
        for key, values in shown.items():
            out[key][index] = values

    def _play(self, batch: _Batch, act: Array, index: Array | None, active: Array | None) -> None:
        """Advance a batch by one step, and write what came of it.

        Args:
            batch: the battles.
            act: theirs.
            index: the environments that they stand for, None for all.
            active: whose actions may be refused, None for all.
        """
        battles, encoder = batch
        self._legalise(battles, act, index, active)
        before = self._referee.look(battles)
        self.dynamics.step(battles)
        self._referee.judge(battles, before)
        encoder.write()
        self._referee.send_off(battles)

    def _legalise(
        self, battles: Battles, act: Array, index: Array | None, active: Array | None
    ) -> None:
        """Put legal actions into ``battles.act``, and count those that had to be replaced."""
        legal = self._available(act, index, active)
        fallback = self.ops.xp.where(battles.health[: self.layout.n].T > 0, STOP, NO_OP)
        battles.act[...] = self.ops.xp.where(legal, act, fallback)
        battles.illegal += (~legal).sum(1)

    def _available(self, act: Array, index: Array | None, active: Array | None) -> Array:
        """Return which actions are available; refuse the others, if that was asked for."""
        xp, size, mask = self.ops.xp, self.layout.num_actions, self.battles.out["mask"]
        inside = xp.clip(act, 0, size - 1)
        if index is not None:
            mask = mask[index]
        place = self.ops.arange(len(act) * self.layout.n).reshape(len(act), -1) * size
        legal = xp.take(mask, place + inside) & (inside == act)
        if self._refuse:
            self._refuse_illegal(act, legal if active is None else legal | ~active[:, None], index)
        return legal

    def _refuse_illegal(self, act: Array, legal: Array, index: Array | None) -> None:
        if bool(legal.all()):
            return
        row, agent = np.argwhere(~np.asarray(self.ops.host(legal), np.bool_))[0].tolist()
        check(
            False,
            "SkirmishEngine.advance.act",
            f"an available action of agent {agent} in environment "
            f"{row if index is None else int(index[row])}",
            int(act[row, agent]),
            "See tensors['mask'], or pass illegal='replace'.",
        )

    def _batch(self, arena: Arena, size: int) -> _Batch:
        battles = Battles(self.ops, self.layout, arena, size, together=self._compiles)
        return _Batch(battles, Encoder(self.layout, self._tables, self.ops, battles, arena))

    def _take(self, rows: NDArray[np.int64], *, load: bool) -> tuple[_Batch, Array | None]:
        """Return battles to work on, and the environments they stand for (None: all).

        ``load`` copies these environments' state into them. The last one fills up a batch that
        is larger than asked for, which does no harm: all its copies come to the same.
        """
        if len(rows) == self._num_envs:
            return self._all, None
        coarse = max(1, self._num_envs // _SIZES)
        size = min(self._num_envs, -(-len(rows) // coarse) * coarse)
        if size not in self._batches:
            if self._scratch is None:
                self._scratch = Arena(self.ops, self._arena.used)
            self._scratch.rewind()  # batches of all sizes share memory: one is in use at a time
            self._batches[size] = self._batch(self._scratch, size)
        batch = self._batches[size]
        padded = np.concatenate([rows, np.full(size - len(rows), rows[-1])])
        index = self.ops.array(padded, "int64")
        if load:
            batch.battles.packed[...] = self.battles.packed[:, index]
            batch.battles.target[...] = self.battles.target[:, index]
        return batch, index

    def _put_back(self, battles: Battles, index: Array | None) -> None:
        """Copy what a batch has become to the environments it stands for."""
        if index is None:
            return
        self.battles.packed[:, index] = battles.packed
        self.battles.target[:, index] = battles.target
        self.battles.act[index] = battles.act
        for key, values in battles.out.items():
            self.battles.out[key][index] = values
