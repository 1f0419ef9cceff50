"""A team and its adversary: what each learns from, when, and as one checkpoint."""

import copy
from dataclasses import replace

import pytest
import torch
from learners import sgd, update
from tianshou.algorithm.optim import LRSchedulerFactory
from tianshou.utils.torch_utils import policy_within_training_step

from robustmarl.adversaries import ObsAdversaryPPO
from robustmarl.algorithms import IPPO, QMIX, VDN
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.data import EpisodeBuffer, JointCollector
from robustmarl.envs import SignalMatching, TwoStepGame
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.learning.optim import adam
from robustmarl.losses import ActionLoss, ActionLossRegularizer
from robustmarl.perturbers import ObsPerturber
from robustmarl.training import AdversarialTraining, Log, OffPolicy, run
from robustmarl.training.adversarial import adversary_view
from robustmarl.training.checkpoints import load_weights, save_weights

BALL = LinfBall(epsilon=0.75)
QUIET = Log(progress=False)
TEAMS = {"on": IPPO, "off": QMIX}


def game():
    return SignalMatching(noise=0.1, horizon=5)


def both(cls=IPPO, seed=0, ball=BALL, **settings):
    team = cls.for_env(game(), hidden=(8,), seed=seed)
    adversary = ObsAdversaryPPO.for_env(game(), ball, hidden=(8,), seed=seed, epochs=2)
    return AdversarialTraining(team, adversary, **settings)


class Rounds:
    """Collects and updates, as the trainers do."""

    def __init__(self, algorithm, episodes=4):
        self.algorithm, self.episodes = algorithm, episodes
        self.buffer = EpisodeBuffer(algorithm.spec, 8 * episodes)
        self.collector = JointCollector(
            algorithm.team,
            JointVectorEnv(game, 2),
            self.buffer,
            perturb=algorithm.perturbers(),
        )

    def collect(self):
        if hasattr(self.algorithm.team, "critic"):
            self.buffer.reset()
        with policy_within_training_step(self.algorithm.policy):
            self.collector.collect(n_episode=self.episodes)
        return self.buffer.latest(self.episodes)

    def update(self):
        on_policy = hasattr(self.algorithm.team, "critic")
        how = {"batch_size": None, "repeat": 1} if on_policy else {"sample_size": 4}
        with policy_within_training_step(self.algorithm.policy):
            return self.algorithm.update(self.buffer, **how)


def parameters(module):
    return [p.detach().clone() for p in module.parameters()]


def same(one, other):
    return all(torch.equal(p, q) for p, q in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", TEAMS)
def test_the_adversary_lives_the_same_episodes_with_the_reward_turned(kind):
    algorithm = both(TEAMS[kind])
    batch = Rounds(algorithm).collect()
    view = adversary_view(batch)

    assert torch.equal(view.rew, -batch.rew)
    assert torch.equal(view.obs.obs, batch.obs.obs)
    assert torch.equal(view.obs.seen, batch.obs.obs)  # clean, although the team saw otherwise
    assert not torch.equal(batch.obs.seen, batch.obs.obs)
    assert torch.equal(view.act, batch.records["adversary"]["act"])
    for key in ("terminated", "valid"):
        assert torch.equal(view.flat()[key], batch.flat()[key])
    assert torch.equal(view.obs.state, batch.obs.state)


def test_what_was_recorded_is_what_was_shown():
    algorithm = both()
    batch = Rounds(algorithm).collect()
    clean, u = batch.obs.obs[:, :-1], batch.records["adversary"]["act"]
    shown = BALL.project(clean + 0.75 * u.clamp(-1.0, 1.0), clean)
    torch.testing.assert_close(batch.obs.seen[:, :-1], shown)
    with torch.no_grad():
        logp = algorithm.adversary.adversary.log_prob(clean, u)
    torch.testing.assert_close(batch.records["adversary"]["logp"], logp, rtol=1e-5, atol=1e-5)
    assert float(u.abs().max()) > 1.0  # before clipping


def test_only_attacked_agents_are_recorded():
    algorithm = both(agents=["agent_1"])
    batch = Rounds(algorithm).collect()
    assert not batch.records["adversary"]["act"][:, :, 0].any()
    assert not batch.records["adversary"]["logp"][:, :, 0].any()
    assert torch.equal(batch.obs.seen[:, :, 0], batch.obs.obs[:, :, 0])
    assert not torch.equal(batch.obs.seen[:, :, 1], batch.obs.obs[:, :, 1])


@pytest.mark.parametrize("kind", TEAMS)
def test_the_team_learns_from_what_it_saw_as_without_an_adversary(kind):
    algorithm = both(TEAMS[kind])
    rounds = Rounds(algorithm)
    rounds.collect()
    alone = copy.deepcopy(algorithm.team)
    buffer = copy.deepcopy(rounds.buffer)
    rounds.update()
    update(alone, buffer, sample_size=4)
    assert same(parameters(alone), parameters(algorithm.team))


def test_the_adversary_learns_from_the_newest_episodes_only_and_once():
    algorithm = both(QMIX)
    rounds, seen = Rounds(algorithm), []
    learn = algorithm.adversary.update
    algorithm.adversary.update = lambda batch: (seen.append(batch), learn(batch))[1]
    newest = []
    for _ in range(3):
        newest.append(rounds.collect())
        stats = rounds.update()
        assert "adversary/loss" in stats.metrics
        assert "loss" in stats.metrics
    rounds.update()  # nothing new was played

    assert len(seen) == 3
    for batch, new in zip(seen, newest, strict=True):
        assert torch.equal(batch.act, new.records["adversary"]["act"])


@pytest.mark.parametrize("kind", TEAMS)
def test_periods_are_kept(kind):
    algorithm = both(TEAMS[kind], team_every=2, adversary_every=3)
    rounds, learned = Rounds(algorithm), {"team": [], "adversary": []}
    for number in range(7):
        before = {name: parameters(getattr(algorithm, name)) for name in learned}
        rounds.collect()
        rounds.update()
        for name, found in learned.items():
            if not same(before[name], parameters(getattr(algorithm, name))):
                found.append(number)

    assert learned == {"team": [0, 2, 4, 6], "adversary": [0, 3, 6]}
    assert int(algorithm.rounds) == 7


@pytest.mark.parametrize("kind", TEAMS)
def test_one_checkpoint_holds_both_and_resumes(kind, tmp_path):
    one = both(TEAMS[kind], team_every=2)
    rounds = Rounds(one)
    for _ in range(3):
        rounds.collect()
        rounds.update()
    state = one.state_dict()
    assert [key for key in state if "_optimizers" in key] == ["_optimizers"]
    assert len(state["_optimizers"]) == 2
    save_weights(one, tmp_path / "both.pt")
    kept = copy.deepcopy(state)
    other = both(TEAMS[kind], seed=5, team_every=2)
    assert not same(parameters(one), parameters(other))
    other.load_state_dict(state)
    third = both(TEAMS[kind], seed=6, team_every=2)
    load_weights(third, tmp_path / "both.pt")

    assert list(state) == list(kept)
    for algorithm in (other, third):
        assert same(parameters(one), parameters(algorithm))
        assert int(algorithm.rounds) == 3
        assert algorithm.policy.counted("episodes") == 12
    rounds.collect()
    for algorithm in (other, third):
        algorithm.policy.counts.copy_(one.policy.counts)
        again = Rounds(algorithm)
        again.buffer = copy.deepcopy(rounds.buffer)
        again.update()
    rounds.update()
    assert same(parameters(one), parameters(other))
    assert same(parameters(one), parameters(third))


def test_it_is_the_teams_kind_of_algorithm():
    algorithm = both(QMIX)
    assert algorithm.policy is algorithm.team.policy
    assert algorithm.victim() is algorithm.team.victim()
    assert algorithm.spec == algorithm.team.spec
    names = [name for name, _ in algorithm.named_parameters()]
    assert any(name.startswith("adversary.") for name in names)


def test_run_resumes_bit_for_bit(tmp_path):
    settings = {"num_envs": 2, "interval": 40, "learn": OffPolicy(learning_starts=2)}
    whole = both(QMIX)
    run(whole, game, env_steps=120, log=QUIET, **settings)
    first = both(QMIX)
    run(first, game, env_steps=40, log=replace(QUIET, logdir=tmp_path), **settings)
    second = both(QMIX)
    resumed = replace(QUIET, logdir=tmp_path, resume=True)
    run(second, game, env_steps=120, log=resumed, **settings)
    assert same(parameters(whole), parameters(second))
    assert not same(parameters(whole), parameters(first))


def mean_return(team, perturb=()):
    collector = JointCollector(team, JointVectorEnv(game, 64), perturb=perturb, seed=77)
    return float(collector.collect(n_episode=64).returns.mean())


@pytest.mark.parametrize("seed", [0, 1])
def test_the_adversary_breaks_a_team_that_stands_still(seed):
    """5 steps an episode: a team that reads the signal earns 5, one that cannot 1.25 to 2.5."""
    team = IPPO.for_env(game(), hidden=(16,), seed=seed, entropy_coef=0.0, optim=adam(1e-2))
    run(team, game, env_steps=6400, num_envs=64, seed=seed, log=QUIET)
    adversary = ObsAdversaryPPO.for_env(game(), BALL, hidden=(16,), seed=seed, optim=adam(1e-2))
    clean, before = mean_return(team), mean_return(team, [adversary.adversary])
    algorithm = AdversarialTraining(team, adversary, team_every=10**6)
    algorithm.rounds.fill_(1)  # the team learns in rounds 0, 10^6, ...
    kept = parameters(team)
    run(algorithm, game, env_steps=6400, num_envs=64, seed=seed, log=QUIET)
    attacked = mean_return(team, [adversary.adversary])

    assert same(kept, parameters(team))
    assert clean > 4.5
    assert attacked < 2.0
    assert attacked < before
    assert mean_return(team) == clean
    assert attacked < clean - 2.0


def test_a_zero_ball_is_plain_training():
    settings = {"num_envs": 4, "env_steps": 100, "log": QUIET}
    one, plain = both(ball=BALL.with_epsilon(0.0)), both().team
    run(one, game, **settings)
    run(plain, game, **settings)
    assert same(parameters(one.team), parameters(plain))


def test_other_perturbations_stack_below():
    algorithm = both(QMIX)
    history = run(
        algorithm,
        game,
        env_steps=40,
        num_envs=2,
        learn=OffPolicy(learning_starts=2),
        perturb=ObsPerturber(PGD(ball=LinfBall(epsilon=0.1), steps=2)),
        log=QUIET,
    )
    assert history.episodes >= 8


def test_a_batch_without_an_adversary_is_refused():
    algorithm = both()
    buffer = EpisodeBuffer(algorithm.spec, 4)
    collector = JointCollector(algorithm.team, JointVectorEnv(game, 2), buffer)
    collector.collect(n_episode=4)
    with pytest.raises(ValueError, match=r"adversary_view\.batch must be collected with an adv"):
        adversary_view(buffer.latest(4))


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        ({"team_every": 0}, ValueError, r"AdversarialTraining\.team_every must be an int >= 1"),
        ({"adversary_every": 1.5}, TypeError, r"adversary_every must be an int >= 1, got 1\.5"),
        ({"agents": "agent_0"}, TypeError, r"agents must be a collection of names, got 'agent_0'"),
    ],
)
def test_bad_settings(settings, kind, text):
    with pytest.raises(kind, match=text):
        both(**settings)


def test_other_kinds_of_parts_are_refused():
    made = both()
    with pytest.raises(TypeError, match=r"team must be a robustmarl algorithm, got ObsAdv"):
        AdversarialTraining(made.adversary, made.adversary)
    with pytest.raises(TypeError, match=r"adversary must be an adversary's learner, got IPPO"):
        AdversarialTraining(made.team, made.team)


def test_an_unknown_agent_is_refused_when_it_is_bound():
    with pytest.raises(ValueError, match=r"ObsPerturber\.agents must be among"):
        Rounds(both(agents=["nobody"]))


def test_a_ball_for_another_environment_is_refused():
    team = VDN.for_env(TwoStepGame(), hidden=(8,), optim=sgd())
    algorithm = AdversarialTraining(team, both(ball=LinfBall(epsilon=(0.1, 0.2))).adversary)
    with pytest.raises(ValueError, match=r"one number or 3 numbers"):
        JointCollector(team, JointVectorEnv(TwoStepGame, 1), perturb=algorithm.perturbers())


class Halving(LRSchedulerFactory):
    def create_scheduler(self, optim):
        return torch.optim.lr_scheduler.StepLR(optim, 1, gamma=0.5)


def test_learning_rates_fall_for_both_once_per_update_and_are_resumed():
    def make():
        optim = [sgd(1.0).with_lr_scheduler_factory(Halving()) for _ in range(2)]
        team = IPPO.for_env(game(), hidden=(8,), optim=optim[0])
        adversary = ObsAdversaryPPO.for_env(game(), BALL, hidden=(8,), optim=optim[1])
        return AdversarialTraining(team, adversary, adversary_every=2)

    algorithm = make()
    rounds = Rounds(algorithm)
    for _ in range(3):
        rounds.collect()
        rounds.update()
    rates = [s.get_last_lr() for s in algorithm.lr_schedulers]
    assert rates == [[0.125], [0.25]]
    other = make()
    other.load_state_dict(algorithm.state_dict())
    for mine, theirs in zip(algorithm.lr_schedulers, other.lr_schedulers, strict=True):
        theirs.load_state_dict(mine.state_dict())
    assert [s.get_last_lr() for s in other.lr_schedulers] == rates


@pytest.mark.parametrize("kind", TEAMS)
def test_a_team_may_have_a_defence_of_its_own(kind):
    robust = type("Robust", (ActionLossRegularizer, TEAMS[kind]), {})
    term = ActionLoss(attack=PGD(ball=LinfBall(epsilon=0.1), steps=2), weight=1.0)
    team = robust.for_env(game(), hidden=(8,), action_loss=term)
    algorithm = AdversarialTraining(team, both().adversary)
    rounds = Rounds(algorithm)
    rounds.collect()
    metrics = rounds.update().metrics

    assert metrics["action_loss/weight"] == 1.0
    assert "adversary/loss" in metrics
    assert int(algorithm.state_dict()["team.penalty_updates"]) == 1
