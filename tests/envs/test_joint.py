"""Joint arrays against a loop over the PettingZoo environment by hand."""

import numpy as np
import pytest
import torch
from doubles import Scripted, armies, begin_rows, step_rows

from robustmarl.envs.joint import JointEnv
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import describe, spec_of, split_obs

SHAPES = {
    "plain": {},
    "spaces": {"obs_sizes": (5, 2), "action_sizes": (2, 4)},
    "mask in observation": {"masks": "dict", "action_sizes": (4, 3)},
    "mask in infos": {"masks": "info", "action_sizes": (4, 3)},
    "death": {"n": 3, "deaths": {1: 2}},
    "death, masked": {"n": 3, "deaths": {0: 1, 1: 2}, "masks": "dict"},
    "arrival": {"n": 3, "arrivals": {2: 2}, "obs_sizes": (5, 4, 6)},
    "arrival, masked": {"n": 3, "arrivals": {0: 1, 2: 2}, "masks": "info"},
    "joint state": {"state": "joint"},
    "state per agent": {"state": "per_agent", "deaths": {0: 2}},
    "terminated": {"end": "terminated"},
    "mixed": {"n": 3, "end": "mixed"},
    "all die": {"deaths": {0: 2, 1: 3}, "lengths": (9,)},
    "continuous": {"continuous": True, "action_sizes": (2, 2)},
    "continuous, sizes": {"continuous": True, "action_sizes": (1, 3), "obs_sizes": (3, 5)},
}


def expected(env, spec, obs, infos, alive):
    """Return arrays of one step, written out as the documentation says."""
    n = spec.num_agents
    arrays = {key: value[0].numpy() for key, value in spec.empty(1).items()}
    arrays["mask"][:, 0] = True  # who is not there has the no-op only
    if spec.continuous:
        arrays["mask"][:] = True
    for i, agent in enumerate(spec.agents):
        if agent in obs:
            row, mask = split_obs(obs[agent])
            arrays["obs"][i, : spec.obs_sizes[i]] = row
        if agent in alive:
            arrays["alive"][i] = True
            if not spec.continuous:
                mask = infos[agent].get("action_mask") if mask is None else mask
                mask = np.ones(spec.action_sizes[i]) if mask is None else mask
                arrays["mask"][i] = np.pad(mask, (0, spec.num_actions - len(mask))) > 0
            else:
                arrays["mask"][i] = np.arange(spec.num_actions) < spec.action_sizes[i]
    if spec.state_layout == "concatenated":
        arrays["state"] = np.concatenate([arrays["obs"][i, : spec.obs_sizes[i]] for i in range(n)])
    else:
        arrays["state"] = env.state()
    return arrays


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_arrays_equal_a_loop_by_hand(shape):
    vector = JointVectorEnv(lambda: Scripted(**shape), 2)
    spec, tensors, rng = vector.spec, vector.tensors, np.random.default_rng(0)
    for episode in range(2):  # the second shows that nothing is left of the first
        env = Scripted(**shape)
        obs, infos = env.reset(seed=7 + episode)
        begin_rows(vector, np.array([1]), [7 + episode])
        want = expected(env, spec, obs, infos, set(env.agents))
        while True:
            for key in ("obs", "mask", "state", "alive"):
                np.testing.assert_array_equal(tensors[key][1].numpy(), want[key], key)
            assert not tensors["terminated"][1]
            assert not tensors["truncated"][1]
            if spec.continuous:
                act = rng.uniform(-1.5, 1.5, (2, *spec.action_shape())).astype(np.float32)
                actions = {}
                for a in env.agents:
                    i, box = spec.agents.index(a), env.action_space(a)
                    unit = np.clip(act[1, i, : box.shape[0]], -1, 1)
                    actions[a] = box.low + (unit + 1) / 2 * (box.high - box.low)
            else:
                weights = rng.random(want["mask"].shape) * want["mask"]
                act = np.tile(weights.argmax(-1), (2, 1))
                actions = {a: act[1, spec.agents.index(a)] for a in env.agents}
            obs, rewards, terminated, truncated, infos = env.step(actions)
            step_rows(vector, torch.as_tensor(act), np.array([1]))
            got = vector.joint[1].env.received[-1]
            assert got.keys() == actions.keys()
            for agent, action in actions.items():
                np.testing.assert_allclose(got[agent], action, rtol=1e-6)
            want_rew = [rewards.get(a, 0.0) for a in spec.agents]
            np.testing.assert_allclose(tensors["rew_agents"][1].numpy(), want_rew, rtol=1e-6)
            if not env.agents:
                break
            want = expected(env, spec, obs, infos, set(env.agents))
        ended = [a for a in obs if terminated[a] or truncated[a]]
        want = expected(env, spec, obs, infos, {a for a in ended if not terminated[a]})
        for key in ("obs", "mask", "state", "alive"):
            np.testing.assert_allclose(tensors[key][1].numpy(), want[key], rtol=1e-6, err_msg=key)
        all_terminated = all(terminated[a] for a in ended)
        assert bool(tensors["terminated"][1]) == all_terminated
        assert bool(tensors["truncated"][1]) == (not all_terminated)
        assert not tensors["obs"][0].any()  # the row that was not asked for is untouched


@pytest.mark.parametrize(
    ("end", "terminated"), [("terminated", True), ("truncated", False), ("mixed", False)]
)
def test_a_time_limit_is_no_termination(end, terminated):
    vector = JointVectorEnv(lambda: Scripted(end=end, lengths=(1,)), 1)
    begin_rows(vector, np.array([0]), [0])
    step_rows(vector, torch.zeros(1, 2, dtype=torch.int64), np.array([0]))
    assert bool(vector.tensors["terminated"][0]) is terminated
    assert bool(vector.tensors["truncated"][0]) is not terminated
    alive = {"terminated": [0, 0], "truncated": [1, 1], "mixed": [1, 0]}[end]
    assert vector.tensors["alive"][0].tolist() == [bool(a) for a in alive]


def test_a_dead_agent_shows_its_last_observation_once_and_then_zeros():
    vector = JointVectorEnv(lambda: Scripted(3, deaths={1: 1}), 1)
    begin_rows(vector, np.array([0]), [0])
    act, row = torch.ones(1, 3, dtype=torch.int64), np.array([0])
    step_rows(vector, act, row)
    assert vector.tensors["obs"][0, 1, 2] == 1.0
    assert not vector.tensors["alive"][0, 1]
    step_rows(vector, act, row)
    assert not vector.tensors["obs"][0, 1].any()
    assert vector.tensors["mask"][0, 1].tolist() == [True, False, False]
    assert vector.tensors["rew_agents"][0, 1] == 0.0
    assert set(vector.joint[0].env.received[-1]) == {"a0", "a2"}


def test_a_mask_that_is_left_out_once_means_that_all_actions_are_available():
    class Sometimes(Scripted):
        def _infos(self, agents):
            infos = super()._infos(agents)
            if self.t == 1:
                for info in infos.values():
                    del info["action_mask"]
            return infos

        def available(self, agent):
            return np.ones(3, np.int8) if self.t == 1 else super().available(agent)

    vector = JointVectorEnv(lambda: Sometimes(masks="info"), 1)
    begin_rows(vector, np.array([0]), [0])
    assert not vector.tensors["mask"].all()
    step_rows(vector, torch.zeros(1, 2, dtype=torch.int64), np.array([0]))
    assert vector.tensors["mask"].all()


def test_observations_that_change_their_shape_are_refused():
    vector = JointVectorEnv(lambda: Scripted(grows_at=2), 1)
    begin_rows(vector, np.array([0]), [0])
    act, row = torch.zeros(1, 2, dtype=torch.int64), np.array([0])
    step_rows(vector, act, row)
    with pytest.raises(ValueError, match=r"'a0' must keep the shape \(5,\).*\(6,\) in .*step 2"):
        step_rows(vector, act, row)


def test_an_environment_unlike_the_spec_is_refused():
    spec = spec_of(Scripted())
    with pytest.raises(ValueError, match=r"JointEnv\.env must be like the first.*action_sizes"):
        JointEnv(Scripted(action_sizes=(2, 2)), {}, spec)


def test_metrics_are_means_over_the_agents_that_report_them():
    class Wins(Scripted):
        def _infos(self, agents):
            infos = super()._infos(agents)
            infos["a0"]["won"] = 1.0
            infos["a1"]["won"] = 0.0
            return infos

    vector = JointVectorEnv(lambda: Wins(3, lengths=(2,), metrics=("won", "steps")), 2)
    rows = np.array([0, 1])
    begin_rows(vector, rows, [0, 1])
    for _ in range(2):
        step_rows(vector, torch.zeros(2, 3, dtype=torch.int64), rows)
    assert vector.tensors["metrics"][:, :2].tolist() == [[0.5, 2.0], [0.5, 2.0]]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, r"'won' must be in the last infos of every episode, got \[.*\] from environment 0 "),
        (float("nan"), r"'won' must be a finite number, got \[nan\] from environment 0 "),
        ("yes", r"'won' must be a finite number, got \['yes'\] from environment 0 "),
    ],
)
def test_a_metric_of_some_episodes_only_is_refused(value, text):
    class Wins(Scripted):
        def _infos(self, agents):
            infos = super()._infos(agents)
            if value is not None:
                infos["a0"]["won"] = value
            return infos

    vector = JointVectorEnv(lambda: Wins(2, lengths=(1,), metrics=("won",)), 1)
    begin_rows(vector, np.array([0]), [0])
    with pytest.raises(ValueError, match=rf"metric {text}\(scripted\), step 1"):
        step_rows(vector, torch.zeros(1, 2, dtype=torch.int64), np.array([0]))


def test_large_armies_share_one_pair_of_arrays():
    spec = spec_of(armies())
    assert spec.teams == {"red": tuple(range(64)), "blue": tuple(range(64, 128))}
    assert spec.of_team("blue").obs_size == 7
    assert spec.of_team("red").action_sizes == (3,) * 64
    assert spec.of_team("red").agents == spec.agents[:64]


def test_describe_is_seen_by_the_arrays():
    vector = JointVectorEnv(lambda: describe(Scripted(), team_reward="mean", horizon=17), 1)
    assert vector.spec.team_reward == "mean"
    assert vector.spec.horizon == 17


@pytest.mark.parametrize("masks", ["dict", "info"])
@pytest.mark.parametrize("length", [1, 3])
def test_an_action_mask_of_another_length_is_refused(masks, length):
    """A longer one would be cut or leave the array, a shorter one let the last actions be."""

    class Short(Scripted):
        def available(self, agent):
            mask = super().available(agent)
            return np.resize(mask, length) if self.t == 1 and agent == "a1" else mask

    vector = JointVectorEnv(lambda: Short(masks=masks, action_sizes=(4, 2)), 2)
    begin_rows(vector, [0, 1], [0, 1])
    text = (
        rf"action_mask of 'a1' in environment 1 \(scripted\), step 1, must be of shape \(2,\), one "
        rf"flag for each of the agent's 2 actions, got \({length},\)\. Let the environment mask all"
    )
    with pytest.raises(ValueError, match=text):
        step_rows(vector, torch.zeros(2, 2, dtype=torch.int64), [1])
