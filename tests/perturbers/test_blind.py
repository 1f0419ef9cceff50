"""Teams without eyes: zeros, and other episodes' observations whatever plays beside them."""

import numpy as np
import pytest
import torch
from doubles import Scripted

from robustmarl.data import EpisodeBuffer, JointCollector, RandomController
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import spec_of
from robustmarl.perturbers import OtherEpisodeObs, ZeroedObs

OBS = torch.arange(2 * 3 * 2 * 5, dtype=torch.float32).view(2, 3, 2, 5)


def game():
    return Scripted(lengths=(4,))


def seen(perturb, num_envs):
    spec, buffer = spec_of(game()), EpisodeBuffer(spec_of(game()), 8)
    collector = JointCollector(
        RandomController(spec), JointVectorEnv(game, num_envs), buffer, perturb=[perturb]
    )
    collector.collect(n_episode=8)
    batch = buffer.latest(8)
    order = batch.obs.obs[:, 0, 0, 0].argsort()  # the first number names the episode
    return batch.obs.seen[order], batch.obs.obs[order]


def test_zeros_are_shown():
    shown, real = seen(ZeroedObs(), 3)
    assert not shown.any()
    assert real.any()


def test_an_episode_shows_one_other_from_its_beginning_and_then_its_last_observation():
    shown, _ = seen(OtherEpisodeObs(OBS, torch.tensor([3, 2])), 3)
    first, second = OBS[0][[0, 1, 2, 2, 2]], OBS[1][[0, 1, 1, 1, 1]]
    which = [torch.equal(one, first) for one in shown]
    assert 0 < sum(which) < 8
    for episode, is_first in zip(shown, which, strict=True):
        assert torch.equal(episode, first if is_first else second)


def test_the_same_is_shown_however_many_play_side_by_side():
    runs = [seen(OtherEpisodeObs(OBS, torch.tensor([3, 2])), n)[0] for n in (1, 3, 8)]
    for run in runs[1:]:
        np.testing.assert_array_equal(run, runs[0])


def test_rejects():
    with pytest.raises(ValueError, match=r"OtherEpisodeObs\.obs must be \(B, T, N, D\)"):
        OtherEpisodeObs(OBS[0], torch.ones(3).long())
    with pytest.raises(ValueError, match=r"OtherEpisodeObs\.lengths must be \(2,\), each in"):
        OtherEpisodeObs(OBS, torch.tensor([3, 4]))
    with pytest.raises(ValueError, match=r"OtherEpisodeObs\.obs must be \(B, T, \*\(2, 5\)\)"):
        seen(OtherEpisodeObs(OBS[..., :4], torch.tensor([3, 2])), 1)
    with pytest.raises(TypeError, match=r"OtherEpisodeObs\.obs must be a tensor"):
        OtherEpisodeObs(OBS.numpy(), torch.tensor([3, 2]))
    with pytest.raises(TypeError, match=r"OtherEpisodeObs\.lengths must be a tensor"):
        OtherEpisodeObs(OBS, [3, 2])
