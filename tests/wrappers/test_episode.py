"""What wrappers know of a step is what the collector knows of it."""

import numpy as np
import pytest
import torch
from doubles import begin_rows, step_rows
from learners import Arena

from robustmarl import envs
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import spec_of
from robustmarl.wrappers._episode import Episode


@pytest.mark.parametrize("make", [Arena, lambda: envs.skirmish("3m")], ids=["arena", "skirmish"])
def test_contexts_are_rows_of_the_joint_environment(make):
    """Deaths included: Arena's dead leave, skirmish's stay and say so in their infos."""
    joint, env = JointVectorEnv(make, 1), make()
    episode, rng, dead = Episode(spec_of(env), torch.device("cpu")), np.random.default_rng(0), 0
    for seed in range(4):
        begin_rows(joint, np.arange(1), [seed])
        obs, infos = env.reset(seed=seed)
        episode.begin(seed)
        while env.agents:
            found = episode.context(env, obs, infos, living=env.agents, over=False)
            for key in ("obs", "mask", "state", "alive"):
                assert torch.equal(getattr(found, key), joint.tensors[key]), key
            assert torch.equal(found.seen, found.obs)
            assert found.terminal.tolist() == [False]
            dead += int((~found.alive).sum())
            act = (torch.from_numpy(rng.random(found.mask.shape)) * found.mask).argmax(-1)
            names = enumerate(joint.spec.agents)
            actions = {name: int(act[0, i]) for i, name in names if name in env.agents}
            episode.advance(episode.encode(actions))
            step_rows(joint, act, np.arange(1))
            obs, _, _, _, infos = env.step(actions)
            assert torch.equal(episode.last_act, act)
        assert episode.context(env, obs, infos, living=(), over=True).terminal.tolist() == [True]
    assert dead > 0


def test_what_was_perturbed_below_is_seen_and_the_truth_is_known():
    env = envs.gather()
    obs, _ = env.reset(seed=0)
    spec = spec_of(env)
    truth = {agent: row + 1.0 for agent, row in obs.items()}
    infos = {agent: {"clean_obs": row} for agent, row in truth.items()}
    episode = Episode(spec, torch.device("cpu"))
    found = episode.context(env, obs, infos, living=env.agents, over=False)
    assert np.array_equal(found.seen[0].numpy(), np.stack(list(obs.values())))
    assert np.array_equal(found.obs[0].numpy(), np.stack(list(truth.values())))


def test_keys_are_those_of_seed_and_number():
    def keys(*seeds):
        env = envs.gather()
        episode = Episode(spec_of(env), torch.device("cpu"))
        found = []
        for seed in seeds:
            obs, infos = env.reset(seed=seed)
            episode.begin(seed)
            found.append(int(episode.context(env, obs, infos, living=(), over=False).keys))
        return found

    one = keys(3, None, None)
    assert len(set(one)) == 3
    assert keys(8, 3, None)[1:] == one[:2]
