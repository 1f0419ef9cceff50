"""Battles played again: the evaluation's own, whole, and marked where actions changed."""

import numpy as np
import pytest
from PIL import Image

from robustmarl import envs
from robustmarl.algorithms import VDN
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.evaluation import replay, rollout

PGD_2 = PGD(ball=LinfBall(epsilon=0.5), steps=2)
YELLOW = (255, 190, 40)


def battle():
    return envs.skirmish("3m")


def test_the_battles_are_those_of_an_evaluation(tmp_path):
    team = VDN.for_env(battle(), hidden=(8,))
    for attack in (None, PGD_2):
        frames = replay(
            team, battle, tmp_path / "r.gif", perturb=attack, episodes=2, believer="agent_1"
        )
        played = rollout(team, battle, episodes=2, num_envs=1, perturb=attack)
        assert len(frames) == played.lengths.sum() + 2 * (1 + 8)  # endings, which stand
        assert len({frame.shape for frame in frames}) == 1
        marked = [(frame == np.array(YELLOW, np.uint8)).all(-1).any() for frame in frames]
        assert any(marked) is (attack is not None)
    with Image.open(tmp_path / "r.gif") as gif:
        assert gif.format == "GIF"
        assert gif.n_frames > 2


def test_refuses(tmp_path):
    team = VDN.for_env(battle(), hidden=(8,))
    with pytest.raises(TypeError, match=r"replay\.make_env must build a battle"):
        replay(team, envs.SignalMatching, tmp_path / "r.gif")
    with pytest.raises(ValueError, match=r"replay\.path must be a file name that ends in \.gif"):
        replay(team, battle, tmp_path / "r.mp4")
    with pytest.raises(ValueError, match=r"replay\.believer must be one of"):
        replay(team, battle, tmp_path / "r.gif", believer="medic")
    with pytest.raises(ValueError, match=r"replay\.episodes must be an int >= 1"):
        replay(team, battle, tmp_path / "r.gif", episodes=0)
