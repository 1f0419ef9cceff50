"""Certificates along episodes: closed forms, the rows one by one, and what an attack leaves."""

import numpy as np
import pytest
import torch
from doubles import Scripted
from learners import reader

from robustmarl import certify
from robustmarl._seeding import mix, stream_id
from robustmarl.algorithms import IPPO, QMIX, VDN
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.data import EpisodeBuffer, JointCollector, RandomController
from robustmarl.envs import SignalMatching
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.evaluation import certified, rollout
from robustmarl.joint import spec_of
from robustmarl.victims import LossRows, Rows

BALL = LinfBall(epsilon=1.0)
SMALL = {"episodes": 5, "num_envs": 3}


def masked():
    """Two agents of different sizes with masks, one of which dies; ``steps`` is always 4."""
    return Scripted(2, obs_sizes=(3, 5), deaths={1: 2}, masks="info", metrics=("steps",))


def won():
    """Episodes of a step, so that the metric ``steps`` is always 1."""
    return Scripted(2, lengths=(1,), metrics=("steps",))


def test_a_team_that_copies_its_signal_is_proven_up_to_one_half():
    team = {"reader": {0: reader(), 1: reader()}}
    sizes, fgsm = (0, 0.4, 0.6), PGD.fgsm(BALL)
    found = certified(team, SignalMatching, BALL, sizes, attack=fgsm, **SMALL)
    for table in (found.proven, found.kept):
        assert [table.mean("reader", size) for size in ("0", "0.4", "0.6")] == [1, 1, 0]
    assert found.won is None  # returns are neither lost nor won
    assert set(found.proven.cell("reader", "0").scores) == {0, 1}


def test_shares_are_of_the_decisions_of_each_episode():
    """The very rows of the episodes, put to ``certify.certified`` one episode at a time."""
    team, sizes = VDN.for_env(masked(), hidden=(8,), seed=3), (0.0, 0.02, 0.1)
    found = certified({"VDN": team}, masked, BALL, sizes, **SMALL)
    assert found.kept is None
    buffer, seen = EpisodeBuffer(spec_of(masked()), 5), []

    class Noting(JointCollector):
        def _play(self, context):
            seen.append((context.keys.clone(), context.last_act.clone(), context.live.clone()))
            super()._play(context)

    seed = mix(0, stream_id("evaluation")) & (2**62 - 1)
    Noting(team, JointVectorEnv(masked, 1), buffer, seed=seed).collect(n_episode=5)
    batch = buffer.latest(5)
    last = torch.stack([one[1][0] for one in seen]).view(5, 4, 2)
    for k in range(5):
        shares = {size: [] for size in sizes}
        for t in range(4):
            for agent in range(2):
                choice = int(batch.obs.mask[k, t, agent].sum()) > 1
                if not (bool(batch.obs.alive[k, t, agent]) and choice):
                    continue
                real = torch.arange(5) < (3, 5)[agent]
                rows = Rows(
                    mask=batch.obs.mask[k, t, agent, None],
                    obs_mask=real[None],
                    last_act=last[k, t, agent, None],
                    agents=torch.tensor([agent]),
                )
                row = LossRows(obs=batch.obs.obs[k, t, agent, None], rows=rows)
                for size in sizes:
                    ball = BALL.with_epsilon(size)
                    shares[size].append(bool(certify.certified(team.victim(), row, ball)))
        for size in sizes:
            score = found.proven.cell("VDN", f"{size:g}").scores[0][k]
            assert score == pytest.approx(np.mean(shares[size]))


@pytest.mark.parametrize("make", [masked, SignalMatching])
def test_nothing_that_is_proven_is_changed_by_an_attack(make):
    team = QMIX.for_env(make(), hidden=(16,), embed=4, hyper_hidden=4)
    attack = PGD(ball=BALL, steps=5, random_start=True, restarts=2)
    sizes = (0, 0.003, 0.03, 0.3, 3.0)
    found = certified({"QMIX": team}, make, BALL, sizes, attack=attack, **SMALL)
    names = [f"{size:g}" for size in sizes]
    proven, kept = (
        np.array([table.cell("QMIX", name).scores[0] for name in names])
        for table in (found.proven, found.kept)
    )
    assert (proven[0] == 1.0).all()
    assert (proven <= kept).all()
    assert (np.diff(proven, axis=0) <= 0.0).all()
    assert kept[-1].mean() < 1.0


def test_an_episode_is_won_for_certain_if_all_its_decisions_are_proven():
    team = VDN.for_env(won(), hidden=(8,))
    sizes = (0, 0.01, 0.05, 10.0)
    found = certified({"VDN": team}, won, BALL, sizes, episodes=20)
    for size in ("0", "0.01", "0.05", "10"):
        proven = found.proven.cell("VDN", size).scores[0]
        np.testing.assert_array_equal(found.won.cell("VDN", size).scores[0], proven == 1.0)
    assert [found.won.mean("VDN", size) for size in ("0", "10")] == [1.0, 0.0]
    clean = rollout(team, won, episodes=20).figure("steps")
    np.testing.assert_array_equal(found.won.cell("VDN", "0").scores[0], clean)


def test_a_team_that_draws_its_actions_wins_nothing_for_certain():
    for greedy, known in ((False, False), (True, True)):
        team = IPPO.for_env(won(), hidden=(8,), deterministic_eval=greedy)
        found = certified({"IPPO": team}, won, BALL, (0,), **SMALL)
        assert (found.won is not None) is known


def test_the_plot_has_the_truth_between_two_curves(tmp_path):
    team = {"VDN": VDN.for_env(won(), hidden=(8,))}
    fgsm = PGD.fgsm(BALL)
    found = certified(team, won, BALL, (0, 0.1), attack=fgsm, title="steps", **SMALL)
    figure = found.plot(tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    decisions, certain = figure.axes
    proven, kept = decisions.lines
    assert proven.get_color() == kept.get_color()
    assert (proven.get_linestyle(), kept.get_linestyle()) == ("-", "--")
    assert "every decision proven" in certain.get_ylabel().replace("\n", " ")


def test_what_cannot_be_proven_is_refused_with_the_reason():
    recurrent = VDN.for_env(SignalMatching(), hidden=(4,), recurrent=True)
    text = r"certified\.victims\['VDN'\] must be without memory: bounds hold .*recurrent=False"
    with pytest.raises(ValueError, match=text):
        certified({"VDN": recurrent}, SignalMatching, BALL, (0.1,))

    def continuous():
        return Scripted(continuous=True)

    with pytest.raises(ValueError, match="of discrete actions"):
        certified({"IPPO": IPPO.for_env(continuous(), hidden=(4,))}, continuous, BALL, (0.1,))
    with pytest.raises(TypeError, match=r"must be a team of this package, whose layers are known"):
        certified({"r": RandomController(spec_of(won()))}, won, BALL, (0.1,))
    other = PGD(ball=LinfBall(epsilon=0.1, low=0.0))
    with pytest.raises(ValueError, match=r"certified\.attack\.ball must be LinfBall"):
        certified({"reader": reader()}, SignalMatching, BALL, (0.1,), attack=other)
    with pytest.raises(ValueError, match=r"certified\.epsilons must be increasing"):
        certified({"reader": reader()}, SignalMatching, BALL, (0.1, 0.1))
