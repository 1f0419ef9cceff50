"""The wrapper plays what the collector's hook plays, and says what it did."""

import copy
import functools
import pickle

import numpy as np
import pytest
import torch
from doubles import Scripted
from learners import Arena
from pettingzoo.test import parallel_api_test
from tianshou.algorithm.algorithm_base import OffPolicyAlgorithm
from tianshou.utils.torch_utils import policy_within_training_step

from robustmarl._seeding import Draws, episode_key, stream_id
from robustmarl.algorithms import COMA, DOP, IPPO, MAPPO, QMIX, OwnActionValues
from robustmarl.attacks import JAttack, RandomAttack, VarianceAttack
from robustmarl.data import EpisodeBuffer, JointCollector
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import MASKED
from robustmarl.perturbers import ActionPoisonPerturber
from robustmarl.testing import check_wrapper
from robustmarl.wrappers import ActionPoisonWrapper

ATTACKS = [RandomAttack(), VarianceAttack(samples=2), VarianceAttack(scope="head"), JAttack()]


class AttackableIPPO(OwnActionValues, IPPO):
    """PPO with the adversary's critic."""


def learners(make_env):
    return {
        "COMA": COMA.for_env(make_env(), hidden=(8,), exploration=0.0),
        "DOP": DOP.for_env(make_env(), hidden=(8,), exploration=0.0),
        "IPPO": AttackableIPPO.for_env(make_env(), hidden=(8, 8), last_action=True),
        "QMIX": QMIX.for_env(make_env(), hidden=(8,), exploration=0.0),
    }


def collect(learner, make_env, episodes, perturb=(), seed=5):
    buffer = EpisodeBuffer(learner.spec, episodes)
    collector = JointCollector(
        learner, JointVectorEnv(make_env, episodes), buffer, perturb=perturb, seed=seed
    )
    with policy_within_training_step(learner.policy):
        collector.collect(n_episode=episodes)
    return buffer


def updated(learner, make_env):
    off = isinstance(learner, OffPolicyAlgorithm)
    how = {"sample_size": 4} if off else {"batch_size": None, "repeat": 1}
    buffer = collect(learner, make_env, 4)
    with policy_within_training_step(learner.policy):
        learner.update(buffer=buffer, **how)
    return learner


def play(env, learner, seed):
    """Play an episode through PettingZoo, agents drawing as the collector's do."""
    spec, network = learner.spec, learner.policy.network
    obs, _ = env.reset(seed=seed)
    key = torch.tensor([episode_key(seed, 0)])
    ids, hidden = torch.arange(spec.num_agents), None
    last = torch.full((1, spec.num_agents), -1)
    played = []
    while env.agents:
        rows = np.zeros((1, spec.num_agents, spec.obs_size), np.float32)
        mask = np.zeros((1, spec.num_agents, spec.num_actions), bool)
        mask[..., 0] = True
        for i, name in enumerate(spec.agents):
            if name in obs:
                rows[0, i] = obs[name]["observation"]
            if name in env.agents:
                mask[0, i] = obs[name]["action_mask"]
        with torch.no_grad():
            extra = network.extra(ids, last)
            output, hidden = network.step(torch.from_numpy(rows), extra, hidden)
        output = output.masked_fill(~torch.from_numpy(mask), MASKED)
        draws = Draws(key).at(torch.tensor([len(played)]), stream_id("select"))
        act, _ = learner.policy.select(output, torch.from_numpy(mask), draws, True)
        actions = {n: int(act[0, i]) for i, n in enumerate(spec.agents) if n in env.agents}
        obs, rewards, _, _, infos = env.step(actions)
        victim = infos.get(env.agent, {})
        executed = dict(actions)
        if "executed_action" in victim:
            executed[env.agent] = victim["executed_action"]
        played.append((executed, rewards, victim))
        last = torch.tensor([[executed.get(n, 0) for n in spec.agents]])
    return played


@pytest.mark.parametrize("name", ["COMA", "DOP", "IPPO", "QMIX"])
@pytest.mark.parametrize("attack", ATTACKS, ids=["random", "variance", "head", "J"])
@pytest.mark.parametrize("agent", ["unit_0", "unit_2"])
def test_wrapper_and_collector_play_the_same(name, attack, agent):
    learner = updated(learners(Arena)[name], Arena)
    settings = {"learner": learner, "agent": agent, "attack_frequency": 0.7, "kl_budget": 1.5}
    if name == "QMIX":
        settings["temperature"] = 0.3
    episodes, seed = 3, 5
    perturber = ActionPoisonPerturber(attack, **settings)
    buffer = collect(learner, Arena, episodes, [perturber], seed)
    slots = np.arange(episodes)
    batch = buffer.get_episodes(slots)
    env = ActionPoisonWrapper(Arena(), attack, **settings)
    k, poisoned = learner.spec.agents.index(agent), 0
    mine = {}
    for number in range(episodes):
        with policy_within_training_step(learner.policy):
            played = play(env, learner, episode_key(seed, number) & 0x7FFFFFFF)
        acts = [[e.get(n, 0) for n in learner.spec.agents] for e, _, _ in played]
        mine[tuple(map(tuple, acts))] = played
    for slot in slots:  # episodes enter the buffer as they end
        steps = int(batch.valid[slot].sum())
        acts = batch.act[slot, :steps]
        played = mine.pop(tuple(map(tuple, acts.tolist())))
        for t, (_, rewards, info) in enumerate(played):
            reward = [rewards.get(n, 0.0) for n in learner.spec.agents]
            assert batch.rew_agents[slot, t].tolist() == reward
            attacked = bool(batch.record("poison")["attacked"][slot, t])
            assert info.get("poisoned", False) == attacked
            poisoned += attacked
            if info:
                kl, seen = (
                    float(batch.record("poison")["kl"][slot, t]),
                    batch.record("poison")["log_likelihood"][slot, t],
                )
                assert info["poison_kl"] == pytest.approx(kl, abs=1e-5)
                assert info["poison_log_likelihood"] == pytest.approx(float(seen), abs=1e-5)
                if name != "QMIX":
                    logp = float(batch.logp[slot, t, k])
                    assert info["clean_logp"] == pytest.approx(logp, abs=1e-5)
    assert poisoned > 0
    assert env.counters()["attacked"] == perturber.counters()["attacked"] == poisoned


def wrap(env, attack=None, **settings):
    attack = VarianceAttack() if attack is None else attack
    learner = settings.pop("learner", None) or DOP.for_env(Arena(), hidden=(8,))
    return ActionPoisonWrapper(env, attack, **{"learner": learner, "agent": "unit_1", **settings})


class Stable(Arena):
    """Whose spaces are one object each, as PettingZoo's test wants."""

    observation_space = functools.cache(Arena.observation_space)
    action_space = functools.cache(Arena.action_space)


@pytest.mark.parametrize("settings", [{}, {"attack_frequency": 0.0, "when": "always"}])
def test_silent_outside_training_and_without_frequency(settings):
    """Observations, rewards and ends are those of the bare environment."""
    check_wrapper(lambda env: wrap(env, **settings), Stable, identity=True)


def test_attacking_keeps_the_contract_of_environments():
    check_wrapper(lambda env: wrap(env, when="always"), Stable, observations_only=False)
    parallel_api_test(wrap(Stable(), RandomAttack(), when="always"), num_cycles=60)


def test_only_the_attacked_agents_action_is_replaced():
    env = Scripted(3, lengths=(5,), masks="info")
    learner = DOP.for_env(env, hidden=(8,))
    wrapped = ActionPoisonWrapper(
        env, RandomAttack(), learner=learner, agent="a1", when="always", kl_budget=20.0
    )
    infos = wrapped.reset(seed=3)[1]
    assert "executed_action" not in infos["a1"]
    submitted = {"a0": 0, "a1": 0, "a2": 0}
    changed = 0
    while wrapped.agents:
        infos = wrapped.step(dict(submitted))[-1]
        received = env.received[-1]
        assert received["a0"] == received["a2"] == 0
        assert infos["a1"]["executed_action"] == received["a1"]
        assert infos["a1"]["poisoned"]
        assert set(infos["a0"]) == {"u", "steps", "action_mask"}
        changed += received["a1"] != 0
    assert changed > 0
    assert submitted == {"a0": 0, "a1": 0, "a2": 0}


def test_attacked_while_training_only():
    learner = DOP.for_env(Arena(), hidden=(8,))
    env = wrap(Arena(), learner=learner)
    env.reset(seed=0)
    act = dict.fromkeys(env.agents, 1)
    assert not env.step(act)[-1]["unit_1"]["poisoned"]
    with policy_within_training_step(learner.policy):
        assert env.step(act)[-1]["unit_1"]["poisoned"]
    assert env.counters()["attacked"] == 1


def test_a_dead_agent_is_left_alone():
    env = wrap(Arena(), agent="unit_2", when="always")
    seen = set()
    for seed in range(5):
        env.reset(seed=seed)
        while env.agents:
            acting = "unit_2" in env.agents
            infos = env.step(dict.fromkeys(env.agents, 1))[-1]
            told = "poisoned" in infos.get("unit_2", {})
            assert told == acting
            seen.add(acting)
    assert seen == {True, False}


def test_episodes_repeat_with_their_seed_and_differ_without():
    learner = updated(DOP.for_env(Arena(), hidden=(8,), exploration=0.0), Arena)
    env = wrap(Arena(), RandomAttack(), learner=learner, when="always")

    def executed(seed):
        env.reset(seed=seed)
        found = []
        while env.agents:
            infos = env.step(dict.fromkeys(env.agents, 1))[-1]
            found.append(infos.get("unit_1", {}).get("executed_action"))
        return found

    one = [executed(seed) for seed in (1, None, None)]
    assert one == [executed(seed) for seed in (1, None, None)]
    assert one[1] != one[2]


def test_global_generators_are_left_alone():
    env = wrap(Arena(), when="always")
    state = torch.get_rng_state()
    env.reset(seed=0)
    env.step(dict.fromkeys(env.agents, 1))
    assert torch.equal(state, torch.get_rng_state())


def test_live_weights_are_used():
    learner = DOP.for_env(Arena(), hidden=(8,), exploration=0.0)
    env = wrap(Arena(), lambda view: -view.policy, learner=learner, when="always", kl_budget=9.0)
    found = []
    for shift in (0.0, 5.0):
        with torch.no_grad():
            learner.policy.network.head.bias[1] += shift
        env.reset(seed=0)
        found.append(env.step(dict.fromkeys(env.agents, 1))[-1]["unit_1"]["clean_logp"])
    assert found[1] < found[0] - 2.0  # away from what is certain now


@pytest.mark.parametrize("how", [pickle.dumps, copy.copy, copy.deepcopy])
def test_workers_are_refused(how):
    with pytest.raises(TypeError, match="ActionPoisonWrapper cannot be pickled or copied"):
        how(wrap(Arena()))


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        ({"agent": "nobody"}, ValueError, r"Wrapper\.agent must be one of \['unit_0'"),
        ({"attack_frequency": 2.0}, ValueError, r"attack_frequency must be a number in \[0, 1\]"),
        ({"kl_budget": 0.0}, ValueError, r"kl_budget must be a number"),
        ({"when": "never"}, ValueError, r"when must be one of"),
        ({"learner": MAPPO.for_env(Arena())}, TypeError, r"advantage of every own action"),
        ({"learner": 3}, TypeError, r"learner must be .* of Tianshou, got int"),
    ],
)
def test_bad_settings(settings, kind, text):
    with pytest.raises(kind, match=text):
        wrap(Arena(), **settings)


def test_a_step_comes_after_a_reset():
    text = r"ActionPoisonWrapper\.step must come after a reset, got none yet\. Call reset\(\) first"
    with pytest.raises(RuntimeError, match=text):
        wrap(Arena()).step({})


def test_bad_environments():
    with pytest.raises(TypeError, match=r"env must be a PettingZoo ParallelEnv, got NoneType"):
        wrap(None)
    with pytest.raises(ValueError, match=r"Wrapper\.env must be of discrete actions"):
        wrap(Arena(continuous=True))
    with pytest.raises(ValueError, match=r"Wrapper\.env must be the learner's, got .agents:"):
        ActionPoisonWrapper(Scripted(2), RandomAttack(), learner=DOP.for_env(Arena()), agent="a0")
