"""Games that can be listed: every table, checked."""

import itertools

import numpy as np
import pytest
import torch
from doubles import begin_rows, step_rows

from robustmarl.envs import MatrixGame, SignalMatching, ToyGame, TwoStepGame, climbing
from robustmarl.envs.toy import ToyEngine
from robustmarl.envs.vector import JointVectorEnv, vector_env
from robustmarl.joint import spec_of
from robustmarl.testing import check_env


def play(env, *joints, seed=0):
    env.reset(seed=seed)
    rewards = []
    for joint in joints:
        out = env.step(dict(zip(env.agents, joint, strict=True)))
        rewards.append(out[1]["agent_0"])
        assert len(set(out[1].values())) == 1
    return rewards


def test_matrix_game_pays_its_table():
    table = np.arange(12.0).reshape(2, 3, 2)
    env = MatrixGame(table)
    for joint in itertools.product(range(2), range(3), range(2)):
        assert play(env, joint) == [table[joint]]
        assert not env.agents
    assert [env.action_space(a).n for a in env.possible_agents] == [2, 3, 2]


def test_matrix_game_terminates_after_its_steps():
    env = climbing(steps=2)
    env.reset()
    both = dict.fromkeys(env.agents, 0)
    assert not any(env.step(both)[2].values())
    _, rewards, terminated, truncated, _ = env.step(both)
    assert rewards == dict.fromkeys(both, 11.0)
    assert all(terminated.values())
    assert not any(truncated.values())


def test_climbing_is_the_published_table():
    np.testing.assert_array_equal(climbing().payoff, [[11, -30, 0], [-30, 7, 6], [0, 0, 5]])


def test_two_step_game_enumerated():
    returns = {}
    for first, second in itertools.product(itertools.product((0, 1), repeat=2), repeat=2):
        returns[first, second] = sum(play(TwoStepGame(), first, second))
    for (first, second), got in returns.items():
        expected = 7 if first[0] == 0 else [[0, 1], [1, 8]][second[0]][second[1]]
        assert got == expected
    assert max(returns.values()) == 8


def test_two_step_game_shows_its_state():
    env = TwoStepGame()
    obs, _ = env.reset()
    assert obs["agent_1"].tolist() == env.state().tolist() == [1, 0, 0]
    obs, *_ = env.step({"agent_0": 1, "agent_1": 0})
    assert obs["agent_0"].tolist() == env.state().tolist() == [0, 0, 1]


def test_signal_matching_pays_who_reads_the_signal():
    env = SignalMatching(3, horizon=20)
    obs, _ = env.reset(seed=0)
    contexts = set()
    while env.agents:
        seen = {a: int(o.argmax()) for a, o in obs.items()}
        contexts |= set(seen.values())
        wrong = len(contexts) == 2 and len(obs) == 3 and env._steps % 2
        if wrong:
            seen["agent_0"] = 1 - seen["agent_0"]
        obs, rewards, *_ = env.step(seen)
        assert set(rewards.values()) == {0.0 if wrong else 1.0}
    assert contexts == {0, 1}


def test_signal_noise_stays_in_its_bounds_and_differs_between_agents():
    env = SignalMatching(2, noise=0.3, horizon=50)
    obs, _ = env.reset(seed=0)
    while env.agents:
        rows = np.stack(list(obs.values()))
        assert np.abs(rows - env.state()).max() <= 0.3 + 1e-6
        assert (rows[0] != rows[1]).all()
        obs, *_ = env.step(dict.fromkeys(env.agents, 0))


TOY = {  # (state, both actions): reward, next state as published, next state alternating
    (0, 0, 0): (1, 1, 1),
    (0, 0, 1): (0, 0, 0),
    (0, 1, 0): (0, 0, 0),
    (0, 1, 1): (1, 1, 1),
    (1, 0, 0): (0, 0, 1),
    (1, 0, 1): (1, 1, 0),
    (1, 1, 0): (1, 1, 0),
    (1, 1, 1): (0, 0, 1),
}


@pytest.mark.parametrize(("dynamics", "column"), [("published", 1), ("alternating", 2)])
def test_toy_transitions(dynamics, column):
    for (state, first, second), row in TOY.items():
        env = ToyGame(dynamics=dynamics)
        env.reset(seed=0)
        env._game_state = state
        obs, rewards, *_ = env.step({"agent_0": first, "agent_1": second})
        after = row[column]
        assert rewards == dict.fromkeys(rewards, float(row[0]))
        assert obs["agent_0"].tolist() == [after, 0, state, first, second]
        assert obs["agent_1"].tolist() == [after, 1, state, first, second]
        np.testing.assert_array_equal(env.state(), np.stack(list(obs.values())))


def test_toy_first_state_is_uniform_and_cooperation_earns_the_horizon():
    env = ToyGame()
    firsts = [int(env.reset(seed=s)[0]["agent_0"][0]) for s in range(400)]
    assert 150 < sum(firsts) < 250
    total, (obs, _) = 0.0, env.reset(seed=0)
    while env.agents:
        state = int(obs["agent_0"][0])
        obs, rewards, _, truncated, _ = env.step({"agent_0": 0, "agent_1": state})
        total += rewards["agent_0"]
    assert total == 100.0
    assert all(truncated.values())


def test_toy_attacked_team_that_plays_uniformly_gets_one_half():
    env, rng, total = ToyGame(horizon=4000), np.random.default_rng(0), 0.0
    env.reset(seed=0)
    while env.agents:
        _, rewards, *_ = env.step({"agent_0": int(rng.integers(2)), "agent_1": 0})
        total += rewards["agent_0"]
    assert abs(total / 4000 - 0.5) < 0.04


def test_toy_memoryless_observes_state_and_agent_only():
    env = ToyGame(memoryless=True)
    obs, _ = env.reset(seed=3)
    assert [o.tolist() for o in obs.values()] == [[env._game_state, 0], [env._game_state, 1]]
    assert spec_of(env).state_shape == (2, 2)


@pytest.mark.parametrize("dynamics", ["published", "alternating"])
@pytest.mark.parametrize("memoryless", [False, True])
def test_toy_batch_is_the_games_one_by_one(memoryless, dynamics):
    """Episodes that begin at different times, some environments idle, end included."""

    def make():
        return ToyGame(horizon=7, memoryless=memoryless, dynamics=dynamics)

    batch, single = vector_env(make, 3), JointVectorEnv(make, 3)
    assert isinstance(batch, ToyEngine)
    assert isinstance(vector_env(ToyGame, 1), ToyEngine)  # its class makes games, too
    assert len(batch) == 3
    rng = np.random.default_rng(0)
    for engine in (batch, single):
        begin_rows(engine, np.arange(3), [5, 6, 7])
    for step in range(9):
        for key, values in single.tensors.items():
            assert torch.equal(batch.tensors[key], values), (step, key)
        act = torch.from_numpy(rng.integers(0, 2, (3, 2)))
        rows = np.array([0, 1, 2] if step < 2 else [0, 2] if step < 7 else [1, 2])
        if step == 7:  # 0 and 2 are over, 1 has stood still
            for engine in (batch, single):
                begin_rows(engine, np.array([2]), [11])
        for engine in (batch, single):
            step_rows(engine, act, rows)
    with pytest.raises(ValueError, match=r"ToyEngine\.advance\.act must be indices below 2"):
        step_rows(batch, torch.tensor([[0, 0], [0, 0], [0, 2]]), np.arange(3))


def test_specs():
    assert spec_of(ToyGame()).state_layout == "per_agent"
    assert spec_of(TwoStepGame()).state_shape == (3,)
    assert {spec_of(e).team_reward for e in (ToyGame(), TwoStepGame(), climbing())} == {"mean"}


def test_contracts():
    check_env(lambda: MatrixGame([[1.0, 2.0]], steps=3), stochastic=False, time_limit=False)
    check_env(TwoStepGame, stochastic=False, time_limit=False)
    check_env(lambda: SignalMatching(noise=0.2))
    check_env(ToyGame, episodes=8)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: MatrixGame([]), ValueError, r"MatrixGame\.payoff must be finite"),
        (lambda: MatrixGame([float("nan")]), ValueError, r"MatrixGame\.payoff must be finite"),
        (lambda: MatrixGame([1.0], steps=0), ValueError, r"MatrixGame\.steps must be an int >= 1"),
        (lambda: SignalMatching(0), ValueError, r"SignalMatching\.agents must be an int >= 1"),
        (lambda: SignalMatching(noise=-1), ValueError, r"SignalMatching\.noise must be a number"),
        (lambda: ToyGame(horizon=True), TypeError, r"ToyGame\.horizon must be an int"),
        (lambda: ToyGame(dynamics="x"), ValueError, r"ToyGame\.dynamics must be one of .*got 'x'"),
    ],
)
def test_refuses(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_refuses_wrong_actions():
    env = TwoStepGame()
    env.reset()
    with pytest.raises(
        ValueError, match=r"step\.actions\['agent_1'\] must be an index below 2, got -1"
    ):
        env.step({"agent_0": 0, "agent_1": -1})
    with pytest.raises(TypeError, match=r"step\.actions\['agent_0'\] must be an int, got 0\.5"):
        env.step({"agent_0": 0.5, "agent_1": 0})
    with pytest.raises(TypeError, match=r"reset\.seed must be an int or None, got 'a'"):
        env.reset(seed="a")
    with pytest.raises(ValueError, match=r"step\.actions must be one per living agent"):
        env.step({"agent_0": 0})
