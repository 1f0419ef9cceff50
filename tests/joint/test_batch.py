"""What returns are made of, for a team and for agents that may die."""

import torch

from robustmarl.joint import JointBatch, JointObs, at_actions


def episode():
    """Three steps of two agents, of which one dies after the first; then a step of padding."""
    alive = torch.tensor([[1, 1], [1, 0], [1, 0], [1, 0], [0, 0]], dtype=torch.bool)[None]
    played = torch.tensor([[True, True, True, False]])
    obs = torch.zeros(1, 5, 2, 1)
    return JointBatch(
        obs=JointObs(obs=obs, seen=obs, mask=obs.bool(), state=obs[..., 0], alive=alive),
        act=torch.zeros(1, 4, 2, dtype=torch.int64),
        rew=torch.tensor([[3.0, 4.0, 5.0, 0.0]]),
        rew_agents=torch.arange(8.0).view(1, 4, 2),
        terminated=torch.zeros(1, 4, dtype=torch.bool),
        truncated=torch.tensor([[False, False, True, False]]),
        valid=played,
    )


def test_a_team_earns_on_with_its_dead():
    batch = episode()
    reward, bootstrap, going_on = batch.earned("team")
    assert reward[0].tolist() == [[3.0], [4.0], [5.0], [0.0]]
    assert bootstrap[0].tolist() == [[1.0]] * 4  # a time limit bootstraps
    assert going_on[0].tolist() == [[1.0], [1.0], [0.0], [0.0]]
    assert batch.earning("team")[0].tolist() == [[True], [True], [True], [False]]


def test_who_has_died_earns_nothing_more():
    batch = episode()
    reward, bootstrap, going_on = batch.earned("agents")
    assert torch.equal(reward, batch.rew_agents)
    assert bootstrap[0, :3].tolist() == [[1.0, 0.0]] * 3
    assert going_on[0].tolist() == [[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    assert batch.earning("agents")[0].tolist() == [[1, 1], [1, 0], [1, 0], [0, 0]]


def test_values_are_read_off_at_actions():
    values = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]])
    assert at_actions(values, torch.tensor([[2, 0]])).tolist() == [[3.0, 4.0]]
