"""Training on segments: what is learned from, when runs are cut, and what is refused."""

import pytest
import torch
from doubles import Scripted

from robustmarl.adversaries import ByzantineAttacker, ObsAdversaryPPO, Population
from robustmarl.algorithms import A2C, COMA, EIRMAPPO, IPPO, MAPPO, MFAC, RMAAC
from robustmarl.attacks import PGD, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.data import SlowCopy
from robustmarl.envs import SignalMatching
from robustmarl.losses import ActionLoss, ActionLossRegularizer
from robustmarl.perturbers import ByzantinePerturber, ObsPerturber, SparingPerturber
from robustmarl.training import AdversarialTraining, Log, OnPolicy, load_checkpoint, run
from robustmarl.training.trainers import EpisodeTrainer

BALL = LinfBall(epsilon=0.25)
QUIET = Log(progress=False)


class Robust(ActionLossRegularizer, MAPPO):
    pass


def game():
    return Scripted(3, lengths=(3, 8), masks="info", metrics=("u",), state="joint")


def made(kind, seed=0, **settings):
    settings = {"hidden": (8,), "critic_hidden": (8,), "seed": seed} | settings
    return kind.for_env(game(), **settings)


MAKERS = {
    "ippo": lambda seed=0: made(IPPO, seed),
    "a2c": lambda seed=0: made(A2C, seed, last_action=True),
    "mappo gru": lambda seed=0: made(MAPPO, seed, recurrent=True, last_action=True),
    "separate": lambda seed=0: made(MAPPO, seed, recurrent=True, shared=False),
    "coma": lambda seed=0: made(COMA, seed),
    "mfac": lambda seed=0: made(MFAC, seed, recurrent=True, last_action=True),
    "rmaac": lambda seed=0: made(RMAAC, seed, ball=BALL),
    "loss mixin": lambda seed=0: made(
        Robust,
        seed,
        recurrent=True,
        action_loss=ActionLoss(attack=PGD(ball=BALL, steps=1), weight=0.5),
    ),
}


def against(team, **settings):
    """Return a team under an adversary that perturbs, or one that plays for an agent."""
    given = ObsAdversaryPPO.for_env(game(), BALL, hidden=(8,), seed=1, epochs=2)
    traitor = ByzantineAttacker.against(team, hidden=(8,), seed=1)
    return AdversarialTraining(team, [given, traitor], **settings)


MAKERS |= {
    "adversaries": lambda seed=0: against(made(MAPPO, seed, recurrent=True, last_action=True)),
    "frozen": lambda seed=0: against(made(COMA, seed), team_every=None),
}


def train(algorithm, make=game, *, length=5, logdir=None, resume=False, **more):
    """Run for eight segments and a few steps, which end an interval in the middle of episodes."""
    settings = {"env_steps": 8 * 15, "num_envs": 3, "interval": 45} | more
    batch_size = None if isinstance(algorithm, COMA) else 8
    learn = OnPolicy(segment_length=length, epochs=2, batch_size=batch_size)
    log = Log(logdir, resume=resume, progress=False)
    return run(algorithm, make, learn=learn, log=log, **settings)


def weights(algorithm):
    return {k: v.clone() for k, v in algorithm.state_dict().items() if isinstance(v, torch.Tensor)}


def same(one, two):
    one, two = weights(one), weights(two)
    return all(torch.equal(values, two[name]) for name, values in one.items())


def noting(kind, batches):
    class Noting(kind):
        def learn(self, batch, minibatch, epochs):
            batches.append(batch)
            return super().learn(batch, minibatch, epochs)

    return Noting


@pytest.mark.parametrize("recurrent", [False, True])
def test_segments_of_the_length_of_all_episodes_are_training_on_whole_ones(recurrent):
    learned, teams = ([], []), []
    for batches, learn in zip(
        learned, (OnPolicy(segment_length=4), OnPolicy(episodes_per_round=3)), strict=True
    ):
        kind = noting(IPPO, batches)
        teams.append(kind.for_env(Scripted(), hidden=(8,), recurrent=recurrent, last_action=True))
        noise = [UniformNoise(ball=BALL)]
        settings = {"env_steps": 60, "num_envs": 3, "interval": 30, "log": QUIET}
        run(teams[-1], Scripted, learn=learn, perturb=noise, **settings)
    assert len(learned[0]) == len(learned[1]) == 5
    for one, two in zip(*learned, strict=True):
        left, right = one.flat(), two.flat()
        for name, values in right.items():
            assert torch.equal(left[name], values), name
    assert same(*teams)


def test_episodes_go_on_until_the_interval_ends():
    batches = []
    team = noting(IPPO, batches).for_env(SignalMatching(horizon=9), hidden=(8,), last_action=True)
    history = train(team, lambda: SignalMatching(horizon=9), length=4, env_steps=110, interval=55)
    # Three environments, four ticks a segment. In the third and the fifth one tick shows the last
    # observation of the first and the second episode. After the sixth they begin anew.
    assert history.env_steps == [0, 66, 111]
    begins = [(batch.act_before == -1).flatten(1).all(1).sum().item() for batch in batches]
    assert begins == [3, 0, 3, 0, 0, 3, 3, 0, 3, 0]
    assert [len(batch.valid) for batch in batches] == [3, 3, 6, 3, 3, 3, 3, 3, 6, 3]
    assert history.episodes == 9


@pytest.mark.parametrize("kind", MAKERS)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(kind, tmp_path, monkeypatch):
    more = {"perturb": [SparingPerturber(ObsPerturber(UniformNoise(ball=BALL)), steps=2)]}
    whole = MAKERS[kind]()
    before = weights(whole)
    history = train(whole, logdir=tmp_path / "whole", **more)
    assert not all(torch.equal(values, before[name]) for name, values in weights(whole).items())
    collected, rounds = EpisodeTrainer._collect_training_data, []

    def die(trainer):
        rounds.append(trainer)
        if len(rounds) == 6:  # in the middle of the second interval, episodes under way
            raise KeyboardInterrupt
        return collected(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(EpisodeTrainer, "_collect_training_data", die)
        with pytest.raises(KeyboardInterrupt):
            train(MAKERS[kind](), logdir=tmp_path / "parts", **more)
    again = MAKERS[kind](seed=7)
    told = train(again, logdir=tmp_path / "parts", resume=True, **more)
    assert told.resumed
    assert same(whole, again)
    assert told.train.keys() == history.train.keys()
    assert told.env_steps == history.env_steps
    left, right = (
        load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("whole", "parts")
    )
    assert left["collector"] == right["collector"]
    assert left["trainer"] == right["trainer"]
    assert repr(left["history"]["train"]) == repr(right["history"]["train"])


def test_adversaries_learn_from_the_pieces():
    samples = []

    class Noting(ObsAdversaryPPO):
        def learn(self, sample):
            samples.append(sample.fresh)
            return super().learn(sample)

    batches = []
    team = noting(MAPPO, batches).for_env(game(), hidden=(8,), recurrent=True)
    adversary = Noting.for_env(game(), BALL, hidden=(8,), seed=1)
    train(AdversarialTraining(team, adversary))
    assert len(samples) == len(batches) > 8
    for one, other in zip(samples, batches, strict=True):
        assert torch.equal(one.obs.seen, other.obs.seen)
        assert len(one) >= 3


def test_self_play_and_traitors_go_on():
    like_red = {"obs_sizes": (5,) * 4, "action_sizes": (3,) * 4, "lengths": (9,), "masks": "info"}
    teams = {"red": ("a0", "a1"), "blue": ("a2", "a3")}
    make = lambda: Scripted(4, teams=teams, **like_red)  # noqa: E731
    team = MAPPO.for_env(make(), team="red", hidden=(8,), recurrent=True)
    follower = SlowCopy(team, tau=0.5, when="ahead")
    history = train(
        team,
        make,
        team="red",
        opponents={"blue": follower},
        perturb=[ByzantinePerturber("random")],
        length=4,
    )
    assert history.episodes > 0
    assert team.policy.counted("updates") > 8


def test_a_round_in_which_nothing_ended_is_logged(tmp_path):
    make = lambda: Scripted(lengths=(30,), metrics=("u",))  # noqa: E731
    team = IPPO.for_env(make(), hidden=(8,))
    history = train(team, make, length=7, logdir=tmp_path, interval=100, env_steps=200)
    assert history.episodes == 6
    assert len(history.curve("return")[0]) == 2
    assert team.policy.counted("episodes") == 6
    assert team.policy.counted("env_steps") == history.env_steps[-1]


def test_what_learns_from_whole_episodes_refuses_segments():
    gaussian = ObsAdversaryPPO.for_env(game(), BALL, hidden=(8,))
    population = Population([ObsAdversaryPPO.for_env(game(), BALL, hidden=(8,))])
    for algorithm in (
        made(EIRMAPPO),
        AdversarialTraining(made(EIRMAPPO), gaussian),
        AdversarialTraining(made(IPPO), population),
    ):
        name = type(algorithm).__name__
        rule = (
            rf"OnPolicy\.segment_length must be None for {name}, which learns from whole episodes"
        )
        with pytest.raises(ValueError, match=rule):
            train(algorithm)


def test_intervals_leave_time_for_whole_episodes():
    team = made(IPPO)
    rule = r"run\.interval must be >= 24, an episode of full length in each environment, while seg"
    with pytest.raises(ValueError, match=rule):
        train(team, interval=23)
    assert train(team, interval=None, env_steps=100).env_steps[1] >= 24
    assert run(team, game, env_steps=24, num_envs=3, interval=1, log=QUIET).env_steps[-1] >= 24


def test_a_round_is_counted_one_way():
    assert OnPolicy(segment_length=8).steps_per_round is None
    for other in ("episodes_per_round", "steps_per_round"):
        with pytest.raises(
            ValueError, match=rf"OnPolicy\.segment_length must be given without {other}, got 8"
        ):
            OnPolicy(segment_length=8, **{other: 8})
