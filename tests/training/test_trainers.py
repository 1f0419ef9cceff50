"""How often learners are updated."""

from contextlib import nullcontext

import pytest
from doubles import Scripted

from robustmarl.algorithms import IPPO, QMIX
from robustmarl.data import EpisodeBuffer, JointCollector
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.training import EpisodeOffPolicyTrainer, Log, OffPolicy, OnPolicy, run
from robustmarl.training.trainers import EpisodeOffPolicyParams
from robustmarl.typing import RobustnessWarning

SETTINGS = {"env_steps": 48, "num_envs": 2, "interval": 24, "log": Log(progress=False)}


def qmix():
    return QMIX.for_env(Scripted(), hidden=(4,), embed=4, hyper_hidden=4)


@pytest.mark.parametrize(
    ("per_episode", "starts", "updates"),
    [
        (1.0, 1, 6 * 2),
        (1.5, 1, 6 * 3),
        (0.5, 1, 6 * 1),
        (0.01, 1, 6 * 1),  # at least one a round
        (1.0, 3, 5 * 2),  # the first round leaves 2 episodes in the buffer
        (1.0, 4, 5 * 2),
        (1.0, 99, 0),
    ],
)
def test_updates_are_counted_per_episode(per_episode, starts, updates):
    team = qmix()
    learn = OffPolicy(updates_per_episode=per_episode, learning_starts=starts)
    warned = pytest.warns(RobustnessWarning, match="nothing was learned")
    with nullcontext() if updates else warned:
        run(team, Scripted, **SETTINGS, learn=learn)
    assert team.policy.counted("updates") == updates
    assert team.policy.counted("episodes") == 12


def test_on_policy_episodes_are_learned_from_once():
    seen = []

    class Noting(IPPO):
        def _update_with_batch(self, batch, **kwargs):
            seen.append(batch.obs.obs[:, 0, 0, 0].tolist())
            return super()._update_with_batch(batch, **kwargs)

    team = Noting.for_env(Scripted(), hidden=(4,))
    run(team, Scripted, **SETTINGS, learn=OnPolicy(epochs=3, episodes_per_round=3))
    assert [len(episodes) for episodes in seen] == [3, 3, 3, 3]
    assert len({u for episodes in seen for u in episodes}) == 12
    assert team.policy.counted("updates") == 4


def test_steps_per_round():
    team = IPPO.for_env(Scripted(), hidden=(4,))
    learn = OnPolicy(steps_per_round=12)  # three episodes, so four
    history = run(team, Scripted, **SETTINGS, learn=learn)
    assert team.policy.counted("updates") == 3
    assert history.episodes == 12


@pytest.mark.parametrize("interval", [8, 16, 1000])
def test_a_run_ends_after_its_rounds(interval, tmp_path):
    def trained(rounds, **settings):
        team = IPPO.for_env(Scripted(), hidden=(4,))
        learn = OnPolicy(episodes_per_round=2, rounds=rounds)
        history = run(
            team, Scripted, **SETTINGS | {"interval": interval, "learn": learn} | settings
        )
        return team, history

    team, history = trained(3)
    assert team.policy.counted("updates") == 3
    assert (history.env_steps[-1], history.episodes) == (24, 6)
    trained(3, log=Log(tmp_path))
    again, history = trained(5, log=Log(tmp_path, resume=True))  # as with steps, it may go on
    assert again.policy.counted("updates") == 5
    assert history.env_steps[-1] == 40
    assert trained(5, log=Log(tmp_path, resume=True))[1].env_steps[-1] == 40
    assert trained(100)[1].env_steps[-1] == 48  # the steps are played


@pytest.mark.parametrize("horizon", [1, 10])
@pytest.mark.parametrize(
    ("how", "rounds"), [({"steps_per_round": 400}, 3), ({"segment_length": 200}, 3)]
)
def test_rounds_are_as_long_as_they_are_said_to_be_however_short_episodes_are(how, rounds, horizon):
    """Of a segment half the ticks show last observations, in which nobody is stepped."""

    def short():
        return Scripted(lengths=(1,), horizon=horizon)

    team = IPPO.for_env(short(), hidden=(4,))
    settings = SETTINGS | {"env_steps": 1_200 if "steps_per_round" in how else 600}
    history = run(team, short, **settings | {"interval": 10_000}, learn=OnPolicy(**how, epochs=1))
    assert team.policy.counted("updates") == rounds
    assert history.episodes == history.env_steps[-1] == settings["env_steps"]


def test_no_episode_of_a_round_is_lost():
    def short():
        return Scripted(lengths=(1,))

    learned = []

    class Noting(IPPO):
        def _update_with_batch(self, batch, **kwargs):
            learned.append(len(batch.valid))
            return super()._update_with_batch(batch, **kwargs)

    team = Noting.for_env(short(), hidden=(4,))
    history = run(team, short, **SETTINGS, learn=OnPolicy(steps_per_round=40))
    assert sum(learned) == history.episodes == history.env_steps[-1]


@pytest.mark.parametrize("interval", [1, 8, 20, 48, 1000])
def test_intervals_end_at_the_first_round_that_reaches_them(interval):
    early = OffPolicy(learning_starts=4, batch_size=4)
    history = run(qmix(), Scripted, learn=early, **SETTINGS | {"interval": interval})
    steps = [0]  # a round is two episodes of four steps
    while steps[-1] < 48:
        whole = min(interval, 48 - steps[-1])
        steps.append(steps[-1] + 8 * -(-whole // 8))
    assert history.env_steps == steps
    assert history.episodes == 12


def test_a_trainer_hands_over_what_each_round_collected():
    team, env = qmix(), JointVectorEnv(Scripted, 2)
    buffer = EpisodeBuffer(team.spec, 8)
    collector = JointCollector(team, env, buffer)
    params = EpisodeOffPolicyParams(
        training_collector=collector,
        collection_step_num_env_steps=None,
        collection_step_num_episodes=2,
        verbose=False,
        learning_starts=1,
    )
    rounds = []
    trainer = EpisodeOffPolicyTrainer(team, params, on_collect=rounds.append)
    trainer.reset(reset_collectors=False)
    trainer.run_interval(20)  # a round is two episodes of four steps
    assert [len(stats.returns) for stats in rounds] == [2, 2, 2]
    counters = {"epoch": 1, "env_step": 24, "update_step": 3, "episodes": 6}
    assert trainer.counters() == counters
    another = EpisodeOffPolicyTrainer(team, params)
    another.restore(counters)
    assert another.counters() == counters
    another.run_interval(8)
    assert another.counters()["episodes"] == 8
    assert len(rounds) == 3
