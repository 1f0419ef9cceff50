"""Learning rates over time: whose counts they go by, and what they are then."""

import copy
import pickle

import gymnasium
import numpy as np
import pytest
import torch
from doubles import Scripted
from tianshou.algorithm import DQN
from tianshou.algorithm import optim as factories
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.utils.net.common import Net

from robustmarl.adversaries import ATSA, PAAD, RAP, ROMANCE, ObsAdversaryPPO
from robustmarl.algorithms import DOP, IPPO, VDN
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.data import EpisodeBuffer, JointCollector
from robustmarl.envs import SignalMatching
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import spec_of
from robustmarl.learning import WorldModel, adam
from robustmarl.learning.optim import torch_factory
from robustmarl.losses import PolicyLoss, PolicyRegularizer
from robustmarl.perturbers import stor
from robustmarl.schedules import Constant, Linear, Repetitive
from robustmarl.training import (
    AdversarialTraining,
    Log,
    OffPolicy,
    load_weights,
    run,
    save_weights,
)


class RobustDQN(PolicyRegularizer, DQN):
    """Tianshou's own, with a term of ours."""


BALL = LinfBall(epsilon=0.25)
FALLING = Linear(1e-2, 0.0, over=60, begin=30, unit="env_steps")


def game():
    return Scripted(lengths=(3, 6))


def train(learner, seed=0, env_steps=120, **more):
    learn = OffPolicy(learning_starts=4, batch_size=4, buffer_episodes=12)
    learn = learn if learner.off_policy else None
    log = Log(progress=False)
    return run(learner, game, env_steps=env_steps, learn=learn, seed=seed, log=log, **more)


def vdn(optim):
    return VDN.for_env(game(), hidden=(8,), optim=optim, exploration=0.5, seed=0)


def rate(optimizer):
    return optimizer._optim.param_groups[0]["lr"]


def test_a_team_goes_by_the_steps_that_it_played():
    team, seen = vdn(adam(FALLING)), []
    assert rate(team.optim) == 1e-2
    update = team._update_with_batch

    def updating(batch):
        seen.append((rate(team.optim), team.policy.counted("env_steps")))
        return update(batch)

    team._update_with_batch = updating
    train(team, num_envs=1)
    ends = [0, *(count for _, count in seen)]  # a rate is set at the end of the update before it
    assert len(seen) > 5
    assert [used for used, _ in seen] == [FALLING(count) for count in ends[:-1]]
    assert len({used for used, _ in seen}) > 3
    assert rate(team.optim) == 0.0


def test_at_a_rate_of_zero_nothing_is_learned():
    still, moving = vdn(adam(Linear(1e-2, 0.0, over=1, unit="env_steps"))), vdn(adam(1e-2))
    before = [p.detach().clone() for p in still.policy.parameters()]
    train(still)
    train(moving)
    steps = still.optim._optim.state[next(still.policy.parameters())]["step"]
    assert steps > 5
    first = [torch.equal(p, q) for p, q in zip(before, still.policy.parameters(), strict=True)]
    assert not all(first)  # the first update has the schedule's first value
    again = [p.detach().clone() for p in still.policy.parameters()]
    train(still)
    assert all(torch.equal(p, q) for p, q in zip(again, still.policy.parameters(), strict=True))
    assert not any(
        torch.equal(p, q)
        for p, q in zip(still.policy.parameters(), moving.policy.parameters(), strict=True)
    )


@pytest.mark.parametrize("unit", ["updates", "episodes", "env_steps"])
@pytest.mark.parametrize("make", [Constant, lambda lr, unit: Linear(lr, lr, over=10, unit=unit)])
def test_a_rate_that_stays_is_the_number(make, unit):
    one, other = vdn(adam(1e-2)), vdn(adam(make(1e-2, unit=unit)))
    assert other.lr_schedulers
    train(one)
    train(other)
    for p, q in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("kind", [PAAD, ATSA])
def test_directors_go_by_what_they_played(kind):
    settings = {"optim": adam(FALLING)} | ({"critic_optim": adam(FALLING)} if kind is ATSA else {})
    adversary = kind.for_env(game(), stor(BALL), hidden=(8,), seed=0, **settings)
    train(AdversarialTraining(vdn(adam(1e-2)), adversary), env_steps=60)
    count = adversary.director.counted("env_steps")
    assert FALLING(count) < 1e-2
    assert [rate(one) for one in adversary.optimizers] == [FALLING(count)] * len(
        adversary.optimizers
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda optim: ObsAdversaryPPO.for_env(game(), BALL, hidden=(8,), optim=optim),
        lambda optim: ROMANCE.for_env(game(), hidden=(8,), optim=optim),
    ],
)
def test_adversaries_without_a_director_know_updates_alone(make):
    with pytest.raises(
        ValueError, match=r"adam.lr must be counting 'updates', as (Obs|ROM).*Write"
    ):
        make(adam(FALLING))
    adversary = make(adam(Linear(1e-2, 0.0, over=4)))
    adversary.step_schedulers()
    assert rate(adversary.optimizers[0]) == pytest.approx(0.75e-2)


def test_what_is_not_ours_knows_updates_alone():
    module = torch.nn.Linear(1, 1)
    optimizer, scheduler = adam(Linear(1.0, 0.0, over=4)).create_instances(module)
    optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == [0.75]
    optimizer, scheduler = adam(FALLING).create_instances(module)
    optimizer.step()
    with pytest.raises(ValueError, match=r"counting 'updates', as what it learns for counts"):
        scheduler.step()


def test_all_optimizers_of_a_team_follow():
    team = DOP.for_env(game(), hidden=(8,), optim=adam(FALLING), critic_optim=adam(FALLING))
    team.policy.count("env_steps", 60)
    for one in team.lr_schedulers:
        one.step()
    assert [rate(team.optim), rate(team.critic_optim)] == [0.5e-2, 0.5e-2]
    ppo = IPPO.for_env(game(), hidden=(8,), optim=adam(Linear(1e-2, 0.0, over=2)))
    train(ppo, num_envs=2)
    assert rate(ppo.optim) == 0.0


def test_other_optimizers_of_torch_follow_too():
    factory = torch_factory(torch.optim.SGD, lr=FALLING, momentum=0.5)
    team = vdn(factory)
    team.policy.count("env_steps", 75)
    team.lr_schedulers[0].step()
    group = team.optim._optim.param_groups[0]
    assert (group["lr"], group["momentum"]) == (FALLING(75), 0.5)


def test_state_is_plain_and_comes_back(tmp_path):
    team = vdn(adam(FALLING))
    train(team)
    state = team.lr_schedulers[0].state_dict()
    torch.save(state, tmp_path / "state.pt")
    kept = torch.load(tmp_path / "state.pt", weights_only=True)
    other = vdn(adam(FALLING))
    other.lr_schedulers[0].load_state_dict(kept)
    assert other.lr_schedulers[0].get_last_lr() == team.lr_schedulers[0].get_last_lr() == [0.0]
    assert other.lr_schedulers[0].schedule == FALLING


@pytest.mark.parametrize("lr", [np.float32(0.5), torch.tensor(0.5), 0.5])
def test_numbers_of_a_neighbouring_kind_are_taken(lr):
    optimizer, scheduler = adam(lr).create_instances(torch.nn.Linear(1, 1))
    assert type(optimizer.param_groups[0]["lr"]) is float
    assert scheduler is None


class Odd:
    def __init__(self, *values, unit="updates"):
        self.values, self.unit = values, unit

    def __call__(self, count):
        return self.values[count]


BAD = [0.0, -1.0, np.nan, Linear(0.1, -0.1, over=2), Constant(-1.0), Odd(-1.0), Odd(np.nan)]


@pytest.mark.parametrize("lr", BAD)
def test_numbers_out_of_range_are_refused(lr):
    with pytest.raises(ValueError, match=r"adam.lr must be"):
        adam(lr)


def test_a_schedule_of_ones_own_is_checked_when_it_is_asked():
    optimizer, scheduler = adam(Odd(1.0, 0.0, -1.0)).create_instances(torch.nn.Linear(1, 1))
    optimizer.step()
    scheduler.step()
    with pytest.raises(ValueError, match=r"adam.lr must be .* got -1.0"):
        scheduler.step()


@pytest.mark.parametrize("lr", ["fast", None, True, Linear, Odd(1.0, unit="steps"), min, Odd("a")])
def test_what_is_no_rate_is_refused(lr):
    with pytest.raises(TypeError, match=r"adam.lr must be a (finite )?number"):
        adam(lr)


def test_the_world_model_steps_its_rate_or_refuses_it():
    def fitted(lr):
        model = WorldModel(spec_of(SignalMatching()), members=1, hidden=(8,), seed=0)
        model.fit(recorded(), updates=5, batch_size=4, optim=adam(lr))
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(fitted(1e-2), fitted(Constant(1e-2)))
    assert not torch.equal(fitted(1e-2), fitted(Linear(1e-2, 0.0, over=2)))
    with pytest.raises(ValueError, match=r"counting 'updates', as WorldModel counts nothing"):
        fitted(FALLING)


def recorded():
    team = VDN.for_env(SignalMatching(), hidden=(8,), exploration=1.0, seed=0)
    buffer = EpisodeBuffer(team.spec, 20)
    JointCollector(team.policy, JointVectorEnv(SignalMatching, 2), buffer).collect(n_episode=20)
    return buffer.latest(20)


def test_loss_terms_on_tianshous_own_know_updates_alone():
    def made(lr):
        net = DiscreteQLearningPolicy(
            model=Net(state_shape=(4,), action_shape=3, hidden_sizes=(8,)),
            action_space=gymnasium.spaces.Discrete(3),
        )
        term = PolicyLoss(attack=PGD(ball=BALL), weight=0.1)
        return RobustDQN(policy=net, optim=adam(lr), policy_loss=term)

    with pytest.raises(ValueError, match=r"RobustDQN.optim.lr must be counting 'updates' with Tia"):
        made(FALLING)
    assert made(Linear(1e-2, 0.0, over=4)).lr_schedulers


def faded():
    team = vdn(adam(FALLING))
    train(team)
    assert rate(team.optim) == 0.0
    return team


@pytest.mark.parametrize("optimizers", [True, False])
def test_weights_are_learned_on_at_the_rate_that_the_learner_has(optimizers, tmp_path):
    save_weights(faded(), tmp_path / "team.pt", optimizers=optimizers)
    number, schedule = vdn(adam(1e-3)), vdn(adam(FALLING))
    for team in (number, schedule):
        load_weights(team, tmp_path / "team.pt")
    assert (rate(number.optim), rate(schedule.optim)) == (1e-3, 0.0)
    before = [p.detach().clone() for p in number.policy.parameters()]
    train(number)
    assert not all(map(torch.equal, before, number.policy.parameters()))
    assert rate(number.optim) == 1e-3


def test_a_number_s_weights_are_learned_on_at_the_schedule_s_rate(tmp_path):
    team = vdn(adam(1e-3))
    train(team, env_steps=60)
    save_weights(team, tmp_path / "team.pt")
    other = vdn(adam(FALLING))
    load_weights(other, tmp_path / "team.pt")
    assert rate(other.optim) == FALLING(team.policy.counted("env_steps")) < 1e-2


@pytest.mark.parametrize("rates", [(FALLING, 1e-3), (1e-3, FALLING)])
def test_so_are_those_of_a_director(rates, tmp_path):
    def paad(lr):
        return PAAD.for_env(game(), stor(BALL), hidden=(8,), seed=0, optim=adam(lr))

    first, second = map(paad, rates)
    train(AdversarialTraining(vdn(adam(1e-2)), first))
    save_weights(first, tmp_path / "director.pt")
    load_weights(second, tmp_path / "director.pt")
    assert rate(second.optim) == (1e-3 if rates[1] == 1e-3 else 0.0)


def test_a_population_s_members_go_by_what_each_played():
    rap = RAP.for_env(game(), stor(BALL), number=2, hidden=(8,), seed=0, optim=adam(FALLING))
    train(AdversarialTraining(vdn(adam(1e-2)), rap))
    counts = [one.director.counted("env_steps") for one in rap.members]
    assert [rate(one.optim) for one in rap.members] == [FALLING(count) for count in counts]
    assert 0 < min(counts) < sum(counts)


def test_copies_follow_their_own_counts():
    team = vdn(adam(FALLING))
    for other in (copy.deepcopy(team), pickle.loads(pickle.dumps(team))):
        other.policy.count("env_steps", 60)
        for one in (team, other):
            one.lr_schedulers[0].step()
        assert (rate(team.optim), rate(other.optim)) == (1e-2, 0.5e-2)
        assert other.lr_schedulers[0].optimizer is other.optim._optim


def test_ramps_that_come_back_are_rates_too():
    waves = Repetitive(1e-2, warmup=1, period=4, loops=2, unit="updates")
    optimizer, scheduler = adam(waves).create_instances(torch.nn.Linear(1, 1))
    for count in range(8):
        assert optimizer.param_groups[0]["lr"] == waves(count)
        optimizer.step()
        scheduler.step()


def test_tianshous_schedules_stay_what_they_were():
    linear = factories.LRSchedulerFactoryLinear(1, 4, 1)
    team = vdn(adam(1e-2).with_lr_scheduler_factory(linear))
    team.policy.count("env_steps", 60)
    team.optim.step(next(team.policy.parameters()).sum())
    team.lr_schedulers[0].step()
    assert rate(team.optim) == pytest.approx(0.75e-2)
