"""A team and its adversary: what each learns from, when, and as one checkpoint."""

import copy
from dataclasses import replace

import pytest
import torch
from learners import sgd, update
from tianshou.algorithm.optim import LRSchedulerFactory
from tianshou.utils.torch_utils import policy_within_training_step

from robustmarl import algorithms
from robustmarl.adversaries import (
    Adversary,
    ByzantineAttacker,
    ObsAdversaryPPO,
    Population,
    SharedObsAdversary,
)
from robustmarl.algorithms import IPPO, QMIX, VDN
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.data import EpisodeBuffer, JointCollector
from robustmarl.envs import SignalMatching, TwoStepGame
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.learning.optim import adam
from robustmarl.losses import ActionLoss, ActionLossRegularizer
from robustmarl.perturbers import ObsPerturber, Perturber
from robustmarl.training import (
    AdversarialTraining,
    Log,
    OffPolicy,
    OnPolicy,
    load_weights,
    run,
    save_weights,
)

BALL = LinfBall(epsilon=0.75)
QUIET = Log(progress=False)
TEAMS = {"on": IPPO, "off": QMIX}


def game():
    return SignalMatching(noise=0.1, horizon=5)


def atla(seed=0, ball=BALL, **settings):
    return ObsAdversaryPPO.for_env(game(), ball, hidden=(8,), seed=seed, epochs=2, **settings)


def both(cls=IPPO, seed=0, ball=BALL, agents=None, **settings):
    team = cls.for_env(game(), hidden=(8,), seed=seed)
    return AdversarialTraining(team, atla(seed, ball, agents=agents), **settings)


def spy(adversary, seen):
    """Keep what an adversary learns from."""
    learn = adversary.learn
    adversary.learn = lambda sample: (seen.append(sample), learn(sample))[1]


class Rounds:
    """Collects and updates, as the trainers do."""

    def __init__(self, algorithm, episodes=4):
        self.algorithm, self.episodes = algorithm, episodes
        self.buffer = EpisodeBuffer(algorithm.spec, 8 * episodes)
        self.collector = JointCollector(
            algorithm.policy,
            JointVectorEnv(game, 2),
            self.buffer,
            perturb=algorithm.perturbers(),
        )

    def collect(self):
        if not self.algorithm.off_policy:
            self.buffer.reset()
        with policy_within_training_step(self.algorithm.policy):
            self.collector.collect(n_episode=self.episodes)
        return self.buffer.latest(self.episodes)

    def update(self):
        how = {"batch_size": None, "repeat": 1}
        if self.algorithm.off_policy:
            how = {"sample_size": 4}
        with policy_within_training_step(self.algorithm.policy):
            return self.algorithm.update(self.buffer, **how)


def parameters(module):
    return [p.detach().clone() for p in module.parameters()]


def same(one, other):
    return all(torch.equal(p, q) for p, q in zip(one, other, strict=True))


def test_what_was_recorded_is_what_was_shown():
    algorithm = both()
    batch = Rounds(algorithm).collect()
    clean, u = batch.obs.obs[:, :-1], batch.records["adversary"]["act"]
    shown = BALL.project(clean + 0.75 * u.clamp(-1.0, 1.0), clean)
    torch.testing.assert_close(batch.obs.seen[:, :-1], shown)
    with torch.no_grad():
        logp = algorithm.adversaries[0].actor.log_prob(clean, u)
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
    spy(algorithm.adversaries[0], seen)
    newest = []
    for _ in range(3):
        newest.append(rounds.collect())
        stats = rounds.update()
        assert "adversary/loss" in stats.metrics
        assert "loss" in stats.metrics
    rounds.update()  # nothing new was played

    assert len(seen) == 3
    for sample, new in zip(seen, newest, strict=True):
        assert torch.equal(sample.fresh.act, new.act)


@pytest.mark.parametrize("kind", TEAMS)
def test_periods_are_kept(kind):
    algorithm = both(TEAMS[kind], team_every=2, adversary_every=3)
    rounds, learned = Rounds(algorithm), {"team": [], "adversary": []}
    for number in range(7):
        parts = {"team": algorithm.team, "adversary": algorithm.adversaries[0]}
        before = {name: parameters(part) for name, part in parts.items()}
        rounds.collect()
        rounds.update()
        for name, found in learned.items():
            if not same(before[name], parameters(parts[name])):
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
    assert len(state["_optimizers"]) == 1  # the team's
    assert len(state["_adversaries.0._extra_state"]["optimizers"]) == 1
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
    assert any(name.startswith("_adversaries.") for name in names)


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
    clean, before = mean_return(team), mean_return(team, [adversary.deployed()])
    algorithm = AdversarialTraining(team, adversary, team_every=None)
    kept = parameters(team)
    run(algorithm, game, env_steps=6400, num_envs=64, seed=seed, log=QUIET)
    attacked = mean_return(team, [adversary.deployed()])

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
    one = made.adversaries[0]
    with pytest.raises(TypeError, match=r"team must be a robustmarl algorithm, got ObsAdv"):
        AdversarialTraining(one, one)
    with pytest.raises(TypeError, match=r"team must be a robustmarl algorithm, got ActorPolicy"):
        AdversarialTraining(made.policy, one)  # which has nothing to learn by
    for wrong in (made.team, [made.team], "adversary"):
        with pytest.raises(TypeError, match=r"adversaries must be adversaries, got"):
            AdversarialTraining(made.team, wrong)
    for wrong in ([one, one], []):
        with pytest.raises(ValueError, match=r"adversaries must be different adversaries, at le"):
            AdversarialTraining(made.team, wrong)


def test_an_unknown_agent_is_refused_when_it_is_bound():
    with pytest.raises(ValueError, match=r"LearnedObsPerturber\.agents must be among"):
        Rounds(both(agents=["nobody"]))


def test_a_ball_for_another_environment_is_refused():
    team = VDN.for_env(TwoStepGame(), hidden=(8,), optim=sgd())
    algorithm = AdversarialTraining(team, atla(ball=LinfBall(epsilon=(0.1, 0.2))))
    with pytest.raises(ValueError, match=r"observations of size 3, got 'one for size 2'"):
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
    algorithm = AdversarialTraining(team, atla())
    rounds = Rounds(algorithm)
    rounds.collect()
    metrics = rounds.update().metrics

    assert metrics["action_loss/weight"] == 1.0
    assert "adversary/loss" in metrics
    assert int(algorithm.state_dict()["team.penalty_updates"]) == 1


# Teams that stand still

HABITS = {
    "MAPPO": {"normalize_value": True, "deterministic_eval": True},
    "QMIX": {"exploration": 0.9},
    "DOP": {"exploration": 0.9, "critic_hidden": (8,)},
    "EIRMAPPO": {"preset": None, "teacher_forcing": 1.0},
    "RMAAC": {"ball": BALL},
}


def traitor(team, seed=0, **settings):
    return ByzantineAttacker.against(team, hidden=(8,), seed=seed, epochs=2, **settings)


def everything(module):
    """Return a copy of all weights, buffers and optimizers."""
    return copy.deepcopy(module.state_dict())


def identical(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(identical(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(identical, one, other))
    return one == other


@pytest.mark.parametrize("name", HABITS)
def test_a_team_that_stands_still_is_left_as_it_is(name):
    team = getattr(algorithms, name).for_env(game(), hidden=(8,), **HABITS[name])
    learn = OffPolicy(learning_starts=2) if team.off_policy else OnPolicy()
    run(team, game, env_steps=40, num_envs=4, learn=learn, log=QUIET)
    kept, gradients = everything(team), [p.grad for p in team.parameters()]
    adversaries = [atla(), traitor(team)]
    begun = [parameters(one) for one in adversaries]
    attack = AdversarialTraining(team, adversaries, team_every=None)
    run(attack, game, env_steps=60, num_envs=4, log=QUIET)

    assert identical(kept, everything(team))
    assert all(p.grad is g for p, g in zip(team.parameters(), gradients, strict=True))
    assert same(parameters(attack.policy.copied), parameters(team.policy))
    assert not any(same(a, parameters(b)) for a, b in zip(begun, adversaries, strict=True))
    assert not attack.off_policy


@pytest.mark.parametrize("name", ["MAPPO", "QMIX", "DOP", "EIRMAPPO"])
def test_it_acts_as_in_evaluation_while_others_train(name):
    team = getattr(algorithms, name).for_env(game(), hidden=(8,), **HABITS[name])
    attack = AdversarialTraining(team.policy, traitor(team), team_every=None)  # no learner needed
    played = []
    for player, training in ((attack, True), (team, False)):
        buffer = EpisodeBuffer(team.spec, 6)
        perturb = attack.perturbers()
        collector = JointCollector(player.policy, JointVectorEnv(game, 3), buffer, perturb=perturb)
        with policy_within_training_step(player.policy, enabled=training):
            collector.collect(n_episode=6)
        played.append(buffer.latest(6).flat())
    assert identical(*played)


# Several adversaries


def test_several_play_at_once_and_record_and_learn_by_name():
    team = IPPO.for_env(game(), hidden=(8,))
    adversaries = [atla(), atla(1), traitor(team)]
    rounds = Rounds(AdversarialTraining(team, adversaries))
    seen = [[], [], []]
    for adversary, kept in zip(adversaries, seen, strict=True):
        spy(adversary, kept)
    batch = rounds.collect()
    metrics = rounds.update().metrics

    assert set(batch.records) == {"adversary", "adversary.1", "byzantine"}
    first, second = batch.record("adversary")["act"], batch.record("adversary.1")["act"]
    assert not torch.equal(first, second)
    for adversary, name in zip(adversaries, batch.records, strict=True):
        assert adversary.recorded(batch) is batch.records[name]
        assert f"{name}/policy_loss" in metrics
    assert [len(kept) for kept in seen] == [1, 1, 1]


@pytest.mark.parametrize("kind", TEAMS)
def test_two_adversaries_resume_bit_for_bit(kind, tmp_path):
    learn = OnPolicy() if kind == "on" else OffPolicy(learning_starts=2)

    def fresh():
        team = TEAMS[kind].for_env(game(), hidden=(8,))
        members = [atla(2), traitor(team, 5)]
        return AdversarialTraining(team, [atla(1), Population(members)], team_every=2)

    settings = {"num_envs": 4, "interval": 40, "learn": learn}
    whole, first, second = fresh(), fresh(), fresh()
    run(whole, game, env_steps=160, log=QUIET, **settings)
    run(first, game, env_steps=80, log=replace(QUIET, logdir=tmp_path), **settings)
    resumed = replace(QUIET, logdir=tmp_path, resume=True)
    run(second, game, env_steps=160, log=resumed, **settings)
    assert identical(everything(whole), everything(second))
    assert not same(parameters(whole), parameters(first))


# The episodes that the team drew


class Watching(Adversary):
    """Plays nothing, and keeps what it was given."""

    needs = frozenset({"drawn"})

    def __init__(self):
        super().__init__()
        self._perturber, self.samples = Perturber(), []

    def perturber(self):
        return self._perturber

    def learn(self, sample):
        self.samples.append(sample)
        return {"episodes": float(len(sample.drawn))}

    def deployed(self, greedy=None):
        return Perturber()


def test_an_adversary_may_learn_from_the_very_episodes_that_the_team_drew():
    watching = Watching()
    team = QMIX.for_env(game(), hidden=(8,))
    rounds = Rounds(AdversarialTraining(team, watching))
    learned, drawn = [], []
    learn, sample = team.learn, rounds.buffer.sample
    team.learn = lambda batch: (learned.append(batch), learn(batch))[1]

    def kept(size):
        drawn.append(sample(size))
        return drawn[-1]

    rounds.buffer.sample = kept
    for _ in range(3):
        rounds.collect()
        metrics = rounds.update().metrics
        rounds.update()  # nothing new was played, and yet something is drawn
    assert len(watching.samples) == len(learned) == len(drawn) == 6
    for own, theirs, (batch, slots) in zip(watching.samples, learned, drawn, strict=True):
        assert own.drawn is theirs is batch
        assert len(slots) == 4
    assert [own.fresh is not None for own in watching.samples] == [True, False] * 3
    assert metrics["perturber/episodes"] == 4.0


def test_around_a_team_that_stands_still_it_is_sampled_for_the_adversary():
    watching, team = Watching(), IPPO.for_env(game(), hidden=(8,))
    attack = AdversarialTraining(team, watching, team_every=None)
    assert attack.off_policy
    learn = OffPolicy(learning_starts=8, batch_size=3)
    run(attack, game, env_steps=80, num_envs=4, learn=learn, log=QUIET)
    assert len(watching.samples) > 2
    assert all(len(sample.drawn) == 3 for sample in watching.samples)


def test_on_policy_both_are_the_episodes_of_the_round():
    watching = Watching()
    rounds = Rounds(AdversarialTraining(IPPO.for_env(game(), hidden=(8,)), watching))
    rounds.collect()
    rounds.update()
    (sample,) = watching.samples
    assert identical(sample.fresh.flat(), sample.drawn.flat())
    assert sample.epochs == 1


def test_dop_learns_from_the_newest_episodes_as_without_an_adversary():
    teams = [algorithms.DOP.for_env(game(), hidden=(8,), recent_episodes=2) for _ in range(2)]
    learned = [Rounds(AdversarialTraining(teams[0], Watching())), Rounds(teams[1])]
    for rounds in learned:
        for _ in range(4):
            rounds.collect()
            rounds.update()
    assert same(parameters(teams[0]), parameters(teams[1]))


# Advantages


def test_rmaac_is_mappo_beside_its_noise_actor_bit_for_bit():
    rmaac = algorithms.RMAAC.for_env(game(), hidden=(8,), ball=BALL)
    mappo = algorithms.MAPPO.for_env(game(), hidden=(8,))
    actor = copy.deepcopy(rmaac.adversary.actor)
    whole = AdversarialTraining(mappo, SharedObsAdversary(actor))
    for algorithm in (rmaac, whole):
        run(algorithm, game, env_steps=80, num_envs=4, log=QUIET)
    assert same(parameters(rmaac.policy), parameters(mappo.policy))
    assert same(parameters(rmaac.adversary), parameters(actor))


def test_a_team_without_advantages_is_refused_to_those_that_need_them():
    shared = both(QMIX).adversaries[0].actor
    for team, every in ((both(QMIX).team, 1), (both().team, None)):
        with pytest.raises(ValueError, match=r"team must be MAPPO or another that has advantages"):
            AdversarialTraining(team, SharedObsAdversary(shared), team_every=every)
