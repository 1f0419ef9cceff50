"""Collecting without waiting for the device: the same episodes, and no look at it in between.

An accelerator's way is forced on the CPU here, where it can be compared and watched.
"""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from doubles import Scripted, armies
from tianshou.utils.torch_utils import policy_within_training_step
from torch.utils._python_dispatch import TorchDispatchMode

from robustmarl import _seeding
from robustmarl.algorithms import IPPO, MAPPO, QMIX
from robustmarl.attacks import PGD, UniformNoise, gradient
from robustmarl.budgets import LinfBall
from robustmarl.data import EpisodeBuffer, JointCollector, RandomController, ledger
from robustmarl.data import collector as collector_module
from robustmarl.data import guards as guards_module
from robustmarl.data import opponents as opponents_module
from robustmarl.envs import SkirmishEngine
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import MASKED, spec_of
from robustmarl.perturbers import ObsPerturber
from robustmarl.victims._view import View

NOISE = UniformNoise(ball=LinfBall(epsilon=0.25))
ATTACK = PGD(ball=LinfBall(epsilon=0.25), steps=2)


def collected(engine, policy, deferred, *, capacity=64, training=True, team=None, **settings):
    """Return (buffer, statistics of two collections)."""
    wanted = settings.pop("wanted", {"n_episode": 13})
    store = EpisodeBuffer(engine.spec.of_team(team), capacity)
    collector = JointCollector(
        policy, engine, store, team=team, seed=3, _deferred=deferred, **settings
    )
    if not training:
        return store, [collector.collect(**wanted) for _ in range(2)]
    with policy_within_training_step(policy.policy):
        return store, [collector.collect(**wanted) for _ in range(2)]


def assert_same(one, two):
    (store, told), (other, told_too) = one, two
    a, b = store.sample(0)[0], other.sample(0)[0]
    assert torch.equal(a.valid, b.valid)
    reached = torch.cat([torch.ones_like(a.valid[:, :1]), a.valid], dim=1)
    left, right = a.flat(), b.flat()
    assert left.keys() == right.keys()
    for key, values in left.items():
        where = reached if key.startswith("obs.") else a.valid
        assert torch.equal(values[where], right[key][where]), key
    for stats, others in zip(told, told_too, strict=True):
        assert stats.returns.tolist() == others.returns.tolist()
        assert stats.lens.tolist() == others.lens.tolist()
        assert stats.counters == others.counters
        assert stats.n_collected_steps == others.n_collected_steps
        assert stats.n_collected_episodes == others.n_collected_episodes
        for name, values in stats.metrics.items():
            np.testing.assert_array_equal(values, others.metrics[name])


GAMES = {
    "short": {"lengths": (1, 2, 9), "metrics": ("u", "steps"), "masks": "info"},
    "deaths": {"n": 3, "deaths": {1: 2}, "arrivals": {2: 2}, "lengths": (3, 17)},
    "ends": {"lengths": (4, 5), "end": "mixed", "obs_sizes": (5, 3), "team_reward": "mean"},
}


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("kind", ["qmix", "gru"])
@pytest.mark.parametrize("num_envs", [1, 4])
def test_both_ways_play_the_same_episodes(game, kind, num_envs):
    def make():
        return Scripted(**GAMES[game])

    results = []
    for deferred in (False, True):
        if kind == "qmix":
            team = QMIX.for_env(make(), hidden=(8,), embed=4, hyper_hidden=4, exploration=0.5)
        else:
            team = IPPO.for_env(make(), hidden=(8,), recurrent=True, last_action=True)
        noise = ObsPerturber(NOISE, probability=0.7, agents=["a1"])
        noise._waits = not deferred
        engine = JointVectorEnv(make, num_envs)
        results.append(collected(engine, team, deferred, perturb=[noise, NOISE]))
    assert_same(*results)


@pytest.mark.parametrize("wanted", [{"n_step": 1}, {"n_step": 30}, {"n_step": 200}])
@pytest.mark.parametrize("capacity", [3, 64])
def test_both_ways_begin_the_same_number_of_episodes(wanted, capacity):
    def make():
        return Scripted(lengths=(2, 6))

    team = RandomController(spec_of(make()))
    one, two = (
        collected(
            JointVectorEnv(make, 4), team, way, capacity=capacity, training=False, wanted=wanted
        )
        for way in (False, True)
    )
    assert_same(one, two)


def test_both_ways_play_against_other_teams():
    blue = RandomController(spec_of(armies(2)).of_team("blue"))
    red = IPPO.for_env(spec_of(armies(2)), team="red", hidden=(8,))
    one, two = (
        collected(
            JointVectorEnv(lambda: armies(2), 3),
            red,
            way,
            team="red",
            opponents={"blue": blue},
            perturb=[NOISE],
        )
        for way in (False, True)
    )
    assert_same(one, two)


def test_errors_come_later_and_name_the_same_step():
    class Stuck(Scripted):
        def _infos(self, agents):
            infos = super()._infos(agents)
            if self.t == 2:
                infos["a1"]["action_mask"] = np.zeros(3, np.int8)
            return infos

    sick = QMIX.for_env(Scripted(), hidden=(8,), agent_id=True)
    with torch.no_grad():
        sick.policy.network.id_table[1] = torch.nan
    cases = [
        (sick, Scripted, r"logits must be finite, got \[nan.*environment 0, agent 'a1', step 0"),
        (None, Stuck, "must leave an action.*environment 0.*'a1', step 2"),
        (None, lambda: Scripted(lengths=(50,), horizon=3), "environment 0 must end.*horizon of 3"),
    ]
    for team, make, text in cases:
        policy = team or RandomController(spec_of(make()))
        collector = JointCollector(policy, JointVectorEnv(make, 2), _deferred=True)
        for _ in range(2):
            with pytest.raises(ValueError, match=text):
                collector.collect(n_episode=2)


class Watch(TorchDispatchMode):
    """Refuses operations for which an accelerator has to be waited for."""

    REFUSED = ("_local_scalar_dense", "nonzero", "item", "is_nonzero", "masked_select", "unique")

    def __init__(self):
        super().__init__()
        self.allowed, self.readings = True, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.partition(".")[0]
        if not self.allowed:
            assert name not in self.REFUSED, f"{func} waits"
            if name in ("index", "index_put", "index_put_", "_unsafe_index"):
                kinds = [None if index is None else index.dtype for index in args[1]]
                assert torch.bool not in kinds, f"{func} by flags waits"
        return func(*args, **(kwargs or {}))

    @contextmanager
    def looking(self):
        self.allowed = False
        with self:
            yield
        self.allowed = True

    @contextmanager
    def reading(self):
        self.allowed, before = True, self.allowed
        self.readings += 1
        yield
        self.allowed = before


def watched(monkeypatch):
    """Compute as on an accelerator, and refuse to look at it except where it is read."""
    watch = Watch()
    monkeypatch.setattr(_seeding, "_native", lambda x: x)
    as_there = lambda output, mask, _: torch.where(mask, output, MASKED)  # noqa: E731
    monkeypatch.setattr(collector_module, "masked", as_there)
    monkeypatch.setattr(opponents_module, "masked", as_there)
    # the one look that is left, once per attack: whether its last gradient was finite
    monkeypatch.setattr(gradient, "all_finite", lambda _: True)
    places = [
        (ledger.DeviceLedger, "_read"),
        (guards_module.DeviceGuards, "settle"),
        (collector_module, "flush"),
    ]

    def may_read(inner):
        def read(*args, **kwargs):
            with watch.reading():
                return inner(*args, **kwargs)

        return read

    def refused(name, inner):
        def look(tensor, *args):
            assert watch.allowed, f"{name}() waits"
            return inner(tensor, *args)

        return look

    for owner, name in places:
        monkeypatch.setattr(owner, name, may_read(getattr(owner, name)))
    for name in ("numpy", "cpu", "tolist", "item", "__bool__", "__int__", "__float__"):
        monkeypatch.setattr(torch.Tensor, name, refused(name, getattr(torch.Tensor, name)))
    return watch


@pytest.mark.parametrize("kind", ["qmix", "mappo", "gru"])
@pytest.mark.parametrize("attacked", [False, True])
@pytest.mark.parametrize("game", ["3m", "2s3z"])
def test_nothing_is_read_between_two_readings(game, kind, attacked, monkeypatch):
    # an accelerator takes the steps of an attack one by one
    monkeypatch.setattr(View, "sign_steps", lambda *_: None)
    engine = SkirmishEngine(game, 6, backend="torch")
    engine._waits = False
    if kind == "qmix":
        team = QMIX.for_env(engine.spec, hidden=(8,), embed=4, hyper_hidden=4, exploration=0.5)
    else:
        team = MAPPO.for_env(engine.spec, hidden=(8,), recurrent=kind == "gru", last_action=True)
    perturber = ObsPerturber(PGD(ball=LinfBall(epsilon=0.1), steps=2))
    perturber._waits = False
    store = EpisodeBuffer(engine.spec, 16)
    perturb = [perturber] if attacked else []
    collector = JointCollector(team, engine, store, perturb=perturb, seed=1, _deferred=True)
    team.policy.counted("env_steps")  # counts change, and are read, once per round
    ticks = []
    with policy_within_training_step(team.policy), monkeypatch.context() as patch:
        watch = watched(patch)

        def in_sight(inner):
            def call(*args):
                with watch.looking():
                    return inner(*args)

            return call

        collector._show, collector._play = in_sight(collector._show), in_sight(collector._play)
        turn = collector._staging.turn
        collector._staging.turn = lambda: (turn(), ticks.append(watch.readings))
        collector._begin = in_sight(collector._begin)
        collector._ledger.admit = in_sight(collector._ledger.admit)
        stats = collector.collect(n_episode=12)
    assert len(stats.lens) == 12
    assert len(ticks) >= stats.lens.max() + 1
    read = np.flatnonzero(np.diff([0, *ticks]))
    assert (np.diff([-1, *read]) == ledger.TICKS_PER_READING).all()
    if attacked:
        assert stats.counters["0/attacked"] > 0

    there = SkirmishEngine(game, 6, backend="torch")
    plain = EpisodeBuffer(engine.spec, 16)
    pgd = [ObsPerturber(perturber.attack)] if attacked else []
    for each in pgd:
        each._waits = False
    team.policy.counts.zero_()
    with policy_within_training_step(team.policy):
        told = JointCollector(team, there, plain, perturb=pgd, seed=1).collect(n_episode=12)
    assert_same((store, [stats]), (plain, [told]))
