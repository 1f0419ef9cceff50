"""What a GPU adds: the same episodes, and nothing left behind on the host."""

from functools import partial

import pytest
import torch

from robustmarl import algorithms, attacks, data, envs, evaluation, training
from robustmarl.budgets import LinfBall
from robustmarl.envs.skirmish import SkirmishEngine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

BALL = LinfBall(epsilon=0.1, low=-1.0, high=1.0)
MAKE = partial(envs.skirmish, "3m")


@pytest.mark.parametrize("kind", [algorithms.QMIX, algorithms.MAPPO])
def test_one_word_moves_everything(kind):
    team = kind.for_env(MAKE(), hidden=(16,), device="cuda")
    history = training.run(team, MAKE, env_steps=3_000, num_envs=64)
    assert team.device.type == "cuda"
    assert history.env_steps[-1] >= 3_000
    found = evaluation.rollout(team, MAKE, episodes=32, num_envs=32, perturb=attacks.PGD(ball=BALL))
    assert len(found.returns) == 32


def test_engines_are_made_where_the_team_lives(monkeypatch):
    made = []
    begin = SkirmishEngine.begin

    def noted(engine, mask, seeds):
        made.append(engine.tensors["obs"].device.type)
        begin(engine, mask, seeds)

    team = algorithms.MAPPO.for_env(MAKE(), hidden=(16,), device="cuda")
    monkeypatch.setattr(SkirmishEngine, "begin", noted)
    evaluation.rollout(team, MAKE, episodes=8, num_envs=8)
    assert "cuda" in made


@pytest.mark.parametrize("attack", [None, attacks.PGD(ball=BALL)])
def test_two_calls_on_a_device_play_the_same_and_nearly_the_cpus(attack):
    returns = []
    for device in ("cuda", "cuda", "cpu"):
        engine = SkirmishEngine("3m", 16, device=device, backend="torch")
        team = algorithms.MAPPO.for_env(engine.spec, hidden=(16,), seed=1).to(device)
        perturb = () if attack is None else (attack,)
        collector = data.JointCollector(team, engine, perturb=perturb, seed=1)
        returns.append(torch.as_tensor(collector.collect(n_episode=64).returns.copy()))
    assert torch.equal(returns[0], returns[1])
    # products are summed in another order, and may tip a draw or a shot
    same = (returns[0] - returns[2]).abs() < 1e-3
    assert same.float().mean() > 0.9
